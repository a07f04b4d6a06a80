//! [`NamedExec`]: the messages about an exec with a name (protocol v2).

use crate::protocol::{ClientMessage, ExecId, NamedMessage};

/// The client's side of a named exec, as it is on the wire.
#[derive(Debug)]
pub(super) struct NamedExec {
    /// The name.
    exec: ExecId,
    /// Bytes of stdin that an earlier client sent: offsets on the wire begin there. Set when the server
    /// first announces the exec.
    stdin_base: Option<u64>,
}

impl NamedExec {
    pub(super) fn new(exec: ExecId) -> Self {
        Self {
            exec,
            stdin_base: None,
        }
    }

    pub(super) fn exec(&self) -> &ExecId {
        &self.exec
    }

    fn encode(&self, message: NamedMessage<'_>) -> String {
        ClientMessage::Named(self.exec.clone(), message).encode()
    }

    pub(super) fn reconnect(&self, offsets: [u64; 2]) -> String {
        self.encode(NamedMessage::Reconnect { offsets })
    }

    pub(super) fn ack(&self, offsets: [u64; 2], done: bool) -> String {
        self.encode(NamedMessage::Ack { offsets, done })
    }

    pub(super) fn kill(&self) -> String {
        self.encode(NamedMessage::Kill)
    }

    pub(super) fn stdin(&self, offset: u64, data: &[u8], eof: bool) -> String {
        self.encode(NamedMessage::Stdin {
            offset: self.stdin_base.unwrap_or(0).saturating_add(offset),
            data: data.into(),
            eof,
        })
    }

    /// The server has received stdin up to this offset. When it says that for the first time, all of it is
    /// from an earlier client.
    pub(super) fn announced_stdin(&mut self, offset: u64) -> u64 {
        offset.saturating_sub(*self.stdin_base.get_or_insert(offset))
    }

    /// An offset of the server's, without the bytes of an earlier client.
    pub(super) fn stdin_offset(&self, offset: u64) -> u64 {
        offset.saturating_sub(self.stdin_base.unwrap_or(0))
    }
}
