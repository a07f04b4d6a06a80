//! A scripted server on a real socket. A test writes each message or raw byte that it sends, and
//! reads each message of the client.

use std::{
    future::Future,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use actix::{Actor, Addr, Context, Handler};
use actix_sandbox::{
    Error, SandboxBuilder, SandboxEvent,
    actor::{self, SandboxActor},
};
use futures::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    time::timeout,
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        ClientConfig, RootCertStore, ServerConfig,
        crypto::ring,
        pki_types::{CertificateDer, PrivateKeyDer},
    },
    server::TlsStream,
};
use tokio_tungstenite::{
    WebSocketStream, accept_hdr_async_with_config,
    tungstenite::{
        Message,
        handshake::server::{Request, Response},
        protocol::{CloseFrame, WebSocketConfig, frame::coding::CloseCode},
    },
};

/// How long a test waits for an event before it fails.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// The id of scripted sandboxes.
pub(crate) const ID: &str = "sandbox-9182";

/// The token of scripted sandboxes. No output of the crate may contain it.
pub(crate) const TOKEN: &str = "tok-5e1f0c7a9b-secret";

/// Awaits a future for at most [`PATIENCE`]. Then the test fails with `what` in the message.
pub(crate) async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    timeout(PATIENCE, future)
        .await
        .unwrap_or_else(|_| panic!("timed out after {PATIENCE:?} waiting for {what}"))
}

/// The real time, for tests that measure durations as a user would.
#[expect(clippy::disallowed_methods, reason = "the test measures real time")]
pub(crate) fn clock() -> Instant {
    Instant::now()
}

/// A listener on a free port. It answers a connection only when the test does.
pub(crate) struct Scripted {
    listener: TcpListener,
    address: SocketAddr,
}

impl Scripted {
    pub(crate) async fn bind() -> Self {
        Self::bind_to("127.0.0.1:0").await
    }

    pub(crate) async fn bind_to(address: &str) -> Self {
        let listener = TcpListener::bind(address).await.expect("a port");
        let address = listener.local_addr().expect("an address");
        Self { listener, address }
    }

    /// The address as `127.0.0.1:port`.
    pub(crate) fn address(&self) -> String {
        self.address.to_string()
    }

    pub(crate) fn url(&self) -> String {
        format!("ws://{}", self.address)
    }

    pub(crate) fn tls_url(&self) -> String {
        format!("wss://{}", self.address)
    }

    /// Accepts the next TCP connection.
    pub(crate) async fn tcp(&self) -> TcpStream {
        let (stream, _) = within("a TCP connection", self.listener.accept())
            .await
            .expect("an accepted connection");
        stream.set_nodelay(true).expect("nodelay");
        stream
    }

    /// Accepts the next WebSocket.
    pub(crate) async fn peer(&self) -> Peer {
        Peer::upgrade(self.tcp().await).await
    }

    /// Accepts the next WebSocket, and selects protocol v2.
    pub(crate) async fn peer_v2(&self) -> Peer {
        let v2 = ("sec-websocket-protocol", "sandbox.v2");
        Peer::upgrade_adding(self.tcp().await, &[v2]).await
    }

    /// Accepts the next WebSocket, and reports a running sandbox.
    pub(crate) async fn running(&self) -> Peer {
        let mut peer = self.peer().await;
        peer.run().await;
        peer
    }

    /// Accepts the next TCP connection, reads its upgrade request and answers it with these bytes.
    pub(crate) async fn answer(&self, answer: &[u8]) -> TcpStream {
        let mut stream = self.tcp().await;
        read_head(&mut stream).await;
        stream.write_all(answer).await.expect("an answer taken");
        stream
    }

    /// Like [`answer`](Self::answer), but the client may give up at any time.
    pub(crate) async fn try_answer(&self, answer: &[u8]) {
        let mut stream = self.tcp().await;
        if try_read_head(&mut stream).await.is_ok() {
            let _ = stream.write_all(answer).await;
        }
    }

