//! A sandbox goes from one server to another, with its files; the client that had it is told.
//!
//! ```text
//! cargo run --example handoff
//! ```
//!
//! With `SANDBOX_URL` and `OTHER_SANDBOX_URL` two instances of a service do the same.

mod shared;

use std::{io::Write, process::ExitCode};

use actix_sandbox::{Language, LocalServer, ProcessEnd, Sandbox};

#[actix::main]
async fn main() -> ExitCode {
    shared::exit_code(run().await)
}

async fn run() -> Result<(), Box<dyn std::error::Error>> {
    let mut stdout = std::io::stdout();
    // Two servers that share a state directory.
    let state = tempfile::tempdir()?;
    let mut servers = Vec::new();
    let mut urls = Vec::new();
    for variable in ["SANDBOX_URL", "OTHER_SANDBOX_URL"] {
        if let Ok(url) = std::env::var(variable) {
            urls.push(url);
            continue;
        }
        let server = LocalServer::builder().state_directory(state.path());
        let server = server.start().await?;
        urls.push(server.url().to_owned());
        servers.push(server);
    }

    let first = Sandbox::create(&urls[0])
        .enable_sandbox_checkpoint(true)
        .enable_sandbox_handoff(true)
        .enable_auto_reconnect(true)
        .await?;
    let write = "echo 'written on the first server' > note";
    first.run(Language::Bash, write).await?;
    let process = first.exec(Language::Bash, "sleep 1000").await?;
    writeln!(
        stdout,
        "the first client's sandbox is {}",
        first.state().await?
    )?;

    // Another client asks the other server for it.
    let (id, token) = (first.sandbox_id().clone(), first.sandbox_token().clone());
    let second = Sandbox::attach(&urls[1], id, token).await?;
    let note = second.run(Language::Bash, "cat note").await?;
    write!(stdout, "the second client reads: {}", note.stdout)?;

    // The first was told, its process was killed, and it does not take the sandbox back.
    match process.wait().await? {
        ProcessEnd::Killed => writeln!(stdout, "the first client's process was killed")?,
        other => writeln!(stdout, "the first client's process: {other}")?,
    }
    writeln!(
        stdout,
        "the first client's sandbox is {}",
        first.state().await?
    )?;
    if let Err(error) = first.run(Language::Bash, "cat note").await {
        writeln!(stdout, "the first client is refused: {error}")?;
    }
    second.kill().await?;
    Ok(())
}
