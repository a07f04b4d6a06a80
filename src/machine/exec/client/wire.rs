//! [`Wire`]: what an exec says and hears in each version of the protocol.

use std::time::Instant;

use bytes::Bytes;

use super::ProcessAction;
use crate::{
    machine::{Finish, ProcessEnd, SandboxEnd, exec::v1::UnnamedExec},
    protocol::{ClientMessage, ExecId, NamedMessage, StdStream},
};

/// The version of the protocol in which an exec was started. It keeps that version for life.
#[derive(Debug)]
pub(super) enum Wire {
    /// Without a name, offsets and acknowledgements.
    V1(UnnamedExec),
    /// With a name, and offsets in each stream.
    V2(ExecId),
}

impl Wire {
    /// The name, if it has one.
    pub(super) fn exec(&self) -> Option<&ExecId> {
        match self {
            Self::V1(_) => None,
            Self::V2(exec) => Some(exec),
        }
    }

    /// Encodes a message about a named exec. `None`: v1 has no such message.
    pub(super) fn encode(&self, message: NamedMessage<'_>) -> Option<String> {
        let exec = self.exec()?.clone();
        Some(ClientMessage::Named(exec, message).encode())
    }

    /// The request to kill the process.
    pub(super) fn kill(&self) -> ProcessAction {
        let kill = self.encode(NamedMessage::Kill);
        kill.map_or(ProcessAction::SendKill, ProcessAction::Send)
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
        let named = self.encode(NamedMessage::Stdin {
            offset,
            data: data.into(),
            eof,
        });
        named.unwrap_or_else(|| UnnamedExec::stdin(data))
    }

    /// Whether the server tells what the process took of stdin. If not, bytes count as taken when
    /// the link took them.
    pub(super) fn acks_stdin(&self) -> bool {
        matches!(self, Self::V2(_))
    }

    /// Whether a status stands behind the output on the wire, so that output that is not read
    /// delays it.
    pub(super) fn has_status_behind_output(&self) -> bool {
        matches!(self, Self::V1(_))
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

    /// The server killed the process, whose end follows. In v1 the process ends at `due` at the
    /// latest.
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

    /// How the process ended, where the server said no more than that it did.
    pub(super) fn end(&self) -> ProcessEnd {
        match self {
            Self::V1(unnamed) => unnamed.end(),
            Self::V2(_) => ProcessEnd::Unknown,
        }
    }

    /// Why no more output comes, where the sandbox ended before the exec.
    pub(super) fn finish(&self, end: SandboxEnd) -> Finish {
        match (self, end) {
            // A v1 server sends what was printed before the kill, and does not say how much that
            // is.
            (Self::V1(_), SandboxEnd::Killed) => Finish::Complete,
            (_, end) => Finish::SandboxLost(end),
        }
    }
}
