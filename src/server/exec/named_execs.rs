//! [`NamedExecs`]: the named execs of a sandbox (protocol v2). Each is kept until its client has
//! acknowledged its end.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use tokio::{sync::mpsc, time::Instant};

use super::{
    execution::Control,
    named_exec::{Became, NamedEvent, NamedExec},
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
    pub(crate) exec: Arc<NamedExec>,
    /// While it runs.
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

/// The named execs of a sandbox.
pub(crate) struct NamedExecs {
    pub(crate) entries: HashMap<ExecId, Entry>,
    /// Those that are over in the order in which they ended, with those that run anywhere between.
    order: VecDeque<ExecId>,
    events: mpsc::Receiver<NamedEvent>,
    pub(crate) sender: mpsc::Sender<NamedEvent>,
}

impl NamedExecs {
    pub(crate) fn new() -> Self {
        let (sender, events) = mpsc::channel(EVENTS_IN_FLIGHT);
        Self {
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
            execs.insert(id, NamedExec::new(ServedExec::restored(stored)), None);
        }
        execs
    }

    /// What a checkpoint holds of them: those that are over and not acknowledged, the latest first to be kept.
    pub(crate) fn stored(&self) -> Vec<StoredExec> {
        let entries = self.order.iter().filter_map(|id| self.entries.get(id));
        let kept = entries.filter_map(|entry| {
            entry.exec.look(|exec| match exec.is_settled() {
                true => None,
                false => exec.store(),
            })
        });
        kept.collect()
    }

    pub(crate) fn insert(&mut self, id: ExecId, exec: Arc<NamedExec>, control: Option<Control>) {
        self.order.push_back(id.clone());
        self.entries.insert(id, Entry { exec, control });
    }

    /// One is over, as the last until now.
    pub(crate) fn ended(&mut self, id: &ExecId) {
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

    /// Whether the processes of one run.
    pub(crate) fn is_alive(&self) -> bool {
        self.alive().next().is_some()
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

    /// Until when the output of those is read whose main process has ended.
    pub(crate) fn reads_until(&self) -> Option<Instant> {
        let controls = self.entries.values().filter_map(|it| it.control.as_ref());
        controls.filter_map(Control::reads_until).max()
    }

    pub(crate) fn alive(&self) -> impl Iterator<Item = &Control> {
        let controls = self.entries.values().filter_map(|it| it.control.as_ref());
        controls.filter(|control| control.is_alive())
    }

    /// What became of one.
    pub(crate) async fn event(&mut self) -> NamedEvent {
        match self.events.recv().await {
            Some(event) => event,
            // It cannot be: a sender is here.
            None => std::future::pending().await,
        }
    }

    /// The link is lost.
    pub(crate) fn detach(&self) {
        for entry in self.entries.values() {
            entry.exec.look(ServedExec::detach);
        }
    }

    /// Kills all that run, because the sandbox goes; resolves when all are told. One that ended by
    /// itself did, whatever is still to be told of it.
    pub(crate) async fn end(&mut self, why: &str) {
        for entry in self.entries.values() {
            if let Some(control) = entry.control.as_ref().filter(|it| it.is_alive()) {
                entry.exec.will_die(Some(why.to_owned()));
                control.kill();
            }
        }
        self.told().await;
    }

    /// Resolves when everything is told of all, none of which goes on. Output that other processes
    /// hold ends soon.
    pub(crate) async fn told(&mut self) {
        for entry in self.entries.values() {
            entry.end_output();
        }
        let controlled =
            |(id, entry): (&ExecId, &Entry)| entry.control.as_ref().map(|_| id.clone());
        let ids: Vec<_> = self.entries.iter().filter_map(controlled).collect();
        for id in ids {
            loop {
                let entry = self.entries.get_mut(&id);
                let Some(control) = entry.and_then(|entry| entry.control.as_mut()) else {
                    break;
                };
                // Its last word must find room.
                tokio::select! {
                    () = control.ended() => self.ended(&id),
                    event = self.events.recv() => match event {
                        Some((id, Became::Ended)) => self.ended(&id),
                        // It never was: the id is free.
                        Some((id, Became::NotStarted(_))) => self.remove(&id),
                        Some((_, Became::Exited)) | None => {}
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
                let why = "Its output is gone: too many executions ended after it, and nobody acknowledged them.";
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
