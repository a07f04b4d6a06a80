//! Lifetimes of handles, actors, processes and sandboxes, and the executors that programs run on.
#![cfg(target_os = "linux")]

use std::time::Duration;

use crate::support::{port::Port, processes_with, visible_sandbox as sandbox, within};
use actix_sandbox::{
    ErrorKind, Language, LocalServer, ProcessEnd, ProtocolVersion, Runtime, Sandbox, SandboxEvent,
    SandboxState,
};
use futures::StreamExt;

/// Polls a condition that no event reports.
async fn until(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    within(what, async {
        while !condition().await {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[actix::test]
async fn a_killed_script_leaves_none_of_its_ten_children() {
    let (_server, sandbox) = sandbox().await;
    let marker = format!("forks-{}", std::process::id());
    let code =
        format!("for i in $(seq 10); do (exec -a {marker} sleep 1000) & done; echo forked; wait");
    let process = sandbox.exec(Language::Bash, code).await.expect("started");
    assert_eq!(
        process
            .stdout()
            .lines()
            .next()
            .await
            .expect("a line")
            .expect("a line"),
        "forked"
    );
    until("ten children", async || {
        processes_with(&format!("{marker} 1000")).len() == 10
    })
    .await;
    within("kill", process.kill()).await.expect("killed");
    assert_eq!(processes_with(&marker), Vec::<String>::new());
    assert_eq!(process.wait().await.expect("ended"), ProcessEnd::Killed);
}

/// Dropping a handle doesn't kill the process unless `kill_on_drop` is set.
#[actix::test]
async fn dropping_a_process_kills_it_only_when_asked_to() {
    let server = crate::support::backend::with_visible_processes()
        .start()
        .await;
    let server = server.expect("a server");
    let sandbox = Sandbox::create(server.url())
        .max_protocol_version(ProtocolVersion::V1)
        .await
        .expect("a sandbox");
    let marker = format!("dropped-{}", std::process::id());
    let code = format!("(exec -a {marker} sleep 1000)");
    let process = sandbox
        .exec(Language::Bash, code.as_str())
        .await
        .expect("started");
    until("it runs", async || {
        processes_with(&format!("{marker} 1000")).len() == 1
    })
    .await;
    drop(process);
    let refused = sandbox
        .exec(Language::Bash, "echo")
        .await
        .expect_err("it runs on");
    assert_eq!(refused.kind(), ErrorKind::ProcessRunning);
    sandbox.kill().await.expect("killed");
    assert_eq!(processes_with(&marker), Vec::<String>::new());

    let (_server, sandbox) = crate::support::visible_sandbox().await;
    let process = sandbox
        .command(Language::Bash, code)
        .kill_on_drop(true)
        .spawn()
        .await
        .expect("started");
    let another = process.clone();
    until("it runs", async || {
        processes_with(&format!("{marker} 1000")).len() == 1
    })
    .await;
    drop(process);
    assert_eq!(
        processes_with(&format!("{marker} 1000")).len(),
        1,
        "a clone is left"
    );
    drop(another);
    until("it is gone", async || processes_with(&marker).is_empty()).await;
}

/// Dropping a `run` future kills the process, because no handle to it exists.
#[actix::test]
async fn a_cancelled_run_leaves_no_process_and_a_free_sandbox() {
    let (_server, sandbox) = sandbox().await;
    let marker = format!("cancelled-{}", std::process::id());
    let run = sandbox.run(Language::Bash, format!("(exec -a {marker} sleep 1000)"));
    let started = until("it runs", async || {
        processes_with(&format!("{marker} 1000")).len() == 1
    });
    futures::future::select(Box::pin(run.into_future()), Box::pin(started)).await;
    until("it is gone", async || processes_with(&marker).is_empty()).await;
    until("the sandbox is free", async || {
        sandbox.run(Language::Bash, "true").await.is_ok()
    })
    .await;
}

/// A failed or cancelled run may leave a process without a handle. The next call still works.
#[actix::test]
async fn the_call_after_a_failed_or_cancelled_run_just_works() {
    let (_server, sandbox) = sandbox().await;
    let failed = sandbox.command(Language::Bash, "yes").output_limit(10);
    let failed = failed.output().await;
    assert_eq!(
        failed.expect_err("too large").kind(),
        ErrorKind::OutputTooLarge
    );
    let next = within("next", sandbox.run(Language::Bash, "echo next")).await;
    assert_eq!(next.expect("ran").stdout, "next\n");

    for _ in 0..5 {
        let marker = format!("left-by-a-run-{}", std::process::id());
        let code = format!("(exec -a {marker} sleep 1000)");
        let run = Box::pin(sandbox.run(Language::Bash, code));
        let started = until("it runs", async || {
            !processes_with(&format!("{marker} 1000")).is_empty()
        });
        drop(futures::future::select(run, Box::pin(started)).await);
        let next = within("next", sandbox.run(Language::Bash, "echo next")).await;
        assert_eq!(next.expect("ran").stdout, "next\n");
    }

    let process = sandbox
        .command(Language::Bash, "cat")
        .kill_on_drop(true)
        .spawn()
        .await
        .expect("started");
    drop(process);
    let next = within("next", sandbox.run(Language::Bash, "echo next")).await;
    assert_eq!(next.expect("ran").stdout, "next\n");
}

/// An `exec` future that is dropped before the answer kills the process.
#[actix::test]
async fn a_cancelled_exec_leaves_no_process_and_a_free_sandbox() {
    let (_server, sandbox) = sandbox().await;
    let marker = format!("unanswered-{}", std::process::id());
    for polls in 1..4 {
        let mut exec = Box::pin(
            sandbox
                .exec(Language::Bash, format!("(exec -a {marker} sleep 1000)"))
                .into_future(),
        );
        for _ in 0..polls {
            if let std::task::Poll::Ready(process) = futures::poll!(&mut exec) {
                // The exec has completed: dropping its handle wouldn't kill the process.
                process.expect("started").kill().await.expect("killed");
                break;
            }
            tokio::task::yield_now().await;
        }
        drop(exec);
        until("the sandbox is free", async || {
            sandbox.run(Language::Bash, "true").await.is_ok()
        })
        .await;
        // In v2, the sandbox accepts an exec before the old process is dead.
        until("it is killed", async || processes_with(&marker).is_empty()).await;
    }
}

/// The answer to `exec` has arrived, but the future is dropped before it returns the handle.
#[actix::test]
async fn an_exec_dropped_after_its_answer_leaves_no_process() {
    let (_server, sandbox) = sandbox().await;
    let mut events = crate::support::events(&sandbox).await;
    let marker = format!("untaken-{}", std::process::id());
    let code = format!("(exec -a {marker} sleep 1000)");
    let mut exec = Box::pin(sandbox.exec(Language::Bash, code));
    assert!(futures::poll!(&mut exec).is_pending());
    within("the start", async {
        while !matches!(events.recv().await, Some(SandboxEvent::ProcessStarted(_))) {}
    })
    .await;
    until("it runs", async || {
        processes_with(&format!("{marker} 1000")).len() == 1
    })
    .await;
    drop(exec);
    until("it is gone", async || processes_with(&marker).is_empty()).await;
    until("the sandbox is free", async || {
        sandbox.run(Language::Bash, "true").await.is_ok()
    })
    .await;
}

/// `kill_on_drop` also works if the process is dropped together with the sandbox's last handle.
#[actix::test]
async fn a_process_dropped_with_its_sandbox_is_killed_first() {
    let (server, sandbox) = sandbox().await;
    let marker = format!("both-{}", std::process::id());
    let process = sandbox
        .command(Language::Bash, format!("(exec -a {marker} sleep 1000)"))
        .kill_on_drop(true)
        .spawn()
        .await
        .expect("started");
    until("it runs", async || {
        processes_with(&format!("{marker} 1000")).len() == 1
    })
    .await;
    {
        // With a message in its mailbox, the actor of the sandbox runs first.
        let mut state = Box::pin(sandbox.addr().send(actix_sandbox::actor::GetState));
        assert!(futures::poll!(&mut state).is_pending());
    }
    drop((process, sandbox));
    until("it is gone", async || processes_with(&marker).is_empty()).await;
    assert_eq!(server.sandbox_count(), 1, "only the process was killed");
}

#[actix::test]
async fn dropping_the_last_handle_kills_only_with_kill_on_drop() {
    let server = LocalServer::start().await.expect("a server");
    let kept = Sandbox::create(server.url()).await.expect("a sandbox");
    let killed = Sandbox::create(server.url()).kill_on_drop(true);
    let killed = killed.await.expect("a sandbox");
    let process = killed.exec(Language::Bash, "sleep 1000").await;
    let stream = process.expect("started").stdout();
    drop((killed, kept.clone()));
    let output = kept.run(Language::Bash, "true").await;
    output.expect("a clone is left");
    assert_eq!(server.sandbox_count(), 2, "a stream is a handle, too");
    drop(stream);
    until("it is killed", async || server.sandbox_count() == 1).await;
    let id = kept.sandbox_id().clone();
    let token = kept.sandbox_token().clone();
    drop(kept);
    until("it lives on", async || {
        let attached = Sandbox::attach(server.url(), id.clone(), token.clone()).await;
        attached.is_ok()
    })
    .await;
}

#[actix::test]
async fn kill_on_drop_kills_the_sandbox_on_a_panic() {
    let server = LocalServer::start().await.expect("a server");
    let url = server.url().to_owned();
    let thread = std::thread::spawn(move || {
        futures::executor::block_on(async {
            let sandbox = Sandbox::create(url).kill_on_drop(true).await;
            let _sandbox = sandbox.expect("a sandbox");
            panic!("in the middle of it");
        })
    });
    let joined = tokio::task::spawn_blocking(move || thread.join()).await;
    joined.expect("joined").expect_err("it panicked");
    until("it is killed", async || server.sandbox_count() == 0).await;
}

#[actix::test]
async fn a_sandbox_that_is_attached_to_can_be_killed_on_drop() {
    let server = LocalServer::start().await.expect("a server");
    let created = Sandbox::create(server.url()).await.expect("a sandbox");
    let id = created.sandbox_id().clone();
    let token = created.sandbox_token().clone();
    drop(created);
    until("the attached client kills it", async || {
        let attach = Sandbox::attach(server.url(), id.clone(), token.clone());
        drop(attach.kill_on_drop(true).await);
        server.sandbox_count() == 0
    })
    .await;
}

/// A cancelled `wait` no longer causes output to be dropped: all of it can be read later.
#[actix::test]
async fn a_cancelled_wait_costs_no_output() {
    const BYTES: usize = 6_000_000;
    let (_server, sandbox) = sandbox().await;
    let process = sandbox
        .exec(Language::Bash, format!("read x; yes | head -c {BYTES}"))
        .await
        .expect("started");
    {
        let mut wait = Box::pin(process.wait());
        assert!(futures::poll!(&mut wait).is_pending());
        // The actor handles messages in order: after this answer, it has seen the wait.
        process.flush_stdin().await.expect("nothing to flush");
    }
    process.write_to_stdin("go\n").await.expect("written");
    until("the process is paused", async || {
        process.buffered_output() >= 1024 * 1024
    })
    .await;
    let read = within("read", process.stdout().read_all()).await;
    assert_eq!(read.expect("no gap").len(), BYTES);
}

/// Dropping the future of `create` cancels it. If the sandbox exists already, it is killed.
#[actix::test]
async fn a_cancelled_create_leaks_no_sandbox() {
    let server = LocalServer::start().await.expect("a server");
    // Cancel at many points of the creation, before and after the server has the sandbox.
    for polls in 0..60 {
        let mut create = Box::pin(Sandbox::create(server.url()).into_future());
        let mut polls_left = polls;
        while polls_left > 0 {
            if let std::task::Poll::Ready(sandbox) = futures::poll!(&mut create) {
                // The creation has completed: the handle owns the sandbox.
                sandbox.expect("created").kill().await.expect("killed");
                break;
            }
            if polls % 2 == 0 || server.sandbox_count() > 0 {
                polls_left -= 1;
            }
            tokio::task::yield_now().await;
        }
        drop(create);
        until("no sandbox is left", async || server.sandbox_count() == 0).await;
    }
    // Later creations are not affected.
    let sandbox = Sandbox::create(server.url()).await.expect("created");
    assert_eq!(
        sandbox
            .run(Language::Bash, "echo on")
            .await
            .expect("ran")
            .stdout,
        "on\n"
    );
    sandbox.kill().await.expect("killed");
    until("no sandbox is left", async || server.sandbox_count() == 0).await;
}

/// Dropping the last handle closes the connection and ends the actors. A process handle counts as a
/// handle of its sandbox, too.
#[actix::test]
async fn the_last_handle_closes_the_connection() {
    let (server, sandbox) = sandbox().await;
    let addr = sandbox.addr().downgrade();
    let process = sandbox
        .exec(Language::Bash, "read line; echo $line")
        .await
        .expect("started");
    drop(sandbox);
    process
        .write_to_stdin("still here\n")
        .await
        .expect("written");
    assert_eq!(
        within("read", process.stdout().read_all())
            .await
            .expect("read"),
        "still here\n"
    );
    assert_eq!(process.sandbox().state(), SandboxState::Running);
    drop(process);
    until("the actor is gone", async || {
        addr.upgrade().is_none_or(|addr| !addr.connected())
    })
    .await;
    // The sandbox itself exists until its idle timeout.
    assert_eq!(server.sandbox_count(), 1);
}

/// An output stream counts as a handle of its process and sandbox, so it can be read to its end.
#[actix::test]
async fn a_stream_outlives_its_process_handle() {
    let (_server, sandbox) = sandbox().await;
    let process = sandbox
        .exec(Language::Bash, "for i in 1 2 3; do echo $i; done")
        .await
        .expect("started");
    let stdout = process.stdout();
    drop(process);
    drop(sandbox);
    assert_eq!(
        within("read", stdout.read_all()).await.expect("read"),
        "1\n2\n3\n"
    );
}

#[test]
fn works_from_a_multi_threaded_tokio_runtime() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let server = LocalServer::start().await.expect("a server");
        let url = server.url().to_owned();
        let tasks: Vec<_> = (0..16)
            .map(|i| {
                let url = url.clone();
                tokio::spawn(async move {
                    let sandbox = Sandbox::create(url).await.expect("created");
                    let process = sandbox
                        .exec(Language::Bash, format!("read x; echo {i} $x"))
                        .await
                        .expect("started");
                    let writer = process.clone();
                    tokio::spawn(async move { writer.write_to_stdin("moved\n").await })
                        .await
                        .expect("joined")
                        .expect("written");
                    let text = tokio::spawn(process.stdout().read_all())
                        .await
                        .expect("joined")
                        .expect("read");
                    assert_eq!(text, format!("{i} moved\n"));
                    sandbox.kill().await.expect("killed");
                })
            })
            .collect();
        for task in tasks {
            within("a task", task).await.expect("no panic");
        }
        server.stop().await;
    });
}

/// The thread has no runtime.
#[test]
fn works_from_a_plain_thread() {
    futures::executor::block_on(async {
        let server = LocalServer::start().await.expect("a server");
        let sandbox = Sandbox::create(server.url()).await.expect("created");
        let output = sandbox
            .run(Language::Python, "print('plain')")
            .await
            .expect("ran");
        assert_eq!(output.stdout, "plain\n");
        let process = sandbox
            .exec(Language::Bash, "sleep 1000")
            .await
            .expect("started");
        process.kill().await.expect("killed");
        sandbox.kill().await.expect("killed");
        server.stop().await;
    });
}

#[actix::test]
async fn handles_travel_between_arbiters() {
    let (_server, sandbox) = sandbox().await;
    let arbiter = actix::Arbiter::new();
    let (sender, receiver) = tokio::sync::oneshot::channel();
    let there = sandbox.clone();
    arbiter.spawn(async move {
        let output = there.run(Language::Bash, "echo far away").await;
        let _ = sender.send(output);
    });
    let output = within("the other arbiter", receiver)
        .await
        .expect("sent")
        .expect("ran");
    assert_eq!(output.stdout, "far away\n");
    arbiter.stop();
}

/// The actors run on a `Runtime` that the caller created, until their last handle is gone.
#[test]
fn a_custom_runtime_ends_with_its_last_user() {
    let runtime = Runtime::new(2).expect("threads");
    futures::executor::block_on(async {
        let server = LocalServer::start().await.expect("a server");
        let mut all = Vec::new();
        for _ in 0..4 {
            all.push(
                Sandbox::create(server.url())
                    .runtime(&runtime)
                    .await
                    .expect("created"),
            );
        }
        assert!(
            format!("{runtime:?}").contains("[2, 2]"),
            "spread over both: {runtime:?}"
        );
        drop(runtime);
        for sandbox in &all {
            assert_eq!(
                sandbox
                    .run(Language::Bash, "echo on")
                    .await
                    .expect("ran")
                    .stdout,
                "on\n"
            );
        }
        drop(all);
        server.stop().await;
    });
}

/// The actors end with their System. Calls that wait on other threads fail.
#[test]
fn a_stopped_system_fails_the_calls_that_wait() {
    let (sender, receiver) = std::sync::mpsc::sync_channel(1);
    let system = std::thread::spawn(move || {
        actix::System::new().block_on(async move {
            let (server, sandbox) = sandbox().await;
            let process = sandbox
                .exec(Language::Bash, "sleep 1000")
                .await
                .expect("started");
            sender
                .send((server, sandbox, process))
                .expect("the test waits");
            // The System ends here, with its actors.
        });
    });
    let (server, sandbox, process) = receiver.recv().expect("sent");
    system.join().expect("ended");
    futures::executor::block_on(async {
        assert_eq!(
            process.wait().await.expect_err("gone").kind(),
            ErrorKind::ActorGone
        );
        assert_eq!(
            sandbox.kill().await.expect_err("gone").kind(),
            ErrorKind::ActorGone
        );
        let item = process.stdout().next().await.expect("an item");
        assert_eq!(item.expect_err("gone").kind(), ErrorKind::ActorGone);
        server.stop().await;
    });
}

/// When the server stops, calls fail soon instead of hanging.
#[actix::test]
async fn a_stopped_server_fails_pending_calls_and_later_creates() {
    let port = Port::reserve();
    let address = port.address().to_string();
    let server = LocalServer::builder().address(&address).start().await;
    let server = server.expect("a local server");
    let url = server.url().to_owned();
    let sandbox = Sandbox::create(&url).await.expect("a sandbox");
    let process = sandbox
        .exec(Language::Bash, "sleep 1000")
        .await
        .expect("started");
    let (end, ()) = within(
        "the end",
        futures::future::join(process.wait(), server.stop()),
    )
    .await;
    assert!(matches!(end, Ok(ProcessEnd::SandboxLost { .. })), "{end:?}");
    // The server reported the deletion of the sandbox before it stopped.
    within("kill", sandbox.kill()).await.expect("gone");
    let error = Sandbox::create(&url)
        .connect_timeout(Duration::from_secs(5))
        .await
        .expect_err("the port is closed");
    assert_eq!(error.kind(), ErrorKind::Connect);
    assert!(error.to_string().contains(&address), "{error}");
}

/// The compiler checks the auto traits of handles, streams and futures.
#[test]
fn handles_and_futures_can_be_sent_anywhere() {
    use actix_sandbox::{
        Command, Error, EventStream, MergedOutput, OutputStream, Process, ProcessStdin,
        SandboxBuilder,
    };
    fn shared<T: Send + Sync + Clone + 'static>() {}
    fn sent<T: Send>(_: &T) {}
    shared::<Sandbox>();
    shared::<Process>();
    shared::<Runtime>();
    shared::<Error>();
    shared::<SandboxBuilder>();
    shared::<Command>();
    fn stream<T: Send + Sync + Unpin + 'static>() {}
    stream::<OutputStream>();
    stream::<MergedOutput>();
    stream::<ProcessStdin>();
    stream::<EventStream>();
    let _ = |sandbox: &Sandbox, process: &Process| {
        sent(&sandbox.kill());
        sent(&sandbox.checkpoint());
        sent(&sandbox.snapshot_filesystem("name"));
        sent(&sandbox.exec(Language::Bash, ""));
        sent(&sandbox.run(Language::Bash, ""));
        sent(&sandbox.command(Language::Bash, "").run_to_end());
        sent(&process.wait());
        sent(&process.kill());
        sent(&process.write_to_stdin(""));
        sent(&process.flush_stdin());
        sent(&process.stdout().read_all());
        sent(&process.stdout().lines());
    };
}
