//! Connections to ports, through the handle [`PortStream`](actix_sandbox::PortStream).

use std::io::ErrorKind;

use actix_sandbox::BuiltinErrorKind;
use futures::future::{Either, select, try_join_all};
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy, sink, split};

use super::program::{ECHO, ENDS_FIRST, Program, upload_after_the_end};
use crate::support::{allow_open_files, sandbox, within};

#[actix::test]
async fn a_connection_moves_bytes_in_both_directions() {
    let (_server, sandbox) = sandbox().await;
    let echo = Program::listening(&sandbox, ECHO).await;
    let mut stream = within("connect", sandbox.connect(echo.port)).await.unwrap();
    for text in ["one", "two"] {
        stream.write_all(text.as_bytes()).await.unwrap();
        let mut answer = [0; 3];
        within("the answer", stream.read_exact(&mut answer))
            .await
            .unwrap();
        assert_eq!(&answer, text.as_bytes());
    }
    let content: Vec<u8> = (0..=255).cycle().take(5_000_000).collect();
    let (mut output, mut input) = split(stream);
    let write = async {
        input.write_all(&content).await.unwrap();
        input.shutdown().await.unwrap();
    };
    let mut received = Vec::new();
    let both = async { futures::join!(output.read_to_end(&mut received), write) };
    within("the content", both).await.0.unwrap();
    assert!(received == content, "{} bytes", received.len());
}

#[actix::test]
async fn a_program_that_listens_only_on_ipv6_is_reached() {
    let (_server, sandbox) = sandbox().await;
    // `listener` keeps the port of IPv4, on which nothing listens.
    let code = "
six = socket.socket(socket.AF_INET6)
six.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
six.bind(('::1', listener.getsockname()[1]))
six.listen()
print('listens', flush=True)
six.accept()[0].sendall(b'six')";
    let mut program = Program::bound(&sandbox, code).await;
    assert_eq!(program.line().await, "listens");
    let mut stream = sandbox.connect(program.port).await.unwrap();
    let mut answer = String::new();
    within("the answer", stream.read_to_string(&mut answer))
        .await
        .unwrap();
    assert_eq!(answer, "six");
}

#[actix::test]
async fn a_client_that_ends_its_direction_first_reads_the_rest() {
    let (_server, sandbox) = sandbox().await;
    let code = "
peer, received = listener.accept()[0], 0
while data := peer.recv(65536): received += len(data)
peer.sendall(b'received %d' % received)";
    let program = Program::listening(&sandbox, code).await;
    let mut stream = sandbox.connect(program.port).await.unwrap();
    stream.write_all(&[1; 300_000]).await.unwrap();
    within("the end", stream.shutdown()).await.unwrap();
    let error = stream.write_all(b"more").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::BrokenPipe, "{error}");
    let mut answer = String::new();
    within("the answer", stream.read_to_string(&mut answer))
        .await
        .unwrap();
    assert_eq!(answer, "received 300000");
}

#[actix::test]
async fn a_write_after_a_shutdown_fails_while_the_program_runs() {
    let (_server, sandbox) = sandbox().await;
    let code = "peer = listener.accept()[0]; input(); peer.sendall(b'all')";
    let program = Program::listening(&sandbox, code).await;
    let mut stream = sandbox.connect(program.port).await.unwrap();
    stream.shutdown().await.unwrap();
    let error = within("the error", stream.write_all(b"more")).await;
    assert_eq!(error.unwrap_err().kind(), ErrorKind::BrokenPipe);
    within("a flush", stream.flush()).await.unwrap();
    program.tell("answer").await;
    let mut all = String::new();
    within("the answer", stream.read_to_string(&mut all))
        .await
        .unwrap();
    assert_eq!(all, "all");
}

#[actix::test]
async fn a_program_that_ends_its_direction_first_reads_the_rest() {
    let (_server, sandbox) = sandbox().await;
    let code = "
peer, received = listener.accept()[0], 0
peer.sendall(b'all')
peer.shutdown(socket.SHUT_WR)
while data := peer.recv(65536): received += len(data)
print('received', received, flush=True)";
    let mut program = Program::listening(&sandbox, code).await;
    let mut stream = sandbox.connect(program.port).await.unwrap();
    let mut all = String::new();
    within("the end", stream.read_to_string(&mut all))
        .await
        .unwrap();
    assert_eq!(all, "all");
    stream.write_all(&[1; 300_000]).await.unwrap();
    stream.shutdown().await.unwrap();
    assert_eq!(program.line().await, "received 300000");
}

