//! Tables of a named exec (v2): its output, its end, and new links.

mod kill;
mod stdin;

use super::*;
use crate::protocol::{NamedMessage, Version};

const OUT: StdStream = StdStream::Stdout;
const ERR: StdStream = StdStream::Stderr;
const WINDOW: u64 = 1024;

/// A named exec, whose actions are shown as words.
pub(super) struct Exec {
    pub(super) process: Process,
    now: Instant,
    /// The number of the stdin message in flight.
    number: u64,
}

impl Exec {
    fn new(process: Process) -> Self {
        Self {
            process,
            now: Instant::now(),
            number: 0,
        }
    }

    fn starting() -> Self {
        Self::new(Process::named(ProcessConfig::default(), "e".into(), WINDOW))
    }

    /// An exec that the server has announced.
    fn running() -> Self {
        let mut exec = Self::starting();
        assert_eq!(exec.announced(0), NOTHING);
        exec
    }

    fn adopted(offsets: [u64; 2]) -> Self {
        let config = ProcessConfig::default();
        Self::new(Process::adopted(config, "e".into(), WINDOW, offsets))
    }

    fn fact(&mut self, fact: ProcessFact) -> Vec<String> {
        self.process.handle_fact(fact, self.now);
        self.said()
    }

    fn announced(&mut self, stdin: u64) -> Vec<String> {
        let window = Some(WINDOW);
        self.fact(ProcessFact::Announced {
            stdin,
            window,
            stdin_window: None,
        })
    }

    fn ended(&mut self, end: ProcessEnd, lengths: Option<[u64; 2]>) -> Vec<String> {
        self.fact(ProcessFact::Ended {
            end,
            lengths,
            cut: false,
        })
    }

    /// Replaces the link.
    fn relink(&mut self) -> Vec<String> {
        assert_eq!(self.fact(ProcessFact::LinkDown), NOTHING);
        self.fact(ProcessFact::LinkUp)
    }

    /// Handles output. Returns the number of missing bytes before it, and the number of its bytes
    /// that are not new.
    fn output(&mut self, stream: StdStream, offset: u64, length: usize) -> (u64, usize) {
        let data = vec![b'x'; length].into();
        let (gap, new) = self.process.handle_output(stream, Some(offset), data);
        self.process.handle_output_kept();
        (gap, length - new.len())
    }

    fn taken(&mut self, taken: [u64; 2]) -> Vec<String> {
        self.process.handle_taken(taken);
        self.said()
    }

    fn write(&mut self, request: u64, data: &[u8]) -> Vec<String> {
        self.process.write_stdin(RequestId(request), data.to_vec());
        self.said()
    }

    fn close(&mut self, request: u64) -> Vec<String> {
        self.process.close_stdin(RequestId(request));
        self.said()
    }

    fn flush(&mut self, request: u64) -> Vec<String> {
        self.process.flush_stdin(RequestId(request));
        self.said()
    }

    fn kill(&mut self, request: u64) -> Vec<String> {
        self.process.kill(Some(RequestId(request)), self.now);
        self.said()
    }

    fn written(&mut self) -> Vec<String> {
        self.fact(ProcessFact::StdinWritten(self.number))
    }

