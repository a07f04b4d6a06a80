//! Output that background processes print after the main process has ended: it is delivered, or
//! reported as cut.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use crate::support::{
    VERSIONS,
    backend::{self, LONG_ENOUGH_TO_BEGIN},
    patient, sandbox, sandbox_of, within,
};
use actix_sandbox::{
    Language, LocalServer, Output, ProcessEnd, ProtocolVersion, Sandbox, server::ServerBuilder,
};

/// Code that waits for the file `go`. It starts no process that would hold the output open.
const UNTIL_GO: &str = "until [ -e go ]; do read -t 0.01 <> <(:); done";

async fn output(command: actix_sandbox::Command) -> Output {
    within("the output", command.output()).await.expect("ran")
}

async fn bash(sandbox: &Sandbox, code: &str) -> Output {
    output(sandbox.command(Language::Bash, code)).await
}

async fn sandbox_on(builder: ServerBuilder) -> (LocalServer, Sandbox) {
    let server = builder.start().await.expect("a local server");
    let sandbox = patient(server.url()).await.expect("a sandbox");
    (server, sandbox)
}

/// Repeatedly runs code that prints through a filter.
async fn filters_lose_nothing(version: ProtocolVersion, runs: usize) {
    let (server, sandbox) = sandbox_of(version).await;
    for filter in ["sed s/^/x/", "awk '{ print \"x\" $0 }'"] {
        let code = format!("exec > >({filter}); echo hello");
        for run in 0..runs {
            let output = bash(&sandbox, &code).await;
            assert_eq!(output.stdout, "xhello\n", "{filter}, run {run}");
            assert!(!output.cut, "{filter}, run {run}");
        }
    }
    server.stop().await;
}

/// The number of runs: the variable `RUNS`, or `many`, or a tenth of it on gVisor.
fn runs(many: usize) -> usize {
    if let Some(runs) = std::env::var("RUNS")
        .ok()
        .and_then(|runs| runs.parse().ok())
    {
        return runs;
    }
    match backend::is("gvisor") {
        true => many / 10,
        false => many,
    }
}

#[actix::test]
async fn output_through_a_filter_is_whole() {
    for version in VERSIONS {
        filters_lose_nothing(version, runs(100)).await;
    }
}

#[actix::test]
async fn output_through_a_filter_is_whole_on_a_busy_machine() {
    static STOP: AtomicBool = AtomicBool::new(false);
    let cores = std::thread::available_parallelism().map_or(2, usize::from);
    let spin = || {
        while !STOP.load(Ordering::Relaxed) {
            std::hint::spin_loop();
        }
    };
    let busy: Vec<_> = (0..cores).map(|_| std::thread::spawn(spin)).collect();
    for version in VERSIONS {
        filters_lose_nothing(version, runs(100)).await;
    }
    STOP.store(true, Ordering::Relaxed);
    for thread in busy {
        thread.join().expect("joined");
    }
}

#[actix::test]
async fn late_output_is_delivered_on_both_versions() {
    let python = "import os, time
print('main', flush=True)
if os.fork() == 0:
    time.sleep(0.2)
    print('late', flush=True)";
    for version in VERSIONS {
        let (server, sandbox) = sandbox_of(version).await;
        for (language, code) in [
            (Language::Bash, "(sleep 0.2; echo late) & echo main"),
            (Language::Python, python),
        ] {
            let output = output(sandbox.command(language, code)).await;
            assert_eq!(output.stdout, "main\nlate\n", "{version}");
            assert!(!output.cut);
        }
        server.stop().await;
    }
}

