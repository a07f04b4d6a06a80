//! The subcommands, and what they share.

mod attach;
mod attached;
mod bench;
mod code;
mod completions;
mod config;
mod create;
mod doctor;
mod escape;
mod exec;
mod failure;
mod files;
mod forward;
#[cfg(target_os = "linux")]
mod init;
mod input;
mod inspect;
mod kept;
mod kill;
mod known;
mod list;
mod logging;
mod notices;
mod operation;
mod output;
mod prefix;
mod process;
mod run;
mod runtime;
mod serve;
mod service;
mod session;
mod shared;
mod shell;
mod signals;
mod store;
mod terminal;
mod top;
mod usage;

use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

const ABOUT: &str = "Runs untrusted code in sandboxes.

`run` and `shell` use the service that --url, the variable SANDBOX_URL or the configuration file \
(~/.config/actix-sandbox/config.toml) names. Without one, they start a confined local server that \
ends with the command. `create` and `list` need a service: `serve` starts one. Commands that take \
the id of a sandbox use the service on which it was created.";

/// Runs untrusted code in sandboxes.
#[derive(Parser)]
#[command(name = "actix-sandbox", version, long_about = ABOUT, max_term_width = 100)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

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

/// Runs the command that the arguments name.
pub(crate) fn main() -> ExitCode {
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