    fn said(&mut self) -> Vec<String> {
        let mut said = Vec::new();
        while let Some(action) = self.process.poll_action() {
            said.push(match action {
                ProcessAction::Settle(request, Ok(ProcessReply::Done)) => {
                    format!("{} done", request.0)
                }
                ProcessAction::Settle(request, Ok(ProcessReply::End(end))) => {
                    format!("{} {end:?}", request.0)
                }
                ProcessAction::Settle(request, Err(failure)) => {
                    let kind = format!("{failure:?}");
                    let kind = kind.split(' ').next().unwrap().to_owned();
                    format!("{} failed: {kind} {:?}", request.0, failure.effect())
                }
                ProcessAction::SendStdin { number, frame } => {
                    let text = frame.into_text();
                    self.number = number;
                    words(&text)
                }
                ProcessAction::Send(text) => words(&text),
                ProcessAction::Ended { end, stdin_unsent } => {
                    format!("ended {end:?}, {stdin_unsent} unsent")
                }
                ProcessAction::StreamEnded(stream) => format!("{stream} ended"),
                ProcessAction::OutputEnded(Finish::Complete) => "output ended".to_owned(),
                ProcessAction::OutputEnded(Finish::Cut) => "output cut".to_owned(),
                ProcessAction::OutputEnded(_) => "output lost".to_owned(),
                ProcessAction::Settled => "settled".to_owned(),
                ProcessAction::SendKill => panic!("v1"),
            });
        }
        said
    }
}

/// The content of a frame, in short form.
fn words(text: &str) -> String {
    let message = ClientMessage::parse_as(text.as_bytes(), Version::V2);
    let Ok(ClientMessage::Named(exec, message)) = message else {
        panic!("{text}")
    };
    assert_eq!(exec, "e".into());
    match message {
        NamedMessage::Reconnect { offsets } => format!("reconnect {offsets:?}"),
        NamedMessage::Ack { offsets, done } => {
            format!("ack {offsets:?}{}", if done { " done" } else { "" })
        }
        NamedMessage::Kill => "kill".to_owned(),
        NamedMessage::Stdin { offset, data, eof } => {
            let data = match data.len() {
                0..20 => String::from_utf8_lossy(&data).into_owned(),
                len => format!("{len} bytes"),
            };
            format!("stdin@{offset} {data}{}", if eof { " eof" } else { "" })
        }
        other => panic!("{other:?}"),
    }
}

const NOTHING: [&str; 0] = [];

fn lost() -> ProcessEnd {
    ProcessEnd::SandboxLost {
        end: SandboxEnd::ProcessLost { reason: None },
    }
}

// ----- output

#[test]
fn an_acknowledgement_is_due_for_each_quarter_of_the_window() {
    let mut exec = Exec::running();
    assert_eq!(exec.output(OUT, 0, 600), (0, 0));
    assert_eq!(exec.output(ERR, 0, 400), (0, 0));
    // 1,000 untaken bytes leave 24 of the window.
    assert_eq!(exec.process.acknowledgeable(), Some(([600, 400], 6)));
    assert_eq!(exec.taken([6, 0]), NOTHING, "which leaves 30");
    assert_eq!(exec.taken([6, 2]), ["ack [6, 2]"]);
    assert_eq!(exec.taken([600, 400]), ["ack [600, 400]"]);
    assert_eq!(exec.process.acknowledgeable(), Some(([600, 400], 256)));
    assert_eq!(exec.taken([600, 400]), NOTHING);
    // Neither lower offsets nor offsets beyond the received output are acknowledged.
    assert_eq!(exec.taken([0, 0]), NOTHING);
    exec.output(OUT, 600, 256);
    assert_eq!(exec.taken([854, 400]), NOTHING);
    assert_eq!(exec.taken([u64::MAX, 400]), ["ack [856, 400]"]);
}

#[test]
fn an_unread_stream_does_not_delay_the_acks_of_the_other() {
    for unread in [0, 700, 900, 1000, 1020] {
        let mut exec = Exec::running();
        exec.output(ERR, 0, unread);
        let mut offset = 0;
        // A server sends up to the window, and stops when fewer than 4 bytes are left.
        for _ in 0..20 {
            let room = WINDOW - unread as u64;
            assert_eq!(exec.output(OUT, offset, room as usize), (0, 0), "{unread}");
            offset += room;
            let said = exec.taken([offset, 0]);
            assert_eq!(said, [format!("ack [{offset}, 0]")], "{unread}");
        }
    }
}

