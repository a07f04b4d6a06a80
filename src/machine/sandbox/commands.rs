//! What the user asks of a sandbox.

use std::time::Instant;

use super::{
    Exec, ExecPhase, MAX_KILLS_OWED, Mode, Pending, Sandbox, SandboxAction, SandboxReply,
    queue::{Queued, RUN_CODE},
};
use crate::{
    machine::{Failure, ProcessId, RequestId, SandboxEnd, SandboxState, later},
    protocol::{ClientMessage, ExecId, ExecOptions, ExecRequest},
};

/// What v1 cannot carry of these options.
fn unsupported(options: &ExecOptions) -> Option<&'static str> {
    let ExecOptions {
        args,
        env,
        cwd,
        timeout_ms,
        output_grace_ms,
        input_ends,
        // A matter of v2 alone.
        window: _,
    } = options;
    [
        (!args.is_empty(), "arguments"),
        (!env.is_empty(), "environment variables"),
        (cwd.is_some(), "working directory"),
        (timeout_ms.is_some(), "timeout of a process"),
        (output_grace_ms.is_some(), "output grace of a process"),
        (*input_ends, "end of input"),
    ]
    .into_iter()
    .find_map(|(used, feature)| used.then_some(feature))
}

impl Sandbox {
    /// Answers when the sandbox runs.
    pub fn open(&mut self, request: RequestId) {
        match &self.state {
            SandboxState::Creating | SandboxState::Attaching => self.ready.push(request),
            SandboxState::Ended(end) => {
                let failure = Failure::NotOpened { end: end.clone() };
                self.settle(request, Err(failure));
            }
            _ => self.settle(request, Ok(SandboxReply::Ready)),
        }
    }

    /// Runs code. Answers when the server says that it runs; gives the number of the process, and its name in v2.
    ///
    /// In v1, where one runs at a time, it waits for the end of a process that is being killed, and
    /// for the link while that is lost.
    pub fn exec(
        &mut self,
        request: RequestId,
        language: &str,
        code: &str,
        options: &ExecOptions,
        now: Instant,
    ) -> Option<(ProcessId, Option<ExecId>)> {
        if self.can_name() {
            let run = ExecRequest::new(language, code);
            let (process, exec) = self.start_named(request, run, options, now);
            return Some((process, Some(exec)));
        }
        if self.state != SandboxState::Reconnecting
            && let Err(failure) = self.require_running(RUN_CODE)
        {
            self.settle(request, Err(failure));
            return None;
        }
        if let Some(feature) = unsupported(options) {
            let what = RUN_CODE;
            self.settle(request, Err(Failure::Unsupported { what, feature }));
            return None;
        }
        self.next_process += 1;
        let process = ProcessId(self.next_process);
        let exec = Queued {
            process,
            request,
            text: ClientMessage::exec(language, code).encode(),
            due: later(now, self.timeouts.exec),
        };
        if self.start_or_queue(exec).is_err() {
            self.next_process -= 1;
            self.settle(request, Err(Failure::ProcessRunning { what: RUN_CODE }));
            return None;
        }
        Some((process, None))
    }

    /// Refuses to run code for which the server's version lacks this.
    pub fn refuse_exec(&mut self, request: RequestId, feature: &'static str) {
        let what = RUN_CODE;
        let refused = self.require_running(what);
        let refused = refused.and(Err(Failure::Unsupported { what, feature }));
        self.settle(request, refused);
    }

    /// Asks the server to kill a process.
    pub fn kill_process(&mut self, process: ProcessId) {
        if self.link.is_some()
            && self.state != SandboxState::Reconnecting
            && self.process() == Some(process)
        {
            self.dying = Some(process);
            self.send_kill_process(process);
        }
    }

    pub(super) fn send_kill_process(&mut self, process: ProcessId) {
        if self.kills_owed.len() >= MAX_KILLS_OWED {
            self.kills_owed.pop_front();
        }
        self.kills_owed.push_back(process);
        self.send(&ClientMessage::KillProcess);
    }

