//! [`Screen`]: shows one text after the other in the same place of the terminal.

use std::io;

use rustix::termios::tcgetwinsize;

use crate::cli::{failure::Failure, output};

const HIDE_CURSOR: &str = "\x1b[?25l";
const SHOW_CURSOR: &str = "\x1b[?25h";
const CLEAR: &str = "\x1b[2J";
const HOME: &str = "\x1b[H";
const CLEAR_TO_END_OF_LINE: &str = "\x1b[K";
const CLEAR_BELOW: &str = "\x1b[J";

/// The terminal of stdout. Dropping it shows the cursor again.
pub(super) struct Screen(());

impl Screen {
    /// Clears the terminal and hides its cursor.
    pub(super) fn enter() -> Self {
        // If this fails, so does the next write.
        let _ = output::print(&format!("{HIDE_CURSOR}{CLEAR}"));
        Self(())
    }

    /// Shows as much of a text as fits.
    pub(super) fn show(&self, text: &str) -> Result<(), Failure> {
        let size = tcgetwinsize(io::stdout()).ok().filter(|it| it.ws_col > 0);
        let (columns, rows) = size.map_or((80, 24), |it| (it.ws_col, it.ws_row));
        output::print(&frame(text, columns.into(), rows.into()))
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        let _ = output::print(&format!("\n{SHOW_CURSOR}"));
    }
}

/// Draws over the last frame, so that nothing flickers.
fn frame(text: &str, columns: usize, rows: usize) -> String {
    let fitting = text.lines().take(rows.saturating_sub(1)).map(|line| {
        let line: String = line.chars().take(columns).collect();
        line + CLEAR_TO_END_OF_LINE
    });
    format!(
        "{HOME}{}{CLEAR_BELOW}",
        fitting.collect::<Vec<_>>().join("\n")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_fits_into_the_terminal() {
        let frame = frame("12345\n1\n1\n", 3, 3);
        assert_eq!(frame, "\x1b[H123\x1b[K\n1\x1b[K\x1b[J");
    }
}
