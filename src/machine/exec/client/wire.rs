//! [`Wire`]: the differences between the versions of the protocol, for an exec.

use std::time::Instant;

use super::ProcessAction;
use crate::{
    machine::{Finish, SandboxEnd},
    protocol::{ClientMessage, Encoded, ExecId, NamedMessage, Piece},
};

/// The version of the protocol under which an exec was started. It never changes.
#[derive(Debug)]
pub(super) enum Wire {
    /// Without an id, offsets and acknowledgements.
    V1 {
        /// When the process counts as killed even if no `DONE` arrives. Set by the first
        /// `FORCE_KILLED`.
        kill_due: Option<Instant>,
    },
    /// With an id, and offsets in each stream.
    V2(ExecId),
}

impl Wire {
    /// The id, if the exec has one.
    pub(super) fn exec(&self) -> Option<&ExecId> {
        match self {
            Self::V1 { .. } => None,
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
            Self::V1 { .. } if eof => Some("the end of input"),
            Self::V1 { .. } if std::str::from_utf8(data).is_err() => {
                Some("input that is not UTF-8")
            }
            _ => None,
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
        // Under v1, only UTF-8 was accepted, and no code point was split.
        let unnamed = || ClientMessage::stdin(String::from_utf8_lossy(data)).encode();
        named.unwrap_or_else(unnamed).into()
    }

    /// Whether the server acknowledges stdin. If not, bytes count as taken when the link has
    /// written them.
    pub(super) fn acks_stdin(&self) -> bool {
        matches!(self, Self::V2(_))
    }

    /// Whether statuses queue behind output on the wire, so that unread output delays them.
    pub(super) fn has_status_behind_output(&self) -> bool {
        matches!(self, Self::V1 { .. })
    }

    /// The server killed the process, whose end follows. Under v1, the process counts as ended at
    /// `due`, even without a `DONE`.
    pub(super) fn handle_force_killed(&mut self, due: Instant) {
        if let Self::V1 { kill_due } = self {
            kill_due.get_or_insert(due);
        }
    }

    /// When a killed process counts as ended without a report of the server (v1).
    pub(super) fn kill_due(&self) -> Option<Instant> {
        match self {
            Self::V1 { kill_due } => *kill_due,
            Self::V2(_) => None,
        }
    }

    /// Why the output ends if the sandbox ends before the exec.
    pub(super) fn finish(&self, end: SandboxEnd) -> Finish {
        match (self, end) {
            // A v1 server sends the output from before the kill, without its length.
            (Self::V1 { .. }, SandboxEnd::Killed) => Finish::Complete,
            (_, end) => Finish::SandboxLost(end),
        }
    }
}
