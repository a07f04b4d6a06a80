//! The life of processes and sandboxes: kill a process, run another, kill the sandbox.
//!
//! ```text
//! cargo run --example lifecycle
//! ```

mod shared;

use std::{io::Write, process::ExitCode};

use actix_sandbox::{Error, Language, LocalServer, OutputExt, Sandbox};
use futures::StreamExt;

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
    let sandbox = Sandbox::create(url).await?;
    writeln!(stdout, "the sandbox is {}", sandbox.state().await?)?;

    // A process that would run forever, and is killed with its children.
    let process = sandbox
        .exec(Language::Bash, "sleep 1000 & echo started; wait")
        .await?;
    let first_line = process.stdout().lines().next().await;
    writeln!(stdout, "the first process printed {first_line:?}")?;

    // A server that speaks protocol v1 runs one at a time, and refuses.
    match sandbox.run(Language::Bash, "echo me too").await {
        Ok(second) => write!(
            stdout,
            "a second one at the same time printed {}",
            second.stdout
        )?,
        Err(error) => writeln!(stdout, "a second one at the same time: {error}")?,
    }

    process.kill().await?;
    writeln!(stdout, "the first process was {}", process.wait().await?)?;

    // The sandbox goes on.
    let output = sandbox.run(Language::Python, "print(6 * 7)").await?;
    write!(stdout, "the next process printed {}", output.stdout)?;

    let refused = sandbox.exec("cobol", "DISPLAY 'HI'.").await;
    writeln!(
        stdout,
        "a language that it does not have: {}",
        reason(refused)
    )?;

    sandbox.kill().await?;
    writeln!(stdout, "the sandbox is {}", sandbox.state().await?)?;
    let refused = sandbox.exec(Language::Bash, "echo too late").await;
    writeln!(stdout, "after that: {}", reason(refused))?;
    Ok(())
}

/// What the error of something refused says.
fn reason<T>(refused: Result<T, Error>) -> String {
    match refused {
        Ok(_) => "was granted, against all expectation".to_owned(),
        Err(error) => error.to_string(),
    }
}
