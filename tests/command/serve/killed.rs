//! The server is killed with SIGKILL during each of its operations. No process, directory or mount
//! is left behind, and what was stored before stays usable.

use std::{fs, path::Path, time::Duration};

use actix_sandbox::{Language, Sandbox, SandboxId, SandboxToken};
use tempfile::TempDir;

use crate::support::{processes_with, program::Program, within};

/// How many times a server is killed during each operation, each time a little later.
const TIMES: u32 = 8;
/// A short lease: after a crash, the next server waits until the lease expires.
const LEASE: [&str; 2] = ["--handoff-lease", "1s"];

/// A snapshot and a checkpoint that were complete before the server was killed.
struct Complete {
    state: TempDir,
    id: SandboxId,
    token: SandboxToken,
}

impl Complete {
    fn arguments(&self) -> Vec<&str> {
        let state = self.state.path().to_str().unwrap();
        [&LEASE[..], &["--state", state]].concat()
    }

    /// Starts a server and stores a snapshot and a checkpoint with it.
    async fn prepare() -> (Program, Self) {
        let state = tempfile::tempdir().unwrap();
        let path = state.path().to_str().unwrap();
        let program = Program::start(&[&LEASE[..], &["--state", path]].concat());
        let sandbox = checkpointing(&program).await;
        sandbox
            .run(Language::Bash, "echo complete > file")
            .await
            .unwrap();
        sandbox.snapshot_filesystem("complete").await.unwrap();
        sandbox.checkpoint().await.unwrap();
        let (id, token) = (
            sandbox.sandbox_id().clone(),
            sandbox.sandbox_token().clone(),
        );
        (program, Self { state, id, token })
    }

    /// Checks that another server restores both, and that no unfinished file is left.
    async fn can_be_used(self) {
        let mut program = Program::start(&self.arguments());
        let from_snapshot = Sandbox::create(&program.url).filesystem_snapshot_name("complete");
        let restored = Sandbox::attach(&program.url, self.id.clone(), self.token.clone());
        for sandbox in [from_snapshot.await.unwrap(), restored.await.unwrap()] {
            let output = sandbox.run(Language::Bash, "cat file").await.unwrap();
            assert_eq!(output.stdout, "complete\n");
        }
        for part in ["snapshots", "checkpoints", "locks"] {
            let part = self.state.path().join(part);
            let unfinished = fs::read_dir(&part).unwrap().filter_map(|entry| {
                let name = entry.unwrap().file_name().into_string().unwrap();
                name.starts_with(".unfinished").then_some(name)
            });
            assert_eq!(unfinished.collect::<Vec<_>>(), Vec::<String>::new());
        }
        assert!(program.ended_by("TERM").await.success());
    }
}

async fn checkpointing(program: &Program) -> Sandbox {
    let sandbox = Sandbox::create(&program.url).enable_sandbox_checkpoint(true);
    sandbox.await.unwrap()
}

