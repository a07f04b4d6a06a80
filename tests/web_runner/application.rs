//! [`Application`]: the example `web_runner`, and the server whose sandboxes it uses.

use std::{
    io::{BufRead, BufReader},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc::sync_channel,
    thread,
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

    /// Starts the example with its own server, whose directory is in this one.
    pub(crate) fn alone(directory: &Path) -> Option<Self> {
        let mut command = command()?;
        command.env_remove("SANDBOX_URL").env("TMPDIR", directory);
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

    /// Stops the server of this test, which ends all sandboxes.
    pub(crate) async fn stop_server(&mut self) {
        let server = self.server.take().expect("a server of this test");
        within("the stop", server.stop()).await;
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
        let pid = self.child.id().to_string();
        let signal = |name| Command::new("kill").args(["-s", name, &pid]).status();
        let (ended, end) = sync_channel(1);
        let child = &mut self.child;
        thread::scope(|scope| {
            let _ = signal("TERM");
            scope.spawn(move || ended.send(child.wait()));
            // On SIGTERM, the example stops its own server, which removes its directory.
            if end.recv_timeout(Duration::from_secs(20)).is_err() {
                let _ = signal("KILL");
            }
        });
    }
}

/// The example. `cargo test` builds it, but `cargo test --test web_runner` doesn't.
fn command() -> Option<Command> {
    let this = std::env::current_exe().unwrap();
    let target = this.parent().and_then(|deps| deps.parent()).unwrap();
    let example: PathBuf = target.join("examples/web_runner");
    if !example.exists() {
        let missing = "not tried: run `cargo build --example web_runner` first";
        assert!(std::env::var_os("CI_BACKENDS").is_none(), "{missing}");
        println!("{missing}");
        return None;
    }
    let mut command = Command::new(example);
    command.env_remove("PORT");
    Some(command)
}
