//! The stdin of a named exec.

use super::*;

#[test]
fn input_resumes_where_the_server_has_it() {
    let mut exec = Exec::running();
    assert_eq!(exec.write(1, b"abcdef"), ["1 done", "stdin@0 abcdef"]);
    exec.written();
    exec.fact(ProcessFact::StdinTaken(2));
    for (has, rest) in [(2, "cdef"), (4, "ef"), (0, "cdef"), (3, "def")] {
        assert_eq!(exec.relink(), ["reconnect [0, 0]"]);
        let at = has.max(2);
        assert_eq!(exec.announced(has), [format!("stdin@{at} {rest}")]);
    }
    exec.relink();
    assert_eq!(exec.announced(6), NOTHING, "the server has all of it");
    assert_eq!(exec.flush(2), NOTHING);
    assert_eq!(exec.fact(ProcessFact::StdinTaken(5)), NOTHING);
    assert_eq!(exec.fact(ProcessFact::StdinTaken(6)), ["2 done"]);
    assert_eq!(exec.write(3, b"g"), ["3 done", "stdin@6 g"]);
}

#[test]
fn the_end_of_stdin_is_repeated_on_each_link() {
    let mut exec = Exec::starting();
    exec.process.give_input(b"abc");
    assert_eq!(exec.announced(0), ["stdin@0 abc eof"]);
    assert_eq!(exec.written(), NOTHING);
    exec.relink();
    assert_eq!(exec.announced(3), ["stdin@3  eof"]);
    let mut exec = Exec::running();
    exec.write(1, b"abc");
    assert_eq!(exec.close(2), ["2 done"]);
    assert_eq!(exec.written(), ["stdin@3  eof"]);
    assert_eq!(exec.close(3), ["3 done"]);
    assert_eq!(exec.write(4, b"x"), ["4 failed: StdinClosed NotApplied"]);
}

#[test]
fn stdin_is_sent_within_its_window_and_cut_at_code_points() {
    let mut exec = Exec::running();
    let data = "\u{1F600}".repeat(100_001).into_bytes();
    let mut data = [b"x".to_vec(), data].concat();
    data.truncate(300_001);
    let mut said = exec.write(1, &data);
    let (mut sent, mut taken) = (0, 0);
    while sent < data.len() as u64 {
        let Some(message) = said.iter().find(|it| it.starts_with("stdin")) else {
            // The process takes one byte at a time, which leaves no room for a whole code point.
            taken += 1;
            said = exec.fact(ProcessFact::StdinTaken(taken));
            continue;
        };
        let (at, length) = message[6..].split_once(' ').unwrap();
        assert_eq!(at, sent.to_string());
        let length = match length.split_once(" bytes") {
            Some((length, _)) => length.parse().unwrap(),
            None => length.len() as u64,
        };
        assert_eq!(length % 4, u64::from(sent == 0), "whole code points");
        sent += length;
        assert!(sent - taken <= OLD_STDIN_WINDOW);
        said = exec.written();
    }
    assert_eq!(sent, data.len() as u64);
}

#[test]
fn stdin_that_the_process_closed_fails_flushes_and_writes() {
    let mut exec = Exec::running();
    exec.write(1, b"abc");
    exec.flush(2);
    assert_eq!(
        exec.fact(ProcessFact::StdinClosed),
        ["2 failed: StdinClosed NotApplied"]
    );
    assert_eq!(exec.flush(3), ["3 failed: StdinClosed NotApplied"]);
    assert_eq!(exec.write(4, b"d"), ["4 failed: StdinClosed NotApplied"]);
    assert_eq!(exec.close(5), ["5 done"]);
    exec.relink();
    assert_eq!(exec.announced(3), NOTHING);
    let said = exec.ended(ProcessEnd::Exited(0), Some([0, 0]));
    assert_eq!(said[0], "ended Exited(0), 3 unsent");
}

#[test]
fn a_close_that_was_cancelled_does_not_answer_for_another() {
    let mut exec = Exec::new(Process::named(
        ProcessConfig {
            stdin_budget: 1,
            ..ProcessConfig::default()
        },
        "e".into(),
        WINDOW,
    ));
    exec.announced(0);
    exec.write(1, b"abc");
    assert_eq!(exec.close(2), NOTHING);
    assert_eq!(exec.close(3), NOTHING);
    exec.process.cancel(RequestId(2));
    exec.written();
    assert_eq!(
        exec.fact(ProcessFact::StdinTaken(3)),
        ["3 done", "stdin@3  eof"]
    );
}

#[test]
fn a_repeated_start_skips_the_input_that_the_server_has() {
    let mut exec = Exec::starting();
    exec.process.give_input(b"abcdef");
    assert_eq!(exec.announced(3), ["stdin@3 def eof"]);
    let mut exec = Exec::starting();
    assert_eq!(exec.announced(3), NOTHING);
    assert_eq!(exec.write(1, b"abc"), ["1 done", "stdin@0 abc"]);
    exec.flush(2);
    assert_eq!(exec.fact(ProcessFact::StdinTaken(3)), ["2 done"]);
}

#[test]
fn an_adopted_exec_writes_behind_the_stdin_of_its_first_client() {
    let mut exec = Exec::adopted([7, 2]);
    assert_eq!(exec.write(1, b"new"), ["1 done"]);
    exec.flush(2);
    assert_eq!(exec.fact(ProcessFact::LinkUp), ["reconnect [7, 2]"]);
    // The current offsets are acknowledged again, because the first client may not have
    // acknowledged them.
    assert_eq!(exec.announced(10), ["stdin@10 new", "ack [7, 2]"]);
    exec.written();
    assert_eq!(exec.fact(ProcessFact::StdinTaken(8)), NOTHING);
    assert_eq!(exec.fact(ProcessFact::StdinTaken(13)), ["2 done"]);
}

#[test]
fn output_that_another_client_acknowledged_is_a_gap() {
    let mut exec = Exec::adopted([3, 0]);
    exec.fact(ProcessFact::LinkUp);
    exec.announced(0);
    assert_eq!(exec.output(OUT, 8, 0), (5, 0));
    let said = exec.ended(ProcessEnd::Exited(0), Some([8, 0]));
    assert_eq!(said[1..], ["output ended", "ack [8, 0] done", "settled"]);
}

#[test]
fn stdin_of_an_earlier_client_fills_the_window() {
    let mut exec = Exec::adopted([0, 0]);
    exec.fact(ProcessFact::LinkUp);
    assert_eq!(exec.announced(OLD_STDIN_WINDOW - 3), NOTHING);
    let base = OLD_STDIN_WINDOW - 3;
    let said = exec.write(1, b"abcdefgh");
    assert_eq!(said, ["1 done", &format!("stdin@{base} abc")]);
    assert_eq!(exec.written(), NOTHING, "the process has taken nothing yet");
    let said = exec.fact(ProcessFact::StdinTaken(4));
    assert_eq!(said, [format!("stdin@{OLD_STDIN_WINDOW} defg")]);
    exec.written();
    let said = exec.fact(ProcessFact::StdinTaken(base + 3));
    assert_eq!(said, [format!("stdin@{} h", OLD_STDIN_WINDOW + 4)]);
    assert_eq!(exec.flush(2), NOTHING);
    assert_eq!(exec.fact(ProcessFact::StdinTaken(base + 8)), ["2 done"]);
}
