//! Attacks on the agent of a sandbox by code in that sandbox. With `namespace`, both run as the
//! same user.

use std::time::Duration;

use actix_sandbox::{
    Language, LocalServer, Output, ProcessEnd, Sandbox,
    server::{Backend, GvisorOptions, NamespaceOptions},
};
use futures::StreamExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::processes::processes_of;
use crate::support::{
    backend::start_if_possible, program::Program, raw_client::eventually, within,
};

/// A server with the backend `namespace`, if that works here.
async fn server() -> Option<LocalServer> {
    let backend = Backend::Namespace(NamespaceOptions::default());
    start_if_possible(LocalServer::builder().backend(backend)).await
}

/// A server with a sandbox in namespaces.
async fn sandbox() -> Option<(LocalServer, Sandbox)> {
    let server = server().await?;
    let sandbox = Sandbox::create(server.url()).await.unwrap();
    Some((server, sandbox))
}

/// A server for each backend with agents that works here.
async fn servers() -> Vec<LocalServer> {
    let mut servers = Vec::new();
    for backend in [
        Backend::Namespace(NamespaceOptions::default()),
        Backend::Gvisor(GvisorOptions::default()),
    ] {
        servers.extend(start_if_possible(LocalServer::builder().backend(backend)).await);
    }
    servers
}

/// A sandbox on each of the [`servers`].
async fn sandboxes() -> Vec<(LocalServer, Sandbox)> {
    let mut sandboxes = Vec::new();
    for server in servers().await {
        let sandbox = Sandbox::create(server.url()).await.unwrap();
        sandboxes.push((server, sandbox));
    }
    sandboxes
}

pub(crate) async fn run(sandbox: &Sandbox, language: Language, code: &str) -> Output {
    within("the code", sandbox.run(language, code))
        .await
        .unwrap()
}

/// Python that prints a line for each attack on PID 1 that works.
const ATTACK: &str = "
import ctypes, os, resource, signal
libc = ctypes.CDLL(None, use_errno=True)
for number in range(1, 65):
    try: os.kill(1, number)
    except OSError: pass
for request in (16, 0x4206):
    if libc.ptrace(request, 1, 0, 0) == 0: print('attached by', request)
for name in ('mem', 'fd', 'environ', 'exe', 'root', 'maps', 'io', 'auxv', 'fd/0', 'fd/1'):
    try:
        path = f'/proc/1/{name}'
        os.listdir(path) if name in ('fd', 'root') else open(path, 'rb').read(1)
        print('opened', name)
    except OSError: pass
for name in ('mem', 'fd/0', 'fd/1', 'oom_score_adj', 'comm', 'timerslack_ns', 'clear_refs'):
    try: open(f'/proc/1/{name}', 'wb', 0).write(b'1'); print('wrote', name)
    except OSError: pass
for limit in ('NOFILE', 'CPU', 'AS', 'DATA', 'FSIZE', 'NPROC'):
    try:
        resource.prlimit(1, getattr(resource, 'RLIMIT_' + limit), (3, 3))
        print('limited', limit)
    except OSError: pass
pidfd = libc.syscall(434, 1, 0)
if pidfd >= 0 and libc.syscall(438, pidfd, 0, 0) >= 0: print('took a descriptor')
print('end')
";

#[actix::test]
async fn code_cannot_signal_trace_open_or_limit_the_agent() {
    let Some((server, sandbox)) = sandbox().await else {
        return;
    };
    let output = run(&sandbox, Language::Python, ATTACK).await;
    assert_eq!(output.stdout, "end\n", "{}", output.stderr_lossy());
    let again = run(&sandbox, Language::Bash, "echo still here").await;
    assert_eq!(again.stdout, "still here\n");
    server.stop().await;
}

/// Code can't look at the agent and its reapers. It looks at itself: it inherits their privileges
/// and their filter.
#[actix::test]
async fn code_has_no_privilege_and_a_filter() {
    let Some((server, sandbox)) = sandbox().await else {
        return;
    };
    let code = "grep -hE '^(Cap|NoNewPrivs|Seccomp:)' /proc/self/status | sort -u; id -u";
    let output = run(&sandbox, Language::Bash, code).await;
    let sets = ["CapAmb", "CapBnd", "CapEff", "CapInh", "CapPrm"];
    let mut expected = sets
        .map(|set| format!("{set}:\t0000000000000000\n"))
        .concat();
    expected += "NoNewPrivs:\t1\nSeccomp:\t2\n1000\n";
    assert_eq!(output.stdout, expected);
    server.stop().await;
}

