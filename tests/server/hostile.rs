//! Code that tries to hinder the server: in ending an exec, in finding its processes, in removing
//! its files.

use std::time::Duration;

use crate::support::{
    backend,
    raw_client::{Client, PATIENCE, entries, eventually, processes_of},
};
use tokio::time::timeout;

/// Counts the processes that have this argument on their command line. Zombies are left out.
fn processes_called_with(argument: &str) -> usize {
    std::fs::read_dir("/proc")
        .unwrap()
        .filter_map(|process| std::fs::read(process.ok()?.path().join("cmdline")).ok())
        .filter(|line| {
            line.split(|&byte| byte == 0)
                .any(|word| word == argument.as_bytes())
        })
        .count()
}

#[tokio::test]
async fn an_exec_ends_though_a_background_child_never_stops_writing() {
    let server = backend::with_visible_processes()
        .max_run_time(backend::LONG_ENOUGH_TO_BEGIN)
        .start()
        .await
        .unwrap();
    let (mut client, _) = Client::create(&server).await;
    client.exec("bash", "yes & echo begun").await;
    timeout(PATIENCE, client.until("SANDBOX_EXECUTION_DONE"))
        .await
        .expect("an end");
    assert_eq!(client.bash("echo next").await, "next\n");
    client.kill_sandbox().await;
    server.stop().await;
}

#[tokio::test]
async fn a_kill_is_confirmed_with_unclaimed_output() {
    let server = backend::with_visible_processes()
        .output_buffer(64 * 1024)
        .start()
        .await
        .unwrap();
    let (mut client, identity) = Client::create(&server).await;
    client.exec("bash", "yes").await;
    client.line().await;
    drop(client);
    let mut client = Client::attach(&server, &identity).await;
    // By then the server's output buffer is full, and the process is paused.
    client.stays_silent(Duration::from_millis(300)).await;
    client.action("kill_process").await;
    assert_eq!(client.line().await, "SANDBOX_EXECUTION_FORCE_KILLED");
    assert_eq!(processes_of(&identity), [0_u32; 0]);
    client.kill_sandbox().await;
    server.stop().await;
}

#[tokio::test]
async fn a_process_with_a_non_utf8_name_is_killed() {
    let server = backend::with_visible_processes().start().await.unwrap();
    let (mut client, identity) = Client::create(&server).await;
    // The kernel cuts the second name inside a character.
    client
        .exec(
            "bash",
            r#"for name in $'x\xff' xéééééééééé; do
                 cp "$(command -v sleep)" "./$name"; setsid "./$name" 1000 &
               done; sleep 0.2; echo begun; wait"#,
        )
        .await;
    client.until("stdout: begun\n").await;
    client.action("kill_process").await;
    client.until("SANDBOX_EXECUTION_FORCE_KILLED").await;
    assert_eq!(processes_of(&identity), [0_u32; 0]);
    server.stop().await;
}

#[tokio::test]
async fn children_that_left_their_group_are_killed_with_their_exec() {
    let server = backend::with_visible_processes().start().await.unwrap();
    let (mut client, _) = Client::create(&server).await;
    let argument = format!("1000.0{}", std::process::id());
    client
        .exec(
            "bash",
            &format!("(cd /; exec setsid env -i sleep {argument}) & sleep 0.2; echo begun; wait"),
        )
        .await;
    client.until("stdout: begun\n").await;
    eventually("it runs", || processes_called_with(&argument) == 1).await;
    client.action("kill_process").await;
    client.until("SANDBOX_EXECUTION_FORCE_KILLED").await;
    assert_eq!(processes_called_with(&argument), 0);
    server.stop().await;
}

#[tokio::test]
async fn directories_of_any_depth_are_removed() {
    // Deeper than a path may be long (4096 bytes), and than a process may open files by default (1024).
    let directory = tempfile::tempdir().unwrap();
    let server = backend::with_visible_processes()
        .directory(directory.path())
        .start()
        .await
        .unwrap();
    let (mut client, identity) = Client::create(&server).await;
    let code = "
import os
for i in range(6_000):
    os.mkdir('d')
    os.chdir('d')
open('file', 'w')
os.symlink('/', 'link')
print('made')
";
    let lines = client.run("python", code).await;
    assert!(lines.contains(&"stdout: made\n".to_owned()), "{lines:?}");
    let its_own = entries(directory.path()).remove(0).join(&identity.id);
    assert!(its_own.exists());
    client.kill_sandbox().await;
    assert!(!its_own.exists());
    server.stop().await;
}
