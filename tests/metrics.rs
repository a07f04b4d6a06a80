//! Tests of the metrics of a sandbox and of the list of its processes, end to end, on the backend
//! that `ACTIX_SANDBOX_BACKEND` names.
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
    Effect, ErrorKind, Language, LocalServer, Metrics, Process, ProcessEnd, ProcessRef,
    ProtocolVersion, Sandbox,
    actor::{Builtin, Exec, Wait},
};
use futures::StreamExt;
use serde_json::Value;
use support::{attach_when_free, backend::is, patient, sandbox, sandbox_of, within};

const MIB: u64 = 1 << 20;

/// Uses a second of CPU time, 100 MiB of memory and 5 MiB of the disk. Then waits for a line.
const BUSY: &str = "
import time
while time.process_time() < 1: pass
memory = bytearray(100 << 20)
for at in range(0, len(memory), 4096): memory[at] = 1
open('file', 'wb').write(memory[:5 << 20])
print('ready', flush=True)
input()";

async fn measure(sandbox: &Sandbox) -> Metrics {
    within("the metrics", sandbox.metrics()).await.unwrap()
}

/// Starts a process and waits for its first line.
async fn ready(sandbox: &Sandbox, code: &str) -> Process {
    let process = within("a process", sandbox.exec(Language::Python, code)).await;
    let process = process.unwrap();
    let line = within("a line", process.stdout().lines().next()).await;
    assert_eq!(line.unwrap().unwrap(), "ready");
    process
}

#[actix::test]
async fn metrics_measure_cpu_memory_processes_and_disk() {
    let (_server, sandbox) = sandbox().await;
    let before = measure(&sandbox).await;
    let process = ready(&sandbox, BUSY).await;
    let busy = measure(&sandbox).await;
    let cpu = busy.cpu_time() - before.cpu_time();
    assert!(cpu >= Duration::from_millis(990), "{cpu:?}");
    let memory = busy.usage.memory_bytes - before.usage.memory_bytes;
    assert!((100 * MIB..300 * MIB).contains(&memory), "{memory}");
    if let Some(peak) = busy.usage.peak_memory_bytes {
        assert!(peak >= busy.usage.memory_bytes - MIB, "{busy:?}");
    }
    assert!(busy.usage.processes > before.usage.processes, "{busy:?}");
    let disk = busy.disk_bytes - before.disk_bytes;
    assert!((5 * MIB..8 * MIB).contains(&disk), "{disk}");
    assert!(busy.uptime() > before.uptime());

    process.write_to_stdin("\n").await.unwrap();
    let end = within("the end", process.wait()).await.unwrap();
    assert_eq!(end, ProcessEnd::Exited(0));
    let after = measure(&sandbox).await;
    assert!(
        after.usage.memory_bytes < busy.usage.memory_bytes - 90 * MIB,
        "{after:?}"
    );
    assert!(after.usage.processes < busy.usage.processes, "{after:?}");
    if is("namespace") || is("gvisor") {
        // The CPU time of processes that have ended stays.
        assert!(after.cpu_time() >= busy.cpu_time(), "{after:?}");
    }
}

#[actix::test]
async fn metrics_name_the_limits_of_the_backend() {
    let (_server, sandbox) = sandbox().await;
    let limits = measure(&sandbox).await.limits;
    let is_confined = is("namespace") || is("gvisor");
    let memory = is_confined.then_some(2 << 30);
    assert_eq!(limits.process_memory_bytes, memory);
    assert_eq!(limits.processes, is_confined.then_some(512));
    assert_eq!(limits.disk_bytes.is_some(), is("namespace"));
    if is("gvisor") {
        assert_eq!(limits.memory_bytes, Some(4 << 30));
    }
}

#[actix::test]
async fn metrics_name_the_limits_that_the_client_set() {
    let server = LocalServer::start().await.unwrap();
    if !is("namespace") && !is("gvisor") {
        // The backend `host` limits nothing.
        return;
    }
    let sandbox = patient(server.url())
        .memory_limit(600 << 20)
        .process_limit(70);
    let sandbox = sandbox.await.unwrap();
    let limits = measure(&sandbox).await.limits;
    assert_eq!(limits.process_memory_bytes, Some(600 << 20));
    assert_eq!(limits.processes, Some(70));
    if is("gvisor") {
        assert_eq!(limits.memory_bytes, Some(2 << 30));
    }
}

#[actix::test]
async fn a_listed_process_can_be_attached_to() {
    let (server, sandbox) = sandbox().await;
    let code = "print('ready', flush=True); print(input(), flush=True)";
    let python = ready(&sandbox, code).await;
    let sleep = sandbox.program("sleep").arg("1000").spawn().await.unwrap();
    let ended = sandbox.run(Language::Bash, "true");
    within("`true`", ended).await.unwrap();
    let listed = within("the list", sandbox.processes()).await.unwrap();
    let programs: Vec<_> = listed.iter().map(|it| it.program.as_str()).collect();
    assert_eq!(programs, ["python3", "sleep"]);
    assert!(listed[0].running >= listed[1].running, "{listed:?}");
    sleep.kill().await.unwrap();
    let listed = within("the list", sandbox.processes()).await.unwrap();
    assert_eq!(listed.len(), 1, "{listed:?}");

    // Another client finds the process in the list and resumes it.
    let (id, token) = (
        sandbox.sandbox_id().clone(),
        sandbox.sandbox_token().clone(),
    );
    drop((python, sleep, sandbox));
    let other = attach_when_free(support::attach(server.url(), &id, &token)).await;
    let listed = within("the list", other.processes()).await.unwrap();
    let reference: &ProcessRef = &listed[0].process;
    let process = other.attach_process(reference).await.unwrap();
    process.write_to_stdin("resumed\n").await.unwrap();
    let output = within("the output", process.stdout().read_all()).await;
    let output = output.unwrap();
    assert!(output.ends_with(b"resumed\n"), "{output:?}");
    let end = within("the end", process.wait()).await.unwrap();
    assert_eq!(end, ProcessEnd::Exited(0));
}

#[actix::test]
async fn messages_measure_a_sandbox_and_list_its_processes() {
    let (_server, sandbox) = sandbox().await;
    let code = "print('ready', flush=True); input()";
    let _process = ready(&sandbox, code).await;
    for (builtin, key) in [(Builtin::Metrics, "cpu_ms"), (Builtin::Processes, "execs")] {
        let started = sandbox.addr().send(Exec::builtin(builtin)).await.unwrap();
        let started = started.unwrap();
        let end = within("the end", started.actor.send(Wait)).await.unwrap();
        let ProcessEnd::Completed(Ok(result)) = end.unwrap() else {
            panic!("no result");
        };
        let result: Value = serde_json::from_str(&result).unwrap();
        assert!(!result[key].is_null(), "{result}");
    }
}

#[actix::test]
async fn metrics_of_a_sandbox_that_is_over_fail() {
    let (_server, sandbox) = sandbox().await;
    sandbox.kill().await.unwrap();
    let error = sandbox.metrics().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::WrongState, "{error}");
    let error = sandbox.processes().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::WrongState, "{error}");
}

#[actix::test]
async fn a_server_without_the_feature_is_sent_nothing() {
    let (_server, sandbox) = sandbox_of(ProtocolVersion::V1).await;
    let errors = [
        sandbox.metrics().await.unwrap_err(),
        sandbox.processes().await.unwrap_err(),
    ];
    for error in errors {
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
        assert_eq!(error.effect(), Effect::NotApplied, "{error}");
    }
}
