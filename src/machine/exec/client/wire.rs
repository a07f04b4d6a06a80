//! [`Wire`]: the differences between the versions of the protocol, for an exec.

use std::time::Instant;

use bytes::Bytes;

use super::ProcessAction;
use crate::{
    machine::{Finish, ProcessEnd, SandboxEnd, exec::v1::UnnamedExec},
    protocol::{ClientMessage, Encoded, ExecId, NamedMessage, Piece, StdStream},
};

/// The version of the protocol under which an exec was started. It never changes.
#[derive(Debug)]
pub(super) enum Wire {
    /// Without an id, offsets and acknowledgements.
    V1(UnnamedExec),
    /// With an id, and offsets in each stream.
    V2(ExecId),
}

impl Wire {
    /// The id, if the exec has one.
    pub(super) fn exec(&self) -> Option<&ExecId> {
        match self {
            Self::V1(_) => None,
            Self::V2(exec) => Some(exec),
        }
    }

    /// Encodes a message about a named exec. `None` under v1, which has no such messages.
    pub(super) fn encode(&self, message: NamedMessage<'_>) -> Option<String> {
        let exec = self.exec()?.clone();
        Some(ClientMessage::Named(exec, message).encode())
    }

    /// The request to kill the process.
    pub(super) fn kill(&self) -> ProcessAction {
        let kill = self.encode(NamedMessage::Kill);
        kill.map_or(ProcessAction::SendKill, ProcessAction::Send)
    }

    /// The feature that v1 lacks to send these bytes, or the end of stdin. `None` if nothing is
    /// missing.
    pub(super) fn unsupported_stdin(&self, data: &[u8], eof: bool) -> Option<&'static str> {
        match self {
            Self::V1(_) => UnnamedExec::unsupported_stdin(data, eof),
            Self::V2(_) => None,
        }
    }

    /// Encodes a message with stdin.
    pub(super) fn stdin(&self, offset: u64, data: &[u8], eof: bool, binary: bool) -> Encoded {
        if binary && let Some(exec) = self.exec() {
            let piece = Piece {
                stream: None,
                exec: exec.as_str(),
                offset,
                data,
                eof,
            };
            return piece.encode();
        }
        let named = self.encode(NamedMessage::Stdin {
            offset,
            data: data.into(),
            eof,
        });
        named.unwrap_or_else(|| UnnamedExec::stdin(data)).into()
    }

    /// Whether the server acknowledges stdin. If not, bytes count as taken when the link has
    /// written them.
    pub(super) fn acks_stdin(&self) -> bool {
        matches!(self, Self::V2(_))
    }

    /// Whether statuses queue behind output on the wire, so that unread output delays them.
    pub(super) fn has_status_behind_output(&self) -> bool {
        matches!(self, Self::V1(_))
    }

    /// Returns the part of a piece of output that readers may read now.
    pub(super) fn filter_output(&mut self, stream: StdStream, data: Bytes) -> Bytes {
        match self {
            Self::V1(unnamed) => unnamed.filter_output(stream, data),
            Self::V2(_) => data,
        }
    }

    /// Returns the output that the filter held back.
    pub(super) fn take_held_output(&mut self) -> Bytes {
        match self {
            Self::V1(unnamed) => unnamed.take_held_output(),
            Self::V2(_) => Bytes::new(),
        }
    }

    /// The server killed the process, whose end follows. Under v1, the process counts as ended at
    /// `due`, even without a `DONE`.
    pub(super) fn handle_force_killed(&mut self, due: Instant) {
        if let Self::V1(unnamed) = self {
            unnamed.handle_force_killed(due);
        }
    }

    /// When a killed process counts as ended without a report of the server (v1).
    pub(super) fn kill_due(&self) -> Option<Instant> {
        match self {
            Self::V1(unnamed) => unnamed.kill_due(),
            Self::V2(_) => None,
        }
    }

    /// How the process ended, if the server only reported that it ended.
    pub(super) fn end(&self) -> ProcessEnd {
        match self {
            Self::V1(unnamed) => unnamed.end(),
            Self::V2(_) => ProcessEnd::Unknown,
        }
    }

    /// Why the output ends if the sandbox ends before the exec.
    pub(super) fn finish(&self, end: SandboxEnd) -> Finish {
        match (self, end) {
            // A v1 server sends the output from before the kill, without its length.
            (Self::V1(_), SandboxEnd::Killed) => Finish::Complete,
            (_, end) => Finish::SandboxLost(end),
        }
    }
}
