//! An actor that drives a sandbox by messages and receives its events.

mod shared;

use std::{io::Write, io::stdout, process::ExitCode};

use actix::prelude::*;
use actix_sandbox::actor::{Exec, KillSandbox, Open, SandboxActor, Subscribe, Wait};
use actix_sandbox::{Error, Language, Sandbox, SandboxEvent};

/// Runs one script in a sandbox, and prints the events.
struct Grader(Addr<SandboxActor>);

impl Actor for Grader {
    type Context = Context<Self>;
}

impl Handler<SandboxEvent> for Grader {
    type Result = ();

    fn handle(&mut self, event: SandboxEvent, _: &mut Self::Context) {
        let _ = writeln!(stdout(), "[event] {event:?}");
    }
}

/// Runs a script. The reply contains its output and how it ended.
#[derive(Message)]
#[rtype(result = "Result<String, Error>")]
struct Grade(&'static str);

impl Handler<Grade> for Grader {
    type Result = ResponseFuture<Result<String, Error>>;

    fn handle(&mut self, Grade(script): Grade, ctx: &mut Self::Context) -> Self::Result {
        let (sandbox, events) = (self.0.clone(), ctx.address().recipient());
        Box::pin(async move {
            sandbox.send(Subscribe(events)).await?;
            sandbox.send(Open).await??;
            let process = sandbox.send(Exec::new(Language::Python, script)).await??;
            let printed = process.output.stdout().read_all().await?;
            let end = process.actor.send(Wait).await??;
            sandbox.send(KillSandbox).await??;
            Ok(format!("{:?}, {end}", String::from_utf8_lossy(&printed)))
        })
    }
}

#[actix::main]
async fn main() -> ExitCode {
    // `namespace` and `gvisor` start this program again, as the agent of each sandbox.
    actix_sandbox::server::agent();
    shared::exit_code(run().await)
}

async fn run() -> Result<(), Box<dyn std::error::Error>> {
    let (url, _server) = shared::server().await?;
    let sandbox = Sandbox::create(url).into_actor()?.start();
    let script = Grade("print(sum(range(10)))");
    let grade = Grader(sandbox).start().send(script).await??;
    writeln!(stdout(), "graded: {grade}")?;
    Ok(())
}