    /// Asserts that the client hasn't dialled: the first connection in the queue is the test's own.
    pub(crate) async fn assert_not_dialled(&self) {
        let own = within("our own connection", TcpStream::connect(self.address))
            .await
            .expect("a listener");
        let first = self.tcp().await.peer_addr().expect("a peer");
        assert_eq!(
            first,
            own.local_addr().expect("bound"),
            "the client dialled"
        );
    }
}

/// Reads an HTTP request up to its empty line.
pub(crate) async fn read_head(stream: &mut TcpStream) -> String {
    let head = try_read_head(stream).await.expect("a whole request");
    String::from_utf8(head).expect("a request in ASCII")
}

/// Like [`read_head`]. Fails if the connection ends before.
async fn try_read_head(stream: &mut TcpStream) -> std::io::Result<Vec<u8>> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(within("a request", stream.read_u8()).await?);
    }
    Ok(head)
}

/// Reads until the connection ends, and returns the number of bytes read.
pub(crate) async fn drain(stream: &mut TcpStream) -> usize {
    let mut buffer = vec![0; 64 * 1024];
    let mut total = 0;
    loop {
        match within("the end of the connection", stream.read(&mut buffer)).await {
            Ok(0) | Err(_) => return total,
            Ok(count) => total += count,
        }
    }
}

/// A message that a peer receives.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Heard {
    /// A text frame that contains JSON.
    Json(Value),
    Ping,
    Pong(Vec<u8>),
    /// A close frame, with its code.
    Close(Option<u16>),
    /// The connection is gone.
    End,
}

