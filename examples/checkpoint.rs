//! Stores a whole sandbox, ends it, and takes it up again later.
//!
//! ```text
//! cargo run --example checkpoint
//! ```
//!
//! With gVisor processes in the background are part of it, as they are in the deployed service; the other backends of the local
//! server store files alone. `ACTIX_SANDBOX_BACKEND=gvisor cargo run --example checkpoint` shows that, as root, where
//! `runsc` is installed.

mod shared;

use std::{io::Write, process::ExitCode};

use actix_sandbox::{Language, LocalServer, Sandbox};

#[actix::main]
async fn main() -> ExitCode {
    shared::exit_code(run().await)
}

async fn run() -> Result<(), Box<dyn std::error::Error>> {
    let mut stdout = std::io::stdout();
    let (url, _server) = match std::env::var("SANDBOX_URL") {
        Ok(url) => (url, None),
        Err(_) => {
            let server = LocalServer::start().await?;
            (server.url().to_owned(), Some(server))
        }
    };
    let sandbox = Sandbox::create(&url)
        .enable_sandbox_checkpoint(true)
        .await?;

    let diary = "echo 'day one' > diary";
    sandbox.run(Language::Bash, diary).await?;
    // It counts in the background, in its memory. The file is whole whenever the sandbox is stored.
    let counter =
        "setsid bash -c 'while :; do echo $((++i)) > new; mv new count; sleep 0.01; done' &
        until [ -s count ]; do sleep 0.01; done";
    sandbox.run(Language::Bash, counter).await?;

    // A process that runs stands in the way.
    let process = sandbox.exec(Language::Bash, "read line").await?;
    if let Err(error) = sandbox.checkpoint().await {
        writeln!(stdout, "not now: {error}")?;
    }
    process.write_to_stdin("\n").await?;
    process.wait().await?;

    sandbox.checkpoint().await?;
    writeln!(stdout, "the sandbox is {}", sandbox.state().await?)?;

    // Id and token are all that is needed, from any program and at any time.
    let (id, token) = (
        sandbox.sandbox_id().clone(),
        sandbox.sandbox_token().clone(),
    );
    drop(sandbox);
    let again = Sandbox::attach(&url, id, token).await?;
    writeln!(stdout, "the sandbox is {} again", again.state().await?)?;
    let diary = "echo 'day two' >> diary; cat diary";
    write!(stdout, "{}", again.run(Language::Bash, diary).await?.stdout)?;
    let watch = "before=$(cat count); for _ in {1..50}; do sleep 0.1; after=$(cat count)
        [ $after -gt $before ] && exec echo goes on counting; done
        echo is gone, and left its files";
    let watched = again.run(Language::Bash, watch).await?;
    write!(stdout, "the process in the background {}", watched.stdout)?;

    // A kill ends it for good, its checkpoint included.
    again.kill().await?;
    writeln!(stdout, "the sandbox is {}", again.state().await?)?;
    Ok(())
}
