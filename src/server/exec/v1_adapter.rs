//! [`V1Adapter`]: makes the exec without a name (protocol v1) of a [`ServedExec`]. No IO.
//!
//! Under v1 a client acknowledges nothing and names no exec. So output counts as acknowledged once
//! the writer of the session takes it, and the answers to kills come between the output and the
//! end.

use std::{collections::VecDeque, time::Duration};

use crate::{
    machine::ServedExec,
    protocol::{EndReason, ExecEnd, OutputPiece, ServerMessage, Status, Version},
};

/// Why input is refused that the process can't read.
pub(super) const STDIN_CLOSED: &str =
    "The input was not accepted: the process has closed its standard input.";

/// What v1 needs beside the state machine of v2.
#[derive(Debug)]
pub(crate) struct V1Adapter {
    /// The version of the link to the client. It decides the form of an error.
    pub(super) version: Version,
    /// The time limit, for the text of the error.
    pub(super) run_time: Duration,
    /// Maximum size of the input that the process has not read, in bytes.
    pub(super) stdin_limit: u64,
    /// Kills that are not answered. Cleared when the link is lost.
    pub(super) kills: usize,
    /// Why the kills failed.
    pub(super) kill_failed: Option<String>,
    /// The rest of the messages about the end.
    last_words: VecDeque<ServerMessage>,
    /// The reasons of the end were sent. Only its status is repeated.
    explained: bool,
}

impl V1Adapter {
    /// An exec for a client whose link has this version.
    pub(crate) fn new(version: Version, run_time: Duration, stdin_limit: usize) -> Self {
        Self {
            version,
            run_time,
            stdin_limit: stdin_limit as u64,
            kills: 0,
            kill_failed: None,
            last_words: VecDeque::new(),
            explained: false,
        }
    }

    /// The next message to the client.
    pub(super) fn poll_message(&mut self, exec: &mut ServedExec) -> Option<ServerMessage> {
        loop {
            if let Some(message) = self.last_words.pop_front() {
                return Some(message);
            }
            let Some(message) = exec.poll_message() else {
                // Without `reconnect`, a client gets only the answers to its kills.
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

    fn end(&mut self, end: Option<&ExecEnd>, message: Option<String>) {
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
        // Deployed clients take a kill as confirmed by the end that follows its answer.
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

    /// A client takes over the exec.
    pub(super) fn attach(&mut self, exec: &mut ServedExec, version: Version) {
        self.version = version;
        self.explained &= self.last_words.is_empty();
        self.last_words.clear();
        if exec.is_done() {
            // The client waits for this answer, even if the code could not be started.
            exec.handle_started();
        }
        exec.attach(None);
    }

    /// Takes input, or returns the reason why not. An empty queue takes a message of any size.
    pub(super) fn push_stdin(&mut self, exec: &mut ServedExec, data: &[u8]) -> Result<(), String> {
        if exec.is_stdin_over() {
            return Err(STDIN_CLOSED.to_owned());
        }
        let (received, waiting) = (exec.stdin_received(), exec.stdin_waiting());
        let limit = self.stdin_limit;
        if waiting > 0 && waiting.saturating_add(data.len() as u64) > limit {
            return Err(format!(
                "The input was not accepted: the process has not read the {waiting} bytes before it, and at most {limit} may wait."
            ));
        }
        exec.handle_stdin(received, data, false);
        Ok(())
    }
}

/// The message of a piece of output, which counts as acknowledged.
fn take(exec: &mut ServedExec, piece: OutputPiece) -> ServerMessage {
    let offset = piece.place.map_or(0, |place| place.offset);
    let mut taken = [0; 2];
    taken[piece.stream as usize] = offset + piece.data.len() as u64;
    exec.handle_ack(taken, false);
    ServerMessage::output(piece.stream, piece.data)
}

/// An error status and its reason. Under v2 the status carries the reason as well.
pub(crate) fn refusal(version: Version, status: Status, reason: String) -> [ServerMessage; 2] {
    let status = match version {
        Version::V1 => ServerMessage::status(status),
        Version::V2 => ServerMessage::status_because(status, reason.clone()),
    };
    [status, ServerMessage::error(reason)]
}
