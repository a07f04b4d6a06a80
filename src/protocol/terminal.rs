//! [`TerminalSize`]: the size of the terminal of an exec.

use serde::{Deserialize, Serialize};

/// The size of a terminal, in characters. Each side is from 1 to [`MAX`](Self::MAX).
///
/// ```
/// use actix_sandbox::TerminalSize;
///
/// let size = TerminalSize::new(120, 40).unwrap();
/// assert_eq!((size.columns(), size.rows()), (120, 40));
/// assert_eq!(TerminalSize::default(), TerminalSize::new(80, 24).unwrap());
/// assert_eq!(TerminalSize::new(0, 0), None);
/// assert_eq!(TerminalSize::new(10_000, 10_000), None);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct TerminalSize {
    columns: u16,
    rows: u16,
}

impl TerminalSize {
    /// The maximum number of columns, and of rows.
    pub const MAX: u16 = 4_096;

    /// Returns `None` if a side is 0 or greater than [`MAX`](Self::MAX).
    pub const fn new(columns: u16, rows: u16) -> Option<Self> {
        let size = Self { columns, rows };
        match size.is_valid() {
            true => Some(size),
            false => None,
        }
    }

    /// The number of columns.
    pub const fn columns(self) -> u16 {
        self.columns
    }

    /// The number of rows.
    pub const fn rows(self) -> u16 {
        self.rows
    }

    /// Whether both sides are in range. A size that was read from JSON may not be.
    pub(crate) const fn is_valid(self) -> bool {
        let Self { columns, rows } = self;
        columns >= 1 && columns <= Self::MAX && rows >= 1 && rows <= Self::MAX
    }
}

impl Default for TerminalSize {
    /// 80 columns and 24 rows.
    fn default() -> Self {
        Self {
            columns: 80,
            rows: 24,
        }
    }
}
