//! What the server says, and what follows from it.

use std::time::{Duration, Instant};

use super::{Exec, ExecPhase, Pending, Sandbox, SandboxAction, SandboxReply};
use crate::{
    machine::{Failure, LinkError, ProcessFact, ProcessId, SandboxEnd, SandboxEvent, SandboxState},
    protocol::{
        Identity, OutputPiece, OutputView, ServerMessage, Severity, Status, StatusUpdate,
        StdStream, excerpt,
    },
};

/// How long after `DELETED` the `KILLED` or `CHECKPOINTED` that it is part of may take.
const AFTER_DELETED: Duration = Duration::from_secs(10);

/// Deployed servers answer stdin that comes after the end of a process with `EXECUTION_ERROR` and
/// this reason. It must not be taken for the answer to the next exec.
const NO_PROCESS: &str = "No process is running";

impl Sandbox {
    pub(super) fn handle_fact(&mut self, fact: ServerMessage, now: Instant) {
        if matches!(self.state, SandboxState::Ended(_)) {
            return;
        }
        match fact {
            ServerMessage::Output(piece) => self.handle_output(piece),
            ServerMessage::Status(fact) => self.handle_status(fact, now),
            ServerMessage::Identity(identity) => self.handle_identity(identity),
            ServerMessage::Error(error) => {
                let reason = self.redact(error.message);
                self.event(SandboxEvent::Reason(reason));
            }
            ServerMessage::StdinAck { exec, offset } => self.handle_stdin_taken(&exec, offset),
            ServerMessage::Unknown(unknown) => {
                let event = unknown.event.map(|event| self.redact(event));
                self.event(SandboxEvent::UnknownEvent { event });
            }
        }
    }

    pub(super) fn handle_output(&mut self, piece: OutputPiece) {
        let place = piece.place.as_ref().map(|place| place.exec.as_str());
        if let Some(process) = self.process_of_output(place, piece.stream, piece.data.len()) {
            self.actions
                .push_back(SandboxAction::Output(process, piece));
        }
    }

    pub(super) fn whose_output(&mut self, output: &OutputView<'_>) -> Option<ProcessId> {
        let exec = output.place.map(|(exec, _)| exec);
        self.process_of_output(exec, output.stream, output.data.len())
    }

    /// Whose output it is. `None`: nobody's, which is told where it matters.
    fn process_of_output(
        &mut self,
        exec: Option<&str>,
        stream: StdStream,
        bytes: usize,
    ) -> Option<ProcessId> {
        if let Some(exec) = exec {
            let process = self.named.find(exec);
            if process.is_none() {
                self.event(SandboxEvent::StrayOutput { bytes });
            }
            return process;
        }
        match &self.exec {
            Some(Exec {
                process,
                phase: ExecPhase::Running,
            }) => return Some(*process),
            // Output of a process that nobody wants any more.
            Some(Exec {
                phase: ExecPhase::Abandoned { .. },
                ..
            }) => {}
            _ if self.state == SandboxState::Creating => {
                self.violation(format!("{stream} before the sandbox was created"));
            }
            _ => self.event(SandboxEvent::StrayOutput { bytes }),
        }
        None
    }

    fn handle_identity(
        &mut self,
        Identity {
            sandbox_id,
            sandbox_token,
            ..
        }: Identity,
    ) {
        match &self.identity {
            None => {
                self.identity = Some((sandbox_id.clone(), sandbox_token.clone()));
                self.actions
                    .push_back(SandboxAction::Resume(sandbox_id.clone(), sandbox_token));
                self.event(SandboxEvent::Created { sandbox_id });
            }
            Some((id, token)) if *id == sandbox_id && *token == sandbox_token => {}
            Some((id, _)) if *id == sandbox_id => {
                self.violation("the server changed the token of the sandbox".to_owned());
            }
            Some(_) => {
                let other = excerpt(sandbox_id.as_str().as_bytes());
                self.violation(format!("the server now calls the sandbox `{other}`"));
            }
        }
    }

