//! `POST /execute`: code that runs once in a fresh sandbox, which is deleted after it. Its output is the
//! body of the answer, as it comes.
//!
//! That a client is gone shows when there is output for it: a connection that is closed in one direction
//! may still be read from. Code that prints nothing runs until its time limit.

use std::{io, sync::Arc, time::Duration};

use actix_web::{
    HttpRequest, HttpResponse,
    http::StatusCode,
    web::{self, Bytes, Payload},
};
use futures::StreamExt;
use tokio::{
    sync::{mpsc, oneshot},
    time::timeout,
};

use super::{
    access::{check_caller, query_value},
    client_address::ClientAddress,
};
use crate::server::{
    backend::{
        api::BackendSandbox,
        job::{Job, Language},
    },
    exec::{
        execution::{Ending, ExecEvent},
        output_pump::Drains,
        stdin_queue::StdinQueue,
        v1_exec::V1Exec,
    },
    identity::{TokenHash, new_identity},
    sandbox::{
        handle::Command,
        manager::{Manager, clean_up},
    },
};

/// Pieces of output on their way to the client.
const PIECES_IN_FLIGHT: usize = 2;

/// Why code was killed.
const TOO_LONG: &str = "it ran longer than this server allows";

/// An answer that is no output: its status, and the reason.
type Refusal = (StatusCode, String);

type Pieces = mpsc::Receiver<io::Result<Bytes>>;

/// The endpoint.
pub(crate) async fn execute(
    manager: web::Data<Manager>,
    request: HttpRequest,
    body: Payload,
) -> HttpResponse {
    if let Err(refusal) = check_caller(&manager, &request) {
        return refusal.response();
    }
    let started = async {
        let language = language(request.query_string())?;
        let (most, limit) = (
            manager.options.max_message_bytes,
            manager.options.request_timeout,
        );
        let code = timeout(limit, code(body, most));
        let code = code.await.unwrap_or_else(|_| Err(too_slow(limit)))?;
        let client = ClientAddress::of(&request);
        manager.into_inner().run_once(language, code, client).await
    };
    match started.await {
        Ok(pieces) => HttpResponse::Ok()
            .content_type("text/plain; charset=utf-8")
            .streaming(futures::stream::unfold(pieces, |mut pieces| async {
                let piece = pieces.recv().await?;
                if piece.is_err() {
                    // At an error actix drops what it has not written yet: a turn for it to write.
                    tokio::task::yield_now().await;
                }
                Some((piece, pieces))
            })),
        Err((status, reason)) => HttpResponse::build(status)
            .content_type("text/plain; charset=utf-8")
            .body(reason),
    }
}

fn too_slow(limit: Duration) -> Refusal {
    let reason = format!("The code did not come in whole within {limit:?}.");
    (StatusCode::REQUEST_TIMEOUT, reason)
}

/// The language that the query names; python where it names none.
fn language(query: &str) -> Result<Language, Refusal> {
    let Some(name) = query_value(query, "language") else {
        return Ok(Language::Python);
    };
    let unsupported = || {
        (
            StatusCode::UNPROCESSABLE_ENTITY,
            Language::unsupported(&name),
        )
    };
    Language::from_name(&name).ok_or_else(unsupported)
}

/// The whole body, if it is text and not larger than a message may be.
async fn code(mut body: Payload, most: usize) -> Result<String, Refusal> {
    let mut code = Vec::new();
    while let Some(chunk) = body.next().await {
        let chunk = chunk.map_err(|error| {
            let reason = format!("The code could not be read: {error}");
            (StatusCode::BAD_REQUEST, reason)
        })?;
        if code.len() + chunk.len() > most {
            let reason = format!("The code is larger than {most} bytes.");
            return Err((StatusCode::PAYLOAD_TOO_LARGE, reason));
        }
        code.extend_from_slice(&chunk);
    }
    if code.is_empty() {
        let reason = "The body is empty; it must be the code to run.".to_owned();
        return Err((StatusCode::UNPROCESSABLE_ENTITY, reason));
    }
    String::from_utf8(code).map_err(|_| {
        (
            StatusCode::BAD_REQUEST,
            "The code is not UTF-8 text.".to_owned(),
        )
    })
}