    /// A kill of the process is on its way: the next exec waits for its end.
    pub fn expect_kill(&mut self, process: ProcessId) {
        self.dying = Some(process);
    }

    /// Whether a stdin message of the process can be sent now.
    pub fn can_send_stdin(&self, process: ProcessId) -> bool {
        self.link.is_some()
            && self.state != SandboxState::Reconnecting
            && self
                .exec
                .as_ref()
                .is_some_and(|exec| exec.process == process && exec.phase == ExecPhase::Running)
    }

    /// Nobody has a handle to the process, and nobody can get one: it is killed, and the sandbox is
    /// free after that.
    pub fn abandon(&mut self, process: ProcessId) {
        self.abandon_named(process);
        if self
            .queued
            .as_ref()
            .is_some_and(|queued| queued.process == process)
        {
            self.refuse_queued(Failure::Cancelled { what: RUN_CODE });
        }
        let Some(exec) = self.exec.as_mut().filter(|exec| exec.process == process) else {
            return;
        };
        match exec.phase {
            ExecPhase::Abandoned { .. } => return,
            ExecPhase::Running => exec.phase = ExecPhase::Abandoned { running: true },
            ExecPhase::Starting { request, .. } => {
                exec.phase = ExecPhase::Abandoned { running: false };
                let failure = Failure::Cancelled {
                    what: "run the code",
                };
                self.settle(request, Err(failure));
            }
        }
        self.kill_process(process);
    }

    /// Nobody waits for this exec any more: it is not sent, or what it starts is killed.
    pub fn cancel_exec(&mut self, request: RequestId) {
        if let Some(process) = self.named_of(request) {
            return self.abandon_named(process);
        }
        if self
            .queued
            .as_ref()
            .is_some_and(|queued| queued.request == request)
        {
            self.refuse_queued(Failure::Cancelled { what: RUN_CODE });
        }
        let starting = self.exec.as_ref().filter(|exec| {
            matches!(exec.phase, ExecPhase::Starting { request: starting, .. } if starting == request)
        });
        if let Some(process) = starting.map(|exec| exec.process) {
            self.abandon(process);
        }
    }

    /// The process is over by its own account, for example because it was killed and `DONE` never came.
    pub fn process_ended(&mut self, process: ProcessId) {
        if let Some(exec) = self.exec.take_if(|exec| exec.process == process)
            && let ExecPhase::Starting { request, .. } = exec.phase
        {
            let failure = Failure::ProcessEnded {
                what: "run the code",
            };
            self.settle(request, Err(failure));
        }
        self.look_after_queued();
    }

    /// Kills the sandbox, and answers when the server confirmed it. Any number may ask.
    ///
    /// After the end, that is granted at once if the server left nothing to kill.
    pub fn kill(&mut self, request: RequestId, now: Instant) {
        match &self.state {
            SandboxState::Ended(end) => {
                let result = match end.leaves_nothing_to_kill() {
                    true => Ok(SandboxReply::Done),
                    false => Err(Failure::SandboxEnded {
                        what: "kill the sandbox",
                        end: end.clone(),
                        effect: self.kill_effect(end),
                    }),
                };
                self.settle(request, result);
            }
            SandboxState::Running | SandboxState::Killing | SandboxState::Reconnecting => {
                self.kills.push(Pending {
                    request,
                    due: later(now, self.timeouts.kill),
                });
                self.kill_wanted = true;
                self.send_kill();
            }
            state => {
                let failure = Failure::WrongState {
                    what: "kill the sandbox",
                    state: state.clone(),
                };
                self.settle(request, Err(failure));
            }
        }
    }

