//! A named exec at the server: windows, acknowledgements, input and the end.

use super::*;
use crate::protocol::EndReason;

const OUT: StdStream = StdStream::Stdout;
const ERR: StdStream = StdStream::Stderr;

fn exec(window: u64) -> ServedExec {
    let mut exec = ServedExec::new("e".into(), window);
    exec.handle_started();
    exec
}

fn exited() -> ExecEnd {
    ExecEnd {
        reason: EndReason::Exited,
        exit_code: Some(0),
        signal: None,
        lengths: None,
        output_cut: false,
        outcome: None,
    }
}

/// Ends the main process and the output together.
fn end(exec: &mut ServedExec, end: ExecEnd, message: Option<String>) {
    exec.handle_exited(end, message);
    exec.handle_done(false);
}

/// The messages to the client, in short form.
fn said(exec: &mut ServedExec) -> Vec<String> {
    std::iter::from_fn(|| exec.poll_message())
        .map(|message| match message {
            ServerMessage::Output(piece) => {
                let offset = piece.place.unwrap().offset;
                let text = String::from_utf8_lossy(&piece.data).into_owned();
                format!("{}@{offset} {text}", piece.stream)
            }
            ServerMessage::Status(update) => match update.exec.unwrap() {
                exec if exec.end.is_some() => {
                    let end = exec.end.unwrap();
                    match end.lengths {
                        Some(lengths) if end.output_cut => format!("cut {lengths:?}"),
                        Some(lengths) => format!("done {lengths:?}"),
                        None => format!("exited {:?}", end.exit_code),
                    }
                }
                exec => format!("{} {:?}", update.status, exec.stdin),
            },
            ServerMessage::StdinAck { offset, .. } => format!("taken {offset}"),
            ServerMessage::Error(error) => error.message,
            other => panic!("{other:?}"),
        })
        .collect()
}

const RUNNING: &str = "SANDBOX_EXECUTION_RUNNING Some(0)";

#[test]
fn output_keeps_its_order_over_both_streams() {
    let mut exec = exec(100);
    for (stream, text) in [(OUT, "a"), (OUT, "b"), (ERR, "c"), (OUT, "d")] {
        exec.handle_output(stream, text.as_bytes());
    }
    end(&mut exec, exited(), None);
    let expected = [
        RUNNING,
        "stdout@0 ab",
        "stderr@0 c",
        "stdout@2 d",
        "done [3, 1]",
    ];
    assert_eq!(said(&mut exec), expected);
    assert_eq!(said(&mut exec), Vec::<String>::new(), "each once on a link");
}

#[test]
fn unacknowledged_output_is_sent_from_where_the_client_asks() {
    let mut exec = exec(100);
    exec.handle_output(OUT, b"0123456789");
    exec.handle_output(ERR, b"abc");
    assert_eq!(said(&mut exec).len(), 3);
    exec.handle_ack([4, 0], false);
    exec.detach();
    exec.handle_output(OUT, b"+");
    assert_eq!(exec.poll_message(), None, "no client asked on this link");

    exec.attach(Some([6, 3]));
    assert_eq!(said(&mut exec), [RUNNING, "stdout@6 6789", "stdout@10 +"]);
    // Another program resumes at the offsets that the first one's consumer took.
    exec.attach(Some([4, 0]));
    assert_eq!(
        said(&mut exec),
        [RUNNING, "stdout@4 456789", "stderr@0 abc", "stdout@10 +"]
    );
    // Acknowledged bytes are gone, and an offset beyond the output counts as its end.
    exec.attach(Some([0, 99]));
    assert_eq!(said(&mut exec), [RUNNING, "stdout@4 456789", "stdout@10 +"]);
    // The exec request is repeated.
    exec.attach(None);
    assert_eq!(
        said(&mut exec),
        [RUNNING, "stdout@4 456789", "stderr@0 abc", "stdout@10 +"]
    );
}

#[test]
fn at_most_the_window_is_sent_past_the_last_acknowledgement() {
    let mut exec = exec(10);
    exec.handle_output(OUT, b"012345");
    exec.handle_output(ERR, b"abcdefgh");
    assert_eq!(exec.room(), 0);
    assert_eq!(
        said(&mut exec),
        [RUNNING, "stdout@0 012345", "stderr@0 abcd"]
    );
    exec.handle_ack([6, 0], false);
    assert_eq!(said(&mut exec), ["stderr@4 efgh"]);
    assert_eq!(exec.room(), 2);
    // A lower offset has no effect, and one beyond the sent bytes counts as their end.
    exec.handle_ack([2, 999], false);
    assert_eq!((exec.kept(), exec.room()), (0, 10));
}

