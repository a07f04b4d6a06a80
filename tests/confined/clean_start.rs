//! Code, and the server's own child processes, start from the same clean process state however the
//! server was started. Each test starts `actix-sandbox serve` inside a terminal, with inherited
//! descriptors, keys, limits and signal masks (`dirty.py`).

use std::{
    fs,
    io::{BufRead, BufReader},
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use crate::support::{patient, program::copy_program, within};
use actix_sandbox::{Language, Sandbox};
use futures::StreamExt;
use nix::{
    sys::signal::{Signal, kill},
    unistd::{Pid, geteuid},
};
use tempfile::TempDir;

const PROGRAM: &str = env!("CARGO_BIN_EXE_actix-sandbox");
const BACKENDS: [&str; 3] = ["host", "namespace", "gvisor"];
const CONFINING: [&str; 2] = ["namespace", "gvisor"];

/// System directories only: the wrappers of version managers for `python3` change `PATH`.
const PATH: &str = "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin";

/// Inherited state that a shell sets up before it starts `dirty.py`.
const SHELL: &str =
    "exec 9</ 8</etc/shadow; umask 0; ulimit -c unlimited; trap '' HUP; exec python3 \"$@\"";

/// Prints the process state that code has inherited.
const REPORT: &str = include_str!("clean_start/report.sh");

#[derive(Clone, Copy)]
enum Start {
    Clean,
    Dirty,
}

/// A running `actix-sandbox serve`.
struct Server {
    child: Child,
    pid: i32,
    url: String,
    directory: TempDir,
}

impl Server {
    /// Starts the server. If the backend doesn't work on this machine, prints why and returns
    /// `None`.
    fn start(start: Start, backend: &str) -> Option<Self> {
        let directory = tempfile::tempdir().unwrap();
        let place = directory.path().to_str().unwrap();
        let serve = ["serve", "--backend", backend, "--address", "127.0.0.1:0"];
        let serve = serve.into_iter().chain(["--directory", place]);
        let mut command = match start {
            Start::Clean => {
                let mut command = Command::new("setsid");
                command.arg(PROGRAM).args(serve);
                command
            }
            Start::Dirty => {
                let dirty = concat!(
                    env!("CARGO_MANIFEST_DIR"),
                    "/tests/confined/clean_start/dirty.py"
                );
                let words = ["bash", "-c", SHELL, "bash", dirty, PROGRAM];
                let line: Vec<_> = words.into_iter().chain(serve).map(quoted).collect();
                let mut command = Command::new("script");
                command.args(["-qec", &line.join(" "), "/dev/null"]);
                command
            }
        };
        let command = command.env_clear().env("PATH", PATH);
        let command = command.stdin(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut pid = child.id().cast_signed();
        let mut said = String::new();
        for line in BufReader::new(child.stdout.take().unwrap()).lines() {
            let line = line.unwrap();
            if let Some(url) = line.trim().strip_prefix("listening on ") {
                return Some(Self {
                    url: url.to_owned(),
                    child,
                    pid,
                    directory,
                });
            }
            pid = line.trim().parse().unwrap_or(pid);
            said.push_str(&line);
        }
        let output = child.wait_with_output().unwrap();
        said.push_str(&String::from_utf8_lossy(&output.stderr));
        println!("not tried: {said}");
        assert!(std::env::var_os("CI_BACKENDS").is_none(), "{said}");
        None
    }

    async fn sandbox(&self) -> Sandbox {
        patient(&self.url).await.unwrap()
    }

    /// The descendants of the server, and the processes of `runsc`. The latter leave the process
    /// tree, but have the server's `--root` on their command line.
    fn processes(&self) -> Vec<i32> {
        let all: Vec<_> = fs::read_dir("/proc")
            .unwrap()
            .filter_map(|entry| {
                let pid: i32 = entry.ok()?.file_name().to_str()?.parse().ok()?;
                let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
                let (_, fields) = stat.rsplit_once(") ")?;
                let mut fields = fields.split(' ');
                let is_alive = fields.next() != Some("Z");
                let parent: i32 = fields.next()?.parse().ok()?;
                is_alive.then_some((pid, parent))
            })
            .collect();
        let records = format!("--root={}", self.directory.path().display());
        let names_records = |pid| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            String::from_utf8_lossy(&line).contains(&records)
        };
        let descends = |pid| {
            let parent = |&pid: &i32| Some(all.iter().find(|(it, _)| *it == pid)?.1);
            std::iter::successors(parent(&pid), parent).any(|it| it == self.pid)
        };
        let pids = all.iter().map(|&(pid, _)| pid);
        pids.filter(|&pid| descends(pid) || names_records(pid))
            .collect()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // All other signals may be blocked. The server's watchdog cleans up.
        let _ = kill(Pid::from_raw(self.pid), Signal::SIGKILL);
        let _ = self.child.wait();
    }
}

/// Quotes a word for a shell.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

async fn run(sandbox: &Sandbox, language: Language, code: &str) -> String {
    let output = within("the code", sandbox.run(language, code)).await;
    let output = output.unwrap();
    assert_eq!(output.stderr, "");
    output.stdout_lossy().into_owned()
}

#[actix::test]
async fn code_starts_the_same_however_the_server_was_started() {
    for backend in BACKENDS {
        let mut reports = Vec::new();
        for start in [Start::Clean, Start::Dirty] {
            let Some(server) = Server::start(start, backend) else {
                break;
            };
            let sandbox = server.sandbox().await;
            reports.push(run(&sandbox, Language::Bash, REPORT).await);
        }
        let [clean, dirty] = &reports[..] else {
            continue;
        };
        // The server keeps a low priority, which an operator may set on purpose.
        let compared = |report: &str| -> Vec<String> {
            let lines = report.lines().filter(|it| !it.starts_with("nice "));
            lines.map(str::to_owned).collect()
        };
        assert_eq!(compared(clean), compared(dirty), "{backend}");
        assert!(!dirty.contains("nice -"), "{dirty}");
        assert!(!dirty.contains("oom_score_adj -"), "{dirty}");
        let has = |line: &str| assert!(dirty.lines().any(|it| it == line), "{line}:\n{dirty}");
        let descriptors = dirty.lines().filter(|it| it.starts_with("descriptor"));
        assert_eq!(descriptors.count(), 2, "{dirty}");
        for line in [
            "descriptor 1 pipe:[N]",
            "descriptor 2 pipe:[N]",
            "0022",
            "policy 0",
        ] {
            has(line);
        }
        assert!(dirty.contains("\nterminal 0 "), "{dirty}");
        assert!(!dirty.contains("of the user found"), "{dirty}");
        assert!(!dirty.contains("OF_THE_USER"), "{dirty}");
        if backend == "gvisor" {
            // The group that marks the processes of the exec.
            has("groups [1073741824]");
            // The kernel of gVisor doesn't show the rest.
            continue;
        }
        if geteuid().is_root() {
            has("groups []");
        }
        for signals in ["SigPnd", "ShdPnd", "SigBlk", "SigIgn", "SigCgt"] {
            has(&format!("{signals}:\t0000000000000000"));
        }
        for line in [
            "CapInh:\t0000000000000000",
            "CapAmb:\t0000000000000000",
            "io priority 0",
            "timer slack 50000",
            "personality 0",
            "stack size                  (kbytes, -s) 8192",
        ] {
            has(line);
        }
        let core = dirty
            .lines()
            .find(|it| it.starts_with("Max core file size"));
        let core: Vec<_> = core.unwrap().split_whitespace().collect();
        assert_eq!(core[4..6], ["0", "0"]);
    }
}

#[actix::test]
async fn no_process_inherits_a_foreign_descriptor() {
    for backend in BACKENDS {
        let Some(server) = Server::start(Start::Dirty, backend) else {
            continue;
        };
        let sandbox = server.sandbox().await;
        // `sh` prints the line, because bash keeps its script open until it executes another
        // program.
        let code = "exec sh -c 'echo started; exec sleep 1000'";
        let process = sandbox.exec(Language::Bash, code).await.unwrap();
        let mut lines = process.stdout().lines();
        within("a line", lines.next()).await.unwrap().unwrap();
        let processes = server.processes();
        // The watchdog, and the code or the process of the backend that runs it.
        assert!(processes.len() >= 2, "{backend}: {processes:?}");
        let mut checked = 0;
        for pid in processes {
            let Ok(name) = fs::read_to_string(format!("/proc/{pid}/comm")) else {
                continue; // it has ended
            };
            checked += 1;
            for (number, target) in descriptors(pid) {
                let shown = format!("{backend}: {} has {number}: {target:?}", name.trim());
                // These programs open files of their own.
                let is_helper = backend == "gvisor" || ["bwrap", "agent"].contains(&name.trim());
                assert!(number <= 2 || is_helper, "{shown}");
                let is_foreign = [Path::new("/"), Path::new("/etc/shadow")].contains(&&*target)
                    || target.starts_with("/dev/pts")
                    || target.starts_with("/dev/tty");
                assert!(!is_foreign, "{shown}");
            }
        }
        assert!(checked >= 2, "{backend}: {checked}");
        within("the kill", sandbox.kill()).await.unwrap();
    }
}

fn descriptors(pid: i32) -> Vec<(u32, PathBuf)> {
    let entries = fs::read_dir(format!("/proc/{pid}/fd"))
        .into_iter()
        .flatten();
    entries
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let number = entry.file_name().to_str()?.parse().ok()?;
            Some((number, fs::read_link(entry.path()).ok()?))
        })
        .collect()
}

