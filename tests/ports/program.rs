//! Programs in a sandbox that listen on a port.

use actix_sandbox::{Language, LineStream, Process, Sandbox};
use futures::StreamExt;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::support::within;

/// Sends back what it receives. Ends its direction when the client has ended the other.
pub(crate) const ECHO: &str = "
import threading
def serve(peer):
    while data := peer.recv(65536): peer.sendall(data)
    peer.close()
while True: threading.Thread(target=serve, args=[listener.accept()[0]]).start()";

/// Answers, ends its direction, and then reads slowly what the client sends.
pub(crate) const ENDS_FIRST: &str = "
import time
peer, received = listener.accept()[0], 0
peer.sendall(b'all')
peer.shutdown(socket.SHUT_WR)
while data := peer.recv(65536):
    received += len(data)
    time.sleep(0.005)
print('received', received, flush=True)";

/// Reads the answer of [`ENDS_FIRST`] to its end. Then sends 16 MiB, which is more than any
/// buffer holds, and ends that direction.
pub(crate) async fn upload_after_the_end(stream: &mut (impl AsyncRead + AsyncWrite + Unpin)) {
    let mut all = String::new();
    within("the end", stream.read_to_string(&mut all))
        .await
        .unwrap();
    assert_eq!(all, "all");
    let upload = async {
        stream.write_all(&vec![1; 16 << 20]).await.unwrap();
        stream.shutdown().await.unwrap();
    };
    within("the upload", upload).await;
}

/// Serves HTTP with bodies of any size, and WebSockets.
pub(crate) const HTTP: &str = include_str!("http_server.py");

/// A program that listens on a port.
pub(crate) struct Program {
    pub(crate) port: u16,
    pub(crate) process: Process,
    lines: LineStream,
}

impl Program {
    /// Starts code with a `listener` on a free port.
    pub(crate) async fn listening(sandbox: &Sandbox, code: &str) -> Self {
        let code = format!("listener = bound()\nlistener.listen(200)\nready()\n{code}");
        Self::start(sandbox, &code).await
    }

    /// Starts code with a `listener` that is bound to a free port, on which it doesn't listen. No
    /// other program can take the port.
    pub(crate) async fn bound(sandbox: &Sandbox, code: &str) -> Self {
        Self::start(sandbox, &format!("listener = bound()\nready()\n{code}")).await
    }

    async fn start(sandbox: &Sandbox, code: &str) -> Self {
        let code = format!(
            "
import socket, struct, sys
def bound():
    listener = socket.socket()
    listener.bind(('127.0.0.1', 0))
    return listener
def ready(): print(listener.getsockname()[1], flush=True)
{code}"
        );
        let process = within("the program", sandbox.exec(Language::Python, code)).await;
        Self::of(process.unwrap()).await
    }

    /// A process whose first line is the port.
    pub(crate) async fn of(process: Process) -> Self {
        let mut program = Self {
            port: 0,
            lines: process.stdout().lines(),
            process,
        };
        program.port = program.line().await.parse().unwrap();
        program
    }

    /// The next line that the program prints.
    pub(crate) async fn line(&mut self) -> String {
        match within("a line", self.lines.next()).await {
            Some(line) => line.unwrap(),
            None => {
                let stderr = self.process.stderr().read_all().await.unwrap();
                panic!("the program ended: {}", String::from_utf8_lossy(&stderr))
            }
        }
    }

    /// Writes a line to the stdin of the program.
    pub(crate) async fn tell(&self, line: &str) {
        let line = format!("{line}\n");
        self.process.write_to_stdin(line).await.unwrap();
    }
}