#[test]
fn statuses_and_the_end_do_not_wait_for_the_window() {
    let mut exec = exec(4);
    exec.handle_output(OUT, b"012345");
    end(&mut exec, exited(), None);
    exec.handle_kill();
    let expected = [
        RUNNING,
        "SANDBOX_EXECUTION_FORCE_KILLED None",
        "stdout@0 0123",
        "done [6, 0]",
    ];
    assert_eq!(said(&mut exec), expected);
    exec.handle_ack([4, 0], false);
    assert_eq!(said(&mut exec), ["stdout@4 45"]);
}

#[test]
fn an_exit_is_sent_at_once_and_again_for_each_reconnect() {
    let mut exec = exec(4);
    exec.handle_output(OUT, b"0123");
    assert_eq!(said(&mut exec), [RUNNING, "stdout@0 0123"]);
    exec.handle_output(OUT, b"45");
    exec.handle_exited(exited(), None);
    assert_eq!(said(&mut exec), ["exited Some(0)"], "the window is full");
    exec.handle_ack([4, 0], true);
    assert!(!exec.is_settled(), "that is no acknowledgement of the end");
    assert_eq!(exec.store(), None);
    assert_eq!(said(&mut exec), ["stdout@4 45"]);
    exec.detach();
    exec.attach(None);
    let again = [RUNNING, "exited Some(0)", "stdout@4 45"];
    assert_eq!(said(&mut exec), again);
    exec.attach(Some([6, 0]));
    let again = [RUNNING, "exited Some(0)"];
    assert_eq!(said(&mut exec), again, "on the same link");
    exec.handle_output(ERR, b"!");
    exec.handle_done(true);
    assert_eq!(said(&mut exec), ["stderr@0 !", "cut [6, 1]"]);
    exec.attach(Some([6, 1]));
    assert_eq!(said(&mut exec), [RUNNING, "cut [6, 1]"]);
}

#[test]
fn a_kill_after_an_exit_is_answered_when_the_output_ends() {
    let mut exec = exec(100);
    exec.handle_kill();
    exec.handle_exited(exited(), None);
    exec.handle_kill();
    assert_eq!(said(&mut exec), [RUNNING, "exited Some(0)"]);
    exec.handle_done(false);
    let killed = "SANDBOX_EXECUTION_FORCE_KILLED None";
    assert_eq!(said(&mut exec), [killed, killed, "done [0, 0]"]);
    // After a kill, no process is left.
    let mut exec = self::exec(100);
    exec.handle_kill();
    let killed_end = ExecEnd {
        reason: EndReason::Killed,
        ..exited()
    };
    exec.handle_exited(killed_end, None);
    assert_eq!(said(&mut exec), [RUNNING, killed, "exited Some(0)"]);
}

#[test]
fn a_code_point_is_split_neither_by_pieces_nor_by_the_window() {
    for window in 4..20 {
        let mut exec = exec(window);
        let text = "aé€😀".repeat(3);
        let (mut heard, mut acked) = (String::new(), 0);
        for byte in text.as_bytes() {
            exec.handle_output(OUT, &[*byte]);
            while let Some(message) = exec.poll_message() {
                if let ServerMessage::Output(piece) = message {
                    heard += std::str::from_utf8(&piece.data).unwrap();
                    let sent = heard.len() as u64;
                    if window - (sent - acked) < 4 {
                        exec.handle_ack([sent, 0], false);
                        acked = sent;
                    }
                }
            }
        }
        assert_eq!(heard, text, "{window}");
    }
    // An incomplete code point is sent at the end at the latest.
    let mut exec = exec(100);
    exec.handle_output(OUT, b"\xe2\x82");
    assert_eq!(said(&mut exec), [RUNNING]);
    exec.handle_output(OUT, b"a\xf0");
    assert_eq!(said(&mut exec), ["stdout@0 \u{fffd}a"]);
    end(&mut exec, exited(), None);
    assert_eq!(said(&mut exec), ["stdout@3 \u{fffd}", "done [4, 0]"]);
}

