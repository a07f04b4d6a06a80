//! What the application does for its visitors, and what it refuses.

use std::time::Duration;

use actix_sandbox::test_util::Proxy;
use futures::future::join_all;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::{
    application::Application,
    support::within,
    visitor::{Staying, Visitor, dial, http},
};

/// The application has this many places: `MAX_VISITORS`.
const PLACES: usize = 100;
/// How long the application keeps the sandbox of a page that didn't send a close frame.
const KEEP_LOST: Duration = Duration::from_secs(30);

#[actix::test]
async fn fifty_visitors_run_code_at_once_and_the_101st_is_refused() {
    let Some(application) = Application::start().await else {
        return;
    };
    let address = application.address();
    let visit = |number: usize| async move {
        let mut visitor = Visitor::new(address).await;
        let code = format!("for i in 1 2 3; do echo $i of {number}; done; cat /dev/null > f; ls");
        visitor.run("bash", &code).await;
        let (output, end) = visitor.output().await;
        assert_eq!(
            output,
            format!("1 of {number}\n2 of {number}\n3 of {number}\nf\n")
        );
        assert_eq!(end, "The program exited with code 0.");
        visitor.stay()
    };
    let visitors = join_all((0..50).map(visit)).await;
    assert_eq!(application.sandboxes().await, 50);

    let stay = |_| async { Visitor::new(address).await.stay() };
    let others = join_all((50..PLACES).map(stay)).await;
    let refusal = Visitor::hello(address, Value::Null, 0).await.err();
    let refusal = refusal.expect("a refusal");
    assert!(refusal.contains("100 sandboxes are in use"), "{refusal}");

    let closed = Instant::now();
    join_all(visitors.into_iter().chain(others).map(Staying::close)).await;
    application.wait_for_sandboxes(0).await;
    assert!(closed.elapsed() < KEEP_LOST, "{:?}", closed.elapsed());
    // The places are free again.
    Visitor::new(address).await;
}

#[actix::test]
async fn a_sandbox_waits_for_a_lost_page_but_not_for_ever() {
    let Some(application) = Application::start().await else {
        return;
    };
    let address = application.address();
    let mut visitor = Visitor::new(address).await;
    visitor
        .run(
            "bash",
            "echo one; until test -e go; do sleep 0.05; done; echo two",
        )
        .await;
    while visitor.event().await["text"] != "one\n" {}
    let id = visitor.id.clone();
    let mut visitor = visitor.again(address).await;
    assert_eq!(visitor.id, id);
    let header = format!("x-visitor: {id}\r\n");
    let (status, body) = http(address, "PUT /files/go", &header, b"\n").await;
    assert!(status.contains("204"), "{status} {body}");
    let (output, _) = visitor.output().await;
    assert_eq!(output, "two\n");

    drop(visitor);
    // A connection that stalls ends without a signal to the application.
    let proxy = Proxy::builder(address).start().await.unwrap();
    let silent = Visitor::new(proxy.address()).await;
    proxy.stall();
    assert_eq!(application.sandboxes().await, 2);
    application.wait_for_sandboxes(0).await;
    drop(silent);
    let visitor = Visitor::hello(address, json!(id), 0).await.unwrap();
    assert_ne!(visitor.id, id);
}

#[actix::test]
async fn another_tab_takes_a_sandbox_over() {
    let Some(application) = Application::start().await else {
        return;
    };
    let address = application.address();
    let mut first = Visitor::new(address).await;
    let id = json!(first.id);
    let mut second = Visitor::hello(address, id, 0).await.unwrap();
    while first.receive().await["type"] != "taken_over" {}
    // The close of the first tab is not the visitor's.
    first.close().await;
    second.run("bash", "echo still here").await;
    assert_eq!(second.output().await.0, "still here\n");
    assert_eq!(application.sandboxes().await, 1);
}

#[actix::test]
async fn output_that_the_page_does_not_confirm_pauses_the_program() {
    let Some(application) = Application::start().await else {
        return;
    };
    let mut visitor = Visitor::new(application.address()).await;
    visitor.confirms = false;
    let code = "import sys\nfor i in range(1000000): print(i)\nprint('end', file=sys.stderr)";
    visitor.run("python", code).await;
    let mut output = String::new();
    // The application sends what it has before each heartbeat, so two of them in a row mean that
    // nothing more comes.
    let mut heartbeats = 0;
    while heartbeats < 3 {
        let message = visitor.receive().await;
        match message["type"].as_str().unwrap() {
            "heartbeat" if !output.is_empty() => heartbeats += 1,
            "output" => {
                heartbeats = 0;
                output += message["text"].as_str().unwrap();
                visitor.seen = message["number"].as_u64().unwrap();
            }
            "ended" => panic!("the program wrote 7 MB, which nobody read"),
            _ => {}
        }
    }
    assert!(output.len() <= 2 * 256 * 1024, "{} bytes", output.len());
    visitor.confirm().await;
    visitor.confirms = true;
    let (rest, end) = visitor.output().await;
    output += &rest;
    let lines: Vec<usize> = output.lines().map(|line| line.parse().unwrap()).collect();
    assert!(lines.into_iter().eq(0..1_000_000));
    assert_eq!(end, "The program exited with code 0.");
}

#[actix::test]
async fn a_burst_of_keys_reaches_the_terminal() {
    let Some(application) = Application::start().await else {
        return;
    };
    let mut visitor = Visitor::new(application.address()).await;
    visitor.open_terminal("cat > keys; exit").await;
    let lines: Vec<_> = (0..1000).map(|number| format!("{number}\n")).collect();
    for line in &lines {
        visitor.type_text(line).await;
    }
    visitor.type_text("\x04").await;
    while visitor.event().await["type"] != "terminal_ended" {}
    let header = format!("x-visitor: {}\r\n", visitor.id);
    let (_, keys) = http(application.address(), "GET /files/keys", &header, b"").await;
    assert!(keys.contains(&lines.concat()), "{keys}");
}

