//! Creates a sandbox, runs python and bash in it, streams both outputs as they come, and answers on stdin.
//!
//! Starts a local server, unless `SANDBOX_URL` names another:
//!
//! ```text
//! cargo run --example basic
//! SANDBOX_URL=wss://my-service.run.app cargo run --example basic
//! ```

mod shared;

use std::{error::Error, io::Write, process::ExitCode};

use actix_sandbox::{Language, LocalServer, OutputExt, OutputStream, Process, Sandbox};
use futures::{StreamExt, future::try_join};

#[actix::main]
async fn main() -> ExitCode {
    shared::exit_code(run().await)
}

async fn run() -> Result<(), Box<dyn Error>> {
    let mut stdout = std::io::stdout();
    let (url, _server) = match std::env::var("SANDBOX_URL") {
        Ok(url) => (url, None),
        Err(_) => {
            let server = LocalServer::start().await?;
            writeln!(stdout, "local server at {}", server.url())?;
            (server.url().to_owned(), Some(server))
        }
    };

    let sandbox = Sandbox::create(url).await?;
    writeln!(stdout, "created {}", sandbox.sandbox_id())?;

    writeln!(stdout, "--- python, output as it comes")?;
    let code = "
import sys, time
for i in range(3):
    print('tick', i, flush=True)
    time.sleep(0.2)
print('this goes to stderr', file=sys.stderr)
";
    show(&sandbox.exec(Language::Python, code).await?).await?;

    writeln!(stdout, "--- bash, with stdin")?;
    let process = sandbox
        .exec(
            Language::Bash,
            "read -p 'name? ' name; echo \"hello, $name\"; exit 3",
        )
        .await?;
    process.write_to_stdin("world\n").await?;
    show(&process).await?;

    writeln!(stdout, "--- all at once")?;
    let output = sandbox
        .run(Language::Bash, "echo one; echo two >&2")
        .await?;
    writeln!(
        stdout,
        "stdout {:?}, stderr {:?}",
        output.stdout, output.stderr
    )?;

    sandbox.kill().await?;
    writeln!(stdout, "killed {}", sandbox.sandbox_id())?;
    Ok(())
}

/// Prints both streams line by line as they come, then how the process ended.
async fn show(process: &Process) -> Result<(), Box<dyn Error>> {
    let print = async |name, output: OutputStream| {
        let mut stdout = std::io::stdout();
        let mut lines = output.lines();
        while let Some(line) = lines.next().await {
            writeln!(stdout, "{name} {}", line?)?;
        }
        Ok::<(), Box<dyn Error>>(())
    };
    try_join(
        print("stdout>", process.stdout()),
        print("stderr>", process.stderr()),
    )
    .await?;
    let end = process.wait().await?;
    writeln!(std::io::stdout(), "the process {end}")?;
    Ok(())
}
