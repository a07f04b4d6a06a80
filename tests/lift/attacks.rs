//! Code that attacks the program of its own sandbox. Every call settles, and other sandboxes go on.

use actix_sandbox::{Language, LocalServer, ProcessEnd, Sandbox};
use futures::StreamExt;

use super::support::{lifted, within};

async fn sandbox() -> (LocalServer, Sandbox) {
    let server = LocalServer::start().await.expect("a server");
    let sandbox = lifted(server.url()).await.expect("a sandbox");
    (server, sandbox)
}

/// Runs code that ends or stops the program, and returns why its exec was lost.
async fn lost_by(sandbox: &Sandbox, code: &str) -> String {
    let process = sandbox.exec(Language::Bash, code).await.expect("started");
    let end = within("the end", process.wait()).await.expect("an end");
    let ProcessEnd::SandboxLost { end } = end else {
        panic!("{end:?}")
    };
    end.to_string()
}

/// Another sandbox of the same server still works.
async fn others_go_on(server: &LocalServer, other: &Sandbox) {
    let output = within("the other", other.run(Language::Bash, "echo on")).await;
    assert_eq!(output.expect("ran").stdout, "on\n");
    assert_eq!(server.sandbox_count(), 2);
}

#[actix::test]
async fn a_killed_program_settles_every_call() {
    let (server, sandbox) = sandbox().await;
    let other = lifted(server.url()).await.expect("another");
    let process = sandbox.exec(Language::Bash, "cat").await.expect("started");
    let mut events = sandbox.files().watch(".", false).await.expect("a watch");
    lost_by(&sandbox, "kill -9 $PPID; sleep 1000").await;
    let end = within("the end", process.wait()).await.expect("an end");
    assert!(matches!(end, ProcessEnd::SandboxLost { .. }), "{end:?}");
    let event = within("the watch", events.next()).await;
    assert!(event.is_none_or(|it| it.is_err()));
    others_go_on(&server, &other).await;
}

#[actix::test]
async fn a_stopped_program_is_killed_and_settles_every_call() {
    let (server, sandbox) = sandbox().await;
    let other = lifted(server.url()).await.expect("another");
    let why = lost_by(&sandbox, "kill -STOP $PPID; sleep 1000").await;
    assert!(why.contains("did not answer"), "{why}");
    others_go_on(&server, &other).await;
    others_go_on(&server, &sandbox).await;
}

#[actix::test]
async fn forged_lines_without_the_link_name_are_ignored() {
    let (server, sandbox) = sandbox().await;
    let other = lifted(server.url()).await.expect("another");
    let code = r#"
        forged='{"event":"status_update","status":"SANDBOX_KILLED"}'
        for i in {1..2000}; do
            echo "$forged"; echo "$i $forged"; echo "f00d $i $forged"; printf 'half a line'
        done > /proc/$PPID/fd/1
        echo > /proc/$PPID/fd/1
        echo done
    "#;
    let output = within("the end", sandbox.run(Language::Bash, code)).await;
    assert_eq!(output.expect("ran").stdout, "done\n");
    others_go_on(&server, &other).await;
}

/// An endless line looks like a damaged one. So the client drops the link when the line exceeds the
/// limit.
#[actix::test]
async fn a_flood_without_a_newline_ends_only_the_link() {
    let (server, sandbox) = sandbox().await;
    let other = lifted(server.url()).await.expect("another");
    let code = "head -c 3000000 /dev/zero | tr '\\0' x > /proc/$PPID/fd/1";
    let output = within("the end", sandbox.run(Language::Bash, code)).await;
    let error = output.expect_err("an error").to_string();
    assert!(
        error.contains("the connection to the lift's program failed"),
        "{error}"
    );
    others_go_on(&server, &other).await;
}

#[actix::test]
async fn modules_in_the_working_directory_are_not_imported() {
    let (server, sandbox) = sandbox().await;
    let other = lifted(server.url()).await.expect("another");
    let modules = [
        "json",
        "os",
        "base64",
        "signal",
        "selectors",
        "stat",
        "program",
    ];
    let files = sandbox.files();
    for module in modules {
        let path = format!("{module}.py");
        let written = files.write(&path, "raise SystemExit('mine')");
        written.await.expect("written");
    }
    let listed = files.list(".").await.expect("a list");
    assert_eq!(listed.len(), modules.len());
    // Neither the running program nor the next one runs any of these files.
    for _ in 0..2 {
        let output = within("a run", sandbox.run(Language::Bash, "echo on")).await;
        assert_eq!(output.expect("ran").stdout, "on\n");
        lost_by(&sandbox, "kill -9 $PPID; sleep 1000").await;
    }
    others_go_on(&server, &other).await;
}