impl Manager {
    /// Starts code in a fresh sandbox, and gives its output. When nobody takes that any more, the code
    /// is killed; in any case the sandbox is deleted.
    async fn run_once(
        self: Arc<Self>,
        language: Language,
        code: String,
        client: Option<ClientAddress>,
    ) -> Result<Pieces, Refusal> {
        let unavailable = |reason| (StatusCode::SERVICE_UNAVAILABLE, reason);
        let (id, token) = new_identity().map_err(|error| unavailable(error.to_string()))?;
        let place = self
            .registry
            .reserve(&id, TokenHash::of(&token), client)
            .map_err(unavailable)?;
        let (sender, pieces) = mpsc::channel(PIECES_IN_FLIGHT);
        let (started, is_started) = oneshot::channel();
        let manager = self.clone();
        self.runtime.spawn(async move {
            // All of it: the place is taken until the sandbox is deleted.
            let mut place = place;
            let backend: Arc<dyn BackendSandbox> = match manager.backend.create(&id).await {
                Ok(backend) => backend.into(),
                Err(error) => {
                    let reason = format!("Failed to create the sandbox: {error}");
                    return drop(started.send(Err(reason)));
                }
            };
            let stdin = StdinQueue::new(0);
            // No client can write to it: the code finds its end at once.
            stdin.close();
            let exec = V1Exec::start(
                backend.clone(),
                Job::new(language, code),
                manager.options.max_run_time,
                Arc::new(stdin),
                Drains::default(),
            );
            pass_on(exec, &mut place.commands, sender, started).await;
            clean_up(&*backend).await;
        });
        match is_started.await {
            Ok(Ok(())) => Ok(pieces),
            Ok(Err(reason)) => Err((StatusCode::INTERNAL_SERVER_ERROR, reason)),
            Err(_panicked) => Err(unavailable("The server lost the execution.".to_owned())),
        }
    }
}

/// Passes the output on until the code has ended, the client is gone, or the server stops.
async fn pass_on(
    mut exec: V1Exec,
    commands: &mut mpsc::Receiver<Command>,
    sender: mpsc::Sender<io::Result<Bytes>>,
    started: oneshot::Sender<Result<(), String>>,
) {
    let stopped = async { while !matches!(commands.recv().await, Some(Command::Stop) | None) {} };
    let output = async {
        let mut started = Some(started);
        let mut tell = |result| drop(started.take().map(|started| started.send(result)));
        loop {
            let piece = match exec.events.recv().await {
                Some(ExecEvent::Exited(_)) => continue,
                Some(ExecEvent::Started) => {
                    tell(Ok(()));
                    continue;
                }
                Some(ExecEvent::NotStarted(reason)) => return tell(Err(reason)),
                Some(ExecEvent::Output(_, text)) => Ok(text.into()),
                Some(ExecEvent::Ended { ending, .. }) => match ending {
                    Ending::Exited(_) => return,
                    Ending::TimedOut(_) => {
                        let text = format!("\n[killed: {TOO_LONG}]\n");
                        let _ = sender.send(Ok(text.into())).await;
                        Err(TOO_LONG)
                    }
                    Ending::Killed(_) => Err("it was lost"),
                },
                None => Err("it was lost"),
            };
            // An answer that just ended would say that this was all.
            let is_last = piece.is_err();
            let sent = sender.send(piece.map_err(io::Error::other)).await;
            if is_last || sent.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        biased;
        () = stopped => {
            // A client that doesn't read loses its connection anyway.
            let _ = sender.try_send(Err(io::Error::other("the server stops")));
        }
        () = sender.closed() => {}
        () = output => {}
    }
    exec.abandon().await;
}
