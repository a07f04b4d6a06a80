//! Lifts a service that speaks only protocol v1: exit codes, two processes at once, files and a
//! port, without a change to the service.
//!
//! ```text
//! cargo run --example lift
//! SANDBOX_URL=https://sandbox.example cargo run --example lift
//! ```

mod shared;

use std::{
    error::Error,
    io::{Write, stdout},
    process::ExitCode,
};

use actix_sandbox::{Language, ProtocolVersion, Sandbox};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

#[actix::main]
async fn main() -> ExitCode {
    // `namespace` and `gvisor` start this program again, as the agent of each sandbox.
    actix_sandbox::server::agent();
    shared::exit_code(run().await)
}

async fn run() -> Result<(), Box<dyn Error>> {
    let (url, _server) = shared::server().await?;
    // The local server speaks v2, too. This client doesn't offer it, so the server speaks v1.
    let sandbox = Sandbox::create(&url)
        .max_protocol_version(ProtocolVersion::V1)
        .lift(true)
        .await?;
    writeln!(stdout(), "protocol: {}", sandbox.protocol_version())?;

    sandbox.files().write("in.csv", "a,b\n1,2\n").await?;
    let server = sandbox
        .program("python3")
        .args(["-m", "http.server", "8000"]);
    let server = server.spawn().await?;
    sandbox.wait_for_port(8000).await?;

    let output = sandbox.run(Language::Bash, "wc -l in.csv; exit 3").await?;
    writeln!(stdout(), "{}, {}", output.stdout_str()?.trim(), output.end)?;

    let mut connection = sandbox.connect(8000).await?;
    connection
        .write_all(b"GET /in.csv HTTP/1.0\r\n\r\n")
        .await?;
    let mut answer = String::new();
    connection.read_to_string(&mut answer).await?;
    let body = answer.rsplit("\r\n").next().unwrap_or_default();
    write!(stdout(), "from the port: {body}")?;

    server.kill().await?;
    writeln!(stdout(), "the server: {}", server.wait().await?)?;
    sandbox.kill().await?;
    Ok(())
}
