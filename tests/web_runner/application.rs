//! [`Application`]: the example `web_runner`, and the server whose sandboxes it uses.

use std::{
    io::{BufRead, BufReader},
    net::SocketAddr,
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::Duration,
};

use actix_sandbox::{LocalServer, Sandbox};

use crate::support::within;

pub(crate) struct Application {
    child: Child,
    address: SocketAddr,
    server: Option<LocalServer>,
}

impl Application {
    /// Starts the example with a server of this test. Returns `None` if the example isn't built.
    pub(crate) async fn start() -> Option<Self> {
        let mut command = command()?;
        let server = LocalServer::start().await.unwrap();
        command.env("SANDBOX_URL", server.url());
        Some(Self::spawn(command, Some(server)))
    }

    /// Starts the example with its own server.
    pub(crate) fn alone() -> Option<Self> {
        let mut command = command()?;
        command.env_remove("SANDBOX_URL");
        Some(Self::spawn(command, None))
    }

    fn spawn(mut command: Command, server: Option<LocalServer>) -> Self {
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        stdout.read_line(&mut line).unwrap();
        let address = line.strip_prefix("listening on http://");
        let address = address.and_then(|it| it.trim().strip_suffix('/'));
        Self {
            child,
            address: address.expect(&line).parse().unwrap(),
            server,
        }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    fn server(&self) -> &LocalServer {
        self.server.as_ref().expect("a server of this test")
    }

    /// The number of sandboxes that run on the server.
    pub(crate) async fn sandboxes(&self) -> usize {
        let list = Sandbox::list(self.server().url());
        within("the list", list).await.unwrap().len()
    }

    /// Waits until this many sandboxes exist.
    pub(crate) async fn wait_for_sandboxes(&self, count: usize) {
        within(&format!("{count} sandboxes"), async {
            while self.sandboxes().await != count {
                // The server sends no event when a sandbox ends.
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        })
        .await;
    }
}

impl Drop for Application {
    fn drop(&mut self) {
        // The end of its server kills the sandboxes.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The example, which `cargo test` builds, too.
fn command() -> Option<Command> {
    let this = std::env::current_exe().unwrap();
    let target = this.parent().and_then(|deps| deps.parent()).unwrap();
    let example: PathBuf = target.join("examples/web_runner");
    if !example.exists() {
        println!("not tried: this needs {}", example.display());
        assert!(std::env::var_os("CI_BACKENDS").is_none());
        return None;
    }
    let mut command = Command::new(example);
    command.env_remove("PORT");
    Some(command)
}