/// Counts the processes of a sandbox that sleep.
const SLEEPERS: &str = "grep -l '^Name:.sleep$' /proc/[0-9]*/status 2>/dev/null | wc -l";

/// Code that starts four processes which left their session, environment and parents, and waits
/// until all of them run.
const LEAVES: &str = "
(env -i setsid -f sleep 300)
(env -i setsid bash -c 'sleep 300 & exec -a other sleep 300' < /dev/null > /dev/null 2>&1 &)
env -i setsid --fork setsid --fork sleep 300
until [ \"$(grep -l '^Name:.sleep$' /proc/[0-9]*/status 2>/dev/null | wc -l)\" -ge 4 ]; do :; done
";

/// What code does to its reaper before it is killed.
const TO_THE_REAPER: [(&str, &str); 2] = [("nothing", ""), ("stops it", "kill -STOP $PPID")];

#[actix::test]
async fn a_kill_leaves_no_descendant_whatever_the_code_did() {
    for (server, sandbox) in sandboxes().await {
        for (name, code) in TO_THE_REAPER {
            let code = format!("{LEAVES}{code}\necho ready; sleep 300");
            let process = sandbox.exec(Language::Bash, code).await.unwrap();
            let ready = within(name, process.stdout().next()).await;
            assert_eq!(ready.unwrap().unwrap(), "ready\n", "{name}");
            within(name, process.kill()).await.unwrap();
            let end = within(name, process.wait()).await.unwrap();
            assert_eq!(end, ProcessEnd::Killed, "{name}");
            let left = run(&sandbox, Language::Bash, SLEEPERS).await;
            assert_eq!(left.stdout, "0\n", "{name}");
        }
        server.stop().await;
    }
}

/// Each process forks the next one and ends. A pass over the processes can miss it, more likely if
/// there are many others.
const CHAIN: &str = "
import os, sys
if len(sys.argv) > 1: os.kill(os.getppid(), 9)
print('ready', flush=True)
os.setsid() if os.fork() == 0 else os._exit(0)
while True:
    open('beat', 'w').write(str(os.getpid()))
    if os.fork(): os._exit(0)
";

#[actix::test]
async fn a_kill_ends_a_chain_of_processes_that_fork_and_end() {
    for (server, sandbox) in sandboxes().await {
        let others = "for i in {1..60}; do sleep 300 & done; echo ready; wait";
        let others = sandbox.exec(Language::Bash, others).await.unwrap();
        within("others", others.stdout().next()).await;
        for kills_reaper in [false, server.backend() == "namespace"] {
            let command = sandbox.command(Language::Python, CHAIN);
            let command = command.args(kills_reaper.then_some("kill"));
            let process = command.spawn().await.unwrap();
            within("ready", process.stdout().next()).await;
            let _ = within("the kill", process.kill()).await;
            within("the end", process.wait()).await.unwrap();
            let code = "a=$(cat beat); sleep 0.5; [ \"$a\" = \"$(cat beat)\" ] && echo ended";
            let output = run(&sandbox, Language::Bash, code).await;
            assert_eq!(output.stdout, "ended\n", "{}", server.backend());
        }
        within("the kill of the others", others.kill())
            .await
            .unwrap();
        server.stop().await;
    }
}

/// A process whose first thread has ended looks like a zombie.
#[actix::test]
async fn a_kill_finds_a_process_whose_first_thread_has_ended() {
    for (server, sandbox) in sandboxes().await {
        let code = "
import ctypes, os, subprocess, threading, time
def work():
    while open('/proc/self/stat').read().rsplit(') ')[-1][0] != 'Z': time.sleep(0.001)
    print('ready', flush=True)
    time.sleep(300)
threading.Thread(target=work).start()
ctypes.CDLL(None).pthread_exit(0)
";
        let process = sandbox.exec(Language::Python, code).await.unwrap();
        let ready = within("the thread", process.stdout().next()).await;
        assert_eq!(ready.unwrap().unwrap(), "ready\n");
        within("the kill", process.kill()).await.unwrap();
        let left = "grep -l '^Name:.python3' /proc/[0-9]*/status 2>/dev/null | wc -l";
        let left = run(&sandbox, Language::Bash, left).await;
        assert_eq!(left.stdout, "0\n");
        server.stop().await;
    }
}

/// The agent can't tell to which exec a process without a reaper belongs, so it kills all of them.
#[actix::test]
async fn code_that_kills_its_reaper_is_killed() {
    let Some((server, sandbox)) = sandbox().await else {
        return;
    };
    for code in [
        "kill -9 $PPID; sleep 300",
        "kill -9 -1; env -i setsid -f sleep 300; sleep 300",
    ] {
        let output = run(&sandbox, Language::Bash, &format!("{LEAVES}{code}")).await;
        assert_eq!(output.end, ProcessEnd::Signaled(9), "{code}");
        let left = run(&sandbox, Language::Bash, SLEEPERS).await;
        assert_eq!(left.stdout, "0\n", "{code}");
    }
    server.stop().await;
}

/// Stops or kills every new process of the sandbox for two seconds, also those that start an exec.
const HUNT: &str = "
import os, sys, time
number = int(sys.argv[1])
print('hunting', flush=True)
until = time.monotonic() + 2
while time.monotonic() < until:
    newest = max(int(name) for name in os.listdir('/proc') if name.isdigit())
    for pid in range(newest - 2, newest + 8):
        if pid > 1 and pid not in (os.getpid(), os.getppid()):
            try: os.kill(pid, number)
            except OSError: pass
";

/// One exec stops or kills the processes of other execs while they start. The other execs may fail,
/// but each of them ends, and the agent keeps running.
#[actix::test]
async fn code_that_stops_or_kills_starting_execs_stops_no_agent() {
    for server in servers().await {
        for signal in ["19", "9"] {
            let sandbox = Sandbox::create(server.url()).await.unwrap();
            let hunter = sandbox.command(Language::Python, HUNT).args([signal]);
            let hunter = hunter.spawn().await.unwrap();
            within("the hunter", hunter.stdout().next())
                .await
                .unwrap()
                .unwrap();
            let mut ends = Vec::new();
            for _ in 0..30 {
                let Ok(process) = sandbox.exec(Language::Bash, "echo hello").await else {
                    ends.push("not started".to_owned());
                    continue;
                };
                let end = tokio::time::timeout(Duration::from_millis(100), process.wait()).await;
                if end.is_err() {
                    within("the kill", process.kill()).await.unwrap();
                }
                let end = within("the end", process.wait()).await.unwrap();
                ends.push(format!("{end:?}"));
                let terminal = sandbox.terminal().program("echo").arg("hello");
                let Ok(terminal) = terminal.open().await else {
                    ends.push("no terminal".to_owned());
                    continue;
                };
                let end = tokio::time::timeout(Duration::from_millis(100), terminal.wait()).await;
                if end.is_err() {
                    within("the kill", terminal.kill()).await.unwrap();
                }
                let end = within("the end", terminal.wait()).await.unwrap();
                ends.push(format!("{end:?}"));
            }
            println!("signal {signal}: {ends:?}");
            within("the hunter's end", hunter.wait()).await.unwrap();
            let after = run(&sandbox, Language::Bash, "echo still here").await;
            assert_eq!(after.stdout, "still here\n", "signal {signal}");
            within("the kill of the sandbox", sandbox.kill())
                .await
                .unwrap();
        }
        server.stop().await;
    }
}

/// In a terminal, the parent of the main process is the reaper of the exec or the keeper of the
/// terminal.
#[actix::test]
async fn code_that_kills_the_parent_of_its_terminal_is_killed() {
    for (server, sandbox) in sandboxes().await {
        let code = "(sleep 86403 &); kill -STOP $PPID; kill -KILL $PPID; exec sleep 86403";
        let terminal = sandbox.terminal().program("bash").args(["-c", code]);
        let mut terminal = terminal.open().await.unwrap();
        let end = within("the end", terminal.wait()).await.unwrap();
        assert_eq!(end, ProcessEnd::Signaled(9));
        let mut screen = Vec::new();
        let rest = terminal.read_to_end(&mut screen);
        within("the end of the screen", rest).await.unwrap();
        let gone = "while pgrep -f '^sleep 86403'; do sleep 0.05; done";
        let output = run(&sandbox, Language::Bash, gone).await;
        assert!(output.end.success(), "{output:?}");
        server.stop().await;
    }
}

/// Code runs as the same user as the process of a builtin, so it can stop that process.
#[actix::test]
async fn a_builtin_that_code_has_stopped_goes_on() {
    for (server, sandbox) in sandboxes().await {
        let mut writer = sandbox.files().create("file").await.unwrap();
        let hunter = sandbox.command(Language::Python, HUNT).args(["19"]);
        let hunted = within("the hunter", hunter.output()).await.unwrap();
        assert!(hunted.end.success(), "{hunted:?}");
        writer.write_all(b"written").await.unwrap();
        within("the write", writer.shutdown()).await.unwrap();
        let files = sandbox.files();
        let content = within("the read", files.read("file")).await.unwrap();
        assert_eq!(content, "written");
        server.stop().await;
    }
}

/// The type `Signal` of the crate nix has no real-time signals, so the agent reports raw numbers.
#[actix::test]
async fn a_real_time_signal_is_reported() {
    for (server, sandbox) in sandboxes().await {
        let output = run(&sandbox, Language::Bash, "kill -34 $$").await;
        assert_eq!(output.end, ProcessEnd::Signaled(34));
        server.stop().await;
    }
}

/// Each of these exhausts something, and prints how it was stopped.
const EXHAUST: [(&str, &str, &str); 4] = [
    (
        "a million descriptors",
        "
import os
files = []
try:
    for _ in range(1_000_000): files.append(os.dup(0))
except OSError as error: print(error.strerror)",
        "Too many open files\n",
    ),
    (
        "a million processes",
        "
import os, time
try:
    for _ in range(1_000_000):
        if os.fork() == 0: time.sleep(1000)
except OSError as error: print(error.strerror, flush=True)
os.killpg(0, 9)",
        "Resource temporarily unavailable\n",
    ),
    (
        "a million files in memory",
        "
try:
    for number in range(1_000_000): open(f'/dev/shm/{number}', 'x').close()
except OSError as error: print(error.strerror)",
        "No space left on device\n",
    ),
    (
        "a million terminals",
        "
import os
pairs = []
try:
    for _ in range(1_000_000): pairs.append(os.openpty())
except OSError as error: print(error.strerror)",
        "No space left on device\n",
    ),
];

/// The attacks in [`EXHAUST`] on the memory of the machine's kernel, by the end of their names.
const IN_THE_KERNEL: [&str; 2] = ["files in memory", "terminals"];

#[actix::test]
async fn what_code_exhausts_stops_neither_the_agent_nor_other_execs() {
    for (server, sandbox) in sandboxes().await {
        for (name, code, stopped) in EXHAUST {
            if server.backend() == "gvisor" && IN_THE_KERNEL.iter().any(|end| name.ends_with(end)) {
                // Files and terminals take memory of gVisor's kernel, which the sandbox's limit
                // counts.
                continue;
            }
            let output = run(&sandbox, Language::Python, code).await;
            assert_eq!(output.stdout, stopped, "{name}: {output:?}");
            let again = run(&sandbox, Language::Bash, "echo still here").await;
            assert_eq!(again.stdout, "still here\n", "{name}");
        }
        if server.backend() == "gvisor" {
            server.stop().await;
            continue;
        }
        let read_only = "touch /run/x /dev/x /usr/x /x; ls /run/x /dev/x /usr/x";
        let output = run(&sandbox, Language::Bash, read_only).await;
        assert_eq!(output.stdout, "");
        server.stop().await;
    }
}

#[actix::test]
async fn a_full_pipe_of_one_exec_delays_no_other() {
    for (server, sandbox) in sandboxes().await {
        let code = "cat /dev/zero & cat /dev/zero >&2";
        let unread = sandbox.exec(Language::Bash, code).await.unwrap();
        let begun = within("its output", unread.stdout().next()).await;
        assert!(!begun.unwrap().unwrap().is_empty());
        for _ in 0..20 {
            let output = run(&sandbox, Language::Bash, "echo other").await;
            assert_eq!(output.stdout, "other\n");
        }
        within("the kill", unread.kill()).await.unwrap();
        server.stop().await;
    }
}

/// Code replaces mount points by links to a directory that the server may write to. The next start
/// of the agent must not mount anything in that directory.
#[actix::test]
async fn links_in_the_tree_lead_no_mount_elsewhere() {
    let Some(server) = server().await else { return };
    let outside = tempfile::tempdir().unwrap();
    let builder = Sandbox::create(server.url()).enable_sandbox_checkpoint(true);
    let sandbox = builder.await.unwrap();
    let code = format!(
        "rm -rf /sys /var && ln -s {0} /sys && ln -s {0} /var && echo linked",
        outside.path().display()
    );
    let output = run(&sandbox, Language::Bash, &code).await;
    assert_eq!(output.stdout, "linked\n", "{}", output.stderr_lossy());
    let (id, token) = (
        sandbox.sandbox_id().clone(),
        sandbox.sandbox_token().clone(),
    );
    within("the checkpoint", sandbox.checkpoint())
        .await
        .unwrap();
    let sandbox = Sandbox::attach(server.url(), id, token).await.unwrap();
    let code = "test -d /var/tmp && test ! -L /sys && echo directories";
    let output = run(&sandbox, Language::Bash, code).await;
    assert_eq!(output.stdout, "directories\n");
    assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 0);
    server.stop().await;
}