#[actix::test]
async fn a_stream_that_ended_may_be_dropped_before_the_program_reads() {
    let (_server, sandbox) = sandbox().await;
    let mut program = Program::listening(&sandbox, ENDS_FIRST).await;
    let mut stream = sandbox.connect(program.port).await.unwrap();
    upload_after_the_end(&mut stream).await;
    drop(stream);
    assert_eq!(program.line().await, "received 16777216");
}

#[actix::test]
async fn a_closed_stream_has_delivered_everything() {
    let (_server, sandbox) = sandbox().await;
    let mut program = Program::listening(&sandbox, ENDS_FIRST).await;
    let mut stream = sandbox.connect(program.port).await.unwrap();
    upload_after_the_end(&mut stream).await;
    within("the end", stream.closed()).await.unwrap();
    assert_eq!(program.line().await, "received 16777216");
}

#[actix::test]
async fn a_reset_after_the_end_of_the_answer_is_an_error_of_closed() {
    let (_server, sandbox) = sandbox().await;
    let code = "
peer = listener.accept()[0]
peer.sendall(b'all')
peer.shutdown(socket.SHUT_WR)
peer.recv(1)
peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))
peer.close()
print('reset', flush=True)";
    let mut program = Program::listening(&sandbox, code).await;
    let mut stream = sandbox.connect(program.port).await.unwrap();
    let mut all = String::new();
    within("the end", stream.read_to_string(&mut all))
        .await
        .unwrap();
    stream.write_all(&[1; 100]).await.unwrap();
    assert_eq!(program.line().await, "reset");
    stream.shutdown().await.unwrap();
    let error = within("the reset", stream.closed()).await.unwrap_err();
    let kind = BuiltinErrorKind::ConnectionReset;
    assert_eq!(error.builtin().unwrap().kind, kind, "{error}");
}

#[actix::test]
async fn connections_beyond_the_limit_wait_for_their_turn() {
    const TURNS: usize = 256;
    allow_open_files(8_192);
    let (_server, sandbox) = sandbox().await;
    let code = "
peers = []
while True: peers.append(listener.accept()[0])";
    let program = Program::listening(&sandbox, code).await;
    let connect = |_| within("connect", sandbox.connect(program.port));
    let mut streams = try_join_all((0..TURNS).map(connect)).await.unwrap();
    let mut waiting = std::pin::pin!(connect(0));
    // Other operations don't wait.
    for _ in 0..10 {
        let files = sandbox.files();
        let other = within("a list", files.list(""));
        match select(&mut waiting, std::pin::pin!(other)).await {
            Either::Left(_) => panic!("more than {TURNS} connections are open"),
            Either::Right((listed, _)) => drop(listed.unwrap()),
        }
    }
    streams.pop();
    waiting.await.unwrap();
}

#[actix::test]
async fn a_dropped_stream_resets_the_connection_inside() {
    let (_server, sandbox) = sandbox().await;
    let code = "
peer = listener.accept()[0]
peer.sendall(b'hello')
try: print('read', peer.recv(10), flush=True)
except ConnectionResetError: print('reset', flush=True)";
    let mut program = Program::listening(&sandbox, code).await;
    let mut stream = sandbox.connect(program.port).await.unwrap();
    let mut hello = [0; 5];
    within("the bytes", stream.read_exact(&mut hello))
        .await
        .unwrap();
    drop(stream);
    assert_eq!(program.line().await, "reset");
}

#[actix::test]
async fn a_reset_inside_is_an_error_after_the_bytes_before_it() {
    let (_server, sandbox) = sandbox().await;
    let code = "
while True:
    peer = listener.accept()[0]
    peer.sendall(b'part')
    peer.recv(2)
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))
    peer.close()";
    let program = Program::listening(&sandbox, code).await;
    for _ in 0..20 {
        let mut stream = sandbox.connect(program.port).await.unwrap();
        let mut part = [0; 4];
        within("the bytes", stream.read_exact(&mut part))
            .await
            .unwrap();
        assert_eq!(&part, b"part");
        stream.write_all(b"go").await.unwrap();
        let error = within("the reset", copy(&mut stream, &mut sink())).await;
        let error = error.expect_err("a reset looks like a regular end");
        assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}");
        let port = format!("port {}", program.port);
        assert!(error.to_string().contains(&port), "{error}");
    }
}