    fn handle_status(&mut self, fact: StatusUpdate, now: Instant) {
        let StatusUpdate {
            status,
            message,
            exec,
        } = fact;
        let reason = message.map(|reason| self.redact(reason));
        let status = match status {
            Status::Unknown(name) => Status::from_wire(&self.redact(name.into())),
            known => known,
        };
        if self.observed {
            self.event(SandboxEvent::Status {
                status: status.clone(),
                reason: reason.clone(),
            });
        }

        if let Some(update) = exec {
            return self.handle_named_status(status, reason, *update);
        }
        match status {
            Status::SandboxRunning => self.handle_running(now),
            Status::SandboxInUse if self.state == SandboxState::Reconnecting => {
                if let Some(epoch) = self.link {
                    self.actions
                        .push_back(SandboxAction::RefuseLink(epoch, LinkError::InUse));
                }
            }

            Status::ExecutionRunning
            | Status::ExecutionDone
            | Status::ExecutionForceKilled
            | Status::ExecutionError
            | Status::ExecutionUnsupportedLanguageError
                if self.state == SandboxState::Creating =>
            {
                self.violation(format!("{status} before the sandbox was created"));
            }
            Status::ExecutionRunning => self.handle_execution_running(),
            Status::ExecutionDone => self.handle_execution_done(),
            Status::ExecutionForceKilled => self.handle_force_killed(now),
            Status::ExecutionForceKillError => {
                if let Some(process) = self.kills_owed.pop_front() {
                    self.dying.take_if(|dying| *dying == process);
                    let failure = Failure::Refused {
                        what: "kill the process",
                        status,
                        reason,
                    };
                    self.actions.push_back(SandboxAction::Tell(
                        process,
                        ProcessFact::KillRefused(failure),
                    ));
                    self.give_up_abandoned(process);
                    self.leftover_kill_refused(process);
                    self.look_after_queued();
                }
            }
            Status::ExecutionError
                if reason
                    .as_deref()
                    .is_some_and(|reason| reason.contains(NO_PROCESS)) => {}
            Status::ExecutionError | Status::ExecutionUnsupportedLanguageError => {
                self.handle_not_started(status, reason)
            }

            Status::ExecutionInProgressError => {
                if let Some(Pending { request, .. }) = self.checkpoint.take() {
                    self.settle(
                        request,
                        Err(Failure::Refused {
                            what: "checkpoint the sandbox",
                            status,
                            reason,
                        }),
                    );
                }
                if self.state == SandboxState::Checkpointing {
                    self.go_on();
                }
                self.confirm_link();
                if self.abandoned {
                    self.kill_abandoned(now);
                }
            }
            Status::SandboxCheckpointing => self.leave_running(SandboxState::Checkpointing),
            Status::SandboxCheckpointed => {
                let end = self.checkpointed();
                self.finish(end);
            }
            // The server begins with this one: of those before it nothing comes any more.
            Status::FilesystemSnapshotCreating if self.snapshot.is_some() => {
                self.snapshots_late = 0;
            }
            Status::FilesystemSnapshotCreated | Status::FilesystemSnapshotError
                if self.snapshots_late > 0 =>
            {
                self.snapshots_late -= 1;
            }
            Status::FilesystemSnapshotCreated => {
                if let Some(Pending { request, .. }) = self.snapshot.take() {
                    self.settle(request, Ok(SandboxReply::Done));
                }
            }
            Status::FilesystemSnapshotError => {
                if let Some(Pending { request, .. }) = self.snapshot.take() {
                    self.settle(
                        request,
                        Err(Failure::Refused {
                            what: "snapshot the filesystem",
                            status,
                            reason,
                        }),
                    );
                }
            }

            Status::SandboxKilling => self.leave_running(SandboxState::Killing),
            Status::SandboxKilled => self.finish(SandboxEnd::Killed),
            Status::SandboxKillError => {
                self.kill_wanted = false;
                self.kill_sent = false;
                self.kill_left = false;
                for Pending { request, .. } in std::mem::take(&mut self.kills) {
                    let (status, reason) = (status.clone(), reason.clone());
                    self.settle(
                        request,
                        Err(Failure::Refused {
                            what: "kill the sandbox",
                            status,
                            reason,
                        }),
                    );
                }
                if self.abandoned {
                    // Nobody is left who could try again.
                    return self.finish(SandboxEnd::Closed);
                }
                if self.state == SandboxState::Killing {
                    self.go_on();
                }
                self.confirm_link();
            }
            Status::SandboxDeleted => match self.state {
                // Part of a kill or a checkpoint, whose own end follows.
                SandboxState::Killing | SandboxState::Checkpointing => {
                    self.deleted_due.get_or_insert(now + AFTER_DELETED);
                    self.actions.push_back(SandboxAction::Disarm);
                }
                _ => self.finish(self.deleted()),
            },
            Status::SandboxDeleting => self.deleting = true,
            Status::SandboxLockReleaseRequested => {
                // Another client takes the sandbox: it must not be taken back.
                self.handing_off = true;
                self.actions.push_back(SandboxAction::Disarm);
            }

            status
                if matches!(
                    status.severity(),
                    Severity::Fatal | Severity::FatalWithoutReason
                ) =>
            {
                self.finish(SandboxEnd::Failed { status, reason });
            }
            _ => {}
        }
    }

