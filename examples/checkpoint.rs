//! Stores a whole sandbox, ends it, and resumes it later.
//!
//! ```text
//! cargo run --example checkpoint
//! ```
//!
//! On a deployed service, a checkpoint also holds background processes. On the local server it does
//! so with `ACTIX_SANDBOX_BACKEND=gvisor`, which needs root and `runsc`. The other backends store
//! only files.

mod shared;

use std::{error::Error, io::Write, io::stdout, process::ExitCode};

use actix_sandbox::{Language, Sandbox};

/// Counts in the background. `mv` replaces the file at once, so a reader never sees half of it.
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
    // `namespace` and `gvisor` start this program again, as the agent of each sandbox.
    actix_sandbox::server::agent();
    shared::exit_code(run().await)
}

async fn run() -> Result<(), Box<dyn Error>> {
    let (url, _server) = shared::server().await?;
    let sandbox = Sandbox::create(&url).checkpoint(true).await?;
    let code = format!("echo 'day one' > diary; {COUNT}");
    sandbox.run(Language::Bash, code).await?;

    // The server refuses a checkpoint while a process runs.
    let process = sandbox.exec(Language::Bash, "read line").await?;
    if let Err(error) = sandbox.checkpoint().await {
        writeln!(stdout(), "not now: {error}")?;
    }
    process.write_to_stdin("\n").await?;
    process.wait().await?;
    sandbox.checkpoint().await?;
    writeln!(stdout(), "the sandbox is {}", sandbox.state())?;

    // Any program that has the id and the token can attach, at any time.
    let (id, token) = (sandbox.sandbox_id(), sandbox.sandbox_token());
    let again = Sandbox::attach(&url, id.clone(), token.clone()).await?;
    writeln!(stdout(), "the sandbox is {} again", again.state())?;
    let code = format!("echo 'day two' >> diary; cat diary; {WATCH}");
    let output = again.run(Language::Bash, code).await?;
    write!(stdout(), "{}", output.stdout_str()?)?;

    // A kill also removes the checkpoint.
    again.kill().await?;
    writeln!(stdout(), "the sandbox is {}", again.state())?;
    Ok(())
}
