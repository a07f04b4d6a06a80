//! [`ServedExec`] under random actions of a process and a client.

use actix_sandbox::{
    machine::ServedExec,
    protocol::{EndReason, ExecEnd, ServerMessage, Status, StdStream, Version, limits::MIN_WINDOW},
};
use bytes::Bytes;

use super::input::Input;

const STREAMS: [StdStream; 2] = [StdStream::Stdout, StdStream::Stderr];

/// The exec, and what its process and its client have observed.
struct World {
    exec: ServedExec,
    printed: [Vec<u8>; 2],
    /// The offsets of the next output on this link.
    sent: [u64; 2],
    acked: [u64; 2],
    /// The stdin that the process has taken.
    taken: Vec<u8>,
    /// The stdin that the client has sent.
    input: Vec<u8>,
    exits: usize,
    ends: usize,
    discarded: bool,
}

/// Runs the machine on a sequence of actions, then checks that the exec settles.
pub fn server_machine(data: &[u8]) {
    let mut input = Input(data);
    let window = MIN_WINDOW + input.number(0) % 4_096;
    let mut world = World {
        exec: ServedExec::new("e".into(), window),
        printed: Default::default(),
        sent: [0; 2],
        acked: [0; 2],
        taken: Vec::new(),
        input: Vec::new(),
        exits: 0,
        ends: 0,
        discarded: false,
    };
    while !input.is_empty() {
        world.step(&mut input);
    }
    world.finish();
}

impl World {
    fn step(&mut self, input: &mut Input<'_>) {
        let exec = &mut self.exec;
        match input.byte() % 16 {
            0 => exec.handle_started(),
            1..=3 => {
                let index = usize::from(input.byte() % 2);
                let bytes = input.bytes(2_000);
                if exec.room() > 0 && !exec.is_done() {
                    exec.handle_output(STREAMS[index], bytes);
                    self.printed[index].extend_from_slice(bytes);
                }
            }
            4 => exec.handle_silence(STREAMS[usize::from(input.byte() % 2)]),
            5 => {
                let choice = input.byte();
                let reason = match choice % 3 {
                    0 => EndReason::Exited,
                    1 => EndReason::Killed,
                    _ => EndReason::SandboxLost,
                };
                exec.handle_exited(end(reason), None);
                // In most cases, the output ends with the process.
                if choice < 192 {
                    exec.handle_done(choice >= 128);
                }
            }
            6 => exec.handle_kill(),
            7 => exec.handle_kill_failed("why"),
            8 => self.stdin(input),
            9 => {
                if let Some(data) = exec.poll_stdin() {
                    exec.handle_stdin_taken(data.len());
                    self.taken.extend_from_slice(&data);
                    let sent = self.input.get(..self.taken.len());
                    assert_eq!(
                        sent,
                        Some(&self.taken[..]),
                        "input is taken once and in order"
                    );
                }
            }
            10 => match input.byte() % 4 {
                0 => exec.handle_stdin_closed(),
                1 => exec.detach(),
                2 => exec.handle_kill(),
                _ => {
                    self.discarded |= exec.is_done() && !exec.is_settled();
                    exec.abandon("why");
                    if exec.is_done() {
                        self.forget();
                    }
                }
            },
            11 => {
                let asked = [0, 1].map(|it| input.number(self.sent[it]));
                let asked = (!input.byte().is_multiple_of(4)).then_some(asked);
                self.attach(asked);
            }
            12 | 13 => {
                let offsets = [0, 1].map(|it| input.number(self.sent[it]));
                let done = input.byte().is_multiple_of(8);
                self.ack(offsets, done);
            }
            14 => self.restore(),
            _ => self.poll(usize::from(input.byte())),
        }
        let printed: usize = self.printed.iter().map(Vec::len).sum();
        assert!(self.exec.kept() <= printed as u64);
    }

    fn stdin(&mut self, input: &mut Input<'_>) {
        let offset = input.number(self.input.len() as u64);
        let data = input.bytes(1_000);
        let eof = input.byte().is_multiple_of(16);
        // The client repeats the same bytes at the same offsets.
        let Ok(from) = usize::try_from(offset) else {
            return self.exec.handle_stdin(offset, data, eof);
        };
        if from > self.input.len() {
            return self.exec.handle_stdin(offset, data, eof);
        }
        let known = (self.input.len() - from).min(data.len());
        let mut whole = self.input[from..from + known].to_vec();
        whole.extend_from_slice(&data[known..]);
        self.input.extend_from_slice(&data[known..]);
        self.exec.handle_stdin(offset, &whole, eof);
    }