    fn handle_running(&mut self, now: Instant) {
        if self.identity.is_none() {
            return self.violation("SANDBOX_RUNNING before the sandbox's id".to_owned());
        }
        let reconnected = match self.state {
            SandboxState::Creating | SandboxState::Attaching => false,
            SandboxState::Reconnecting => true,
            _ => return self.handle_nothing_to_resume(),
        };
        self.ready_due = None;
        self.set_state(SandboxState::Running);
        self.confirm_link();
        for request in std::mem::take(&mut self.ready) {
            self.settle(request, Ok(SandboxReply::Ready));
        }
        if reconnected {
            self.event(SandboxEvent::Reconnected);
            self.resume_process();
            self.resume_named();
        }
        if self.abandoned {
            self.kill_abandoned(now);
        } else {
            self.send_kill();
        }
        self.look_after_queued();
    }

    /// `SANDBOX_RUNNING` on a link that runs: so a v2 server answers a `reconnect` of v1 where it has no exec.
    fn handle_nothing_to_resume(&mut self) {
        // One that has begun since is another's.
        if let Some(resuming) = self.resuming.take()
            && let Some(Exec { process, .. }) = self.exec.take_if(|it| it.process == resuming)
        {
            let reason = "the server that the new link leads to does not have it".to_owned();
            let lost = SandboxEnd::ProcessLost {
                reason: Some(reason),
            };
            self.actions.push_back(SandboxAction::Tell(
                process,
                ProcessFact::SandboxEnded(lost),
            ));
            self.look_after_queued();
        }
    }

    /// After a new attach the server sends the output of the exec only when asked. It must not be
    /// asked when there is none.
    fn resume_process(&mut self) {
        self.resuming = self.process();
        self.kill_leftover();
        match &self.exec {
            Some(Exec {
                process,
                phase: ExecPhase::Running,
            }) => {
                let process = *process;
                self.send(&crate::protocol::ClientMessage::Reconnect);
                self.actions
                    .push_back(SandboxAction::Tell(process, ProcessFact::LinkUp));
            }
            Some(Exec {
                process,
                phase: ExecPhase::Abandoned { .. },
            }) => {
                let process = *process;
                self.send(&crate::protocol::ClientMessage::Reconnect);
                self.kill_process(process);
            }
            Some(Exec {
                phase: ExecPhase::Starting { .. },
                ..
            })
            | None => {}
        }
    }