#[test]
fn known_output_is_dropped_and_missing_output_is_counted() {
    let mut exec = Exec::running();
    assert_eq!(exec.output(OUT, 0, 10), (0, 0));
    assert_eq!(exec.output(OUT, 4, 10), (0, 6), "six of ten came before");
    assert_eq!(exec.output(OUT, 0, 14), (0, 14), "all of it came before");
    assert_eq!(exec.output(OUT, 20, 5), (6, 0), "six never came");
    assert_eq!(exec.output(ERR, 3, 0), (3, 0), "also where nothing follows");
    assert_eq!(exec.process.output.received(), [25, 3]);
}

/// On one link, a start can be given up and repeated with the same id. Output that the server sent
/// for the earlier start must not look like a gap before the output that it repeats.
#[test]
fn output_before_the_announcement_is_dropped() {
    let mut exec = Exec::starting();
    assert_eq!(exec.output(StdStream::Stdout, 5, 3), (0, 3));
    exec.announced(0);
    assert_eq!(exec.output(StdStream::Stdout, 0, 8), (0, 0));
    exec.relink();
    assert_eq!(exec.output(StdStream::Stdout, 20, 1), (0, 1));
    exec.announced(0);
    assert_eq!(exec.output(StdStream::Stdout, 8, 13), (0, 0));
}

#[test]
fn huge_offsets_do_not_panic_or_pass_the_window() {
    let mut exec = Exec::running();
    assert_eq!(exec.output(OUT, u64::MAX, 10), (u64::MAX, 0));
    assert_eq!(exec.output(OUT, u64::MAX - 1, 10), (0, 1));
    assert_eq!(exec.output(ERR, 0, 1000), (0, 0));
    assert_eq!(
        exec.output(ERR, 1000, 1000),
        (1000, 1000),
        "past the window"
    );
    exec.fact(ProcessFact::StdinTaken(u64::MAX));
    exec.write(1, b"abc");
    exec.relink();
    let window = Some(u64::MAX);
    exec.fact(ProcessFact::Announced {
        stdin: u64::MAX,
        window,
        stdin_window: None,
    });
    assert_eq!(exec.process.window(), Some(WINDOW), "as was asked for");
    exec.ended(ProcessEnd::Exited(0), Some([u64::MAX, u64::MAX]));
    exec.taken([u64::MAX, u64::MAX]);
}

#[test]
fn an_exit_settles_waits_and_output_continues() {
    let mut exec = Exec::running();
    exec.process.wait(RequestId(1));
    let said = exec.fact(ProcessFact::Exited(ProcessEnd::Exited(3)));
    assert_eq!(said, ["ended Exited(3), 0 unsent", "1 Exited(3)"]);
    assert_eq!(exec.output(OUT, 0, 10), (0, 0));
    assert_eq!(exec.fact(ProcessFact::Exited(ProcessEnd::Killed)), NOTHING);
    assert_eq!(exec.taken([10, 0]), NOTHING, "the end is not there yet");
    let said = exec.ended(ProcessEnd::Exited(3), Some([10, 0]));
    assert_eq!(said, ["output ended", "ack [10, 0] done", "settled"]);
}

#[test]
fn cut_output_is_reported_when_all_of_it_has_arrived() {
    let mut exec = Exec::running();
    exec.fact(ProcessFact::Exited(ProcessEnd::Exited(0)));
    let ended = ProcessFact::Ended {
        end: ProcessEnd::Exited(0),
        lengths: Some([0, 4]),
        cut: true,
    };
    assert_eq!(exec.fact(ended), NOTHING);
    exec.output(ERR, 0, 4);
    exec.process.handle_output_kept();
    assert_eq!(exec.said(), ["output cut"]);
    assert_eq!(exec.taken([0, 4]), ["ack [0, 4] done", "settled"]);
}

