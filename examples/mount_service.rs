//! Mounts the sandbox service into an actix-web application, next to the application's own routes.
//! Clients need an access token. The program then acts as a client: it creates a sandbox with the
//! token, and shows that a create without the token fails. It needs a backend that confines code.
//!
//! ```text
//! cargo run --example mount_service
//! ```

mod shared;

use std::{error::Error, io::Write, io::stdout, process::ExitCode};

use actix_sandbox::{
    Language, Sandbox,
    server::{Backend, SandboxService},
};
use actix_web::{App, HttpServer, rt, web};
use futures::StreamExt;

#[actix_web::main]
async fn main() -> ExitCode {
    // `namespace` and `gvisor` start this program again, as the agent of each sandbox.
    actix_sandbox::server::agent();
    shared::exit_code(run().await)
}

async fn run() -> Result<(), Box<dyn Error>> {
    // Without a token, every caller that reaches the application could run code.
    let mut random = [0; 16];
    getrandom::fill(&mut random)?;
    let token = format!("{:032x}", u128::from_ne_bytes(random));
    let builder = SandboxService::builder().access_token(token.clone());
    let builder = builder.backend(Backend::Confined).max_sandboxes(10);
    let service = builder.service().await?;

    let mounted = service.clone();
    let server = HttpServer::new(move || {
        App::new()
            .route("/", web::get().to(async || "the application's own page"))
            .service(web::scope("/sandboxes").configure(mounted.configure()))
    });
    // `tcp_nodelay`: output must not wait for the acknowledgement of earlier output.
    let server = server.tcp_nodelay(true).bind(("127.0.0.1", 0))?;
    let url = format!("http://{}/sandboxes", server.addrs()[0]);
    let server = server.run();
    let handle = server.handle();
    rt::spawn(server);

    let bearer = format!("Bearer {token}");
    let sandbox = Sandbox::create(&url).header("Authorization", bearer);
    let sandbox = sandbox.await?;
    let output = sandbox.run(Language::Python, "print(6 * 7)").await?;
    write!(stdout(), "the client reads {}", output.stdout_str()?)?;
    writeln!(stdout(), "sandboxes: {}", service.sandbox_count())?;
    if let Err(error) = Sandbox::create(&url).await {
        writeln!(stdout(), "without the token: {error}")?;
    }

    // The service deletes its sandboxes and tells their clients. Then the application stops.
    service.stop().await;
    let end = sandbox.events().next().await;
    writeln!(stdout(), "after the stop: {end:?}")?;
    handle.stop(false).await;
    Ok(())
}
