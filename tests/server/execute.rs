//! `POST /execute`: runs code once, with the same limits and checks as other requests.

use crate::support::{
    backend,
    raw_client::{PATIENCE, entries, eventually, parts},
};
use actix_sandbox::server::LocalServer;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

/// Sends a request, and returns the socket to read the answer from.
async fn ask(server: &LocalServer, query: &str, headers: &str, body: &[u8]) -> TcpStream {
    let mut socket = TcpStream::connect(server.address()).await.unwrap();
    let (_, secret) = parts(server.url());
    let head = format!(
        "POST {secret}/execute{query} HTTP/1.1\r\nHost: {}\r\nContent-Length: {}\r\nConnection: close\r\n{headers}\r\n",
        server.address(),
        body.len()
    );
    socket.write_all(head.as_bytes()).await.unwrap();
    // A server that refuses the headers may close before it reads the body.
    let _ = socket.write_all(body).await;
    socket
}

/// Status and body of an answer. `Err` is the part of a body that was cut off.
async fn answer(mut socket: TcpStream) -> (u16, Result<String, String>) {
    let mut bytes = Vec::new();
    let read = timeout(PATIENCE, socket.read_to_end(&mut bytes)).await;
    let _ = read.expect("the answer ends");
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let (head, body) = text.split_once("\r\n\r\n").expect("a head");
    let status = head[9..12].parse().unwrap();
    if !head
        .to_ascii_lowercase()
        .contains("transfer-encoding: chunked")
    {
        return (status, Ok(body.to_owned()));
    }
    let (mut rest, mut whole) = (body, String::new());
    loop {
        let Some((length, after)) = rest.split_once("\r\n") else {
            return (status, Err(whole));
        };
        let length = usize::from_str_radix(length, 16).unwrap();
        if length == 0 {
            return (status, Ok(whole));
        }
        whole += &after[..length];
        rest = &after[length + 2..];
    }
}

async fn run(server: &LocalServer, query: &str, code: &str) -> (u16, Result<String, String>) {
    answer(ask(server, query, "", code.as_bytes()).await).await
}

#[tokio::test]
async fn code_runs_once_and_nothing_is_left_of_it() {
    let directory = tempfile::tempdir().unwrap();
    let builder = LocalServer::builder().directory(directory.path());
    let server = builder.start().await.unwrap();
    // One write a line: `print` writes the end of a line separately, and the other stream may come
    // between.
    let code = r"import sys
sys.stdout.write('out\n')
sys.stderr.write('err\n')
sys.stdout.write(repr(sys.stdin.read()) + '\n')";
    let (status, body) = run(&server, "?language=python", code).await;
    assert_eq!(status, 200);
    let body = body.unwrap();
    let mut lines: Vec<_> = body.lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, ["''", "err", "out"]);
    let (_, body) = run(
        &server,
        "?language=bash",
        "echo $((6*7)) é; ls; (sleep 1000 > /dev/null 2>&1 &)",
    )
    .await;
    assert_eq!(body.unwrap(), "42 é\n");
    eventually("the sandboxes are gone", || server.sandbox_count() == 0).await;
    let root = entries(directory.path()).remove(0);
    let left: Vec<_> = entries(&root)
        .into_iter()
        .filter(|path| {
            !["agent", "etc", "state", "runsc", "owner", "site"]
                .iter()
                .any(|own| path.ends_with(own))
        })
        .collect();
    assert_eq!(left.len(), 0, "{left:?}");
}

#[tokio::test]
async fn code_without_a_language_is_python() {
    let server = LocalServer::start().await.unwrap();
    for query in ["", "?other=bash"] {
        let (status, body) = run(&server, query, "print(6 * 7)").await;
        assert_eq!((status, body.unwrap().as_str()), (200, "42\n"));
    }
}

