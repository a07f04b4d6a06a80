//! Tests of sandboxes in gVisor: attacks on the agent, which runs as root there, and checkpoints of
//! memory, which contain the agent.

use std::{fs, io::Write, os::unix::fs::PermissionsExt, path::Path, time::Duration};

use actix_sandbox::{
    Language, LocalServer, ProcessEnd, Sandbox,
    server::{Backend, GvisorOptions, ServerBuilder},
};
use futures::{StreamExt, future::join_all};

use crate::{
    agent::run,
    processes::processes_of,
    support::{archives, backend::start_if_possible, raw_client::eventually, within},
};

/// The program of the agents.
const AGENT: &str = env!("CARGO_BIN_EXE_actix-sandbox");

/// A server with the backend `gvisor`, if that works here.
async fn server(with: impl FnOnce(ServerBuilder) -> ServerBuilder) -> Option<LocalServer> {
    let backend = Backend::Gvisor(GvisorOptions::default());
    start_if_possible(with(LocalServer::builder().backend(backend))).await
}

/// Python that prints a line for each attack on PID 1 that works. Code can read the environment of
/// the agent, so it must hold nothing but the `HOME` that gVisor adds.
const ATTACK: &str = "
import ctypes, os, resource
libc = ctypes.CDLL(None, use_errno=True)
for number in range(0, 65):
    try: os.kill(1, number); print('sent', number)
    except OSError: pass
for request in (16, 0x4206):
    if libc.ptrace(request, 1, 0, 0) == 0: print('attached by', request)
for name in ('mem', 'exe', 'root', 'cwd', 'fd/0', 'fd/1'):
    try: open(f'/proc/1/{name}', 'rb').read(1); print('opened', name)
    except OSError: pass
environment = open('/proc/1/environ', 'rb').read().strip(b'\\0')
if environment != b'HOME=/root': print('read', environment)
for name in ('mem', 'fd/0', 'fd/1', 'oom_score_adj', 'comm', 'uid_map'):
    try: open(f'/proc/1/{name}', 'wb', 0).write(b'1'); print('wrote', name)
    except OSError: pass
for limit in ('NOFILE', 'CPU', 'AS', 'DATA', 'FSIZE', 'NPROC'):
    try: resource.prlimit(1, getattr(resource, 'RLIMIT_' + limit), (3, 3)); print('limited', limit)
    except OSError: pass
for name, call in (
    ('left its group', lambda: os.setgroups([])),
    ('joined a group', lambda: os.setgroups(os.getgroups() + [1073741825])),
    ('changed its user', lambda: os.setuid(0)),
    ('changed its group', lambda: os.setgid(0)),
):
    try: call(); print(name)
    except OSError: pass
if os.fork() == 0:
    # In a user namespace of its own, a process has every privilege.
    libc.unshare(0x10000000)
    if libc.setgroups(0, None) == 0: print('left its group in a namespace', flush=True)
    os._exit(0)
os.wait()
for path in ('/run/source/agent',):
    try: open(path, 'rb').read(1); print('read', path)
    except OSError: pass
for path in ('/run/source/x', '/run/code/x', '/usr/x'):
    try: open(path, 'w'); print('wrote', path)
    except OSError: pass
print('end')
";

#[actix::test]
async fn code_has_no_power_over_the_agent() {
    let Some(server) = server(|it| it).await else {
        return;
    };
    let sandbox = Sandbox::create(server.url()).await.unwrap();
    let output = run(&sandbox, Language::Python, ATTACK).await;
    assert_eq!(output.stdout, "end\n", "{}", output.stderr_lossy());
    let code = "grep -hE '^(Cap(Eff|Inh|Prm)|Uid)' /proc/self/status";
    let output = run(&sandbox, Language::Bash, code).await;
    let none = "\t0000000000000000\n";
    let user = "\t1879048192".repeat(4);
    let expected = format!("Uid:{user}\nCapInh:{none}CapPrm:{none}CapEff:{none}");
    assert_eq!(output.stdout, expected);
    server.stop().await;
}

