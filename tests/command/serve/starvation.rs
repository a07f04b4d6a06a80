//! One caller can't starve the others: idle connections, busy connections and left-over processes.
//! Nor can it forge lines of the log.

use std::time::{Duration, Instant};

use actix_sandbox::{ErrorKind, Language, Sandbox};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::ask;
use crate::support::{backend, program::Program, within};

#[actix::test]
async fn idle_connections_starve_neither_execs_nor_health_checks() {
    // More connections than the server may have open files, and they stay open. `runsc` needs more
    // than 256 file descriptors.
    let (files, connections) = match backend::is("gvisor") {
        true => (512, 1_000),
        false => (256, 500),
    };
    let program = Program::start_with_open_files(files, &[]);
    let sandbox = within("a sandbox", Sandbox::create(&program.url))
        .await
        .unwrap();
    let waiting = sandbox
        .exec(Language::Bash, "read line; echo \"$line\"")
        .await
        .unwrap();
    let mut idle = Vec::new();
    for _ in 0..connections {
        idle.push(
            within("a connection", TcpStream::connect(program.address()))
                .await
                .unwrap(),
        );
    }
    #[expect(
        clippy::disallowed_methods,
        reason = "it is printed, nothing depends on it"
    )]
    let began = Instant::now();
    let output = within("the exec", sandbox.run(Language::Bash, "echo still")).await;
    assert_eq!(output.unwrap().stdout, "still\n");
    let of_exec = began.elapsed();
    #[expect(
        clippy::disallowed_methods,
        reason = "it is printed, nothing depends on it"
    )]
    let began = Instant::now();
    assert_eq!(ask(&program, "GET /healthz").await.0, "HTTP/1.1 200 OK");
    println!(
        "with {connections} idle connections: exec {of_exec:?}, health check {:?}",
        began.elapsed()
    );
    // A new client gets in, and the exec from before still runs.
    let other = within("another sandbox", Sandbox::create(&program.url))
        .await
        .unwrap();
    assert_eq!(
        other.run(Language::Bash, "echo new").await.unwrap().stdout,
        "new\n"
    );
    waiting.write_to_stdin("kept\n").await.unwrap();
    let kept = within("the first exec", waiting.stdout().read_all()).await;
    assert_eq!(kept.unwrap(), "kept\n");
    // The server evicted the oldest connections.
    let oldest = within("the end of the oldest", idle[0].read(&mut [0; 16])).await;
    assert!(matches!(oldest, Ok(0) | Err(_)), "{oldest:?}");
    let log = program.log_at_the_end().await;
    assert!(!log.contains("Too many open files"), "{log}");
}

/// The callers send requests faster than the server answers.
#[actix::test]
async fn busy_callers_without_the_secret_starve_no_health_check() {
    let program = Program::start_with_open_files(256, &["--backend", "host"]);
    let address = program.address().to_owned();
    let busy: Vec<_> = (0..140)
        .map(|_| {
            let address = address.clone();
            actix_rt::spawn(async move {
                let requests = "GET /create HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(50);
                loop {
                    let Ok(mut stream) = TcpStream::connect(&address).await else {
                        tokio::task::yield_now().await;
                        continue;
                    };
                    let _ = stream.write_all(requests.as_bytes()).await;
                    let _ = stream.read_to_end(&mut Vec::new()).await;
                }
            })
        })
        .collect();
    // The server may evict a connection before it reads the request. A caller that retries gets
    // through.
    let health = async || -> std::io::Result<String> {
        let mut stream = TcpStream::connect(&address).await?;
        let request = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
        stream.write_all(request).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        Ok(answer)
    };
    for _ in 0..10 {
        let answered = async {
            while !health()
                .await
                .is_ok_and(|it| it.starts_with("HTTP/1.1 200 "))
            {}
        };
        within("a health check", answered).await;
        let created = async {
            loop {
                if let Ok(sandbox) = Sandbox::create(&program.url).await {
                    return sandbox;
                }
            }
        };
        let sandbox = within("a sandbox", created).await;
        within("the kill", sandbox.kill()).await.unwrap();
    }
    for caller in busy {
        caller.abort();
    }
}

