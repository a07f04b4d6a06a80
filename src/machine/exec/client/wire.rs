//! [`Wire`]: what an exec says and hears in each version of the protocol.

use std::time::Instant;

use bytes::Bytes;

use super::ProcessAction;
use crate::{
    machine::{
        Finish, ProcessEnd, SandboxEnd,
        exec::{v1::UnnamedExec, v2::NamedExec},
    },
    protocol::{ExecId, StdStream},
};

/// The version of the protocol that an exec was started in. It has that version for life.
#[derive(Debug)]
pub(super) enum Wire {
    /// No offsets, no acknowledgements, text only.
    V1(UnnamedExec),
    /// Named, with offsets in each stream.
    V2(NamedExec),
}

impl Wire {
    /// The name, if it has one.
    pub(super) fn exec(&self) -> Option<&ExecId> {
        match self {
            Self::V1(_) => None,
            Self::V2(named) => Some(named.exec()),
        }
    }

    /// Whether the status of the exec comes behind its output on the wire, so that output that is not
    /// read delays it.
    pub(super) fn has_status_behind_output(&self) -> bool {
        matches!(self, Self::V1(_))
    }

    /// The message that asks for the exec on a new link. `None`: the server takes messages at once.
    pub(super) fn reconnect(&self, received: [u64; 2]) -> Option<String> {
        match self {
            Self::V1(_) => None,
            Self::V2(named) => Some(named.reconnect(received)),
        }
    }

    /// What of a piece of output is for readers now.
    pub(super) fn filter_output(&mut self, stream: StdStream, data: Bytes) -> Bytes {
        match self {
            Self::V1(unnamed) => unnamed.filter_output(stream, data),
            Self::V2(_) => data,
        }
    }

    /// The output that the filter held back.
    pub(super) fn take_held_output(&mut self) -> Bytes {
        match self {
            Self::V1(unnamed) => unnamed.take_held_output(),
            Self::V2(_) => Bytes::new(),
        }
    }

    /// The acknowledgement of output.
    pub(super) fn ack(&self, offsets: [u64; 2], done: bool) -> Option<String> {
        match self {
            Self::V1(_) => None,
            Self::V2(named) => Some(named.ack(offsets, done)),
        }
    }

    /// The feature that is missing to send such bytes, or the end of stdin.
    pub(super) fn unsupported_stdin(&self, data: &[u8], eof: bool) -> Option<&'static str> {
        match self {
            Self::V1(_) => UnnamedExec::unsupported_stdin(data, eof),
            Self::V2(_) => None,
        }
    }

    /// A message with stdin.
    pub(super) fn stdin(&self, offset: u64, data: &[u8], eof: bool) -> String {
        match self {
            Self::V1(_) => UnnamedExec::stdin(data),
            Self::V2(named) => named.stdin(offset, data, eof),
        }
    }

    /// Whether the server says what the process took of stdin. If not, it counts as taken when the link
    /// took it.
    pub(super) fn acks_stdin(&self) -> bool {
        matches!(self, Self::V2(_))
    }

    /// Our offset in stdin, for an offset that the server announced on a new link.
    pub(super) fn announced_stdin(&mut self, offset: u64) -> u64 {
        match self {
            Self::V1(_) => offset,
            Self::V2(named) => named.announced_stdin(offset),
        }
    }

    /// Our offset in stdin, for one of the server's.
    pub(super) fn stdin_offset(&self, offset: u64) -> u64 {
        match self {
            Self::V1(_) => offset,
            Self::V2(named) => named.stdin_offset(offset),
        }
    }

    /// The request to kill the process.
    pub(super) fn kill(&self) -> ProcessAction {
        match self {
            Self::V1(_) => ProcessAction::SendKill,
            Self::V2(named) => ProcessAction::Send(named.kill()),
        }
    }

    /// The server killed the process, and its end follows. If that need not come, the process ends at `due`.
    pub(super) fn handle_force_killed(&mut self, due: Instant) {
        if let Self::V1(unnamed) = self {
            unnamed.handle_force_killed(due);
        }
    }

    /// When the process ends although the server did not say so.
    pub(super) fn kill_due(&self) -> Option<Instant> {
        match self {
            Self::V1(unnamed) => unnamed.kill_due(),
            Self::V2(_) => None,
        }
    }

    /// How the process ended, of which the server said no more than that it did.
    pub(super) fn end(&self) -> ProcessEnd {
        match self {
            Self::V1(unnamed) => unnamed.end(),
            Self::V2(_) => ProcessEnd::Unknown,
        }
    }

    /// Why no more output comes, where the sandbox ended first.
    pub(super) fn finish(&self, end: SandboxEnd) -> Finish {
        match (self, end) {
            // A v1 server sends what was printed before a kill, and does not say how much that is.
            (Self::V1(_), SandboxEnd::Killed) => Finish::Complete,
            (_, end) => Finish::SandboxLost(end),
        }
    }
}