/// `/proc/PID/status` shows the name of a program, and gVisor doesn't escape line breaks in it.
#[actix::test]
async fn a_kill_finds_a_process_whose_name_forges_its_state() {
    let Some(server) = server(|it| it).await else {
        return;
    };
    let sandbox = Sandbox::create(server.url()).await.unwrap();
    for name in [
        "a\\nState:\\tZ",
        "a\\nGroups:\\t1",
        "a\\nThreads:\\t1",
        "\\xff",
    ] {
        let code = format!(
            "import ctypes, os, time
ctypes.CDLL(None).prctl(15, b'{name}', 0, 0, 0)
if os.fork() == 0: os.setsid()
else: os.write(1, b'ready\\n')
time.sleep(300)"
        );
        let process = sandbox.exec(Language::Python, code).await.unwrap();
        let ready = within(name, process.stdout().next()).await;
        assert!(ready.unwrap().unwrap().starts_with(b"ready\n"), "{name}");
        within(name, process.kill()).await.unwrap();
        let code = "grep -l [p]ython3 /proc/[0-9]*/cmdline | wc -l";
        let left = run(&sandbox, Language::Bash, code).await;
        assert_eq!(left.stdout, "0\n", "{name}");
    }
    server.stop().await;
}

#[actix::test]
async fn a_sandbox_whose_kernel_died_says_so_and_others_go_on() {
    let place = tempfile::tempdir().unwrap();
    let Some(server) = server(|it| it.directory(place.path())).await else {
        return;
    };
    let (lost, other) = (
        Sandbox::create(server.url()).await.unwrap(),
        Sandbox::create(server.url()).await.unwrap(),
    );
    for sandbox in [&lost, &other] {
        run(sandbox, Language::Bash, "true").await;
    }
    let waits = lost.exec(Language::Bash, "echo begun; read").await.unwrap();
    let begun = within("the output", waits.stdout().next()).await;
    assert_eq!(begun.unwrap().unwrap(), "begun\n");
    let bundle = format!("{}/bundle", lost.sandbox_id());
    let kernel = processes_of(&bundle);
    assert!(!kernel.is_empty());
    for pid in kernel.into_keys() {
        let pid = nix::unistd::Pid::from_raw(pid);
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
    }
    let end = within("the end", waits.wait()).await.unwrap();
    let is_lost = matches!(end, ProcessEnd::SandboxLost { .. });
    assert!(is_lost && end.to_string().contains("has ended"), "{end}");
    for _ in 0..2 {
        let refused = within("the refusal", lost.exec(Language::Bash, "true")).await;
        let error = refused.unwrap_err().to_string();
        assert!(error.contains("the sandbox is lost"), "{error}");
    }
    within("the kill", lost.kill()).await.unwrap();
    let output = run(&other, Language::Bash, "echo still here").await;
    assert_eq!(output.stdout, "still here\n");
    server.stop().await;
}

#[actix::test]
async fn a_process_without_memory_dies_and_its_sandbox_goes_on() {
    let backend = Backend::Gvisor(GvisorOptions::default().memory(512 << 20));
    let Some(server) = server(|it| it.backend(backend)).await else {
        return;
    };
    let sandbox = Sandbox::create(server.url()).await.unwrap();
    let code = "x = b'x' * (2 << 30)";
    let output = run(&sandbox, Language::Python, code).await;
    assert_eq!(output.end, ProcessEnd::Signaled(9), "{output:?}");
    // Each stays below its limit. All together need more than the 1 GiB of the sandbox.
    let code = "import os, time
for _ in range(6):
    if os.fork() == 0:
        x = b'x' * (300 << 20)
        time.sleep(60)
ended = [os.WTERMSIG(os.wait()[1]) for _ in range(3)]
print(11 in ended, flush=True)
os.killpg(0, 9)";
    let output = run(&sandbox, Language::Python, code).await;
    assert_eq!(output.stdout, "True\n", "{output:?}");
    let output = run(&sandbox, Language::Bash, "echo still here").await;
    assert_eq!(output.stdout, "still here\n");
    server.stop().await;
}

