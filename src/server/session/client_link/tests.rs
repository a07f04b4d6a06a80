//! What a link queues, gives back and lets go.

use std::task::Waker;

use super::*;
use crate::protocol::Status;

fn pop(link: &Link) -> Option<String> {
    match link.poll_pop(&Context::from_waker(Waker::noop())) {
        Poll::Ready(Some(Outgoing::Text(text))) => Some(text),
        Poll::Ready(Some(other)) => Some(format!("{other:?}")),
        Poll::Ready(None) => Some("end".to_owned()),
        Poll::Pending => None,
    }
}

fn output(text: &str) -> ExecItem {
    ExecItem::Output(StdStream::Stdout, text.to_owned())
}

#[test]
fn what_was_not_popped_is_taken_back_and_answers_are_not() {
    let link = Link::default();
    link.push(ServerMessage::status(Status::SandboxRunning));
    link.push_exec(output("first")).unwrap();
    link.push(ServerMessage::status(Status::StdinError));
    link.push_exec(output("second")).unwrap();
    assert!(pop(&link).is_some_and(|text| text.contains("SANDBOX_RUNNING")));
    assert!(pop(&link).is_some_and(|text| text.contains("first")));
    link.die();
    assert!(link.push_exec(output("third")).is_err());
    assert_eq!(pop(&link).as_deref(), Some("end"));
    let back: Vec<_> = link.take_back().into_iter().collect();
    assert!(matches!(&back[..], [ExecItem::Output(_, text)] if text == "second"));
    assert_eq!(link.queued_bytes(), 0);
}

#[test]
fn a_corked_link_sends_its_messages_together() {
    let link = Arc::new(Link::default());
    let cork = link.cork();
    link.push(ServerMessage::status(Status::ExecutionError));
    assert_eq!(pop(&link), None);
    link.push(ServerMessage::status(Status::ExecutionDone));
    drop(cork);
    assert!(pop(&link).is_some_and(|text| text.contains("EXECUTION_ERROR")));
    assert!(pop(&link).is_some_and(|text| text.contains("EXECUTION_DONE")));
}

#[test]
fn output_that_waits_is_joined_within_a_stream() {
    let link = Link::default();
    link.push_exec(output("a")).unwrap();
    link.push_exec(output("b")).unwrap();
    link.push_exec(ExecItem::Output(StdStream::Stderr, "c".to_owned()))
        .unwrap();
    link.push_exec(output("d")).unwrap();
    let texts: Vec<_> = std::iter::from_fn(|| pop(&link)).collect();
    assert_eq!(
        texts,
        [
            r#"{"event":"stdout","data":"ab"}"#,
            r#"{"event":"stderr","data":"c"}"#,
            r#"{"event":"stdout","data":"d"}"#
        ]
    );
    assert_eq!(link.queued_bytes(), 0);
}

#[test]
fn endless_v1_output_does_not_delay_named_execs() {
    let link = Arc::new(Link::new(Version::V2, None));
    let exec = NamedExec::new(crate::machine::ServedExec::new("named".into(), 1_024));
    link.add(&exec);
    exec.change(|exec| {
        exec.handle_started();
        exec.handle_output(StdStream::Stdout, b"heard");
    });
    // One that cannot be joined to the last, so that the queue is never empty.
    let mut streams = [StdStream::Stdout, StdStream::Stderr].into_iter().cycle();
    let mut print = || {
        let stream = streams.next().expect("one of two");
        let item = ExecItem::Output(stream, "x".repeat(MAX_PIECE_BYTES));
        link.push_exec(item).unwrap();
    };
    print();
    let mut named = Vec::new();
    for _ in 0..6 {
        print();
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

#[tokio::test]
async fn room_is_announced_when_the_writer_takes_output() {
    let link = Arc::new(Link::default());
    link.push_exec(output(&"x".repeat(1_000))).unwrap();
    let waiting = tokio::spawn({
        let link = link.clone();
        async move { link.drained_below(500).await }
    });
    tokio::task::yield_now().await;
    assert!(!waiting.is_finished());
    pop(&link);
    waiting.await.expect("no panic");
}
