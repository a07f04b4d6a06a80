//! Shared code of the examples: the server, typed lines, and the exit code.

use std::{
    error::Error,
    io::{self, BufRead},
    process::ExitCode,
};

use actix_sandbox::LocalServer;
use tokio::sync::mpsc;

/// Returns the URL in `SANDBOX_URL`. Without that variable, starts a local server, which stops when
/// it is dropped.
#[allow(dead_code, reason = "not every example uses all of this")]
pub(crate) async fn server() -> Result<(String, Option<LocalServer>), Box<dyn Error>> {
    if let Ok(url) = std::env::var("SANDBOX_URL") {
        return Ok((url, None));
    }
    let server = LocalServer::start().await?;
    Ok((server.url().to_owned(), Some(server)))
}

/// Returns the lines of this program's stdin, then `exit`, because protocol v1 can't close the
/// stdin of the shell. A thread reads the lines. The program doesn't wait for it when it ends.
#[allow(dead_code, reason = "not every example uses all of this")]
pub(crate) fn typed_lines() -> mpsc::Receiver<String> {
    let (sender, lines) = mpsc::channel(16);
    std::thread::spawn(move || {
        let typed = io::stdin().lock().lines().map_while(Result::ok);
        for line in typed.chain(["exit".to_owned()]) {
            if sender.blocking_send(line + "\n").is_err() {
                break;
            }
        }
    });
    lines
}

/// Returns the exit code of the program. Prints an error to stderr.
///
/// If the reader of its output is gone, as in `cargo run --example basic | head -1`, an example
/// ends without an error message. `println!` would panic, so examples use `writeln!(stdout(), …)?`.
pub(crate) fn exit_code(result: Result<(), Box<dyn Error>>) -> ExitCode {
    let Err(error) = result else {
        return ExitCode::SUCCESS;
    };
    let error = match error.downcast::<io::Error>() {
        Ok(error) if error.kind() == io::ErrorKind::BrokenPipe => return ExitCode::SUCCESS,
        Ok(error) => error,
        Err(error) => error,
    };
    // If stderr is closed, the error can't be reported.
    let _ = io::Write::write_all(&mut io::stderr(), format!("error: {error}\n").as_bytes());
    ExitCode::FAILURE
}
