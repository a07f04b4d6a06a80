//! `actix-sandbox run`, on a server and by itself: what users see, and what it leaves behind.

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    process::Stdio,
    time::Duration,
};

use actix_sandbox::Sandbox;

use crate::support::{
    backend::without_bwrap,
    cli::{Cli, Ran, Running},
    program::{Program, ignoring},
};

/// The one line on stderr, without the name of the program.
pub(crate) fn sentence(ran: &Ran) -> &str {
    let line = ran.stderr.strip_prefix("actix-sandbox: ");
    let line = line.and_then(|it| it.strip_suffix('\n'));
    let line = line.unwrap_or_else(|| panic!("not one sentence: {ran:?}"));
    assert!(!line.contains('\n'), "{line}");
    line
}

/// Fails unless the server has no sandbox, and the user's file has none.
pub(crate) async fn assert_nothing_left(server: &Program, cli: &Cli) {
    let all = Sandbox::list(&server.url).await.unwrap();
    assert!(all.is_empty(), "{all:?}");
    assert_eq!(
        cli.stdout_of(&["list", "--mine", "--output", "json"]),
        "[]\n"
    );
}

/// Starts code that prints `ready` and then waits, and waits for that line.
fn ready(mut command: std::process::Command) -> (Running, BufReader<std::process::ChildStdout>) {
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut running = Running::start_as_is(command);
    let mut stdout = BufReader::new(running.child().stdout.take().unwrap());
    let mut line = String::new();
    stdout.read_line(&mut line).unwrap();
    assert_eq!(line, "ready\n");
    (running, stdout)
}

const WAIT: &str = "import signal; print('ready', flush=True); signal.pause()";

#[actix::test]
async fn the_status_is_that_of_the_code() {
    let server = Program::start(&[]);
    let cli = Cli::new(&server.url);
    for (language, code, status) in [
        ("python", "exit(7)", 7),
        ("bash", "exit 0", 0),
        ("bash", "kill -KILL $$", 137),
        ("python", "raise SystemExit(300)", 44),
    ] {
        let ran = cli.run(&["run", "--language", language, "-c", code]);
        assert_eq!((ran.status, &*ran.stderr), (status, ""), "{code}");
    }
    let ran = cli.run(&["run", "--timeout", "1s", "-c", "while True: pass"]);
    assert_eq!(ran.status, 124);
    assert!(sentence(&ran).contains("`--timeout`"), "{ran:?}");
    assert_nothing_left(&server, &cli).await;
}

#[test]
fn the_streams_are_those_of_the_command() {
    let server = Program::start(&[]);
    let cli = Cli::new(&server.url);
    let code = "import sys; print(sys.stdin.read().upper()); print('err', file=sys.stderr)";
    let mut command = cli.command(&["run", "-c", code]);
    command.stdin(Stdio::piped());
    let mut running = Running::start(command);
    let mut stdin = running.child().stdin.take().unwrap();
    stdin.write_all("grün".as_bytes()).unwrap();
    drop(stdin);
    let ran = running.end();
    assert_eq!(
        (ran.status, &*ran.stdout, &*ran.stderr),
        (0, "GRÜN\n", "err\n")
    );
}

#[test]
fn a_file_keeps_its_name_and_gets_its_arguments() {
    let server = Program::start(&[]);
    let cli = Cli::new(&server.url);
    let code = "import sys, os; print(os.path.basename(__file__), sys.argv[1:])";
    fs::write(cli.home().join("main.py"), code).unwrap();
    let said = cli.stdout_of(&["run", "main.py", "--timeout", "-x", "--", "ä"]);
    assert_eq!(said, "main.py ['--timeout', '-x', '--', 'ä']\n");
    // The first line tells the language.
    fs::write(cli.home().join("script"), "#!/bin/bash\necho \"$0 $#\"\n").unwrap();
    assert_eq!(cli.stdout_of(&["run", "script", "a", "b"]), "script 2\n");
    let said = cli.stdout_of(&["run", "-c", "import sys; print(sys.argv[1:])", "--", "-a"]);
    assert_eq!(said, "['-a']\n");
}