/// Adds a key to each keyring that another sandbox might share, and prints the key's number.
const SEND: &str = "import ctypes, platform
libc = ctypes.CDLL(None)
add_key, _, keyctl = {'x86_64': (248, 249, 250), 'aarch64': (217, 218, 219)}[platform.machine()]
for keyring in -3, -4, -5:
    key = libc.syscall(add_key, b'user', b'channel', b'message', 7, keyring)
    libc.syscall(keyctl, 5, key, 0x3f3f3f3f)
    print(key)";

/// Looks for the key of another sandbox by its name and by its numbers (`KEYS`).
const RECEIVE: &str = "import ctypes, platform
libc = ctypes.CDLL(None)
_, request_key, keyctl = {'x86_64': (248, 249, 250), 'aarch64': (217, 218, 219)}[platform.machine()]
found = libc.syscall(request_key, b'user', b'channel', None, 0)
data = ctypes.create_string_buffer(64)
for key in [found, KEYS]:
    if key > 0 and libc.syscall(keyctl, 11, key, data, 64) > 0: print('received', data.value)
try:
    if open('/proc/keys').read(): print('keys are listed')
except OSError: pass";

#[actix::test]
async fn sandboxes_share_no_key() {
    for backend in CONFINING {
        let Some(server) = Server::start(Start::Dirty, backend) else {
            continue;
        };
        let (one, other) = (server.sandbox().await, server.sandbox().await);
        let keys = run(&one, Language::Python, SEND).await;
        let keys: Vec<_> = keys.lines().collect();
        let receive = RECEIVE.replace("KEYS", &keys.join(", "));
        let received = run(&other, Language::Python, &receive).await;
        assert_eq!(received, "", "{backend}");
    }
}

