//! `POST /execute`: runs code once in a new sandbox, and deletes the sandbox. The body of the
//! response streams the output.
//!
//! The server detects a disconnected client only when it writes output, because a client may close
//! its sending side and still read. If the client of code that prints nothing disconnects, the code
//! runs until it exits or reaches its time limit.

use std::{future::poll_fn, io, sync::Arc, task::Poll};

use actix_web::{
    HttpRequest, HttpResponse,
    http::StatusCode,
    web::{self, Bytes, Payload},
};
use futures::{StreamExt, stream, task::AtomicWaker};
use tokio::{
    sync::{mpsc, oneshot},
    time::timeout,
};

use super::{
    access::{check_caller, query_value, refused},
    client_address::ClientAddress,
};
use crate::{
    machine::ServedExec,
    protocol::{EndReason, ServerMessage, Status, Version},
    server::{
        backend::job::{Job, Language},
        exec::{
            builtin::Turns,
            execution::{Control, Limits},
            output_pump::Drains,
            shared_exec::{Outlet, SharedExec},
            v1_adapter::V1Adapter,
        },
        identity::{TokenHash, new_identity},
        sandbox::{
            handle::Command,
            manager::{Manager, clean_up},
        },
    },
};

/// How many bytes of output may wait for the client. At this limit, the code pauses.
const WINDOW: u64 = 128 * 1024;

/// Why the code was killed.
const TOO_LONG: &str = "it ran longer than this server allows";

/// Handles a request.
pub(super) async fn execute(
    manager: web::Data<Manager>,
    request: HttpRequest,
    body: Payload,
) -> actix_web::Result<HttpResponse> {
    check_caller(&manager, &request)?;
    let name = query_value(request.query_string(), "language");
    let name = name.as_deref().unwrap_or("python");
    let unsupported = || {
        refused(
            StatusCode::UNPROCESSABLE_ENTITY,
            Language::unsupported(name),
        )
    };
    let language = Language::from_name(name).ok_or_else(unsupported)?;
    let (most, limit) = (
        manager.options.max_message_bytes,
        manager.options.request_timeout,
    );
    let code = timeout(limit, code(body, most)).await.map_err(|_| {
        let reason = format!("The code did not come in whole within {limit:?}.");
        refused(StatusCode::REQUEST_TIMEOUT, reason)
    })??;
    let job = Job::new(language, code);
    let mut output = run_once(manager.into_inner(), job, ClientAddress::of(&request))?;
    output
        .started()
        .await
        .map_err(|reason| refused(StatusCode::INTERNAL_SERVER_ERROR, reason))?;
    Ok(HttpResponse::Ok()
        .content_type("text/plain; charset=utf-8")
        .streaming(stream::unfold(Some(output), |output| async {
            let mut output = output?;
            match output.next().await {
                Ok(None) => None,
                Ok(Some(piece)) => Some((Ok(piece), Some(output))),
                Err(why) => {
                    // On an error, actix drops the output that it has not written yet. Yield first,
                    // so that it can write.
                    tokio::task::yield_now().await;
                    Some((Err(io::Error::other(why)), None))
                }
            }
        })))
}

/// Reads the code from the body. Fails if the body is empty, larger than `most` bytes or not UTF-8.
async fn code(mut body: Payload, most: usize) -> actix_web::Result<String> {
    let mut code = Vec::new();
    while let Some(chunk) = body.next().await {
        let chunk = chunk.map_err(|error| {
            let reason = format!("The code could not be read: {error}");
            refused(StatusCode::BAD_REQUEST, reason)
        })?;
        if code.len() + chunk.len() > most {
            let reason = format!("The code is larger than {most} bytes.");
            return Err(refused(StatusCode::PAYLOAD_TOO_LARGE, reason));
        }
        code.extend_from_slice(&chunk);
    }
    if code.is_empty() {
        let reason = "The body is empty; it must be the code to run.";
        return Err(refused(StatusCode::UNPROCESSABLE_ENTITY, reason));
    }
    String::from_utf8(code)
        .map_err(|_| refused(StatusCode::BAD_REQUEST, "The code is not UTF-8 text."))
}