#[test]
fn code_comes_from_stdin() {
    let server = Program::start(&[]);
    let cli = Cli::new(&server.url);
    let mut command = cli.command(&["run", "-"]);
    command.stdin(Stdio::piped());
    let mut running = Running::start(command);
    let mut stdin = running.child().stdin.take().unwrap();
    stdin.write_all(b"print(6 * 7)").unwrap();
    drop(stdin);
    assert_eq!(running.end().stdout, "42\n");
}

#[actix::test]
async fn files_go_up_and_come_back() {
    let server = Program::start(&[]);
    let cli = Cli::new(&server.url);
    let project = cli.home().join("project");
    fs::create_dir(&project).unwrap();
    fs::write(project.join("in.txt"), "b\na\n").unwrap();
    fs::write(cli.home().join("one.txt"), "1").unwrap();
    let ran = cli.run(&[
        "run",
        "--upload",
        "project",
        "--upload",
        "one.txt",
        "--download",
        "out",
        "--language",
        "bash",
        "-c",
        "mkdir out; sort in.txt > out/sorted; cat one.txt >> out/sorted; exit 3",
    ]);
    assert_eq!((ran.status, &*ran.stderr), (3, ""));
    let sorted = fs::read_to_string(cli.home().join("out/sorted")).unwrap();
    assert_eq!(sorted, "a\nb\n1");
    let ran = cli.run(&["run", "--download", "missing", "-c", ""]);
    assert_eq!(ran.status, 125);
    assert!(sentence(&ran).contains("missing"), "{ran:?}");
    let ran = cli.run(&["run", "--upload", "missing", "-c", ""]);
    assert_eq!(ran.status, 125);
    assert!(sentence(&ran).contains("missing"), "{ran:?}");
    assert_nothing_left(&server, &cli).await;
}

#[test]
fn variables_reach_the_code_alone_when_named() {
    let server = Program::start(&[]);
    let cli = Cli::new(&server.url);
    let code = "import os; print(os.environ.get('A'), os.environ.get('B'), os.environ.get('C'))";
    let mut command = cli.command(&["run", "--env", "A", "--env", "B=2=3", "-c", code]);
    command.env("A", "one").env("C", "three");
    let ran = Running::start(command).end();
    assert_eq!(ran.stdout, "one 2=3 None\n");
    let ran = cli.run(&["run", "--env", "NOT_SET_HERE", "-c", code]);
    assert_eq!(ran.status, 2);
    assert!(ran.stderr.contains("NOT_SET_HERE"), "{ran:?}");
}

#[actix::test]
async fn wrong_code_is_refused_before_anything_starts() {
    let cli = Cli::new("http://127.0.0.1:1");
    fs::write(cli.home().join("code"), "puts 1").unwrap();
    fs::write(cli.home().join("binary.py"), [0xff, 0xfe]).unwrap();
    for (file, said) in [
        ("code", "`--language"),
        ("binary.py", "UTF-8"),
        ("missing.py", "No such file"),
        (".", "directory"),
    ] {
        let ran = cli.run(&["run", file]);
        assert_eq!(ran.status, 125, "{ran:?}");
        assert!(sentence(&ran).contains(said), "{ran:?}");
    }
    let ran = cli.run(&["run"]);
    assert_eq!(ran.status, 2);
    let ran = cli.run(&["run", "--timeout", "soon", "-c", ""]);
    assert_eq!(ran.status, 2);
    assert!(ran.stderr.contains("for example 30s"), "{ran:?}");
}

#[test]
fn an_unknown_language_is_refused_by_the_server() {
    let server = Program::start(&[]);
    let cli = Cli::new(&server.url);
    let ran = cli.run(&["run", "--language", "cobol", "-c", "x"]);
    assert_eq!(ran.status, 125);
    assert!(sentence(&ran).contains("cobol"), "{ran:?}");
}

