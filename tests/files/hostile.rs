//! Attacks on the operations by code in the sandbox: it swaps directories and links, kills the
//! processes of operations and writes to their pipes.

use std::{fs, os::unix::fs::MetadataExt, path::Path, time::Duration};

use actix_sandbox::{
    Error, ErrorKind, Files, Language, LocalServer, Process, Sandbox,
    server::{Backend, GvisorOptions, NamespaceOptions},
};
use futures::{FutureExt, StreamExt, future::BoxFuture};

use super::by_message::assert_goes_on;
use crate::support::{self, backend::is, patient, within};

/// How long code attacks, in seconds.
const SECONDS: &str = "3";

/// Swaps a directory for links to a directory outside, at two levels.
const SWAP: &str = "
import itertools, os, sys, time
targets, until = ['..', sys.argv[1], *sys.argv[3:]], time.monotonic() + int(sys.argv[2])
def ignore(call, *args):
    try: call(*args)
    except OSError: pass
def fill():
    os.makedirs('t/a/b/c', exist_ok=True)
    for name in ('t/a/file', 't/a/b/file', 't/a/b/c/file'): open(name, 'w').write('inner')
def swap(path, number):
    target = targets[number % len(targets)]
    os.rename(path, f'aside-{number}')
    os.symlink(target, path)
    os.unlink(path)
    os.rename(f'aside-{number}', path)
print('ready', flush=True)
for number in itertools.count():
    if time.monotonic() > until: break
    ignore(fill)
    ignore(swap, ('t/a/b', 't/a', 't/a/b/c', 't/a/file')[number % 4], number)";

/// Kills all other processes of the sandbox.
const KILL: &str = "
import os, sys, time
until = time.monotonic() + int(sys.argv[2])
print('ready', flush=True)
while time.monotonic() < until:
    for name in os.listdir('/proc'):
        if name.isdigit() and int(name) not in (1, os.getpid(), os.getppid()):
            try: os.kill(int(name), 9)
            except OSError: pass";

/// Writes a false outcome to all pipes of other processes.
const FORGE: &str = "
import os, sys, time
until = time.monotonic() + int(sys.argv[2])
forged = b'{\"result\":{\"bytes\":3,\"entries\":1}}' + bytes(100_000)
print('ready', flush=True)
while time.monotonic() < until:
    for name in os.listdir('/proc'):
        if not name.isdigit() or int(name) in (1, os.getpid(), os.getppid()): continue
        for number in (2, 1, 0):
            try:
                pipe = os.open(f'/proc/{name}/fd/{number}', os.O_WRONLY | os.O_NONBLOCK)
                try: os.write(pipe, forged)
                finally: os.close(pipe)
            except OSError: pass";

fn is_confined() -> bool {
    is("namespace") || is("gvisor")
}

/// A sandbox that may read a directory of the machine.
async fn sandbox(readable: &Path) -> (LocalServer, Sandbox) {
    let backend = match (is("namespace"), is("gvisor")) {
        (true, _) => Backend::Namespace(NamespaceOptions::default().readable(readable)),
        (_, true) => Backend::Gvisor(GvisorOptions::default().readable(readable)),
        _ => Backend::Host,
    };
    let server = LocalServer::builder().backend(backend).start().await;
    let server = server.unwrap();
    let sandbox = patient(server.url()).await.unwrap();
    (server, sandbox)
}

/// A directory outside of the sandbox that every user may change. Sandboxes have a `/tmp` of their
/// own, so it is elsewhere.
fn canary() -> tempfile::TempDir {
    let open = |path: &Path| {
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o777);
        fs::set_permissions(path, mode).unwrap();
    };
    let canary = tempfile::tempdir_in("/var/tmp").unwrap();
    open(canary.path());
    for name in ["b", "b/c"] {
        let directory = canary.path().join(name);
        fs::create_dir(&directory).unwrap();
        open(&directory);
    }
    for name in ["canary", "file", "b/file", "b/c/file"] {
        let file = canary.path().join(name);
        fs::write(&file, "outside").unwrap();
        open(&file);
    }
    canary
}

/// The names, permissions, times and sizes below a directory.
fn state(directory: &Path, all: &mut Vec<String>) {
    let mut entries: Vec<_> = fs::read_dir(directory).unwrap().flatten().collect();
    entries.sort_by_key(fs::DirEntry::path);
    for entry in entries {
        let Ok(metadata) = entry.metadata() else {
            continue;
        };
        all.push(format!(
            "{:?} {:o} {} {} {}",
            entry.path(),
            metadata.mode(),
            metadata.mtime(),
            metadata.mtime_nsec(),
            metadata.size()
        ));
        if metadata.is_dir() {
            state(&entry.path(), all);
        }
    }
}

fn outside(canary: &Path) -> Vec<String> {
    let mut all = Vec::new();
    state(canary, &mut all);
    state(Path::new("/etc"), &mut all);
    all
}

async fn start(sandbox: &Sandbox, code: &str, canary: &Path) -> Process {
    let attack = sandbox.command(Language::Python, code);
    // On the host backend, a write through a link to `/etc` would harm the machine.
    let targets: &[&str] = match is_confined() {
        true => &["/etc", "/proc/self/cwd", "/proc/self/root"],
        false => &[],
    };
    let attack = attack
        .arg(canary.to_str().unwrap())
        .arg(SECONDS)
        .args(targets.iter().copied());
    let attack = attack.timeout(Duration::from_secs(60)).spawn();
    let attack = within("the attack", attack).await.unwrap();
    // The line may come in pieces.
    let mut lines = attack.stdout().lines();
    let ready = within("its start", lines.next()).await.unwrap();
    assert_eq!(ready.unwrap(), "ready");
    attack
}

