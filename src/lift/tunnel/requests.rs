//! The client's messages: about execs to the program, others to the service.

use std::time::Instant;

use super::{ENDED, MAX_LINES, MAX_MESSAGE_BYTES, Phase, QUIT_TIMEOUT, Tunnel, TunnelAction};
use crate::{
    lift::outgoing::{Line, Request},
    protocol::{
        ClientMessage, Encoded, ExecId, ExecUpdate, NamedMessage, Piece, ServerMessage, Status,
        Version,
    },
};

impl Tunnel {
    /// Handles a frame of the client. Its tag is reported when the frame is written.
    pub(crate) fn handle_request(&mut self, frame: Encoded, tag: Option<u64>, now: Instant) {
        let bytes = match &frame {
            Encoded::Text(text) => text.as_bytes(),
            Encoded::Binary(bytes) => bytes,
        };
        match ClientMessage::parse_as(bytes, Version::V2) {
            Ok(ClientMessage::Named(exec, message)) => {
                let request = self.note_request(&exec, &message, now);
                let base64 = in_base64(&exec, &message, &frame);
                drop(message);
                let text = base64.unwrap_or_else(|| frame.into_text());
                if request == Request::Exec && self.gone.contains(&exec) {
                    let reason = format!(
                        "{ENDED} since it was first asked to run this, so it is unknown whether \
                         it did"
                    );
                    self.lose_exec(exec, &reason);
                } else if request == Request::Exec && text.len() > MAX_MESSAGE_BYTES {
                    let reason = format!(
                        "the request has {} bytes, and the lift accepts at most \
                         {MAX_MESSAGE_BYTES}; pass large data through stdin or files",
                        text.len()
                    );
                    self.refuse_exec(exec, &reason);
                } else {
                    self.push_line(Line::new(exec, request, text, tag), now);
                }
            }
            Ok(ClientMessage::Checkpoint) => self.handle_checkpoint(now),
            // The tunnel itself resumes the v1 exec.
            Ok(ClientMessage::Reconnect) => {}
            Ok(ClientMessage::KillSandbox) => self.handle_kill_sandbox(frame, tag, now),
            _ => self.actions.push_back(TunnelAction::Send(frame, tag)),
        }
    }

    /// Notes which execs the client needs.
    fn note_request(&mut self, exec: &ExecId, message: &NamedMessage<'_>, now: Instant) -> Request {
        match message {
            // The program tells what is wrong with a malformed request.
            NamedMessage::Exec(..)
            | NamedMessage::Malformed(_)
            | NamedMessage::Reconnect { .. } => {
                if self.execs.is_empty() {
                    self.pinged_at = now;
                }
                self.execs.entry(exec.clone()).or_insert(false);
                match message {
                    NamedMessage::Reconnect { .. } => Request::Reconnect,
                    _ => Request::Exec,
                }
            }
            NamedMessage::Ack { done: true, .. } => {
                self.execs.remove(exec);
                self.earlier.execs.remove(exec);
                Request::Other
            }
            NamedMessage::Kill => Request::Kill,
            _ => Request::Other,
        }
    }

    fn push_line(&mut self, line: Line, now: Instant) {
        let starts = matches!(line.request, Request::Exec | Request::Reconnect);
        if self.phase == Phase::Down && !starts {
            return self.answer_without_program(line);
        }
        self.outgoing.push(line);
        if self.outgoing.len() > MAX_LINES {
            self.lose(format!(
                "the sandbox stopped reading; {MAX_LINES} messages wait"
            ));
        }
        match self.phase {
            Phase::Down => {
                self.starts = 0;
                self.start(now);
            }
            Phase::Up | Phase::Leaving => self.flush(),
            _ => {}
        }
    }

    /// Answers a message about an exec that ended with its program.
    pub(super) fn answer_without_program(&mut self, line: Line) {
        if let (Request::Kill, Some(exec)) = (line.request, line.exec) {
            let killed = Status::ExecutionForceKilled;
            self.deliver(&ServerMessage::exec_status(
                killed,
                ExecUpdate::new(exec),
                None,
            ));
        }
    }

    pub(super) fn handle_checkpoint(&mut self, now: Instant) {
        match self.phase {
            Phase::Up => {
                self.phase = Phase::Leaving;
                self.pinged_at = now;
                self.send_note(r#"{"lift":"stop"}"#.to_owned());
            }
            Phase::Down | Phase::Waiting => self.send_v1(&ClientMessage::Checkpoint),
            _ => self.wants_checkpoint = true,
        }
    }

    /// Sends the checkpoint that waited for the program to exit.
    pub(super) fn send_waiting_checkpoint(&mut self) {
        if std::mem::take(&mut self.wants_checkpoint) {
            self.send_v1(&ClientMessage::Checkpoint);
        }
    }

    /// The reference service can end only the first exec of a sandbox. When it kills the sandbox,
    /// it waits for a later one. So the program ends first.
    fn handle_kill_sandbox(&mut self, frame: Encoded, tag: Option<u64>, now: Instant) {
        self.kill = Some((frame, tag));
        match self.phase {
            Phase::Up | Phase::Leaving => {
                self.send_note(r#"{"lift":"quit"}"#.to_owned());
                self.phase = Phase::Quitting {
                    due: now + QUIT_TIMEOUT,
                };
            }
            Phase::Quitting { .. } => {}
            _ => self.send_kill(),
        }
    }

    pub(super) fn send_kill(&mut self) {
        if self.phase != Phase::Waiting {
            self.phase = Phase::Down;
        }
        if let Some((frame, tag)) = self.kill.take() {
            self.actions.push_back(TunnelAction::Send(frame, tag));
        }
    }
}

/// Input as base64, if it came in a binary frame or has many escapes. In v1's message, each escape
/// of the line is escaped once more.
fn in_base64(exec: &ExecId, message: &NamedMessage<'_>, frame: &Encoded) -> Option<String> {
    let NamedMessage::Stdin { offset, data, eof } = message else {
        return None;
    };
    let escapes = data.iter().filter(|byte| byte.is_ascii_control()).count();
    if matches!(frame, Encoded::Text(_)) && escapes <= data.len() / 8 {
        return None;
    }
    let piece = Piece {
        stream: None,
        exec: exec.as_str(),
        offset: *offset,
        data,
        eof: *eof,
    };
    Some(piece.to_base64_text())
}