#[test]
fn each_byte_of_stdin_is_taken_once() {
    let mut exec = exec(100);
    exec.handle_stdin(0, b"abc", false);
    exec.handle_stdin(0, b"abcde", false);
    exec.handle_stdin(1, b"b", false);
    exec.handle_stdin(6, b"a gap", true);
    exec.handle_stdin(5, b"f", true);
    exec.handle_stdin(6, b"after the end", false);
    let mut taken = Vec::new();
    while let Some(data) = exec.poll_stdin() {
        exec.handle_stdin_taken(data.len());
        taken.extend_from_slice(&data);
    }
    assert_eq!(taken, b"abcdef");
    assert!(exec.is_stdin_over());
    let said = said(&mut exec);
    assert_eq!(said[0], "SANDBOX_EXECUTION_RUNNING Some(6)");
    // A write after `eof`, for example by another client, is refused.
    assert_eq!(said[1], "SANDBOX_STDIN_ERROR None");
    assert_eq!(said[3..], ["taken 6"]);
}

#[test]
fn repeated_stdin_is_acknowledged_again() {
    let mut exec = exec(100);
    exec.handle_stdin(0, b"abc", false);
    assert_eq!(exec.poll_stdin().unwrap(), "abc");
    exec.handle_stdin_taken(3);
    let expected = ["SANDBOX_EXECUTION_RUNNING Some(3)", "taken 3"];
    assert_eq!(said(&mut exec), expected);
    // Another client repeats the start, and learns what the process has taken.
    for repeated in ["ab", "abc"] {
        exec.handle_stdin(0, repeated.as_bytes(), false);
        assert_eq!(said(&mut exec), ["taken 3"]);
    }
    exec.handle_stdin(0, b"abcd", false);
    assert_eq!(exec.poll_stdin().unwrap(), "d");
}

#[test]
fn a_repeated_request_can_reduce_the_window() {
    let mut exec = exec(100);
    exec.handle_output(OUT, b"abcdef");
    exec.limit_window(200);
    exec.limit_window(4);
    exec.attach(Some([0; 2]));
    let expected = ["SANDBOX_EXECUTION_RUNNING Some(0)", "stdout@0 abcd"];
    assert_eq!(said(&mut exec), expected);
    exec.handle_ack([2, 0], false);
    assert_eq!(said(&mut exec), ["stdout@4 ef"]);
}

#[test]
fn stdin_past_the_window_or_after_its_end_is_refused() {
    let mut exec = exec(100);
    let most = vec![b'x'; STDIN_WINDOW as usize];
    exec.handle_stdin(0, &most, false);
    exec.handle_stdin(STDIN_WINDOW, b"more", false);
    assert_eq!(exec.stdin.received(), [STDIN_WINDOW]);
    exec.handle_stdin_closed();
    assert!(exec.is_stdin_over() && exec.poll_stdin().is_none());
    exec.handle_stdin(STDIN_WINDOW, b"a", false);
    exec.handle_stdin(STDIN_WINDOW, b"a", false);
    let said = said(&mut exec);
    assert_eq!(said[1], "SANDBOX_STDIN_ERROR None");
    assert!(said[2].contains("closed its standard input") && said.len() == 3);
}

#[test]
fn the_end_is_sent_again_until_it_is_acknowledged() {
    let mut exec = exec(100);
    exec.handle_output(OUT, b"out");
    end(&mut exec, exited(), None);
    exec.handle_output(OUT, b"late");
    for _ in 0..3 {
        assert_eq!(said(&mut exec), [RUNNING, "stdout@0 out", "done [3, 0]"]);
        assert!(!exec.is_settled());
        exec.detach();
        exec.attach(Some([0, 0]));
    }
    exec.handle_ack([3, 0], true);
    assert!(exec.is_settled());
    assert_eq!(exec.kept(), 0);
    exec.attach(None);
    assert_eq!(said(&mut exec), [RUNNING, "done [3, 0]"]);
}

