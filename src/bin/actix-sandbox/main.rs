//! The command `actix-sandbox`.

#[cfg(unix)]
mod cli;

use std::process::ExitCode;

#[cfg(unix)]
fn main() -> ExitCode {
    cli::main()
}

#[cfg(not(unix))]
fn main() -> ExitCode {
    eprintln!("actix-sandbox: this command only runs on Unix");
    ExitCode::FAILURE
}
