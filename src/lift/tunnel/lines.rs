//! The program's lines, and its end.

use std::time::Instant;

use bytes::Bytes;
use serde::Deserialize;

use super::{ENDED, Phase, Tunnel, TunnelAction};
use crate::{
    lift::program::VERSION,
    protocol::{
        Encoded, ExecId, OutputPiece, Piece, ServerMessage, Status, StatusUpdate, StdStream,
        Version, excerpt,
    },
};

/// A line of the program about itself.
#[derive(Debug, Deserialize)]
struct Note {
    lift: String,
    version: Option<u64>,
    /// A random name of the program.
    program: Option<String>,
    features: Option<Vec<String>>,
    bytes: Option<u64>,
    execs: Option<u64>,
    reason: Option<String>,
}

impl Tunnel {
    pub(super) fn handle_line(&mut self, json: &Bytes, now: Instant) {
        self.unanswered = None;
        if json.starts_with(br#"{"lift":"#) {
            return match serde_json::from_slice(json) {
                Ok(note) => self.handle_note(note, now),
                Err(error) => self.lose(format!("a line is not valid JSON: {error}")),
            };
        }
        if !self.is_up() {
            return;
        }
        if let Some(output) = ServerMessage::read_output(json, Version::V2)
            && let Some(place) = output.place
        {
            return self.deliver_output(output.stream, place, &output.data, output.eof);
        }
        // Accepts only messages about execs. Only the service may report the state of the sandbox.
        match ServerMessage::read(json, Version::V2).map(|it| it.into_message()) {
            Ok(ServerMessage::Output(OutputPiece {
                stream,
                data,
                place: Some(place),
                eof,
            })) => self.deliver_output(stream, (place.exec.as_str(), place.offset), &data, eof),
            Ok(ServerMessage::StdinAck { .. }) => self.pass(json),
            Ok(ServerMessage::Status(StatusUpdate {
                status,
                exec: Some(exec),
                ..
            })) => {
                if self.note_status(&status, &exec.exec) {
                    self.pass(json);
                }
            }
            _ => self.lose(format!("a line is not a valid message: {}", excerpt(json))),
        }
    }

    /// Notes what a status says about an exec. Returns whether to pass it on: statuses about the
    /// sandbox are not accepted from the program.
    fn note_status(&mut self, status: &Status, exec: &ExecId) -> bool {
        match status {
            Status::ExecutionRunning | Status::ExecutionExited | Status::ExecutionDone => {
                if let Some(answered) = self.execs.get_mut(exec) {
                    *answered = true;
                }
                true
            }
            Status::ExecutionError | Status::ExecutionUnsupportedLanguageError => {
                // A running exec can't be refused any more.
                let is_refused = self.execs.get(exec) == Some(&false);
                if is_refused {
                    self.execs.remove(exec);
                    self.earlier.execs.remove(exec);
                }
                is_refused
            }
            Status::ExecutionForceKilled | Status::ExecutionForceKillError | Status::StdinError => {
                true
            }
            _ => {
                self.lose(format!(
                    "the program reported {status}, which only the service may report"
                ));
                false
            }
        }
    }

    fn deliver_output(
        &mut self,
        stream: StdStream,
        (exec, offset): (&str, u64),
        data: &[u8],
        eof: bool,
    ) {
        let piece = Piece {
            stream: Some(stream),
            exec,
            offset,
            data,
            eof,
        };
        let frame = match piece.encode() {
            Encoded::Text(text) => text.into(),
            Encoded::Binary(bytes) => bytes,
        };
        self.actions.push_back(TunnelAction::Deliver(frame));
    }

    fn handle_note(&mut self, note: Note, now: Instant) {
        match note.lift.as_str() {
            "hello" => self.handle_hello(note, now),
            "taken" => {
                self.outgoing.handle_taken(note.bytes.unwrap_or(0));
                if self.is_up() {
                    self.flush();
                }
            }
            "bye" => self.farewell = Some(note.bytes.unwrap_or(0)),
            "busy" if self.phase == Phase::Leaving => {
                self.phase = Phase::Up;
                self.wants_checkpoint = false;
                let execs = note.execs.unwrap_or(1);
                let reason = format!(
                    "Cannot checkpoint while executions are in progress ({execs}): wait for them, \
                     or kill them."
                );
                self.deliver(&ServerMessage::status_because(
                    Status::ExecutionInProgressError,
                    reason,
                ));
            }
            "broken" => {
                let reason = note.reason.unwrap_or_default();
                let reason = excerpt(reason.as_bytes());
                self.lose(format!("the program rejected a line: {reason}"));
            }
            _ => {}
        }
    }

    fn handle_hello(&mut self, note: Note, now: Instant) {
        if !matches!(self.phase, Phase::Greeting { .. }) {
            return;
        }
        if note.version != Some(VERSION) {
            let version = note.version.unwrap_or(0);
            let reason = format!(
                "another client started version {version} of it, and this client needs version \
                 {VERSION}; use the same release of this crate, or try again when the sandbox has \
                 been idle for its idle timeout"
            );
            return self.start_failed(&reason);
        }
        if note.program.is_none() || note.program != self.earlier.program {
            self.gone.append(&mut self.earlier.execs);
            self.earlier.program = note.program;
        }
        self.phase = Phase::Up;
        self.pinged_at = now;
        self.starts = 0;
        self.tail.clear();
        if std::mem::take(&mut self.holds_running) {
            self.deliver(&ServerMessage::Status(StatusUpdate {
                status: Status::SandboxRunning,
                message: None,
                features: note.features,
                exec: None,
            }));
        }
        self.flush();
        if std::mem::take(&mut self.wants_checkpoint) {
            self.handle_checkpoint(now);
        }
    }

    /// The program ended, so its execs are lost. Requests that it has not read start it again.
    pub(super) fn program_ended(&mut self, now: Instant) {
        let reason = match (&self.phase, self.tail.trim_ascii()) {
            (Phase::Killing { .. }, _) => {
                let patience = self.patience();
                format!("{ENDED}: it did not answer for {patience:?}, so it was killed")
            }
            (Phase::Leaving, _) => format!("{ENDED}, because the sandbox was checkpointed"),
            (_, []) => format!("{ENDED}: it was killed, or the sandbox was idle"),
            (_, said) => format!("{ENDED}: {}", excerpt(said)),
        };
        self.wants_checkpoint |= self.phase == Phase::Leaving;
        self.phase = Phase::Down;
        let farewell = self.farewell.take();
        self.gone.append(&mut self.earlier.execs);
        self.outgoing.abandon(&self.gone);
        let dropped = self.outgoing.restart(farewell);
        let begins = self.outgoing.begins();
        for exec in std::mem::take(&mut self.execs).into_keys() {
            match begins.contains(&exec) {
                true => _ = self.execs.insert(exec, false),
                false => self.lose_exec(exec, &reason),
            }
        }
        for line in dropped {
            self.answer_without_program(line);
        }
        if self.kill.is_some() {
            self.outgoing.drain();
            return self.send_kill();
        }
        if self.wants_checkpoint && !begins.is_empty() {
            // An exec would be refused during the checkpoint, or would prevent it.
            return self.start_failed("the sandbox is being checkpointed");
        }
        self.send_waiting_checkpoint();
        if !begins.is_empty() {
            self.starts = 0;
            self.start(now);
        }
    }
}
