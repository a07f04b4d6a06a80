//! [`Processes`]: the actors of a sandbox's processes, and the messages to them.

use std::rc::Rc;

use actix::Addr;
use litemap::LiteMap;

use super::{
    ProcessActor, StartKey, StartedProcess,
    inbound::{InboundBatch, ProcessEvent, ProcessInput},
    output::ProcessOutput,
    owner::Owner,
    process::{NewProcess, ProcessReport, Unstarted},
};
use crate::{
    Error,
    machine::{LinkError, OutputPolicy, Process, ProcessFact, ProcessId, SandboxEnd},
    protocol::ExecId,
    transport::Credit,
};

/// The processes that are not settled.
#[derive(Default)]
pub(super) struct Processes {
    links: LiteMap<ProcessId, ProcessLink>,
    /// Whether a caller waits for a status of the sandbox, which may queue behind output.
    awaited: bool,
}

struct ProcessLink {
    /// The id of the exec (v2).
    exec: Option<ExecId>,
    actor: Addr<ProcessActor>,
    /// The actor itself, until its first message.
    unstarted: Option<Unstarted>,
    /// The output, for the caller. Taken when the server reports that the process runs.
    output: Option<ProcessOutput>,
    /// The key of the [`Start`](super::Start) that started the process.
    start: Option<StartKey>,
    /// Whether the process has reported everything.
    settled: bool,
}

impl Drop for ProcessLink {
    /// Tells the process that the sandbox's actor is gone.
    fn drop(&mut self) {
        if !self.settled {
            let end = SandboxEnd::LinkLost {
                cause: LinkError::ActorGone,
                attempts: 0,
            };
            let fact = ProcessEvent::Fact(ProcessFact::SandboxEnded(end));
            self.actor.do_send(ProcessInput::one(fact));
        }
    }
}

impl Processes {
    pub(super) fn is_empty(&self) -> bool {
        self.links.is_empty()
    }

    pub(super) fn spawn(
        &mut self,
        (process, machine): (ProcessId, Box<Process>),
        policy: OutputPolicy,
        sandbox: Rc<dyn Owner<ProcessReport>>,
    ) {
        let exec = machine.place().map(|(exec, _)| exec.clone());
        let (actor, unstarted, output) = ProcessActor::create(NewProcess {
            process,
            machine,
            policy,
            sandbox,
            sandbox_awaited: self.awaited,
        });
        let link = ProcessLink {
            exec,
            actor,
            unstarted: Some(unstarted),
            output: Some(output),
            start: None,
            settled: false,
        };
        self.links.insert(process, link);
    }

    /// Returns the process to the caller that requested it.
    pub(super) fn started(
        &mut self,
        process: ProcessId,
        start: Option<StartKey>,
    ) -> Result<StartedProcess, Error> {
        let link = self.links.get_mut(&process);
        link.and_then(|link| {
            link.start = start;
            Some(StartedProcess {
                process,
                exec: link.exec.clone(),
                actor: link.actor.clone(),
                output: link.output.take()?,
            })
        })
        .ok_or_else(|| Error::actor_gone("run code"))
    }

    /// Whether a caller has received the process.
    pub(super) fn has_started(&self, process: ProcessId) -> bool {
        let link = self.links.get(&process);
        link.is_some_and(|link| link.output.is_none())
    }

    /// The process that a [`Start`](super::Start) started.
    pub(super) fn started_by(&self, start: StartKey) -> Option<ProcessId> {
        let mut links = self.links.iter();
        let found = links.find(|(_, link)| link.start == Some(start));
        found.map(|(process, _)| *process)
    }

    pub(super) fn actor(&self, process: ProcessId) -> Option<&Addr<ProcessActor>> {
        self.links.get(&process).map(|link| &link.actor)
    }

    pub(super) fn tell(&mut self, process: ProcessId, input: ProcessInput) {
        if let Some(link) = self.links.get_mut(&process) {
            link.actor.do_send(input);
            link.unstarted.take().into_iter().for_each(Unstarted::run);
        }
    }

    /// Makes a batch collect the events of this process. Delivers the events of another process
    /// first.
    pub(super) fn turn_to(&mut self, process: ProcessId, batch: &mut InboundBatch) {
        if batch.process() != process {
            self.deliver(batch, None);
            batch.begin(process);
        }
    }

    /// Delivers a batch. The process keeps the credit while its output buffer is full.
    pub(super) fn deliver(&mut self, batch: &mut InboundBatch, credit: Option<Credit>) {
        let events = batch.take();
        if !events.is_empty() || credit.is_some() {
            self.tell(batch.process(), ProcessInput { events, credit });
        }
    }

    pub(super) fn set_awaited(&mut self, awaited: bool) {
        if self.awaited != awaited {
            self.awaited = awaited;
            for link in self.links.values() {
                let event = ProcessEvent::Awaited(awaited);
                link.actor.do_send(ProcessInput::one(event));
            }
        }
    }

    pub(super) fn remove(&mut self, process: ProcessId, settled: bool) {
        if let Some(mut link) = self.links.remove(&process) {
            link.settled = settled;
        }
        // An empty map keeps its memory, which an idle sandbox doesn't need.
        if self.links.is_empty() {
            self.links = LiteMap::new();
        }
    }
}
