//! Moves a sandbox with its files from one server to another. Its first client gets the reason.
//!
//! ```text
//! cargo run --example handoff
//! ```
//!
//! To use two instances of a service, set `SANDBOX_URL` and `OTHER_SANDBOX_URL`.

mod shared;

use std::{env, error::Error, io::Write, io::stdout, process::ExitCode};

use actix_sandbox::{Language, LocalServer, Sandbox};

#[actix::main]
async fn main() -> ExitCode {
    // `namespace` and `gvisor` start this program again, as the agent of each sandbox.
    actix_sandbox::server::agent();
    shared::exit_code(run().await)
}

async fn run() -> Result<(), Box<dyn Error>> {
    // Without URLs, two servers that share a state directory.
    let state = tempfile::tempdir()?;
    let (mut urls, mut servers) = (Vec::new(), Vec::new());
    for variable in ["SANDBOX_URL", "OTHER_SANDBOX_URL"] {
        urls.extend(env::var(variable));
    }
    if urls.len() == 1 {
        return Err("set both SANDBOX_URL and OTHER_SANDBOX_URL, or neither".into());
    }
    while urls.len() < 2 {
        let server = LocalServer::builder().state_directory(state.path());
        let server = server.start().await?;
        urls.push(server.url().to_owned());
        servers.push(server);
    }

    let create = Sandbox::create(&urls[0]).checkpoint(true).handoff(true);
    let first = create.auto_reconnect(true).await?;
    let write = "echo 'written on the first server' > note";
    first.run(Language::Bash, write).await?;
    let process = first.exec(Language::Bash, "sleep 1000").await?;
    writeln!(stdout(), "the first client's sandbox is {}", first.state())?;

    // Another client attaches to the sandbox through the other server.
    let (id, token) = (first.sandbox_id().clone(), first.sandbox_token().clone());
    let second = Sandbox::attach(&urls[1], id, token).await?;
    let note = second.run(Language::Bash, "cat note").await?;
    write!(stdout(), "the second client reads: {}", note.stdout_str()?)?;

    // The first client gets the reason, and doesn't reconnect to the sandbox.
    let end = process.wait().await?;
    writeln!(stdout(), "the first client's process: {end}")?;
    writeln!(stdout(), "the first client's sandbox is {}", first.state())?;
    if let Err(error) = first.run(Language::Bash, "cat note").await {
        writeln!(stdout(), "the first client is refused: {error}")?;
    }
    second.kill().await?;
    Ok(())
}
