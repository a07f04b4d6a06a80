//! A connection breaks in the middle of the output, and the client reconnects. A fault-injecting
//! proxy between the client and the local server cuts the connection.
//!
//! ```text
//! cargo run --example reconnect
//! ```

mod shared;

use std::{error::Error, io::Write, io::stdout, process::ExitCode};

use actix_sandbox::{Language, LocalServer, Sandbox, SandboxEvent, test_util::Proxy};
use futures::StreamExt;

#[actix::main]
async fn main() -> ExitCode {
    // `namespace` and `gvisor` start this program again, as the agent of each sandbox.
    actix_sandbox::server::agent();
    shared::exit_code(run().await)
}

async fn run() -> Result<(), Box<dyn Error>> {
    let server = LocalServer::start().await?;
    let proxy = Proxy::builder(server.address()).start().await?;
    let url = proxy.url_for(server.url());
    let sandbox = Sandbox::create(url).auto_reconnect(true).await?;

    let mut events = sandbox.events();
    actix::spawn(async move {
        while let Some(event) = events.next().await {
            let line = match event {
                SandboxEvent::Reconnecting { cause, .. } => format!("lost ({cause})"),
                SandboxEvent::Reconnected => "back".to_owned(),
                _ => continue,
            };
            // If stdout is closed, `run` returns the error.
            let _ = writeln!(stdout(), "[link] {line}");
        }
    });

    let echo = "while read line; do echo \"the process read: $line\"; done";
    let process = sandbox.exec(Language::Bash, echo).await?;
    let mut lines = process.stdout().lines();
    for word in ["one", "two", "three"] {
        // While the connection is lost, the client queues the input.
        process.write_to_stdin(format!("{word}\n")).await?;
        if let Some(line) = lines.next().await {
            writeln!(stdout(), "{}", line?)?;
        }
        if word != "three" {
            proxy.cut();
        }
    }
    sandbox.kill().await?;
    writeln!(stdout(), "the process was: {}", process.wait().await?)?;
    Ok(())
}
