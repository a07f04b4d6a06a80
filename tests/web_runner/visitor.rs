//! [`Visitor`]: a WebSocket client that speaks as the page does.

use std::net::SocketAddr;

use futures::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    select,
    sync::oneshot,
    task::JoinHandle,
};
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream, connect_async,
    tungstenite::{self, Message, client::IntoClientRequest},
};

use crate::support::within;

pub(crate) struct Visitor {
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    pub(crate) id: String,
    pub(crate) seen: u64,
    commands: u64,
    /// Whether to confirm each event.
    pub(crate) confirms: bool,
}

impl Visitor {
    pub(crate) async fn new(address: SocketAddr) -> Self {
        Self::hello(address, Value::Null, 0).await.unwrap()
    }

    /// Connects again, as a page that has lost its connection.
    pub(crate) async fn again(self, address: SocketAddr) -> Self {
        let (id, seen) = (self.id.clone(), self.seen);
        // This sends no close frame.
        drop(self);
        Self::hello(address, json!(id), seen).await.unwrap()
    }

    /// Returns the reason if the application refuses the visitor.
    pub(crate) async fn hello(
        address: SocketAddr,
        visitor: Value,
        seen: u64,
    ) -> Result<Self, String> {
        let socket = dial(address, &format!("http://{address}")).await.unwrap();
        let mut this = Self {
            socket,
            id: String::new(),
            seen,
            commands: 0,
            confirms: true,
        };
        this.send(json!({"type": "hello", "visitor": visitor, "seen": seen}))
            .await;
        loop {
            let message = this.receive().await;
            match message["type"].as_str().unwrap() {
                "welcome" => {
                    this.id = message["visitor"].as_str().unwrap().to_owned();
                    this.commands = message["handled"].as_u64().unwrap();
                    return Ok(this);
                }
                "refused" => return Err(message["text"].as_str().unwrap().to_owned()),
                _ => {}
            }
        }
    }

    pub(crate) async fn send(&mut self, message: Value) {
        self.socket
            .send(Message::text(message.to_string()))
            .await
            .unwrap();
    }

    pub(crate) async fn command(&mut self, command: Value) {
        self.commands += 1;
        self.send(json!({"type": "command", "number": self.commands, "command": command}))
            .await;
    }

    pub(crate) async fn run(&mut self, language: &str, code: &str) {
        self.command(json!({"type": "run", "language": language, "code": code}))
            .await;
    }

    /// The next message of any type.
    pub(crate) async fn receive(&mut self) -> Value {
        within("a message", async {
            loop {
                if let Message::Text(text) = self.socket.next().await.unwrap().unwrap() {
                    return serde_json::from_str(&text).unwrap();
                }
            }
        })
        .await
    }

    /// The next event. Fails if it repeats an event, or if one is missing.
    pub(crate) async fn event(&mut self) -> Value {
        loop {
            let message = self.receive().await;
            if let Some(number) = message["number"].as_u64() {
                self.seen += 1;
                assert_eq!(number, self.seen);
                if self.confirms {
                    self.confirm().await;
                }
                return message;
            }
        }
    }

    pub(crate) async fn confirm(&mut self) {
        let seen = json!({"type": "seen", "number": self.seen});
        self.send(seen).await;
    }

    /// Collects stdout until the program ends. Returns it with the sentence about the end.
    pub(crate) async fn output(&mut self) -> (String, String) {
        let mut output = String::new();
        loop {
            let event = self.event().await;
            let text = event["text"].as_str().unwrap_or_default();
            match event["type"].as_str().unwrap() {
                "output" if event["stream"] == "stdout" => output += text,
                "ended" => return (output, text.to_owned()),
                _ => {}
            }
        }
    }

    /// Opens the terminal, and starts a command that reads no input before it has printed `ready`.
    pub(crate) async fn open_terminal(&mut self, command: &str) {
        self.command(json!({"type": "open_terminal", "columns": 80, "rows": 24}))
            .await;
        self.type_text(&format!("stty -echo; echo rea''dy; {command}\r"))
            .await;
        let mut screen = String::new();
        while !screen.contains("ready\r\n") {
            screen += self.event().await["text"].as_str().unwrap_or_default();
        }
    }

    pub(crate) async fn type_text(&mut self, text: &str) {
        self.command(json!({"type": "type", "text": text})).await;
    }

    /// Closes the page.
    pub(crate) async fn close(mut self) {
        self.socket.close(None).await.unwrap();
    }

    /// Keeps the page open: a task reads its messages, and answers pings.
    pub(crate) fn stay(mut self) -> Staying {
        let (close, closed) = oneshot::channel();
        let task = tokio::spawn(async move {
            let read = async {
                loop {
                    self.receive().await;
                }
            };
            select! {
                () = read => {}
                _ = closed => {}
            }
            self.close().await;
        });
        Staying { close, task }
    }
}

/// A visitor whose page stays open.
pub(crate) struct Staying {
    close: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Staying {
    /// Closes the page. Fails if the connection was lost before.
    pub(crate) async fn close(self) {
        self.close.send(()).expect("an open page");
        self.task.await.unwrap();
    }
}

/// Opens a WebSocket as a page of this origin.
pub(crate) async fn dial(
    address: SocketAddr,
    origin: &str,
) -> tungstenite::Result<WebSocketStream<MaybeTlsStream<TcpStream>>> {
    let mut request = format!("ws://{address}/connect").into_client_request()?;
    let headers = request.headers_mut();
    headers.insert("origin", origin.parse().unwrap());
    within("the dial", connect_async(request))
        .await
        .map(|(socket, _)| socket)
}

/// Sends an HTTP request with this body. Returns the status line and the body of the answer.
pub(crate) async fn http(
    address: SocketAddr,
    request: &str,
    headers: &str,
    body: &[u8],
) -> (String, String) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let length = body.len();
    let head = format!(
        "{request} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\ncontent-length: \
         {length}\r\n{headers}\r\n"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    // The application may answer without reading the body.
    let _ = stream.write_all(body).await;
    let mut answer = Vec::new();
    let _ = within("the answer", stream.read_to_end(&mut answer)).await;
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) = answer.split_once("\r\n\r\n").expect(&answer);
    (head.lines().next().unwrap().to_owned(), body.to_owned())
}
