//! A client, a server, the link between them, and time.

use std::{
    collections::{BTreeMap, VecDeque},
    time::{Duration, Instant},
};

use super::{
    Step,
    client::{Asked, Client, Out},
    process::{Exec, Speed},
    server::{Random, Server},
};
use crate::{
    machine::Epoch,
    protocol::{ExecId, ExecOptions, StdStream, Version},
};

/// The number of messages that the server's side of a link buffers.
const LINK: usize = 6;
/// More turns than this at one instant are a hang.
const MOST_TURNS: usize = 100_000;

struct Wire {
    epoch: Epoch,
    version: Version,
    up: VecDeque<(u64, String)>,
    down: VecDeque<(u64, String)>,
    /// Whether the link is dead, so that messages are lost.
    dead: bool,
    client_notices: Option<u64>,
    server_notices: Option<u64>,
}

/// An exec that another client resumes.
pub(super) struct Carried {
    offsets: [u64; 2],
    window: u64,
    heard: [Vec<u8>; 2],
    closed: bool,
}

pub(super) struct World {
    start: Instant,
    pub(super) time: u64,
    pub(super) server: Server,
    pub(super) client: Client,
    clients: u64,
    wire: Option<Wire>,
    dial: Option<(u64, Epoch)>,
    dials_fail: u32,
    /// The protocol version of the next link.
    next_version: Version,
    latency: u64,
    random: Random,
    adopt: BTreeMap<ExecId, Carried>,
    /// The input that earlier clients wrote to each exec.
    pub(super) written_before: BTreeMap<ExecId, Vec<Vec<u8>>>,
    /// Messages to the server that were lost.
    lost: Vec<String>,
    /// Execs that the client reported as never started.
    pub(super) never_ran: Vec<ExecId>,
}

