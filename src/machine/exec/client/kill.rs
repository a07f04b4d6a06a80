//! Kills of a [`Process`], and the callers that wait for them.

use std::time::Instant;

use super::{Answer, Process, ProcessReply};
use crate::machine::{Effect, Failure, RequestId, SandboxEnd, later};

/// The kills that were requested.
#[derive(Debug, Default)]
pub(super) struct Kills {
    /// Callers that wait for an answer, each with its timeout.
    pub(super) waiting: Vec<(RequestId, Instant)>,
    /// Whether a kill was requested, or another client killed the process. Cleared when the server
    /// refuses the kill.
    pub(super) wanted: bool,
    /// Whether a kill was sent, on this link or an earlier one. Never cleared.
    sent: bool,
    /// Whether the server has not answered a caller's kill, even if the caller stopped waiting.
    pub(super) unanswered: bool,
    /// Whether the server has confirmed a kill. Never cleared.
    confirmed: bool,
    /// The answer to all later kills. Set when no kill can have an effect any more.
    answer: Option<Answer>,
}

impl Kills {
    /// The effect of a kill that the server did not confirm.
    fn effect(&self) -> Effect {
        match self.sent {
            true => Effect::Unknown,
            false => Effect::NotApplied,
        }
    }
}

impl Process {
    /// Kills the process. Answers when the server confirms the kill. Any number of callers may ask.
    /// The table shows when a kill is sent, and what else happens:
    ///
    /// | the process | request of a caller | no request (`None`) |
    /// | --- | --- | --- |
    /// | runs | sent, unless another caller waits for a kill | sent, unless a kill was requested |
    /// | has ended, but others hold its output | sent to kill those, unless another caller waits for a kill | not sent |
    /// | has ended with its output | not sent; the kept answer is given | not sent |
    pub fn kill(&mut self, request: Option<RequestId>, now: Instant) {
        let kills = &self.kills;
        // After a kill that timed out, no caller waits, so the next kill is sent.
        let is_first = kills.waiting.is_empty();
        let send = match (&kills.answer, &self.end, request) {
            (Some(answer), _, Some(request)) => return self.settle(request, answer.clone()),
            (Some(_), _, None) | (None, Some(_), None) => return,
            (None, Some(_), Some(_)) => !kills.unanswered || is_first,
            (None, None, Some(_)) => !kills.wanted || is_first,
            (None, None, None) => !kills.wanted,
        };
        if let Some(request) = request {
            let due = later(now, self.config.kill_timeout);
            self.kills.waiting.push((request, due));
        }
        if send {
            self.kills.wanted = true;
            self.kills.unanswered |= request.is_some();
            self.send_kill();
        }
    }

    /// Whether a kill was requested.
    pub fn is_kill_wanted(&self) -> bool {
        self.kills.wanted
    }

    /// Sends the kill again, because it may have been lost with an earlier link.
    pub(super) fn resend_kill(&mut self) {
        let is_due = match self.end {
            None => self.kills.wanted,
            Some(_) => self.kills.unanswered,
        };
        if is_due {
            self.send_kill();
        }
    }

    fn send_kill(&mut self) {
        if self.link_up {
            self.kills.sent = true;
            self.actions.push_back(self.wire.kill());
        }
    }

    pub(super) fn handle_force_killed(&mut self, now: Instant) {
        self.kills.confirmed = true;
        self.kills.unanswered = false;
        match self.end {
            // Callers get their answer at the end of the process, which follows.
            None => {
                self.kills.wanted = true;
                let due = later(now, self.config.kill_grace);
                self.wire.handle_force_killed(due);
            }
            Some(_) => self.settle_kills(&Ok(ProcessReply::Done)),
        }
    }

    pub(super) fn handle_kill_refused(&mut self, failure: Failure) {
        // If a kill was confirmed, the server refused this one only because the process is gone.
        if self.end.is_some() || !self.kills.confirmed {
            self.kills.wanted = false;
            self.settle_kills(&Err(failure));
        }
    }

    /// Answers all waiting kills.
    pub(super) fn settle_kills(&mut self, answer: &Answer) {
        self.kills.unanswered = false;
        for (request, _) in std::mem::take(&mut self.kills.waiting) {
            self.settle(request, answer.clone());
        }
    }

    /// Answers all kills, including later ones. Only the first call counts.
    pub(super) fn answer_kills(&mut self, answer: Answer) {
        if self.kills.answer.is_none() {
            self.settle_kills(&answer);
            self.kills.answer = Some(answer);
        }
    }

    /// The answer to kills if the server stopped reading output that another process still held
    /// open.
    pub(super) fn kill_after_cut(&self) -> Answer {
        match self.kills.confirmed {
            true => Ok(ProcessReply::Done),
            false => Err(Failure::OutputHeld {
                what: "confirm the kill of the process",
                effect: self.kills.effect(),
            }),
        }
    }

    /// The answer to kills if the sandbox ended and the server did not confirm that the process is
    /// gone.
    pub(super) fn kill_unconfirmed(&self, end: SandboxEnd) -> Failure {
        Failure::SandboxEnded {
            what: "confirm the kill",
            end,
            effect: self.kills.effect(),
        }
    }

    /// Answers the callers whose kill timed out. The kill stays requested.
    pub(super) fn time_kills(&mut self, now: Instant) {
        while let Some(&(request, due)) = self.kills.waiting.first()
            && now >= due
        {
            self.kills.waiting.remove(0);
            let failure = match self.link_up {
                true => Failure::Timeout {
                    what: "the kill of the process",
                    after: self.config.kill_timeout,
                },
                // The kill is sent when the link is back.
                false => Failure::LinkLost {
                    what: "confirm the kill of the process",
                    effect: Effect::Unknown,
                },
            };
            self.settle(request, Err(failure));
        }
    }
}
