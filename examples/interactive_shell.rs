//! A shell in a sandbox: what is typed goes to its stdin, both its streams are shown as they come. Ctrl-C
//! kills what runs and starts the shell anew; the end of input ends it.
//!
//! ```text
//! cargo run --example interactive_shell
//! printf 'echo hello\nexit\n' | cargo run --example interactive_shell
//! ```

use std::io::{BufRead, Write};

use actix_sandbox::{Language, LocalServer, OutputStream, Sandbox};
use futures::StreamExt;
use tokio::sync::mpsc;

#[actix::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (url, _server) = match std::env::var("SANDBOX_URL") {
        Ok(url) => (url, None),
        Err(_) => {
            let server = LocalServer::start().await?;
            (server.url().to_owned(), Some(server))
        }
    };
    let sandbox = Sandbox::create(url).await?;
    eprintln!(
        "a shell in {}; Ctrl-C kills what runs, Ctrl-D ends it",
        sandbox.sandbox_id()
    );
    let mut input = typed_lines();

    let mut ended = false;
    while !ended {
        let shell = sandbox.exec(Language::Bash, "exec bash").await?;
        let streams = futures::future::join(
            show(shell.stdout(), std::io::stdout()),
            show(shell.stderr(), std::io::stderr()),
        );
        let type_in = async {
            loop {
                tokio::select! {
                    line = input.recv() => {
                        // Protocol v1 cannot close stdin, but a shell can be told.
                        let (line, is_last) = line.map_or(("exit\n".into(), true), |line| (line, false));
                        // When it is over, its streams end.
                        if shell.write_to_stdin(line).await.is_err() || is_last {
                            return std::future::pending().await;
                        }
                    }
                    interrupted = tokio::signal::ctrl_c() => {
                        interrupted?;
                        shell.kill().await?;
                        eprintln!("(killed; another shell)");
                        return Ok::<_, Box<dyn std::error::Error>>(());
                    }
                }
            }
        };
        tokio::select! {
            // Its streams end with the shell.
            _ = streams => ended = true,
            result = type_in => result?,
        }
        let end = shell.wait().await?;
        if ended {
            eprintln!("the shell: {end}");
        }
    }
    sandbox.kill().await?;
    Ok(())
}

/// Lines of this program's own stdin, read on a thread that nobody has to wait for.
fn typed_lines() -> mpsc::Receiver<String> {
    let (sender, lines) = mpsc::channel(16);
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            if sender.blocking_send(line + "\n").is_err() {
                break;
            }
        }
    });
    lines
}

/// Shows a stream as it comes. What is lost of it is said, not hidden.
async fn show(mut stream: OutputStream, mut to: impl Write) {
    while let Some(piece) = stream.next().await {
        let shown = match piece {
            Ok(bytes) => to.write_all(&bytes).and_then(|()| to.flush()),
            Err(error) => writeln!(to, "({error})"),
        };
        if shown.is_err() {
            break;
        }
    }
}