/// Python that tries each system call that the filter blocks.
const BLOCKED_CALLS: &str = include_str!("blocked_calls.py");

#[actix::test]
async fn every_blocked_call_is_refused() {
    let Some((server, sandbox)) = sandbox().await else {
        return;
    };
    let run = sandbox.command(Language::Python, BLOCKED_CALLS);
    let run = run.timeout(Duration::from_secs(60)).output();
    let output = within("the code", run).await.unwrap();
    let said = output.stdout_lossy();
    print!("{said}");
    let refused = |line: &str| line.ends_with(": ENOSYS");
    let wrong: Vec<_> = said.lines().filter(|line| !refused(line)).collect();
    assert!(wrong.is_empty(), "{wrong:?} {}", output.stderr_lossy());
    assert!(said.lines().count() > 60, "{said}");
    server.stop().await;
}

#[actix::test]
async fn an_option_denies_further_calls_and_names_unknown_ones() {
    let start = |name| {
        let options = NamespaceOptions::default().deny_syscall(name);
        let builder = LocalServer::builder().backend(Backend::Namespace(options));
        builder.start()
    };
    if server().await.is_none() {
        return;
    }
    let server = start("getcwd").await.unwrap();
    let sandbox = Sandbox::create(server.url()).await.unwrap();
    let code = "import os\ntry: os.getcwd()\nexcept OSError as error: print(error.strerror)";
    let output = run(&sandbox, Language::Python, code).await;
    assert_eq!(output.stdout, "Function not implemented\n");
    server.stop().await;
    let error = start("no_call").await.unwrap_err().to_string();
    assert!(error.contains("`no_call` is not a system call"), "{error}");
}

