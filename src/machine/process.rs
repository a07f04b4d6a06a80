//! [`Process`]: one exec. How it ended, what goes to its stdin, and who waits for either.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use super::{Effect, Failure, ProcessEnd, RequestId, SandboxEnd, later};
use crate::protocol::ClientMessage;

/// Most bytes of text in one stdin message; shorter writes are put together up to this size.
const STDIN_MESSAGE: usize = 64 * 1024;

/// How a [`Process`] behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProcessConfig {
    /// How long the server may take to confirm a kill. Default: 10 s.
    pub kill_timeout: Duration,
    /// How long after `FORCE_KILLED` the last output and `DONE` may take. Default: 2 s.
    pub kill_grace: Duration,
    /// Bytes of stdin that wait for the link, after which a write waits. Default: 1 MiB.
    pub stdin_budget: usize,
}

impl Default for ProcessConfig {
    fn default() -> Self {
        Self {
            kill_timeout: Duration::from_secs(10),
            kill_grace: Duration::from_secs(2),
            stdin_budget: 1024 * 1024,
        }
    }
}

/// What the sandbox lets a process know.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ProcessFact {
    /// The server takes messages for this process, or takes them again after an outage.
    LinkUp,
    /// The link is lost and is being dialled again.
    LinkDown,
    /// The link took the stdin message with this number.
    StdinWritten(u64),
    /// The server killed the process.
    ForceKilled,
    /// The server could not kill the process.
    KillRefused(Failure),
    /// The server said that the process ended.
    Done,
    /// The sandbox is over.
    SandboxEnded(SandboxEnd),
}

/// The answer to a granted request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProcessReply {
    /// How the process ended.
    End(ProcessEnd),
    /// It is done.
    Done,
}

/// What a [`Process`] wants done.
#[derive(Clone, Debug, PartialEq)]
pub enum ProcessAction {
    /// Answer a request.
    Settle(RequestId, Result<ProcessReply, Failure>),
    /// Ask the server to kill the process.
    SendKill,
    /// Send a stdin message, and say when the link took it.
    SendStdin {
        /// The number of the message.
        number: u64,
        /// The frame.
        text: String,
    },
    /// The process ended.
    Ended {
        /// How.
        end: ProcessEnd,
        /// Bytes of stdin that were accepted and never sent.
        stdin_unsent: usize,
    },
}

#[derive(Debug)]
struct Write {
    request: RequestId,
    data: String,
}

/// The state machine of one exec.
#[derive(Debug)]
pub struct Process {
    config: ProcessConfig,
    end: Option<ProcessEnd>,
    link_up: bool,
    waits: Vec<RequestId>,

    kill_wanted: bool,
    kill_sent: bool,
    kills: Vec<(RequestId, Instant)>,
    force_killed_until: Option<Instant>,

    /// Accepted and not yet taken by the link, the message in flight not included.
    stdin: VecDeque<String>,
    in_flight: Option<String>,
    message_number: u64,
    /// Bytes accepted and not yet taken by the link, the message in flight included.
    stdin_bytes: usize,
    /// Bytes ever accepted, and ever taken by the link.
    accepted: u64,
    written: u64,
    writes: VecDeque<Write>,
    flushes: VecDeque<(RequestId, u64)>,

    actions: VecDeque<ProcessAction>,
}

impl Process {
    /// A process that is being started.
    pub fn new(config: ProcessConfig) -> Self {
        Self {
            config,
            end: None,
            link_up: false,
            waits: Vec::new(),
            kill_wanted: false,
            kill_sent: false,
            kills: Vec::new(),
            force_killed_until: None,
            stdin: VecDeque::new(),
            in_flight: None,
            message_number: 0,
            stdin_bytes: 0,
            accepted: 0,
            written: 0,
            writes: VecDeque::new(),
            flushes: VecDeque::new(),
            actions: VecDeque::new(),
        }
    }

    /// How the process ended, once it has.
    pub fn end(&self) -> Option<&ProcessEnd> {
        self.end.as_ref()
    }

    /// Whether somebody waits for the end.
    pub fn is_awaited(&self) -> bool {
        !self.waits.is_empty() || self.kill_wanted
    }

    /// Whether a kill was asked for.
    pub fn is_kill_wanted(&self) -> bool {
        self.kill_wanted
    }

    /// Answers when the process has ended.
    pub fn wait(&mut self, request: RequestId) {
        match &self.end {
            Some(end) => self.settle(request, Ok(ProcessReply::End(end.clone()))),
            None => self.waits.push(request),
        }
    }