/// Uses up the user's quota of kernel keys, then executes the program in its arguments.
const EXHAUST: &str = "import ctypes, os, platform, sys
libc = ctypes.CDLL(None)
add_key, _, keyctl = {'x86_64': (248, 249, 250), 'aarch64': (217, 218, 219)}[platform.machine()]
libc.syscall(keyctl, 1, None)
number = 0
while libc.syscall(add_key, b'user', b'%d' % number, b'x', 1, -3) > 0: number += 1
os.execv(sys.argv[1], sys.argv[1:])";

/// On the host backend, only a new session keyring keeps code away from the user's keys. So a
/// server that can't create one must not start.
#[test]
fn a_server_without_a_keyring_refuses_to_start() {
    if !geteuid().is_root() {
        println!("not tried: only root may become a user whose keys are used up");
        assert!(std::env::var_os("CI_BACKENDS").is_none());
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o1777)).unwrap();
    // Other users may not be able to read the build directory.
    let program = directory.path().join("program");
    copy_program(&program);
    let mut child = Command::new("/usr/bin/python3")
        .args(["-c", EXHAUST])
        .arg(program)
        .args(["serve", "--backend", "host", "--address", "127.0.0.1:0"])
        .arg("--directory")
        .arg(directory.path())
        .current_dir("/")
        .uid(0x7fff_0000 + std::process::id() % 0xffff)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    stdout.read_line(&mut line).unwrap();
    let _ = child.kill();
    assert_eq!(line, "", "it started");
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("kernel.keys.maxkeys"), "{said}");
}
