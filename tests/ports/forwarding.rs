//! Forwarded ports.

use std::{io::ErrorKind, net::SocketAddr};

use actix_sandbox::{LocalServer, PortForward, Sandbox};
use futures::{SinkExt, StreamExt, future::join_all};
use sha2::{Digest, Sha256};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::Instant,
};
use tokio_tungstenite::tungstenite::Message;

use super::program::{ENDS_FIRST, HTTP, Program, upload_after_the_end};
use crate::support::{LONG, allow_open_files, is_lifted, patient, sandbox, within};

async fn http_server(sandbox: &Sandbox) -> Program {
    let process = sandbox.exec(actix_sandbox::Language::Python, HTTP);
    Program::of(within("the server", process).await.unwrap()).await
}

async fn forward(sandbox: &Sandbox, port: u16) -> PortForward {
    let forward = within("the listener", sandbox.forward("127.0.0.1:0", port)).await;
    forward.unwrap()
}

/// Sends an HTTP request and reads the answer. Returns its head, the number of bytes of its body,
/// and their hash.
async fn http(address: SocketAddr, request: &[u8]) -> (String, usize, String) {
    let mut socket = TcpStream::connect(address).await.unwrap();
    socket.write_all(request).await.unwrap();
    let (mut head, mut buffer) = (Vec::new(), vec![0; 64 * 1024]);
    let (mut hash, mut bytes) = (Sha256::new(), 0);
    loop {
        let read = socket.read(&mut buffer).await.unwrap();
        if read == 0 {
            break;
        }
        let mut body = &buffer[..read];
        if !head.ends_with(b"\r\n\r\n") {
            let taken = body.iter().take_while(|&&byte| {
                let is_head = !head.ends_with(b"\r\n\r\n");
                head.extend(is_head.then_some(byte));
                is_head
            });
            body = &body[taken.count()..];
        }
        hash.update(body);
        bytes += body.len();
    }
    (
        String::from_utf8(head).unwrap(),
        bytes,
        hex(&hash.finalize()),
    )
}

/// Downloads random bytes and compares their hash.
async fn download(address: SocketAddr, bytes: usize, seed: usize) {
    let request = format!("GET /bytes/{bytes}/{seed} HTTP/1.0\r\n\r\n");
    let (head, received, hash) = http(address, request.as_bytes()).await;
    assert_eq!(received, bytes, "{head}");
    assert!(head.contains(&format!("sha256: {hash}\r\n")), "{head}");
}

/// Uploads bytes and compares their hash.
async fn upload(address: SocketAddr, bytes: usize, seed: usize) {
    let body: Vec<u8> = (0..bytes).map(|it| (it * seed / 7) as u8).collect();
    let head = format!("POST / HTTP/1.0\r\ncontent-length: {bytes}\r\n\r\n");
    let request = [head.as_bytes(), &body].concat();
    let mut socket = TcpStream::connect(address).await.unwrap();
    socket.write_all(&request).await.unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).await.unwrap();
    assert!(answer.ends_with(&hex(&Sha256::digest(&body))), "{answer}");
}

fn hex(hash: &[u8]) -> String {
    hash.iter().map(|it| format!("{it:02x}")).collect()
}

#[actix::test]
async fn a_hundred_connections_at_once_move_every_byte() {
    allow_open_files(8_192);
    // Through the lift, the bytes are base64 inside of JSON.
    let bytes = if is_lifted() { 1 << 20 } else { 10 << 20 };
    let (_server, sandbox) = sandbox().await;
    let server = http_server(&sandbox).await;
    let forward = forward(&sandbox, server.port).await;
    let started = Instant::now();
    let address = forward.local_addr();
    let downloads = join_all((0..90).map(|seed| download(address, bytes, seed)));
    let uploads = join_all((1..=10).map(|seed| upload(address, bytes, seed)));
    // In gVisor on a busy machine, this takes minutes.
    let moved = async { futures::join!(downloads, uploads) };
    tokio::time::timeout(5 * LONG, moved).await.unwrap();
    let mib = (100 * bytes) >> 20;
    println!("{mib} MiB in {:?}", started.elapsed());
}

#[actix::test]
async fn a_program_that_ends_its_direction_first_reads_the_whole_upload() {
    let (_server, sandbox) = sandbox().await;
    let mut program = Program::listening(&sandbox, ENDS_FIRST).await;
    let forward = forward(&sandbox, program.port).await;
    let mut socket = TcpStream::connect(forward.local_addr()).await.unwrap();
    upload_after_the_end(&mut socket).await;
    drop(socket);
    assert_eq!(program.line().await, "received 16777216");
}

#[actix::test]
async fn an_answer_to_a_request_that_was_not_read_arrives() {
    // Fits into the buffers of the sockets, which are lost at a reset.
    const ANSWER: usize = 30_000;
    let (_server, sandbox) = sandbox().await;
    let code = "
while True:
    peer = listener.accept()[0]
    peer.recv(1)
    peer.sendall(b'a' * 30_000)
    peer.close()";
    let program = Program::listening(&sandbox, code).await;
    let forward = forward(&sandbox, program.port).await;
    for _ in 0..20 {
        let socket = TcpStream::connect(forward.local_addr()).await.unwrap();
        let (mut output, mut input) = socket.into_split();
        // Ends when the connection is reset.
        let upload = async {
            let piece = vec![1; 100_000];
            while input.write_all(&piece).await.is_ok() {}
        };
        let mut answer = Vec::new();
        let both = async { futures::join!(output.read_to_end(&mut answer), upload) };
        let error = within("the answer", both).await.0.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}");
        assert_eq!(answer.len(), ANSWER);
    }
}