/// Starts code in a new sandbox. Dropping the [`Output`] kills the code. The sandbox is always
/// deleted.
fn run_once(
    manager: Arc<Manager>,
    job: Job,
    client: Option<ClientAddress>,
) -> actix_web::Result<Output> {
    let unavailable = |reason| refused(StatusCode::SERVICE_UNAVAILABLE, reason);
    let (id, token) = new_identity().map_err(|error| unavailable(error.to_string()))?;
    let place = manager
        .registry
        .reserve(&id, TokenHash::of(&token), client, None)
        .map_err(unavailable)?;
    let run_time = manager.options.max_run_time;
    let adapter = V1Adapter::new(Version::V1, run_time, 0);
    let exec = SharedExec::new(ServedExec::unnamed(WINDOW), Some(adapter));
    // The client can't send stdin, so stdin ends at once.
    exec.change(|exec| exec.handle_stdin(0, b"", true));
    let waker = Arc::<AtomicWaker>::default();
    exec.set_writer(waker.clone());
    let (taken, dropped) = oneshot::channel();
    let output = Output {
        exec: exec.clone(),
        waker,
        _taken: taken,
    };
    let outlet = Outlet {
        id: None,
        exec: exec.clone(),
        // No task reads the events, because `Output` also gets the end.
        events: mpsc::channel(1).0,
    };
    manager.clone().runtime.spawn(async move {
        // Move the whole reservation here. It holds the place until the sandbox is deleted.
        let mut place = place;
        let backend = match manager.create_empty(&id).await {
            Ok(backend) => backend,
            Err(reason) => return outlet.not_started(reason).await,
        };
        let limits = Limits::v1(run_time);
        let (drains, turns) = (Drains::default(), Turns::default());
        let mut control = Control::start(backend.clone(), job, limits, outlet, drains, &turns);
        let stopped =
            async { while !matches!(place.commands.recv().await, Some(Command::Stop) | None) {} };
        tokio::select! {
            () = control.ended() => {}
            _ = dropped => {}
            () = stopped => {}
        }
        exec.will_die(None);
        control.kill();
        control.ended().await;
        clean_up(&*backend).await;
    });
    Ok(output)
}

/// The output of the code.
struct Output {
    exec: Arc<SharedExec>,
    waker: Arc<AtomicWaker>,
    /// Dropping this tells the task to kill the code.
    _taken: oneshot::Sender<()>,
}

impl Output {
    async fn message(&self) -> ServerMessage {
        let next = poll_fn(|cx| {
            self.waker.register(cx.waker());
            self.exec.poll_message().map_or(Poll::Pending, Poll::Ready)
        });
        next.await
    }

    /// Waits until the code runs. Fails with the reason why it can't.
    async fn started(&mut self) -> Result<(), String> {
        loop {
            match self.message().await {
                ServerMessage::Error(error) => return Err(error.message),
                ServerMessage::Status(it) if it.status == Status::ExecutionRunning => return Ok(()),
                _ => {}
            }
        }
    }

    /// Returns the next piece of output, or `None` after the code has exited by itself. Any other
    /// end is an error, which aborts the response. Otherwise the response would look complete.
    async fn next(&mut self) -> Result<Option<Bytes>, &'static str> {
        loop {
            match self.message().await {
                ServerMessage::Output(piece) => {
                    let text = String::from_utf8_lossy(&piece.data).into_owned();
                    return Ok(Some(text.into()));
                }
                ServerMessage::Status(it) if it.status == Status::ExecutionDone => {
                    let end = self.exec.look(|exec| exec.end().map(|end| end.reason));
                    return match end {
                        Some(EndReason::Exited) => Ok(None),
                        Some(EndReason::TimedOut) => Err(TOO_LONG),
                        _ => Err("it was lost"),
                    };
                }
                ServerMessage::Status(it) if it.status == Status::ExecutionForceKilled => {
                    return Ok(Some(format!("\n[killed: {TOO_LONG}]\n").into()));
                }
                _ => {}
            }
        }
    }
}
