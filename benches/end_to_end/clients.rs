//! The two sides of each ratio: [`Ours`] is this crate. [`Bare`] is a loop around awc that sends
//! and receives the same frames, without parsing them.

use actix_codec::Framed;
use actix_http::ws::{Codec, Frame, Message};
use actix_sandbox::{Language, OutputStream, Process, ProtocolVersion, Sandbox};
use actix_service::ServiceExt;
use awc::{BoxedSocket, Client as Awc, Connector};
use bytes::Bytes;
use futures::{SinkExt, StreamExt};

use super::server::WINDOW;

/// Bytes of output after which the client acknowledges: a quarter of the window.
const ACK_STEP: u64 = WINDOW / 4;

/// A client of the scripted server.
pub(crate) trait Client {
    /// An open sandbox.
    type Link;

    /// Creates a sandbox, and waits until it runs.
    async fn open(&self) -> Self::Link;
    /// Runs `true` to its end.
    async fn exec(&self, link: &mut Self::Link);
}

/// This crate.
pub(crate) struct Ours {
    pub(crate) url: String,
    pub(crate) version: ProtocolVersion,
}

impl Client for Ours {
    type Link = Sandbox;

    async fn open(&self) -> Sandbox {
        let sandbox = Sandbox::create(&self.url).max_protocol_version(self.version);
        sandbox.await.expect("a sandbox")
    }

    async fn exec(&self, sandbox: &mut Sandbox) {
        let process = run(sandbox, "true").await;
        ended(&process).await;
    }
}

async fn run(sandbox: &Sandbox, code: &str) -> Process {
    let process = sandbox.exec(Language::Bash, code).await;
    process.expect("a process")
}

async fn ended(process: &Process) {
    let end = process.wait().await.expect("an end");
    assert!(end.is_confirmed(), "{end}");
}

impl Ours {
    /// Reads the output of a process that prints `count` messages of `size` bytes.
    pub(crate) async fn print(&self, sandbox: &Sandbox, count: usize, size: usize) {
        let process = run(sandbox, &format!("print {count} {size}")).await;
        let mut stdout = process.stdout();
        let mut bytes = 0;
        while let Some(data) = stdout.next().await {
            bytes += data.expect("output").len();
        }
        assert_eq!(bytes, count * size);
        ended(&process).await;
    }

    /// Starts a process that echoes its stdin.
    pub(crate) async fn cat(&self, sandbox: &Sandbox) -> (Process, OutputStream) {
        let process = run(sandbox, "cat").await;
        let stdout = process.stdout();
        (process, stdout)
    }

    /// Writes to stdin, and reads the echo.
    pub(crate) async fn echo(&self, (process, stdout): &mut (Process, OutputStream), data: &str) {
        let input = Bytes::copy_from_slice(data.as_bytes());
        process.write_to_stdin(input).await.expect("written");
        let mut bytes = 0;
        while bytes < data.len() {
            let data = stdout.next().await.expect("output");
            bytes += data.expect("output").len();
        }
    }
}

/// A loop around awc.
pub(crate) struct Bare {
    url: String,
    version: ProtocolVersion,
    client: Awc,
}

/// An open WebSocket.
pub(crate) struct BareLink {
    socket: Framed<BoxedSocket, Codec>,
    version: ProtocolVersion,
    execs: u64,
}

impl Bare {
    pub(crate) fn new(url: &str, version: ProtocolVersion) -> Self {
        // Set `TCP_NODELAY`, as the crate does. Otherwise Nagle's algorithm delays the exec after
        // an acknowledgement by 40 ms.
        let tuned = actix_tls::connect::Connector::default()
            .service()
            .map(|connection| {
                let stream: &actix_rt::net::TcpStream = connection.io_ref();
                stream.set_nodelay(true).expect("nodelay");
                connection
            });
        let connector = Connector::new().connector(tuned).limit(0);
        Self {
            url: format!("{url}/create"),
            version,
            client: Awc::builder().connector(connector).finish(),
        }
    }
}

impl Client for Bare {
    type Link = BareLink;

    async fn open(&self) -> BareLink {
        let mut request = self.client.ws(&self.url);
        if self.version == ProtocolVersion::V2 {
            request = request.protocols(["sandbox.v2"]);
        }
        let (_, socket) = request.connect().await.expect("a WebSocket");
        let mut link = BareLink {
            socket,
            version: self.version,
            execs: 0,
        };
        link.send("{}".to_owned()).await;
        // Creating, identity, running.
        for _ in 0..3 {
            link.text().await;
        }
        link
    }

    async fn exec(&self, link: &mut BareLink) {
        let exec = link.run("true").await;
        link.text().await;
        link.done(&exec, 0).await;
    }
}

impl BareLink {
    async fn send(&mut self, text: String) {
        let sent = self.socket.send(Message::Text(text.into())).await;
        sent.expect("a socket that takes it");
    }

    async fn text(&mut self) -> Bytes {
        match self.socket.next().await {
            Some(Ok(Frame::Text(text))) => text,
            other => panic!("expected a text frame, not {other:?}"),
        }
    }

    /// Starts an exec, and waits until it runs. Returns its id, which is empty in v1.
    async fn run(&mut self, code: &str) -> String {
        self.execs += 1;
        let (exec, named) = match self.version {
            ProtocolVersion::V2 => {
                let exec = format!("0123456789abcdef-{}", self.execs);
                let named = format!(r#","exec":"{exec}","window":{WINDOW}"#);
                (exec, named)
            }
            _ => Default::default(),
        };
        self.send(format!(r#"{{"language":"bash","code":"{code}"{named}}}"#))
            .await;
        self.text().await;
        exec
    }

    async fn acknowledge(&mut self, exec: &str, stdout: u64, done: &str) {
        if self.version == ProtocolVersion::V2 {
            self.send(format!(
                r#"{{"event":"ack","exec":"{exec}","stdout":{stdout},"stderr":0{done}}}"#
            ))
            .await;
        }
    }

    async fn done(&mut self, exec: &str, stdout: u64) {
        self.acknowledge(exec, stdout, r#","done":true"#).await;
    }

    /// Reads the output of a process that prints `count` messages of `size` bytes.
    pub(crate) async fn print(&mut self, count: usize, size: usize) {
        let exec = self.run(&format!("print {count} {size}")).await;
        let (mut bytes, mut acknowledged) = (0, 0);
        for _ in 0..count {
            self.text().await;
            bytes += size as u64;
            if bytes - acknowledged >= ACK_STEP {
                acknowledged = bytes;
                self.acknowledge(&exec, bytes, "").await;
            }
        }
        self.text().await;
        self.done(&exec, bytes).await;
    }

    /// Starts a process that echoes its stdin. Returns its id, and the offset of the next input.
    pub(crate) async fn cat(&mut self) -> (String, usize) {
        (self.run("cat").await, 0)
    }

    /// Writes to stdin, and reads the echo.
    pub(crate) async fn echo(&mut self, (exec, offset): &mut (String, usize), data: &str) {
        self.send(format!(
            r#"{{"event":"stdin","exec":"{exec}","offset":{offset},"data":"{data}"}}"#
        ))
        .await;
        *offset += data.len();
        // The acknowledgement, then the echo.
        self.text().await;
        self.text().await;
    }
}
