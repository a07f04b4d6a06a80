//! Prepares a sandbox once, stores its files under a name, and starts others from them.
//!
//! ```text
//! cargo run --example filesystem_snapshot
//! ```
//!
//! A sandbox that has a root directory of its own may write there as well, and the snapshot holds that. The default backend
//! of the local server has none; `ACTIX_SANDBOX_BACKEND=auto` lets it take the best one that works on this machine.

mod shared;

use std::{io::Write, process::ExitCode};

use actix_sandbox::{Language, LocalServer, Sandbox};

#[actix::main]
async fn main() -> ExitCode {
    shared::exit_code(run().await)
}

async fn run() -> Result<(), Box<dyn std::error::Error>> {
    let mut stdout = std::io::stdout();
    let (url, server) = match std::env::var("SANDBOX_URL") {
        Ok(url) => (url, None),
        Err(_) => {
            let server = LocalServer::start().await?;
            (server.url().to_owned(), Some(server))
        }
    };
    // There `/` is that of this machine.
    let has_root = server
        .as_ref()
        .is_none_or(|server| server.backend() != "host");
    // What takes long is done once.
    let prepared = Sandbox::create(&url).await?;
    let prepare = "mkdir data && seq 1 1000 > data/numbers && echo ready";
    let output = prepared.run(Language::Bash, prepare).await?;
    write!(stdout, "the first sandbox is {}", output.stdout)?;
    let elsewhere = match has_root {
        true => "echo in /tmp > /tmp/file; echo in / > /file",
        false => "echo in TMPDIR > $TMPDIR/file",
    };
    prepared.run(Language::Bash, elsewhere).await?;
    prepared.snapshot_filesystem("prepared").await?;
    writeln!(stdout, "its files are stored as `prepared`")?;

    // Each starts from the same files, and changes only its own.
    for _ in 0..2 {
        let sandbox = Sandbox::create(&url)
            .filesystem_snapshot_name("prepared")
            .await?;
        let sum = "print(sum(map(int, open('data/numbers'))))";
        let output = sandbox.run(Language::Python, sum).await?;
        write!(stdout, "another sandbox adds them up: {}", output.stdout)?;
        let read = match has_root {
            true => "cat /tmp/file /file; rm -r data /tmp/file /file",
            false => "cat $TMPDIR/file; rm -r data $TMPDIR/file",
        };
        let output = sandbox.run(Language::Bash, read).await?;
        write!(stdout, "{}", output.stdout)?;
        sandbox.kill().await?;
    }

    let missing = Sandbox::create(&url).filesystem_snapshot_name("misspelt");
    match missing.await {
        Ok(_) => writeln!(
            stdout,
            "there is a snapshot `misspelt`, against all expectation"
        )?,
        Err(error) => writeln!(stdout, "a name that nobody gave: {error}")?,
    }
    prepared.kill().await?;
    Ok(())
}