    /// Stores the files of the sandbox under a name.
    pub fn snapshot_filesystem(&mut self, request: RequestId, name: &str, now: Instant) {
        const WHAT: &str = "snapshot the filesystem";
        let refused = self.require_running(WHAT).and_then(|()| {
            if self.snapshot.is_some() {
                Err(Failure::AlreadyUnderWay { what: WHAT })
            } else {
                Ok(())
            }
        });
        if let Err(failure) = refused {
            return self.settle(request, Err(failure));
        }
        self.snapshot = Some(Pending {
            request,
            due: later(now, self.timeouts.store),
        });
        self.send(&ClientMessage::SnapshotFilesystem {
            name: Some(name.into()),
        });
    }

    /// Stores the sandbox and ends it.
    ///
    /// Refused where the sandbox was created without that option: a server would end it for asking.
    pub fn checkpoint(&mut self, request: RequestId, now: Instant) {
        const WHAT: &str = "checkpoint the sandbox";
        let is_disabled = matches!(&self.mode, Mode::Create(it) if !it.enable_checkpoint);
        let refused = if self.checkpoint.is_some() {
            Err(Failure::AlreadyUnderWay { what: WHAT })
        } else {
            self.require_running(WHAT).and(match is_disabled {
                false => Ok(()),
                true => Err(Failure::NotEnabled {
                    what: WHAT,
                    option: "enable_sandbox_checkpoint",
                }),
            })
        };
        if let Err(failure) = refused {
            return self.settle(request, Err(failure));
        }
        self.checkpoint = Some(Pending {
            request,
            due: later(now, self.timeouts.store),
        });
        self.actions.push_back(SandboxAction::Disarm);
        self.send(&ClientMessage::Checkpoint);
    }

    /// Nobody got a handle to the sandbox, and nobody can get one: it is killed as soon as that can
    /// be said, within the timeouts of getting ready and of a kill.
    pub fn discard(&mut self, now: Instant) {
        match self.state {
            SandboxState::Creating => self.abandoned = true,
            SandboxState::Running | SandboxState::Reconnecting => {
                self.abandoned = true;
                self.kill_abandoned(now);
            }
            // It is killed if the checkpoint is refused. One that is made stays.
            SandboxState::Checkpointing => {
                self.abandoned = true;
                self.abandoned_due = Some(later(now, self.timeouts.kill));
            }
            _ => {}
        }
    }

    pub(super) fn kill_abandoned(&mut self, now: Instant) {
        self.kill_wanted = true;
        // Nobody waits for the answer, but the wait for it is bounded all the same.
        self.abandoned_due = Some(later(now, self.timeouts.kill));
        self.send_kill();
    }

    /// The last handle is gone: the connection is closed. A sandbox that is still being created is
    /// killed as soon as that can be said.
    pub fn detach(&mut self) {
        match self.state {
            SandboxState::Creating if self.link.is_some() => self.abandoned = true,
            // It is killed after the outage, or if the checkpoint is refused.
            SandboxState::Reconnecting | SandboxState::Checkpointing if self.abandoned => {}
            // A kill under way is seen through, within its timeout.
            SandboxState::Killing if self.abandoned || !self.kills.is_empty() => {
                self.abandoned = true
            }
            SandboxState::Ended(_) => self.actions.push_back(SandboxAction::CloseLink),
            _ => {
                // Whoever asked for it is gone as well.
                if let Some(Exec {
                    process,
                    phase: ExecPhase::Starting { .. },
                }) = self.exec
                {
                    self.kill_process(process);
                }
                self.kill_starting();
                self.finish(SandboxEnd::Closed);
            }
        }
    }

    pub(super) fn send_kill(&mut self) {
        if self.kill_wanted
            && !self.kill_sent
            && self.link.is_some()
            && self.state != SandboxState::Reconnecting
        {
            self.kill_sent = true;
            self.kill_left = true;
            self.actions.push_back(SandboxAction::Disarm);
            self.set_state(SandboxState::Killing);
            self.send(&ClientMessage::KillSandbox);
        }
    }
}
