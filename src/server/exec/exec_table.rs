//! [`ExecTable`]: the execs of a sandbox. A named exec (v2) is kept until its client has
//! acknowledged its end, the exec without a name (v1) until the next one.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use tokio::{sync::mpsc, time::Instant};

use super::{
    execution::Control,
    shared_exec::{Became, ExecEvent, SharedExec},
};
use crate::{
    machine::{ServedExec, StoredExec},
    protocol::ExecId,
};

/// Execs that are remembered after their end.
const REMEMBERED: usize = 1_024;

/// Execs that ended and were not acknowledged, whose output is kept.
const KEPT: usize = 64;

/// News of execs on their way to the sandbox.
const EVENTS_IN_FLIGHT: usize = 16;

pub(crate) struct Entry {
    pub(crate) exec: Arc<SharedExec>,
    /// Until its output has ended.
    pub(crate) control: Option<Control>,
}

impl Entry {
    /// Ends output that goes on after the main process, whether other processes hold it or not.
    fn end_output(&self) {
        if let Some(control) = self.control.as_ref().filter(|it| !it.is_alive()) {
            self.exec.will_die(None);
            control.end_output();
        }
    }
}

/// The execs of a sandbox.
pub(crate) struct ExecTable {
    /// The exec without a name.
    pub(crate) v1: Option<Entry>,
    /// The named execs.
    pub(crate) entries: HashMap<ExecId, Entry>,
    /// Those that are over in the order in which they ended, with those that run anywhere between.
    order: VecDeque<ExecId>,
    events: mpsc::Receiver<ExecEvent>,
    pub(crate) sender: mpsc::Sender<ExecEvent>,
}

impl ExecTable {
    pub(crate) fn new() -> Self {
        let (sender, events) = mpsc::channel(EVENTS_IN_FLIGHT);
        Self {
            v1: None,
            entries: HashMap::new(),
            order: VecDeque::new(),
            events,
            sender,
        }
    }

    /// The execs of a checkpoint.
    pub(crate) fn restored(stored: Vec<StoredExec>) -> Self {
        let mut execs = Self::new();
        for stored in stored {
            let id = stored.exec.clone();
            let (exec, control) = (SharedExec::new(ServedExec::restored(stored), None), None);
            execs.insert(id, Entry { exec, control });
        }
        execs
    }

    /// What a checkpoint holds of them: those that are over and not acknowledged, the latest first
    /// to be kept.
    pub(crate) fn stored(&self) -> Vec<StoredExec> {
        let entries = self.order.iter().filter_map(|id| self.entries.get(id));
        let unsettled = entries.filter(|entry| !entry.exec.look(|exec| exec.is_settled()));
        let stored = unsettled.filter_map(|entry| entry.exec.look(|exec| exec.store()));
        stored.collect()
    }

    pub(crate) fn insert(&mut self, id: ExecId, entry: Entry) {
        self.order.push_back(id.clone());
        self.entries.insert(id, entry);
    }

    /// An exec has ended, as the last until now.
    pub(crate) fn ended(&mut self, id: Option<&ExecId>) {
        let Some(id) = id else {
            // The next one may run already.
            if let Some(v1) = &mut self.v1
                && v1.exec.look(|exec| exec.is_done())
            {
                v1.control = None;
            }
            return;
        };
        if let Some(entry) = self.entries.get_mut(id) {
            entry.control = None;
            self.order.retain(|other| other != id);
            self.order.push_back(id.clone());
        }
    }

    pub(crate) fn remove(&mut self, id: &ExecId) {
        self.entries.remove(id);
        self.order.retain(|other| other != id);
    }

    fn all(&self) -> impl Iterator<Item = &Entry> {
        self.v1.iter().chain(self.entries.values())
    }

    /// Whether a process of an exec runs.
    pub(crate) fn is_alive(&self) -> bool {
        let mut controls = self.all().filter_map(|it| it.control.as_ref());
        controls.any(Control::is_alive)
    }

