//! The shapes that users of std and tokio expect: `AsyncRead` and `AsyncWrite` for the streams of a
//! process, events as a stream, and getters that need no executor.

use std::io;

use crate::support::{VERSIONS, patient, sandbox, sandbox_of, within};
use actix_sandbox::{
    Error, ErrorKind, Language, LocalServer, OutputPolicy, Overflow, Process, ProcessEnd,
    ProcessStdin, ProtocolVersion, Sandbox, SandboxEnd, SandboxEvent, SandboxState, StdStream,
};
use futures::{
    StreamExt,
    future::{join, try_join},
};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};

/// Runs a test in an actix System, and in a tokio runtime without one.
fn everywhere(test: impl AsyncFn() + Copy + Send + 'static) {
    // Use a new thread, because a System stays registered in its thread.
    let in_a_system = std::thread::spawn(move || actix::System::new().block_on(test()));
    in_a_system.join().expect("the test in a System");
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(test());
}

async fn start(sandbox: &Sandbox, code: &str) -> Process {
    let exec = sandbox.exec(Language::Bash, code);
    within("the start", exec).await.expect("started")
}

/// Waits until the client has `bytes` bytes of unread output.
async fn arrived(process: &Process, bytes: usize) {
    within("the output", async {
        while process.buffered_output() < bytes {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[test]
fn tokio_copies_to_stdin_and_from_stdout() {
    everywhere(async || {
        let (_server, sandbox) = sandbox().await;
        let data: Vec<u8> = (0..1_000_000u32)
            .map(|i| (i.wrapping_mul(i) >> 7) as u8)
            .collect();
        let process = start(&sandbox, "cat").await;
        let (mut stdin, mut stdout) = (process.stdin(), process.stdout());
        let write = async {
            tokio::io::copy(&mut &data[..], &mut stdin).await?;
            stdin.shutdown().await
        };
        let mut echo = Vec::new();
        let read = tokio::io::copy(&mut stdout, &mut echo);
        let (_, bytes) = within("the copy", try_join(write, read))
            .await
            .expect("copied");
        assert_eq!(bytes, data.len() as u64);
        assert!(echo == data, "the bytes are the same");
        assert!(within("the end", process.wait()).await.unwrap().success());
    });
}

#[test]
fn both_versions_read_and_write_lines_by_tokio() {
    everywhere(async || {
        for version in VERSIONS {
            let (_server, sandbox) = sandbox_of(version).await;
            let process = start(&sandbox, "while read line; do echo \"<$line>\"; done").await;
            let mut stdin = process.stdin();
            let mut lines = BufReader::new(process.stdout()).lines();
            for word in ["one", "é", "three"] {
                stdin
                    .write_all(format!("{word}\n").as_bytes())
                    .await
                    .unwrap();
                within("the flush", stdin.flush()).await.unwrap();
                let line = within("a line", lines.next_line()).await.unwrap();
                assert_eq!(line, Some(format!("<{word}>")));
            }
            process.kill().await.unwrap();
        }
    });
}

#[actix::test]
async fn writes_that_v1_cannot_send_are_unsupported() {
    let (_server, sandbox) = sandbox_of(ProtocolVersion::V1).await;
    let process = start(&sandbox, "cat").await;
    let mut stdin = process.stdin();
    stdin.write_all(b"\xff").await.expect("taken");
    let error = within("the flush", stdin.flush())
        .await
        .expect_err("not UTF-8");
    assert_eq!(error.kind(), io::ErrorKind::Unsupported);
    let error: Error = error.downcast().expect("an error of this crate");
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    let error = within("the shutdown", stdin.shutdown()).await;
    assert_eq!(error.expect_err("v1").kind(), io::ErrorKind::Unsupported);
}

#[actix::test]
async fn v1_takes_text_that_is_cut_inside_a_code_point() {
    let (_server, sandbox) = sandbox_of(ProtocolVersion::V1).await;
    let process = start(&sandbox, "cat").await;
    let (mut stdin, mut stdout) = (process.stdin(), process.stdout());
    for half in [&b"\xc3"[..], b"\xa9"] {
        stdin.write_all(half).await.expect("taken");
        within("the flush", stdin.flush()).await.expect("flushed");
    }
    let text = format!("x{}", "\u{1F600}".repeat(100_000));
    let write = async {
        tokio::io::copy(&mut text.as_bytes(), &mut stdin).await?;
        stdin.flush().await
    };
    let mut echo = vec![0; 2 + text.len()];
    let read = stdout.read_exact(&mut echo);
    within("the copy", try_join(write, read))
        .await
        .expect("copied");
    assert!(
        echo == format!("é{text}").as_bytes(),
        "the bytes are the same"
    );
    process.kill().await.expect("killed");
}

const PIPE: usize = 64 << 10;

/// Starts a process that waits for [`release`] before it runs `code`. Fills its stdin pipe, and
/// queues one more write, which the process hasn't taken yet.
async fn held_back(code: &str, budget: usize) -> (LocalServer, Process, ProcessStdin) {
    let server = LocalServer::start().await.expect("a server");
    let sandbox = patient(server.url()).stdin_budget(budget);
    let sandbox = sandbox.await.expect("a sandbox");
    let code = format!("mkfifo gate; echo; read < gate; {code}");
    let process = start(&sandbox, &code).await;
    arrived(&process, 1).await;
    let mut stdin = process.stdin();
    stdin.write_all(&[b'x'; PIPE]).await.expect("written");
    within("the flush", stdin.flush()).await.expect("taken");
    stdin.write_all(&[b'x'; PIPE]).await.expect("written");
    (server, process, stdin)
}

async fn release(process: &Process) {
    let run = process.sandbox().run(Language::Bash, "echo > gate");
    within("the release", run).await.expect("released");
}

#[actix::test]
async fn a_dropped_stdin_handle_loses_no_accepted_write() {
    let (_server, process, mut stdin) = held_back("cat", 1).await;
    // This write waits for room in the stdin budget.
    stdin.write_all(&[b'y'; PIPE]).await.expect("written");
    drop(stdin);
    let close = join(process.close_stdin(), release(&process));
    within("the close", close).await.0.expect("accepted");
    let echo = within("the echo", process.stdout().read_all()).await;
    let echo = echo.expect("read");
    let expected = [&b"\n"[..], &[b'x'; 2 * PIPE], &[b'y'; PIPE]].concat();
    assert!(echo == expected, "{} bytes, or others", echo.len());
}

#[actix::test]
async fn a_shutdown_reports_input_that_the_process_did_not_read() {
    let (_server, process, mut stdin) = held_back("true", 1 << 20).await;
    let (shutdown, ()) = within("the end", join(stdin.shutdown(), release(&process))).await;
    let error = shutdown.expect_err("the process read nothing");
    assert_eq!(error.kind(), io::ErrorKind::BrokenPipe, "{error}");
}

#[actix::test]
async fn a_write_after_a_shutdown_or_the_end_fails_at_once() {
    let (_server, sandbox) = sandbox().await;
    let process = start(&sandbox, "cat").await;
    let (mut one, mut two) = (process.stdin(), process.stdin());
    within("the shutdown", one.shutdown())
        .await
        .expect("closed");
    let error = one.write(b"x").await.expect_err("closed");
    assert_eq!(error.kind(), io::ErrorKind::BrokenPipe, "{error}");
    within("the end", process.wait()).await.expect("an end");
    let error = two.write(b"x").await.expect_err("ended");
    assert_eq!(error.kind(), io::ErrorKind::BrokenPipe, "{error}");
}

#[actix::test]
async fn run_to_end_drops_output_under_every_policy() {
    let server = LocalServer::start().await.expect("a server");
    for overflow in [Overflow::default(), Overflow::DropOldest, Overflow::Fail] {
        let policy = OutputPolicy {
            budget: 1,
            overflow,
        };
        let sandbox = patient(server.url()).output_policy(policy);
        let sandbox = sandbox.await.expect("a sandbox");
        let command = sandbox.command(Language::Bash, "head -c 1000000 /dev/zero");
        let end = within("the end", command.run_to_end()).await;
        assert_eq!(end.expect("ran").code(), Some(0));
    }
}

#[actix::test]
async fn debug_of_a_command_shows_no_code_and_no_values() {
    let (_server, sandbox) = sandbox().await;
    let command = sandbox
        .command(Language::Bash, "echo secret")
        .arg("a secret")
        .env("NAME", "the secret")
        .stdin("another secret");
    let debug = format!("{command:?}");
    assert!(
        debug.contains("NAME") && !debug.contains("secret"),
        "{debug}"
    );
}

#[actix::test]
async fn a_process_that_does_not_read_holds_its_writer_back() {
    for version in VERSIONS {
        let (_server, sandbox) = sandbox_of(version).await;
        let process = start(&sandbox, "sleep 0.5").await;
        let mut stdin = process.stdin();
        let data = vec![b'x'; 64 << 20];
        // Without backpressure, the whole write would succeed before the process ends.
        let error = within("the write", stdin.write_all(&data)).await;
        let error = error.expect_err("the process ended before");
        assert_eq!(
            error.kind(),
            io::ErrorKind::BrokenPipe,
            "{version}: {error}"
        );
    }
}

#[test]
fn a_read_of_a_part_leaves_the_rest() {
    everywhere(async || {
        let (_server, sandbox) = sandbox().await;
        let process = start(&sandbox, "printf 0123456789").await;
        within("the end", process.wait()).await.unwrap();
        let mut part = [0; 4];
        let mut stdout = process.stdout();
        within("a part", stdout.read_exact(&mut part))
            .await
            .unwrap();
        drop(stdout);
        assert_eq!(&part, b"0123");
        let rest = within("the rest", process.stdout().read_all()).await;
        assert_eq!(rest.unwrap(), "456789");
    });
}

/// Starts a process that prints `o1`, `e1`, `o2`, …, each after the client has received the one
/// before.
async fn alternate(sandbox: &Sandbox) -> Process {
    let code = "for i in {1..9}; do read; echo -n o$i; read; echo -n e$i >&2; done; read; exit 7";
    let process = start(sandbox, code).await;
    for bytes in (2..=36).step_by(2) {
        process.write_to_stdin("\n").await.expect("written");
        arrived(&process, bytes).await;
    }
    process.write_to_stdin("\n").await.expect("written");
    process
}

#[test]
fn merged_output_is_in_order_of_arrival() {
    everywhere(async || {
        for version in VERSIONS {
            let (_server, sandbox) = sandbox_of(version).await;
            let process = alternate(&sandbox).await;
            let mut merged = process.merged_output();
            for i in 1..=9 {
                for (expected, letter) in [(StdStream::Stdout, 'o'), (StdStream::Stderr, 'e')] {
                    let (stream, bytes) = within("a piece", merged.next()).await.unwrap().unwrap();
                    assert_eq!(stream, expected);
                    assert_eq!(bytes, format!("{letter}{i}"));
                }
            }
            assert!(within("the end", merged.next()).await.is_none());
        }
    });
}

#[actix::test]
async fn merged_output_keeps_its_order_beside_another_reader() {
    let (_server, sandbox) = sandbox().await;
    let process = alternate(&sandbox).await;
    let mut stdout = process.stdout();
    let mut first = [0; 7];
    stdout.read_exact(&mut first).await.unwrap();
    assert_eq!(&first, b"o1o2o3o");
    let merged = process.merged_output();
    let rest = merged.map(|piece| piece.unwrap().1.to_vec());
    let rest = within("the rest", rest.concat()).await;
    assert_eq!(rest, b"e1e2e34e4o5e5o6e6o7e7o8e8o9e9");
}

#[test]
fn try_wait_knows_the_end_without_waiting() {
    everywhere(async || {
        let (_server, sandbox) = sandbox().await;
        let process = start(&sandbox, "read; exit 3").await;
        assert_eq!(process.try_wait().expect("known"), None);
        process.write_to_stdin("\n").await.expect("written");
        let end = within("the end", process.wait()).await.expect("an end");
        assert_eq!(process.try_wait().expect("known"), Some(end.clone()));
        assert_eq!(
            (end.success(), end.code(), end.signal()),
            (false, Some(3), None)
        );

        let process = start(&sandbox, "kill -TERM $$").await;
        let end = within("the end", process.wait()).await.expect("an end");
        assert_eq!(
            (end.success(), end.code(), end.signal()),
            (false, None, Some(15))
        );

        let process = start(&sandbox, "read").await;
        sandbox.kill().await.expect("killed");
        let end = within("the end", process.wait()).await.expect("an end");
        assert!(matches!(
            end,
            ProcessEnd::Killed | ProcessEnd::SandboxLost { .. }
        ));
        assert_eq!(process.try_wait().expect("known"), Some(end));
    });
}

#[test]
fn a_stopped_system_fails_try_wait_and_ends_the_state() {
    let (sender, receiver) = std::sync::mpsc::sync_channel(1);
    let system = std::thread::spawn(move || {
        actix::System::new().block_on(async {
            let (_server, sandbox) = sandbox().await;
            let process = start(&sandbox, "read").await;
            sender.send(process).expect("a receiver");
        });
    });
    let process = receiver.recv().expect("a process");
    system.join().expect("the System stopped");
    let error = process.try_wait().expect_err("the actor is gone");
    assert_eq!(error.kind(), ErrorKind::ActorGone);
    let state = process.sandbox().state();
    assert!(matches!(state, SandboxState::Ended(_)), "{state}");
    // The stream of events ends, too.
    let events = process.sandbox().events();
    assert_eq!(futures::executor::block_on(events.count()), 0);
}

#[test]
fn events_are_a_stream_that_ends_with_the_sandbox() {
    everywhere(async || {
        let (_server, sandbox) = sandbox().await;
        let events = sandbox.events();
        let run = within("the run", sandbox.run(Language::Bash, "exit 3"));
        assert_eq!(run.await.expect("ran").end.code(), Some(3));
        sandbox.kill().await.expect("killed");
        let events: Vec<_> = within("the events", events.collect()).await;
        let ended = |event: &SandboxEvent| matches!(event, SandboxEvent::ProcessEnded { end, .. } if end.code() == Some(3));
        assert!(events.iter().any(ended), "{events:?}");
        let last = SandboxEvent::Ended(SandboxEnd::Killed);
        assert_eq!(events.last(), Some(&last));

        // A stream that is opened after the end yields the end.
        let late: Vec<_> = within("the end", sandbox.events().collect()).await;
        assert_eq!(late, [last]);
    });
}

#[actix::test]
async fn a_slow_reader_of_events_learns_how_many_it_missed() {
    let (_server, sandbox) = sandbox().await;
    let mut all = crate::support::events(&sandbox).await;
    let slow = sandbox.events();
    for _ in 0..150 {
        let run = within("the run", sandbox.run(Language::Bash, "true"));
        run.await.expect("ran");
    }
    sandbox.kill().await.expect("killed");
    let slow: Vec<_> = within("the events", slow.collect()).await;
    let mut count = 0;
    while within("an event", all.recv()).await.is_some_and(|event| {
        count += 1;
        !matches!(event, SandboxEvent::Ended(_))
    }) {}
    let missed = slow.iter().filter_map(|event| match event {
        SandboxEvent::Lagged { missed } => Some(*missed),
        _ => None,
    });
    let missed: Vec<_> = missed.collect();
    let [missed] = missed[..] else {
        panic!("{missed:?}")
    };
    assert!(missed > 0);
    assert_eq!(slow.len() as u64 - 1 + missed, count);
    assert_eq!(slow.last(), Some(&SandboxEvent::Ended(SandboxEnd::Killed)));
}

#[test]
fn state_and_version_are_read_on_a_plain_thread() {
    everywhere(async || {
        for version in VERSIONS {
            let (_server, sandbox) = sandbox_of(version).await;
            let read = |sandbox: Sandbox| {
                let thread = move || (sandbox.state(), sandbox.protocol_version());
                std::thread::spawn(thread).join().expect("read")
            };
            assert_eq!(read(sandbox.clone()), (SandboxState::Running, version));
            let killed = within("the kill", sandbox.kill());
            killed.await.expect("killed");
            // When a call returns, the state already reflects its result.
            let over = SandboxState::Ended(SandboxEnd::Killed);
            assert_eq!(read(sandbox), (over, version));
        }
    });
}

#[test]
fn output_that_is_not_utf8_is_whole() {
    everywhere(async || {
        let (_server, sandbox) = sandbox().await;
        let code = "printf 'a\\xff\\n'; printf 'caf\\xc3\\xa9' >&2";
        let output = within("the run", sandbox.run(Language::Bash, code)).await;
        let output = output.expect("ran");
        assert!(output.success());
        assert_eq!(&output.stdout[..], b"a\xff\n");
        assert!(output.stdout_str().is_err());
        assert_eq!(output.stdout_lossy(), "a\u{FFFD}\n");
        assert_eq!(output.stderr_str(), Ok("café"));
        assert_eq!(output.stderr_lossy(), "café");
        let end = sandbox.command(Language::Bash, "exit 4").run_to_end();
        assert_eq!(within("the end", end).await.expect("ran").code(), Some(4));
    });
}

#[actix::test]
async fn text_ends_with_what_came_before_an_error() {
    let (_server, sandbox) = sandbox().await;
    let policy = OutputPolicy {
        budget: 8,
        overflow: Overflow::DropOldest,
    };
    let code = "printf '\\xc3'; read; printf 0123456789";
    let command = sandbox.command(Language::Bash, code).output_policy(policy);
    let process = within("the start", command.spawn()).await.expect("started");
    arrived(&process, 1).await;
    let mut text = process.stdout().text();
    assert!(futures::poll!(text.next()).is_pending());
    process.write_to_stdin("\n").await.expect("written");
    within("the end", process.wait()).await.expect("an end");
    let items = within("the text", text.collect::<Vec<_>>()).await;
    let [Ok(begun), Err(error), Ok(_)] = &items[..] else {
        panic!("{items:?}");
    };
    assert_eq!(begun, "\u{FFFD}");
    assert_eq!(error.kind(), ErrorKind::OutputLost);
}

#[actix::test]
async fn a_line_that_is_split_has_no_empty_rest() {
    let (_server, sandbox) = sandbox().await;
    let code = "head -c 1048576 /dev/zero; read; echo; echo; echo next";
    let process = start(&sandbox, code).await;
    let mut lines = process.stdout().lines();
    let long = within("the line", lines.next()).await.unwrap().unwrap();
    assert_eq!(long.len(), 1 << 20);
    process.write_to_stdin("\n").await.expect("written");
    let rest: Vec<_> = within("the rest", lines.map(Result::unwrap).collect()).await;
    assert_eq!(rest, ["", "next"]);
}

/// One task flushes, writes and reads. The program reads the second line before it answers.
#[actix::test]
async fn a_flush_waits_for_the_pipe_and_a_write_goes_before_it() {
    let (_server, sandbox) = sandbox().await;
    let process = start(&sandbox, "read a; read b; echo $a $b").await;
    let mut stdin = process.stdin();
    stdin.write_all(b"one\n").await.unwrap();
    assert!(futures::poll!(Box::pin(stdin.flush())).is_pending());
    let write = async {
        stdin.write_all(b"two\n").await?;
        stdin.flush().await
    };
    let (written, line) = within("the answer", join(write, process.stdout().read_all())).await;
    written.expect("written");
    assert_eq!(line.expect("read"), "one two\n");
}
