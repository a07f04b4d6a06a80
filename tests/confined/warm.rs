//! The warm pool, on each backend that has one.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    time::Duration,
};

use actix_sandbox::{
    Language, LocalServer, Sandbox,
    server::{Backend, ServerBuilder},
};
use futures::future::join_all;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value, json};

use crate::processes::processes_of;
use crate::support::{
    backend::start_if_possible,
    patient,
    program::Program,
    raw_client::{PATIENCE, assert_empty, entries, eventually, parts},
    within,
};

/// The backends that have a warm pool.
const BACKENDS: [&str; 2] = ["namespace", "gvisor"];

fn builder(backend: &str, warm: usize) -> ServerBuilder {
    let backend: Backend = backend.parse().unwrap();
    LocalServer::builder().backend(backend).warm(warm)
}

/// A server whose pool is full.
async fn full(builder: ServerBuilder) -> Option<LocalServer> {
    let server = start_if_possible(builder).await?;
    fills(&server).await;
    Some(server)
}

/// Waits until the pool is full.
async fn fills(server: &LocalServer) {
    let address = server.address().to_string();
    let warm = fills_at(&address).await;
    assert_eq!(warm["ready"], server.warm_count().unwrap());
}

/// Waits until the pool of the server at this address is full. Returns its counts.
async fn fills_at(address: &str) -> Value {
    let full = async {
        loop {
            let warm = counts_at(address).await;
            if warm["ready"] == warm["size"] {
                return warm;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    within("a full pool", full).await
}

/// The counts of the pool in `/readyz`.
async fn counts_at(address: &str) -> Value {
    let said = readyz(address).await;
    let warm = said["warm"].clone();
    assert!(warm.is_object(), "{said}");
    warm
}

async fn readyz(address: &str) -> Value {
    let answer = ask(address, "GET /readyz", "").await;
    let (_, body) = answer.split_once("\r\n\r\n").unwrap();
    serde_json::from_str(body).unwrap()
}

/// Sends a request, and returns the answer.
async fn ask(address: &str, request: &str, body: &str) -> String {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    let mut socket = tokio::net::TcpStream::connect(address).await.unwrap();
    let length = body.len();
    let request = format!(
        "{request} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\
         Content-Length: {length}\r\n\r\n{body}"
    );
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    let read = socket.read_to_string(&mut answer);
    within("an answer", read).await.unwrap();
    answer
}

/// How many creates found a warm sandbox, and how many found none.
async fn hits_and_misses(server: &LocalServer) -> [Value; 2] {
    let warm = counts_at(&server.address().to_string()).await;
    ["hits", "misses"].map(|key| warm[key].clone())
}

async fn bash(sandbox: &Sandbox, code: &str) -> String {
    let output = within("the code", sandbox.run(Language::Bash, code));
    let output = output.await.unwrap();
    assert_eq!(output.stderr, "", "of {code}");
    output.stdout_lossy().into_owned()
}

/// The directories of all sandboxes that were started warm, by the servers that use `directory`.
/// Includes sandboxes that a create has taken.
fn warm_directories(directory: &Path) -> BTreeSet<PathBuf> {
    let server = entries(directory).into_iter();
    let sandboxes = server.flat_map(|server| entries(&server));
    let is_warm = |path: &PathBuf| path.file_name().unwrap().to_string_lossy().contains('.');
    sandboxes
        .filter(is_warm)
        .filter(|path| path.is_dir())
        .collect()
}

/// Whether a process has ended. It may still be a zombie.
fn has_ended(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"));
    let state = stat
        .ok()
        .and_then(|stat| stat.rsplit_once(") ").map(|it| it.1.to_owned()));
    state.is_none_or(|state| state.starts_with(['Z', 'X']))
}

#[actix::test]
async fn a_create_takes_a_warm_sandbox_and_the_pool_refills() {
    for backend in BACKENDS {
        let directory = tempfile::tempdir().unwrap();
        let builder = builder(backend, 2).directory(directory.path());
        let Some(server) = full(builder.max_sandboxes(1)).await else {
            continue;
        };
        let ready = json!({
            "status": "ready", "sandboxes": 0, "max_sandboxes": 1,
            "warm": {"ready": 2, "size": 2, "hits": 0, "misses": 0},
        });
        assert_eq!(readyz(&server.address().to_string()).await, ready);
        let started = warm_directories(directory.path());
        assert_eq!(started.len(), 2, "{started:?}");

        let sandbox = patient(server.url()).await.unwrap();
        bash(&sandbox, "echo here > ~/file").await;
        let is_used = |path: &&PathBuf| path.join("home/file").exists();
        assert_eq!(started.iter().filter(is_used).count(), 1);
        fills(&server).await;
        assert_eq!(warm_directories(directory.path()).len(), 3);
        assert_eq!(hits_and_misses(&server).await, [1, 0]);

        // Warm sandboxes don't count against the limit.
        assert_eq!(server.sandbox_count(), 1);
        let error = patient(server.url()).await.unwrap_err().to_string();
        assert!(error.contains("limit of 1 sandboxes"), "{error}");
        within("the kill", sandbox.kill()).await.unwrap();
        let is_removed = || warm_directories(directory.path()).len() == 2;
        eventually("the sandbox is removed", is_removed).await;
        server.stop().await;
    }
}

/// The test creates the directories of the next warm sandboxes, so their starts fail and the pool
/// stays empty.
#[actix::test]
async fn a_create_that_finds_an_empty_pool_starts_a_new_sandbox() {
    for backend in BACKENDS {
        let directory = tempfile::tempdir().unwrap();
        let builder = builder(backend, 1).directory(directory.path());
        let Some(server) = full(builder).await else {
            continue;
        };
        let first = warm_directories(directory.path()).pop_first().unwrap();
        for number in 1..20 {
            let taken = first.with_extension(number.to_string());
            std::fs::create_dir(taken).unwrap();
        }
        let sandboxes = join_all((0..4).map(|_| async { patient(server.url()).await }));
        for sandbox in within("the sandboxes", sandboxes).await {
            assert_eq!(bash(&sandbox.unwrap(), "echo works").await, "works\n");
        }
        assert_eq!(hits_and_misses(&server).await, [1, 3]);
        server.stop().await;
        assert_empty(directory.path());
    }
}

#[actix::test]
async fn only_an_empty_sandbox_comes_from_the_pool() {
    for backend in BACKENDS {
        let Some(server) = full(builder(backend, 1)).await else {
            continue;
        };
        let first = patient(server.url()).enable_sandbox_checkpoint(true);
        let first = first.await.unwrap();
        bash(&first, "echo kept > file").await;
        within("the snapshot", first.snapshot_filesystem("kept"))
            .await
            .unwrap();
        let (id, token) = (first.sandbox_id().clone(), first.sandbox_token().clone());
        within("the checkpoint", first.checkpoint()).await.unwrap();
        fills(&server).await;

        let restored = Sandbox::attach(server.url(), id, token).await.unwrap();
        assert_eq!(bash(&restored, "cat file").await, "kept\n");
        let second = patient(server.url()).filesystem_snapshot_name("kept");
        let second = second.await.unwrap();
        assert_eq!(bash(&second, "cat file").await, "kept\n");
        let missing = patient(server.url()).filesystem_snapshot_name("missing");
        missing.await.unwrap_err();
        assert_eq!(hits_and_misses(&server).await, [1, 0]);
        server.stop().await;
    }
}

#[actix::test]
async fn code_of_execute_runs_in_a_warm_sandbox() {
    for backend in BACKENDS {
        let Some(server) = full(builder(backend, 1)).await else {
            continue;
        };
        let (address, secret) = parts(server.url());
        let request = format!("POST {secret}/execute?language=bash");
        let said = ask(address, &request, "echo $ACTIX_SANDBOX_ID").await;
        assert!(said.contains("sandbox-"), "{said}");
        assert_eq!(hits_and_misses(&server).await, [1, 0]);
        server.stop().await;
    }
}

#[actix::test]
async fn warm_sandboxes_have_their_own_id_and_files() {
    for backend in BACKENDS {
        let Some(server) = full(builder(backend, 2)).await else {
            continue;
        };
        let one = patient(server.url()).await.unwrap();
        let two = patient(server.url()).await.unwrap();
        assert_eq!(hits_and_misses(&server).await, [2, 0]);
        let write = "for file in ~/file /tmp/file /file /dev/shm/file; do echo mine > $file; done";
        bash(&one, write).await;
        let process = one.exec(Language::Bash, "exec -a of-one sleep 1000").await;
        let process = process.unwrap();
        let look =
            "ls ~ /tmp /file /dev/shm 2>/dev/null; cat /proc/[0-9]*/cmdline | grep -a of-one";
        let seen = bash(&two, look).await;
        assert!(!seen.contains("file") && !seen.contains("sleep"), "{seen}");
        for sandbox in [&one, &two] {
            let id = bash(sandbox, "echo $ACTIX_SANDBOX_ID").await;
            assert_eq!(id.trim_end(), sandbox.sandbox_id().as_str());
        }
        within("the kill", process.kill()).await.unwrap();
        server.stop().await;
    }
}

#[actix::test]
async fn a_warm_sandbox_whose_first_process_died_is_replaced() {
    for backend in BACKENDS {
        let directory = tempfile::tempdir().unwrap();
        let builder = builder(backend, 2).directory(directory.path());
        let Some(server) = full(builder).await else {
            continue;
        };
        let started = warm_directories(directory.path());
        for dead in &started {
            let processes = processes_of(dead);
            assert!(!processes.is_empty());
            for &pid in processes.keys() {
                // It may have ended already, together with a process before it.
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
            let have_ended = || processes.keys().all(|&pid| has_ended(pid));
            eventually("they have ended", have_ended).await;
        }
        eventually("the dead sandboxes are deleted", || {
            // This makes the server check which warm sandboxes have ended.
            server.warm_count();
            started.iter().all(|dead| !dead.exists())
        })
        .await;
        fills(&server).await;
        let sandbox = patient(server.url()).await.unwrap();
        assert_eq!(bash(&sandbox, "echo works").await, "works\n");
        assert_eq!(hits_and_misses(&server).await, [1, 0]);
        server.stop().await;
    }
}

#[actix::test]
async fn a_stopped_server_leaves_no_warm_sandbox() {
    for backend in BACKENDS {
        for is_full in [true, false] {
            let directory = tempfile::tempdir().unwrap();
            let builder = builder(backend, 3).directory(directory.path());
            let Some(server) = start_if_possible(builder).await else {
                continue;
            };
            if is_full {
                fills(&server).await;
            }
            let stopped = tokio::time::timeout(PATIENCE, server.stop()).await;
            stopped.expect("an end");
            assert_eq!(processes_of(directory.path()), BTreeMap::new());
            assert_empty(directory.path());
        }
    }
}

#[actix::test]
async fn a_killed_server_leaves_no_warm_sandbox() {
    for backend in BACKENDS {
        let Some(server) = start_if_possible(builder(backend, 1)).await else {
            continue;
        };
        server.stop().await;
        let arguments = ["--backend", backend, "--warm", "3"];
        for also_the_watchdog in [false, true] {
            let program = Program::start(&arguments);
            fills_at(program.address()).await;
            let directory = match also_the_watchdog {
                true => program.killed_with_its_watchdog(),
                false => program.killed(),
            };
            let path = directory.path().to_owned();
            eventually("no process is left", || processes_of(&path).is_empty()).await;
            if also_the_watchdog {
                // The next server removes the directory.
                let _next = Program::start_in(directory, &["--backend", backend]);
                let is_removed = || entries(&path).len() == 1;
                eventually("only the directory of the next server is left", is_removed).await;
            } else {
                assert_empty(&path);
            }
        }
    }
}

/// How long a server runs before it is killed, in milliseconds. In namespaces, a sandbox starts in
/// about 10 ms, so the kills hit every phase of its start. In gVisor, they hit only the first.
const KILLED_AFTER: std::ops::Range<u64> = 0..12;

#[actix::test]
async fn a_server_killed_while_the_pool_fills_leaves_nothing() {
    for backend in BACKENDS {
        let Some(server) = start_if_possible(builder(backend, 1)).await else {
            continue;
        };
        server.stop().await;
        for millis in KILLED_AFTER {
            let program = Program::start(&["--backend", backend, "--warm", "3"]);
            tokio::time::sleep(Duration::from_millis(millis)).await;
            let directory = program.killed();
            let is_gone = || processes_of(directory.path()).is_empty();
            eventually("no process is left", is_gone).await;
            assert_empty(directory.path());
        }
    }
}

#[actix::test]
async fn a_server_without_a_pool_shows_none() {
    let server = LocalServer::builder().warm(0).start().await.unwrap();
    let said = readyz(&server.address().to_string()).await;
    assert!(said["warm"].is_null(), "{said}");
    assert_eq!(server.warm_count(), None);
    server.stop().await;
}
