//! A shell in a sandbox: what is typed goes to its stdin, both its streams are shown as they come. Ctrl-C
//! interrupts the command that runs; the end of input ends the shell.
//!
//! ```text
//! cargo run --example interactive_shell
//! printf 'echo hello\nexit\n' | cargo run --example interactive_shell
//! ```

mod shared;

use std::{
    error::Error,
    io::{self, BufRead, Write},
    process::ExitCode,
};

use actix_sandbox::{Language, LocalServer, OutputStream, Sandbox};
use futures::{StreamExt, future::try_join};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc,
};

/// The shell, which leads a process group, and says which.
const SHELL: &str = "echo $$ > .shell; exec bash";

/// A shell that handles SIGINT goes on after it. Its commands don't inherit that.
const HANDLE_SIGINT: &str = "trap : INT\n";

/// What Ctrl-C does in a terminal: SIGINT to the process group.
const INTERRUPT: &str = "kill -INT -- -$(cat .shell)";

#[actix::main]
async fn main() -> ExitCode {
    shared::exit_code(run().await)
}

async fn run() -> Result<(), Box<dyn Error>> {
    let (url, _server) = match std::env::var("SANDBOX_URL") {
        Ok(url) => (url, None),
        Err(_) => {
            let server = LocalServer::start().await?;
            (server.url().to_owned(), Some(server))
        }
    };
    let sandbox = Sandbox::create(url).await?;
    // From now on Ctrl-C does not end this program.
    let mut interrupts = signal(SignalKind::interrupt())?;
    let mut input = typed_lines();
    let shell = sandbox.exec(Language::Bash, SHELL).await?;
    shell.write_to_stdin(HANDLE_SIGINT).await?;
    let hint = "a shell; Ctrl-C interrupts a command, Ctrl-D ends the shell\n";
    io::stderr().write_all(hint.as_bytes())?;

    // The streams end with the shell.
    let streams = try_join(
        show(shell.stdout(), io::stdout()),
        show(shell.stderr(), io::stderr()),
    );
    tokio::pin!(streams);
    let mut is_typing = true;
    loop {
        tokio::select! {
            shown = &mut streams => {
                shown?;
                break;
            }
            line = input.recv(), if is_typing => {
                is_typing = line.is_some();
                // Protocol v1 cannot close stdin, but a shell can be told.
                let line = line.unwrap_or_else(|| "exit\n".into());
                // A shell that has ended takes no more, and its streams end.
                let _ = shell.write_to_stdin(line).await;
            }
            _ = interrupts.recv() => {
                // Protocol v1 runs one process at a time, and can only kill it.
                if sandbox.run(Language::Bash, INTERRUPT).await.is_err() {
                    shell.kill().await?;
                }
            }
        }
    }
    sandbox.kill().await?;
    Ok(())
}

/// Lines of this program's own stdin, read on a thread that nothing has to wait for.
fn typed_lines() -> mpsc::Receiver<String> {
    let (sender, lines) = mpsc::channel(16);
    std::thread::spawn(move || {
        for line in io::stdin().lock().lines().map_while(Result::ok) {
            if sender.blocking_send(line + "\n").is_err() {
                break;
            }
        }
    });
    lines
}

/// Shows a stream as it comes. A gap in it is reported, not hidden.
async fn show(mut stream: OutputStream, mut to: impl Write) -> io::Result<()> {
    while let Some(piece) = stream.next().await {
        match piece {
            Ok(bytes) => to.write_all(&bytes)?,
            Err(error) => writeln!(to, "({error})")?,
        }
        to.flush()?;
    }
    Ok(())
}
