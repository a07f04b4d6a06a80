//! Attacks by code in a sandbox, by callers without the secret and by other users of the machine,
//! on each backend that works here. After each attack, the server and the other sandboxes still
//! work. `cargo test --test confined attacks -- --nocapture` prints the table in
//! `src/server/mod.rs`.
//!
//! On the host backend, the tests skip attacks that would harm the machine: as root, `kill -9 -1`
//! would kill the test itself.

use std::{
    fs,
    ops::Not,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use crate::support::{archives, program::Program, within};
use actix_sandbox::{
    Language, LocalServer, ProcessEnd, Sandbox,
    server::{Backend, GvisorOptions, NamespaceOptions},
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// The content of a file of the server's user, in a directory that other users may read.
const SECRET: &str = "a secret of the server's user";

struct Attack {
    name: &'static str,
    /// Python that prints `done` if the attack succeeds. Placeholders like `{pid}` are replaced.
    code: &'static str,
    /// What is expected on the host backend.
    host: Host,
}

#[derive(Clone, Copy)]
enum Host {
    NotTried,
    Succeeds,
    Stopped,
}

const ATTACKS: [Attack; 15] = [
    Attack {
        name: "use a descriptor that the server was started with",
        code: "try: print('done', len(open('/proc/self/fd/9/etc/passwd').read()))
except OSError as error: print('stopped:', error)",
        host: Host::Stopped,
    },
    Attack {
        name: "read a key of the session that the server was started in",
        code: "import ctypes, platform
libc = ctypes.CDLL(None)
request_key = {'x86_64': 249, 'aarch64': 218}[platform.machine()]
key = libc.syscall(request_key, b'user', b'of-the-user', None, 0)
print('done' if key > 0 else 'stopped')",
        host: Host::Stopped,
    },
    Attack {
        name: "fork bomb",
        code: "import os, time
while True:
    try: os.fork()
    except OSError: print('stopped', flush=True); time.sleep(1000)",
        host: Host::NotTried,
    },
    Attack {
        name: "100,000 processes",
        code: "import subprocess
children = []
try:
    for _ in range(100_000): children.append(subprocess.Popen(['sleep', '1000']))
    print('done')
except OSError as error: print('stopped:', error)
for child in children: child.kill()",
        host: Host::NotTried,
    },
    Attack {
        name: "10 GiB of memory",
        code: "try: bytearray(10 << 30); print('done')
except MemoryError: print('stopped')",
        host: Host::NotTried,
    },
    Attack {
        name: "a file of 8 GiB",
        code: "import signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
with open('large', 'wb') as file:
    try: file.truncate(8 << 30); print('done')
    except OSError as error: print('stopped:', error)",
        host: Host::Succeeds,
    },
    Attack {
        name: "write to `/etc/passwd`",
        code: "try: open('/etc/passwd', 'a').write(''); print('done')
except OSError as error: print('stopped:', error)",
        host: Host::NotTried,
    },
    Attack {
        name: "read another sandbox's files, by its path or `..`",
        code: "import glob
names = glob.glob('{root}/*/home/mine') + glob.glob('../../*/home/mine') + glob.glob('/home/*/mine')
print('done' if any('of the other' in open(name).read() for name in names) else 'stopped')",
        host: Host::Succeeds,
    },
    Attack {
        name: "read the server's state, and a file of its user",
        code: "import os
def readable(path):
    try: return bool(os.listdir(path) if os.path.isdir(path) else open(path).read())
    except OSError: return False
print('done' if readable('{state}') or readable('{secret}') else 'stopped')",
        host: Host::Succeeds,
    },
    Attack {
        name: "read the environment of the server",
        code: "import glob
def read(path):
    try: return open(path, 'rb').read()
    except OSError: return b''
found = any(b'{marker}' in read(path) for path in glob.glob('/proc/[0-9]*/environ'))
print('done' if found else 'stopped')",
        host: Host::Succeeds,
    },
    Attack {
        name: "`kill -9 -1`",
        code: "import os
try: os.kill(-1, 9)
except OSError: pass
print('stopped')",
        host: Host::NotTried,
    },
    Attack {
        name: "ptrace of the server",
        code: "import ctypes
libc = ctypes.CDLL(None, use_errno=True)
seized = libc.ptrace(0x4206, {pid}, 0, 0)
if seized == 0: libc.ptrace(17, {pid}, 0, 0)
print('done' if seized == 0 else 'stopped')",
        host: Host::NotTried,
    },
    Attack {
        name: "raw sockets",
        code: "import socket
try: socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP); print('done')
except OSError as error: print('stopped:', error)",
        host: Host::NotTried,
    },
    Attack {
        name: "a connection to a service of this machine",
        code: "import socket
try: socket.create_connection(('127.0.0.1', {port}), 5); print('done')
except OSError as error: print('stopped:', error)",
        host: Host::Succeeds,
    },
    Attack {
        name: "mounting, also in namespaces of its own",
        code: "import subprocess
def works(*command): return subprocess.run(command, capture_output=True).returncode == 0
mounts = works('mount', '-t', 'tmpfs', 'x', '/tmp')
nested = works('unshare', '-Urm', 'mount', '-t', 'tmpfs', 'x', '/tmp')
print('done' if mounts or nested else 'stopped')",
        host: Host::NotTried,
    },
];

/// Runs until it is killed.
const FLOOD: Attack = Attack {
    name: "stall a kill in another sandbox by copying its markers",
    code: "import os, signal, time
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
ready = False
while True:
    try:
        if os.fork() == 0: os.execve('/bin/sleep', ['sleep', '1000'], {'ACTIX_SANDBOX_EXEC': '{mark}'})
    except OSError:
        if not ready: print('ready', flush=True)
        ready = True
        time.sleep(0.001)",
    host: Host::NotTried,
};

/// The disk limit of sandboxes on the small disk, on backends that have one. It also allows 512
/// files.
const DISK_LIMIT: u64 = 2 << 20;

/// Attacks that run on a separate small disk, until they are killed. They begin slowly, because a
/// disk limit is checked about every second. No limit stops code that fills the disk before.
const FILLS: [Attack; 2] = [
    Attack {
        name: "fill the disk, in more than ten seconds",
        code: "import errno, os, time
try:
    with open('large', 'wb', 0) as file:
        for _ in range(100): file.write(os.urandom(1 << 18)); time.sleep(0.1)
        while file.write(os.urandom(1 << 20)): pass
except OSError as error: print('done' if error.errno == errno.ENOSPC else 'stopped', flush=True)
time.sleep(1000)",
        host: Host::Succeeds,
    },
    Attack {
        name: "a million files, or as many as the disk holds, in more than ten seconds",
        code: "import errno, time
try:
    for number in range(1_000_000):
        open(str(number), 'x').close()
        if number < 1000: time.sleep(0.01)
except OSError as error: print('done' if error.errno == errno.ENOSPC else 'stopped', flush=True)
time.sleep(1000)",
        host: Host::Succeeds,
    },
];

/// Attacks by stored archives, in the order of [`stored`].
const STORED: [&str; 3] = [
    "an archive in the state with files that the server trusts",
    "an archive that unpacks to more than `max_archive_size`",
    "delay other snapshots with four endless ones",
];

/// The attack of callers that know the port of the server but not its secret: they search
/// everything that they can read for the secret.
const CALL_SERVER: &str = include_str!("../support/call_server.py");

/// Who attacks without the secret.
#[derive(Clone, Copy)]
enum Caller {
    /// Code in a sandbox with access to this machine's network. On the host backend it isn't tried:
    /// code there can read the memory of the server.
    Code,
    /// Another user of this machine.
    LocalUser,
    /// A caller that opens connections and sends nothing.
    Idle,
}

const CALLERS: [(Caller, &str); 3] = [
    (
        Caller::Code,
        "with a network: call the server that runs the sandbox",
    ),
    (
        Caller::LocalUser,
        "another user of this machine: use the server",
    ),
    (
        Caller::Idle,
        "open twice as many idle connections as the server may open files",
    ),
];

/// Attacks of callers and other users on the operator, in the order of [`taken`].
const TAKEN: [&str; 4] = [
    "another user of this machine: replace the state of the server",
    "slow bodies of `/execute` without end",
    "take every place for sandboxes, with `max_sandboxes_per_client`",
    "forge lines of the server's log",
];

/// Which attacks of [`TAKEN`] succeed.
async fn taken(backend: Backend, name: &str, folder: &Path) -> [bool; 4] {
    let state = folder.join(format!("{name}-open"));
    fs::create_dir(&state).unwrap();
    fs::set_permissions(&state, std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    let builder = LocalServer::builder().backend(backend);
    let replaced = builder
        .clone()
        .state_directory(&state)
        .start()
        .await
        .is_ok();

    let server = builder
        .request_timeout(Duration::from_secs(1))
        .max_sandboxes_per_client(1)
        .start()
        .await
        .unwrap();
    let (_, secret) = server.url().rsplit_once('/').unwrap();
    let head = format!(
        "POST /{secret}/execute HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\nprint("
    );
    let mut slow = tokio::net::TcpStream::connect(server.address())
        .await
        .unwrap();
    slow.write_all(head.as_bytes()).await.unwrap();
    let mut answer = String::new();
    let read = within(
        "the answer to a slow body",
        slow.read_to_string(&mut answer),
    )
    .await;
    let slow = read.is_err() || !answer.starts_with("HTTP/1.1 408 ");

    let _first = within("a sandbox", Sandbox::create(server.url()))
        .await
        .unwrap();
    let second = within("a refusal", Sandbox::create(server.url())).await;
    server.stop().await;

    let program = Program::start_with(&["--backend", name], &[("RUST_LOG", "trace")]);
    program.exec_with_id("x\nERROR forged").await;
    let log = program.log_at_the_end().await;
    assert!(log.contains("forged"), "{log}");
    let forged = log.lines().any(|line| line.starts_with("ERROR forged"));
    [replaced, slow, second.is_ok(), forged]
}

/// Whether idle connections make an exec or a health check fail.
async fn starve(backend: &str) -> bool {
    // `runsc` needs more than 256 file descriptors.
    let files = if backend == "gvisor" { 512 } else { 256 };
    let program = Program::start_with_open_files(files, &["--backend", backend]);
    let sandbox = within("a sandbox", Sandbox::create(&program.url)).await;
    let sandbox = sandbox.unwrap();
    let mut idle = Vec::new();
    for _ in 0..2 * files {
        let socket = tokio::net::TcpStream::connect(program.address());
        idle.push(within("a connection", socket).await.unwrap());
    }
    let exec = sandbox.run(Language::Bash, "echo still");
    let exec = within("the exec", exec).await;
    let health = tokio::net::TcpStream::connect(program.address());
    let mut health = within("a connection", health).await.unwrap();
    let request = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    health.write_all(request).await.unwrap();
    let mut answer = String::new();
    let read = within("the health check", health.read_to_string(&mut answer)).await;
    read.is_err()
        || !answer.starts_with("HTTP/1.1 200 OK")
        || exec.is_ok_and(|output| output.stdout == "still\n").not()
}

/// Whether the attack of this caller succeeds. The sandboxes of the server have a network.
async fn call(server: &LocalServer, caller: Caller, state: &Path) -> bool {
    let port = server.address().port().to_string();
    let said = match caller {
        Caller::Idle => unreachable!("it starts a server of its own"),
        Caller::Code => {
            let sandbox = Sandbox::create(server.url()).await.unwrap();
            let command = sandbox.command(Language::Python, CALL_SERVER);
            let command = command.args([&port]).timeout(Duration::from_secs(100));
            let output = within("the code", command.output()).await.unwrap();
            within("the kill", sandbox.kill()).await.unwrap();
            format!("{}{}", output.stdout_lossy(), output.stderr_lossy())
        }
        Caller::LocalUser => {
            let mut command = tokio::process::Command::new("setpriv");
            command
                .args(["--reuid", "65534", "--regid", "65534", "--clear-groups"])
                .args(["python3", "-c", CALL_SERVER, &port])
                .args([state, &std::env::temp_dir()])
                // Programs on the PATH of these tests may be executable only for their user.
                .env("PATH", "/usr/local/bin:/usr/bin:/bin")
                .current_dir("/");
            let output = within("the other user", command.output()).await.unwrap();
            let said = String::from_utf8_lossy(&output.stderr);
            format!("{}{said}", String::from_utf8_lossy(&output.stdout))
        }
    };
    assert!(said.starts_with("reached\n"), "{said}");
    let succeeded = said.contains("done");
    assert!(succeeded || said.contains("stopped"), "{said}");
    succeeded
}

/// Two servers whose sandboxes have a network: one with a secret and a state directory, and one
/// without a secret.
async fn servers_with_a_network(name: &str, state: &Path) -> Option<[LocalServer; 2]> {
    let backend = match name {
        "namespace" => Backend::Namespace(NamespaceOptions::default().network(true)),
        "gvisor" => Backend::Gvisor(GvisorOptions::default().network(true)),
        _ => Backend::Host,
    };
    let builder = LocalServer::builder().backend(backend);
    let closed = builder.clone().state_directory(state);
    let closed = crate::support::backend::start_if_possible(closed).await?;
    let open = crate::support::backend::start_if_possible(builder.no_secret()).await?;
    Some([closed, open])
}

/// The variable with the path of the small disk, in the process that has one.
const SMALL_DISK: &str = "ACTIX_SANDBOX_TEST_SMALL_DISK";

/// Executes the program in its arguments, in a session keyring that holds a key.
const WITH_KEY: &str = "import ctypes, os, platform, sys
libc = ctypes.CDLL(None)
add_key, keyctl = {'x86_64': (248, 250), 'aarch64': (217, 219)}[platform.machine()]
libc.syscall(keyctl, 1, None)
libc.syscall(add_key, b'user', b'of-the-user', b'secret', 6, -3)
os.execv(sys.argv[1], sys.argv[1:])";

/// The small disk of this process. Without one, starts this test again in a mount namespace with a
/// small disk, if it may, and returns `None`.
fn small_disk(test: &str) -> Option<PathBuf> {
    if let Some(disk) = std::env::var_os(SMALL_DISK) {
        return Some(disk.into());
    }
    let disk = tempfile::tempdir().unwrap();
    let output = Command::new("unshare")
        .args(["--mount", "--", "bash", "-c"])
        .arg("mount -t tmpfs -o size=128m,nr_inodes=2k small \"$0\" && exec 9</ && exec \"$@\"")
        .arg(disk.path())
        .args(["python3", "-c", WITH_KEY])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env(SMALL_DISK, disk.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    let stdout = String::from_utf8_lossy(&output.stdout);
    println!("{stdout}{said}");
    let not_permitted = said.starts_with("unshare: ");
    let passed = output.status.success() && stdout.contains("1 passed");
    assert!(passed || not_permitted, "{said}");
    assert!(!not_permitted || std::env::var_os("CI_BACKENDS").is_none());
    None
}

/// A server with this backend. `None` if the backend doesn't work on this machine.
async fn server(backend: Backend, state: &Path) -> Option<LocalServer> {
    let builder = LocalServer::builder()
        .backend(backend)
        .state_directory(state);
    crate::support::backend::start_if_possible(builder).await
}

/// Like [`server`], with sandboxes and state on this disk.
async fn server_on(disk: &Path, backend: Backend) -> Option<LocalServer> {
    let builder = LocalServer::builder()
        .backend(backend)
        .directory(disk.join("sandboxes"))
        .state_directory(disk.join("state"));
    crate::support::backend::start_if_possible(builder).await
}

fn with_disk_limit(backend: Backend) -> Backend {
    match backend {
        Backend::Namespace(options) => Backend::Namespace(options.disk(DISK_LIMIT)),
        other => other,
    }
}

async fn python(sandbox: &Sandbox, code: &str) -> String {
    let command = sandbox.command(Language::Python, code);
    let output = within(
        "the attack",
        command.timeout(Duration::from_secs(20)).output(),
    )
    .await;
    let output = output.unwrap();
    format!("{}{}", output.stdout_lossy(), output.stderr_lossy())
}

/// Whether an attack succeeds. Checks that another sandbox still works.
async fn attack(server: &LocalServer, attack: &Attack, names: &[(&str, String)]) -> bool {
    let other = Sandbox::create(server.url()).await.unwrap();
    let lasting = other.exec(Language::Bash, "read line; echo still here, $line");
    let lasting = lasting.await.unwrap();
    let prepared = other.run(Language::Bash, "echo of the other > mine").await;
    assert_eq!(prepared.unwrap().end, ProcessEnd::Exited(0));

    let attacker = Sandbox::create(server.url()).await.unwrap();
    let code = names
        .iter()
        .fold(attack.code.to_owned(), |code, (name, value)| {
            code.replace(&format!("{{{name}}}"), value)
        });
    let said = if attack.name == "fork bomb" {
        let process = attacker.exec(Language::Python, code).await.unwrap();
        let mut lines = process.stdout().lines();
        let line = within("the bomb", futures::StreamExt::next(&mut lines)).await;
        within("the bomb's kill", process.kill()).await.unwrap();
        line.unwrap().unwrap()
    } else {
        python(&attacker, &code).await
    };
    let succeeded = said.contains("done");
    assert!(
        succeeded || said.contains("stopped") || said.is_empty(),
        "{}: {said}",
        attack.name
    );

    lasting.write_to_stdin("well\n").await.unwrap();
    let line = lasting.stdout().read_all();
    let line = within("the other sandbox", line).await.unwrap();
    assert_eq!(line, "still here, well\n", "after {}", attack.name);
    let after = attacker.run(Language::Bash, "echo and I").await;
    assert_eq!(after.unwrap().stdout, "and I\n", "after {}", attack.name);
    for sandbox in [other, attacker] {
        within("the kill", sandbox.kill()).await.unwrap();
    }
    succeeded
}

/// Whether the attack succeeds: it starts processes with the marker of a process in another
/// sandbox, while that process is killed.
async fn flood(server: &LocalServer, attack: &Attack) -> bool {
    let victim = Sandbox::create(server.url()).await.unwrap();
    let code = "echo $ACTIX_SANDBOX_EXEC; exec sleep 1000";
    let process = victim.exec(Language::Bash, code).await.unwrap();
    let mut lines = process.stdout().lines();
    let mark = within("the mark", futures::StreamExt::next(&mut lines)).await;
    let code = attack.code.replace("{mark}", &mark.unwrap().unwrap());

    let attacker = Sandbox::create(server.url()).await.unwrap();
    let attacking = attacker.exec(Language::Python, code).await.unwrap();
    let mut lines = attacking.stdout().lines();
    within("the flood", futures::StreamExt::next(&mut lines)).await;
    let killed = within("an answer to the kill", process.kill()).await;
    for sandbox in [attacker, victim] {
        within("the kill", sandbox.kill()).await.unwrap();
    }
    killed.is_err()
}

/// Whether an attack fills the disk. If not, the process must have ended with the reason. Checks
/// that running code continues, that operations without space fail with the reason, and that
/// killing the sandbox frees the disk.
async fn fill(server: &LocalServer, disk: &Path, attack: &Attack) -> bool {
    let other = Sandbox::create(server.url()).await.unwrap();
    let lasting = other.exec(Language::Bash, "read line; echo still here, $line");
    let lasting = lasting.await.unwrap();
    let attacker = Sandbox::create(server.url()).await.unwrap();
    let process = attacker.exec(Language::Python, attack.code).await.unwrap();
    let mut lines = process.stdout().lines();
    let line = within(attack.name, futures::StreamExt::next(&mut lines)).await;
    let succeeded = line.is_some_and(|line| line.unwrap() == "done");
    if succeeded {
        within("the kill of the process", process.kill())
            .await
            .unwrap();
    } else {
        let end = within("the end of the process", process.wait()).await;
        let said = end.unwrap().to_string();
        assert!(said.contains("disk limit"), "{}: {said}", attack.name);
    }

    lasting.write_to_stdin("well\n").await.unwrap();
    let line = lasting.stdout().read_all();
    let line = within("the other sandbox", line).await.unwrap();
    assert_eq!(line, "still here, well\n", "after {}", attack.name);
    let stored = within("the snapshot", attacker.snapshot_filesystem("large")).await;
    let started = within("the code", other.run(Language::Bash, "echo and I")).await;
    let stored = stored.map(drop);
    for error in [stored.clone().err(), started.err()].into_iter().flatten() {
        let said = error.to_string();
        assert!(said.contains("No space left"), "{}: {said}", attack.name);
    }
    // Random bytes don't compress, so there is no space for their snapshot.
    assert!(attack.name != FILLS[0].name || stored.is_err() == succeeded);
    let names = || -> Vec<_> {
        let entries = fs::read_dir(disk.join("state/snapshots")).unwrap();
        entries
            .map(|it| it.unwrap().file_name().into_string().unwrap())
            .collect()
    };
    let whole = stored.map_or(vec![], |()| vec!["large.tar.lz4"]);
    assert_eq!(names(), whole, "after {}", attack.name);
    within("the kill", attacker.kill()).await.unwrap();
    let after = other.run(Language::Bash, "echo and I").await.unwrap();
    assert_eq!(after.stdout, "and I\n", "after {}", attack.name);
    other.snapshot_filesystem("small").await.unwrap();
    for name in names() {
        fs::remove_file(disk.join("state/snapshots").join(name)).unwrap();
    }
    within("the kill", other.kill()).await.unwrap();
    succeeded
}

/// Which attacks of [`STORED`] succeed.
async fn stored(backend: Backend, state: &Path) -> [bool; 3] {
    let builder = LocalServer::builder()
        .backend(backend)
        .state_directory(state);
    // Both servers use the same state directory.
    let limited = builder.clone().max_archive_size(256 << 20).start().await;
    let (server, limited) = (builder.max_archive_size(1 << 50), limited.unwrap());
    let server = server.start().await.unwrap();
    let made = state.join("made-on-the-host");
    let bundle = archives::bundle_that_makes(&made);
    let snapshot = |name: &str| state.join(format!("snapshots/{name}.tar.lz4"));
    let entries = [
        ("home", "DIRTYPE", ""),
        ("bundle", "DIRTYPE", ""),
        ("bundle/config.json", "REGTYPE", &*bundle),
    ];
    archives::by_hand(&snapshot("trusted"), &entries);
    archives::bomb(&snapshot("bomb"));
    let create_from = async |name| {
        let from = Sandbox::create(limited.url()).filesystem_snapshot_name(name);
        let created = within("an answer", from).await;
        if let Ok(sandbox) = &created {
            let _ = within("the code", sandbox.run(Language::Bash, "true")).await;
        }
        created.is_ok()
    };
    let trusted = create_from("trusted").await || made.exists();
    let bomb = create_from("bomb").await;

    let mut endless = Vec::new();
    for number in 0..4 {
        let sandbox = Sandbox::create(server.url()).await.unwrap();
        let code = sandbox.run(Language::Python, archives::ENDLESS).await;
        assert_eq!(code.unwrap().end, ProcessEnd::Exited(0));
        let its = sandbox.clone();
        let name = format!("endless-{number}");
        let snapshot = actix::spawn(async move { its.snapshot_filesystem(name).await });
        endless.push((snapshot, sandbox));
    }
    let small = Sandbox::create(server.url()).await.unwrap();
    within("the snapshot", small.snapshot_filesystem("small"))
        .await
        .unwrap();
    let delayed = endless.iter().any(|(snapshot, _)| snapshot.is_finished());
    for (_, sandbox) in endless {
        within("the kill", sandbox.kill()).await.unwrap();
    }
    server.stop().await;
    limited.stop().await;
    [trusted, bomb, delayed]
}

#[actix::test]
async fn what_each_backend_stops_is_as_documented() {
    let Some(disk) = small_disk("attacks::what_each_backend_stops_is_as_documented") else {
        return;
    };
    let marker = std::env::var("CARGO_PKG_NAME").unwrap();
    let folder = tempfile::tempdir().unwrap();
    let secret = folder.path().join("secret");
    fs::write(&secret, SECRET).unwrap();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mut table = String::from("| | host | namespace | gvisor |\n| --- | --- | --- | --- |\n");
    let attacks = || ATTACKS.iter().chain([&FLOOD]).chain(&FILLS);
    let names = attacks().map(|it| it.name);
    let names = names.chain(STORED).chain(TAKEN);
    let names = names.chain(CALLERS.map(|(_, name)| name));
    let mut rows: Vec<_> = names.map(|name| format!("| {name} ")).collect();
    for (name, backend) in [
        ("host", Backend::Host),
        (
            "namespace",
            Backend::Namespace(NamespaceOptions::default().processes(64)),
        ),
        (
            "gvisor",
            Backend::Gvisor(GvisorOptions::default().processes(64)),
        ),
    ] {
        let state = folder.path().join(name);
        let (Some(server), Some(on_disk)) = (
            server(backend.clone(), &state).await,
            server_on(&disk, with_disk_limit(backend.clone())).await,
        ) else {
            return;
        };
        let names = [
            ("root", server_directory()),
            ("state", state.display().to_string()),
            ("secret", secret.display().to_string()),
            ("marker", format!("CARGO_PKG_NAME={marker}")),
            ("pid", std::process::id().to_string()),
            ("port", listener.local_addr().unwrap().port().to_string()),
        ];
        for (it, row) in attacks().zip(&mut rows) {
            let fills = FILLS.iter().any(|fill| fill.name == it.name);
            let word = match (name, it.host) {
                ("host", Host::NotTried) => "not stopped; not tried",
                _ => {
                    let succeeded = match fills {
                        true => fill(&on_disk, &disk, it).await,
                        false if it.name == FLOOD.name => flood(&server, it).await,
                        false => attack(&server, it, &names).await,
                    };
                    match succeeded {
                        true => "not stopped",
                        false => "stopped",
                    }
                }
            };
            let expected = match (name, it.host, fills) {
                (_, Host::Stopped, _) => "stopped",
                ("host", ..) | ("gvisor", _, true) => "not stopped",
                _ => "stopped",
            };
            assert!(word.starts_with(expected), "{name}: {} was {word}", it.name);
            row.push_str(&format!("| {word} "));
        }
        let stored = stored(
            backend.clone(),
            &folder.path().join(format!("{name}-stored")),
        )
        .await;
        let taken = taken(backend, name, folder.path()).await;
        let others = stored.into_iter().chain(taken);
        for (succeeded, row) in others.zip(&mut rows[attacks().count()..]) {
            assert!(!succeeded, "{name}: {row}");
            row.push_str("| stopped ");
        }
        server.stop().await;
        on_disk.stop().await;
        let Some([closed, open]) = servers_with_a_network(name, &state).await else {
            return;
        };
        let of_callers = rows
            .iter_mut()
            .skip(attacks().count() + STORED.len() + TAKEN.len());
        for ((caller, attack), row) in CALLERS.iter().zip(of_callers) {
            let word = match (name, caller) {
                ("host", Caller::Code) => "not stopped; not tried",
                (_, Caller::Idle) => {
                    assert!(!starve(name).await, "{name}: {attack}");
                    "stopped"
                }
                _ => {
                    assert!(call(&open, *caller, &state).await, "{name}: {attack}");
                    assert!(!call(&closed, *caller, &state).await, "{name}: {attack}");
                    "stopped"
                }
            };
            row.push_str(&format!("| {word} "));
        }
        closed.stop().await;
        open.stop().await;
    }
    for row in rows {
        table.push_str(&row);
        table.push_str("|\n");
    }
    println!("{table}");
    let documented = include_str!("../../src/server/mod.rs").replace("//! ", "");
    assert!(
        documented.contains(&*table),
        "the results differ from the table in src/server/mod.rs"
    );
}

/// A glob for the directories of servers.
fn server_directory() -> String {
    let place = std::env::temp_dir().canonicalize().unwrap();
    format!("{}/actix-sandbox-*", place.display())
}

/// While snapshots are taken, code keeps swapping a directory for a symlink to a directory that it
/// can't read.
#[actix::test]
async fn a_symlink_swapped_for_a_directory_is_not_followed() {
    let folder = tempfile::tempdir().unwrap();
    let outside = folder.path().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("file"), SECRET).unwrap();
    // Many entries, so that swaps happen while the directory is being read.
    for number in 0..200 {
        std::os::unix::fs::symlink(SECRET, outside.join(format!("link-{number}"))).unwrap();
    }
    let state = folder.path().join("state");
    let backend = Backend::Namespace(NamespaceOptions::default());
    let Some(server) = server(backend, &state).await else {
        return;
    };
    let sandbox = Sandbox::create(server.url()).await.unwrap();
    let code = format!(
        "import os
os.mkdir('a'); open('a/file', 'w').write('harmless'); os.symlink('{}', 'b')
for number in range(200): os.symlink('harmless', f'a/link-{{number}}')
print('ready', flush=True)
while True:
    os.rename('a', 'c'); os.rename('b', 'a')
    os.rename('a', 'b'); os.rename('c', 'a')",
        outside.display()
    );
    let racer = sandbox.exec(Language::Python, code).await.unwrap();
    let mut lines = racer.stdout().lines();
    within("ready", futures::StreamExt::next(&mut lines)).await;
    for number in 0..40 {
        within(
            "a snapshot",
            sandbox.snapshot_filesystem(format!("race-{number}")),
        )
        .await
        .unwrap();
    }
    within("the kill", racer.kill()).await.unwrap();
    let mut archives = 0;
    let mut todo = vec![state];
    while let Some(place) = todo.pop() {
        for entry in fs::read_dir(place).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => todo.push(path),
                false => {
                    let Ok(stored) = archives::decompress(&path) else {
                        continue;
                    };
                    archives += 1;
                    let found = stored
                        .windows(SECRET.len())
                        .any(|it| it == SECRET.as_bytes());
                    assert!(!found, "{}", path.display());
                }
            }
        }
    }
    assert!(archives >= 40);
    server.stop().await;
}
