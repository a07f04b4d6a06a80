//! Protocol v1: messages of the server and reports of the connection about the exec, its timeouts
//! and its end.

use std::time::{Duration, Instant};

use super::{Leftover, Phase};
use crate::{
    machine::{
        Effect, Failure, ProcessFact, SandboxEnd, SandboxEvent, SandboxState, later,
        sandbox::{
            Pending, Sandbox, SandboxReply, is_due,
            process::{CONFIRM_START, RUN_CODE, START},
        },
    },
    protocol::{ClientMessage, Status, names::NO_PROCESS},
};

/// How long to wait for the `DONE` of a process after `FORCE_KILLED`. No `DONE` arrives if no
/// process ran, or if the server keeps it for a `reconnect`, which must not be sent if no process
/// ran.
const DONE_GRACE: Duration = Duration::from_millis(500);

impl Sandbox {
    pub(in crate::machine::sandbox) fn handle_v1_status(
        &mut self,
        status: Status,
        reason: Option<String>,
        now: Instant,
    ) {
        match status {
            Status::ExecutionForceKillError => self.handle_kill_error(status, reason),
            status if self.life.state == SandboxState::Creating => {
                self.violation(format!("{status} before the sandbox was created"));
            }
            Status::ExecutionRunning => self.handle_execution_running(),
            Status::ExecutionDone => self.handle_execution_done(),
            Status::ExecutionForceKilled => self.handle_force_killed(now),
            Status::ExecutionError if reason.as_ref().is_some_and(|it| it.contains(NO_PROCESS)) => {
            }
            _ => self.handle_not_started(status, reason),
        }
    }

    fn handle_execution_running(&mut self) {
        self.v1.resuming = None;
        let Some(exec) = &mut self.v1.exec else {
            return;
        };
        // After a `reconnect`, the server repeats the status.
        if exec.has_started() {
            return;
        }
        let process = exec.process;
        match std::mem::replace(&mut exec.phase, Phase::Running).caller() {
            Some(Pending { request, .. }) => {
                self.actions.tell(process, ProcessFact::LinkUp);
                self.actions.event(SandboxEvent::ProcessStarted(process));
                let started = SandboxReply::Started(process);
                self.actions.settle(request, Ok(started));
            }
            None => {
                exec.phase = Phase::Abandoned { running: true };
                // The first kill may have arrived before the process started.
                self.kill_process(process);
            }
        }
    }

    fn handle_execution_done(&mut self) {
        // `DONE` also follows a refused exec. An exec that is still starting can't be done.
        if let Some(exec) = self.v1.exec.take_if(|exec| exec.has_started()) {
            self.actions.tell(exec.process, ProcessFact::Done);
            self.run_queued();
        } else if self.v1.exec.is_none()
            && let Some(leftover) = &mut self.v1.leftover
        {
            leftover.is_done = leftover.is_killed;
            self.drop_killed_leftover();
        }
    }

    fn handle_force_killed(&mut self, now: Instant) {
        // Answers arrive in the order of the kills. If a killed process had already ended, the
        // answer must not be attributed to the next process. During a handoff, the server kills the
        // running process without a request.
        let killed = self.v1.kills.pop_front();
        let killed = killed.filter(|_| !self.store.handing_off);
        if let Some(leftover) = &mut self.v1.leftover
            && leftover.is_killed
            && killed == Some(leftover.process)
        {
            leftover.done_due.get_or_insert(now + DONE_GRACE);
            self.drop_killed_leftover();
        }
        // A process that the server has not started can't have been killed.
        if let Some(exec) = self.v1.exec.as_ref().filter(|exec| exec.has_started())
            && killed.is_none_or(|killed| killed == exec.process)
        {
            self.actions.tell(exec.process, ProcessFact::ForceKilled);
        }
    }

    fn handle_kill_error(&mut self, status: Status, reason: Option<String>) {
        let Some(process) = self.v1.kills.pop_front() else {
            return;
        };
        self.v1.dying.take_if(|dying| *dying == process);
        let failure = Failure::refused("kill the process", status, reason);
        let refused = ProcessFact::KillRefused(failure);
        self.actions.tell(process, refused);
        self.drop_abandoned(process);
        let leftover = &mut self.v1.leftover;
        leftover.take_if(|it| it.is_killed && it.process == process);
        self.run_queued();
    }

    /// The server refused an exec. While a process runs, the status refers to another request.
    fn handle_not_started(&mut self, status: Status, reason: Option<String>) {
        if let Some(exec) = self.v1.exec.take_if(|exec| !exec.has_started()) {
            let failure = Failure::refused("run the code", status, reason);
            self.actions.fail(exec.phase.caller(), failure);
            self.actions.tell(exec.process, ProcessFact::Done);
            self.run_queued();
        }
    }

