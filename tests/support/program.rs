//! [`Program`]: a running `actix-sandbox serve`.

use std::{
    ffi::OsStr,
    io::{BufRead, BufReader, Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    process::{Child, Command, ExitStatus, Output, Stdio},
    thread,
};

#[cfg(target_os = "linux")]
use std::path::Path;

use tempfile::TempDir;

use super::{send_signal, within};

/// Restores the default actions of signals that this process ignores. Otherwise the commands that
/// the tests start would ignore them, too: a shell without job control ignores SIGINT in background
/// jobs, and `nohup` ignores SIGHUP.
#[allow(unsafe_code, reason = "nix has no safe function for this")]
pub(crate) fn heed_signals() {
    use nix::sys::signal::{SigHandler, Signal, signal};
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        for number in [Signal::SIGINT, Signal::SIGQUIT, Signal::SIGHUP] {
            // SAFETY: the default action runs no code of this process.
            unsafe { signal(number, SigHandler::SigDfl) }.unwrap();
        }
    });
}

/// A running `actix-sandbox serve`, on a free port and with a temporary directory.
pub(crate) struct Program {
    child: Option<Child>,
    pub(crate) url: String,
    pub(crate) directory: TempDir,
}

const PROGRAM: &str = env!("CARGO_BIN_EXE_actix-sandbox");

fn command(arguments: &[&str]) -> Command {
    told(Command::new(PROGRAM), arguments)
}

fn told(mut command: Command, arguments: &[&str]) -> Command {
    heed_signals();
    command.arg("serve").args(arguments).stdin(Stdio::null());
    // The default of the tests is `host`; the default of the command is another one.
    if std::env::var_os("ACTIX_SANDBOX_BACKEND").is_none() && !arguments.contains(&"--backend") {
        command.args(["--backend", "host"]);
    }
    if !arguments.contains(&"--address") {
        command.args(["--address", "127.0.0.1:0"]);
    }
    if !arguments.contains(&"--grace") {
        command.args(["--grace", "100s"]);
    }
    command
}

/// `actix-sandbox`, without arguments, started by a program that ignores this signal.
pub(crate) fn ignoring(signal: &str) -> Command {
    // Not by a shell, which may handle SIGCHLD itself.
    let script = format!(
        "import os, signal, sys\n\
         signal.signal(signal.{signal}, signal.SIG_IGN)\n\
         os.execv(sys.argv[1], sys.argv[1:])"
    );
    let mut command = Command::new("python3");
    command.args(["-c", &script, PROGRAM]);
    command
}

impl Program {
    /// The host and port of the URL.
    pub(crate) fn address(&self) -> &str {
        self.parts().0
    }

    /// The secret with the slash before it. Empty if the server has none.
    pub(crate) fn secret(&self) -> &str {
        self.parts().1
    }

    fn parts(&self) -> (&str, &str) {
        let rest = self.url.trim_start_matches("http://");
        rest.split_at(rest.find('/').unwrap_or(rest.len()))
    }

    pub(crate) fn start(arguments: &[&str]) -> Self {
        Self::start_with(arguments, &[])
    }

    pub(crate) fn start_with(arguments: &[&str], variables: &[(&str, &str)]) -> Self {
        let mut command = command(arguments);
        command.envs(variables.iter().copied());
        Self::begin(command, tempfile::tempdir().unwrap())
    }

    /// Starts it with a directory that another server used before.
    #[cfg(target_os = "linux")]
    pub(crate) fn start_in(directory: TempDir, arguments: &[&str]) -> Self {
        Self::begin(command(arguments), directory)
    }

    /// Starts it with this limit on open files.
    pub(crate) fn start_with_open_files(limit: u32, arguments: &[&str]) -> Self {
        Self::start_after(&format!("ulimit -n {limit}"), arguments)
    }

    /// Starts it from a shell, after this setup.
    pub(crate) fn start_after(setup: &str, arguments: &[&str]) -> Self {
        let script = format!("{setup}; exec \"$@\"");
        let mut command = Command::new("bash");
        command.args(["-c", &script, "bash", PROGRAM]);
        Self::begin(told(command, arguments), tempfile::tempdir().unwrap())
    }

    /// Starts it from a program that ignores this signal.
    pub(crate) fn start_ignoring(signal: &str, arguments: &[&str]) -> Self {
        let command = ignoring(signal);
        Self::begin(told(command, arguments), tempfile::tempdir().unwrap())
    }

    /// Starts it in a mount namespace of its own, after this shell script made mounts there. Needs
    /// root.
    #[cfg(target_os = "linux")]
    pub(crate) fn start_where(mounts: &str, arguments: &[&str]) -> Self {
        let script = format!("set -e; {mounts}; exec \"$@\"");
        let mut command = Command::new("unshare");
        command.args(["--mount", "--", "bash", "-c", &script, "bash", PROGRAM]);
        Self::begin(told(command, arguments), tempfile::tempdir().unwrap())
    }