#[tokio::test]
async fn execute_streams_output_and_kills_for_a_stalled_client() {
    let server = LocalServer::start().await.unwrap();
    let mut socket = ask(
        &server,
        "?language=bash",
        "",
        b"while echo live; do sleep 0.02; done",
    )
    .await;
    let mut heard = String::new();
    while !heard.contains("live\n") {
        let mut buffer = [0; 1000];
        let count = timeout(PATIENCE, socket.read(&mut buffer))
            .await
            .unwrap()
            .unwrap();
        assert!(count > 0, "{heard}");
        heard += &String::from_utf8_lossy(&buffer[..count]);
    }
    assert_eq!(server.sandbox_count(), 1);
    drop(socket);
    eventually("the sandbox is gone", || server.sandbox_count() == 0).await;
}

/// The output of a client that doesn't read pauses its process. The server still stops.
#[tokio::test]
async fn a_client_that_does_not_read_delays_no_other() {
    let server = LocalServer::start().await.unwrap();
    let _socket = ask(&server, "?language=bash", "", b"yes").await;
    eventually("it runs", || server.sandbox_count() == 1).await;
    let (_, body) = run(&server, "?language=bash", "echo other").await;
    assert_eq!(body.unwrap(), "other\n");
    server.stop().await;
}

#[tokio::test]
async fn execute_kills_code_that_runs_too_long_and_says_so() {
    let builder = LocalServer::builder().max_run_time(backend::LONG_ENOUGH_TO_BEGIN);
    let server = builder.start().await.unwrap();
    let (status, body) = run(&server, "?language=bash", "echo begun; sleep 1000").await;
    assert_eq!(status, 200);
    let body = body.expect_err("broken off");
    assert!(
        body.starts_with("begun\n") && body.contains("[killed: it ran longer"),
        "{body}"
    );
    eventually("the sandbox is gone", || server.sandbox_count() == 0).await;
}

#[tokio::test]
async fn what_cannot_run_is_refused_with_the_reason() {
    let builder = LocalServer::builder()
        .max_sandboxes(0)
        .max_message_size(1000);
    let server = builder.start().await.unwrap();
    for (query, headers, code, status, reason) in [
        (
            "?language=",
            "",
            "x".into(),
            422,
            "Supported languages are: python, bash",
        ),
        (
            "?language=ruby",
            "",
            "x".into(),
            422,
            "Unsupported language: 'ruby'",
        ),
        ("?language=bash", "", String::new(), 422, "body is empty"),
        ("", "", String::new(), 422, "body is empty"),
        (
            "?language=bash",
            "",
            "x".repeat(1001),
            413,
            "larger than 1000 bytes",
        ),
        (
            "?language=bash",
            "",
            "x".into(),
            503,
            "limit of 0 sandboxes",
        ),
        (
            "?language=bash",
            "Origin: https://evil.example\r\n",
            "x".into(),
            403,
            "web pages",
        ),
    ] {
        let socket = ask(&server, query, headers, code.as_bytes()).await;
        let (found, body) = answer(socket).await;
        let body = body.unwrap();
        assert_eq!(found, status, "{query}: {body}");
        assert!(body.contains(reason), "{query}: {body}");
    }
    let socket = ask(&server, "?language=bash", "", b"echo \xff").await;
    let (status, body) = answer(socket).await;
    assert_eq!(
        (status, body.unwrap().as_str()),
        (400, "The code is not UTF-8 text.")
    );
}

#[tokio::test]
async fn stopping_the_server_leaves_the_answer_incomplete() {
    let server = LocalServer::start().await.unwrap();
    let code = b"echo begun; sleep 1000";
    let mut socket = ask(&server, "?language=bash", "", code).await;
    let mut begun = Vec::new();
    while !begun.ends_with(b"begun\n\r\n") {
        begun.push(timeout(PATIENCE, socket.read_u8()).await.unwrap().unwrap());
    }
    let mut rest = Vec::new();
    let (read, ()) = tokio::join!(
        timeout(PATIENCE, socket.read_to_end(&mut rest)),
        server.stop()
    );
    // The last chunk is missing, however the connection ended.
    let _ = read.expect("the answer ends");
    assert!(!rest.ends_with(b"0\r\n\r\n"), "{rest:?}");
}
