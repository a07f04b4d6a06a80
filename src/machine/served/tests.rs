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
    }
}

/// What goes to the client, in short.
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
                    format!("done {:?}", exec.end.unwrap().lengths.unwrap())
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
    exec.handle_end(exited(), None);
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
fn what_was_not_acknowledged_is_sent_again_from_where_the_client_asks() {
    let mut exec = exec(100);
    exec.handle_output(OUT, b"0123456789");
    exec.handle_output(ERR, b"abc");
    assert_eq!(said(&mut exec).len(), 3);
    exec.ack([4, 0], false);
    exec.detach();
    exec.handle_output(OUT, b"+");
    assert_eq!(exec.poll_message(), None, "nobody asked on this link");

    exec.attach(Some([6, 3]));
    assert_eq!(said(&mut exec), [RUNNING, "stdout@6 6789", "stdout@10 +"]);
    // Another program, which goes on from what the first one's consumer took.
    exec.attach(Some([4, 0]));
    assert_eq!(
        said(&mut exec),
        [RUNNING, "stdout@4 456789", "stderr@0 abc", "stdout@10 +"]
    );
    // What was acknowledged is gone, and what was not printed yet is not asked for.
    exec.attach(Some([0, 99]));
    assert_eq!(said(&mut exec), [RUNNING, "stdout@4 456789", "stdout@10 +"]);
    // The same exec request once more.
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
    exec.ack([6, 0], false);
    assert_eq!(said(&mut exec), ["stderr@4 efgh"]);
    assert_eq!(exec.room(), 2);
    // Less than before, and more than was sent, change nothing by that.
    exec.ack([2, 999], false);
    assert_eq!((exec.kept(), exec.room()), (0, 10));
    assert!(exec.chunks.is_empty());
}

#[test]
fn a_status_and_the_end_do_not_wait_for_output_that_the_window_holds_back() {
    let mut exec = exec(4);
    exec.handle_output(OUT, b"012345");
    exec.handle_end(exited(), None);
    exec.handle_status(Status::ExecutionForceKilled, None);
    let expected = [
        RUNNING,
        "SANDBOX_EXECUTION_FORCE_KILLED None",
        "stdout@0 0123",
        "done [6, 0]",
    ];
    assert_eq!(said(&mut exec), expected);
    exec.ack([4, 0], false);
    assert_eq!(said(&mut exec), ["stdout@4 45"]);
}

#[test]
fn a_code_point_is_split_neither_by_pieces_nor_by_the_window() {
    for window in 4..20 {
        let mut exec = exec(window);
        let text = "aé€😀".repeat(3);
        let mut heard = String::new();
        for byte in text.as_bytes() {
            exec.handle_output(OUT, &[*byte]);
            while let Some(message) = exec.poll_message() {
                if let ServerMessage::Output(piece) = message {
                    heard += std::str::from_utf8(&piece.data).unwrap();
                    let sent = exec.streams[0].sent;
                    if exec.window - (sent - exec.streams[0].acked) < 4 {
                        exec.ack([sent, 0], false);
                    }
                }
            }
        }
        assert_eq!(heard, text, "{window}");
    }
    // What never becomes a code point is there all the same, at the latest at the end.
    let mut exec = exec(100);
    exec.handle_output(OUT, b"\xe2\x82");
    assert_eq!(said(&mut exec), [RUNNING]);
    exec.handle_output(OUT, b"a\xf0");
    assert_eq!(said(&mut exec), ["stdout@0 \u{fffd}a"]);
    exec.handle_end(exited(), None);
    assert_eq!(said(&mut exec), ["stdout@3 \u{fffd}", "done [4, 0]"]);
}

#[test]
fn each_byte_of_input_is_taken_once() {
    let mut exec = exec(100);
    exec.stdin(0, b"abc", false);
    exec.stdin(0, b"abcde", false);
    exec.stdin(1, b"b", false);
    exec.stdin(6, b"a gap", true);
    exec.stdin(5, b"f", true);
    exec.stdin(6, b"after the end", false);
    let mut taken = Vec::new();
    while let Some(data) = exec.poll_stdin() {
        exec.handle_stdin_taken(data.len());
        taken.extend_from_slice(&data);
    }
    assert_eq!(taken, b"abcdef");
    assert!(exec.is_stdin_over());
    assert_eq!(
        said(&mut exec),
        ["SANDBOX_EXECUTION_RUNNING Some(6)", "taken 6"]
    );
}

#[test]
fn input_past_the_window_or_after_its_end_is_not_taken() {
    let mut exec = exec(100);
    let most = vec![b'x'; STDIN_WINDOW as usize];
    exec.stdin(0, &most, false);
    exec.stdin(STDIN_WINDOW, b"more", false);
    assert_eq!(exec.stdin_received, STDIN_WINDOW);
    exec.handle_stdin_closed();
    assert!(exec.is_stdin_over() && exec.poll_stdin().is_none());
    exec.stdin(STDIN_WINDOW, b"a", false);
    exec.stdin(STDIN_WINDOW, b"a", false);
    let said = said(&mut exec);
    assert_eq!(said[1], "SANDBOX_STDIN_ERROR None");
    assert!(said[2].contains("closed its standard input") && said.len() == 3);
}

#[test]
fn the_end_is_said_again_until_it_is_acknowledged_and_then_nothing_is_kept() {
    let mut exec = exec(100);
    exec.handle_output(OUT, b"out");
    exec.handle_end(exited(), None);
    exec.handle_output(OUT, b"late");
    for _ in 0..3 {
        assert_eq!(said(&mut exec), [RUNNING, "stdout@0 out", "done [3, 0]"]);
        assert!(!exec.is_settled());
        exec.detach();
        exec.attach(Some([0, 0]));
    }
    exec.ack([3, 0], true);
    assert!(exec.is_settled());
    assert_eq!(exec.kept(), 0);
    exec.attach(None);
    assert_eq!(said(&mut exec), [RUNNING, "done [3, 0]"]);
}

#[test]
fn what_is_stored_is_what_was_not_acknowledged() {
    let mut exec = exec(100);
    assert_eq!(exec.store(), None, "it is not over");
    for (stream, text) in [(OUT, "ab"), (ERR, "c"), (OUT, "d")] {
        exec.handle_output(stream, text.as_bytes());
    }
    exec.handle_end(exited(), Some("why".to_owned()));
    said(&mut exec);
    exec.ack([2, 0], false);
    let mut exec = ServedExec::restored(exec.store().unwrap());
    assert_eq!(exec.poll_message(), None);
    exec.attach(Some([0, 0]));
    assert_eq!(
        said(&mut exec),
        [RUNNING, "stderr@0 c", "stdout@2 d", "done [3, 1]"]
    );
    let kept = exec.store().unwrap();
    assert_eq!(kept.message.as_deref(), Some("why"));
    exec.ack([3, 1], true);
    assert!(exec.store().unwrap().output.is_empty());
}
