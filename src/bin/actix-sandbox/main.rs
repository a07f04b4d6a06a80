//! The command `actix-sandbox`.

#[cfg(unix)]
mod attach;
#[cfg(unix)]
mod attached;
#[cfg(unix)]
mod bench;
#[cfg(unix)]
mod code;
#[cfg(unix)]
mod completions;
#[cfg(unix)]
mod config;
#[cfg(unix)]
mod create;
#[cfg(unix)]
mod doctor;
#[cfg(unix)]
mod escape;
#[cfg(unix)]
mod exec;
#[cfg(unix)]
mod failure;
#[cfg(unix)]
mod files;
#[cfg(unix)]
mod forward;
#[cfg(target_os = "linux")]
mod init;
#[cfg(unix)]
mod input;
#[cfg(unix)]
mod inspect;
#[cfg(unix)]
mod kept;
#[cfg(unix)]
mod kill;
#[cfg(unix)]
mod known;
#[cfg(unix)]
mod list;
#[cfg(unix)]
mod logging;
#[cfg(unix)]
mod notices;
#[cfg(unix)]
mod operation;
#[cfg(unix)]
mod output;
#[cfg(unix)]
mod prefix;
#[cfg(unix)]
mod process;
#[cfg(unix)]
mod run;
#[cfg(unix)]
mod runtime;
#[cfg(unix)]
mod serve;
#[cfg(unix)]
mod service;
#[cfg(unix)]
mod session;
#[cfg(unix)]
mod shared;
#[cfg(unix)]
mod shell;
#[cfg(unix)]
mod signals;
#[cfg(unix)]
mod store;
#[cfg(unix)]
mod terminal;
#[cfg(unix)]
mod top;
#[cfg(unix)]
mod usage;

use std::process::ExitCode;

#[cfg(unix)]
use clap::{CommandFactory, Parser, Subcommand};

#[cfg(unix)]
const ABOUT: &str = "Runs untrusted code in sandboxes.

`run` and `shell` use the service that --url, the variable SANDBOX_URL or the configuration file \
(~/.config/actix-sandbox/config.toml) names. Without one, they start a confined local server that \
ends with the command. `create` and `list` need a service: `serve` starts one. Commands that take \
the id of a sandbox use the service on which it was created.";

/// Runs untrusted code in sandboxes.
#[cfg(unix)]
#[derive(Parser)]
#[command(name = "actix-sandbox", version, long_about = ABOUT, max_term_width = 100)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[cfg(unix)]
#[derive(Subcommand)]
enum Command {
    /// Runs code in a new sandbox and exits with the exit status of the code.
    Run(Box<run::Run>),
    /// Opens a terminal in a new or existing sandbox.
    Shell(Box<shell::Shell>),
    /// Creates a sandbox that outlives the command, and prints its id.
    Create(Box<create::Create>),
    /// Lists the sandboxes of a service, or your own.
    List(list::List),
    // Its help is at the type.
    Inspect(inspect::Inspect),
    /// Runs a program in a sandbox.
    Exec(Box<exec::Exec>),
    /// Resumes a process, restores a checkpointed sandbox, or adds a sandbox to your sandboxes.
    Attach(attach::Attach),
    /// Kills sandboxes, or a process in one.
    Kill(kill::Kill),
    /// Copies files and directories between this machine and a sandbox.
    Cp(files::Copy),
    /// Lists the files of a directory in a sandbox.
    Ls(files::List),
    /// Writes files of a sandbox to standard output.
    Cat(files::Cat),
    /// Prints the changes of files in a sandbox as they happen.
    Watch(files::Watch),
    /// Forwards local ports to ports of a sandbox.
    Forward(forward::Forward),
    /// Shows the CPU, memory, disk and processes of your sandboxes.
    Top(top::Top),
    /// Stores the files of a sandbox. New sandboxes can start with them.
    Snapshot(store::Snapshot),
    /// Stores a sandbox and ends it. The next command that uses it restores it.
    Checkpoint(store::Checkpoint),
    /// Runs a sandbox server until a signal ends it.
    Serve(Box<serve::Serve>),
    /// Benchmarks a service or a local server: runs many sandboxes at once and measures each step.
    Bench(Box<bench::Bench>),
    // Its help is at the type.
    Doctor(doctor::Doctor),
    /// Prints the completions for a shell.
    Completions(completions::Completions),
    /// Writes the man pages to a directory.
    Man(completions::Man),
}

#[cfg(unix)]
fn main() -> ExitCode {
    actix_sandbox::server::agent();
    let Arguments { command } = Arguments::parse();
    let done = match command {
        Command::Run(run) => run.run(),
        Command::Shell(shell) => shell.run(),
        Command::Create(create) => create.run(),
        Command::List(list) => list.run(),
        Command::Inspect(inspect) => inspect.run(),
        Command::Exec(exec) => exec.run(),
        Command::Attach(attach) => attach.run(),
        Command::Kill(kill) => kill.run(),
        Command::Cp(copy) => copy.run(),
        Command::Ls(list) => list.run(),
        Command::Cat(cat) => cat.run(),
        Command::Watch(watch) => watch.run(),
        Command::Forward(forward) => forward.run(),
        Command::Top(top) => top.run(),
        Command::Snapshot(snapshot) => snapshot.run(),
        Command::Checkpoint(checkpoint) => checkpoint.run(),
        #[cfg(target_os = "linux")]
        Command::Serve(_) if init::is_init() => init::run().map_err(Into::into),
        Command::Serve(serve) => serve.run(),
        Command::Bench(bench) => bench.run(),
        Command::Doctor(doctor) => doctor.run(),
        Command::Completions(completions) => completions.run(Arguments::command()),
        Command::Man(man) => man.run(Arguments::command()),
    };
    done.unwrap_or_else(failure::Failure::report)
}

#[cfg(not(unix))]
fn main() -> ExitCode {
    eprintln!("actix-sandbox: this command only runs on Unix");
    ExitCode::FAILURE
}
