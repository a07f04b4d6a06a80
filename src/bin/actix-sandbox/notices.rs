//! Tells the user on stderr that the connection is lost, and that it is back.

use actix_sandbox::{Sandbox, SandboxEvent};
use futures::StreamExt;

use crate::shared::say;

/// Reports until the sandbox is over. `line_end` comes before each line feed: a carriage return for
/// a terminal in raw mode.
pub(crate) async fn report(sandbox: &Sandbox, line_end: &str) {
    let mut events = sandbox.events();
    while let Some(event) = events.next().await {
        match event {
            SandboxEvent::Reconnecting {
                attempt: 1, cause, ..
            } => say(format_args!(
                "connection lost: {cause}; reconnecting{line_end}"
            )),
            SandboxEvent::Reconnected => say(format_args!("connection restored{line_end}")),
            _ => {}
        }
    }
}
