//! [`Walk`]: visits a directory tree in depth-first order, each directory before its entries.

use std::{ffi::OsString, path::PathBuf, vec};

/// Yields the paths of a tree, relative to its top. The caller [enters](Self::enter) directories.
#[derive(Default)]
pub(crate) struct Walk {
    /// The current directory and its parents, each with its remaining names.
    levels: Vec<(PathBuf, vec::IntoIter<OsString>)>,
    pending: u64,
}

impl Walk {
    /// Visits these names next. `directory` is the path that the walk has just yielded, or an empty
    /// path at the top.
    pub(crate) fn enter(&mut self, directory: PathBuf, names: Vec<OsString>) {
        self.pending += names.len() as u64;
        self.levels.push((directory, names.into_iter()));
    }

    /// The number of names that the walk has not yielded yet.
    pub(crate) fn pending(&self) -> u64 {
        self.pending
    }
}

impl Iterator for Walk {
    type Item = PathBuf;

    fn next(&mut self) -> Option<PathBuf> {
        loop {
            let (directory, names) = self.levels.last_mut()?;
            if let Some(name) = names.next() {
                self.pending -= 1;
                return Some(directory.join(name));
            }
            self.levels.pop();
        }
    }
}
