//! A process prints 100 MiB of output that isn't read. Memory stays within the budget, a kill still
//! works, and statuses still arrive. One test in a separate binary, because it measures the memory
//! of the whole process, server included.
#![cfg(target_os = "linux")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod support;

use std::time::Duration;

use actix_sandbox::{
    ErrorKind, Language, OutputPolicy, Overflow, Process, ProcessEnd, ProtocolVersion, Sandbox,
    SandboxEvent,
};
use futures::StreamExt;
use support::{VERSIONS, events, resident_memory, sandbox_of, within};

const MIB: usize = 1 << 20;
const PRINTED: u64 = 100 << 20;
const BUDGET: usize = 4 * MIB;
/// Room for the buffers of client and server, sockets, pipes and allocator slack. An unbounded
/// buffer would hold 100 MiB.
const ALLOWED: usize = 48 * MIB;

/// Prints 100 MiB to stdout in lines, then says so on stderr.
const FLOOD: &str = "line = 'x' * 1023 + '\\n'
import sys
for _ in range(100 * 1024):
    sys.stdout.write(line)
sys.stdout.flush()
print('all printed', file=sys.stderr)";

async fn flood(sandbox: &Sandbox, overflow: Overflow) -> Process {
    let policy = OutputPolicy {
        budget: BUDGET,
        overflow,
    };
    sandbox
        .command(Language::Python, FLOOD)
        .output_policy(policy)
        .spawn()
        .await
        .expect("started")
}

/// The output buffer of the local server, which is also the largest window that it grants in v2.
const WINDOW: usize = MIB;

/// Waits until the client's budget (v1) or the window (v2) is used up, so that the process is
/// blocked.
async fn full(process: &Process, version: ProtocolVersion) {
    let most = match version {
        ProtocolVersion::V1 => BUDGET,
        // Up to 3 bytes may stay free: the server doesn't split a code point.
        ProtocolVersion::V2 | ProtocolVersion::Lifted => WINDOW - 3,
    };
    within("a full buffer", async {
        while process.buffered_output() < most {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

/// Reads a stream to its end. Returns the number of bytes that arrived and that were dropped.
async fn drain(mut stream: actix_sandbox::OutputStream) -> (u64, u64) {
    let (mut came, mut lost) = (0, 0);
    while let Some(item) = within("output", stream.next()).await {
        match item {
            Ok(piece) => came += piece.len() as u64,
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::OutputLost);
                lost += error.lost_bytes().expect("how many");
            }
        }
    }
    (came, lost)
}

#[actix::test]
async fn unread_output_stays_within_its_budget() {
    for version in VERSIONS {
        println!("protocol {version}");
        stays_within_its_budget(version).await;
    }
}

async fn stays_within_its_budget(version: ProtocolVersion) {
    let (server, sandbox) = sandbox_of(version).await;
    sandbox
        .run(Language::Python, "print('warm')")
        .await
        .expect("ran");
    let before = resident_memory();
    let check = |what: &str| {
        let grown = resident_memory().saturating_sub(before);
        println!(
            "{what}: resident memory grew by {:.1} MiB",
            grown as f64 / MIB as f64
        );
        assert!(grown < ALLOWED, "{what}: memory grew by {grown} bytes");
    };

    // Without a reader or a waiting caller, the process is paused. A kill still works at once.
    let never = Overflow::Pause { max: Duration::MAX };
    let process = flood(&sandbox, never).await;
    full(&process, version).await;
    check("paused");
    let other = Sandbox::create(server.url())
        .await
        .expect("another sandbox");
    assert_eq!(
        other
            .run(Language::Bash, "echo unaffected")
            .await
            .expect("ran")
            .stdout,
        "unaffected\n"
    );
    within("kill", process.kill()).await.expect("killed");
    assert_eq!(process.wait().await.expect("ended"), ProcessEnd::Killed);
    check("killed");
    drop(process);

    // Without a reader, a caller waits for the end. The end comes, and dropped bytes are counted.
    let process = flood(&sandbox, never).await;
    full(&process, version).await;
    assert_eq!(
        within("the end", process.wait()).await.expect("ended"),
        match version {
            ProtocolVersion::V1 => ProcessEnd::Unknown,
            ProtocolVersion::V2 | ProtocolVersion::Lifted => ProcessEnd::Exited(0),
        }
    );
    check("awaited");
    let (came, lost) = drain(process.stdout()).await;
    assert_eq!(
        came + lost,
        PRINTED,
        "every byte came or was counted as lost"
    );
    assert!(came > 0 && came <= BUDGET as u64);
    drop(process);

    // The longest pause is over, still without a reader or a waiting caller: statuses come again.
    let process = flood(
        &sandbox,
        Overflow::Pause {
            max: Duration::from_millis(200),
        },
    )
    .await;
    let mut stderr = process.stderr();
    assert_eq!(
        within("stderr", stderr.next())
            .await
            .expect("some")
            .expect("output"),
        "all printed\n"
    );
    check("stalled");
    within("end", process.wait()).await.expect("ended");
    drop((process, stderr));

    // `DropOldest`: the process runs at full speed.
    let process = flood(&sandbox, Overflow::DropOldest).await;
    within("the end", process.wait()).await.expect("ended");
    check("oldest dropped");
    let (came, lost) = drain(process.stdout()).await;
    assert_eq!(came + lost, PRINTED);
    drop(process);

    // `Fail`: the process is killed.
    let process = flood(&sandbox, Overflow::Fail).await;
    assert_eq!(
        within("the end", process.wait()).await.expect("ended"),
        ProcessEnd::Killed
    );
    let mut stdout = process.stdout();
    let mut last = None;
    while let Some(item) = stdout.next().await {
        last = Some(item);
    }
    assert_eq!(
        last.expect("an item").expect_err("an error").kind(),
        ErrorKind::OutputOverflow
    );
    check("failed");
    drop((process, stdout));

    // A slow reader loses nothing.
    let process = flood(&sandbox, Overflow::default()).await;
    let stdout = process.stdout();
    full(&process, version).await;
    check("slow reader");
    assert_eq!(drain(stdout).await, (PRINTED, 0));
    drop(process);

    // A subscriber gets statuses although output isn't read. In v2, statuses don't queue behind
    // output, so the process stays paused until a caller waits for its end.
    let mut events = events(&sandbox).await;
    let process = flood(&sandbox, never).await;
    if version == ProtocolVersion::V2 {
        full(&process, version).await;
        let output = within("another", sandbox.run(Language::Bash, "echo x")).await;
        assert_eq!(output.expect("ran").stdout, "x\n");
        assert!(futures::FutureExt::now_or_never(process.wait()).is_none());
        within("the end", process.wait()).await.expect("ended");
    }
    while !matches!(
        within("a status", events.recv()).await,
        Some(SandboxEvent::ProcessEnded { .. })
    ) {}
    check("subscribed");

    within("kill", sandbox.kill()).await.expect("killed");
}
