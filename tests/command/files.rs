//! `cp`, `ls`, `cat` and `watch`.

mod copy;
mod endings;
mod list;
mod refusals;
mod watch;

use std::{ffi::OsStr, fs, os::unix::ffi::OsStrExt, path::Path, process::Stdio};

use crate::support::{
    cli::{Cli, Ran, Running},
    program::Program,
};

/// A server, a user and the id of a sandbox.
fn sandbox() -> (Program, Cli, String) {
    let program = Program::start(&[]);
    let cli = Cli::new(&program.url);
    let id = cli.create();
    (program, cli, id)
}

/// Runs a bash script in the sandbox.
fn bash(cli: &Cli, id: &str, script: &str) -> String {
    cli.stdout_of(&["exec", id, "bash", "-c", script])
}

/// A path in the sandbox, as an argument.
fn at(id: &str, path: &str) -> String {
    format!("{id}:{path}")
}

/// Runs a command with this stdin.
fn run_with(cli: &Cli, stdin: &[u8], arguments: &[&str]) -> Ran {
    let file = cli.home().join("stdin");
    fs::write(&file, stdin).unwrap();
    let mut command = cli.command(arguments);
    command.stdin(fs::File::open(file).unwrap());
    Running::start(command).end()
}

/// Runs a command whose stdout is `/dev/full`.
fn run_on_full_disk(cli: &Cli, arguments: &[&str]) -> Ran {
    let mut command = cli.command(arguments);
    let full = fs::OpenOptions::new().write(true).open("/dev/full");
    command.stdout(full.unwrap()).stderr(Stdio::piped());
    Running::start_as_is(command).end()
}

fn read(path: impl AsRef<Path>) -> String {
    fs::read_to_string(path).unwrap()
}

/// The paths below a directory, sorted.
fn tree(directory: &Path) -> Vec<String> {
    let mut paths = Vec::new();
    let mut todo = vec![directory.to_owned()];
    while let Some(next) = todo.pop() {
        for entry in fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            let name = path.strip_prefix(directory).unwrap();
            paths.push(name.to_str().unwrap().to_owned());
            if path.is_dir() && !path.is_symlink() {
                todo.push(path);
            }
        }
    }
    paths.sort();
    paths
}

/// A name that would clear the terminal, with a byte that is not UTF-8.
fn hostile() -> &'static OsStr {
    OsStr::from_bytes(b"\x1b[2J\n\xff")
}

/// What the output shows of [`hostile`].
const ESCAPED: &str = r"\u{1b}[2J\n\xff";