#[test]
fn output_after_the_exit_is_lost_with_its_sandbox() {
    let mut exec = Exec::running();
    exec.fact(ProcessFact::Exited(ProcessEnd::Exited(0)));
    assert_eq!(exec.kill(1), ["kill"]);
    let said = exec.fact(ProcessFact::SandboxEnded(SandboxEnd::Closed));
    assert_eq!(
        said,
        ["1 failed: SandboxEnded Unknown", "output lost", "settled"]
    );
}

#[test]
fn output_past_the_window_is_dropped_and_the_exec_ends() {
    let mut exec = Exec::running();
    assert_eq!(exec.output(OUT, 0, 1000), (0, 0));
    assert_eq!(exec.output(OUT, 1000, 1000), (1000, 1000));
    let said = exec.ended(ProcessEnd::Exited(0), Some([2000, 0]));
    assert_eq!(said, ["ended Exited(0), 0 unsent", "output ended"]);
}

#[test]
fn a_smaller_window_of_the_server_is_respected() {
    let mut exec = Exec::new(Process::named(ProcessConfig::default(), "e".into(), 8192));
    let window = Some(2048);
    exec.fact(ProcessFact::Announced {
        stdin: 0,
        window,
        stdin_window: None,
    });
    exec.output(OUT, 0, 2048);
    assert_eq!(
        exec.taken([511, 0]),
        ["ack [511, 0]"],
        "a quarter of what is free"
    );
    assert_eq!(exec.process.window(), Some(2048));
}

// ----- the end

#[test]
fn the_end_comes_first_then_the_output_ends_then_all_settles() {
    let mut exec = Exec::running();
    exec.process.wait(RequestId(1));
    exec.output(OUT, 0, 10);
    assert_eq!(
        exec.ended(ProcessEnd::Exited(3), Some([20, 5])),
        ["ended Exited(3), 0 unsent", "1 Exited(3)"]
    );
    exec.output(ERR, 0, 5);
    assert_eq!(exec.said(), NOTHING);
    exec.output(OUT, 10, 10);
    assert_eq!(exec.said(), ["output ended"]);
    assert_eq!(exec.process.acknowledgeable(), Some(([20, 5], 1)));
    assert_eq!(exec.taken([20, 4]), NOTHING);
    assert_eq!(exec.taken([20, 5]), ["ack [20, 5] done", "settled"]);
    // Nothing is reported twice.
    assert_eq!(exec.process.acknowledgeable(), None);
    assert_eq!(exec.relink(), NOTHING);
    assert_eq!(exec.announced(0), NOTHING);
    assert_eq!(exec.ended(lost(), None), NOTHING);
    assert_eq!(exec.output(OUT, 20, 5), (0, 5));
    let end = ProcessFact::SandboxEnded(SandboxEnd::Deleted);
    assert_eq!(exec.fact(end), NOTHING);
}

#[test]
fn each_end_is_told_by_its_cause() {
    for end in [
        ProcessEnd::Exited(0),
        ProcessEnd::Signaled(9),
        ProcessEnd::Killed,
        ProcessEnd::TimedOut,
        lost(),
    ] {
        let mut exec = Exec::running();
        let ended = format!("ended {end:?}, 0 unsent");
        assert_eq!(
            exec.ended(end, Some([0, 0])),
            [&ended, "output ended", "ack [0, 0] done", "settled"]
        );
    }
}

#[test]
fn output_of_unknown_length_is_reported_as_lost() {
    let mut exec = Exec::running();
    exec.output(OUT, 0, 10);
    let said = exec.ended(lost(), None);
    assert_eq!(said[1..], ["output lost"]);
    assert_eq!(exec.taken([10, 0]), ["ack [10, 0] done", "settled"]);
    // The same if the loss is reported later, because the server dropped the rest of the output.
    let mut exec = Exec::running();
    exec.ended(ProcessEnd::Exited(0), Some([10, 0]));
    let said = exec.ended(lost(), None);
    assert_eq!(said, ["output lost", "ack [0, 0] done", "settled"]);
    assert_eq!(exec.process.end(), Some(&ProcessEnd::Exited(0)));
}

