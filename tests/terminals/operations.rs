//! Each operation on a terminal.

use std::time::Duration;

use actix_sandbox::{
    BuiltinErrorKind, ErrorKind, Language, LocalServer, ProcessEnd, Sandbox, Signal, Terminal,
    TerminalSize,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::{backend, patient, sandbox, within};

/// Reads until the screen has shown this text. Returns everything that was read.
pub(crate) async fn read_until(terminal: &mut Terminal, text: &str) -> String {
    let mut shown = Vec::new();
    let read = async {
        let mut buffer = [0; 4_096];
        while !String::from_utf8_lossy(&shown).contains(text) {
            let read = terminal.read(&mut buffer).await.unwrap();
            let so_far = String::from_utf8_lossy(&shown);
            assert!(read > 0, "the terminal ended after {so_far:?}");
            shown.extend_from_slice(&buffer[..read]);
        }
    };
    let done = tokio::time::timeout(Duration::from_secs(60), read).await;
    let shown = String::from_utf8_lossy(&shown).into_owned();
    assert!(done.is_ok(), "{text:?} is not in {shown:?}");
    shown
}

async fn read_rest(terminal: &mut Terminal) -> String {
    let mut shown = Vec::new();
    within("the end of the screen", terminal.read_to_end(&mut shown))
        .await
        .unwrap();
    String::from_utf8_lossy(&shown).into_owned()
}

#[actix::test]
async fn a_login_shell_runs_by_default() {
    let (_server, sandbox) = sandbox().await;
    let mut terminal = sandbox.terminal().open().await.unwrap();
    terminal
        .write_all(
            b"shopt -q login_shell && echo is-$((1))-login; tty; stty size; echo $TERM; exit 3\n",
        )
        .await
        .unwrap();
    let shown = read_rest(&mut terminal).await;
    assert!(shown.contains("is-1-login\r\n/dev/"), "{shown}");
    assert!(shown.contains("\r\n24 80\r\nxterm-256color\r\n"), "{shown}");
    let end = within("the end", terminal.wait()).await.unwrap();
    assert_eq!(end, ProcessEnd::Exited(3));
}

#[actix::test]
async fn a_program_has_arguments_an_environment_and_a_directory() {
    let (_server, sandbox) = sandbox().await;
    sandbox.files().create_dir("below").await.unwrap();
    let terminal =
        sandbox
            .terminal()
            .program("sh")
            .args(["-c", "echo $1 $COLOR; pwd", "sh", "one"]);
    let mut terminal = terminal
        .env("COLOR", "red")
        .cwd("below")
        .size(40, 10)
        .open()
        .await
        .unwrap();
    let shown = read_rest(&mut terminal).await;
    assert!(shown.starts_with("one red\r\n/"), "{shown}");
    assert!(shown.ends_with("/below\r\n"), "{shown}");
    let code = "import os; print(os.get_terminal_size(), os.isatty(2))";
    let terminal = sandbox.terminal().code(Language::Python, code).size(33, 7);
    let mut terminal = terminal.open().await.unwrap();
    let shown = read_rest(&mut terminal).await;
    assert_eq!(shown, "os.terminal_size(columns=33, lines=7) True\r\n");
}

/// Prints the size of the terminal whenever it changes.
const SIZES: &str = "
import os, signal
def tell(*_):
    size = os.get_terminal_size()
    os.write(1, b'%d %d\\n' % (size.lines, size.columns))
signal.signal(signal.SIGWINCH, tell)
os.write(1, b'ready\\n')
while True: signal.pause()
";

#[actix::test]
async fn a_resize_changes_the_size_and_tells_the_program() {
    let (_server, sandbox) = sandbox().await;
    let mut terminal = sandbox
        .terminal()
        .code(Language::Python, SIZES)
        .open()
        .await
        .unwrap();
    read_until(&mut terminal, "ready").await;
    for (columns, rows) in [(132, 50), (1, 1), (4_096, 4_096)] {
        within("the resize", terminal.resize(columns, rows))
            .await
            .unwrap();
        read_until(&mut terminal, &format!("{rows} {columns}\r\n")).await;
    }
    terminal.kill().await.unwrap();
    assert_eq!(terminal.wait().await.unwrap(), ProcessEnd::Killed);
    let error = terminal.resize(80, 24).await.unwrap_err();
    let kind = error.builtin().map(|error| error.kind);
    assert_eq!(kind, Some(BuiltinErrorKind::NotFound), "{error}");
}

#[actix::test]
async fn a_size_out_of_range_is_refused_and_names_the_range() {
    let (_server, sandbox) = sandbox().await;
    let terminal = sandbox.terminal().program("cat").open().await.unwrap();
    let too_large = TerminalSize::MAX + 1;
    for (columns, rows) in [(0, 0), (0, 24), (80, 0), (10_000, 10_000), (80, too_large)] {
        let opened = sandbox.terminal().size(columns, rows).open().await;
        let resized = terminal.resize(columns, rows).await;
        for error in [opened.unwrap_err(), resized.unwrap_err()] {
            assert_eq!(error.kind(), ErrorKind::InvalidOption, "{error}");
            let named = format!("{columns} columns and {rows} rows; each must be from 1 to 4096");
            assert!(error.to_string().contains(&named), "{error}");
        }
    }
}

#[actix::test]
async fn a_process_without_a_terminal_has_no_size() {
    let (_server, sandbox) = sandbox().await;
    let process = sandbox.exec(Language::Bash, "cat").await.unwrap();
    let error = process.resize(80, 24).await.unwrap_err();
    let kind = error.builtin().map(|error| error.kind);
    assert_eq!(kind, Some(BuiltinErrorKind::InvalidInput), "{error}");
    assert!(error.to_string().contains("has no terminal"), "{error}");
}

#[actix::test]
async fn ctrl_c_ends_what_runs_and_ctrl_z_stops_it() {
    let (_server, sandbox) = sandbox().await;
    let mut terminal = sandbox.terminal().open().await.unwrap();
    let running = async |seconds: u32| {
        let code = format!("until pgrep -f '^sleep {seconds}$' >/dev/null; do sleep 0.05; done");
        sandbox.run(Language::Bash, code).await.unwrap();
    };
    let sleep = b"sleep 86407; echo ended with $?\r";
    terminal.write_all(sleep).await.unwrap();
    running(86_407).await;
    terminal.write_all(b"\x03").await.unwrap();
    read_until(&mut terminal, "^C").await;
    terminal
        .write_all(b"sleep 86413; echo stopped with $?\r")
        .await
        .unwrap();
    running(86_413).await;
    terminal.write_all(b"\x1a").await.unwrap();
    read_until(&mut terminal, "stopped with 148").await;
    terminal
        .write_all(b"kill %1; wait; jobs; exit 0\r")
        .await
        .unwrap();
    let end = within("the end", terminal.wait()).await.unwrap();
    assert_eq!(end, ProcessEnd::Exited(0));
}

#[actix::test]
async fn an_idle_terminal_outlives_the_limit_on_run_time() {
    let limit = Duration::from_millis(300);
    let server = LocalServer::builder()
        .max_run_time(limit)
        .start()
        .await
        .unwrap();
    let sandbox: Sandbox = patient(server.url()).await.unwrap();
    let mut terminal = sandbox.terminal().program("cat").open().await.unwrap();
    // A process that starts later reaches the limit.
    let end = sandbox.command(Language::Bash, "sleep 1000").run_to_end();
    assert_eq!(
        within("the limit", end).await.unwrap(),
        ProcessEnd::TimedOut
    );
    terminal.write_all(b"still here\n").await.unwrap();
    read_until(&mut terminal, "still here\r\nstill here\r\n").await;
    // A limit of the client applies.
    let limited = sandbox.terminal().program("cat").timeout(limit);
    let limited = limited.open().await.unwrap();
    let end = within("the limit of the client", limited.wait()).await;
    assert_eq!(end.unwrap(), ProcessEnd::TimedOut);
}

#[actix::test]
async fn dropping_a_terminal_kills_its_program() {
    let (_server, sandbox) = sandbox().await;
    let gone = "while pgrep -f '^sleep 9640' >/dev/null; do sleep 0.05; done";
    let terminal = sandbox
        .terminal()
        .program("sleep")
        .arg("96400")
        .open()
        .await
        .unwrap();
    drop(terminal);
    within("the end of the program", sandbox.run(Language::Bash, gone))
        .await
        .unwrap();
    let terminal = sandbox
        .terminal()
        .program("sleep")
        .arg("1")
        .kill_on_drop(false);
    let terminal = terminal.open().await.unwrap();
    let process = terminal.process().clone();
    drop(terminal);
    let end = within("the end", process.wait()).await.unwrap();
    assert_eq!(end, ProcessEnd::Exited(0));
}

#[actix::test]
async fn the_end_of_the_program_ends_the_screen() {
    let (_server, sandbox) = sandbox().await;
    // Debian's runsc ignores Ctrl-D, unless the program reads single keys.
    if !backend::is("gvisor") {
        let mut terminal = sandbox.terminal().program("cat").open().await.unwrap();
        terminal.write_all(b"one\n\x04").await.unwrap();
        let shown = read_rest(&mut terminal).await;
        assert_eq!(shown, "one\r\none\r\n");
        assert_eq!(terminal.wait().await.unwrap(), ProcessEnd::Exited(0));
    }
    let mut terminal = sandbox.terminal().program("cat").open().await.unwrap();
    terminal.process().signal(Signal::KILL).await.unwrap();
    assert_eq!(read_rest(&mut terminal).await, "");
    assert_eq!(terminal.wait().await.unwrap(), ProcessEnd::Signaled(9));
}

#[actix::test]
async fn a_terminal_that_all_processes_close_can_be_opened_again() {
    let (_server, sandbox) = sandbox().await;
    let code = "
tty=$(tty)
exec </dev/null >/dev/null 2>&1
echo \"the name:\" >$tty
read name <$tty
exec >$tty
echo \"hello, $name\"
";
    let terminal = sandbox.terminal().code(Language::Bash, code);
    let mut terminal = terminal.open().await.unwrap();
    read_until(&mut terminal, "the name:").await;
    terminal.write_all(b"world\n").await.unwrap();
    read_until(&mut terminal, "hello, world").await;
    let end = within("the end", terminal.wait()).await.unwrap();
    assert_eq!(end, ProcessEnd::Exited(0));
}

/// Prints each line that it reads.
const LINES: &str = "
import os, signal
signal.signal(signal.SIGINT, lambda *_: None)
os.write(1, b'ready\\n')
while True: os.write(1, b'read %s' % os.read(0, 100))
";

#[actix::test]
async fn ctrl_c_discards_what_was_typed_before_it() {
    if backend::is("gvisor") {
        // Debian's runsc can't discard input.
        return;
    }
    let (_server, sandbox) = sandbox().await;
    let terminal = sandbox.terminal().code(Language::Python, LINES);
    let mut terminal = terminal.open().await.unwrap();
    read_until(&mut terminal, "ready").await;
    for number in 0..20 {
        let keys = format!("cancelled\x03line {number}\n");
        terminal.write_all(keys.as_bytes()).await.unwrap();
        read_until(&mut terminal, &format!("read line {number}\r\n")).await;
    }
}

#[actix::test]
async fn a_terminal_without_a_client_does_not_keep_the_sandbox_from_becoming_idle() {
    let server = LocalServer::start().await.unwrap();
    let sandbox = patient(server.url()).idle_timeout(backend::LONG_ENOUGH_TO_BEGIN);
    let sandbox = sandbox.await.unwrap();
    let terminal = sandbox.terminal().program("cat").kill_on_drop(false);
    let mut terminal = terminal.open().await.unwrap();
    // With a client, the sandbox outlives its idle timeout.
    let longer = sandbox.run(Language::Bash, "sleep 7; echo $(< /proc/loadavg)");
    within("a longer time", longer).await.unwrap();
    terminal.write_all(b"still here\n").await.unwrap();
    read_until(&mut terminal, "still here").await;
    let (id, token) = (
        sandbox.sandbox_id().clone(),
        sandbox.sandbox_token().clone(),
    );
    drop((terminal, sandbox));
    // The list shows when the server has deleted the sandbox, without attaching to it.
    let gone = async {
        while !Sandbox::list(server.url()).await.unwrap().is_empty() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    within("the end of the sandbox", gone).await;
    let error = Sandbox::attach(server.url(), id, token).await.unwrap_err();
    assert!(error.to_string().contains("SANDBOX_NOT_FOUND"), "{error}");
}
