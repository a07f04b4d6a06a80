//! A link that breaks in the middle of the output, and comes back: the example cuts it itself, through a
//! little proxy before the server.
//!
//! ```text
//! cargo run --example reconnect
//! ```

mod shared;

use std::{io::Write, process::ExitCode};

use actix::prelude::*;
use actix_sandbox::{Language, LocalServer, OutputExt, Sandbox, SandboxEvent};
use futures::StreamExt;
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    sync::watch,
};

/// Prints what happens to the link.
struct Events;

impl Actor for Events {
    type Context = Context<Self>;
}

impl Handler<SandboxEvent> for Events {
    type Result = ();

    fn handle(&mut self, event: SandboxEvent, _: &mut Context<Self>) {
        let line = match event {
            SandboxEvent::Reconnecting { attempt, cause, .. } => {
                format!("lost ({cause}); attempt {attempt} follows")
            }
            SandboxEvent::Reconnected => "back".to_owned(),
            _ => return,
        };
        // Where the reader of the output is gone, `run` finds out.
        let _ = writeln!(std::io::stdout(), "[link] {line}");
    }
}

#[actix::main]
async fn main() -> ExitCode {
    shared::exit_code(run().await)
}

async fn run() -> Result<(), Box<dyn std::error::Error>> {
    let mut stdout = std::io::stdout();
    let server = LocalServer::start().await?;
    let (cut, proxy) = proxy(server.address()).await?;
    let url = server.url().replace(&server.address().to_string(), &proxy);
    let sandbox = Sandbox::create(url).enable_auto_reconnect(true).await?;
    sandbox.subscribe(Events.start().recipient()).await?;

    let script = "while read line; do echo \"the process read: $line\"; done";
    let process = sandbox.exec(Language::Bash, script).await?;
    let mut lines = process.stdout().lines();
    for word in ["one", "two", "three"] {
        // Written while the link is down, it waits for the link.
        process.write_to_stdin(format!("{word}\n")).await?;
        if let Some(line) = lines.next().await {
            writeln!(stdout, "{}", line?)?;
        }
        if word != "three" {
            cut.send_replace(());
            tokio::task::yield_now().await;
        }
    }
    sandbox.kill().await?;
    writeln!(stdout, "the process was: {}", process.wait().await?)?;
    Ok(())
}

/// Passes bytes on to the server, until it is told to cut what it has.
async fn proxy(server: std::net::SocketAddr) -> std::io::Result<(watch::Sender<()>, String)> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?.to_string();
    let (cut, is_cut) = watch::channel(());
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let mut is_cut = is_cut.clone();
            is_cut.mark_unchanged();
            tokio::spawn(async move {
                let mut server = TcpStream::connect(server).await?;
                tokio::select! {
                    copied = copy_bidirectional(&mut client, &mut server) => copied.map(drop),
                    _ = is_cut.changed() => Ok(()),
                }
            });
        }
    });
    Ok((cut, address))
}
