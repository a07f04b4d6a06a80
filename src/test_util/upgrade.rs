//! [`Dial`]: an upgrade request that the player accepts or refuses.

use std::io;

use actix_codec::Framed;
use actix_http::ws::{Codec, hash_key};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// Maximum length of a request head, in bytes.
const MAX_HEAD: usize = 64 * 1024;

/// Maximum size of a frame from a client, in bytes.
const MAX_FRAME: usize = 64 * 1024 * 1024;

/// A client that waits for the response to its upgrade.
pub(super) struct Dial {
    stream: TcpStream,
    /// Path and query.
    pub(super) path: String,
    key: Vec<u8>,
    offered: Vec<String>,
}

impl Dial {
    pub(super) async fn read(mut stream: TcpStream) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            if head.len() >= MAX_HEAD {
                return Err(io::Error::other("the request head is too long"));
            }
            // Byte by byte, to leave the bytes after the head in the socket.
            head.push(stream.read_u8().await?);
        }
        let head = String::from_utf8_lossy(&head);
        let mut lines = head.lines();
        let mut request = lines.next().unwrap_or_default().split(' ');
        let (Some("GET"), Some(path)) = (request.next(), request.next()) else {
            return Err(io::Error::other("the request isn't a GET"));
        };
        let headers: Vec<(&str, &str)> = lines.filter_map(|line| line.split_once(':')).collect();
        let values = |wanted: &'static str| {
            let named = headers.iter();
            let named = named.filter(move |(name, _)| name.eq_ignore_ascii_case(wanted));
            named.map(|(_, value)| value.trim())
        };
        let Some(key) = values("sec-websocket-key").next() else {
            return Err(io::Error::other("the request isn't a WebSocket upgrade"));
        };
        Ok(Self {
            path: path.to_owned(),
            key: key.into(),
            offered: values("sec-websocket-protocol")
                .flat_map(|list| list.split(','))
                .map(|name| name.trim().to_owned())
                .collect(),
            stream,
        })
    }

    pub(super) fn offers(&self, protocol: &str) -> bool {
        self.offered.iter().any(|offered| offered == protocol)
    }

    pub(super) async fn accept(
        mut self,
        protocol: Option<&str>,
    ) -> io::Result<Framed<TcpStream, Codec>> {
        let accept = hash_key(&self.key);
        let accept = String::from_utf8_lossy(&accept);
        let mut answer = format!(
            "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\
             sec-websocket-accept: {accept}\r\n"
        );
        if let Some(protocol) = protocol {
            answer += &format!("sec-websocket-protocol: {protocol}\r\n");
        }
        answer += "\r\n";
        self.stream.write_all(answer.as_bytes()).await?;
        Ok(Framed::new(self.stream, Codec::new().max_size(MAX_FRAME)))
    }

    /// Responds with a status, or closes the connection without a response.
    pub(super) async fn refuse(mut self, status: Option<u16>) {
        if let Some(status) = status {
            let answer = format!(
                "HTTP/1.1 {status} Refused\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
            );
            // The client may be gone already.
            let _ = self.stream.write_all(answer.as_bytes()).await;
        }
        let _ = self.stream.shutdown().await;
    }
}