/// Waits until no process, directory or mount of the server with this directory is left.
pub(super) async fn nothing_is_left_in(directory: &Path) {
    let name = directory.to_str().unwrap();
    let left = || {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let entries = fs::read_dir(directory).map_or(0, Iterator::count);
        entries > 0 || mounts.contains(name) || !processes_with(name).is_empty()
    };
    let gone = async {
        while left() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    within("all of it is gone", gone).await;
}

/// Kills the server while `begin` runs, at a different moment each time.
async fn killed_while(begin: impl AsyncFn(&Program)) {
    for time in 0..TIMES {
        let (program, complete) = Complete::prepare().await;
        let url = program.url.clone();
        {
            let work = begin(&program);
            let moment = tokio::time::sleep(Duration::from_millis(u64::from(time * time * 3)));
            // The sleep only varies the moment of the kill. No check depends on it.
            tokio::select! {
                () = work => {}
                () = moment => {}
            }
        }
        let directory = program.killed();
        nothing_is_left_in(directory.path()).await;
        assert!(Sandbox::create(&url).await.is_err());
        complete.can_be_used().await;
    }
}

#[actix::test]
async fn a_kill_during_creation_leaves_nothing_behind() {
    killed_while(async |program| {
        let many = (0..4).map(|_| Sandbox::create(&program.url).into_future());
        let _ = futures::future::join_all(many).await;
    })
    .await;
}

#[actix::test]
async fn a_kill_during_an_exec_leaves_nothing_behind() {
    killed_while(async |program| {
        let Ok(sandbox) = Sandbox::create(&program.url).await else {
            return;
        };
        let code = "setsid sleep 1000 & (setsid bash -c 'sleep 1000 & sleep 1000' &) ; sleep 1000";
        let _ = sandbox.run(Language::Bash, code).await;
    })
    .await;
}

#[actix::test]
async fn a_kill_during_a_snapshot_leaves_nothing_behind() {
    killed_while(async |program| {
        let Ok(sandbox) = Sandbox::create(&program.url).await else {
            return;
        };
        let _ = sandbox
            .run(Language::Bash, "head -c 20000000 /dev/urandom > large")
            .await;
        // Not `complete`, which must stay as it is.
        for name in ["another", "one-more"] {
            let _ = sandbox.snapshot_filesystem(name).await;
        }
    })
    .await;
}

#[actix::test]
async fn a_kill_during_a_checkpoint_leaves_nothing_behind() {
    killed_while(async |program| {
        let sandbox = Sandbox::create(&program.url).enable_sandbox_checkpoint(true);
        let Ok(sandbox) = sandbox.await else { return };
        let code = "head -c 20000000 /dev/urandom > large; setsid sleep 1000 > /dev/null 2>&1 < /dev/null &";
        let _ = sandbox.run(Language::Bash, code).await;
        let _ = sandbox.checkpoint().await;
    })
    .await;
}

/// Kills the server that has the sandbox, or the one that takes it over, in turns.
#[actix::test]
async fn a_kill_during_a_handoff_leaves_nothing_behind() {
    for time in 0..TIMES {
        let (holder, complete) = Complete::prepare().await;
        let arguments = complete.arguments();
        let taker = Program::start(&arguments);
        let attach = |program: &Program| {
            let (id, token) = (complete.id.clone(), complete.token.clone());
            Sandbox::attach(&program.url, id, token)
        };
        let held = attach(&holder).await.unwrap();
        held.run(Language::Bash, "echo complete > file")
            .await
            .unwrap();
        {
            let taken = attach(&taker).into_future();
            let moment = tokio::time::sleep(Duration::from_millis(u64::from(time * time * 4)));
            tokio::select! {
                _ = taken => {}
                () = moment => {}
            }
        }
        let (killed, mut other) = match time % 2 {
            0 => (holder, taker),
            _ => (taker, holder),
        };
        let directory = killed.killed();
        nothing_is_left_in(directory.path()).await;
        assert!(other.ended_by("TERM").await.success());
        drop(held);
        complete.can_be_used().await;
    }
}

#[actix::test]
async fn the_next_server_cleans_up_without_a_watchdog() {
    let program = Program::start(&[]);
    let sandbox = Sandbox::create(&program.url).await.unwrap();
    let mark = format!("1000.{}", std::process::id());
    let code = format!(
        "echo text > file; setsid sleep {mark} & (sleep {mark} &); echo begun; sleep {mark}"
    );
    let process = sandbox.exec(Language::Bash, code).await.unwrap();
    let mut lines = process.stdout().lines();
    within("begun", futures::StreamExt::next(&mut lines)).await;
    let left = program.killed_with_its_watchdog();
    let name = fs::read_dir(left.path()).unwrap().next().unwrap().unwrap();
    let root = name.path().to_str().unwrap().to_owned();

    let next = Program::start_in(left, &[]);
    // The next server is ready before its cleanup is complete.
    let gone = async {
        while Path::new(&root).exists()
            || [&root, &mark]
                .iter()
                .any(|it| !processes_with(it).is_empty())
        {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    within("the cleanup of the first server", gone).await;
    let directory = next.killed();
    nothing_is_left_in(directory.path()).await;
}
