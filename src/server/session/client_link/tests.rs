//! Tests of which messages a link sends, and in which order.

use std::{task::Waker, time::Duration};

use super::*;
use crate::{
    machine::ServedExec,
    protocol::{EndReason, ExecEnd, Status, StdStream},
    server::exec::v1_adapter::V1Adapter,
};

fn pop(link: &Link) -> Option<String> {
    match link.poll_pop(&Context::from_waker(Waker::noop())) {
        Poll::Ready(Some(Outgoing::Message(message))) => Some(message.into_text()),
        Poll::Ready(Some(other)) => Some(format!("{other:?}")),
        Poll::Ready(None) => Some("end".to_owned()),
        Poll::Pending => None,
    }
}

fn v1_exec(link: &Link) -> Arc<SharedExec> {
    let adapter = V1Adapter::new(link.version, Duration::from_secs(60), 1_024);
    let exec = SharedExec::new(ServedExec::unnamed(1 << 20), Some(adapter));
    exec.change(ServedExec::handle_started);
    link.add(&exec);
    exec
}

fn print(exec: &SharedExec, stream: StdStream, text: &str) {
    exec.change(|exec| exec.handle_output(stream, text.as_bytes()));
}

const RUNNING: &str = r#"{"event":"status_update","status":"SANDBOX_EXECUTION_RUNNING"}"#;

#[test]
fn output_that_was_not_popped_waits_for_the_next_link() {
    let link = Link::default();
    let exec = v1_exec(&link);
    print(&exec, StdStream::Stdout, "first");
    assert_eq!(pop(&link).as_deref(), Some(RUNNING));
    assert!(pop(&link).is_some_and(|text| text.contains("first")));
    print(&exec, StdStream::Stdout, "second");
    link.push(ServerMessage::status(Status::StdinError));
    link.die();
    exec.detach();
    assert_eq!(pop(&link).as_deref(), Some("end"));
    print(&exec, StdStream::Stdout, " third");

    let link = Link::default();
    link.add(&exec);
    assert_eq!(pop(&link), None, "the client has not taken it over");
    exec.reconnect(Version::V1);
    assert_eq!(pop(&link).as_deref(), Some(RUNNING));
    assert!(pop(&link).is_some_and(|text| text.contains("second third")));
    assert_eq!(pop(&link), None);
}

#[test]
fn a_kill_is_answered_without_a_reconnect() {
    let exec = v1_exec(&Link::default());
    exec.detach();
    let link = Link::default();
    link.add(&exec);
    assert!(exec.expect_kill());
    assert_eq!(pop(&link), None);
    exec.change(|exec| {
        exec.handle_exited(ExecEnd::lost(), None);
        exec.handle_done(false);
    });
    let killed = r#"{"event":"status_update","status":"SANDBOX_EXECUTION_FORCE_KILLED"}"#;
    assert_eq!(pop(&link).as_deref(), Some(killed));
    assert_eq!(pop(&link), None);
    assert!(!exec.is_in_progress() && !exec.expect_kill());
}

#[test]
fn output_and_the_end_come_before_the_close_frame() {
    let link = Link::default();
    let exec = v1_exec(&link);
    print(&exec, StdStream::Stdout, "last");
    link.close(1000);
    print(&exec, StdStream::Stdout, " words");
    exec.change(|exec| {
        exec.handle_exited(ExecEnd::lost(), Some("why".to_owned()));
        exec.handle_done(false);
    });
    let texts: Vec<_> = std::iter::from_fn(|| pop(&link)).collect();
    let expected = [
        RUNNING,
        r#"{"event":"stdout","data":"last words"}"#,
        r#"{"event":"status_update","status":"SANDBOX_EXECUTION_ERROR"}"#,
        r#"{"event":"error","message":"why"}"#,
        r#"{"event":"status_update","status":"SANDBOX_EXECUTION_DONE"}"#,
        "Close(Some(1000))",
    ];
    assert_eq!(texts, expected);
}

#[test]
fn a_refusal_carries_its_reason_and_under_v2_twice() {
    for version in [Version::V1, Version::V2] {
        let link = Link::new(version, None);
        link.refuse(Status::ExecutionError, "why".to_owned());
        let status = pop(&link).unwrap();
        assert!(status.contains("EXECUTION_ERROR"), "{status}");
        assert_eq!(status.contains("why"), version == Version::V2);
        let reason = r#"{"event":"error","message":"why"}"#;
        assert_eq!(pop(&link).as_deref(), Some(reason));
        assert_eq!(pop(&link), None);
    }
}

