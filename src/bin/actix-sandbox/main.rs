//! The command `actix-sandbox`.

mod serve;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Sandboxes for code that nobody trusts.
#[derive(Parser)]
#[command(name = "actix-sandbox", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Runs a server of sandboxes until it is told to stop.
    Serve(Box<serve::Serve>),
}

fn main() -> ExitCode {
    let Arguments { command } = Arguments::parse();
    let done = match command {
        Command::Serve(serve) => serve.run(),
    };
    match done {
        Ok(code) => code,
        Err(reason) => {
            eprintln!("actix-sandbox: {reason}");
            ExitCode::FAILURE
        }
    }
}
