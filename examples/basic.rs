//! Creates a sandbox, runs python and bash in it, streams both outputs as they come, and answers on stdin.
//!
//! Starts a local server, unless `SANDBOX_URL` names another:
//!
//! ```text
//! cargo run --example basic
//! SANDBOX_URL=wss://my-service.run.app cargo run --example basic
//! ```

use actix_sandbox::{Error, Language, LocalServer, OutputExt, Process, Sandbox};
use futures::{StreamExt, future::try_join};

#[actix::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (url, _server) = match std::env::var("SANDBOX_URL") {
        Ok(url) => (url, None),
        Err(_) => {
            let server = LocalServer::start().await?;
            println!("local server at {}", server.url());
            (server.url().to_owned(), Some(server))
        }
    };

    let sandbox = Sandbox::create(url).await?;
    println!("created {}", sandbox.sandbox_id());

    println!("--- python, output as it comes");
    let code = "
import sys, time
for i in range(3):
    print('tick', i, flush=True)
    time.sleep(0.2)
print('this goes to stderr', file=sys.stderr)
";
    show(&sandbox.exec(Language::Python, code).await?).await?;

    println!("--- bash, with stdin");
    let process = sandbox
        .exec(
            Language::Bash,
            "read -p 'name? ' name; echo \"hello, $name\"; exit 3",
        )
        .await?;
    process.write_to_stdin("world\n").await?;
    show(&process).await?;

    println!("--- all at once");
    let output = sandbox
        .run(Language::Bash, "echo one; echo two >&2")
        .await?;
    println!("stdout {:?}, stderr {:?}", output.stdout, output.stderr);

    sandbox.kill().await?;
    println!("killed {}", sandbox.sandbox_id());
    Ok(())
}

/// Prints both streams line by line as they come, then how the process ended.
async fn show(process: &Process) -> Result<(), Error> {
    let print = async |name, output: actix_sandbox::OutputStream| {
        let mut lines = output.lines();
        while let Some(line) = lines.next().await {
            println!("{name} {}", line?);
        }
        Ok::<(), Error>(())
    };
    try_join(
        print("stdout>", process.stdout()),
        print("stderr>", process.stderr()),
    )
    .await?;
    println!("the process {}", process.wait().await?);
    Ok(())
}