/// The server's end of a WebSocket.
pub(crate) struct Peer<S = TcpStream> {
    ws: WebSocketStream<S>,
    /// The path and query of the upgrade request.
    pub(crate) path: String,
    /// The headers of the upgrade request.
    pub(crate) headers: Vec<(String, String)>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Peer<S> {
    pub(crate) async fn upgrade(stream: S) -> Self {
        Self::upgrade_with(stream, &[]).await
    }

    /// Like [`upgrade`](Self::upgrade), with `Set-Cookie` headers in the answer.
    pub(crate) async fn upgrade_with(stream: S, cookies: &[&str]) -> Self {
        let cookies: Vec<_> = cookies.iter().map(|it| ("set-cookie", *it)).collect();
        Self::upgrade_adding(stream, &cookies).await
    }

    /// Like [`upgrade`](Self::upgrade), with these headers in the answer.
    #[expect(
        clippy::result_large_err,
        reason = "the shape of tungstenite's callback"
    )]
    async fn upgrade_adding(stream: S, added: &[(&'static str, &str)]) -> Self {
        let (mut path, mut headers) = (String::new(), Vec::new());
        let note = |request: &Request, mut response: Response| {
            for (name, value) in added {
                let value = value.parse().expect("a header value");
                response.headers_mut().append(*name, value);
            }
            path = request.uri().to_string();
            for (name, value) in request.headers() {
                let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
                headers.push((name.as_str().to_owned(), value));
            }
            Ok(response)
        };
        let config = WebSocketConfig::default()
            .max_message_size(None)
            .max_frame_size(None);
        let ws = within(
            "an upgrade",
            accept_hdr_async_with_config(stream, note, Some(config)),
        )
        .await
        .expect("an upgrade");
        Self { ws, path, headers }
    }

    /// Sends a message. Returns whether the client is still connected.
    pub(crate) async fn try_send(&mut self, message: Message) -> bool {
        within("the socket to take a message", self.ws.send(message))
            .await
            .is_ok()
    }

    pub(crate) async fn text(&mut self, text: impl Into<String>) {
        assert!(
            self.try_send(Message::text(text.into())).await,
            "the client is gone"
        );
    }

    pub(crate) async fn json(&mut self, message: Value) {
        self.text(message.to_string()).await;
    }

    pub(crate) async fn status(&mut self, status: &str) {
        self.json(json!({"event": "status_update", "status": status}))
            .await;
    }

    pub(crate) async fn error(&mut self, message: &str) {
        self.json(json!({"event": "error", "message": message}))
            .await;
    }

    pub(crate) async fn identity(&mut self) {
        self.json(json!({"event": "sandbox_id", "sandbox_id": ID, "sandbox_token": TOKEN}))
            .await;
    }

    pub(crate) async fn stdout(&mut self, data: &str) {
        self.json(json!({"event": "stdout", "data": data})).await;
    }

    /// Writes bytes below the WebSocket layer. Returns whether the client is still connected.
    pub(crate) async fn try_raw(&mut self, bytes: &[u8]) -> bool {
        let stream = self.ws.get_mut();
        within("the socket to take bytes", async {
            stream.write_all(bytes).await.is_ok() && stream.flush().await.is_ok()
        })
        .await
    }

    pub(crate) async fn raw(&mut self, bytes: &[u8]) {
        assert!(self.try_raw(bytes).await, "the client is gone");
    }

    /// Reads the configuration, and reports a running sandbox.
    pub(crate) async fn run(&mut self) {
        self.configuration().await;
        self.status("SANDBOX_CREATING").await;
        self.identity().await;
        self.status("SANDBOX_RUNNING").await;
    }

    /// Reads the configuration, which is the first message of a client.
    pub(crate) async fn configuration(&mut self) -> Value {
        match self.heard().await {
            Heard::Json(configuration) => configuration,
            other => panic!("expected the configuration, not {other:?}"),
        }
    }

    /// Returns the next message, and skips pings.
    pub(crate) async fn heard(&mut self) -> Heard {
        loop {
            match self.any().await {
                Heard::Ping => {}
                heard => return heard,
            }
        }
    }

    /// Returns the next message. It may be a ping, which tungstenite answers.
    pub(crate) async fn any(&mut self) -> Heard {
        match within("something from the client", self.ws.next()).await {
            None | Some(Err(_)) => Heard::End,
            Some(Ok(Message::Text(text))) => {
                Heard::Json(serde_json::from_str(&text).expect("JSON from the client"))
            }
            Some(Ok(Message::Ping(_))) => Heard::Ping,
            Some(Ok(Message::Pong(payload))) => Heard::Pong(payload.to_vec()),
            Some(Ok(Message::Close(frame))) => {
                Heard::Close(frame.map(|frame| u16::from(frame.code)))
            }
            Some(Ok(other)) => panic!("a client never sends {other:?}"),
        }
    }

    /// Asserts that the next message is `message`.
    pub(crate) async fn expect(&mut self, message: Value) {
        assert_eq!(self.heard().await, Heard::Json(message));
    }

    /// Returns all messages until the connection ends.
    pub(crate) async fn rest(&mut self) -> Vec<Heard> {
        let mut all = Vec::new();
        loop {
            match self.heard().await {
                Heard::End => return all,
                heard => all.push(heard),
            }
        }
    }

    /// Sends a close frame, and returns all messages until the connection ends.
    pub(crate) async fn close(mut self, code: u16, reason: &str) -> Vec<Heard> {
        let frame = CloseFrame {
            code: CloseCode::from(code),
            reason: reason.to_owned().into(),
        };
        self.try_send(Message::Close(Some(frame))).await;
        self.rest().await
    }

    /// The stream below the WebSocket layer.
    pub(crate) fn into_inner(self) -> S {
        self.ws.into_inner()
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(found, _)| found == name)
            .map(|(_, value)| value.as_str())
    }
}

/// Returns a frame as a server sends it: first byte, length, payload.
pub(crate) fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = header(first, payload.len() as u64);
    bytes.extend(payload);
    bytes
}

/// Returns the header of a frame. `length` may differ from the length of the payload that follows.
pub(crate) fn header(first: u8, length: u64) -> Vec<u8> {
    let mut bytes = vec![first];
    match length {
        0..126 => bytes.push(length as u8),
        126..65_536 => {
            bytes.push(126);
            bytes.extend((length as u16).to_be_bytes());
        }
        _ => {
            bytes.push(127);
            bytes.extend(length.to_be_bytes());
        }
    }
    bytes
}

