//! The service's messages, and the start of the program.

use std::time::Instant;

use bytes::Bytes;
use serde_json::json;

use super::{MAX_STARTS, Phase, START_TIMEOUT, TAIL_BYTES, Tunnel, TunnelAction};
use crate::{
    lift::{
        incoming::{BadLine, Incoming},
        outgoing::{Line, Request},
        program::{LANGUAGE, LOADER, sources},
    },
    protocol::{
        ClientMessage, ServerMessage, Status, StatusUpdate, StdStream, Version, excerpt,
        names::NO_PROCESS,
    },
};

impl Tunnel {
    /// Handles a frame of the v1 link.
    pub(crate) fn handle_frame(&mut self, frame: &Bytes, now: Instant) {
        if let Some(output) = ServerMessage::read_output(frame, Version::V1) {
            return self.handle_output(output.stream, &output.data, now);
        }
        match ServerMessage::read(frame, Version::V1).map(|it| it.into_message()) {
            Ok(ServerMessage::Output(piece)) => self.handle_output(piece.stream, &piece.data, now),
            Ok(ServerMessage::Status(update)) => self.handle_status(update, frame, now),
            Ok(ServerMessage::Error(error)) if self.awaits_reason.is_some() => {
                if let Some(status) = self.awaits_reason.take() {
                    self.handle_refusal(&status, &error.message);
                }
            }
            _ => self.pass(frame),
        }
    }

    fn handle_status(&mut self, update: StatusUpdate, frame: &Bytes, now: Instant) {
        if let Some(status) = self.awaits_reason.take() {
            // Its reason never came.
            self.handle_refusal(&status, &status.to_string());
        }
        match update.status {
            Status::SandboxRunning if self.phase == Phase::Waiting => {
                self.holds_running = true;
                self.start(now);
            }
            Status::ExecutionRunning => self.handle_started(now),
            Status::ExecutionDone => self.handle_ended(now),
            Status::ExecutionForceKilled => {}
            Status::ExecutionError
            | Status::ExecutionUnsupportedLanguageError
            | Status::ExecutionForceKillError
            | Status::StdinError => match update.message {
                Some(reason) => self.handle_refusal(&update.status, &reason),
                None => self.awaits_reason = Some(update.status),
            },
            Status::SandboxError => self.handle_sandbox_error(update, frame, now),
            _ => self.pass(frame),
        }
    }

    fn handle_sandbox_error(&mut self, update: StatusUpdate, frame: &Bytes, now: Instant) {
        match &self.phase {
            Phase::Waiting | Phase::Down | Phase::Starting { refused: None, .. } => {
                self.pass(frame);
            }
            Phase::Starting { ended: true, .. } => self.start_again(now),
            // The service has no exec to resume, so the first refusal says why.
            Phase::Starting {
                refused: Some(reason),
                ..
            } => {
                let reason = reason.clone();
                self.start_failed(&reason);
            }
            // The service could not write to the stdin of the program, which has ended: `DONE`
            // follows. After other errors of this kind, the service closes the link.
            _ if update.message.is_none() => self.awaits_reason = Some(update.status),
            _ => {}
        }
    }

    fn handle_output(&mut self, stream: StdStream, data: &[u8], now: Instant) {
        let is_silent = matches!(
            self.phase,
            Phase::Waiting | Phase::Down | Phase::Starting { .. }
        );
        if stream == StdStream::Stderr || is_silent {
            return self.keep_tail(data);
        }
        if matches!(self.phase, Phase::Greeting { .. }) {
            self.keep_tail(data);
        }
        self.incoming.push(data);
        while let Some(line) = self.incoming.next_line() {
            match line {
                Ok(json) => self.handle_line(&json, now),
                Err(BadLine(detail)) => self.lose(detail),
            }
        }
    }

    fn keep_tail(&mut self, data: &[u8]) {
        let from = data.len().saturating_sub(TAIL_BYTES);
        self.tail.extend_from_slice(&data[from..]);
        let excess = self.tail.len().saturating_sub(TAIL_BYTES);
        self.tail.drain(..excess);
    }

    pub(super) fn start(&mut self, now: Instant) {
        self.starts += 1;
        self.tail.clear();
        self.phase = Phase::Starting {
            due: now + START_TIMEOUT,
            refused: None,
            ended: false,
        };
        self.send_v1(&ClientMessage::exec(LANGUAGE, LOADER));
    }

