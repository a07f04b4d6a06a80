//! `actix-sandbox serve` as PID 1, as in a container.

use actix_sandbox::{Language, Sandbox};

use crate::support::{program::Program, within};

/// Orphans 80 processes and waits until none of them runs or is a zombie.
const REAPED: &str = "
for i in {1..80}; do (setsid sleep 0.1 &); done
while :; do
  sleep 0.1
  state=$(cat /proc/[0-9]*/stat 2>/dev/null)
  case $state in *'(sleep) S'*|*'(sleep) Z'*) ;; *) break ;; esac
done
echo reaped";

/// Ends orphans by signals, three real-time signals among them, and waits until none is a zombie.
const SIGNALED: &str = "
for signal in 1 9 15 34 40 64; do
  (setsid bash -c \"kill -$signal \\$\\$\" &)
done
while :; do
  sleep 0.1
  state=$(cat /proc/[0-9]*/stat 2>/dev/null)
  case $state in *' (bash) Z '*) ;; *) break ;; esac
done
echo reaped";

#[actix::test]
async fn as_pid_1_it_outlives_orphans_that_any_signal_ends() {
    if !nix::unistd::geteuid().is_root() {
        println!("not run: a PID namespace needs root");
        return;
    }
    let mut program = Program::start_as_pid_1(&["--backend", "host"]);
    let sandbox = Sandbox::create(&program.url).await.unwrap();
    for _ in 0..3 {
        let output = within("the orphans", sandbox.run(Language::Bash, SIGNALED)).await;
        assert_eq!(output.unwrap().stdout, "reaped\n");
    }
    let _ended = sandbox.run(Language::Bash, "kill -TERM 1").await;
    let (status, log) = program.end().await;
    assert!(status.success(), "{status}: {log}");
}

#[actix::test]
async fn as_pid_1_it_reaps_orphans_and_stops_gracefully() {
    if !nix::unistd::geteuid().is_root() {
        println!("not run: a PID namespace needs root");
        return;
    }
    let mut program = Program::start_as_pid_1(&["--backend", "host"]);
    let sandbox = Sandbox::create(&program.url).await.unwrap();
    let output = within("the orphans", sandbox.run(Language::Bash, REAPED)).await;
    assert_eq!(output.unwrap().stdout, "reaped\n");
    // On the host backend, code may signal PID 1.
    let _ended = sandbox.run(Language::Bash, "kill -TERM 1").await;
    let (status, log) = program.end().await;
    assert!(status.success(), "{status}: {log}");
    assert_eq!(
        std::fs::read_dir(program.directory.path()).unwrap().count(),
        0
    );
}