    /// Kills the process, and answers when the server confirmed its end. Any number may ask.
    pub fn kill(&mut self, request: Option<RequestId>, now: Instant) {
        if let Some(end) = &self.end {
            let result = match end {
                // Nobody said that the process is no more.
                ProcessEnd::SandboxLost { end } if *end != SandboxEnd::Deleted => {
                    Err(Failure::SandboxEnded {
                        what: "kill the process",
                        end: end.clone(),
                        effect: self.kill_effect(),
                    })
                }
                _ => Ok(ProcessReply::Done),
            };
            if let Some(request) = request {
                self.settle(request, result);
            }
            return;
        }
        if let Some(request) = request {
            self.kills
                .push((request, later(now, self.config.kill_timeout)));
        }
        // After a kill that nobody confirmed, the next one is sent anew.
        if !self.kill_wanted || self.kills.len() == 1 {
            self.kill_wanted = true;
            self.send_kill();
        }
    }

    /// Sends text to stdin, after all text before it. Answers when the text is accepted.
    pub fn write_stdin(&mut self, request: RequestId, data: String) {
        if self.end.is_some() {
            self.settle(
                request,
                Err(Failure::ProcessEnded {
                    what: "write to stdin",
                }),
            );
        } else if self.writes.is_empty() && self.fits(data.len()) {
            self.accept(request, data);
            self.send_stdin();
        } else {
            self.writes.push_back(Write { request, data });
        }
    }

    /// Answers when the link has taken all text accepted so far.
    pub fn flush_stdin(&mut self, request: RequestId) {
        if self.written >= self.accepted {
            self.settle(request, Ok(ProcessReply::Done));
        } else if self.end.is_some() {
            self.settle(
                request,
                Err(Failure::ProcessEnded {
                    what: "flush stdin",
                }),
            );
        } else {
            self.flushes.push_back((request, self.accepted));
        }
    }

    /// The caller of a request stopped waiting: it gets no answer. A text that waits for the budget is
    /// not sent. A kill stays asked for.
    pub fn cancel(&mut self, request: RequestId) {
        self.waits.retain(|&wait| wait != request);
        self.kills.retain(|&(kill, _)| kill != request);
        self.flushes.retain(|&(flush, _)| flush != request);
        self.writes.retain(|write| write.request != request);
        self.accept_waiting();
    }

    /// The sandbox says something.
    pub fn handle_fact(&mut self, fact: ProcessFact, now: Instant) {
        if self.end.is_some() {
            return;
        }
        match fact {
            ProcessFact::LinkUp => {
                self.link_up = true;
                if self.kill_wanted {
                    self.send_kill();
                }
                self.send_stdin();
            }
            ProcessFact::LinkDown => {
                self.link_up = false;
                // What the dead link did not take is sent again, first.
                if let Some(unsent) = self.in_flight.take() {
                    self.stdin.push_front(unsent);
                }
            }
            ProcessFact::StdinWritten(number) if number == self.message_number => {
                if let Some(taken) = self.in_flight.take() {
                    self.stdin_bytes -= taken.len();
                    self.written += taken.len() as u64;
                }
                while let Some(&(request, upto)) = self.flushes.front()
                    && upto <= self.written
                {
                    self.flushes.pop_front();
                    self.settle(request, Ok(ProcessReply::Done));
                }
                self.accept_waiting();
            }
            ProcessFact::StdinWritten(_) => {}
            ProcessFact::ForceKilled => {
                self.kill_wanted = true;
                self.force_killed_until
                    .get_or_insert(later(now, self.config.kill_grace));
            }
            // One kill worked; another was refused because it did.
            ProcessFact::KillRefused(_) if self.force_killed_until.is_some() => {}
            ProcessFact::KillRefused(failure) => {
                self.kill_wanted = false;
                for (request, _) in std::mem::take(&mut self.kills) {
                    self.settle(request, Err(failure.clone()));
                }
            }
            ProcessFact::Done => {
                let end = if self.kill_wanted {
                    ProcessEnd::Killed
                } else {
                    ProcessEnd::Unknown
                };
                self.finish(end, Ok(ProcessReply::Done));
            }
            ProcessFact::SandboxEnded(end) => match end {
                SandboxEnd::Killed => self.finish(ProcessEnd::Killed, Ok(ProcessReply::Done)),
                // With the sandbox every process in it is gone, too.
                SandboxEnd::Deleted => {
                    self.finish(ProcessEnd::SandboxLost { end }, Ok(ProcessReply::Done))
                }
                end => {
                    let failure = Failure::SandboxEnded {
                        what: "confirm the kill",
                        end: end.clone(),
                        effect: self.kill_effect(),
                    };
                    self.finish(ProcessEnd::SandboxLost { end }, Err(failure));
                }
            },
        }
    }

