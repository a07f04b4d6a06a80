//! [`SandboxEvent`]: what subscribers learn about a sandbox.

use std::time::Duration;

use super::{LinkError, ProcessEnd, ProcessId, SandboxEnd, SandboxState};
use crate::protocol::{SandboxId, Status};

/// An event of a sandbox, for subscribers.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum SandboxEvent {
    /// The server gave the sandbox its id.
    Created {
        /// The id of the sandbox.
        sandbox_id: SandboxId,
    },
    /// The state of the sandbox changed.
    State(SandboxState),
    /// The server reported a status.
    Status {
        /// The status.
        status: Status,
        /// The reason in the server's words, if the status is an error.
        reason: Option<String>,
    },
    /// An error message of the server that belongs to no status.
    Reason(String),
    /// The server sent an event that this version of the crate doesn't know.
    UnknownEvent {
        /// The name of the event, if it has one.
        event: Option<String>,
    },
    /// Output arrived that belongs to no process of this client. It was dropped.
    StrayOutput {
        /// The number of bytes.
        bytes: usize,
    },
    /// A process started.
    ProcessStarted(ProcessId),
    /// A process ended.
    ProcessEnded {
        /// The process.
        process: ProcessId,
        /// How.
        end: ProcessEnd,
        /// The number of bytes of stdin that were accepted but never sent.
        stdin_unsent: usize,
    },
    /// The link was lost, or the server was too busy for the first dial. The client will dial
    /// again.
    Reconnecting {
        /// The number of the attempt, from 1.
        attempt: u32,
        /// The delay before this attempt.
        delay: Duration,
        /// Why the link was lost, or why the last dial failed.
        cause: LinkError,
    },
    /// The link is back and the sandbox runs.
    Reconnected,
    /// The client does not dial again, so the loss of the link is final.
    GaveUp {
        /// Why the link was lost, or why the last dial failed.
        cause: LinkError,
        /// The number of attempts.
        attempts: u32,
    },
    /// The sandbox, or this client's session with it, has ended. This is the last event.
    Ended(SandboxEnd),
    /// The subscriber was too slow, so earlier events were dropped.
    Lagged {
        /// The number of dropped events.
        missed: u64,
    },
}