/// Sends requests that keep a server busy until it is killed.
fn keep_at_work(url: &str) -> tokio::task::JoinHandle<()> {
    let url = url.to_owned();
    actix::spawn(async move {
        loop {
            let Ok(sandbox) = Sandbox::create(&url).await else {
                return;
            };
            let background = "setsid sleep 1000 > /dev/null 2>&1 & echo started";
            let _ = sandbox.run(Language::Bash, background).await;
            let Ok(process) = sandbox.exec(Language::Bash, "sleep 1000").await else {
                return;
            };
            let _ = process.kill().await;
            if sandbox.kill().await.is_err() {
                return;
            }
        }
    })
}

/// The points in a round at which a server is killed, in 24ths of the round. In a round, the server
/// creates a sandbox, starts code, kills the code and deletes the sandbox. So the kills hit every
/// phase.
const KILLED_AFTER: std::ops::Range<u32> = 0..24;

/// For each backend: about how long a round takes, and words on the command lines of a sandbox.
const ROUNDS: [(&str, Duration, [&str; 2]); 2] = [
    (
        "namespace",
        Duration::from_millis(24),
        ["bwrap", "/run/agent"],
    ),
    (
        "gvisor",
        Duration::from_millis(480),
        ["runsc-sandbox", "runsc-gofer"],
    ),
];

