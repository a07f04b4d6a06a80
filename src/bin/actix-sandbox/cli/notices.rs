//! Tells the user on stderr that the connection is lost, and that it is back.

use std::cell::Cell;

use actix_sandbox::{Sandbox, SandboxEvent};
use futures::StreamExt;
use tokio::task::spawn_blocking;

use crate::cli::shared::say_with_end;

/// Reports until the sandbox is over. Stays silent if the first attempt to reconnect succeeds, so
/// that short interruptions don't disturb a screen. `is_lost` is set from the report of a loss until
/// the connection is back. `end` ends each line: a terminal in raw mode needs a carriage return.
pub(crate) async fn report(sandbox: &Sandbox, is_lost: &Cell<bool>, end: &'static str) {
    // A paused reader of stderr must not hold up the command.
    let say = |message: String| {
        drop(spawn_blocking(move || say_with_end(message, end)));
    };
    let mut events = sandbox.events();
    while let Some(event) = events.next().await {
        match event {
            SandboxEvent::Reconnecting {
                attempt: 2, cause, ..
            } => {
                is_lost.set(true);
                say(format!(
                    "connection lost: {cause}; reconnecting; Ctrl-C ends the command"
                ));
            }
            SandboxEvent::Reconnected if is_lost.replace(false) => {
                say("connection restored".to_owned());
            }
            _ => {}
        }
    }
}
