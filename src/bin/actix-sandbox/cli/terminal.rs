//! Connects the terminal of this command to one in a sandbox.

use std::{cell::Cell, io, pin::pin};

use actix_sandbox::{ProcessEnd, Terminal};
use futures::FutureExt;
use nix::sys::signal::Signal;
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use tokio::{
    io::{AsyncWrite, AsyncWriteExt},
    signal::unix::{SignalKind, signal},
    sync::Notify,
};

use crate::cli::{
    failure::Failure,
    input, notices, output,
    shared::say,
    signals::{Signals, ended_by},
};

const CTRL_C: u8 = 3;
/// Ends the input of a terminal.
const CTRL_D: u8 = 4;

/// The columns and rows of the terminal of this command. `None` if it has none.
pub(crate) fn size() -> Option<(u16, u16)> {
    let size = tcgetwinsize(io::stdin()).ok()?;
    (size.ws_col > 0 && size.ws_row > 0).then_some((size.ws_col, size.ws_row))
}

/// Connects the two terminals until the program in the sandbox ends. While they are connected, the
/// local one is in raw mode: Ctrl-C and Ctrl-Z go to the sandbox. While the connection is lost,
/// Ctrl-C ends the command.
pub(crate) async fn connect(
    terminal: Terminal,
    signals: &mut Signals,
) -> Result<ProcessEnd, Failure> {
    let process = terminal.process().clone();
    let mut resized = signal(SignalKind::window_change())
        .map_err(|error| format!("cannot watch the size of the terminal: {error}"))?;
    let raw = RawMode::enter();
    let (screen, keyboard) = tokio::io::split(terminal);
    let is_lost = Cell::new(false);
    let has_shown = Notify::new();
    // Separate futures, so that a program that doesn't read its input can't block its output.
    let mut keys = pin!(keys(keyboard, &is_lost, &has_shown).fuse());
    let sizes = async {
        loop {
            if let Some((columns, rows)) = size() {
                // This fails if the program has ended.
                let _ = process.resize(columns, rows).await;
            }
            if resized.recv().await.is_none() {
                return;
            }
        }
    };
    let mut sizes = pin!(sizes.fuse());
    let end = if raw.is_some() { "\r\n" } else { "\n" };
    let mut notices = pin!(notices::report(process.sandbox(), &is_lost, end).fuse());
    let ended = async {
        let shown = |_| {
            has_shown.notify_one();
            Ok(())
        };
        output::copy_to_stdout(screen, shown).await?;
        Ok(process.wait().await?)
    };
    let mut ended = pin!(ended);
    loop {
        tokio::select! {
            ended = &mut ended => return ended,
            stop = &mut keys => stop?,
            () = &mut sizes => {}
            () = &mut notices => {}
            signal = signals.next() => return Err(ended_by(signal)),
        }
    }
}

/// Copies stdin to the terminal in the sandbox. Fails if the user presses Ctrl-C while the
/// connection is lost.
async fn keys(
    mut keyboard: impl AsyncWrite + Unpin,
    is_lost: &Cell<bool>,
    has_shown: &Notify,
) -> Result<(), Failure> {
    let mut pieces = input::pieces();
    let mut last = b'\n';
    while let Some(piece) = pieces.recv().await {
        match piece {
            Ok(piece) if is_lost.get() && piece.contains(&CTRL_C) => {
                return Err(ended_by(Signal::SIGINT));
            }
            Ok(piece) => {
                last = piece.last().copied().unwrap_or(last);
                if keyboard.write_all(&piece).await.is_err() {
                    // The program has ended.
                    return Ok(());
                }
            }
            Err(error) => {
                say(format_args!("cannot read standard input: {error}"));
                break;
            }
        }
    }
    // Ctrl-D ends the input only at the begin of a line.
    if !b"\r\n".contains(&last) && keyboard.write_all(b"\n").await.is_err() {
        return Ok(());
    }
    // A program that starts may drop keys, so press it again when the program has shown something.
    while keyboard.write_all(&[CTRL_D]).await.is_ok() {
        has_shown.notified().await;
    }
    Ok(())
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
