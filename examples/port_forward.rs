//! Starts an HTTP server in a sandbox and forwards a local port to it.
//!
//! ```text
//! cargo run --example port_forward
//! ```

mod shared;

use std::{
    error::Error,
    io::{Write, stdout},
    process::ExitCode,
    time::Duration,
};

use actix_sandbox::{Language, Sandbox};
use futures::StreamExt;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

const SERVER: &str = "
from http.server import HTTPServer, SimpleHTTPRequestHandler
server = HTTPServer(('127.0.0.1', 0), SimpleHTTPRequestHandler)
print(server.server_port, flush=True)
server.serve_forever()";

#[actix::main]
async fn main() -> ExitCode {
    // `namespace` and `gvisor` start this program again, as the agent of each sandbox.
    actix_sandbox::server::agent();
    shared::exit_code(run().await)
}

async fn run() -> Result<(), Box<dyn Error>> {
    let (url, _server) = shared::server().await?;
    let sandbox = Sandbox::create(&url).await?;
    let page = "hello from the sandbox\n";
    sandbox.files().write("page.txt", page).await?;

    let server = sandbox.exec(Language::Python, SERVER).await?;
    let port = server.stdout().lines().next().await;
    let port: u16 = port.ok_or("the server did not start")??.parse()?;
    let limit = Duration::from_secs(30);
    sandbox.wait_for_port(port).timeout(limit).await?;
    let listens = sandbox.ports().await?.iter().any(|it| it.port == port);
    writeln!(stdout(), "the server listens: {listens}")?;

    // Any program of this machine can use the local address, for example a browser.
    let forward = sandbox.forward("127.0.0.1:0", port).await?;
    let mut socket = TcpStream::connect(forward.local_addr()).await?;
    socket.write_all(b"GET /page.txt HTTP/1.0\r\n\r\n").await?;
    let mut answer = String::new();
    socket.read_to_string(&mut answer).await?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_default();
    writeln!(stdout(), "{}", head.lines().next().unwrap_or_default())?;
    write!(stdout(), "{body}")?;

    server.kill().await?;
    if let Err(error) = sandbox.connect(port).await {
        writeln!(stdout(), "{error}")?;
    }
    sandbox.kill().await?;
    Ok(())
}
