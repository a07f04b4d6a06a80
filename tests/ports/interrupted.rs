//! Connections through broken links, at a checkpoint and in an idle sandbox.

use std::time::Duration;

use actix_sandbox::{ErrorKind, Language, LocalServer, PortStream, Sandbox};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, split},
    net::TcpStream,
};

use super::program::{ECHO, Program};
use crate::support::{
    patient,
    proxy::{Chance, Plan, Proxy},
    sandbox_behind, within,
};

const CUTS: usize = 20;

/// Sends bytes to an echo through a broken link and compares what comes back, until the link was
/// cut often enough.
async fn echo_through_cuts(proxy: &Proxy, stream: impl AsyncStream) {
    let (mut output, mut input) = split(stream);
    let byte = |at: u64| (at.wrapping_mul(2_654_435_761) >> 11) as u8;
    let write = async {
        let mut sent = 0;
        while proxy.accepted() <= CUTS {
            let piece: Vec<u8> = (sent..sent + 20_000).map(byte).collect();
            within("a write", input.write_all(&piece)).await.unwrap();
            sent += 20_000;
            assert!(sent < 1 << 30, "the link was hardly cut");
        }
        within("the end", input.shutdown()).await.unwrap();
        sent
    };
    let read = async {
        let (mut received, mut buffer) = (0, vec![0; 30_000]);
        loop {
            let read = within("a read", output.read(&mut buffer)).await.unwrap();
            if read == 0 {
                return received;
            }
            for &it in &buffer[..read] {
                assert_eq!(it, byte(received), "at {received}");
                received += 1;
            }
        }
    };
    let (sent, received) = futures::join!(write, read);
    assert_eq!(received, sent);
    println!("{sent} bytes through {} links", proxy.accepted());
}

trait AsyncStream: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin {}

impl<T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin> AsyncStream for T {}

/// A sandbox behind a proxy that cuts the first links, in either direction.
async fn behind_cuts(seed: u64) -> (LocalServer, Proxy, Sandbox) {
    let server = LocalServer::start().await.unwrap();
    let planner = move |number| {
        let mut chance = Chance::new(seed * 10_000 + number as u64);
        let at = 1_000 + chance.below(60_000);
        match (number, chance.below(2)) {
            // The client doesn't retry a lost create.
            (0, _) => Plan::default().cut_down(40_000),
            (1..CUTS, 0) => Plan::default().cut_down(at),
            (1..CUTS, _) => Plan::default().cut_up(at).reset(),
            _ => Plan::default(),
        }
    };
    let (proxy, sandbox) = sandbox_behind(&server, planner).await;
    (server, proxy, sandbox)
}

#[actix::test]
async fn twenty_cuts_lose_no_byte_of_a_connection() {
    let (_server, proxy, sandbox) = behind_cuts(1).await;
    let echo = Program::listening(&sandbox, ECHO).await;
    let stream: PortStream = sandbox.connect(echo.port).await.unwrap();
    echo_through_cuts(&proxy, stream).await;
}

#[actix::test]
async fn twenty_cuts_lose_no_byte_of_a_forwarded_connection() {
    let (_server, proxy, sandbox) = behind_cuts(2).await;
    let echo = Program::listening(&sandbox, ECHO).await;
    let forward = sandbox.forward("127.0.0.1:0", echo.port).await.unwrap();
    let stream = TcpStream::connect(forward.local_addr()).await.unwrap();
    echo_through_cuts(&proxy, stream).await;
}

/// A program that listens in the background, so that no exec keeps the sandbox busy.
async fn background_echo(sandbox: &Sandbox) -> u16 {
    let files = sandbox.files();
    let code = format!(
        "import socket\n\
         listener = socket.create_server(('127.0.0.1', 0))\n\
         open('port', 'w').write(str(listener.getsockname()[1]))\n\
         print('ready', flush=True)\n{ECHO}"
    );
    files.write("echo.py", code).await.unwrap();
    let code = "
coproc python3 echo.py
read -r line <&\"${COPROC[0]}\"";
    let output = within("the program", sandbox.run(Language::Bash, code)).await;
    output.unwrap().error_for_status().unwrap();
    let port = files.read_to_string("port").await.unwrap();
    port.parse().unwrap()
}

#[actix::test]
async fn a_connection_ends_at_a_checkpoint_and_does_not_refuse_it() {
    let server = LocalServer::start().await.unwrap();
    let sandbox = patient(server.url()).enable_sandbox_checkpoint(true);
    let sandbox = sandbox.await.unwrap();
    let port = background_echo(&sandbox).await;
    let mut stream = within("connect", sandbox.connect(port)).await.unwrap();
    stream.write_all(b"a").await.unwrap();
    within("the echo", stream.read_u8()).await.unwrap();
    let (checkpoint, read) = futures::join!(
        within("the checkpoint", sandbox.checkpoint()),
        within("the end", stream.read_u8())
    );
    checkpoint.unwrap();
    let error: actix_sandbox::Error = read.unwrap_err().downcast().unwrap();
    assert_eq!(error.kind(), ErrorKind::SandboxEnded, "{error}");
}

#[actix::test]
async fn a_connection_does_not_keep_a_sandbox_from_becoming_idle() {
    let server = LocalServer::start().await.unwrap();
    let sandbox = patient(server.url()).idle_timeout(Duration::from_secs(5));
    let sandbox = sandbox.await.unwrap();
    let port = background_echo(&sandbox).await;
    let mut stream = within("connect", sandbox.connect(port)).await.unwrap();
    let error = within("the end", stream.read_u8()).await.unwrap_err();
    let error: actix_sandbox::Error = error.downcast().unwrap();
    assert_eq!(error.kind(), ErrorKind::SandboxEnded, "{error}");
    assert!(error.to_string().contains("idle"), "{error}");
}
