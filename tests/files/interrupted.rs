//! Writes that are interrupted by the client, by the link, by the end of the agent or of the
//! server: the file is the old one or the new one.

use std::{path::Path, time::Duration};

use actix_sandbox::{
    Language, LocalServer, Process, ProcessEnd, Sandbox, WriteMode,
    actor::{Exec, Kill, Stdin, Wait},
    server::Backend,
};
use tokio::time::Instant;

use super::by_message::{assert_goes_on, write};
use crate::support::{
    backend::is,
    patient,
    proxy::{Chance, Plan, Proxy},
    sandbox, sandbox_behind,
    server_process::{self, ServerProcess},
    until_it_runs, within,
};

const SIZE: usize = 300_000;

/// The content of a version of the file: one byte, repeated.
fn content(version: u8) -> Vec<u8> {
    vec![version; SIZE]
}

/// The version that this is the whole content of.
fn version(content: &[u8]) -> u8 {
    let version = content[0];
    let is_whole = content.len() == SIZE && content.iter().all(|byte| *byte == version);
    assert!(is_whole, "a mix of versions, of {} bytes", content.len());
    version
}

/// Fewer rounds on the confined backends, which take longer.
fn rounds(on_host: u64) -> u64 {
    match (is("namespace"), is("gvisor")) {
        (true, _) => on_host / 2,
        (_, true) => on_host / 5,
        _ => on_host,
    }
}

/// Code that reads the file all the time, until `stop` exists. Prints `whole` if it was never a mix.
const OBSERVER: &str = "
import os, time
while not os.path.exists('stop'):
    data = open('file', 'rb').read()
    if len(data) != 300_000 or data.count(data[:1]) != 300_000:
        print('a mix of', len(data)); break
    time.sleep(0.002)
else: print('whole')";

async fn observer(sandbox: &Sandbox) -> Process {
    sandbox.files().write("file", content(0)).await.unwrap();
    sandbox.exec(Language::Python, OBSERVER).await.unwrap()
}

async fn assert_whole(sandbox: &Sandbox, observer: Process) {
    let files = sandbox.files();
    let stop = files.write("stop", "");
    within("the stop", stop).await.unwrap();
    let seen = within("the observer", observer.stdout().read_all()).await;
    assert_eq!(seen.unwrap(), "whole\n");
    assert_goes_on(sandbox).await;
}

/// Waits until no temporary file is left, so the interrupted write has ended. Returns the version
/// of the file.
async fn settled(sandbox: &Sandbox) -> u8 {
    let files = sandbox.files();
    within("no temporary file", async {
        loop {
            let names = files.list("").await.unwrap();
            if names.iter().all(|name| name.path == "file") {
                return;
            }
        }
    })
    .await;
    version(&files.read("file").await.unwrap())
}

/// How long one write takes.
async fn one_write(sandbox: &Sandbox) -> Duration {
    let started = Instant::now();
    sandbox.files().write("file", content(0)).await.unwrap();
    started.elapsed()
}

/// The next estimate of how long a write takes. The machine may have been busy at the first write,
/// so that the moments of later writes would all be too late.
fn adapted(takes: Duration, was_interrupted: bool) -> Duration {
    takes.mul_f64(if was_interrupted { 1.4 } else { 0.7 })
}

/// A moment at the start of a write, during it, or shortly after it.
fn moment(chance: &mut Chance, write: Duration) -> Duration {
    let write = write.as_micros() as u64;
    let most = match chance.below(3) {
        0 => write / 8,
        1 => write / 2,
        _ => write * 3 / 2,
    };
    Duration::from_micros(chance.below(most.max(1)))
}

#[actix::test]
async fn a_write_whose_future_is_dropped_replaces_the_file_or_changes_nothing() {
    let (_server, sandbox) = sandbox().await;
    let files = sandbox.files();
    let observer = observer(&sandbox).await;
    let mut takes = one_write(&sandbox).await;
    let (mut chance, mut current, mut dropped, mut kept) = (Chance::new(1), 0, 0, 0);
    for round in 1..=rounds(100) {
        let new = round as u8;
        let write = files.write("file", content(new));
        let result = tokio::time::timeout(moment(&mut chance, takes), write).await;
        let found = settled(&sandbox).await;
        takes = adapted(takes, result.is_err());
        match result {
            Ok(result) => {
                result.unwrap();
                assert_eq!(found, new, "round {round}");
            }
            Err(_) => {
                dropped += 1;
                kept += u64::from(found == current);
                assert!(found == new || found == current, "round {round}: {found}");
            }
        }
        current = found;
    }
    println!("{dropped} writes were dropped, {kept} of them changed nothing");
    assert!(kept > 0, "{dropped} writes were dropped");
    assert_whole(&sandbox, observer).await;
}