/// A self-signed certificate for localhost.
pub(crate) struct Tls {
    certificate: CertificateDer<'static>,
    acceptor: TlsAcceptor,
}

impl Tls {
    pub(crate) fn self_signed() -> Self {
        let names = ["localhost", "127.0.0.1", "::1"].map(str::to_owned);
        let made = rcgen::generate_simple_self_signed(names).expect("a certificate");
        let certificate = made.cert.der().clone();
        let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).expect("a key");
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("TLS 1.2 and 1.3")
            .with_no_client_auth()
            .with_single_cert(vec![certificate.clone()], key)
            .expect("a key that fits");
        Self {
            certificate,
            acceptor: TlsAcceptor::from(Arc::new(config)),
        }
    }

    /// Performs the server's side of the handshake.
    pub(crate) async fn accept(&self, stream: TcpStream) -> std::io::Result<TlsStream<TcpStream>> {
        within("a TLS handshake", self.acceptor.accept(stream)).await
    }

    /// Returns a client configuration that trusts only this certificate.
    pub(crate) fn trusting_client(&self) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.clone()).expect("a certificate");
        ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("TLS 1.2 and 1.3")
            .with_root_certificates(roots)
            .with_no_client_auth()
    }
}

struct Recorder(mpsc::Sender<SandboxEvent>);

impl Actor for Recorder {
    type Context = Context<Self>;
}

impl Handler<SandboxEvent> for Recorder {
    type Result = ();

    fn handle(&mut self, event: SandboxEvent, _: &mut Context<Self>) {
        self.0.try_send(event).expect("room for an event");
    }
}

/// The actor of a sandbox and all its events. The subscription starts before the client dials.
pub(crate) struct Watched {
    pub(crate) addr: Addr<SandboxActor>,
    events: mpsc::Receiver<SandboxEvent>,
}

impl Watched {
    pub(crate) async fn start(builder: SandboxBuilder) -> Self {
        let (sender, events) = mpsc::channel(10_000);
        let addr = builder.into_actor().expect("good options").start();
        let recorder = Recorder(sender).start();
        within(
            "the subscription",
            addr.send(actor::Subscribe(recorder.recipient())),
        )
        .await
        .expect("an actor");
        Self { addr, events }
    }

    pub(crate) async fn open(&self) -> Result<actor::Opened, Error> {
        within("the answer to Open", self.addr.send(actor::Open))
            .await
            .expect("an actor")
    }

    pub(crate) async fn event(&mut self) -> SandboxEvent {
        within("an event", self.events.recv())
            .await
            .expect("another event")
    }

    /// Waits for an event that `wanted` accepts, and skips the others.
    pub(crate) async fn event_like(
        &mut self,
        what: &str,
        wanted: impl Fn(&SandboxEvent) -> bool,
    ) -> SandboxEvent {
        within(what, async {
            loop {
                let event = self.events.recv().await.expect(what);
                if wanted(&event) {
                    return event;
                }
            }
        })
        .await
    }

    /// Returns all events up to the end of the sandbox.
    pub(crate) async fn rest(&mut self) -> Vec<SandboxEvent> {
        let mut all = Vec::new();
        loop {
            let event = self.event().await;
            let last = matches!(event, SandboxEvent::Ended(_));
            all.push(event);
            if last {
                return all;
            }
        }
    }
}

/// Returns every text of an error: `Display`, `Debug`, and those of its sources.
pub(crate) fn shown(error: &Error) -> String {
    let mut text = format!("{error}\n{error:?}\n{error:#?}");
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text += &format!("\n{cause}\n{cause:?}");
        source = cause.source();
    }
    text
}

/// Asserts that the text contains neither the token nor its distinctive part.
pub(crate) fn assert_no_secret(text: &str) {
    assert!(
        !text.contains(TOKEN) && !text.contains("5e1f0c7a9b"),
        "the token is shown: {text}"
    );
}
