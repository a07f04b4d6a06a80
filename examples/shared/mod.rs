//! What the examples share: a server, the lines that are typed, and how a program ends.

use std::{
    error::Error,
    io::{self, BufRead},
    process::ExitCode,
};

use actix_sandbox::LocalServer;
use tokio::sync::mpsc;

/// The URL of the service that `SANDBOX_URL` names, or else of a local server, which stops when it
/// is dropped.
#[allow(dead_code, reason = "not every example uses all of this")]
pub(crate) async fn server() -> Result<(String, Option<LocalServer>), Box<dyn Error>> {
    if let Ok(url) = std::env::var("SANDBOX_URL") {
        return Ok((url, None));
    }
    let server = LocalServer::start().await?;
    Ok((server.url().to_owned(), Some(server)))
}

/// Lines for a shell: those of this program's own stdin, then `exit`, because protocol v1 can't
/// close the shell's stdin. A thread reads them, which the end of the program does not wait for.
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

/// The exit code of a program, and on stderr why it failed.
///
/// Like other programs, an example ends quietly when the reader of its output is gone, as in
/// `cargo run --example basic | head -1`. `println!` would panic: use `writeln!(stdout(), …)?`.
pub(crate) fn exit_code(result: Result<(), Box<dyn Error>>) -> ExitCode {
    let Err(error) = result else {
        return ExitCode::SUCCESS;
    };
    let error = match error.downcast::<io::Error>() {
        Ok(error) if error.kind() == io::ErrorKind::BrokenPipe => return ExitCode::SUCCESS,
        Ok(error) => error,
        Err(error) => error,
    };
    // Nothing can be reported if stderr is closed, too.
    let _ = io::Write::write_all(&mut io::stderr(), format!("error: {error}\n").as_bytes());
    ExitCode::FAILURE
}
