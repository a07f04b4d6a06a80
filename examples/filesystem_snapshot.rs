//! Prepares files once, stores them under a name, and starts other sandboxes from them.
//!
//! ```text
//! cargo run --example filesystem_snapshot
//! ```
//!
//! A snapshot holds the root directory of the sandbox. With `host`, the default backend of the
//! local server, `/` is the root directory of this machine, so a snapshot holds only `HOME` and
//! `TMPDIR`. `ACTIX_SANDBOX_BACKEND=auto` selects the strongest backend that works.

mod shared;

use std::{error::Error, io::Write, io::stdout, process::ExitCode};

use actix_sandbox::{Language, Sandbox};

#[actix::main]
async fn main() -> ExitCode {
    // `namespace` and `gvisor` start this program again, as the agent of each sandbox.
    actix_sandbox::server::agent();
    shared::exit_code(run().await)
}

async fn run() -> Result<(), Box<dyn Error>> {
    let (url, server) = shared::server().await?;
    let on_host = matches!(&server, Some(server) if server.backend() == "host");
    let files = if on_host { "$TMPDIR" } else { "/tmp /" };

    let prepared = Sandbox::create(&url).await?;
    let numbers = "mkdir data && seq 1 1000 > data/numbers && echo ready";
    let output = prepared.run(Language::Bash, numbers).await?;
    write!(stdout(), "the first sandbox is {}", output.stdout_str()?)?;
    let write = format!("for d in {files}; do echo in $d > $d/file; done");
    prepared.run(Language::Bash, write).await?;
    prepared.snapshot_filesystem("prepared").await?;
    writeln!(stdout(), "its files are stored as `prepared`")?;

    // Each sandbox starts from the same files, and changes only its own copy.
    for _ in 0..2 {
        let sandbox = Sandbox::create(&url).snapshot("prepared").await?;
        let sum = "print(sum(map(int, open('data/numbers'))))";
        let output = sandbox.run(Language::Python, sum).await?;
        let sum = output.stdout_str()?;
        write!(stdout(), "another sandbox adds them up: {sum}")?;
        let read = format!("for d in {files}; do cat $d/file; done; rm -r data");
        let output = sandbox.run(Language::Bash, read).await?;
        write!(stdout(), "{}", output.stdout_str()?)?;
        sandbox.kill().await?;
    }

    if let Err(error) = Sandbox::create(&url).snapshot("misspelt").await {
        writeln!(stdout(), "a name that does not exist: {error}")?;
    }
    prepared.kill().await?;
    Ok(())
}
