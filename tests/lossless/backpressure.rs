//! A process whose output isn't read pauses. Other processes keep running.

use actix_sandbox::{
    ErrorKind, Language, OutputPolicy, Overflow, ProcessEnd, SandboxEvent, SandboxState,
};
use futures::StreamExt;

use super::support::{backend::LONG_ENOUGH_TO_BEGIN, events, sandbox, within};

const BUDGET: usize = 64 * 1024;
/// How much a process can print beyond the window: the size of its pipe, the window of its agent
/// and the server's buffers.
const ON_THE_WAY: usize = 512 * 1024;

const FOREVER: &str = "import os
printed = 0
while True:
    printed += os.write(1, b'x' * 4096)
    with open('progress.new', 'w') as file: print(printed, file=file)
    os.rename('progress.new', 'progress')";

fn policy(overflow: Overflow) -> OutputPolicy {
    OutputPolicy {
        budget: BUDGET,
        overflow,
    }
}

#[actix::test]
async fn only_the_unread_process_pauses() {
    let (_server, sandbox) = sandbox().await;
    let process = sandbox
        .command(Language::Python, FOREVER)
        .output_policy(policy(Overflow::default()))
        .spawn()
        .await
        .expect("started");
    within("a full window", async {
        while process.buffered_output() < BUDGET - 3 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    // Other processes run meanwhile. The first has paused once its progress stays the same.
    let progress = async || {
        let output = within("another", sandbox.run(Language::Bash, "cat progress")).await;
        output
            .expect("ran")
            .stdout_lossy()
            .trim()
            .parse()
            .expect("a number")
    };
    let mut before: usize = 0;
    let mut same = 0;
    while same < 20 {
        let now = progress().await;
        assert!(now <= BUDGET + ON_THE_WAY, "it printed {now} bytes");
        same = if now == before { same + 1 } else { 0 };
        before = now;
    }
    assert!(process.buffered_output() <= BUDGET + 4);
    assert_eq!(sandbox.state(), SandboxState::Running);

    // The process resumes when its output is read.
    let mut stdout = process.stdout();
    let mut taken = 0;
    while taken < 10 * BUDGET {
        let piece = within("output", stdout.next()).await.expect("some");
        taken += piece.expect("no gap").len();
    }
    within("the kill", process.kill()).await.expect("killed");
    assert_eq!(process.wait().await.expect("an end"), ProcessEnd::Killed);
    // Output that was printed before the kill is complete.
    within("the rest", async {
        while let Some(piece) = stdout.next().await {
            piece.expect("no gap");
        }
    })
    .await;
    sandbox.kill().await.expect("killed");
}

/// Every dropped byte is counted, and the process never pauses.
#[actix::test]
async fn the_oldest_output_is_dropped_and_counted() {
    const BYTES: u64 = 5_000_000;
    let (_server, sandbox) = sandbox().await;
    let process = sandbox
        .command(Language::Bash, format!("yes | head -c {BYTES}"))
        .output_policy(policy(Overflow::DropOldest))
        .spawn()
        .await
        .expect("started");
    let end = within("the end", process.wait()).await.expect("an end");
    assert_eq!(end, ProcessEnd::Exited(0));
    let (mut came, mut lost) = (0, 0);
    let mut stdout = process.stdout();
    while let Some(piece) = within("output", stdout.next()).await {
        match piece {
            Ok(piece) => came += piece.len() as u64,
            Err(error) => lost += error.lost_bytes().expect("a gap"),
        }
    }
    assert_eq!(came + lost, BYTES);
    assert!(lost > 0, "{came} came");
}

#[actix::test]
async fn more_than_the_budget_fails_where_that_is_asked_for() {
    let (_server, sandbox) = sandbox().await;
    let process = sandbox
        .command(Language::Bash, "yes")
        .output_policy(policy(Overflow::Fail))
        .spawn()
        .await
        .expect("started");
    let end = within("the end", process.wait()).await.expect("an end");
    assert_eq!(end, ProcessEnd::Killed);
    let error = super::read(process.stdout()).await.expect_err("too much");
    assert_eq!(error.kind(), ErrorKind::OutputOverflow);
    // A process that prints no more than the budget succeeds.
    let within_budget = sandbox
        .command(Language::Bash, format!("yes | head -c {BUDGET}"))
        .output_policy(policy(Overflow::Fail))
        .spawn()
        .await
        .expect("started");
    let end = within("the end", within_budget.wait()).await;
    assert_eq!(end.expect("an end"), ProcessEnd::Exited(0));
}

/// Each process has its own budget and window, so unread processes don't slow the others.
#[actix::test]
async fn many_unread_execs_slow_no_other() {
    let (_server, sandbox) = sandbox().await;
    let mut unread = Vec::new();
    for _ in 0..20 {
        let process = sandbox.exec(Language::Bash, "yes").await;
        unread.push(process.expect("started"));
    }
    let read = sandbox.run(Language::Bash, "yes | head -c 3000000 | md5sum");
    let output = within("one that is read", read).await.expect("ran");
    assert_eq!(output.end, ProcessEnd::Exited(0));
    for process in &unread {
        within("the kill", process.kill()).await.expect("killed");
    }
    sandbox.kill().await.expect("killed");
}

/// The server keeps the output of a bounded number of ended processes. Reading output that it has
/// dropped is an error.
#[actix::test]
async fn output_that_the_server_gave_up_is_an_error_and_no_hang() {
    let (_server, sandbox) = sandbox().await;
    let mut events = events(&sandbox).await;
    let first = sandbox
        .command(Language::Bash, "head -c 50000 /dev/zero; sleep 1000")
        .timeout(LONG_ENOUGH_TO_BEGIN)
        .output_policy(OutputPolicy {
            budget: 1_024,
            overflow: Overflow::default(),
        })
        .spawn()
        .await
        .expect("started");
    // The test listens to events and doesn't call `wait`, which would drop unread output. The
    // server keeps the rest of the output, which was in the pipe.
    let ended = |event: &SandboxEvent| matches!(event, SandboxEvent::ProcessEnded { .. });
    while !ended(&within("its end", events.recv()).await.expect("an event")) {}
    drop(events);
    let mut unread = Vec::new();
    for _ in 0..70 {
        let process = sandbox.exec(Language::Bash, "echo unread").await;
        let process = process.expect("started");
        within("its end", process.wait()).await.expect("an end");
        unread.push(process);
    }
    let output = within("its output", super::read(first.stdout())).await;
    let error = output.expect_err("the rest is gone");
    assert_eq!(error.kind(), ErrorKind::SandboxEnded, "{error}");
    assert!(error.to_string().contains("Its output is gone"), "{error}");
    for process in unread {
        let output = within("its output", super::read(process.stdout())).await;
        assert_eq!(output.expect("whole"), b"unread\n");
    }
}
