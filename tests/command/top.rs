//! `top`: its samples, on a terminal and elsewhere.

use std::{
    io::{BufRead, BufReader},
    process::Command,
};

use serde_json::Value;

use crate::support::{
    cli::{Cli, Running},
    program::Program,
};

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

/// The states of the sandboxes of a sample.
fn states(sample: &Value) -> Vec<&str> {
    let sandboxes = sample["sandboxes"].as_array().unwrap();
    sandboxes
        .iter()
        .map(|it| it["state"].as_str().unwrap())
        .collect()
}

#[test]
fn one_sample_shows_usage_and_processes() {
    let program = Program::start(&[]);
    let cli = Cli::new(&program.url);
    let id = cli.create();
    let process = cli.stdout_of(&["exec", "--detach", &id, "sleep", "1000"]);
    let process = process.trim();
    let text = cli.stdout_of(&["top", &id]);
    let lines: Vec<_> = text.lines().collect();
    assert!(
        lines[0].starts_with("SANDBOX") && lines[0].ends_with("PROCESSES"),
        "{text}"
    );
    assert!(
        lines[1].starts_with(&id) && lines[1].contains("running"),
        "{text}"
    );
    assert!(lines[3].starts_with("PROCESS"), "{text}");
    assert!(
        lines[4].starts_with(process) && lines[4].contains("sleep"),
        "{text}"
    );
    assert!(!text.contains('\x1b'), "{text}");

    let sample = json(&cli.stdout_of(&["top", &id, "--output", "json"]));
    let usage = &sample["sandboxes"][0];
    assert_eq!(usage["id"], *id);
    assert!(usage["metrics"]["memory_bytes"].as_u64().unwrap() > 0);
    assert_eq!(usage["processes"][0]["id"], process);
    assert_eq!(usage["cpu_percent"], Value::Null);
}

#[test]
fn later_samples_have_the_share_of_a_processor() {
    let program = Program::start(&[]);
    let cli = Cli::new(&program.url);
    let id = cli.create();
    cli.stdout_of(&["exec", "--detach", &id, "bash", "-c", "while :; do :; done"]);
    let arguments = ["top", &id, "--interval", "50ms", "--output", "json"];
    let mut top = cli.spawn(&arguments);
    let stdout = top.child().stdout.take().unwrap();
    let mut percents = BufReader::new(stdout).lines().map(|line| {
        let sample = json(&line.unwrap());
        sample["sandboxes"][0]["cpu_percent"].as_f64()
    });
    assert_eq!(percents.next().unwrap(), None);
    assert!(percents.any(|it| it.is_some_and(|percent| percent > 0.0)));
    top.signal("INT");
    let ran = top.end();
    assert_eq!((ran.status, &*ran.stderr), (130, ""));
}

#[test]
fn all_sandboxes_are_shown_with_their_states() {
    let program = Program::start(&[]);
    let cli = Cli::new(&program.url);
    assert_eq!(
        states(&json(&cli.stdout_of(&["top", "--output", "json"]))),
        [""; 0]
    );
    let used = cli.create();
    let gone = cli.create();
    cli.create();
    // Another user of the same sandboxes kills one of them, and uses another one.
    let other = Cli::new(&program.url);
    let copied = Command::new("cp")
        .args(["-a", "state", other.home().to_str().unwrap()])
        .current_dir(cli.home())
        .status();
    assert!(copied.unwrap().success());
    other.stdout_of(&["kill", &gone]);
    let mut watch = other.spawn(&["watch", &used, "--output", "json"]);
    let mut line = String::new();
    let stdout = watch.child().stdout.as_mut().unwrap();
    BufReader::new(stdout).read_line(&mut line).unwrap();

    let sample = json(&cli.stdout_of(&["top", "--output", "json"]));
    assert_eq!(states(&sample), ["in_use", "not_running", "running"]);
    let text = cli.stdout_of(&["top"]);
    let line = |number: usize| text.lines().nth(number).unwrap();
    assert!(
        line(1).ends_with("in use") && line(2).ends_with("not running"),
        "{text}"
    );
    assert_eq!(text.lines().count(), 4, "{text}");
    let one = cli.stdout_of(&["top", &used]);
    assert!(one.contains("in use"), "{one}");
    let ran = cli.run(&["top", &gone]);
    assert_eq!(ran.status, 1);
    assert!(ran.stderr.contains("no longer exists"), "{ran:?}");

    drop(watch);
    drop(program);
    let sample = json(&cli.stdout_of(&["top", "--output", "json"]));
    assert_eq!(states(&sample), ["unknown", "unknown", "unknown"]);
    assert!(
        sample["sandboxes"][0]["reason"]
            .as_str()
            .unwrap()
            .contains("cannot list")
    );
}

#[test]
fn only_an_id_restores_a_checkpointed_sandbox() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("state");
    let program = Program::start(&["--state", state.to_str().unwrap()]);
    let cli = Cli::new(&program.url);
    let id = cli.stdout_of(&["create", "--checkpoint"]);
    let id = id.trim();
    cli.stdout_of(&["checkpoint", id]);
    let all = ["top", "--output", "json"];
    assert_eq!(states(&json(&cli.stdout_of(&all))), ["not_running"]);
    let one = json(&cli.stdout_of(&["top", id, "--output", "json"]));
    assert_eq!(states(&one), ["running"]);
    assert_eq!(states(&json(&cli.stdout_of(&all))), ["running"]);
}

/// Runs a command on a terminal of 40 columns, and interrupts it after two frames. Prints its exit
/// status and what it has shown. The terminal stays open, because the kernel may discard output
/// when the last process closes it.
const ON_A_TERMINAL: &str = r"
import fcntl, os, pty, signal, struct, subprocess, sys, termios
screen, terminal = pty.openpty()
fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack('HHHH', 24, 40, 0, 0))
child = subprocess.Popen(sys.argv[1:], stdout=terminal)
shown = b''
def read_until(number, text):
    global shown
    while shown.count(text) < number:
        shown += os.read(screen, 65536)
read_until(2, b'\x1b[J')
child.send_signal(signal.SIGINT)
print(child.wait(), flush=True)
os.write(terminal, b'the end')
read_until(1, b'the end')
sys.stdout.buffer.write(shown.removesuffix(b'the end'))
";

#[test]
fn a_terminal_is_redrawn_until_the_interrupt() {
    let program = Program::start(&[]);
    let cli = Cli::new(&program.url);
    let id = cli.create();
    let top = cli.command(&["top", &id, "--interval", "50ms"]);
    let mut command = Command::new("python3");
    command.args(["-c", ON_A_TERMINAL]).arg(top.get_program());
    command.args(top.get_args());
    for (name, value) in top.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    let ran = Running::start(command).end();
    let (status, shown) = ran.stdout.split_once('\n').unwrap();
    assert_eq!(status, "130", "{ran:?}");
    assert!(
        shown.starts_with("\x1b[?25l\x1b[2J\x1b[HSANDBOX "),
        "{ran:?}"
    );
    assert!(shown.ends_with("\x1b[?25h"), "{ran:?}");
    let frames = shown.split("\x1b[H").skip(1);
    for line in frames.flat_map(|frame| frame.split("\x1b[K").next()) {
        assert!(line.chars().count() <= 40, "{line}");
    }
    assert!(!shown.contains("interrupted"), "{ran:?}");
}
