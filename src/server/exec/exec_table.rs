//! [`ExecTable`]: the execs of a sandbox.
//!
//! The output and the end of a named exec (v2) are kept until the client has acknowledged the end.
//! The v1 exec is kept until the next one starts.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use tokio::{sync::mpsc, time::Instant};

use super::{
    execution::{Control, Kind},
    shared_exec::{Became, ExecEvent, SharedExec},
};
use crate::{
    machine::{ServedExec, StoredExec},
    protocol::ExecId,
};

/// Maximum number of named execs in the table. Above it, ended execs are removed, the oldest first.
const REMEMBERED: usize = 1_024;

/// How many ended execs keep output that the client hasn't acknowledged. Older ones abandon it.
const KEPT: usize = 64;

/// Maximum number of builtins whose outcome the client has not acknowledged. Their output and
/// outcome are never abandoned. Passive builtins count apart, with the same maximum, so that idle
/// connections don't hold back other operations.
const MAX_BUILTINS: usize = 1_024;

/// Capacity of the channel that carries the events of execs to the sandbox.
const EVENTS_IN_FLIGHT: usize = 16;

pub(crate) struct Entry {
    pub(crate) exec: Arc<SharedExec>,
    /// `None` once the output of the exec has ended.
    pub(crate) control: Option<Control>,
    pub(crate) kind: Kind,
}

impl Entry {
    pub(crate) fn is_builtin(&self) -> bool {
        matches!(self.kind, Kind::Builtin | Kind::Passive)
    }

    /// Whether this is a builtin whose outcome the client has not acknowledged.
    fn is_unsettled_builtin(&self) -> bool {
        self.is_builtin() && !self.exec.look(|exec| exec.is_settled())
    }

    /// If the main process has exited, ends the output soon, even if other processes hold it open.
    fn end_output(&self) {
        if let Some(control) = self.control.as_ref().filter(|it| !it.is_alive()) {
            self.exec.will_die(None);
            control.end_output();
        }
    }
}

/// The execs of a sandbox.
pub(crate) struct ExecTable {
    /// The last v1 exec.
    pub(crate) v1: Option<Entry>,
    /// The named execs.
    pub(crate) entries: HashMap<ExecId, Entry>,
    /// The ids of the named execs. Ended execs are in the order of their ends. Running execs can be
    /// anywhere between them.
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

    /// Creates the table of a restored sandbox from the execs of its checkpoint.
    pub(crate) fn restored(stored: Vec<StoredExec>) -> Self {
        let mut execs = Self::new();
        for stored in stored {
            let id = stored.exec.clone();
            let kind = match stored.end.outcome {
                Some(_) => Kind::Builtin,
                None => Kind::Program,
            };
            let (exec, control) = (SharedExec::new(ServedExec::restored(stored), None), None);
            let entry = Entry {
                exec,
                control,
                kind,
            };
            execs.insert(id, entry);
        }
        execs
    }

    /// Returns the ended execs that the client hasn't acknowledged, for a checkpoint. They are in
    /// the order of their ends.
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

