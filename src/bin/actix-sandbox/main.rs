//! The command `actix-sandbox`.

#[cfg(unix)]
mod bench;
#[cfg(unix)]
mod doctor;
#[cfg(target_os = "linux")]
mod init;
#[cfg(unix)]
mod logging;
#[cfg(unix)]
mod serve;
#[cfg(unix)]
mod shared;

use std::process::ExitCode;

#[cfg(unix)]
use clap::{Parser, Subcommand};

/// Runs sandboxes for untrusted code: a local server, a benchmark and a check of the machine.
#[cfg(unix)]
#[derive(Parser)]
#[command(name = "actix-sandbox", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[cfg(unix)]
#[derive(Subcommand)]
enum Command {
    /// Runs a sandbox server until it receives SIGTERM or SIGINT.
    Serve(Box<serve::Serve>),
    /// Benchmarks a service or a local server: runs many sandboxes at once and measures each step.
    Bench(Box<bench::Bench>),
    // Its help is at the type.
    Doctor(doctor::Doctor),
}

#[cfg(unix)]
fn main() -> ExitCode {
    actix_sandbox::server::agent();
    let Arguments { command } = Arguments::parse();
    let done = match command {
        #[cfg(target_os = "linux")]
        Command::Serve(_) if init::is_init() => init::run(),
        Command::Serve(serve) => serve.run(),
        Command::Bench(bench) => bench.run(),
        Command::Doctor(doctor) => doctor.run(),
    };
    match done {
        Ok(code) => code,
        Err(reason) => {
            shared::say(reason);
            ExitCode::FAILURE
        }
    }
}

#[cfg(not(unix))]
fn main() -> ExitCode {
    eprintln!("actix-sandbox: this command only runs on Unix");
    ExitCode::FAILURE
}
