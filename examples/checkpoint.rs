//! Stores a whole sandbox, ends it, and resumes it later.
//!
//! ```text
//! cargo run --example checkpoint
//! ```
//!
//! With gVisor, a checkpoint holds the processes in the background, as on the deployed service:
//! `ACTIX_SANDBOX_BACKEND=gvisor`, as root, with `runsc` installed. Other backends store only
//! files.

mod shared;

use std::{error::Error, io::Write, io::stdout, process::ExitCode};

use actix_sandbox::{Language, Sandbox};

/// Counts in the background. The file is complete at any time.
const COUNT: &str = "setsid bash -c \
     'while :; do echo $((++i)) > new; mv new count; sleep 0.01; done' &
until [ -s count ]; do sleep 0.01; done";
const WATCH: &str = "what='the process in the background' before=$(cat count)
for _ in {1..50}; do
    sleep 0.1; [ $(cat count) -gt $before ] && exec echo $what goes on counting
done
echo $what is gone, and left its files";

#[actix::main]
async fn main() -> ExitCode {
    shared::exit_code(run().await)
}

async fn run() -> Result<(), Box<dyn Error>> {
    let (url, _server) = shared::server().await?;
    let sandbox = Sandbox::create(&url).checkpoint(true).await?;
    let code = format!("echo 'day one' > diary; {COUNT}");
    sandbox.run(Language::Bash, code).await?;

    // A process that runs prevents a checkpoint.
    let process = sandbox.exec(Language::Bash, "read line").await?;
    if let Err(error) = sandbox.checkpoint().await {
        writeln!(stdout(), "not now: {error}")?;
    }
    process.write_to_stdin("\n").await?;
    process.wait().await?;
    sandbox.checkpoint().await?;
    writeln!(stdout(), "the sandbox is {}", sandbox.state())?;

    // Any program can attach at any time. It needs the id and the token.
    let (id, token) = (sandbox.sandbox_id(), sandbox.sandbox_token());
    let again = Sandbox::attach(&url, id.clone(), token.clone()).await?;
    writeln!(stdout(), "the sandbox is {} again", again.state())?;
    let code = format!("echo 'day two' >> diary; cat diary; {WATCH}");
    let output = again.run(Language::Bash, code).await?;
    write!(stdout(), "{}", output.stdout_str()?)?;

    // A kill removes the checkpoint as well.
    again.kill().await?;
    writeln!(stdout(), "the sandbox is {}", again.state())?;
    Ok(())
}
