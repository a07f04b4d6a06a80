//! [`Conversation`]: reads the messages of one client and passes them to its sandbox. [`open`]
//! starts one.
//!
//! It runs in its own task. The actor [`Session`] writes. The task of the sandbox handles
//! everything that a slow client must not delay.

use std::{sync::Arc, time::Duration};

use actix_http::ws::Codec;
use actix_web::{HttpRequest, HttpResponse, http::header::SEC_WEBSOCKET_PROTOCOL, web};
use actix_web_actors::ws;
use bytes::Bytes;
use futures::stream;
use tokio::time::timeout;

use super::{
    client_link::{Guard, Link},
    message_reader::{Event, Incoming},
    socket_writer::Session,
};
use crate::{
    protocol::{
        ClientMessage, SandboxToken, Status, Version,
        names::{CLOSE_ERROR, SUBPROTOCOL_V2},
    },
    server::{
        escaped::Escaped,
        http::client_address::ClientAddress,
        sandbox::{handle::SandboxHandle, manager::Manager},
    },
};

/// How long the server waits for the client's answer to a close frame, and for the client to read
/// any of the messages before it.
const CLOSE_WITHIN: Duration = Duration::from_secs(5);

/// How a session begins.
pub(crate) enum Opening {
    /// The client sends a configuration, and the server creates a sandbox.
    Create,
    /// The client attaches to the sandbox of this id.
    Attach { id: String, token: SandboxToken },
}

/// Upgrades a request to a session.
pub(crate) fn open(
    manager: Arc<Manager>,
    opening: Opening,
    request: &HttpRequest,
    payload: web::Payload,
) -> actix_web::Result<HttpResponse> {
    let version = version(&manager, request);
    let spoken: &[&str] = match version.is_v2() {
        false => &[],
        true => &[SUBPROTOCOL_V2],
    };
    let mut response = ws::handshake_with_protocols(request, spoken)?;
    let link = Arc::new(Link::new(version, ClientAddress::of(request)));
    let incoming = Incoming::new(payload, manager.options.max_message_bytes);
    let session = Session { link: link.clone() };
    // The conversation reads the payload. The actor gets an empty stream.
    let body = ws::WebsocketContext::with_codec(session, stream::pending(), Codec::new());
    let conversation = Conversation {
        manager,
        incoming,
        link: Guard(link),
    };
    actix_web::rt::spawn(conversation.hold(opening));
    Ok(response.streaming(body))
}

/// Returns the newest protocol version that both sides support.
fn version(manager: &Manager, request: &HttpRequest) -> Version {
    let offers = request.headers().get_all(SEC_WEBSOCKET_PROTOCOL);
    let is_offered = offers
        .filter_map(|offer| offer.to_str().ok())
        .flat_map(|offer| offer.split(','))
        .any(|name| name.trim() == SUBPROTOCOL_V2);
    match is_offered {
        true => manager.options.max_protocol,
        false => Version::V1,
    }
}

/// The reading half of a session.
struct Conversation {
    manager: Arc<Manager>,
    incoming: Incoming,
    link: Guard,
}

impl Conversation {
    async fn hold(mut self, opening: Opening) {
        let link = self.link.0.clone();
        let limit = self.manager.options.request_timeout;
        let mut early = None;
        let sandbox = match opening {
            Opening::Create => match timeout(limit, self.next()).await {
                Ok(Some(frame)) => self.manager.create(&frame, &link),
                Ok(None) => None,
                Err(_elapsed) => {
                    let reason = format!("No configuration came within {limit:?}.");
                    link.refuse(Status::SandboxCreationError, reason);
                    link.close(CLOSE_ERROR);
                    None
                }
            },
            Opening::Attach { id, token } => {
                let manager = self.manager.clone();
                let mut attach = std::pin::pin!(manager.attach(&id, &token, &link));
                // A restore can take long. Meanwhile, answer pings and detect a lost connection. A
                // message that arrives before the attach is complete waits.
                loop {
                    tokio::select! {
                        biased;
                        sandbox = &mut attach => break sandbox,
                        frame = self.next(), if early.is_none() => match frame {
                            Some(frame) => early = Some(frame),
                            None => break None,
                        }
                    }
                }
            }
        };
        if let Some(sandbox) = sandbox {
            if early.is_none() {
                early = self.next().await;
            }
            while let Some(frame) = early {
                if !self.hand_on(frame, &sandbox).await {
                    break;
                }
                early = self.next().await;
            }
        }
        if !link.is_dead() {
            // The close frame is queued or sent. Wait for the client's answer: closing the socket
            // at once could reset the connection, and the client would lose what it has not read.
            let mut answer = std::pin::pin!(self.incoming.drain());
            let mut popped = None;
            while popped != Some(link.popped()) {
                popped = Some(link.popped());
                if timeout(CLOSE_WITHIN, &mut answer).await.is_ok() {
                    break;
                }
            }
        }
    }

    /// Reads the next message. Returns `None` when the session has ended.
    async fn next(&mut self) -> Option<Bytes> {
        let link = &self.link.0;
        loop {
            let event = tokio::select! {
                biased;
                () = link.ends() => return None,
                event = self.incoming.next() => event,
            };
            match event {
                Event::Message(frame) => return Some(frame),
                Event::Ping(payload) => link.pong(payload),
                Event::Close(code) => link.closed_by_client(code),
                Event::Refused(why, code) => {
                    tracing::info!(reason = %Escaped(why), "the session is closed");
                    match code {
                        Some(code) => link.close(code),
                        None => link.die(),
                    }
                }
                Event::Lost => link.die(),
            }
        }
    }

    /// Passes a message to the sandbox. Returns false if the session ends.
    async fn hand_on(&self, frame: Bytes, sandbox: &SandboxHandle) -> bool {
        let link = &self.link.0;
        let request = match ClientMessage::parse_as(&frame, link.version) {
            Ok(message) => message,
            Err(_quotes_the_frame) => {
                // As in the recordings of the cloud-run-sandbox server: the socket is closed
                // without a close frame, and the sandbox keeps running.
                tracing::info!("a malformed frame; the session is dropped");
                link.die();
                return false;
            }
        };
        // `say` may wait. Free the frame first, because it may be large.
        drop(frame);
        sandbox.say(link, request).await;
        !link.is_ending()
    }
}