#[actix::test]
async fn wait_resolves_at_the_end_of_the_main_process() {
    let (server, sandbox) = sandbox().await;
    let code = format!("({UNTIL_GO}; echo late) & echo main; exit 3");
    let command = sandbox.command(Language::Bash, code);
    let command = command.output_grace(crate::support::LONG);
    let process = command.spawn().await.expect("started");
    let end = within("the end", process.wait()).await.expect("an end");
    assert_eq!(end, ProcessEnd::Exited(3));
    // Only now does the background process continue.
    bash(&sandbox, "touch go").await;
    let stdout = within("its output", process.stdout().read_all()).await;
    assert_eq!(stdout.expect("whole"), "main\nlate\n");
    assert!(!process.is_output_cut());
    server.stop().await;
}

#[actix::test]
async fn output_that_a_daemon_holds_is_cut_after_the_grace() {
    let (server, sandbox) = sandbox().await;
    let code = "sleep 1000 & echo $! > pid; echo main";
    let command = sandbox.command(Language::Bash, code);
    let cut = output(command.output_grace(Duration::from_millis(300))).await;
    assert_eq!((&*cut.stdout_lossy(), cut.cut), ("main\n", true));
    assert_eq!(cut.end, ProcessEnd::Exited(0));
    // The default grace cuts the output, too.
    let process = sandbox.exec(Language::Bash, code).await.expect("started");
    let (stdout, is_cut) = {
        let mut stream = process.stdout();
        let mut all = Vec::new();
        while let Some(piece) = within("output", futures::StreamExt::next(&mut stream)).await {
            all.extend_from_slice(&piece.expect("whole"));
        }
        (all, stream.is_cut())
    };
    assert_eq!((stdout.as_slice(), is_cut), (&b"main\n"[..], true));
    // The daemon is still alive.
    assert_eq!(
        bash(&sandbox, "kill $(cat pid)").await.end,
        ProcessEnd::Exited(0)
    );
    server.stop().await;
}

/// The server doesn't read endless output forever.
#[actix::test]
async fn output_that_a_daemon_floods_is_cut_after_the_grace() {
    let (server, sandbox) = sandbox().await;
    let command = sandbox.command(Language::Bash, "yes late & echo main; echo $! > pid");
    let command = command.output_grace(Duration::from_millis(100));
    let cut = output(command.output_limit(usize::MAX)).await;
    assert!(cut.cut);
    assert_eq!(
        bash(&sandbox, "kill $(cat pid)").await.end,
        ProcessEnd::Exited(0)
    );
    server.stop().await;
}

#[actix::test]
async fn under_v1_a_daemon_ends_its_exec_after_a_while() {
    let builder = LocalServer::builder()
        .max_protocol_version(ProtocolVersion::V1)
        .max_run_time(LONG_ENOUGH_TO_BEGIN);
    let (server, sandbox) = sandbox_on(builder).await;
    let output = bash(&sandbox, "sleep 1000 & echo main").await;
    assert_eq!(output.stdout, "main\n");
    assert_eq!(bash(&sandbox, "echo next").await.stdout, "next\n");
    server.stop().await;
}

#[actix::test]
async fn a_kill_after_the_end_ends_what_holds_the_output() {
    let (server, sandbox) = sandbox().await;
    let code = "sleep 1000 & echo $! > pid; echo main";
    let command = sandbox.command(Language::Bash, code);
    let process = command.output_grace(crate::support::LONG).spawn().await;
    let process = process.expect("started");
    let end = within("the end", process.wait()).await.expect("an end");
    assert_eq!(end, ProcessEnd::Exited(0));
    within("the kill", process.kill()).await.expect("killed");
    // A zombie doesn't count: PID 1 has yet to reap it.
    let runs = "grep -s '^State:.[^Z]' /proc/$(cat pid)/status";
    assert_eq!(bash(&sandbox, runs).await.stdout, "");
    let stdout = within("its output", process.stdout().read_all()).await;
    assert_eq!(stdout.expect("whole"), "main\n");
    assert_eq!(process.wait().await.expect("an end"), ProcessEnd::Exited(0));
    server.stop().await;
}