/// Programs that reserve more memory than they use, that look up their user or that need a
/// terminal.
#[actix::test]
async fn node_webassembly_java_and_terminals_work() {
    let Some(server) = server(|it| it).await else {
        return;
    };
    let sandbox = Sandbox::create(server.url()).await.unwrap();
    for (program, code, expected) in [
        (
            "node",
            "node -e 'new WebAssembly.Memory({initial:1}); console.log(\"memory\")'",
            "memory\n",
        ),
        ("java", "java -version 2>&1 | grep -c version", "1\n"),
        (
            "python3",
            "python3 -c 'import getpass; print(getpass.getuser())'",
            "sandbox\n",
        ),
        (
            "python3",
            "python3 -c 'import os, pty; print(len(pty.openpty()))'",
            "2\n",
        ),
    ] {
        let known = format!("type -P {program}");
        if run(&sandbox, Language::Bash, &known).await.end != ProcessEnd::Exited(0) {
            println!("not tried: {program} is not installed");
            assert!(std::env::var_os("CI_BACKENDS").is_none());
            continue;
        }
        let output = run(&sandbox, Language::Bash, code).await;
        assert_eq!(output.stdout, expected, "{code}: {output:?}");
    }
    server.stop().await;
}

#[actix::test]
async fn many_sandboxes_run_at_once() {
    const MANY: usize = 32;
    let Some(server) = server(|it| it).await else {
        return;
    };
    let created = join_all((0..MANY).map(|number| {
        let url = server.url().to_owned();
        async move {
            let sandbox = Sandbox::create(&url).idle_timeout(Duration::from_secs(1_800));
            let sandbox = sandbox.await.unwrap();
            let code = format!("echo {number} > mine; cat mine");
            let output = sandbox.run(Language::Bash, code).await.unwrap();
            assert_eq!(output.stdout, format!("{number}\n"), "{output:?}");
            sandbox
        }
    }));
    let sandboxes = tokio::time::timeout(Duration::from_secs(600), created);
    let sandboxes = sandboxes.await.expect("every sandbox ran its code");
    let again = join_all(
        sandboxes
            .iter()
            .map(|it| it.run(Language::Bash, "cat mine")),
    );
    for (number, output) in again.await.into_iter().enumerate() {
        assert_eq!(output.unwrap().stdout, format!("{number}\n"));
    }
    let killed = join_all(sandboxes.iter().map(Sandbox::kill)).await;
    assert!(killed.iter().all(Result::is_ok), "{killed:?}");
    server.stop().await;
}

/// A background process that counts in memory and in a file.
const COUNT: &str =
    "(while :; do echo $((++i)) > new; mv new count; echo unread; sleep 0.01; done) &
until [ -s count ]; do :; done";

/// A sandbox with a counter.
async fn counting(server: &LocalServer) -> Sandbox {
    let sandbox = Sandbox::create(server.url()).enable_sandbox_checkpoint(true);
    let sandbox = sandbox.await.unwrap();
    run(&sandbox, Language::Bash, COUNT).await;
    sandbox
}

/// Checks that the counter of a sandbox goes on.
async fn goes_on_counting(sandbox: &Sandbox) {
    let code = "at=$(cat count); until [ $(cat count) -gt $((at + 20)) ]; do :; done; echo goes on";
    let output = run(sandbox, Language::Bash, code).await;
    assert_eq!(output.stdout, "goes on\n", "{output:?}");
}

/// Checkpoints a sandbox and restores it on this server.
async fn restore_on(server: &LocalServer, sandbox: Sandbox) -> Result<Sandbox, String> {
    let (id, token) = (
        sandbox.sandbox_id().clone(),
        sandbox.sandbox_token().clone(),
    );
    within("the checkpoint", sandbox.checkpoint())
        .await
        .unwrap();
    let attached = Sandbox::attach(server.url(), id, token).into_future();
    let attached = within("the restore", attached).await;
    attached.map_err(|error| error.to_string())
}