async fn kill_in_each_phase(also_the_watchdog: bool) {
    let working: Vec<_> = servers().await.iter().map(LocalServer::backend).collect();
    for (backend, round, shows) in ROUNDS {
        if !working.contains(&backend) {
            continue;
        }
        let arguments = ["--backend", backend];
        let program = Program::start(&arguments);
        let sandbox = Sandbox::create(&program.url).await.unwrap();
        run(&sandbox, Language::Bash, "true").await;
        let running = processes_of(&program.directory).into_values();
        let running: Vec<_> = running.collect();
        let running = running.join("\n");
        assert!(shows.iter().all(|it| running.contains(it)), "{running}");
        for part in KILLED_AFTER {
            let program = Program::start(&arguments);
            let work = [keep_at_work(&program.url), keep_at_work(&program.url)];
            tokio::time::sleep(round * part / KILLED_AFTER.end).await;
            let directory = match also_the_watchdog {
                true => program.killed_with_its_watchdog(),
                false => program.killed(),
            };
            let path = directory.path();
            eventually("no process or mount is left", || {
                processes_of(path).is_empty()
            })
            .await;
            if also_the_watchdog {
                // The next server removes the directory.
                let _next = Program::start_in(directory, &arguments);
            } else {
                let is_empty = || std::fs::read_dir(path).unwrap().next().is_none();
                eventually("no directory is left", is_empty).await;
            }
            work.iter().for_each(tokio::task::JoinHandle::abort);
        }
    }
}

#[actix::test]
async fn a_killed_server_leaves_nothing_in_any_phase() {
    kill_in_each_phase(false).await;
}

#[actix::test]
async fn a_server_killed_with_its_watchdog_leaves_no_process_in_any_phase() {
    kill_in_each_phase(true).await;
}