#[actix::test]
async fn a_signal_leaves_nothing_behind() {
    let server = Program::start(&[]);
    let cli = Cli::new(&server.url);
    for (signal, status) in [("TERM", 143), ("HUP", 129)] {
        let (running, _stdout) = ready(cli.command(&["run", "-c", WAIT]));
        running.signal(signal);
        let ran = running.end();
        assert_eq!(ran.status, status);
        assert_eq!(sentence(&ran), format!("ended by SIG{signal}"));
        assert_nothing_left(&server, &cli).await;
    }
}

#[test]
fn a_signal_ends_the_wait_for_code_on_stdin() {
    let cli = Cli::new("http://127.0.0.1:1");
    for signal in ["INT", "TERM"] {
        let (reader, writer) = std::io::pipe().unwrap();
        let mut command = cli.command(&["run", "-"]);
        command.stdin(reader);
        let running = Running::start(command);
        running.signal(signal);
        let status = running.end().status;
        assert_eq!(status, if signal == "INT" { 130 } else { 143 });
        drop(writer);
    }
}

/// A sandbox chooses names, and they occur in errors.
#[test]
fn errors_do_not_control_the_terminal() {
    let server = Program::start(&[]);
    let cli = Cli::new(&server.url);
    let ran = cli.run(&["run", "--download", "a\u{1b}[2J\u{202e}", "-c", ""]);
    assert_eq!(ran.status, 125);
    assert!(sentence(&ran).contains("a\\u{1b}[2J\\u{202e}"), "{ran:?}");
}

#[actix::test]
async fn ctrl_c_interrupts_the_code() {
    let server = Program::start(&[]);
    let cli = Cli::new(&server.url);
    let code = "trap 'echo caught; exit 5' INT; echo ready; while :; do sleep 0.1; done";
    let (running, mut stdout) = ready(cli.command(&["run", "--language", "bash", "-c", code]));
    running.signal("INT");
    let mut rest = String::new();
    stdout.read_to_string(&mut rest).unwrap();
    let ran = running.end();
    assert_eq!((ran.status, &*rest, &*ran.stderr), (5, "caught\n", ""));
    // The default action of the code's language.
    let (running, _stdout) = ready(cli.command(&["run", "-c", WAIT]));
    running.signal("INT");
    let ran = running.end();
    assert_eq!(ran.status, 130);
    assert!(ran.stderr.contains("KeyboardInterrupt"), "{ran:?}");
    assert_nothing_left(&server, &cli).await;
}

#[actix::test]
async fn a_later_second_ctrl_c_ends_the_command() {
    let server = Program::start(&[]);
    let cli = Cli::new(&server.url);
    // The code tells when two more seconds have passed since the first one.
    let code = "import signal, time\n\
        signal.signal(signal.SIGINT, lambda *_: (time.sleep(2.5), print('still here', flush=True)))\n\
        print('ready', flush=True)\n\
        while True: signal.pause()";
    let (running, mut stdout) = ready(cli.command(&["run", "-c", code]));
    running.signal("INT");
    let mut line = String::new();
    stdout.read_line(&mut line).unwrap();
    assert_eq!(line, "still here\n");
    running.signal("INT");
    let ran = running.end();
    assert_eq!((ran.status, sentence(&ran)), (130, "interrupted"));
    assert_nothing_left(&server, &cli).await;
}

#[test]
fn a_signal_that_was_ignored_stays_ignored() {
    let server = Program::start(&[]);
    let cli = Cli::new(&server.url);
    let mut command = ignoring("SIGHUP");
    command.args(["run", "-c", "print('ready', flush=True); print(input())"]);
    cli.adopt(&mut command);
    command.stdin(Stdio::piped());
    let (mut running, mut stdout) = ready(command);
    running.signal("HUP");
    let mut stdin = running.child().stdin.take().unwrap();
    stdin.write_all(b"after the hangup\n").unwrap();
    let mut line = String::new();
    stdout.read_line(&mut line).unwrap();
    assert_eq!(line, "after the hangup\n");
    assert_eq!(running.end().status, 0);
}