    fn handle_execution_running(&mut self) {
        self.resuming = None;
        let Some(exec) = &mut self.exec else { return };
        let process = exec.process;
        match exec.phase {
            ExecPhase::Starting { request, .. } => {
                exec.phase = ExecPhase::Running;
                self.actions
                    .push_back(SandboxAction::Tell(process, ProcessFact::LinkUp));
                self.event(SandboxEvent::ProcessStarted(process));
                self.settle(request, Ok(SandboxReply::Started(process)));
            }
            ExecPhase::Abandoned { running: false } => {
                exec.phase = ExecPhase::Abandoned { running: true };
                // The first kill may have come before there was anything to kill.
                self.kill_process(process);
            }
            // Said again after `reconnect`.
            ExecPhase::Running | ExecPhase::Abandoned { running: true } => {}
        }
    }

    fn handle_execution_done(&mut self) {
        // `DONE` also follows a refused exec; one that is still starting cannot be done.
        if let Some(Exec {
            process,
            phase: ExecPhase::Running | ExecPhase::Abandoned { running: true },
        }) = self.exec
        {
            self.exec = None;
            self.actions
                .push_back(SandboxAction::Tell(process, ProcessFact::Done));
            self.look_after_queued();
        } else if self.exec.is_none() {
            self.leftover_done();
        }
    }

    fn handle_force_killed(&mut self, now: Instant) {
        // Answers come in the order of the kills. The answer to a kill of a process that has ended
        // meanwhile must not be taken for news of the next one; a handoff kills whatever runs.
        let owed = self.kills_owed.pop_front().filter(|_| !self.handing_off);
        if let Some(process) = owed {
            self.leftover_killed(process, now);
        }
        // One that the server has not started was not killed by it.
        let current = self
            .exec
            .as_ref()
            .filter(|exec| {
                !matches!(
                    exec.phase,
                    ExecPhase::Starting { .. } | ExecPhase::Abandoned { running: false }
                )
            })
            .map(|exec| exec.process);
        if let Some(process) = current
            && owed.is_none_or(|owed| owed == process)
        {
            self.actions
                .push_back(SandboxAction::Tell(process, ProcessFact::ForceKilled));
        }
    }

    /// The server refused an exec. While a process runs, it is the refusal of something else.
    fn handle_not_started(&mut self, status: Status, reason: Option<String>) {
        let Some((process, phase)) = self.exec.as_ref().map(|exec| (exec.process, &exec.phase))
        else {
            return;
        };
        match *phase {
            ExecPhase::Starting { request, .. } => {
                self.exec = None;
                self.settle(
                    request,
                    Err(Failure::Refused {
                        what: "run the code",
                        status,
                        reason,
                    }),
                );
                self.forget(process);
                self.look_after_queued();
            }
            ExecPhase::Abandoned { running: false } => {
                self.exec = None;
                self.forget(process);
                self.look_after_queued();
            }
            ExecPhase::Running | ExecPhase::Abandoned { running: true } => {}
        }
    }

    /// A process that never was: nobody can wait for it, but its actor must end.
    pub(super) fn forget(&mut self, process: ProcessId) {
        self.actions
            .push_back(SandboxAction::Tell(process, ProcessFact::Done));
    }

    /// The sandbox goes on after what was refused, or towards the kill that it still owes.
    fn go_on(&mut self) {
        self.set_state(if self.kill_sent {
            SandboxState::Killing
        } else {
            SandboxState::Running
        });
    }

    /// The link is good. Arms the connection, unless a loss is to be final all the same.
    fn confirm_link(&mut self) {
        let runs = matches!(
            self.state,
            SandboxState::Running | SandboxState::Checkpointing | SandboxState::Killing
        );
        if let Some(epoch) = self.link.filter(|_| runs) {
            self.actions.push_back(SandboxAction::ConfirmLink(epoch));
            if self.handing_off || self.kill_sent || self.checkpoint.is_some() {
                self.actions.push_back(SandboxAction::Disarm);
            }
        }
    }

    /// The server began to kill or checkpoint the sandbox, on whoever's wish.
    fn leave_running(&mut self, state: SandboxState) {
        if matches!(
            self.state,
            SandboxState::Running | SandboxState::Killing | SandboxState::Checkpointing
        ) {
            self.set_state(state);
        }
    }
}