    /// How many named execs run.
    pub(crate) fn count_alive(&self) -> usize {
        let controls = self.entries.values().filter_map(|it| it.control.as_ref());
        controls.filter(|control| control.is_alive()).count()
    }

    /// Bounds how many execs whose main process has ended have output that goes on. The first to
    /// end anyway end now.
    pub(crate) fn limit_exited(&self, most: usize) {
        let exited = self.entries.values().filter_map(|entry| {
            let until = entry.control.as_ref()?.reads_until()?;
            Some((until, entry))
        });
        let mut exited: Vec<_> = exited.collect();
        exited.sort_by_key(|&(until, _)| until);
        let over = exited.len().saturating_sub(most);
        exited.iter().take(over).for_each(|(_, it)| it.end_output());
    }

    /// Until when output is read, of execs whose main process has exited.
    pub(crate) fn reads_until(&self) -> Option<Instant> {
        let controls = self.all().filter_map(|it| it.control.as_ref());
        controls.filter_map(Control::reads_until).max()
    }

    /// What became of one.
    pub(crate) async fn event(&mut self) -> ExecEvent {
        match self.events.recv().await {
            Some(event) => event,
            // It cannot be: a sender is here.
            None => std::future::pending().await,
        }
    }

    /// The link is lost.
    pub(crate) fn detach(&self) {
        self.all().for_each(|entry| entry.exec.detach());
    }

    /// Kills all execs, because the sandbox ends. Resolves when their ends are known. An exec that
    /// exited by itself keeps that end.
    pub(crate) async fn end(&mut self, why: &str) {
        for entry in self.all() {
            if let Some(control) = entry.control.as_ref().filter(|it| it.is_alive()) {
                entry.exec.will_die(Some(why.to_owned()));
                control.kill();
            }
        }
        self.told().await;
    }

    /// Resolves when all execs have ended. None of them may run. Output that other processes hold
    /// open ends soon.
    pub(crate) async fn told(&mut self) {
        self.all().for_each(Entry::end_output);
        let running = |(id, entry): (&ExecId, &Entry)| entry.control.is_some().then(|| id.clone());
        let named = self.entries.iter().filter_map(running);
        let ids: Vec<_> = named.map(Some).chain([None]).collect();
        for id in ids {
            loop {
                let entry = match &id {
                    Some(id) => self.entries.get_mut(id),
                    None => self.v1.as_mut(),
                };
                let Some(control) = entry.and_then(|entry| entry.control.as_mut()) else {
                    break;
                };
                // The task sends its last event before it ends.
                tokio::select! {
                    () = control.ended() => self.ended(id.as_ref()),
                    event = self.events.recv() => match event {
                        // It never ran: the id is free.
                        Some((Some(id), Became::NotStarted(_))) => self.remove(&id),
                        Some((_, Became::Exited)) | None => {}
                        Some((id, _)) => self.ended(id.as_ref()),
                    },
                }
            }
        }
    }

    /// Forgets what there is too much of.
    pub(crate) fn tidy(&mut self) {
        let ended = |entry: &Entry| entry.control.is_none();
        let mut kept = 0;
        for id in self.order.iter().rev() {
            let Some(entry) = self.entries.get(id).filter(|entry| ended(entry)) else {
                continue;
            };
            kept += usize::from(entry.exec.look(|exec| !exec.is_settled()));
            if kept > KEPT {
                let why = "Its output is gone: too many executions ended after it and were not acknowledged.";
                entry.exec.change(|exec| exec.abandon(why));
            }
        }
        while self.order.len() > REMEMBERED {
            let oldest = self.order.iter().find(|id| {
                let entry = self.entries.get(*id);
                entry.is_none_or(ended)
            });
            let Some(oldest) = oldest.cloned() else {
                return;
            };
            self.remove(&oldest);
        }
    }
}