#[test]
fn unacknowledged_output_is_stored() {
    let mut exec = exec(100);
    assert_eq!(exec.store(), None, "it is not over");
    for (stream, text) in [(OUT, "ab"), (ERR, "c"), (OUT, "d")] {
        exec.handle_output(stream, text.as_bytes());
    }
    end(&mut exec, exited(), Some("why".to_owned()));
    said(&mut exec);
    exec.handle_ack([2, 0], false);
    let mut exec = ServedExec::restored(exec.store().unwrap());
    assert_eq!(exec.poll_message(), None);
    exec.attach(Some([0, 0]));
    assert_eq!(
        said(&mut exec),
        [RUNNING, "stderr@0 c", "stdout@2 d", "done [3, 1]"]
    );
    let kept = exec.store().unwrap();
    assert_eq!(kept.message.as_deref(), Some("why"));
    exec.handle_ack([3, 1], true);
    assert!(exec.store().unwrap().output.is_empty());
}

#[test]
fn the_acknowledged_front_of_a_piece_is_not_stored() {
    let mut exec = exec(100);
    exec.handle_output(OUT, b"abc");
    end(&mut exec, exited(), None);
    said(&mut exec);
    exec.handle_ack([2, 0], false);
    let stored = exec.store().unwrap();
    assert_eq!(stored.output, [(OUT, 2, Bytes::from_static(b"c"))]);
    let mut exec = ServedExec::restored(stored);
    exec.attach(Some([0, 0]));
    assert_eq!(said(&mut exec), [RUNNING, "stdout@2 c", "done [3, 0]"]);
}

#[test]
fn output_that_another_client_acknowledged_is_reported_as_gone() {
    let mut exec = exec(100);
    exec.handle_output(OUT, b"abc");
    end(&mut exec, exited(), None);
    said(&mut exec);
    exec.handle_ack([3, 0], true);
    exec.attach(Some([1, 0]));
    assert_eq!(said(&mut exec), [RUNNING, "stdout@3 ", "done [3, 0]"]);
    exec.attach(Some([3, 0]));
    assert_eq!(said(&mut exec), [RUNNING, "done [3, 0]"]);
}

#[test]
fn a_client_learns_that_output_was_dropped() {
    let mut exec = exec(4);
    exec.handle_output(OUT, b"abcdefgh");
    end(&mut exec, exited(), None);
    let expected = [RUNNING, "stdout@0 abcd", "done [8, 0]"];
    assert_eq!(said(&mut exec), expected);
    exec.abandon("too many");
    let Some(ServerMessage::Status(update)) = exec.poll_message() else {
        panic!()
    };
    assert_eq!(update.message.as_deref(), Some("too many"));
    let end = update.exec.unwrap().end.unwrap();
    assert_eq!((end.reason, end.lengths), (EndReason::SandboxLost, None));
    assert_eq!(exec.poll_message(), None);
    assert_eq!(exec.kept(), 0);
}

#[test]
fn a_partial_code_point_is_sent_when_nothing_follows() {
    let mut exec = exec(20);
    exec.handle_output(OUT, b"abcd\xf0\x9f\x98");
    exec.handle_output(ERR, b"\xf0\x9f\x98");
    assert_eq!((exec.kept(), exec.room()), (10, 16));
    assert_eq!(said(&mut exec), [RUNNING, "stdout@0 abcd"]);
    exec.handle_silence(OUT);
    assert_eq!(said(&mut exec), ["stdout@4 \u{fffd}"]);
    exec.handle_output(OUT, b"\x80");
    exec.handle_silence(ERR);
    assert_eq!(said(&mut exec).len(), 2);
    assert_eq!((exec.kept(), exec.room()), (11, 9));
}

#[test]
fn stored_output_is_sent_within_its_window() {
    let mut exec = exec(1024);
    exec.handle_output(OUT, &[b'x'; 3000]);
    end(&mut exec, exited(), None);
    let mut exec = ServedExec::restored(exec.store().unwrap());
    exec.attach(Some([0, 0]));
    let heard = said(&mut exec);
    assert_eq!(heard[1].len(), "stdout@0 ".len() + 1024);
    assert_eq!(exec.window(), 1024);
}

