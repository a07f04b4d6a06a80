//! [`Bar`]: the progress of a copy on standard error.

use std::io::{self, IsTerminal};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

const WITH_TOTAL: &str =
    "{msg} [{wide_bar}] {binary_bytes} of {binary_total_bytes}, {binary_bytes_per_sec}, {eta} left";
const WITHOUT_TOTAL: &str = "{msg} {binary_bytes}, {binary_bytes_per_sec}";

/// A progress bar. Dropping it removes it from the terminal.
pub(super) struct Bar(ProgressBar);

impl Bar {
    /// Shows nothing if `is_quiet`, or if stderr is not a terminal. `total` is the number of bytes,
    /// if it is known.
    pub(super) fn new(name: String, total: Option<u64>, is_quiet: bool) -> Self {
        let (bar, template) = match total {
            Some(total) => (ProgressBar::new(total), WITH_TOTAL),
            None => (ProgressBar::new_spinner(), WITHOUT_TOTAL),
        };
        if is_quiet || !io::stderr().is_terminal() {
            bar.set_draw_target(ProgressDrawTarget::hidden());
        }
        let style = ProgressStyle::with_template(template);
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        bar.set_message(name);
        Self(bar)
    }

    /// Returns a function that shows how many bytes were copied so far. The size of an archive may
    /// exceed that of its files a little.
    pub(super) fn setter(&self) -> impl Fn(u64) + Send + 'static {
        let bar = self.0.clone();
        move |bytes| bar.set_position(bytes.min(bar.length().unwrap_or(u64::MAX)))
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
