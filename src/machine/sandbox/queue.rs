//! The exec of v1 that cannot be sent yet: it waits, within its own timeout.
//!
//! - For the end of a process that is being killed. After a cancelled `run` no handle to that
//!   process is left, so the caller could not wait for its end.
//! - For the link, while that is lost.
//! - For the kill of what an earlier exec may have started, whose answer was lost with its link. A
//!   server refuses a second process while the first is dying.
//!
//! One exec waits at a time. Another one, or one while a process runs, is refused at once.

use std::time::{Duration, Instant};

use super::{Exec, ExecPhase, Sandbox, SandboxAction};
use crate::machine::{Failure, ProcessFact, ProcessId, RequestId, SandboxEnd, SandboxState};

/// What an exec is asked for, in errors.
pub(super) const RUN_CODE: &str = "run code";

/// An exec that was not sent yet.
#[derive(Debug)]
pub(super) struct Queued {
    pub(super) process: ProcessId,
    pub(super) request: RequestId,
    /// The frame.
    pub(super) text: String,
    pub(super) due: Instant,
}

/// How long after `FORCE_KILLED` the `DONE` of a process may take. No `DONE` comes if no process
/// ran, or if the server keeps it for a `reconnect`, which must not be sent if no process ran.
const DONE_GRACE: Duration = Duration::from_millis(500);

/// The kill of a process whose start was not confirmed. Until it is answered, no exec is sent.
#[derive(Debug)]
pub(super) struct LeftoverKill {
    process: ProcessId,
    is_done: bool,
    /// When the server's `DONE` is no longer waited for; set by its `FORCE_KILLED`.
    pub(super) due: Option<Instant>,
}

impl Sandbox {
    /// Kills what an exec whose answer was lost may have started.
    pub(super) fn kill_leftover(&mut self) {
        if let Some(process) = self.lost_start.take() {
            self.leftover = Some(LeftoverKill {
                process,
                is_done: false,
                due: None,
            });
            self.send_kill_process(process);
        }
    }

    /// The server said that a process ended while this client knows of none.
    pub(super) fn leftover_done(&mut self) {
        if let Some(leftover) = &mut self.leftover {
            leftover.is_done = true;
            if leftover.due.is_some() {
                self.forget_leftover();
            }
        }
    }

    /// The server answered a kill of this process with `FORCE_KILLED`.
    pub(super) fn leftover_killed(&mut self, process: ProcessId, now: Instant) {
        if let Some(leftover) = &mut self.leftover
            && leftover.process == process
        {
            leftover.due.get_or_insert(now + DONE_GRACE);
            if leftover.is_done {
                self.forget_leftover();
            }
        }
    }

    /// The server answered a kill of this process with `FORCE_KILL_ERROR`: it decides whether it
    /// runs another.
    pub(super) fn leftover_kill_refused(&mut self, process: ProcessId) {
        self.leftover.take_if(|it| it.process == process);
    }

    /// The link is lost. A kill that was not answered is sent again on the next link.
    pub(super) fn leftover_link_down(&mut self) {
        if let Some(LeftoverKill { process, due, .. }) = self.leftover.take()
            && due.is_none()
        {
            self.lost_start = Some(process);
        }
    }

    /// The next exec does not wait for the kill any more.
    pub(super) fn forget_leftover(&mut self) {
        self.leftover = None;
        self.look_after_queued();
    }

    /// Starts an exec, or lets it wait for the link or the end of a process that is being killed.
    /// Gives it back when neither is possible.
    pub(super) fn start_or_queue(&mut self, exec: Queued) -> Result<(), Queued> {
        let is_free = self.exec.is_none();
        if is_free && self.leftover.is_none() && self.state == SandboxState::Running {
            self.start(exec);
            Ok(())
        } else if self.queued.is_none() && (is_free || self.is_being_killed()) {
            self.queued = Some(exec);
            Ok(())
        } else {
            Err(exec)
        }
    }

    /// The process that occupied the sandbox is no more, or is no longer being killed; or the link
    /// is back.
    pub(super) fn look_after_queued(&mut self) {
        // Without a link nothing can be sent.
        if self.link.is_none()
            || self.state == SandboxState::Reconnecting
            || self.state == SandboxState::Running && self.leftover.is_some()
            || self.exec.is_some() && self.is_being_killed()
        {
            return;
        }
        let Some(exec) = self.queued.take() else {
            return;
        };
        match self.require_running(RUN_CODE) {
            Ok(()) if self.exec.is_none() => self.start(exec),
            Ok(()) => self.refuse(exec, Failure::ProcessRunning { what: RUN_CODE }),
            Err(failure) => self.refuse(exec, failure),
        }
    }

    /// The kill of a process came to nothing. If nobody else can try again, the sandbox does not wait
    /// for its end: the server decides whether it runs another.
    pub(super) fn give_up_abandoned(&mut self, process: ProcessId) {
        let abandoned = self.exec.take_if(|exec| {
            exec.process == process && exec.phase == ExecPhase::Abandoned { running: true }
        });
        if abandoned.is_some() {
            let unknown = ProcessFact::SandboxEnded(SandboxEnd::Closed);
            self.actions
                .push_back(SandboxAction::Tell(process, unknown));
        }
    }

    /// The exec that waits is not going to be sent.
    pub(super) fn refuse_queued(&mut self, failure: Failure) {
        if let Some(exec) = self.queued.take() {
            self.refuse(exec, failure);
        }
    }

    fn start(&mut self, exec: Queued) {
        let Queued {
            process,
            request,
            text,
            due,
        } = exec;
        self.exec = Some(Exec {
            process,
            phase: ExecPhase::Starting { request, due },
        });
        self.actions.push_back(SandboxAction::Send(text));
    }

    fn refuse(&mut self, exec: Queued, failure: Failure) {
        self.settle(exec.request, Err(failure));
        // It never was, and nobody has a handle to it; its actor must end.
        let never = ProcessFact::SandboxEnded(SandboxEnd::Closed);
        self.actions
            .push_back(SandboxAction::Tell(exec.process, never));
    }

    fn is_being_killed(&self) -> bool {
        self.exec.as_ref().is_some_and(|exec| {
            matches!(exec.phase, ExecPhase::Abandoned { .. }) || self.dying == Some(exec.process)
        })
    }
}