impl World {
    pub(super) fn new(seed: u64) -> Self {
        #[allow(
            clippy::disallowed_methods,
            reason = "any origin of virtual time will do"
        )]
        let start = Instant::now();
        let mut random = Random(seed);
        Self {
            start,
            time: 0,
            server: Server::new(seed),
            client: Client::new(0, seed),
            clients: 0,
            wire: None,
            dial: None,
            dials_fail: 0,
            next_version: Version::V2,
            latency: 1 + random.below(60),
            random,
            adopt: BTreeMap::new(),
            written_before: BTreeMap::new(),
            lost: Vec::new(),
            never_ran: Vec::new(),
        }
    }

    fn now(&self) -> Instant {
        self.start + Duration::from_millis(self.time)
    }

    fn millis(&self, at: Instant) -> u64 {
        let since = at.saturating_duration_since(self.start);
        // Rounds up, so that the timeout is due at that time.
        u64::try_from(since.as_nanos().div_ceil(1_000_000)).expect("a time")
    }

    pub(super) fn step(&mut self, step: Step) {
        let now = self.now();
        match step {
            Step::Exec {
                script,
                window,
                input,
                timeout,
                grace,
            } => {
                if self.client.is_armed() && self.client.sandbox.version() == Version::V2 {
                    let options = ExecOptions {
                        window: Some(window),
                        timeout_ms: timeout,
                        output_grace_ms: grace,
                        ..ExecOptions::default()
                    };
                    let number = self.server.scripts.len();
                    self.server.scripts.push(script);
                    self.client.exec(number, &options, input, now);
                }
            }
            Step::CancelExec(pick) => {
                let pending = &self.client.pending;
                let execs = pending
                    .iter()
                    .filter(|(_, (_, it))| matches!(it, Asked::Exec));
                let execs: Vec<_> = execs.map(|(&request, _)| request).collect();
                if !execs.is_empty() {
                    self.client.sandbox.cancel_exec(execs[pick % execs.len()]);
                }
            }
            Step::Write(pick, data) => {
                let written = |exec: &mut Exec| {
                    exec.written.extend_from_slice(&data);
                    Asked::Write(data.len())
                };
                self.client.ask(pick, written, |process, request| {
                    process.write_stdin(request, data.clone());
                });
            }
            Step::Close(pick) => {
                let closed = |exec: &mut Exec| {
                    exec.closed = true;
                    Asked::Close
                };
                self.client
                    .ask(pick, closed, |it, request| it.close_stdin(request));
            }
            Step::Flush(pick) => {
                let written = |exec: &mut Exec| Asked::Flush(exec.accepted as u64);
                self.client
                    .ask(pick, written, |it, request| it.flush_stdin(request));
            }
            Step::Wait(pick) => {
                self.client
                    .ask(pick, |_| Asked::Wait, |it, request| it.wait(request));
            }
            Step::Kill(pick) => {
                let kill = |it: &mut crate::machine::Process, request| it.kill(Some(request), now);
                self.client.ask(pick, |_| Asked::Kill, kill);
            }
            Step::Read(pick, stream, speed) => {
                let count = self.client.execs.len().max(1);
                if let Some(exec) = self.client.execs.values_mut().nth(pick % count) {
                    exec.set_speed(stream, speed);
                }
            }
            Step::Cut {
                up,
                down,
                client,
                server,
            } => self.cut(up, down, client, server),
            Step::DialsFail(count) => self.dials_fail = count,
            Step::Restore => {
                self.cut(2, 2, 0, 0);
                self.server.restore();
                // Messages in flight are lost.
                if let Some(wire) = &mut self.wire {
                    wire.server_notices = Some(self.time);
                    self.lose(0);
                }
            }
            Step::Downgrade => {
                self.next_version = Version::V1;
                self.cut(2, 2, 0, 0);
                self.pass(30_000);
                self.next_version = Version::V2;
            }
            Step::Handover => self.hand_over(),
            Step::Time(millis) => self.pass(millis),
        }
        self.settle();
    }

    fn cut(&mut self, up: usize, down: usize, client: u64, server: u64) {
        let armed = self.client.is_armed();
        if let Some(wire) = self.wire.as_mut().filter(|wire| !wire.dead && armed) {
            wire.dead = true;
            wire.down.truncate(down);
            wire.client_notices = Some(self.time + self.latency + client);
            wire.server_notices = Some(self.time + self.latency + server);
            self.lose(up);
        }
    }

    /// Loses all messages in flight to the server except the first `but`.
    fn lose(&mut self, but: usize) {
        if let Some(wire) = &mut self.wire {
            let lost = wire.up.drain(but.min(wire.up.len())..);
            self.lost.extend(lost.map(|(_, text)| text));
        }
    }

    /// Whether the last message about an exec was lost. It is never repeated.
    pub(super) fn is_farewell_lost(&self, id: &ExecId) -> bool {
        let names = |text: &&String| text.contains(&format!("\"{}\"", id.as_str()));
        let lost = self.lost.iter().filter(names);
        lost.filter(|text| text.contains("done")).count() > 0
    }

    fn hand_over(&mut self) {
        self.next_version = Version::V2;
        self.cut(3, 0, 0, 100);
        if self.wire.as_ref().is_some_and(|wire| !wire.dead) {
            self.lose(0);
            self.wire = None;
            self.server.detach();
        }
        self.clients += 1;
        let seed = self.random.below(u64::MAX);
        let next = Client::new(self.clients, seed);
        let mut last = std::mem::replace(&mut self.client, next);
        self.dial = None;
        if let Some(wire) = &mut self.wire {
            wire.down.clear();
            wire.client_notices = None;
        }
        for exec in last.execs.values_mut() {
            self.written_before
                .entry(exec.id.clone())
                .or_default()
                .push(std::mem::take(&mut exec.written));
            if exec.claimed && !exec.settled && !exec.left && !exec.abandoned {
                let (id, offsets, window) = exec.place();
                let heard = std::mem::take(&mut exec.heard);
                let carried = Carried {
                    offsets,
                    window,
                    heard,
                    closed: exec.closed || exec.closed_before,
                };
                self.adopt.insert(id, carried);
            }
        }
    }

    fn adopt(&mut self) {
        // A v1 server doesn't know v2 execs.
        if self.client.is_running() && self.client.sandbox.version() == Version::V2 {
            for (id, carried) in std::mem::take(&mut self.adopt) {
                let Carried {
                    offsets,
                    window,
                    heard,
                    closed,
                } = carried;
                let exec = self.client.adopt(id, offsets, window);
                exec.heard = heard;
                exec.closed_before = closed;
            }
        }
    }

    // ----- time

    /// Advances the time by this many milliseconds.
    pub(super) fn pass(&mut self, millis: u64) {
        let until = self.time + millis;
        self.settle();
        while let Some(due) = self.next_due().filter(|&due| due <= until) {
            assert!(due > self.time, "what is due is not done");
            self.time = due;
            self.settle();
        }
        self.time = until;
        self.settle();
    }

    fn next_due(&self) -> Option<u64> {
        let wire = self.wire.as_ref();
        let readers = self.client.execs.values().filter_map(Exec::reads_at);
        let readers = readers.filter(|&due| due > self.time).min();
        let client = self.client.poll_timeout().map(|due| self.millis(due));
        [
            self.client.mail_due(),
            client,
            readers,
            self.server.next_due(),
            self.dial.map(|(due, _)| due),
            wire.and_then(|wire| wire.up.front()).map(|&(due, _)| due),
            wire.and_then(|wire| wire.down.front()).map(|&(due, _)| due),
            wire.and_then(|wire| wire.client_notices),
            wire.and_then(|wire| wire.server_notices),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// Does everything that is due at this instant.
    pub(super) fn settle(&mut self) {
        for _ in 0..MOST_TURNS {
            let ran = self.turn();
            self.judge();
            if !ran {
                return;
            }
        }
        panic!("the history does not end");
    }

    fn turn(&mut self) -> bool {
        let (time, now) = (self.time, self.now());
        let mut ran = self.client.run(time, now);
        while let Some(out) = self.client.out.pop_front() {
            ran = true;
            self.handle_out(out);
        }
        self.adopt();
        ran |= self.dialled(now);
        ran |= self.deliver(now);
        ran |= self.server.run(time);
        ran |= self.serve();
        ran |= self.notice(now);
        for exec in self.client.execs.values_mut() {
            ran |= exec.read(time, now);
        }
        if self.client.poll_timeout().is_some_and(|due| due <= now) {
            self.client.handle_timeout(now);
            ran = true;
        }
        ran
    }

    fn handle_out(&mut self, out: Out) {
        match out {
            Out::Dial(epoch) => self.dial = Some((self.time + 1 + self.random.below(50), epoch)),
            Out::Drop(epoch) => {
                self.dial = self.dial.filter(|&(_, dialling)| dialling != epoch);
            }
            Out::Lost(text) => self.lost.push(text),
            Out::Send(text) => {
                let due = self.time + self.latency;
                match self.wire.as_mut().filter(|wire| !wire.dead) {
                    Some(wire) => wire.up.push_back((due, text)),
                    None => self.lost.push(text),
                }
            }
        }
    }

    fn dialled(&mut self, now: Instant) -> bool {
        let Some((_, epoch)) = self.dial.take_if(|&mut (due, _)| due <= self.time) else {
            return false;
        };
        if self.dials_fail > 0 && self.client.is_armed() {
            self.dials_fail -= 1;
            self.client.lost(epoch, now);
            return true;
        }
        let version = self.next_version;
        self.lose(0);
        self.server.attach();
        self.wire = Some(Wire {
            epoch,
            version,
            up: VecDeque::new(),
            down: VecDeque::new(),
            dead: false,
            client_notices: None,
            server_notices: None,
        });
        self.client.opened(epoch, version, now);
        true
    }

    /// Delivers messages that arrive now.
    fn deliver(&mut self, now: Instant) -> bool {
        let Some(wire) = &mut self.wire else {
            return false;
        };
        let mut arrived = false;
        let due = |queue: &VecDeque<(u64, String)>, time| {
            queue.front().is_some_and(|&(due, _)| due <= time)
        };
        while due(&wire.up, self.time) {
            let (_, text) = wire.up.pop_front().expect("a message");
            assert_eq!(wire.version, Version::V2, "v1 has no {text}");
            self.server.handle(&text, self.time);
            arrived = true;
        }
        while due(&wire.down, self.time) {
            let (_, text) = wire.down.pop_front().expect("a message");
            self.client.frame(wire.epoch, text, now);
            arrived = true;
        }
        arrived
    }

    /// Lets the server write.
    fn serve(&mut self) -> bool {
        let Some(wire) = &mut self.wire else {
            return false;
        };
        let mut served = false;
        while wire.server_notices.is_none_or(|due| due > self.time)
            && wire.down.len() < LINK
            && let Some(message) = self.server.poll_message()
        {
            served = true;
            if !wire.dead {
                let due = self.time + self.latency;
                wire.down.push_back((due, message.encode()));
            }
        }
        served
    }

    /// Lets the ends notice that the link is dead, if it is time.
    fn notice(&mut self, now: Instant) -> bool {
        let Some(wire) = &mut self.wire else {
            return false;
        };
        let time = self.time;
        let server = wire.server_notices.take_if(|&mut due| due <= time);
        let client = wire.client_notices.take_if(|&mut due| due <= time);
        if server.is_some() {
            self.lose(0);
            self.server.detach();
        }
        if client.is_some()
            && let Some(wire) = &mut self.wire
        {
            wire.down.clear();
            let epoch = wire.epoch;
            self.client.lost(epoch, now);
        }
        server.is_some() || client.is_some()
    }

    // ----- the end

    /// Ends the history: the link stays up, all output is read, and all input is closed, until
    /// nothing more happens.
    pub(super) fn finish(&mut self) {
        self.dials_fail = 0;
        if self
            .wire
            .as_ref()
            .is_some_and(|wire| wire.version == Version::V1)
        {
            self.cut(0, 0, 0, 0);
        }
        for exec in self.client.execs.values_mut() {
            for stream in [StdStream::Stdout, StdStream::Stderr] {
                exec.set_speed(stream, Speed::Fast);
            }
        }
        self.pass(120_000);
        for pick in 0..self.client.execs.len() {
            self.step(Step::Close(pick));
        }
        self.pass(60_000);
        for pick in 0..self.client.execs.len() {
            self.step(Step::Kill(pick));
            self.step(Step::Wait(pick));
        }
        self.pass(60_000);
        self.verdict();
    }
}
