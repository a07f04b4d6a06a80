//! [`ServerProcess`]: a local server in a separate process, so that a test can kill it.

use std::{
    io::{BufRead, BufReader, Write},
    process::{Child, Command, Stdio},
};

use actix_sandbox::server::ServerBuilder;

/// The body of the test `a_server_process_of_its_own` in the process that is the server: prints the
/// URL and serves until stdin ends.
pub(crate) fn serve(builder: ServerBuilder) {
    futures::executor::block_on(async {
        let server = builder.start().await.unwrap();
        println!("\nlistening on {}", server.url());
        std::io::stdout().flush().unwrap();
        let mut line = String::new();
        let _ = std::io::stdin().read_line(&mut line);
        server.stop().await;
    });
}

/// A command that runs the test `test` (its full name) of this same test binary. The caller adds
/// the variables that make it a server.
pub(crate) fn command(test: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", test, "--nocapture"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    command
}

pub(crate) struct ServerProcess {
    child: Child,
    url: String,
}

impl ServerProcess {
    pub(crate) fn start(command: &mut Command) -> Self {
        let mut child = command.spawn().unwrap();
        let url = BufReader::new(child.stdout.take().unwrap())
            .lines()
            .map_while(Result::ok)
            .find_map(|line| Some(line.strip_prefix("listening on ")?.to_owned()))
            .expect("a URL");
        Self { child, url }
    }

    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// The host and port of the URL.
    pub(crate) fn address(&self) -> &str {
        let rest = self.url.trim_start_matches("http://");
        rest.split_once('/').map_or(rest, |(address, _)| address)
    }

    pub(crate) fn signal(&self, signal: &str) {
        super::send_signal(self.child.id(), signal);
    }

    /// Blocks until the process exits.
    pub(crate) fn ended(mut self) -> std::process::ExitStatus {
        self.child.wait().unwrap()
    }

    /// Sends SIGKILL.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