type Calls = for<'a> fn(&'a Files) -> [BoxFuture<'a, Result<(), Error>>; 7];

/// One call of each operation that code interferes with. On the host backend, a change
/// through a link of code may change files outside, as code itself can.
fn calls(files: &Files) -> [BoxFuture<'_, Result<(), Error>>; 7] {
    let list = async {
        let mut entries = files.entries("t", 100, None).await?;
        while let Some(entry) = entries.next().await {
            let name = entry?.path.to_string();
            assert!(
                !name.contains("canary") && !name.contains("passwd"),
                "{name}"
            );
        }
        Ok(())
    };
    let write = async {
        match is_confined() {
            true => files.write("t/a/b/file", vec![7; 50_000]).await,
            false => Ok(()),
        }
    };
    let copy = async {
        match is_confined() {
            true => files.copy("t/a/b/file", "t/a/b/c/copy").await.map(drop),
            false => Ok(()),
        }
    };
    let remove = async {
        match is_confined() {
            true => files.remove_all("t/a/b").await,
            false => Ok(()),
        }
    };
    [
        list.boxed(),
        files.read("t/a/b/file").map(|it| it.map(drop)).boxed(),
        write.boxed(),
        copy.boxed(),
        remove.boxed(),
        files
            .symlink_metadata("t/a/b/c")
            .map(|it| it.map(drop))
            .boxed(),
        files.remove_all("t").boxed(),
    ]
}

/// Calls operations until the attack ends. Each call settles. Returns how many failed and
/// succeeded.
async fn call_until_the_end(sandbox: &Sandbox, attack: &Process, calls: Calls) -> (u32, u32) {
    let files = sandbox.files();
    let (mut failed, mut succeeded) = (0, 0);
    while attack.try_wait().unwrap().is_none() {
        for result in within("the calls", futures::future::join_all(calls(&files))).await {
            match result {
                Ok(()) => succeeded += 1,
                Err(error) => {
                    let is_expected = matches!(error.kind(), ErrorKind::Builtin(_));
                    assert!(is_expected, "{error:?}");
                    failed += 1;
                }
            }
        }
    }
    (failed, succeeded)
}

#[actix::test]
async fn swapped_links_and_directories_change_nothing_outside() {
    let canary = canary();
    let before = outside(canary.path());
    let (server, sandbox) = sandbox(canary.path()).await;
    let attack = start(&sandbox, SWAP, canary.path()).await;
    let (failed, succeeded) = call_until_the_end(&sandbox, &attack, calls).await;
    println!("{failed} calls failed, {succeeded} succeeded");
    assert!(succeeded > 0);
    assert_eq!(outside(canary.path()), before);
    assert_goes_on(&sandbox).await;
    let other = patient(server.url()).await.unwrap();
    assert_goes_on(&other).await;
}

/// On the host backend, the code would kill or disturb all processes of the machine.
#[actix::test]
async fn code_that_kills_operations_or_forges_their_pipes_harms_only_its_sandbox() {
    if !is_confined() {
        return;
    }
    let canary = canary();
    for code in [KILL, FORGE] {
        let before = outside(canary.path());
        let (server, sandbox) = sandbox(canary.path()).await;
        let attack = start(&sandbox, code, canary.path()).await;
        let (failed, succeeded) = call_until_the_end(&sandbox, &attack, calls).await;
        println!("{failed} calls failed, {succeeded} succeeded");
        assert_eq!(outside(canary.path()), before);
        assert_goes_on(&sandbox).await;
        let files = sandbox.files();
        within("a write", files.write("after", "it")).await.unwrap();
        assert_eq!(files.read("after").await.unwrap(), "it");
        let other = patient(server.url()).await.unwrap();
        assert_goes_on(&other).await;
    }
}

#[actix::test]
async fn operations_reach_neither_processes_nor_secrets_through_proc() {
    let (_server, sandbox) = support::sandbox().await;
    let files = sandbox.files();
    let link = "ln -s /proc/self/mem mem; ln -s /proc/self/environ environ";
    sandbox.run(Language::Bash, link).await.unwrap();
    for path in ["/proc/self/mem", "mem"] {
        for offset in [0, 0x1000, 0x5555_5555_0000] {
            let error = files.write_at(path, offset, "x").await.unwrap_err();
            assert!(matches!(error.kind(), ErrorKind::Builtin(_)), "{error}");
        }
        let error = files.append(path, "x").await.unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::Builtin(_)), "{error}");
        files.write(path, "x").await.unwrap_err();
    }
    if is("namespace") || is("gvisor") {
        // Descriptors of the operation itself, and the program of the agent.
        for path in ["/proc/self/fd/0", "/proc/self/fd/1", "/proc/self/exe"] {
            files.write(path, "x").await.unwrap_err();
        }
        // The server's environment holds PATH, and may hold secrets.
        let environ = files.read("environ").await.unwrap_or_default();
        let environ = String::from_utf8_lossy(&environ);
        assert!(!environ.contains("PATH="), "{environ:?}");
    }
    let output = sandbox.run(Language::Bash, "echo goes on").await.unwrap();
    assert_eq!(output.stdout, "goes on\n");
}