    /// When [`handle_timeout`](Self::handle_timeout) is due.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let first_kill = self.kills.first().map(|&(_, due)| due);
        first_kill.into_iter().chain(self.force_killed_until).min()
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.force_killed_until.is_some_and(|due| now >= due) {
            self.finish(ProcessEnd::Killed, Ok(ProcessReply::Done));
        }
        while let Some(&(request, due)) = self.kills.first()
            && now >= due
        {
            self.kills.remove(0);
            let failure = if self.link_up {
                Failure::Timeout {
                    what: "the kill of the process",
                    after: self.config.kill_timeout,
                }
            } else {
                Failure::LinkLost {
                    what: "confirm the kill of the process",
                    // It stays asked for, and is sent when the link is back.
                    effect: Effect::Unknown,
                }
            };
            self.settle(request, Err(failure));
        }
    }

    /// What to do now.
    pub fn poll_action(&mut self) -> Option<ProcessAction> {
        self.actions.pop_front()
    }

    fn kill_effect(&self) -> Effect {
        if self.kill_sent {
            Effect::Unknown
        } else {
            Effect::NotApplied
        }
    }

    fn send_kill(&mut self) {
        if self.link_up {
            self.kill_sent = true;
            self.actions.push_back(ProcessAction::SendKill);
        }
    }

    fn settle(&mut self, request: RequestId, result: Result<ProcessReply, Failure>) {
        self.actions
            .push_back(ProcessAction::Settle(request, result));
    }

    fn finish(&mut self, end: ProcessEnd, kill_result: Result<ProcessReply, Failure>) {
        if self.end.is_some() {
            return;
        }
        self.end = Some(end.clone());
        self.force_killed_until = None;
        self.actions.push_back(ProcessAction::Ended {
            end: end.clone(),
            stdin_unsent: self.stdin_bytes,
        });
        for (request, _) in std::mem::take(&mut self.kills) {
            self.settle(request, kill_result.clone());
        }
        for request in std::mem::take(&mut self.waits) {
            self.settle(request, Ok(ProcessReply::End(end.clone())));
        }
        for write in std::mem::take(&mut self.writes) {
            self.settle(
                write.request,
                Err(Failure::ProcessEnded {
                    what: "write to stdin",
                }),
            );
        }
        for (request, _) in std::mem::take(&mut self.flushes) {
            self.settle(
                request,
                Err(Failure::ProcessEnded {
                    what: "flush stdin",
                }),
            );
        }
        self.stdin.clear();
        self.in_flight = None;
    }

    /// A write larger than the budget goes alone.
    fn fits(&self, len: usize) -> bool {
        self.stdin_bytes == 0 || self.stdin_bytes.saturating_add(len) <= self.config.stdin_budget
    }

    /// Accepts the writes that fit now, in order.
    fn accept_waiting(&mut self) {
        while let Some(write) = self.writes.front()
            && self.fits(write.data.len())
            && let Some(Write { request, data }) = self.writes.pop_front()
        {
            self.accept(request, data);
        }
        self.send_stdin();
    }

    fn accept(&mut self, request: RequestId, data: String) {
        self.stdin_bytes += data.len();
        self.accepted += data.len() as u64;
        // Cut here, once: to cut the rest off message by message would copy it for each.
        let mut rest = data.as_str();
        while rest.len() > STDIN_MESSAGE {
            let (message, after) = rest.split_at(char_boundary(rest, STDIN_MESSAGE));
            self.stdin.push_back(message.to_owned());
            rest = after;
        }
        if rest.len() == data.len() && !data.is_empty() {
            self.stdin.push_back(data);
        } else if !rest.is_empty() {
            self.stdin.push_back(rest.to_owned());
        }
        self.settle(request, Ok(ProcessReply::Done));
    }

    /// Sends the next message, one at a time: deployed servers do not keep the order of two.
    fn send_stdin(&mut self) {
        if !self.link_up || self.in_flight.is_some() {
            return;
        }
        let Some(mut message) = self.stdin.pop_front() else {
            return;
        };
        while message.len() < STDIN_MESSAGE
            && let Some(next) = self.stdin.front()
            && message.len() + next.len() <= STDIN_MESSAGE
            && let Some(next) = self.stdin.pop_front()
        {
            message.push_str(&next);
        }
        self.message_number += 1;
        let text = ClientMessage::stdin(message.as_str()).encode();
        self.in_flight = Some(message);
        self.actions.push_back(ProcessAction::SendStdin {
            number: self.message_number,
            text,
        });
    }
}

/// The last boundary between code points that is not after `at`.
fn char_boundary(text: &str, at: usize) -> usize {
    (0..=at)
        .rev()
        .find(|&at| text.is_char_boundary(at))
        .unwrap_or(0)
}

#[cfg(test)]
mod tests;
