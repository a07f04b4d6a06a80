//! [`SandboxEvent`]: what happens to a sandbox, for whoever subscribes.

use std::time::Duration;

use super::{LinkError, ProcessEnd, ProcessId, SandboxEnd, SandboxState};
use crate::protocol::{SandboxId, Status};

/// Something happened to a sandbox.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum SandboxEvent {
    /// The server gave the sandbox its id.
    Created {
        /// The id.
        sandbox_id: SandboxId,
    },
    /// The state of the sandbox changed.
    State(SandboxState),
    /// The server reported a status.
    Status {
        /// The status.
        status: Status,
        /// The server's own reason, with an error status.
        reason: Option<String>,
    },
    /// An error text from the server that belongs to no status.
    Reason(String),
    /// The server sent an event that this version does not know.
    UnknownEvent {
        /// Its name, where it has one.
        event: Option<String>,
    },
    /// Output came that belongs to no process of this client.
    StrayOutput {
        /// How many bytes.
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
        /// Bytes of stdin that were accepted and never sent.
        stdin_unsent: usize,
    },
    /// The link is lost, or the server is too busy for the first one; another attempt follows.
    Reconnecting {
        /// The number of the attempt, from 1.
        attempt: u32,
        /// How long until it.
        delay: Duration,
        /// What happened.
        cause: LinkError,
    },
    /// The link is back and the sandbox runs.
    Reconnected,
    /// The link is lost for good.
    GaveUp {
        /// What happened last.
        cause: LinkError,
        /// Attempts that were made.
        attempts: u32,
    },
    /// The sandbox is over. The last event.
    Ended(SandboxEnd),
    /// The subscriber was too slow, and this many events before this one were not delivered.
    Lagged {
        /// How many.
        missed: u64,
    },
}