#[actix::test]
async fn a_terminal_that_is_not_reading_does_not_delay_stop() {
    let Some(application) = Application::start().await else {
        return;
    };
    let mut visitor = Visitor::new(application.address()).await;
    visitor.open_terminal("sleep 1000").await;
    // More than all buffers on the way to the terminal hold.
    let pasted = "x\n".repeat(60_000);
    for _ in 0..24 {
        visitor.type_text(&pasted).await;
    }
    visitor.run("bash", "echo started; sleep 1000").await;
    while visitor.event().await["text"] != "started\n" {}
    visitor.command(json!({"type": "stop"})).await;
    assert_eq!(visitor.output().await.1, "The program was stopped.");
}

#[actix::test]
async fn many_files_and_odd_names() {
    let Some(application) = Application::start().await else {
        return;
    };
    let address = application.address();
    let mut visitor = Visitor::new(address).await;
    let code = "echo content > $'odd\\n\\x01\"name'; touch $(seq 300)";
    visitor.run("bash", code).await;
    assert_eq!(visitor.output().await.1, "The program exited with code 0.");
    let header = format!("x-visitor: {}\r\n", visitor.id);
    let (status, body) = http(address, "GET /files/odd%0A%01%22name", &header, b"").await;
    assert!(status.contains("200"), "{status} {body}");
    assert!(body.contains("content\n"), "{body}");
    let (_, files) = http(address, "GET /files", &header, b"").await;
    assert_eq!(files.matches("name").count(), 200, "{files}");
}

#[actix::test]
async fn commands_that_arrive_twice_run_once_and_bad_ones_are_refused() {
    let Some(application) = Application::start().await else {
        return;
    };
    let mut visitor = Visitor::new(application.address()).await;
    let run = json!({"type": "run", "language": "bash", "code": "echo once >> log; cat log"});
    let command = json!({"type": "command", "number": 1, "command": run});
    visitor.send(command.clone()).await;
    visitor.send(command.clone()).await;
    assert_eq!(visitor.output().await.0, "once\n");
    visitor.run("bash", "true").await; // This is number 1, too.
    visitor.run("cobol", "true").await;
    let (_, text) = visitor.output().await;
    assert!(
        text.starts_with("The program can't be started: cannot run the code: Unsupported language"),
        "{text}"
    );
    visitor.run("bash", "echo started; sleep 1000").await;
    while visitor.event().await["text"] != "started\n" {}
    visitor.run("bash", "true").await;
    assert_eq!(
        visitor.event().await["text"],
        "A program is running. Stop it first."
    );
    visitor.command(json!({"type": "stop"})).await;
    assert_eq!(visitor.output().await.1, "The program was stopped.");

    visitor.send(json!({"type": "nonsense"})).await;
    loop {
        let message = visitor.receive().await;
        if message["type"] == "refused" {
            let text = message["text"].as_str().unwrap();
            assert!(text.contains("unknown variant `nonsense`"), "{text}");
            break;
        }
    }
}

#[actix::test]
async fn other_sites_and_guessed_ids_get_nothing() {
    let Some(application) = Application::start().await else {
        return;
    };
    let address = application.address();
    let refused = dial(address, "http://evil.example").await.err().unwrap();
    assert!(refused.to_string().contains("403"), "{refused}");
    let visitor = Visitor::new(address).await;
    for header in ["", "x-visitor: 00000000000000000000000000000000\r\n"] {
        for request in ["GET /files", "GET /files/a", "PUT /files/a"] {
            let (status, body) = http(address, request, header, b"").await;
            assert!(status.contains("403"), "{request}: {status}");
            assert_eq!(body, "Your sandbox is gone. Reload the page.");
        }
    }
    let header = format!("x-visitor: {}\r\n", visitor.id);
    let (status, body) = http(address, "GET /files/missing", &header, b"").await;
    assert!(status.contains("404"), "{status}");
    assert!(body.contains("missing"), "{body}");
    let (status, body) = http(address, "GET /files/.", &header, b"").await;
    assert!(status.contains("404"), "{status} {body}");
    let large = vec![b'x'; (64 << 20) + 1];
    let (status, body) = http(address, "PUT /files/large", &header, &large).await;
    assert!(status.contains("413"), "{status}");
    assert_eq!(body, "The file is larger than 64 MiB.");
    let (_, files) = http(address, "GET /files", &header, b"").await;
    assert_eq!(files, "[]");
}

#[actix::test]
async fn on_its_own_the_application_confines_what_visitors_run() {
    let builder = actix_sandbox::LocalServer::builder();
    let confined = builder.backend(actix_sandbox::server::Backend::Confined);
    let Some(probe) = crate::support::backend::start_if_possible(confined).await else {
        return;
    };
    within("the stop", probe.stop()).await;
    let directory = tempfile::tempdir().unwrap();
    let Some(application) = Application::alone(directory.path()) else {
        return;
    };
    let mut visitor = Visitor::new(application.address()).await;
    let this = std::env::current_exe().unwrap();
    let code = format!("test -e {} || echo hidden", this.display());
    visitor.run("bash", &code).await;
    assert_eq!(visitor.output().await.0, "hidden\n");
    visitor.close().await;
    let is_empty = || directory.path().read_dir().unwrap().next().is_none();
    assert!(!is_empty());
    drop(application);
    assert!(is_empty());
}