    /// Starts it as another user with the umask 002. The user must be able to enter the directory.
    /// Needs root.
    #[cfg(target_os = "linux")]
    pub(crate) fn start_as(user: &User, directory: TempDir, arguments: &[&str]) -> Self {
        let command = told(user.command(directory.path()), arguments);
        Self::begin(command, directory)
    }

    /// Starts it as PID 1 of a PID namespace. Needs root.
    #[cfg(target_os = "linux")]
    pub(crate) fn start_as_pid_1(arguments: &[&str]) -> Self {
        let mut command = Command::new("unshare");
        command.args([
            "--pid",
            "--fork",
            "--kill-child",
            "--mount-proc",
            "--",
            PROGRAM,
        ]);
        Self::begin(told(command, arguments), tempfile::tempdir().unwrap())
    }

    fn begin(mut command: Command, directory: TempDir) -> Self {
        command
            .arg("--directory")
            .arg(directory.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        // The log is read at the end. A full pipe would block the server.
        #[cfg(target_os = "linux")]
        let _ = rustix::pipe::fcntl_setpipe_size(child.stderr.as_ref().unwrap(), 1 << 20);
        let mut line = String::new();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        stdout.read_line(&mut line).unwrap();
        let Some(url) = line.strip_prefix("listening on ") else {
            let _ = child.wait();
            let mut said = String::new();
            let _ = child.stderr.take().unwrap().read_to_string(&mut said);
            panic!("it did not start: {said}");
        };
        Self {
            url: url.trim().to_owned(),
            child: Some(child),
            directory,
        }
    }

    /// How many file descriptors it has open.
    #[cfg(target_os = "linux")]
    pub(crate) fn descriptors(&self) -> usize {
        let pid = self.child.as_ref().unwrap().id();
        std::fs::read_dir(format!("/proc/{pid}/fd"))
            .unwrap()
            .count()
    }

    pub(crate) fn signal(&self, signal: &str) {
        send_signal(self.child.as_ref().unwrap().id(), signal);
    }

    /// The URL of a listener that forwards connections to the server, without the header with which
    /// clients offer v2.
    pub(crate) fn url_of_v1(&self) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}{}", listener.local_addr().unwrap(), self.secret());
        let server = self.address().to_owned();
        thread::spawn(move || {
            for client in listener.incoming() {
                let (mut client, mut server) =
                    (client.unwrap(), TcpStream::connect(&server).unwrap());
                let (mut from, mut to) = (client.try_clone().unwrap(), server.try_clone().unwrap());
                thread::spawn(move || {
                    let mut head = Vec::new();
                    while !head.ends_with(b"\r\n\r\n") {
                        let mut byte = [0];
                        if from.read_exact(&mut byte).is_err() {
                            return;
                        }
                        head.push(byte[0]);
                    }
                    let head = String::from_utf8(head).unwrap();
                    let offers =
                        |line: &&str| line.to_lowercase().starts_with("sec-websocket-protocol:");
                    let kept = head.split_inclusive("\r\n").filter(|line| !offers(line));
                    let _ = to.write_all(kept.collect::<String>().as_bytes());
                    let _ = std::io::copy(&mut from, &mut to);
                    let _ = to.shutdown(Shutdown::Both);
                });
                thread::spawn(move || {
                    let _ = std::io::copy(&mut server, &mut client);
                    let _ = client.shutdown(Shutdown::Both);
                });
            }
        });
        url
    }

    /// Closes the reading end of the pipe that is its stderr.
    pub(crate) fn without_its_log(mut self) -> Self {
        drop(self.child.as_mut().unwrap().stderr.take());
        self
    }

    /// Sends a signal and waits until the program exits.
    pub(crate) async fn ended_by(&mut self, signal: &str) -> ExitStatus {
        self.signal(signal);
        let mut child = self.child.take().unwrap();
        let ended = tokio::task::spawn_blocking(move || child.wait());
        within("the end of the program", ended)
            .await
            .unwrap()
            .unwrap()
    }

    /// Whether the program has exited.
    pub(crate) fn is_over(&mut self) -> bool {
        self.child.as_mut().unwrap().try_wait().unwrap().is_some()
    }

    /// Waits until the program exits. Returns its exit status and its log.
    pub(crate) async fn end(&mut self) -> (ExitStatus, String) {
        let output = ended(self.child.take().unwrap()).await;
        (output.status, String::from_utf8(output.stderr).unwrap())
    }

    /// Sends a raw v2 request for an exec with this id, which must contain `forged`. Waits for an
    /// answer that repeats it.
    pub(crate) async fn exec_with_id(&self, id: &str) {
        use futures::{SinkExt, StreamExt};
        use tokio_tungstenite::tungstenite::{Message, client::IntoClientRequest};

        let url = self.url.replacen("http", "ws", 1) + "/create";
        let mut request = url.into_client_request().unwrap();
        let version = "sandbox.v2".parse().unwrap();
        request
            .headers_mut()
            .insert("sec-websocket-protocol", version);
        let socket = tokio::net::TcpStream::connect(self.address())
            .await
            .unwrap();
        let (mut socket, _) = tokio_tungstenite::client_async(request, socket)
            .await
            .unwrap();
        let exec = serde_json::json!({
            "exec": id, "language": "bash", "code": "true", "cwd": format!("/{id}"),
        });
        for message in ["{\"idle_timeout\": 60}".to_owned(), exec.to_string()] {
            socket.send(Message::text(message)).await.unwrap();
        }
        let answered = async {
            while let Some(Ok(message)) = socket.next().await {
                let text = message.into_text().unwrap_or_default();
                if text.contains("forged") {
                    return;
                }
            }
            panic!("the server said nothing of the exec");
        };
        within("an answer about the exec", answered).await;
    }

    /// Stops the program and returns its log.
    pub(crate) async fn log_at_the_end(mut self) -> String {
        self.signal("TERM");
        self.end().await.1
    }

    /// Sends SIGKILL and returns its directory, which is not removed.
    #[cfg(target_os = "linux")]
    pub(crate) fn killed(mut self) -> TempDir {
        let mut child = self.child.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        std::mem::replace(&mut self.directory, tempfile::tempdir().unwrap())
    }

    /// Sends SIGKILL to its watchdog, then to the program.
    #[cfg(target_os = "linux")]
    pub(crate) fn killed_with_its_watchdog(self) -> TempDir {
        let place = self.directory.path().to_str().unwrap();
        let watchdog = super::processes_with("actix-sandbox-watchdog");
        let watchdog = watchdog.iter().find(|it| it.contains(place)).unwrap();
        let (watchdog, _) = watchdog.split_once(':').unwrap();
        let sent = Command::new("kill").args(["-s", "KILL", watchdog]).status();
        assert!(sent.unwrap().success());
        self.killed()
    }
}

