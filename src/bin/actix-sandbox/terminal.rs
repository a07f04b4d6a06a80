//! Connects the terminal of this command to one in a sandbox.

use std::{io, pin::pin};

use actix_sandbox::{ProcessEnd, Terminal};
use futures::FutureExt;
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use tokio::{
    io::AsyncWriteExt,
    signal::unix::{SignalKind, signal},
};

use crate::{
    failure::Failure,
    input, notices, output,
    shared::say,
    signals::{Signals, ended_by},
};

/// Ctrl-D, which ends the input of a terminal.
const END_OF_INPUT: &[u8] = &[4];

/// The columns and rows of the terminal of this command. `None` if it has none.
pub(crate) fn size() -> Option<(u16, u16)> {
    let size = tcgetwinsize(io::stdin()).ok()?;
    (size.ws_col > 0 && size.ws_row > 0).then_some((size.ws_col, size.ws_row))
}

/// Connects the two terminals until the program in the sandbox ends. While they are connected, the
/// local one is in raw mode: Ctrl-C and Ctrl-Z go to the sandbox.
pub(crate) async fn connect(
    terminal: Terminal,
    signals: &mut Signals,
) -> Result<ProcessEnd, Failure> {
    let process = terminal.process().clone();
    let mut resized = signal(SignalKind::window_change())
        .map_err(|error| format!("cannot watch the size of the terminal: {error}"))?;
    let raw = RawMode::enter();
    let (screen, mut keyboard) = tokio::io::split(terminal);
    let keys = async {
        let mut pieces = input::pieces();
        while let Some(piece) = pieces.recv().await {
            match piece {
                Ok(piece) if keyboard.write_all(&piece).await.is_ok() => {}
                // The program has ended.
                Ok(_) => return,
                Err(error) => {
                    say(format_args!("cannot read standard input: {error}\r"));
                    break;
                }
            }
        }
        // This fails if the program has ended.
        let _ = keyboard.write_all(END_OF_INPUT).await;
    };
    let sizes = async {
        while resized.recv().await.is_some() {
            if let Some((columns, rows)) = size() {
                // This fails if the program has ended.
                let _ = process.resize(columns, rows).await;
            }
        }
    };
    // Separate futures, so that a program that doesn't read its input can't block its output.
    let (mut keys, mut sizes) = (pin!(keys.fuse()), pin!(sizes.fuse()));
    let line_end = if raw.is_some() { "\r" } else { "" };
    let mut notices = pin!(notices::report(process.sandbox(), line_end).fuse());
    let ended = async {
        output::copy_to_stdout(screen, |_| Ok(())).await?;
        Ok(process.wait().await?)
    };
    let mut ended = pin!(ended);
    loop {
        tokio::select! {
            ended = &mut ended => return ended,
            () = &mut keys => {}
            () = &mut sizes => {}
            () = &mut notices => {}
            signal = signals.next() => return Err(ended_by(signal)),
        }
    }
}

/// Puts the local terminal into raw mode until it is dropped.
struct RawMode(Termios);

impl RawMode {
    /// Returns `None` if this command has no terminal.
    fn enter() -> Option<Self> {
        let before = tcgetattr(io::stdin()).ok()?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(io::stdin(), OptionalActions::Now, &raw).ok()?;
        Some(Self(before))
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, &self.0);
    }
}
