//! Kills of a [`Process`], and the callers that wait for them.

use std::time::Instant;

use super::{Answer, Process, ProcessReply};
use crate::machine::{Effect, Failure, RequestId, SandboxEnd, later};

/// The kills that were asked for.
#[derive(Debug, Default)]
pub(super) struct Kills {
    /// Callers that wait for an answer, each with the time at which it stops waiting.
    pub(super) waiting: Vec<(RequestId, Instant)>,
    /// The process is to be killed, or another client killed it. Cleared when the server refuses.
    pub(super) wanted: bool,
    /// A kill was sent, on this link or an earlier one. Never cleared.
    sent: bool,
    /// A caller asked for a kill that the server has not answered, whether or not the caller still
    /// waits.
    pub(super) unanswered: bool,
    /// The server said that it killed the process. Never cleared.
    confirmed: bool,
    /// The answer to all later kills. Set when no kill can have an effect any more.
    answer: Option<Answer>,
}

impl Kills {
    /// What is known of a kill that the server did not confirm.
    fn effect(&self) -> Effect {
        match self.sent {
            true => Effect::Unknown,
            false => Effect::NotApplied,
        }
    }
}

impl Process {
    /// Kills the process, and answers when the server confirmed that. Any number of callers may
    /// ask.
    ///
    /// | the process | a caller asks | no caller waits (`None`) |
    /// | --- | --- | --- |
    /// | runs | is sent, unless another caller waits for one | is sent, unless one was |
    /// | has ended, others hold its output | is sent for them, unless a caller waits for one | spares them |
    /// | is over | gets the answer that was kept | has no effect |
    pub fn kill(&mut self, request: Option<RequestId>, now: Instant) {
        let kills = &self.kills;
        // After a kill that timed out no caller waits, and the next kill is sent.
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

    /// Whether a kill was asked for.
    pub fn is_kill_wanted(&self) -> bool {
        self.kills.wanted
    }

    /// Sends the kill that an earlier link may have lost.
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
            // Callers wait for the end, which follows.
            None => {
                self.kills.wanted = true;
                let due = later(now, self.config.kill_grace);
                self.wire.handle_force_killed(due);
            }
            Some(_) => self.settle_kills(&Ok(ProcessReply::Done)),
        }
    }

    pub(super) fn handle_kill_refused(&mut self, failure: Failure) {
        // One kill worked, and another was refused because of that.
        if self.end.is_some() || !self.kills.confirmed {
            self.kills.wanted = false;
            self.settle_kills(&Err(failure));
        }
    }

    /// The kills so far are answered.
    pub(super) fn settle_kills(&mut self, answer: &Answer) {
        self.kills.unanswered = false;
        for (request, _) in std::mem::take(&mut self.kills.waiting) {
            self.settle(request, answer.clone());
        }
    }

    /// All kills are answered, later ones as well. The first answer counts.
    pub(super) fn answer_kills(&mut self, answer: Answer) {
        if self.kills.answer.is_none() {
            self.settle_kills(&answer);
            self.kills.answer = Some(answer);
        }
    }

    /// The answer where the server stopped reading output that another process still held.
    pub(super) fn kill_after_cut(&self) -> Answer {
        match self.kills.confirmed {
            true => Ok(ProcessReply::Done),
            false => Err(Failure::OutputHeld {
                what: "confirm the kill of the process",
                effect: self.kills.effect(),
            }),
        }
    }

    /// The answer where the sandbox ended, and the server did not say that the process is gone.
    pub(super) fn kill_unconfirmed(&self, end: SandboxEnd) -> Failure {
        Failure::SandboxEnded {
            what: "confirm the kill",
            end,
            effect: self.kills.effect(),
        }
    }

    /// Answers the callers whose time is over. The kill stays asked for.
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
                // It is sent when the link is back.
                false => Failure::LinkLost {
                    what: "confirm the kill of the process",
                    effect: Effect::Unknown,
                },
            };
            self.settle(request, Err(failure));
        }
    }
}