    /// The sandbox runs on a new link. The server sends the output of the exec only after a
    /// `reconnect`, which must not be sent if there is no exec.
    pub(in crate::machine::sandbox) fn resume_v1(&mut self) {
        self.v1.resuming = self.process();
        if let Some(leftover) = &mut self.v1.leftover {
            leftover.is_killed = true;
            let process = leftover.process;
            self.send_process_kill(process);
        }
        if let Some(exec) = &self.v1.exec {
            let process = exec.process;
            self.actions.send(&ClientMessage::Reconnect);
            match exec.is_abandoned() {
                true => self.kill_process(process),
                false => self.actions.tell(process, ProcessFact::LinkUp),
            }
        }
    }

    /// `SANDBOX_RUNNING` arrived while the sandbox runs: a v2 server answers a v1 `reconnect` like
    /// this if it has no exec.
    pub(in crate::machine::sandbox) fn handle_nothing_to_resume(&mut self) {
        // An exec that started after the `reconnect` is not concerned.
        if let Some(resuming) = self.v1.resuming.take()
            && let Some(exec) = self.v1.exec.take_if(|it| it.process == resuming)
        {
            let reason = "the new connection leads to another server".to_owned();
            let reason = Some(reason);
            self.actions
                .end(exec.process, SandboxEnd::ProcessLost { reason });
            self.run_queued();
        }
    }

    pub(in crate::machine::sandbox) fn handle_v1_link_down(&mut self) {
        // An unanswered kill is sent again on the next link.
        self.v1.leftover.take_if(|it| it.done_due.is_some());
        if let Some(leftover) = &mut self.v1.leftover {
            (leftover.is_killed, leftover.is_done) = (false, false);
        }
        if let Some(exec) = self.v1.exec.take_if(|exec| !exec.has_started()) {
            let process = exec.process;
            let failure = Failure::link_lost(CONFIRM_START, Effect::Unknown);
            self.end_exec(exec, failure, SandboxEnd::Closed);
            self.v1.leftover = Some(Leftover {
                process,
                is_killed: false,
                is_done: false,
                done_due: None,
            });
        } else if let Some(process) = self.process() {
            self.actions.tell(process, ProcessFact::LinkDown);
        }
    }

    /// Handles the error that waits for its reason, without a reason.
    pub(in crate::machine::sandbox) fn flush_pairing(&mut self, now: Instant) {
        self.v1.reason_due = None;
        if let Some(message) = self.v1.pairing.flush() {
            self.handle_message(message, now);
        }
    }

    /// Updates the timeout for the reason, after each message. It starts with the error status.
    pub(in crate::machine::sandbox) fn update_reason_due(&mut self, is_status: bool, now: Instant) {
        if !self.v1.pairing.is_waiting() || self.life.is_over() {
            self.v1.reason_due = None;
        } else if is_status {
            self.v1.reason_due = Some(later(now, self.config.timeouts.reason));
        }
    }

    pub(in crate::machine::sandbox) fn handle_v1_timeout(&mut self, now: Instant) {
        if is_due(self.v1.reason_due, now) {
            self.flush_pairing(now);
        }
        if self
            .v1
            .start()
            .is_some_and(|(_, caller)| caller.is_due(now))
        {
            self.abandon_current(Failure::timeout(START, self.config.timeouts.exec));
        }
        let leftover = &mut self.v1.leftover;
        if leftover.take_if(|it| is_due(it.done_due, now)).is_some() {
            self.run_queued();
        }
        let queued = self.v1.queued();
        if queued.is_some_and(|(_, caller)| caller.is_due(now)) {
            // The next exec no longer waits for the leftover.
            self.v1.leftover.take_if(|it| it.is_killed);
            if self.life.state == SandboxState::Reconnecting {
                self.refuse_queued(self.wrong_state(RUN_CODE));
            } else {
                self.refuse_queued(Failure::ProcessRunning { what: RUN_CODE });
                if let Some(process) = self.process() {
                    self.drop_abandoned(process);
                }
            }
        }
    }

    pub(in crate::machine::sandbox) fn end_v1(&mut self, end: &SandboxEnd) {
        self.v1.reason_due = None;
        self.v1.leftover = None;
        if let Some(exec) = self.v1.exec.take() {
            let failure = Failure::ended(CONFIRM_START, end, Effect::Unknown);
            self.end_exec(exec, failure, end.clone());
        }
        self.refuse_queued(Failure::ended(RUN_CODE, end, Effect::NotApplied));
    }
}
