//! A raw WebSocket client for the tests of the server. It sends exactly what the test says and
//! turns each message that it receives into one line.

use std::{path::PathBuf, time::Duration};

use actix_sandbox::server::LocalServer;
use futures::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::{net::TcpStream, time::timeout};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{self, Message, client::IntoClientRequest, http},
};

/// How long a test waits for anything before it fails.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// The header that offers protocol v2.
pub(crate) const V2: (&str, &str) = ("sec-websocket-protocol", "sandbox.v2");

/// A WebSocket connection.
pub(crate) struct Client {
    ws: WebSocketStream<TcpStream>,
    /// A line that [`Self::unhear`] put back.
    unheard: Option<String>,
}

/// The id and the token of a sandbox.
#[derive(Clone, Debug)]
pub(crate) struct Identity {
    pub(crate) id: String,
    pub(crate) token: String,
}

impl Identity {
    pub(crate) fn attach_path(&self) -> String {
        format!("/attach/{}?sandbox_token={}", self.id, self.token)
    }
}

/// Dials with additional headers. If the server refuses the upgrade, the error is its HTTP status
/// and body.
pub(crate) async fn dial(
    server: &LocalServer,
    path: &str,
    headers: &[(&'static str, &str)],
) -> Result<Client, (u16, String)> {
    dial_to(server.url(), path, headers).await
}

/// Splits the URL of a server into its authority and its path, which is the secret.
pub(crate) fn parts(url: &str) -> (&str, &str) {
    let rest = url.strip_prefix("http://").expect("a URL");
    rest.split_at(rest.find('/').unwrap_or(rest.len()))
}

async fn dial_to(
    url: &str,
    path: &str,
    headers: &[(&'static str, &str)],
) -> Result<Client, (u16, String)> {
    let (address, secret) = parts(url);
    let mut request = format!("ws://{address}{secret}{path}")
        .into_client_request()
        .expect("a request");
    for &(name, value) in headers {
        request
            .headers_mut()
            .insert(name, http::HeaderValue::from_str(value).expect("a value"));
    }
    let socket = TcpStream::connect(address).await.expect("a listener");
    socket.set_nodelay(true).expect("nodelay");
    match timeout(PATIENCE, tokio_tungstenite::client_async(request, socket))
        .await
        .expect("an answer to the upgrade")
    {
        Ok((ws, _)) => Ok(Client { ws, unheard: None }),
        Err(tungstenite::Error::Http(response)) => {
            let body = response.body().clone().unwrap_or_default();
            Err((
                response.status().as_u16(),
                String::from_utf8_lossy(&body).into_owned(),
            ))
        }
        Err(error) => panic!("the upgrade failed: {error}"),
    }
}

/// Attaches to a sandbox of a server in another process.
pub(crate) async fn attach_at(url: &str, identity: &Identity) -> Client {
    Client::connect_to(url, &identity.attach_path()).await
}

impl Client {
    pub(crate) async fn connect(server: &LocalServer, path: &str) -> Self {
        dial(server, path, &[]).await.expect("an upgrade")
    }

    /// Like [`Self::connect`], to a server in another process.
    pub(crate) async fn connect_to(url: &str, path: &str) -> Self {
        dial_to(url, path, &[]).await.expect("an upgrade")
    }

    /// Upgrades this socket to a WebSocket.
    pub(crate) async fn upgrade(url: &str, socket: TcpStream) -> Self {
        let upgrade = tokio_tungstenite::client_async(url, socket);
        let upgraded = timeout(PATIENCE, upgrade).await.expect("an answer");
        let (ws, _) = upgraded.expect("an upgrade");
        Self { ws, unheard: None }
    }

    /// Creates a sandbox with this configuration, and waits until it runs.
    pub(crate) async fn create_with(server: &LocalServer, config: Value) -> (Self, Identity) {
        let mut client = Self::connect(server, "/create").await;
        client.send(config).await;
        assert_eq!(client.line().await, "SANDBOX_CREATING");
        let line = client.line().await;
        let identity = line.strip_prefix("sandbox_id ").expect(&line);
        let (id, token) = identity.split_once(' ').expect("id and token");
        let identity = Identity {
            id: id.to_owned(),
            token: token.to_owned(),
        };
        assert_eq!(client.line().await, "SANDBOX_RUNNING");
        (client, identity)
    }

    /// Creates a sandbox, and waits until it runs.
    pub(crate) async fn create(server: &LocalServer) -> (Self, Identity) {
        Self::create_with(server, json!({"idle_timeout": 60})).await
    }

    /// Like [`Self::create`], on a link that speaks v2.
    pub(crate) async fn create_v2(server: &LocalServer) -> (Self, Identity) {
        Self::create_v2_with(server, json!({"idle_timeout": 60})).await
    }

    /// Like [`Self::create_with`], on a link that speaks v2.
    pub(crate) async fn create_v2_with(server: &LocalServer, config: Value) -> (Self, Identity) {
        let mut client = dial(server, "/create", &[V2]).await.expect("an upgrade");
        client.send(config).await;
        let identity = loop {
            let message = client.json().await;
            if message["event"] == "sandbox_id" {
                break message;
            }
        };
        let text = |key: &str| identity[key].as_str().expect(key).to_owned();
        let identity = Identity {
            id: text("sandbox_id"),
            token: text("sandbox_token"),
        };
        assert_eq!(client.json().await["status"], "SANDBOX_RUNNING");
        (client, identity)
    }

    /// Attaches to a sandbox on a link that speaks v2. Tries again while the server still considers
    /// the previous client connected.
    pub(crate) async fn attach_v2(server: &LocalServer, identity: &Identity) -> Self {
        loop {
            let path = identity.attach_path();
            let mut client = dial(server, &path, &[V2]).await.expect("an upgrade");
            loop {
                match client.json().await["status"].as_str() {
                    Some("SANDBOX_RUNNING") => return client,
                    Some("SANDBOX_IN_USE") => break,
                    _ => {}
                }
            }
        }
    }

    /// Creates a sandbox that may be handed over to another server.
    pub(crate) async fn create_for_handoff(server: &LocalServer) -> (Self, Identity) {
        let mut client = Self::connect(server, "/create").await;
        let config =
            json!({"idle_timeout": 60, "enable_checkpoint": true, "enable_sandbox_handoff": true});
        client.send(config).await;
        let lines = client.until("SANDBOX_RUNNING").await;
        let identity = lines[3].strip_prefix("sandbox_id ").expect(&lines[3]);
        let (id, token) = identity.split_once(' ').expect("id and token");
        let identity = Identity {
            id: id.to_owned(),
            token: token.to_owned(),
        };
        (client, identity)
    }

    /// Attaches to a sandbox. Tries again while the server still considers the previous client
    /// connected.
    pub(crate) async fn attach(server: &LocalServer, identity: &Identity) -> Self {
        loop {
            let mut client = Self::connect(server, &identity.attach_path()).await;
            match client.line().await.as_str() {
                "SANDBOX_RUNNING" => return client,
                "SANDBOX_IN_USE" => assert_eq!(client.line().await, "close 1011"),
                other => panic!("the attach was answered by {other}"),
            }
        }
    }

    pub(crate) async fn send(&mut self, message: Value) {
        self.send_raw(Message::text(message.to_string())).await;
    }

    pub(crate) async fn send_raw(&mut self, message: Message) {
        timeout(PATIENCE, self.ws.send(message))
            .await
            .expect("the socket takes the message")
            .expect("an open socket");
    }

    pub(crate) async fn exec(&mut self, language: &str, code: &str) {
        self.send(json!({"language": language, "code": code})).await;
    }

    pub(crate) async fn action(&mut self, action: &str) {
        self.send(json!({"action": action})).await;
    }

    pub(crate) async fn ping(&mut self, payload: &str) {
        self.send_raw(Message::Ping(payload.to_owned().into()))
            .await;
    }

    /// Sends the line that the code waits for. The pong shows that the server has received it.
    pub(crate) async fn feed(&mut self) {
        self.stdin("\n").await;
        self.ping("fed").await;
        assert_eq!(self.line().await, "pong fed");
    }

    pub(crate) async fn stdin(&mut self, data: &str) {
        self.send(json!({"event": "stdin", "data": data})).await;
    }

    /// The socket below the WebSocket, to write raw bytes.
    pub(crate) fn socket(&mut self) -> &mut TcpStream {
        self.ws.get_mut()
    }

    pub(crate) async fn send_text(&mut self, text: &str) {
        self.send_raw(Message::text(text)).await;
    }

    /// Puts a line back: [`Self::line`] returns it next.
    pub(crate) fn unhear(&mut self, line: String) {
        self.unheard = Some(line);
    }

    /// The next message, close or pong as one line. `lost`: the connection ended.
    pub(crate) async fn line(&mut self) -> String {
        if let Some(line) = self.unheard.take() {
            return line;
        }
        timeout(PATIENCE, self.line_in_any_time())
            .await
            .expect("the server says something")
    }

    /// The next message as JSON. `null`: the session is over.
    pub(crate) async fn json(&mut self) -> Value {
        loop {
            let next = timeout(PATIENCE, self.ws.next()).await;
            return match next.expect("the server says something") {
                Some(Ok(Message::Text(text))) => serde_json::from_str(&text).expect("JSON"),
                Some(Ok(Message::Close(_)) | Err(_)) | None => Value::Null,
                Some(Ok(_)) => continue,
            };
        }
    }

    async fn line_in_any_time(&mut self) -> String {
        loop {
            let message = match self.ws.next().await {
                Some(Ok(Message::Text(text))) => text,
                Some(Ok(Message::Close(frame))) => {
                    return match frame {
                        Some(frame) => format!("close {}", u16::from(frame.code)),
                        None => "close".to_owned(),
                    };
                }
                Some(Ok(Message::Pong(payload))) => {
                    return format!("pong {}", String::from_utf8_lossy(&payload));
                }
                Some(Ok(_)) => continue,
                Some(Err(_)) | None => return "lost".to_owned(),
            };
            let message: Value = serde_json::from_str(&message).expect("JSON");
            let text = |key: &str| message[key].as_str().unwrap_or_default().to_owned();
            return match text("event").as_str() {
                "status_update" => text("status"),
                "sandbox_id" => format!(
                    "sandbox_id {} {}",
                    text("sandbox_id"),
                    text("sandbox_token")
                ),
                "error" => format!("error: {}", text("message")),
                stream => format!("{stream}: {}", text("data")),
            };
        }
    }

    /// All lines up to and including this one. Consecutive pieces of the same stream are joined.
    /// Panics if the session ends before.
    pub(crate) async fn until(&mut self, last: &str) -> Vec<String> {
        let mut lines: Vec<String> = Vec::new();
        loop {
            let line = self.line().await;
            let over = line == last;
            assert!(
                over || !(line.starts_with("close") || line == "lost"),
                "the session ended before {last}: {lines:?} {line}"
            );
            match (lines.last_mut(), line.split_once(": ")) {
                (Some(before), Some((stream @ ("stdout" | "stderr"), data)))
                    if before.starts_with(&format!("{stream}: ")) =>
                {
                    before.push_str(data);
                }
                _ => lines.push(line),
            }
            if over {
                return lines;
            }
        }
    }

    /// Reads this text from stdout, in any number of pieces. Panics if anything else comes.
    pub(crate) async fn hears(&mut self, expected: &str) {
        let mut heard = String::new();
        while heard.len() < expected.len() {
            let line = self.line().await;
            heard += line
                .strip_prefix("stdout: ")
                .unwrap_or_else(|| panic!("after {heard:?} came {line:?}"));
        }
        assert_eq!(heard, expected);
    }

    /// Runs code to its end. Returns all lines.
    pub(crate) async fn run(&mut self, language: &str, code: &str) -> Vec<String> {
        self.exec(language, code).await;
        self.until("SANDBOX_EXECUTION_DONE").await
    }

    /// Runs bash to its end. Returns its stdout.
    pub(crate) async fn bash(&mut self, code: &str) -> String {
        let lines = self.run("bash", code).await;
        let stdout: String = lines
            .iter()
            .filter_map(|line| line.strip_prefix("stdout: "))
            .collect();
        assert!(
            !lines.iter().any(|line| line.starts_with("error")),
            "{lines:?}"
        );
        stdout
    }

    /// Panics if the server sends anything within this time.
    pub(crate) async fn stays_silent(&mut self, duration: Duration) {
        if let Ok(line) = timeout(duration, self.line_in_any_time()).await {
            panic!("the server said {line}");
        }
    }

    /// Kills the sandbox and waits until the server closes the session.
    pub(crate) async fn kill_sandbox(mut self) {
        self.action("kill_sandbox").await;
        self.until("close 1000").await;
    }
}

/// A plain GET request below the secret. Returns status and body.
pub(crate) async fn get(
    server: &LocalServer,
    path: &str,
    headers: &[(&str, &str)],
) -> (u16, String) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    let mut socket = TcpStream::connect(server.address())
        .await
        .expect("a listener");
    let (_, secret) = parts(server.url());
    let mut request = format!("GET {secret}{path} HTTP/1.1\r\nConnection: close\r\n");
    if !headers.iter().any(|(name, _)| *name == "Host") {
        request += &format!("Host: {}\r\n", server.address());
    }
    for (name, value) in headers {
        request += &format!("{name}: {value}\r\n");
    }
    request += "\r\n";
    socket.write_all(request.as_bytes()).await.expect("written");
    let mut response = String::new();
    timeout(PATIENCE, socket.read_to_string(&mut response))
        .await
        .expect("an answer")
        .expect("text");
    let status = response[9..12].parse().expect("a status");
    let body = response
        .split_once("\r\n\r\n")
        .map(|(_, body)| body.to_owned())
        .unwrap_or_default();
    (status, body)
}

/// The processes whose environment contains this `NAME=value`. Zombies are left out.
pub(crate) fn processes_with(variable: &str) -> Vec<u32> {
    let entry = variable.as_bytes();
    std::fs::read_dir("/proc")
        .expect("/proc")
        .filter_map(|process| {
            let process = process.ok()?;
            let pid = process.file_name().to_str()?.parse().ok()?;
            let environment = std::fs::read(process.path().join("environ")).ok()?;
            environment
                .split(|&byte| byte == 0)
                .any(|variable| variable == entry)
                .then_some(pid)
        })
        .collect()
}

/// The processes of a sandbox.
pub(crate) fn processes_of(identity: &Identity) -> Vec<u32> {
    processes_with(&format!("ACTIX_SANDBOX_ID={}", identity.id))
}

/// The paths of the entries of a directory.
pub(crate) fn entries(directory: &std::path::Path) -> Vec<PathBuf> {
    std::fs::read_dir(directory)
        .expect("the directory")
        .filter_map(|entry| Some(entry.ok()?.path()))
        .collect()
}

/// Fails, and names the entries, if a directory has any.
pub(crate) fn assert_empty(directory: &std::path::Path) {
    assert_eq!(entries(directory), Vec::<PathBuf>::new());
}

/// Polls a condition until it holds. Panics after [`PATIENCE`].
pub(crate) async fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let wait = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    assert!(timeout(PATIENCE, wait).await.is_ok(), "never: {what}");
}
