//! The life of processes and sandboxes: kill a process, run another, kill the sandbox.
//!
//! ```text
//! cargo run --example lifecycle
//! ```

mod shared;

use std::{error::Error, io::Write, io::stdout, process::ExitCode};

use actix_sandbox::{Language, Sandbox};
use futures::StreamExt;

#[actix::main]
async fn main() -> ExitCode {
    // `namespace` and `gvisor` start this program again, as the agent of each sandbox.
    actix_sandbox::server::agent();
    shared::exit_code(run().await)
}

async fn run() -> Result<(), Box<dyn Error>> {
    let (url, _server) = shared::server().await?;
    let sandbox = Sandbox::create(url).await?;
    writeln!(stdout(), "the sandbox is {}", sandbox.state())?;

    // This process would run forever. A kill also ends its children.
    let code = "sleep 1000 & echo started; wait";
    let process = sandbox.exec(Language::Bash, code).await?;
    let line = process.stdout().lines().next().await;
    writeln!(stdout(), "the first process printed {line:?}")?;

    // A server that speaks protocol v1 refuses a second process at the same time.
    let second = match sandbox.run(Language::Bash, "printf 'me too'").await {
        Ok(output) => format!(" printed {}", output.stdout_str()?),
        Err(error) => format!(": {error}"),
    };
    writeln!(stdout(), "a second one at the same time{second}")?;

    process.kill().await?;
    writeln!(stdout(), "the first process was {}", process.wait().await?)?;

    let output = sandbox.run(Language::Python, "print(6 * 7)").await?;
    write!(
        stdout(),
        "the next process printed {}",
        output.stdout_str()?
    )?;

    if let Err(error) = sandbox.exec("cobol", "DISPLAY 'HI'.").await {
        writeln!(stdout(), "a language that the server lacks: {error}")?;
    }

    sandbox.kill().await?;
    writeln!(stdout(), "the sandbox is {}", sandbox.state())?;
    if let Err(error) = sandbox.exec(Language::Bash, "echo too late").await {
        writeln!(stdout(), "after that: {error}")?;
    }
    Ok(())
}
