//! A terminal in a sandbox. What you type goes to the sandbox, and what its program shows appears
//! here: colours, full-screen programs, Ctrl-C and job control work. The program is a login shell,
//! or the one that the arguments name.
//!
//! ```text
//! cargo run --example terminal
//! cargo run --example terminal vi notes
//! printf 'stty size\nexit\n' | cargo run --example terminal
//! ```

mod shared;

use std::{
    error::Error,
    io::{self, Read, stdin},
    process::ExitCode,
};

use actix_sandbox::{ProcessEnd, Sandbox, Terminal};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, stdout},
    signal::unix::{SignalKind, signal},
    sync::{Notify, mpsc},
};

#[actix::main]
async fn main() -> ExitCode {
    // `namespace` and `gvisor` start this program again, as the agent of each sandbox.
    actix_sandbox::server::agent();
    shared::exit_code(run().await)
}

async fn run() -> Result<(), Box<dyn Error>> {
    let (url, _server) = shared::server().await?;
    let sandbox = Sandbox::create(url).enable_auto_reconnect(true).await?;
    let (columns, rows) = size().unwrap_or((80, 24));
    let mut builder = sandbox.terminal().size(columns, rows);
    let mut words = std::env::args().skip(1);
    if let Some(program) = words.next() {
        builder = builder.program(program).args(words);
    }
    let ended = match builder.open().await {
        Ok(terminal) => connect(terminal).await,
        Err(error) => Err(error.into()),
    };
    sandbox.kill().await?;
    ended
}

/// Connects the terminal that this program runs in with one in the sandbox, until its program ends.
async fn connect(terminal: Terminal) -> Result<(), Box<dyn Error>> {
    let process = terminal.process().clone();

    let raw = RawMode::enter();
    let mut resized = signal(SignalKind::window_change())?;
    let mut typed = typed_bytes();
    let (mut screen, mut keyboard) = tokio::io::split(terminal);
    let has_shown = Notify::new();
    // Separate futures, so that a program that doesn't read its input can't block its output.
    let keys = async {
        while let Some(bytes) = typed.recv().await {
            if keyboard.write_all(&bytes).await.is_err() {
                // The program has ended, so the output ends, too.
                break;
            }
        }
        // The input has ended. Ctrl-D ends a shell. A program that starts may drop keys, so press
        // it again when the program has shown something.
        while keyboard.write_all(&[4]).await.is_ok() {
            has_shown.notified().await;
        }
        std::future::pending::<()>().await
    };
    let sizes = async {
        while resized.recv().await.is_some() {
            if let Some((columns, rows)) = size() {
                // This fails when the program has ended.
                let _ = process.resize(columns, rows).await;
            }
        }
    };
    let shown = async {
        let mut buffer = vec![0; 16 * 1024];
        loop {
            match screen.read(&mut buffer).await? {
                0 => return Ok::<(), io::Error>(()),
                read => {
                    let mut out = stdout();
                    out.write_all(&buffer[..read]).await?;
                    out.flush().await?;
                    has_shown.notify_one();
                }
            }
        }
    };
    tokio::select! {
        shown = shown => shown?,
        () = keys => {}
        () = sizes => {}
    }
    drop(raw);
    match process.wait().await? {
        ProcessEnd::Exited(0) => Ok(()),
        end => Err(format!("the program in the sandbox: {end}").into()),
    }
}

/// Returns the bytes from stdin as they arrive. A thread reads them. This example exits without
/// waiting for the thread.
fn typed_bytes() -> mpsc::Receiver<Vec<u8>> {
    let (sender, typed) = mpsc::channel(16);
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(read @ 1..) = stdin().lock().read(&mut buffer) {
            if sender.blocking_send(buffer[..read].to_vec()).is_err() {
                break;
            }
        }
    });
    typed
}

/// The columns and rows of the terminal that this program runs in, if it runs in one.
fn size() -> Option<(u16, u16)> {
    let size = tcgetwinsize(stdin()).ok()?;
    Some((size.ws_col, size.ws_row))
}

/// Puts the local terminal into raw mode until it is dropped, so that the terminal in the sandbox
/// handles echo and control characters.
struct RawMode(Termios);

impl RawMode {
    /// Returns `None` if this program has no terminal.
    fn enter() -> Option<Self> {
        let before = tcgetattr(stdin()).ok()?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(stdin(), OptionalActions::Now, &raw).ok()?;
        Some(Self(before))
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        let _ = tcsetattr(stdin(), OptionalActions::Now, &self.0);
    }
}
