//! Creates a sandbox, runs Python and bash in it, streams the output, and writes to stdin.
//!
//! ```text
//! cargo run --example basic               # starts a local server
//! SANDBOX_URL=wss://my-service.run.app cargo run --example basic
//! ```

mod shared;

use std::io::{Write, stderr, stdout};
use std::{error::Error, process::ExitCode};

use actix_sandbox::{Language, Process, Sandbox, StdStream};
use futures::StreamExt;

const COUNT: &str = "
import sys, time
for i in range(3):
    print('tick', i, flush=True)
    time.sleep(0.2)
print('this goes to stderr', file=sys.stderr)
";

#[actix::main]
async fn main() -> ExitCode {
    // `namespace` and `gvisor` start this program again, as the agent of each sandbox.
    actix_sandbox::server::agent();
    shared::exit_code(run().await)
}

async fn run() -> Result<(), Box<dyn Error>> {
    let (url, _server) = shared::server().await?;
    let sandbox = Sandbox::create(url).await?;
    writeln!(stdout(), "created {}", sandbox.sandbox_id())?;

    show(&sandbox.exec(Language::Python, COUNT).await?).await?;
    let greet = "read name; echo hello, $name; exit 3";
    let process = sandbox.exec(Language::Bash, greet).await?;
    process.write_to_stdin("world\n").await?;
    show(&process).await?;

    let code = "echo one; echo two >&2";
    let output = sandbox.run(Language::Bash, code).await?;
    let (out, err) = (output.stdout_str()?, output.stderr_str()?);
    writeln!(stdout(), "stdout {out:?}, stderr {err:?}")?;

    sandbox.kill().await?;
    Ok(writeln!(stdout(), "killed {}", sandbox.sandbox_id())?)
}

/// Prints both streams in order of arrival, then how the process ended.
async fn show(process: &Process) -> Result<(), Box<dyn Error>> {
    let mut output = process.merged_output();
    while let Some(piece) = output.next().await {
        match piece? {
            (StdStream::Stdout, bytes) => stdout().write_all(&bytes)?,
            (StdStream::Stderr, bytes) => stderr().write_all(&bytes)?,
        }
    }
    writeln!(stdout(), "the process {}", process.wait().await?)?;
    Ok(())
}