#[test]
fn output_that_waits_is_joined_within_a_stream() {
    let link = Link::default();
    let exec = v1_exec(&link);
    for (stream, text) in [
        (StdStream::Stdout, "a"),
        (StdStream::Stdout, "b"),
        (StdStream::Stderr, "c"),
        (StdStream::Stdout, "d"),
    ] {
        print(&exec, stream, text);
    }
    let texts: Vec<_> = std::iter::from_fn(|| pop(&link)).collect();
    let expected = [
        RUNNING,
        r#"{"event":"stdout","data":"ab"}"#,
        r#"{"event":"stderr","data":"c"}"#,
        r#"{"event":"stdout","data":"d"}"#,
    ];
    assert_eq!(texts, expected);
}

#[test]
fn endless_v1_output_does_not_delay_named_execs() {
    let link = Arc::new(Link::new(Version::V2, None));
    let endless = v1_exec(&link);
    let exec = SharedExec::new(ServedExec::new("named".into(), 1_024), None);
    link.add(&exec);
    exec.change(ServedExec::handle_started);
    print(&exec, StdStream::Stdout, "heard");
    let mut named = Vec::new();
    for _ in 0..6 {
        print(&endless, StdStream::Stdout, &"x".repeat(1_024));
        named.extend(pop(&link).filter(|text| text.contains("named")));
    }
    assert!(named[0].contains("RUNNING") && named[1].contains("heard"));
}

#[test]
fn nothing_follows_a_close_frame() {
    let link = Link::default();
    link.close(1000);
    link.push(ServerMessage::status(Status::SandboxRunning));
    assert_eq!(pop(&link).as_deref(), Some("Close(Some(1000))"));
    link.pong(Bytes::new());
    assert_eq!(pop(&link), None);
    link.closed_by_client(Some(1000));
    assert_eq!(pop(&link).as_deref(), Some("end"));
}

#[test]
fn a_client_that_reads_no_answers_is_cut_off() {
    let link = Link::default();
    for _ in 0..=MAX_WAITING_ANSWERS {
        link.push(ServerMessage::status(Status::ExecutionForceKilled));
    }
    assert!(link.is_dead());
}

fn end(exec: &SharedExec, reason: EndReason) {
    exec.change(|exec| {
        let end = ExecEnd {
            reason,
            ..ExecEnd::lost()
        };
        exec.handle_exited(end, Some("why".to_owned()));
        exec.handle_done(false);
    });
}

#[test]
fn no_answer_splits_the_messages_about_an_end() {
    let link = Link::default();
    let exec = v1_exec(&link);
    end(&exec, EndReason::TimedOut);
    assert_eq!(pop(&link).as_deref(), Some(RUNNING));
    for part in ["EXECUTION_ERROR", "ran longer", "FORCE_KILLED"] {
        let text = pop(&link).unwrap();
        assert!(text.contains(part), "{text}");
        assert!(exec.is_in_progress(), "the client has not heard of the end");
        link.refuse(Status::ExecutionError, "refused".to_owned());
    }
    assert!(pop(&link).is_some_and(|text| text.contains("EXECUTION_DONE")));
    assert!(!exec.is_in_progress());
    let refused: Vec<_> = std::iter::from_fn(|| pop(&link)).collect();
    assert_eq!(refused.len(), 6, "{refused:?}");
}

#[test]
fn answers_wait_for_an_exec_that_is_finished() {
    let link = Link::default();
    let exec = v1_exec(&link);
    print(&exec, StdStream::Stdout, "before");
    exec.silence_end();
    link.finish(&exec);
    link.push(ServerMessage::status(Status::SandboxDeleting));
    link.close(1000);
    assert_eq!(pop(&link).as_deref(), Some(RUNNING));
    assert!(pop(&link).is_some_and(|text| text.contains("before")));
    assert_eq!(pop(&link), None, "the exec may still print");
    print(&exec, StdStream::Stdout, "after");
    end(&exec, EndReason::SandboxLost);
    assert!(pop(&link).is_some_and(|text| text.contains("after")));
    assert!(pop(&link).is_some_and(|text| text.contains("SANDBOX_DELETING")));
    assert_eq!(pop(&link).as_deref(), Some("Close(Some(1000))"));
}

#[test]
fn a_detached_exec_delays_no_answers() {
    let link = Link::default();
    let exec = v1_exec(&link);
    exec.detach();
    link.finish(&exec);
    link.push(ServerMessage::status(Status::SandboxDeleting));
    assert!(pop(&link).is_some_and(|text| text.contains("SANDBOX_DELETING")));
}

#[test]
fn the_answers_to_many_kills_are_bounded() {
    let link = Link::default();
    let exec = v1_exec(&link);
    for _ in 0..1_000 {
        assert!(exec.expect_kill());
    }
    end(&exec, EndReason::Killed);
    let texts: Vec<_> = std::iter::from_fn(|| pop(&link)).collect();
    assert_eq!(texts.len(), 66, "RUNNING, the answers and DONE");
}