#[actix::test]
async fn a_closed_pipe_ends_the_command_quietly() {
    let server = Program::start(&[]);
    let cli = Cli::new(&server.url);
    let code = "print('ready', flush=True)\nwhile True: print('more', flush=True)";
    let (running, stdout) = ready(cli.command(&["run", "-c", code]));
    drop(stdout);
    let ran = running.end();
    // The status of a program that SIGPIPE ended.
    assert_eq!((ran.status, &*ran.stderr), (141, ""));
    assert_nothing_left(&server, &cli).await;
}

/// Runs code that prints `BYTES` bytes, and pauses the reader of its output. Returns how many it got.
fn run_with_a_pause(url: &str) -> (usize, Ran) {
    let cli = Cli::new(url);
    let code = format!("import sys; sys.stdout.write('x' * {BYTES})");
    let mut run = cli.spawn(&["run", "-c", &code]);
    let mut stdout = run.child().stdout.take().unwrap();
    let mut all = vec![0];
    stdout.read_exact(&mut all).unwrap();
    #[expect(clippy::disallowed_methods, reason = "the time itself matters")]
    std::thread::sleep(Duration::from_secs(15));
    stdout.read_to_end(&mut all).unwrap();
    assert!(all.iter().all(|&byte| byte == b'x'));
    (all.len(), run.end())
}

const BYTES: usize = 20_000_000;

/// The library's default policy would drop output after a pause of 10 s.
#[test]
fn a_reader_that_pauses_gets_all_output() {
    let program = Program::start(&[]);
    let (bytes, ran) = run_with_a_pause(&program.url);
    assert_eq!((bytes, ran.status, &*ran.stderr), (BYTES, 0, ""));
}

#[test]
fn under_v1_a_pause_of_the_reader_fails_the_command() {
    let program = Program::start(&[]);
    let (bytes, ran) = run_with_a_pause(&program.url_of_v1());
    assert!(bytes < BYTES);
    assert_eq!(ran.status, 125, "{ran:?}");
    let sentence = sentence(&ran);
    assert!(sentence.contains("were dropped"), "{sentence}");
    assert!(sentence.ends_with("; `--lift` avoids this"), "{sentence}");
}

#[cfg(target_os = "linux")]
#[actix::test]
async fn a_full_disk_is_one_sentence() {
    let server = Program::start(&[]);
    let cli = Cli::new(&server.url);
    let mut command = cli.command(&["run", "-c", "while True: print('more')"]);
    let full = fs::File::options().write(true).open("/dev/full").unwrap();
    command.stdout(full).stderr(Stdio::piped());
    let ran = Running::start_as_is(command).end();
    assert_eq!(ran.status, 125);
    let said = "cannot write to standard output: No space left on device";
    assert!(sentence(&ran).starts_with(said), "{ran:?}");
    assert_nothing_left(&server, &cli).await;
}

#[test]
fn a_server_that_dies_is_reported() {
    let mut server = Program::start(&[]);
    let cli = Cli::new(&server.url);
    let (running, _stdout) = ready(cli.command(&["run", "--reconnect-timeout", "1s", "-c", WAIT]));
    server.signal("KILL");
    while !server.is_over() {
        std::thread::yield_now();
    }
    let ran = running.end();
    assert_eq!(ran.status, 125);
    assert!(ran.stderr.contains("connection lost"), "{ran:?}");
    assert!(
        ran.stderr.contains("attempts to reconnect failed"),
        "{ran:?}"
    );
    assert!(!ran.stderr.contains(server.secret()), "{ran:?}");
}

#[actix::test]
async fn a_killed_command_leaves_a_sandbox_that_can_be_found() {
    let server = Program::start(&[]);
    let cli = Cli::new(&server.url);
    let (running, _stdout) = ready(cli.command(&["run", "-c", WAIT]));
    running.signal("KILL");
    assert_eq!(running.end().status, 137);
    let mine = cli.stdout_of(&["list", "--mine"]);
    assert_eq!(mine.lines().count(), 2, "{mine}");
    let said = cli.stdout_of(&["kill", "--all", "--mine"]);
    assert!(said.starts_with("killed sandbox-"), "{said}");
    assert_nothing_left(&server, &cli).await;
}