#[actix::test]
async fn a_killed_write_tells_whether_it_has_replaced_the_file() {
    let (_server, sandbox) = sandbox().await;
    let observer = observer(&sandbox).await;
    let mut takes = one_write(&sandbox).await;
    let (mut chance, mut current, mut killed) = (Chance::new(2), 0, 0);
    for round in 1..=rounds(100) {
        let new = round as u8;
        let mut exec = Exec::builtin(write("file", WriteMode::Replace));
        exec.stdin = Stdin::Bytes(content(new).into());
        let started = within("the start", sandbox.addr().send(exec)).await;
        let started = started.unwrap().unwrap();
        tokio::time::sleep(moment(&mut chance, takes)).await;
        let kill = within("the kill", started.actor.send(Kill)).await.unwrap();
        let end = within("the end", started.actor.send(Wait)).await.unwrap();
        let found = version(&sandbox.files().read("file").await.unwrap());
        let end = end.unwrap();
        takes = adapted(takes, end == ProcessEnd::Killed);
        match end {
            ProcessEnd::Completed(Ok(_)) => assert_eq!(found, new, "round {round}"),
            ProcessEnd::Killed => {
                killed += 1;
                kill.unwrap();
                assert_eq!(found, current, "round {round}");
            }
            end => panic!("round {round}: {end}"),
        }
        assert_eq!(settled(&sandbox).await, found, "round {round}");
        current = found;
    }
    println!("{killed} writes were killed");
    assert!(killed > 0);
    assert_whole(&sandbox, observer).await;
}

/// A sandbox behind a proxy that cuts the first links, each after at most this many bytes.
async fn behind_cuts(seed: u64, cuts: usize, most: u64) -> (LocalServer, Proxy, Sandbox) {
    let server = LocalServer::start().await.unwrap();
    let planner = move |number| {
        if number >= cuts {
            return Plan::default();
        }
        let mut chance = Chance::new(seed * 10_000 + number as u64);
        let [least_up, least_down] = match number {
            0 => until_it_runs(),
            _ => [1; 2],
        };
        let plan = match chance.below(3) {
            0 => Plan::default().cut_down(least_down + chance.below(most.min(3_000))),
            _ => Plan::default().cut_up(least_up + chance.below(most)),
        };
        match chance.below(2) {
            0 => plan.reset(),
            _ => plan,
        }
    };
    let (proxy, sandbox) = sandbox_behind(&server, planner).await;
    (server, proxy, sandbox)
}

#[actix::test]
async fn writes_through_cut_links_are_applied_as_a_whole() {
    let cuts = rounds(100) as usize;
    let (_server, proxy, sandbox) = behind_cuts(3, cuts, 60_000).await;
    let files = sandbox.files();
    let observer = observer(&sandbox).await;
    let mut round = 0;
    while proxy.accepted() <= cuts {
        round += 1;
        assert!(round < 1_000, "the links were hardly cut");
        let new = round as u8;
        within("a write", files.write("file", content(new)))
            .await
            .unwrap();
        let read = within("a read", files.read("file")).await.unwrap();
        assert_eq!(version(&read), new, "round {round}");
    }
    settled(&sandbox).await;
    assert_whole(&sandbox, observer).await;
}

#[actix::test]
async fn appends_through_a_hundred_cuts_are_applied_once_each() {
    let seeds: &[u64] = match is("gvisor") {
        true => &[4],
        false => &[4, 5],
    };
    let cuts = 100;
    for &seed in seeds {
        let (_server, proxy, sandbox) = behind_cuts(seed, cuts, 9_000).await;
        let files = sandbox.files();
        let mut chance = Chance::new(seed);
        let mut expected = Vec::new();
        let mut number = 0;
        while proxy.accepted() <= cuts {
            number += 1;
            assert!(number < 10_000, "the links were hardly cut");
            let line = format!("{number} {}\n", "x".repeat(chance.below(4_000) as usize));
            expected.extend_from_slice(line.as_bytes());
            within("an append", files.append("log", line))
                .await
                .unwrap();
        }
        let log = within("the log", files.read("log")).await.unwrap();
        assert!(log == expected, "{number} appends, SEED={seed}");
        assert_goes_on(&sandbox).await;
    }
}

