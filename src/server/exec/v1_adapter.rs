//! [`V1Adapter`]: turns a [`ServedExec`] into the unnamed exec of protocol v1. No IO.
//!
//! Under v1, clients send no acknowledgements. So the adapter acknowledges output as soon as the
//! writer of the session takes it. Deployed clients wait for the end after the answer to a kill. So
//! the adapter sends the answers between the output and the end.

use std::{collections::VecDeque, time::Duration};

use crate::{
    machine::ServedExec,
    protocol::{EndReason, ExecEnd, OutputPiece, ServerMessage, Status, Version},
};

/// The reason for refusing input after the process has closed its stdin.
pub(super) const STDIN_CLOSED: &str =
    "The input was not accepted: the process has closed its standard input.";

/// The state that v1 needs in addition to [`ServedExec`].
#[derive(Debug)]
pub(crate) struct V1Adapter {
    /// The version of the link to the client. Selects the form of error messages.
    pub(super) version: Version,
    /// The time limit of the exec, for the error text.
    pub(super) run_time: Duration,
    /// The maximum number of bytes of stdin that wait for the process.
    pub(super) stdin_limit: u64,
    /// The number of kills that are not answered. Cleared when the link is lost.
    pub(super) kills: usize,
    /// Why a kill failed, if one did. Then all kills get this answer.
    pub(super) kill_failed: Option<String>,
    /// Whether the client is not told how the exec ends. Cleared by `reconnect`.
    pub(super) silent: bool,
    /// Answers to kills and messages about the end that are still to be sent, in order.
    last_words: VecDeque<ServerMessage>,
    /// Whether the reason of the end was sent. Later links get only `DONE`.
    explained: bool,
}

impl V1Adapter {
    /// The maximum number of kills that wait for an answer. The others get none.
    pub(super) const MAX_KILLS: usize = 64;

    /// Creates the adapter of an exec. `version` is that of the link to its client.
    pub(crate) fn new(version: Version, run_time: Duration, stdin_limit: usize) -> Self {
        Self {
            version,
            run_time,
            stdin_limit: stdin_limit as u64,
            kills: 0,
            kill_failed: None,
            silent: false,
            last_words: VecDeque::new(),
            explained: false,
        }
    }

    /// Returns the next message to the client. `None` if there is none now.
    pub(super) fn poll_message(&mut self, exec: &mut ServedExec) -> Option<ServerMessage> {
        loop {
            if let Some(message) = self.last_words.pop_front() {
                return Some(message);
            }
            let Some(message) = exec.poll_message() else {
                // A client that hasn't sent `reconnect` on this link gets only the answers to its
                // kills.
                if exec.is_done() && !exec.is_attached() {
                    self.answer_kills();
                }
                return self.last_words.pop_front();
            };
            match message {
                ServerMessage::Output(piece) => return Some(take(exec, piece)),
                ServerMessage::Status(update) => match update.status {
                    Status::ExecutionRunning => return Some(ServerMessage::status(update.status)),
                    Status::ExecutionDone => {
                        exec.handle_ack([0; 2], true);
                        self.end(exec.end(), update.message);
                    }
                    _ => {}
                },
                // v1 has no other messages.
                _ => {}
            }
        }
    }

    /// Whether the messages about the end are sent in part.
    pub(super) fn has_last_words(&self) -> bool {
        !self.last_words.is_empty()
    }

    fn end(&mut self, end: Option<&ExecEnd>, message: Option<String>) {
        if self.silent {
            self.kills = 0;
            return;
        }
        let words = &mut self.last_words;
        let reason = end.map(|end| end.reason);
        match std::mem::replace(&mut self.explained, true) {
            false if reason == Some(EndReason::TimedOut) => {
                let why = format!(
                    "The execution was killed: it ran longer than the {} seconds that this server allows.",
                    self.run_time.as_secs_f64()
                );
                words.extend(refusal(self.version, Status::ExecutionError, why));
                words.push_back(ServerMessage::status(Status::ExecutionForceKilled));
            }
            false if reason == Some(EndReason::SandboxLost) => {
                let why = message.unwrap_or_default();
                words.extend(refusal(self.version, Status::ExecutionError, why));
            }
            _ => {}
        }
        // Deployed clients treat a kill as confirmed only when the end follows the answer, so the
        // answers come first.
        self.answer_kills();
        let done = ServerMessage::status(Status::ExecutionDone);
        self.last_words.push_back(done);
    }

    fn answer_kills(&mut self) {
        for _ in 0..std::mem::take(&mut self.kills) {
            match self.kill_failed.clone() {
                None => {
                    let killed = ServerMessage::status(Status::ExecutionForceKilled);
                    self.last_words.push_back(killed);
                }
                Some(why) => {
                    let failed = Status::ExecutionForceKillError;
                    self.last_words.extend(refusal(self.version, failed, why));
                }
            }
        }
    }

    /// Attaches the client of a new link, which sent `reconnect`.
    pub(super) fn attach(&mut self, exec: &mut ServedExec, version: Version) {
        self.version = version;
        self.silent = false;
        self.explained &= self.last_words.is_empty();
        self.last_words.clear();
        if exec.is_done() {
            // Make the exec answer `RUNNING`, even if the code could not be started, because the
            // client waits for this answer.
            exec.handle_started();
        }
        exec.attach(None);
    }

    /// Passes input to the exec. The error is the reason why the input is refused. If no input
    /// waits, a message of any size is accepted.
    pub(super) fn push_stdin(&mut self, exec: &mut ServedExec, data: &[u8]) -> Result<(), String> {
        if exec.is_stdin_over() {
            return Err(STDIN_CLOSED.to_owned());
        }
        let (received, waiting) = (exec.stdin_received(), exec.stdin_waiting());
        let limit = self.stdin_limit;
        if waiting > 0 && waiting.saturating_add(data.len() as u64) > limit {
            return Err(format!(
                "The input was not accepted: the process has not read the {waiting} bytes \
                 before it, and at most {limit} may wait."
            ));
        }
        exec.handle_stdin(received, data, false);
        Ok(())
    }
}

/// Acknowledges a piece of output and returns its message.
fn take(exec: &mut ServedExec, piece: OutputPiece) -> ServerMessage {
    let offset = piece.place.map_or(0, |place| place.offset);
    let mut taken = [0; 2];
    taken[piece.stream as usize] = offset + piece.data.len() as u64;
    exec.handle_ack(taken, false);
    ServerMessage::output(piece.stream, piece.data)
}

/// Returns an error status and the message with its reason. Under v2, the status contains the
/// reason, too.
pub(crate) fn refusal(version: Version, status: Status, reason: String) -> [ServerMessage; 2] {
    let status = match version.is_v2() {
        false => ServerMessage::status(status),
        true => ServerMessage::status_because(status, reason.clone()),
    };
    [status, ServerMessage::error(reason)]
}