/// Each exec leaves a process behind that holds both pipes of its output.
#[actix::test]
async fn execs_that_ended_keep_few_descriptors_of_the_server() {
    const EXECS: usize = 40;
    const MOST_KEPT: usize = 32;
    /// Descriptors that the server opens and closes for other things meanwhile.
    const OTHERS: usize = 8;
    let program = Program::start(&[]);
    let sandbox = Sandbox::create(&program.url).await.unwrap();
    sandbox.run(Language::Bash, "true").await.unwrap();
    let before = program.descriptors();
    for _ in 0..EXECS {
        let command = sandbox.command(Language::Bash, "sleep 1000 & exit");
        let output = command.output_grace(Duration::from_millis(1)).output();
        within("an exec", output).await.unwrap();
    }
    sandbox.run(Language::Bash, "true").await.unwrap();
    let after = program.descriptors();
    println!("descriptors: {before}, after {EXECS} execs {after}");
    assert!(after <= before + MOST_KEPT + OTHERS, "{before}, {after}");
    let alive = format!(
        "until (( $(grep -lz '^sleep$' /proc/[0-9]*/cmdline 2>/dev/null | wc -l) >= {EXECS} ))
        do sleep 0.05; done; echo alive"
    );
    let alive = within("all are alive", sandbox.run(Language::Bash, alive)).await;
    assert_eq!(alive.unwrap().stdout, "alive\n");
}

/// Connections with the secret are never evicted. They have a limit, and health checks have places
/// of their own.
#[actix::test]
async fn connections_of_callers_have_a_limit_with_a_reason() {
    let program = Program::start(&["--max-connections", "2"]);
    // On a busy machine, the test takes longer than the default idle timeout of 60 s.
    let create = || Sandbox::create(&program.url).idle_timeout(Duration::from_secs(600));
    let first = within("a sandbox", create()).await.unwrap();
    let second = within("a sandbox", create()).await.unwrap();
    // The client retries after a 503, within this limit.
    let third = Sandbox::create(&program.url).create_timeout(Duration::from_secs(5));
    let refused = within("a refusal", third).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::UpgradeRefused, "{refused}");
    let (status, rest) = ask(&program, &format!("GET {}/status", program.secret())).await;
    assert_eq!(status, "HTTP/1.1 503 Service Unavailable");
    assert!(rest.contains("ulimit -n"), "{rest}");
    assert_eq!(ask(&program, "GET /healthz").await.0, "HTTP/1.1 200 OK");
    for sandbox in [&first, &second] {
        let output = within("the exec", sandbox.run(Language::Bash, "echo still")).await;
        assert_eq!(output.unwrap().stdout, "still\n");
    }
    within("the kill", first.kill()).await.unwrap();
    drop(first);
    let path = format!("GET {}/status", program.secret());
    let free = async { while ask(&program, &path).await.0 != "HTTP/1.1 200 OK" {} };
    within("a free place", free).await;
}

#[actix::test]
async fn what_a_client_says_stays_on_its_line_of_the_log() {
    const HOSTILE: &str = "x\nERROR forged \u{1b}[2J\u{202e}";
    let program = Program::start_with(&[], &[("RUST_LOG", "trace")]);
    let sandbox = within("a sandbox", Sandbox::create(&program.url))
        .await
        .unwrap();
    let (id, token) = (
        sandbox.sandbox_id().clone(),
        sandbox.sandbox_token().clone(),
    );
    program.exec_with_id(HOSTILE).await;
    let _ = within("a snapshot", sandbox.snapshot_filesystem(HOSTILE)).await;
    let _ = within(
        "an exec",
        sandbox.exec(Language::Other(HOSTILE.into()), "true"),
    )
    .await;
    let command = sandbox
        .command(Language::Bash, "true")
        .cwd(format!("/{HOSTILE}"));
    let _ = within("an exec", command.output()).await;
    let create = Sandbox::create(&program.url).filesystem_snapshot_name(HOSTILE);
    within("a refusal", create).await.unwrap_err();
    within(
        "a refusal",
        Sandbox::attach(&program.url, HOSTILE, token.expose_secret()),
    )
    .await
    .unwrap_err();
    within("a refusal", Sandbox::attach(&program.url, id, HOSTILE))
        .await
        .unwrap_err();
    let hostile = "GET /%0aERROR%20forged%1b[2J";
    assert_eq!(ask(&program, hostile).await.0, "HTTP/1.1 404 Not Found");
    let log = program.log_at_the_end().await;
    assert!(log.contains("forged"), "{log}");
    for line in log.lines() {
        assert!(!line.starts_with("ERROR forged"), "{line:?}");
        assert!(!line.chars().any(char::is_control), "{line:?}");
        assert!(!line.contains('\u{202e}'), "{line:?}");
    }
}
