//! [`Conversation`]: reads what one client says, and hands it to its sandbox. [`open`] begins one.
//!
//! Reading is a task of its own beside the [`Session`], which writes. Everything that must happen
//! in time is with the sandbox.

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

/// Time that a client has to answer a close frame.
const CLOSE_WITHIN: Duration = Duration::from_secs(5);

/// How a session begins.
pub(crate) enum Opening {
    /// With a configuration.
    Create,
    /// With the sandbox of this id.
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
    let spoken: &[&str] = match version {
        Version::V1 => &[],
        Version::V2 => &[SUBPROTOCOL_V2],
    };
    let mut response = ws::handshake_with_protocols(request, spoken)?;
    let link = Arc::new(Link::new(version, ClientAddress::of(request)));
    let incoming = Incoming::new(payload, manager.options.max_message_bytes);
    let session = Session { link: link.clone() };
    // The payload is read by the conversation; the actor gets none.
    let body = ws::WebsocketContext::with_codec(session, stream::pending(), Codec::new());
    let conversation = Conversation {
        manager,
        incoming,
        link: Guard(link),
    };
    actix_web::rt::spawn(conversation.hold(opening));
    Ok(response.streaming(body))
}

/// The newest version that both sides speak.
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

/// The reading half.
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
                // A restore takes its time. Meanwhile pings are answered, and a client that goes is
                // noticed; one that speaks before it is let in is heard after that.
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
            // A close frame is on its way: wait for the answer, so that it is not lost by a reset.
            let _ = timeout(CLOSE_WITHIN, self.incoming.drain()).await;
        }
    }

    /// The next text message; `None` when the session is over.
    async fn next(&mut self) -> Option<Bytes> {
        let link = &self.link.0;
        loop {
            let event = tokio::select! {
                biased;
                () = link.ends() => return None,
                event = self.incoming.next() => event,
            };
            match event {
                Event::Text(frame) => return Some(frame),
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

    /// Gives a message to the sandbox; false for one that ends the session.
    async fn hand_on(&self, frame: Bytes, sandbox: &SandboxHandle) -> bool {
        let link = &self.link.0;
        let request = match ClientMessage::parse_as(&frame, link.version) {
            Ok(message) => message,
            Err(_quotes_the_frame) => {
                // As recorded: the socket is dropped without a close frame, the sandbox lives on.
                tracing::info!("a malformed frame; the session is dropped");
                link.die();
                return false;
            }
        };
        // A session that waits must not keep a large frame.
        drop(frame);
        sandbox.say(link, request).await;
        !link.is_ending()
    }
}
