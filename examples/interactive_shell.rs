//! A shell in a sandbox. Typed lines go to the stdin of the shell, and its output appears at once.
//! Ctrl-C interrupts the running command. The end of the input ends the shell.
//!
//! ```text
//! cargo run --example interactive_shell
//! printf 'echo hello\nexit\n' | cargo run --example interactive_shell
//! ```

mod shared;

use std::{error::Error, pin::pin, process::ExitCode};

use actix_sandbox::{Language, Sandbox};
use futures::{FutureExt, future::try_join};
use tokio::io::copy;
use tokio::signal::unix::{SignalKind, signal};

/// The shell. It leads a process group, and writes the id of the group to a file.
const SHELL: &str = "echo $$ > .shell; exec bash";
/// A shell that handles SIGINT survives it. Its commands don't inherit the handler.
const HANDLE_SIGINT: &str = "trap : INT\n";
/// Sends SIGINT to the process group, as Ctrl-C does in a terminal.
const INTERRUPT: &str = "kill -INT -- -$(cat .shell)";

#[actix::main]
async fn main() -> ExitCode {
    // `namespace` and `gvisor` start this program again, as the agent of each sandbox.
    actix_sandbox::server::agent();
    shared::exit_code(run().await)
}

async fn run() -> Result<(), Box<dyn Error>> {
    let (url, _server) = shared::server().await?;
    let sandbox = Sandbox::create(url).await?;
    // From now on, Ctrl-C doesn't end this program.
    let mut interrupts = signal(SignalKind::interrupt())?;
    let mut input = shared::typed_lines();
    let shell = sandbox.exec(Language::Bash, SHELL).await?;
    shell.write_to_stdin(HANDLE_SIGINT).await?;

    // The streams implement tokio's `AsyncRead`. They end with the shell.
    let (mut out, mut err) = (shell.stdout(), shell.stderr());
    let (mut to, mut err_to) = (tokio::io::stdout(), tokio::io::stderr());
    let streams = try_join(copy(&mut out, &mut to), copy(&mut err, &mut err_to));
    let mut streams = pin!(streams);
    // A separate future, so that output still appears while the shell doesn't read its input.
    let writes = async {
        while let Some(line) = input.recv().await {
            // If the write fails because the shell has ended, `streams` ends, too.
            let _ = shell.write_to_stdin(line).await;
        }
    };
    let mut writes = pin!(writes.fuse());
    loop {
        tokio::select! {
            shown = &mut streams => break shown.map(drop)?,
            () = &mut writes => {}
            // Protocol v1 runs one process at a time, and can only kill it.
            _ = interrupts.recv() => if sandbox.run(Language::Bash, INTERRUPT).await.is_err() {
                shell.kill().await?;
            }
        }
    }
    sandbox.kill().await?;
    Ok(())
}