#[test]
fn huge_offsets_do_not_panic() {
    let mut exec = exec(u64::MAX);
    exec.handle_stdin(u64::MAX, b"abc", true);
    exec.handle_stdin(0, b"abc", false);
    exec.handle_stdin(1, b"a", true);
    assert!(!exec.is_stdin_over(), "an end before what is here is none");
    exec.handle_stdin_taken(usize::MAX);
    assert_eq!(exec.stdin.taken(), [3]);
    exec.handle_output(OUT, b"abc");
    exec.handle_ack([u64::MAX; 2], true);
    exec.attach(Some([u64::MAX; 2]));
    let output = vec![(ERR, u64::MAX, Bytes::from_static(b"abc"))];
    let stored = StoredExec {
        exec: "e".into(),
        window: 0,
        end: exited(),
        message: None,
        output,
    };
    let mut exec = ServedExec::restored(stored);
    exec.attach(None);
    // An inconsistent stored exec is lost.
    assert_eq!(std::iter::from_fn(|| exec.poll_message()).count(), 2);
    assert_eq!(exec.end().unwrap().reason, EndReason::SandboxLost);
}

#[test]
fn requests_are_answered_on_a_link_without_an_attach() {
    let mut exec = exec(100);
    exec.handle_output(OUT, b"a");
    exec.detach();
    exec.handle_kill();
    assert!(said(&mut exec).is_empty(), "it is alive");
    end(&mut exec, exited(), None);
    let killed = "SANDBOX_EXECUTION_FORCE_KILLED None";
    assert_eq!(said(&mut exec), [killed], "and nothing of the output");
    exec.handle_kill();
    exec.handle_stdin(0, b"late", false);
    let refused = "The process has closed its standard input, or has ended.";
    let expected = [killed, "SANDBOX_STDIN_ERROR None", refused];
    assert_eq!(said(&mut exec), expected);

    // The same once it is settled.
    exec.attach(Some([0, 0]));
    said(&mut exec);
    exec.handle_ack([1, 0], true);
    exec.detach();
    exec.handle_kill();
    assert_eq!(said(&mut exec), [killed]);
}

#[test]
fn an_exec_that_could_not_start_ignores_a_repeated_request() {
    let mut exec = ServedExec::new("e".into(), 100);
    exec.handle_not_started();
    exec.attach(None);
    assert!(said(&mut exec).is_empty());
}

#[test]
fn stdin_in_many_pieces_is_kept_in_one() {
    let mut exec = exec(100);
    for offset in 0..1000 {
        exec.handle_stdin(offset, b"x", offset == 999);
    }
    assert_eq!(exec.poll_stdin().map(|data| data.len()), Some(1000));
    assert!(exec.is_stdin_over());
}

#[test]
fn a_kill_before_the_reconnect_is_answered() {
    let mut exec = exec(100);
    end(&mut exec, exited(), None);
    exec.detach();
    exec.handle_kill();
    exec.attach(Some([0, 0]));
    let expected = [
        RUNNING,
        "SANDBOX_EXECUTION_FORCE_KILLED None",
        "done [0, 0]",
    ];
    assert_eq!(said(&mut exec), expected);
}

#[test]
fn a_kill_of_one_that_does_not_start_is_answered() {
    let mut exec = ServedExec::new("e".into(), 100);
    exec.handle_kill();
    exec.handle_not_started();
    assert_eq!(said(&mut exec), ["SANDBOX_EXECUTION_FORCE_KILLED None"]);
}

#[test]
fn answers_to_kills_wait_in_a_bounded_queue() {
    let mut exec = exec(100);
    end(&mut exec, exited(), None);
    for _ in 0..10_000 {
        exec.handle_kill();
        exec.attach(None);
        exec.handle_stdin(0, b"x", false);
    }
    assert!(exec.statuses.len() <= ServedExec::MAX_STATUSES + 2);
    assert!(said(&mut exec).iter().any(|it| it.contains("STDIN_ERROR")));
}

#[test]
fn a_stream_of_a_binary_exec_ends_on_every_link() {
    let eofs = |exec: &mut ServedExec| {
        let messages = std::iter::from_fn(|| exec.poll_message());
        let pieces = messages.filter_map(|message| match message {
            ServerMessage::BinaryOutput(piece) => Some((piece.data, piece.eof)),
            _ => None,
        });
        pieces.collect::<Vec<_>>()
    };
    let mut exec = ServedExec::binary("e".into(), 1_024);
    exec.handle_started();
    exec.handle_output(OUT, b"a");
    assert_eq!(eofs(&mut exec), [("a".into(), false)]);
    exec.handle_output_ended(OUT);
    assert_eq!(eofs(&mut exec), [("".into(), true)]);
    assert_eq!(eofs(&mut exec), []);
    exec.detach();
    exec.attach(Some([0, 0]));
    assert_eq!(eofs(&mut exec), [("a".into(), true)]);
}