    fn attach(&mut self, asked: Option<[u64; 2]>) {
        self.exec.attach(asked);
        self.exits = 0;
        self.ends = 0;
        self.discarded = false;
        for index in 0..2 {
            let most = self.printed[index].len() as u64;
            let asked = asked.map_or(self.acked[index], |asked| asked[index]);
            self.sent[index] = asked.clamp(self.acked[index], most);
        }
    }

    fn ack(&mut self, offsets: [u64; 2], done: bool) {
        self.exec.handle_ack(offsets, done);
        for (index, offset) in offsets.into_iter().enumerate() {
            let acked = offset.min(self.sent[index]);
            self.acked[index] = acked.max(self.acked[index]);
        }
        if self.exec.is_settled() {
            self.forget();
        }
    }

    /// A settled or abandoned exec keeps no output.
    fn forget(&mut self) {
        self.acked = [0, 1].map(|it| self.printed[it].len() as u64);
        self.sent = self.acked;
    }

    fn restore(&mut self) {
        if let Some(stored) = self.exec.store() {
            self.exec = ServedExec::restored(stored);
            assert_eq!(self.exec.poll_message(), None, "no client is attached");
            self.attach(None);
        }
    }

    /// Takes at most `most` messages and checks each.
    fn poll(&mut self, most: usize) {
        for _ in 0..most {
            let Some(message) = self.exec.poll_message() else {
                return;
            };
            let frame = Bytes::from(message.encode());
            let again = ServerMessage::parse_as(&frame, Version::V2);
            assert_eq!(again.as_ref(), Ok(&message), "{}", message.encode());
            match message {
                ServerMessage::Output(piece) => {
                    let index = piece.stream as usize;
                    let offset = piece.place.expect("a place").offset;
                    if piece.data.is_empty() {
                        // An empty piece gives the final offset of a stream whose output is gone.
                        // The offset omits up to three held-back bytes of a code point.
                        let kept_back = self.acked[index].checked_sub(offset);
                        assert!(kept_back.is_some_and(|bytes| bytes < 4), "at most 3 bytes");
                        continue;
                    }
                    // The offset may be lower than `sent`, which counts held-back bytes.
                    assert!(offset <= self.sent[index], "a gap in the output");
                    let from = usize::try_from(offset).expect("an offset");
                    let data = self.printed[index].get(from..from + piece.data.len());
                    assert_eq!(data, Some(&piece.data[..]), "the bytes of the process");
                    self.sent[index] = offset + piece.data.len() as u64;
                    let unacked: u64 = (0..2).map(|it| self.sent[it] - self.acked[it]).sum();
                    assert!(unacked <= self.exec.window().max(unacked_at_attach(self)));
                }
                ServerMessage::Status(update) if update.status == Status::ExecutionExited => {
                    self.exits += 1;
                    assert!(
                        self.exits <= 1 && self.ends == 0,
                        "once on a link, and first"
                    );
                    assert!(update.exec.is_some_and(|exec| exec.end.is_some()));
                }
                ServerMessage::Status(update) if update.status == Status::ExecutionDone => {
                    self.ends += 1;
                    assert!(
                        self.ends <= 1 + usize::from(self.discarded),
                        "once on a link"
                    );
                }
                _ => {}
            }
        }
    }

    /// Attaches a client that reads and acknowledges everything, and checks that it gets the rest.
    fn finish(mut self) {
        self.exec.handle_started();
        self.exec.handle_exited(end(EndReason::Exited), None);
        self.exec.handle_done(false);
        let lost = self
            .exec
            .store()
            .and_then(|stored| stored.end.lengths)
            .is_none();
        self.attach(None);
        loop {
            let before = self.sent;
            self.poll(usize::MAX);
            if self.sent == before {
                break;
            }
            self.ack(self.sent, false);
        }
        assert_eq!(self.ends, 1);
        let printed = [0, 1].map(|it| self.printed[it].len() as u64);
        let got_all = lost || self.exec.is_settled() || self.sent == printed;
        assert!(got_all, "{:?} of {printed:?}: {:?}", self.sent, self.exec);
        self.ack(self.sent, true);
        assert!(self.exec.is_settled());
        assert_eq!(self.exec.kept(), 0);
    }
}

fn end(reason: EndReason) -> ExecEnd {
    ExecEnd {
        reason,
        exit_code: Some(0),
        signal: None,
        lengths: None,
        output_cut: false,
        outcome: None,
    }
}

/// How much may be unacknowledged after an attach: a client may attach at an offset beyond the
/// acknowledged one, or even beyond all output.
fn unacked_at_attach(world: &World) -> u64 {
    let printed: usize = world.printed.iter().map(Vec::len).sum();
    printed as u64
}