    /// Records that an exec has ended. It becomes the latest in the order of ends.
    pub(crate) fn ended(&mut self, id: Option<&ExecId>) {
        let Some(id) = id else {
            // The next v1 exec may already be running, so check that this one has ended.
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

    /// Whether the main process of any exec is running, or a builtin that isn't passive.
    pub(crate) fn is_alive(&self) -> bool {
        self.is_busy(true)
    }

    /// Whether an exec keeps the sandbox from idling. Without a client, a builtin or a terminal
    /// doesn't: it has no time limit, and may wait for the client.
    pub(crate) fn is_busy(&self, has_client: bool) -> bool {
        let mut controls = self.all().filter_map(|it| it.control.as_ref());
        controls.any(|control| {
            let counts = match control.kind {
                Kind::Program => true,
                Kind::Terminal | Kind::Builtin => has_client,
                Kind::Passive => false,
            };
            counts && control.is_alive()
        })
    }

    /// Returns the number of named execs whose main process is running. Builtins don't count.
    pub(crate) fn count_alive(&self) -> usize {
        let controls = self.entries.values().filter_map(|it| it.control.as_ref());
        controls.filter(|control| control.runs_program()).count()
    }

    /// Whether the limit on unacknowledged builtins of this kind is reached, so that no more may
    /// start.
    pub(crate) fn has_many_builtins(&self, kind: Kind) -> bool {
        let entries = self.entries.values().filter(|entry| entry.kind == kind);
        let unsettled = entries.filter(|entry| entry.is_unsettled_builtin());
        self.entries.len() >= MAX_BUILTINS && unsettled.count() >= MAX_BUILTINS
    }

    /// Ends the builtins and terminals that are left, because the sandbox is about to be stored.
    pub(crate) fn end_interactive(&self, why: &str) {
        for entry in self.all() {
            if let Some(control) = &entry.control
                && control.kind != Kind::Program
                && control.is_alive()
            {
                entry.exec.will_die(Some(why.to_owned()));
                control.kill();
            }
        }
    }

    /// Limits how many execs have exited but still have open output. Ends the output of the execs
    /// above the limit, starting with the earliest deadline.
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

    /// Returns the latest deadline of the execs that have exited but still have open output.
    pub(crate) fn reads_until(&self) -> Option<Instant> {
        let controls = self.all().filter_map(|it| it.control.as_ref());
        controls.filter_map(Control::reads_until).max()
    }

    /// Waits for the next event of an exec.
    pub(crate) async fn event(&mut self) -> ExecEvent {
        match self.events.recv().await {
            Some(event) => event,
            // Unreachable: the table holds a sender, so the channel stays open.
            None => std::future::pending().await,
        }
    }

    /// Detaches all execs from the client, because its link is lost.
    pub(crate) fn detach(&self) {
        self.all().for_each(|entry| entry.exec.detach());
    }

    /// Kills all execs, because the sandbox ends. Resolves when all have ended. An exec that exits
    /// by itself before the kill keeps its own end.
    pub(crate) async fn end(&mut self, why: &str) {
        for entry in self.all() {
            if let Some(control) = entry.control.as_ref().filter(|it| it.is_alive()) {
                entry.exec.will_die(Some(why.to_owned()));
                control.kill();
            }
        }
        self.told().await;
    }

    /// Waits until all execs have ended. The caller makes sure that no main process is running or
    /// that all are being killed. Output that other processes hold open ends soon.
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
                        // The code never ran, so the client may use the id again.
                        Some((Some(id), Became::NotStarted(_))) => self.remove(&id),
                        Some((_, Became::Exited)) | None => {}
                        Some((id, _)) => self.ended(id.as_ref()),
                    },
                }
            }
        }
    }

    /// Applies the limits [`KEPT`] and [`REMEMBERED`].
    pub(crate) fn tidy(&mut self) {
        let ended = |entry: &Entry| entry.control.is_none();
        let mut kept = 0;
        for id in self.order.iter().rev() {
            let Some(entry) = self.entries.get(id).filter(|entry| ended(entry)) else {
                continue;
            };
            if entry.is_builtin() {
                continue;
            }
            kept += usize::from(entry.exec.look(|exec| !exec.is_settled()));
            if kept > KEPT {
                let why = "Its output is gone: too many executions ended after it and were not acknowledged.";
                entry.exec.change(|exec| exec.abandon(why));
            }
        }
        // Unacknowledged builtins don't count toward the limit on remembered execs.
        if self.order.len() <= REMEMBERED {
            return;
        }
        let builtins = self.entries.values().filter(|it| it.is_unsettled_builtin());
        let most = REMEMBERED + builtins.count();
        while self.order.len() > most {
            let oldest = self.order.iter().find(|id| {
                let entry = self.entries.get(*id);
                entry.is_none_or(|entry| ended(entry) && !entry.is_unsettled_builtin())
            });
            let Some(oldest) = oldest.cloned() else {
                return;
            };
            self.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passive_builtins_hold_back_no_other_builtin() {
        let mut execs = ExecTable::new();
        for number in 0..MAX_BUILTINS {
            assert!(!execs.has_many_builtins(Kind::Passive));
            let id = ExecId::from(format!("e{number}"));
            let entry = Entry {
                exec: SharedExec::new(ServedExec::new(id.clone(), 1_024), None),
                control: None,
                kind: Kind::Passive,
            };
            execs.insert(id, entry);
        }
        assert!(execs.has_many_builtins(Kind::Passive));
        assert!(!execs.has_many_builtins(Kind::Builtin));
    }
}