/// The backend `namespace` is the one whose agent this machine sees.
#[cfg(target_os = "linux")]
#[actix::test]
async fn a_write_in_a_sandbox_that_is_lost_leaves_the_old_or_the_new_file() {
    use crate::support::processes_with;

    if !is("namespace") {
        return;
    }
    let mut chance = Chance::new(6);
    for round in 0..6 {
        let directory = tempfile::tempdir().unwrap();
        let server = LocalServer::builder().directory(directory.path());
        let server = server.start().await.unwrap();
        let sandbox = patient(server.url()).await.unwrap();
        let files = sandbox.files();
        files.write("file", content(1)).await.unwrap();
        let takes = one_write(&sandbox).await;
        let files = sandbox.files();
        let write = async {
            let write = files.write("file", content(2));
            within("the write", write).await
        };
        let kill = async {
            tokio::time::sleep(moment(&mut chance, takes)).await;
            let bwrap = processes_with("bwrap");
            let here = directory.path().to_str().unwrap();
            let bwrap = bwrap.iter().find(|line| line.contains(here));
            let (pid, _) = bwrap.expect("bwrap").split_once(':').unwrap();
            let children = format!("/proc/{pid}/task/{pid}/children");
            let agent = std::fs::read_to_string(children).unwrap();
            let mut kill = std::process::Command::new("kill");
            let killed = kill.args(["-9", agent.trim()]).status().unwrap();
            assert!(killed.success(), "{agent}");
        };
        let (result, ()) = futures::join!(write, kill);
        let end = within("the end", sandbox.run(Language::Bash, "true")).await;
        assert!(end.is_err(), "the agent was killed");
        let file = find(directory.path(), "file").expect("the file of the sandbox");
        let found = version(&std::fs::read(file).unwrap());
        println!("round {round}: {found}, {result:?}");
        match result {
            Ok(()) => assert_eq!(found, 2),
            Err(_) => assert!(found == 0 || found == 2, "{found}"),
        }
        server.stop().await;
    }
}

/// The file with this name below a directory.
fn find(directory: &Path, name: &str) -> Option<std::path::PathBuf> {
    std::fs::read_dir(directory).ok()?.find_map(|entry| {
        let entry = entry.ok()?;
        let kind = entry.file_type().ok()?;
        match kind.is_dir() {
            true => find(&entry.path(), name),
            false => (entry.file_name() == name).then(|| entry.path()),
        }
    })
}

const SERVES: &str = "FILES_TEST_SERVES";

/// Not a test: the server that the next test kills.
#[test]
fn a_server_process_of_its_own() {
    if std::env::var_os(SERVES).is_some() {
        server_process::serve(LocalServer::builder().backend(Backend::Host));
    }
}

/// On the host backend, the file is outside of the server's directory, so it outlives the server.
#[actix::test]
async fn a_write_whose_server_is_killed_leaves_the_old_or_the_new_file() {
    if is("namespace") || is("gvisor") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    let mut chance = Chance::new(7);
    for round in 0..12 {
        let mut command = server_process::command("interrupted::a_server_process_of_its_own");
        let server = ServerProcess::start(command.env(SERVES, "1"));
        let sandbox = patient(server.url()).await.unwrap();
        let files = sandbox.files();
        let started = Instant::now();
        files.write(file.as_path(), content(1)).await.unwrap();
        let takes = started.elapsed();
        let write = async { within("the write", files.write(file.as_path(), content(2))).await };
        let kill = async {
            tokio::time::sleep(moment(&mut chance, takes)).await;
            server.kill();
        };
        let (result, ()) = futures::join!(write, kill);
        let found = version(&std::fs::read(&file).unwrap());
        println!("round {round}: {found}, {result:?}");
        match result {
            Ok(()) => assert_eq!(found, 2),
            Err(_) => assert!(found == 1 || found == 2, "{found}"),
        }
    }
}
