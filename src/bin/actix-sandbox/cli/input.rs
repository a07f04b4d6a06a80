//! The standard input of the command.

use std::io::{self, Read};

use actix_sandbox::Process;
use bytes::Bytes;
use rustix::{process::getpgrp, termios::tcgetpgrp};
use tokio::sync::mpsc;

use crate::cli::shared::say;

/// Maximum size of a piece.
const PIECE: usize = 64 * 1024;

/// Returns stdin in pieces as they arrive. A thread reads them. The command exits without waiting
/// for it, because a read from a terminal can't be cancelled.
///
/// In a background job, a terminal counts as empty: the kernel would stop the command when it reads.
pub(crate) fn pieces() -> mpsc::Receiver<io::Result<Bytes>> {
    let (sender, pieces) = mpsc::channel(4);
    if tcgetpgrp(io::stdin()).is_ok_and(|foreground| foreground != getpgrp()) {
        return pieces;
    }
    std::thread::spawn(move || {
        let mut buffer = vec![0; PIECE];
        loop {
            let piece = match io::stdin().lock().read(&mut buffer) {
                Ok(0) => return,
                Ok(read) => Ok(Bytes::copy_from_slice(&buffer[..read])),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => Err(error),
            };
            let is_last = piece.is_err();
            if sender.blocking_send(piece).is_err() || is_last {
                return;
            }
        }
    });
    pieces
}

/// Copies stdin to a process, and closes the stdin of the process at the end.
pub(crate) async fn copy_to(process: &Process) {
    let mut pieces = pieces();
    while let Some(piece) = pieces.recv().await {
        match piece {
            Ok(piece) => {
                // This fails if the process has ended or has closed its stdin.
                if process.write_to_stdin(piece).await.is_err() {
                    return;
                }
            }
            Err(error) => {
                say(format_args!("cannot read standard input: {error}"));
                break;
            }
        }
    }
    // This fails if the process has ended, and under protocol v1, which can't close stdin.
    let _ = process.close_stdin().await;
}
