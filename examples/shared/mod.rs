//! What the examples share: how they end.

use std::{error::Error, io, process::ExitCode};

/// The exit code of a program, and on stderr why it failed.
///
/// Like other programs, an example ends quietly when the reader of its output is gone, as in
/// `cargo run --example basic | head -1`. `println!` would panic: use `writeln!(stdout, …)?`.
pub(crate) fn exit_code(result: Result<(), Box<dyn Error>>) -> ExitCode {
    let Err(error) = result else {
        return ExitCode::SUCCESS;
    };
    let error = match error.downcast::<io::Error>() {
        Ok(error) if error.kind() == io::ErrorKind::BrokenPipe => return ExitCode::SUCCESS,
        Ok(error) => error,
        Err(error) => error,
    };
    // Nothing is left to say where stderr is gone, too.
    let _ = io::Write::write_all(&mut io::stderr(), format!("error: {error}\n").as_bytes());
    ExitCode::FAILURE
}