#[actix::test]
async fn a_connection_that_is_not_read_holds_back_no_other() {
    let (_server, sandbox) = sandbox().await;
    let server = http_server(&sandbox).await;
    let forward = forward(&sandbox, server.port).await;
    let address = forward.local_addr();
    let mut slow = Vec::new();
    for seed in 0..5 {
        let mut socket = TcpStream::connect(address).await.unwrap();
        let request = format!("GET /bytes/{}/{seed} HTTP/1.0\r\n\r\n", 32 << 20);
        socket.write_all(request.as_bytes()).await.unwrap();
        socket.read_u8().await.unwrap();
        slow.push(socket);
    }
    within("a fast download", download(address, 5 << 20, 7)).await;
    within("a fast upload", upload(address, 5 << 20, 7)).await;
    for mut socket in slow {
        let mut rest = Vec::new();
        within("a slow download", socket.read_to_end(&mut rest))
            .await
            .unwrap();
        assert!(rest.len() > 32 << 20);
    }
}

#[actix::test]
async fn a_websocket_works_through_a_forwarded_port() {
    let (_server, sandbox) = sandbox().await;
    let server = http_server(&sandbox).await;
    let forward = forward(&sandbox, server.port).await;
    let url = format!("ws://{}/echo", forward.local_addr());
    let connected = within("the handshake", tokio_tungstenite::connect_async(url)).await;
    let (mut socket, _) = connected.unwrap();
    let large = Message::binary((0..=255).cycle().take(300_000).collect::<Vec<u8>>());
    for message in [Message::text("hello"), Message::text("é"), large] {
        socket.send(message.clone()).await.unwrap();
        let answer = within("the answer", socket.next()).await.unwrap();
        assert!(answer.unwrap() == message);
    }
    socket.close(None).await.unwrap();
    while let Some(answer) = within("the end", socket.next()).await {
        assert!(answer.unwrap().is_close());
    }
}

#[actix::test]
async fn a_connection_to_a_port_without_a_listener_is_reset() {
    let (_server, sandbox) = sandbox().await;
    let code = "input(); listener.listen(); listener.accept()[0].sendall(b'here')";
    let program = Program::bound(&sandbox, code).await;
    let forward = forward(&sandbox, program.port).await;
    let mut refused = TcpStream::connect(forward.local_addr()).await.unwrap();
    let error = within("the reset", refused.read_u8()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}");
    // The listener goes on, and reaches the program when it listens.
    program.tell("listen").await;
    sandbox.wait_for_port(program.port).await.unwrap();
    let mut socket = TcpStream::connect(forward.local_addr()).await.unwrap();
    let mut answer = String::new();
    within("the answer", socket.read_to_string(&mut answer))
        .await
        .unwrap();
    assert_eq!(answer, "here");
}

/// Waits until a local address accepts no more connections.
async fn closed(address: SocketAddr) {
    within("the end of the listener", async {
        while TcpStream::connect(address).await.is_ok() {}
    })
    .await;
}

/// Sends without an end and without a length.
const ENDLESS: &str = "
import threading
def serve(peer):
    try:
        while True: peer.sendall(bytes(65536))
    except OSError: pass
while True: threading.Thread(target=serve, args=[listener.accept()[0]]).start()";

/// Opens a download through the forward and reads its first byte.
async fn endless_download(forward: &PortForward) -> TcpStream {
    let mut socket = TcpStream::connect(forward.local_addr()).await.unwrap();
    within("the first byte", socket.read_u8()).await.unwrap();
    socket
}

async fn assert_reset(mut socket: TcpStream) {
    let read = within("the end", socket.read_to_end(&mut Vec::new())).await;
    let error = read.expect_err("a part of the download looks complete");
    assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}");
}

#[actix::test]
async fn a_dropped_forward_closes_its_listener_and_resets_connections() {
    let (_server, sandbox) = sandbox().await;
    let program = Program::listening(&sandbox, ENDLESS).await;
    let forward = forward(&sandbox, program.port).await;
    let socket = endless_download(&forward).await;
    let address = forward.local_addr();
    drop(forward);
    assert_reset(socket).await;
    closed(address).await;
}

#[actix::test]
async fn a_forward_ends_with_its_sandbox_and_resets_connections() {
    let (_server, sandbox) = sandbox().await;
    let program = Program::listening(&sandbox, ENDLESS).await;
    let forward = forward(&sandbox, program.port).await;
    let mut sockets = Vec::new();
    for _ in 0..5 {
        sockets.push(endless_download(&forward).await);
    }
    within("the kill", sandbox.kill()).await.unwrap();
    for socket in sockets {
        assert_reset(socket).await;
    }
    closed(forward.local_addr()).await;
}

/// Without an actix System and a tokio runtime.
#[test]
fn a_plain_thread_forwards_a_port() {
    use std::io::{Read, Write};

    futures::executor::block_on(async {
        let server = LocalServer::start().await.unwrap();
        let sandbox = patient(server.url()).await.unwrap();
        let process = sandbox.exec(actix_sandbox::Language::Python, HTTP).await;
        let mut lines = process.unwrap().stdout().lines();
        let port: u16 = lines.next().await.unwrap().unwrap().parse().unwrap();
        sandbox.wait_for_port(port).await.unwrap();
        let forward = sandbox.forward("127.0.0.1:0", port).await.unwrap();
        let mut socket = std::net::TcpStream::connect(forward.local_addr()).unwrap();
        socket
            .write_all(b"GET /bytes/3/1 HTTP/1.0\r\n\r\n")
            .unwrap();
        let mut answer = Vec::new();
        socket.read_to_end(&mut answer).unwrap();
        assert!(answer.starts_with(b"HTTP/1.1 200 OK\r\n"));
        sandbox.kill().await.unwrap();
    });
}