#[test]
fn the_end_of_the_sandbox_settles_everything() {
    let deleted = || ProcessFact::SandboxEnded(SandboxEnd::Deleted);
    let mut exec = Exec::running();
    let said = exec.fact(deleted());
    assert_eq!(said[1..], ["output lost", "settled"]);
    // After the end, while output is missing.
    let mut exec = Exec::running();
    exec.ended(ProcessEnd::Exited(0), Some([1, 0]));
    assert_eq!(exec.fact(deleted()), ["output lost", "settled"]);
    // After all output has arrived, but was not taken.
    let mut exec = Exec::running();
    exec.output(OUT, 0, 1);
    exec.ended(ProcessEnd::Exited(0), Some([1, 0]));
    assert_eq!(exec.fact(deleted()), ["settled"]);
}

#[test]
fn output_of_an_abandoned_exec_counts_as_taken() {
    let mut exec = Exec::running();
    exec.output(OUT, 0, 1000);
    assert_eq!(exec.fact(ProcessFact::Abandoned), ["ack [1000, 0]", "kill"]);
    assert_eq!(exec.output(OUT, 1000, 1000), (0, 1000));
    assert_eq!(exec.said(), ["ack [2000, 0]"]);
    let said = exec.ended(ProcessEnd::Killed, Some([2000, 0]));
    assert_eq!(said[1..], ["output ended", "ack [2000, 0] done", "settled"]);
}

// ----- cuts

#[test]
fn after_a_cut_output_resumes_at_the_received_offsets() {
    let mut exec = Exec::running();
    exec.output(OUT, 0, 10);
    exec.output(ERR, 0, 3);
    exec.taken([4, 0]);
    assert_eq!(exec.relink(), ["reconnect [10, 3]"]);
    // Neither an acknowledgement nor input is sent before the server has announced the exec.
    assert_eq!(exec.taken([10, 3]), NOTHING);
    assert_eq!(exec.write(1, b"a"), ["1 done"]);
    assert_eq!(exec.announced(0), ["stdin@0 a", "ack [10, 3]"]);
}

#[test]
fn a_lost_acknowledgement_is_repeated() {
    let mut exec = Exec::running();
    exec.output(OUT, 0, 1024);
    assert_eq!(exec.taken([1024, 0]), ["ack [1024, 0]"]);
    // The acknowledgement is repeated: with a full window, the server sends nothing until it
    // arrives.
    exec.relink();
    assert_eq!(exec.announced(0), ["ack [1024, 0]"]);
    assert_eq!(exec.taken([1024, 0]), NOTHING, "once on each link");
}

#[test]
fn a_cut_after_the_end_asks_for_the_rest_or_acknowledges() {
    // Output is missing.
    let mut exec = Exec::running();
    exec.ended(ProcessEnd::Exited(0), Some([10, 0]));
    assert_eq!(exec.relink(), ["reconnect [0, 0]"]);
    assert_eq!(exec.announced(0), NOTHING);
    exec.output(OUT, 0, 10);
    assert_eq!(exec.said(), ["output ended"]);
    assert_eq!(exec.ended(ProcessEnd::Exited(0), Some([10, 0])), NOTHING);
    // All output has arrived, but was not taken.
    assert_eq!(exec.relink(), NOTHING);
    assert_eq!(exec.taken([10, 0]), ["ack [10, 0] done", "settled"]);
    // Taken while there is no link.
    let mut exec = Exec::running();
    exec.output(OUT, 0, 10);
    exec.ended(ProcessEnd::Exited(0), Some([10, 0]));
    exec.fact(ProcessFact::LinkDown);
    assert_eq!(exec.taken([10, 0]), NOTHING);
    let said = exec.fact(ProcessFact::LinkUp);
    assert_eq!(said, ["ack [10, 0] done", "settled"]);
}