    /// The exec that the service refused to replace has ended.
    fn start_again(&mut self, now: Instant) {
        self.is_free = true;
        self.outgoing.restart(None);
        self.start(now);
    }

    /// The service refused the exec, its input or its kill.
    fn handle_refusal(&mut self, status: &Status, reason: &str) {
        if reason.contains(NO_PROCESS) || *status == Status::SandboxError {
            // This answers input for a program that had just ended.
            return;
        }
        let Phase::Starting { refused, .. } = &mut self.phase else {
            // Keep the reason: it may explain why the service ends the program.
            return self.keep_tail(reason.as_bytes());
        };
        match status {
            Status::ExecutionError if !self.is_free && refused.is_none() => {
                // The program may be running already.
                *refused = Some(reason.to_owned());
                self.send_v1(&ClientMessage::Reconnect);
            }
            Status::ExecutionError | Status::ExecutionUnsupportedLanguageError => {
                let reason = reason.to_owned();
                self.start_failed(&reason);
            }
            _ => {}
        }
    }

    /// The v1 exec runs.
    fn handle_started(&mut self, now: Instant) {
        let Phase::Starting {
            due,
            refused,
            ended,
        } = &self.phase
        else {
            return;
        };
        if *ended {
            // The answer to `reconnect`.
            return self.start_again(now);
        }
        let (due, refused) = (*due, refused.clone());
        self.is_free = false;
        let link = match self.greetings {
            0 => self.config.link.clone(),
            more => format!("{}x{more}", self.config.link),
        };
        self.greetings += 1;
        self.farewell = None;
        self.incoming = Incoming::new(&link);
        let before = match &refused {
            // The last line of the earlier link may be incomplete.
            Some(_) => "\n",
            None => sources(),
        };
        self.phase = Phase::Greeting { due, refused };
        self.send_v1(&ClientMessage::stdin(before));
        let mut hello = json!({ "lift": "hello", "link": link });
        if let Some(timeout) = self.config.idle_timeout {
            let millis = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
            hello["idle_timeout_ms"] = millis.into();
        }
        self.outgoing.push_front(Line::note(hello.to_string()));
        // The window holds the first line. The others wait for the answer.
        self.send_piece();
    }

    fn handle_ended(&mut self, now: Instant) {
        match &mut self.phase {
            Phase::Starting { refused: None, .. } | Phase::Waiting | Phase::Down => {}
            Phase::Starting {
                refused: Some(reason),
                ..
            } if self.starts >= MAX_STARTS => {
                let reason = reason.clone();
                self.start_failed(&reason);
            }
            // Wait for the answer to `reconnect`, so that it isn't mistaken for the answer to the
            // next start.
            Phase::Starting { ended, .. } => *ended = true,
            Phase::Greeting {
                refused: Some(_), ..
            } if self.starts < MAX_STARTS => {
                self.start_again(now);
            }
            Phase::Greeting { .. } => {
                self.is_free = true;
                let said = excerpt(self.tail.trim_ascii());
                let reason = match said.is_empty() {
                    true => "it exited immediately".to_owned(),
                    false => format!("it exited immediately: {said}"),
                };
                self.start_failed(&reason);
            }
            Phase::Up | Phase::Leaving | Phase::Killing { .. } | Phase::Quitting { .. } => {
                self.is_free = true;
                self.program_ended(now);
            }
        }
    }

    /// The program can't be started.
    pub(super) fn start_failed(&mut self, reason: &str) {
        self.phase = Phase::Down;
        let reason = format!("the lift cannot start its program in the sandbox: {reason}");
        if std::mem::take(&mut self.holds_running) {
            return self.actions.push_back(TunnelAction::Fail(reason));
        }
        for line in self.outgoing.restart(None) {
            self.answer_without_program(line);
        }
        for line in self.outgoing.drain() {
            let Some(exec) = line.exec.clone() else {
                continue;
            };
            match line.request {
                Request::Exec if self.earlier.execs.contains(&exec) => {
                    self.lose_exec(exec, &reason)
                }
                Request::Exec => self.refuse_exec(exec, &reason),
                Request::Reconnect => self.lose_exec(exec, &reason),
                Request::Kill | Request::Other => self.answer_without_program(line),
            }
        }
        self.send_waiting_checkpoint();
    }
}
