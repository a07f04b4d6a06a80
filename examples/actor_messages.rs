//! A program made of actors: one of its own drives a sandbox by messages, and receives its events.
//!
//! ```text
//! cargo run --example actor_messages
//! ```

mod shared;

use std::{io::Write, process::ExitCode};

use actix::prelude::*;
use actix_sandbox::{
    Error, Language, LocalServer, ProcessEnd, Sandbox, SandboxEvent,
    actor::{Exec, KillSandbox, Open, SandboxActor, Subscribe, Wait},
};
use futures::StreamExt;

/// Runs one script in a sandbox and prints every event on the way.
struct Grader {
    sandbox: Addr<SandboxActor>,
}

impl Actor for Grader {
    type Context = Context<Self>;
}

impl Handler<SandboxEvent> for Grader {
    type Result = ();

    fn handle(&mut self, event: SandboxEvent, _: &mut Self::Context) {
        let line = match event {
            SandboxEvent::State(state) => format!("the sandbox is {state}"),
            SandboxEvent::ProcessStarted(process) => format!("{process} started"),
            SandboxEvent::ProcessEnded { process, end, .. } => format!("{process} {end}"),
            _ => return,
        };
        // Where the reader of the output is gone, `run` finds out.
        let _ = writeln!(std::io::stdout(), "[event] {line}");
    }
}

/// "Grade this script": answered with what it printed, and how it ended.
#[derive(Message)]
#[rtype(result = "Result<(String, ProcessEnd), Error>")]
struct Grade(&'static str);

impl Handler<Grade> for Grader {
    type Result = ResponseFuture<Result<(String, ProcessEnd), Error>>;

    fn handle(&mut self, Grade(script): Grade, ctx: &mut Self::Context) -> Self::Result {
        let sandbox = self.sandbox.clone();
        let events = ctx.address().recipient();
        Box::pin(async move {
            sandbox.send(Subscribe(events)).await?;
            sandbox.send(Open).await??;
            let process = sandbox.send(Exec::new(Language::Python, script)).await??;
            let mut printed = String::new();
            let mut stdout = process.output.stdout();
            while let Some(piece) = stdout.next().await {
                printed += &String::from_utf8_lossy(&piece?);
            }
            let end = process.actor.send(Wait).await??;
            sandbox.send(KillSandbox).await??;
            Ok((printed, end))
        })
    }
}

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
    let sandbox = Sandbox::create(url).into_actor()?.start();
    let grader = Grader { sandbox }.start();
    let (printed, end) = grader.send(Grade("print(sum(range(10)))")).await??;
    writeln!(stdout, "graded: {printed:?}, {end}")?;
    Ok(())
}