#[actix::test]
async fn a_background_process_goes_on_after_each_of_three_restores() {
    let Some(server) = server(|it| it).await else {
        return;
    };
    let mut sandbox = counting(&server).await;
    for _ in 0..3 {
        sandbox = restore_on(&server, sandbox).await.unwrap();
        goes_on_counting(&sandbox).await;
        // The new server numbers its execs from 0 again. A kill must end only the new exec.
        let process = sandbox.exec(Language::Bash, "sleep 1000").await.unwrap();
        within("the kill", process.kill()).await.unwrap();
        goes_on_counting(&sandbox).await;
    }
    server.stop().await;
}

/// Copies the program of the agent to a file that differs from it, as another build would.
fn another_build(directory: &Path) -> std::path::PathBuf {
    let copy = directory.join("another-build");
    fs::copy(AGENT, &copy).unwrap();
    let mut file = fs::OpenOptions::new().append(true).open(&copy).unwrap();
    file.write_all(&[0; 4_096]).unwrap();
    fs::set_permissions(&copy, fs::Permissions::from_mode(0o755)).unwrap();
    copy
}

#[actix::test]
async fn a_checkpoint_is_restored_by_a_server_with_another_agent() {
    let place = tempfile::tempdir().unwrap();
    let state = place.path().join("state");
    let agent = another_build(place.path());
    let (Some(one), Some(two)) = (
        server(|it| it.state_directory(&state)).await,
        server(|it| it.state_directory(&state).agent(agent)).await,
    ) else {
        return;
    };
    let sandbox = counting(&one).await;
    let sandbox = restore_on(&two, sandbox).await.unwrap();
    goes_on_counting(&sandbox).await;
    let sandbox = restore_on(&one, sandbox).await.unwrap();
    goes_on_counting(&sandbox).await;
    for server in [one, two] {
        server.stop().await;
    }
}

/// The server doesn't trust the storage. Here, the agent in a checkpoint is replaced or removed.
#[actix::test]
async fn a_checkpoint_with_a_wrong_agent_is_refused_with_a_reason() {
    let place = tempfile::tempdir().unwrap();
    let state = place.path().join("state");
    let Some(server) = server(|it| it.state_directory(&state)).await else {
        return;
    };
    for (change, says) in [
        ("archive.addfile(entry, io.BytesIO(b'#!/bin/sh\\n'))", ""),
        ("pass", "lacks the program of its agent"),
    ] {
        let sandbox = counting(&server).await;
        let (id, token) = (
            sandbox.sandbox_id().clone(),
            sandbox.sandbox_token().clone(),
        );
        within("the checkpoint", sandbox.checkpoint())
            .await
            .unwrap();
        let archive = state.join(format!("checkpoints/{id}.tar.lz4"));
        archives::change(&archive, "memory/agent", change);
        let attached = Sandbox::attach(server.url(), id, token).into_future();
        let error = within("the refusal", attached).await.unwrap_err();
        println!("{error}");
        assert!(error.to_string().contains(says), "{error}");
    }
    let place = server.url().to_owned();
    let sandbox = Sandbox::create(&place).await.unwrap();
    let output = run(&sandbox, Language::Bash, "echo still here").await;
    assert_eq!(output.stdout, "still here\n");
    server.stop().await;
}

#[actix::test]
async fn a_stopped_server_leaves_no_process_of_gvisor() {
    let place = tempfile::tempdir().unwrap();
    let Some(server) = server(|it| it.directory(place.path())).await else {
        return;
    };
    let sandbox = Sandbox::create(server.url()).await.unwrap();
    run(&sandbox, Language::Bash, "sleep 1000 &").await;
    let word = place.path().to_str().unwrap();
    assert!(!processes_of(word).is_empty());
    server.stop().await;
    eventually("no process is left", || processes_of(word).is_empty()).await;
    assert_eq!(fs::read_dir(place.path()).unwrap().count(), 0);
}