/// As in tokio, a drop after the end of the process kills nothing.
#[actix::test]
async fn kill_on_drop_spares_what_is_left_in_the_background() {
    let (server, sandbox) = sandbox().await;
    let command = sandbox.command(Language::Bash, "sleep 1000 & echo $! > pid");
    let end = within("the end", command.run_to_end()).await.expect("ran");
    assert_eq!(end, ProcessEnd::Exited(0));
    assert_eq!(
        bash(&sandbox, "kill $(cat pid)").await.end,
        ProcessEnd::Exited(0)
    );
    server.stop().await;
}

#[actix::test]
async fn a_checkpoint_cuts_output_that_goes_on() {
    let (server, _) = sandbox().await;
    let sandbox = patient(server.url()).enable_sandbox_checkpoint(true).await;
    let sandbox = sandbox.expect("a sandbox");
    let command = sandbox.command(Language::Bash, "sleep 1000 & echo main");
    let process = command.output_grace(crate::support::LONG).spawn().await;
    let process = process.expect("started");
    within("the end", process.wait()).await.expect("an end");
    within("the checkpoint", sandbox.checkpoint())
        .await
        .expect("stored");
    let stdout = within("its output", process.stdout().read_all()).await;
    assert_eq!(stdout.expect("told"), "main\n");
    assert!(process.is_output_cut());
    server.stop().await;
}

#[actix::test]
async fn a_sandbox_with_late_output_is_not_idle() {
    let (server, _) = sandbox().await;
    for version in VERSIONS {
        let sandbox = patient(server.url()).idle_timeout(LONG_ENOUGH_TO_BEGIN);
        let sandbox = sandbox
            .max_protocol_version(version)
            .await
            .expect("a sandbox");
        let mut command = sandbox.command(Language::Bash, "(sleep 7; echo late) & echo main");
        if version == ProtocolVersion::V2 {
            command = command.output_grace(crate::support::LONG);
        }
        assert_eq!(output(command).await.stdout, "main\nlate\n", "{version}");
    }
    server.stop().await;
}

/// Each exec with late output holds pipes and memory of the server.
#[actix::test]
async fn execs_with_late_output_are_limited_in_number() {
    let (server, sandbox) = sandbox_on(LocalServer::builder().max_execs(2)).await;
    let mut processes = Vec::new();
    for _ in 0..3 {
        let command = sandbox.command(Language::Bash, "sleep 1000 & echo main");
        let process = command.output_grace(crate::support::LONG).spawn().await;
        let process = process.expect("started");
        within("the end", process.wait()).await.expect("an end");
        processes.push(process);
    }
    let stdout = within("the first", processes[0].stdout().read_all()).await;
    assert_eq!(stdout.expect("told"), "main\n");
    assert!(processes[0].is_output_cut());
    assert!(!processes[2].is_output_cut());
    server.stop().await;
}

/// A slow reader doesn't cause a cut.
#[actix::test]
async fn the_grace_does_not_run_while_the_window_is_full() {
    let (server, sandbox) = sandbox().await;
    let code = "(head -c 2500000 /dev/zero | tr '\\0' x; touch through) & echo main >&2";
    let command = sandbox.command(Language::Bash, code);
    let command = command.output_grace(LONG_ENOUGH_TO_BEGIN);
    let command = command.output_policy(actix_sandbox::OutputPolicy {
        budget: 64 * 1024,
        overflow: actix_sandbox::Overflow::Pause {
            max: crate::support::LONG,
        },
    });
    let process = command.spawn().await.expect("started");
    let stdout = process.stdout();
    within("the end", process.wait()).await.expect("an end");
    // Sleep longer than the grace, without reading.
    bash(&sandbox, "sleep 7; [ ! -e through ]")
        .await
        .error_for_status()
        .expect("the writer is paused");
    let all = within("its output", stdout.read_to_limit(usize::MAX)).await;
    assert_eq!(all.expect("whole").len(), 2_500_000);
    assert!(!process.is_output_cut());
    server.stop().await;
}