/// Copies the program. Another process writes the copy: a process that another test forks at the
/// same time could inherit a descriptor of this one, and the kernel executes no file that is open
/// for writing.
#[cfg(target_os = "linux")]
pub(crate) fn copy_program(to: &Path) {
    let copied = Command::new("cp").arg(PROGRAM).arg(to).status().unwrap();
    assert!(copied.success());
}

/// The numeric ids of a user of the machine and its group.
#[cfg(target_os = "linux")]
pub(crate) struct User {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

#[cfg(target_os = "linux")]
impl User {
    /// A command that runs a copy of the program: the user may not have access to the original.
    fn command(&self, directory: &Path) -> Command {
        let copy = directory.join("program");
        copy_program(&copy);
        let mut command = Command::new("setpriv");
        command
            .args(["--reuid", &self.uid.to_string()])
            .args(["--regid", &self.gid.to_string()])
            .args(["--clear-groups", "--", "bash", "-c"])
            .args(["umask 002; exec \"$@\"", "bash"])
            .arg(copy)
            .env("PATH", "/usr/local/bin:/usr/bin:/bin")
            .current_dir("/");
        command
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// A subcommand other than `serve`, with pipes for its output. It knows no service.
pub(crate) fn subcommand(mut command: Command, name: &str, arguments: &[&str]) -> Command {
    heed_signals();
    command
        .arg(name)
        .args(arguments)
        .env_remove("ACTIX_SANDBOX_TOKEN")
        .env_remove("SANDBOX_URL")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// Waits until a command ends.
pub(crate) async fn ended(child: Child) -> Output {
    let ended = tokio::task::spawn_blocking(move || child.wait_with_output());
    within("the end of the program", ended)
        .await
        .unwrap()
        .unwrap()
}

/// Runs a command. Returns its exit code, its stdout and its stderr.
pub(crate) async fn run(mut command: Command) -> (Option<i32>, String, String) {
    let output = ended(command.spawn().unwrap()).await;
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (
        output.status.code(),
        text(output.stdout),
        text(output.stderr),
    )
}

/// Runs it with arguments that it must refuse. Returns its exit status and its stderr.
pub(crate) fn refused(arguments: &[&str]) -> (ExitStatus, String) {
    refused_by(command(arguments), arguments)
}

/// Like [`refused`], with this environment variable.
pub(crate) fn refused_with(name: &str, value: &OsStr) -> (ExitStatus, String) {
    let mut command = command(&[]);
    command.env(name, value);
    refused_by(command, &[])
}

/// Like [`refused`], as another user.
#[cfg(target_os = "linux")]
pub(crate) fn refused_as(
    user: &User,
    directory: &Path,
    arguments: &[&str],
) -> (ExitStatus, String) {
    refused_by(told(user.command(directory), arguments), arguments)
}

fn refused_by(mut command: Command, arguments: &[&str]) -> (ExitStatus, String) {
    let mut child = command
        .env_remove("ACTIX_SANDBOX_TOKEN")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    stdout.read_line(&mut line).unwrap();
    if !line.is_empty() {
        let _ = child.kill();
        panic!("it started with {arguments:?}: {line}");
    }
    let output = child.wait_with_output().unwrap();
    (output.status, String::from_utf8(output.stderr).unwrap())
}