#[actix::test]
async fn a_kept_sandbox_lives_on_with_its_files() {
    let server = Program::start(&[]);
    let cli = Cli::new(&server.url);
    let ran = cli.run(&["run", "--keep", "-c", "open('a', 'w').write('kept')"]);
    assert_eq!(ran.status, 0);
    let id = sentence(&ran).strip_prefix("kept ").unwrap();
    assert_eq!(cli.stdout_of(&["exec", id, "cat", "a"]), "kept");
    assert_eq!(cli.stdout_of(&["kill", id]), format!("killed {id}\n"));
    assert_nothing_left(&server, &cli).await;
}

#[test]
fn without_a_service_a_local_server_runs_the_code() {
    let cli = Cli::new("");
    let ran = cli.run(&["run", "--backend", "host", "-c", "print(6 * 7)"]);
    assert_eq!((ran.status, &*ran.stdout, &*ran.stderr), (0, "42\n", ""));
    // A token for a service has no effect on it.
    let mut command = cli.command(&["run", "--backend", "host", "-c", "print(6 * 7)"]);
    command.env("ACTIX_SANDBOX_TOKEN", "x y");
    assert_eq!(Running::start(command).end().status, 0);
    let ran = cli.run(&["run", "--lift", "-c", ""]);
    assert_eq!(ran.status, 125);
    assert!(
        sentence(&ran).contains("`--lift` needs a service"),
        "{ran:?}"
    );
    let ran = cli.run(&["run", "--keep", "-c", ""]);
    assert_eq!(ran.status, 125);
    assert!(sentence(&ran).contains("actix-sandbox serve"), "{ran:?}");
    let ran = cli.run(&["run", "--keep", "--backend", "host", "-c", ""]);
    assert_eq!(ran.status, 125);
    assert!(sentence(&ran).contains("`--backend`"), "{ran:?}");
}

/// Where no backend confines code, nothing falls back to one that doesn't.
#[cfg(target_os = "linux")]
#[test]
fn without_a_service_code_is_confined_or_does_not_run() {
    let cli = Cli::new("");
    // The server needs `sh`. There is no runsc.
    let path = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink("/bin/sh", path.path().join("sh")).unwrap();
    let mut command = without_bwrap(path.path());
    command.args(["run", "-c", "print(6 * 7)"]);
    cli.adopt(&mut command);
    let ran = Running::start(command).end();
    if ran.status == 99 || ran.stderr.contains("unshare") {
        println!("not tried: cannot hide bwrap: {ran:?}");
        assert!(std::env::var_os("CI_BACKENDS").is_none(), "{ran:?}");
        return;
    }
    assert_eq!((ran.status, &*ran.stdout), (125, ""));
    let said = sentence(&ran);
    assert!(said.contains("bwrap") && said.contains("runsc"), "{said}");
    assert!(said.contains("--backend host"), "{said}");
}

/// A local server, its sandboxes and their files end with the command.
#[cfg(target_os = "linux")]
#[test]
fn a_local_server_leaves_nothing_behind() {
    let cli = Cli::new("");
    let temporary = cli.home().join("temporary");
    fs::create_dir(&temporary).unwrap();
    for signal in ["TERM", "KILL"] {
        let mut command = cli.command(&["run", "--backend", "host", "-c", WAIT]);
        command.env("TMPDIR", &temporary);
        let (running, _stdout) = ready(command);
        assert_eq!(fs::read_dir(&temporary).unwrap().count(), 1);
        running.signal(signal);
        running.end();
        // After SIGKILL, the watchdog of the server removes it. It has no event for that.
        while fs::read_dir(&temporary).unwrap().count() > 0 {
            std::thread::yield_now();
        }
    }
}
