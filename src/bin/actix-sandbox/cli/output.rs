//! What commands write to standard output: text, tables, JSON and the output of processes.

use std::io::{self, Write};

use clap::ValueEnum;
use serde::Serialize;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::cli::{escape::escaped, failure::Failure};

const STDOUT: &str = "standard output";

/// The format of what a command lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    Text,
    Json,
}

/// Writes to stdout.
pub(crate) fn print(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    let written = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    written.map_err(|error| Failure::output(STDOUT, &error))
}

/// Writes a line to stdout.
pub(crate) fn print_line(line: &str) -> Result<(), Failure> {
    print(&format!("{line}\n"))
}

/// Writes a value to stdout as JSON with line breaks.
pub(crate) fn print_json(value: &impl Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(value).map_err(|error| error.to_string())?;
    print_line(&without_controls(&text))
}

/// Writes a value to stdout as a line of JSON.
pub(crate) fn print_json_line(value: &impl Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string(value).map_err(|error| error.to_string())?;
    print_line(&without_controls(&text))
}

/// Escapes the control characters that JSON allows in strings: U+009B controls terminals.
fn without_controls(json: &str) -> String {
    let mut text = String::with_capacity(json.len());
    for character in json.chars() {
        match character {
            '\u{7f}'..='\u{9f}' => text += &format!("\\u{:04x}", u32::from(character)),
            _ => text.push(character),
        }
    }
    text
}

/// Returns lines with aligned columns. The first row is the heading. Control characters are escaped,
/// because names from a sandbox could control the terminal.
pub(crate) fn table(rows: &[Vec<String>]) -> String {
    let escape = |row: &Vec<String>| row.iter().map(|cell| escaped(cell)).collect();
    let rows: Vec<Vec<String>> = rows.iter().map(escape).collect();
    let mut widths = Vec::new();
    for row in &rows {
        widths.resize(widths.len().max(row.len()), 0);
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    for row in &rows {
        let padded = row.iter().zip(&widths);
        let line: Vec<_> = padded.map(|(it, width)| format!("{it:width$}")).collect();
        text += line.join("  ").trim_end();
        text.push('\n');
    }
    text
}

/// Copies the two outputs of a process to those of this one until both end.
pub(crate) async fn copy_outputs(
    mut out: impl AsyncRead + Unpin,
    mut err: impl AsyncRead + Unpin,
) -> Result<(), Failure> {
    let (mut to, mut err_to) = (tokio::io::stdout(), tokio::io::stderr());
    let out = copy(&mut out, &mut to, STDOUT, |_| Ok(()));
    let err = copy(&mut err, &mut err_to, "standard error", |_| Ok(()));
    futures::future::try_join(out, err).await?;
    Ok(())
}

/// Copies a stream to stdout until it ends. Calls `check` with the number of bytes up to the end of
/// each piece before it writes the piece, and stops if `check` fails.
pub(crate) async fn copy_to_stdout(
    mut from: impl AsyncRead + Unpin,
    check: impl FnMut(u64) -> Result<(), Failure>,
) -> Result<(), Failure> {
    copy(&mut from, &mut tokio::io::stdout(), STDOUT, check).await
}

/// Flushes each piece, so that it appears at once.
async fn copy(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
    stream: &str,
    mut check: impl FnMut(u64) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let mut buffer = vec![0; 64 * 1024];
    let mut bytes = 0;
    loop {
        let read = from.read(&mut buffer).await.map_err(Failure::stream)?;
        if read == 0 {
            return Ok(());
        }
        bytes += read as u64;
        check(bytes)?;
        let written = async {
            to.write_all(&buffer[..read]).await?;
            to.flush().await
        };
        written
            .await
            .map_err(|error| Failure::output(stream, &error))?;
    }
}
