//! [`CodeFile`]: the file from which an interpreter runs code.

use std::{
    fs,
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use super::job::Language;
use crate::server::blocking::blocking;

/// A file with the code of an exec. Dropping it removes the file.
pub(super) struct CodeFile(pub(super) PathBuf);

impl Drop for CodeFile {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

impl CodeFile {
    /// The path for the code of an exec.
    pub(super) fn path(directory: &Path, language: Language, number: u64) -> PathBuf {
        directory.join(match language {
            Language::Python => format!("main-{number}.py"),
            Language::Bash => format!("main-{number}.sh"),
        })
    }

    /// Writes the code to the file, which no other user can read. Creates these directories first
    /// if they are missing, because an earlier exec may have removed them.
    pub(super) async fn write(&self, code: &str, directories: &[&Path]) -> io::Result<()> {
        let (file, code) = (self.0.clone(), code.to_owned());
        let directories: Vec<_> = directories.iter().map(|it| it.to_path_buf()).collect();
        let write = move || {
            directories
                .iter()
                .try_for_each(|directory| make_private(directory))?;
            write_private(&file, code.as_bytes())
        };
        blocking(write).await
    }
}

/// Creates a directory that no other user may enter, unless it exists.
pub(super) fn make_private(directory: &Path) -> io::Result<()> {
    fs::DirBuilder::new()
        .mode(0o700)
        .recursive(true)
        .create(directory)
}

/// Writes a new file that no other user may read.
pub(super) fn write_private(file: &Path, text: &[u8]) -> io::Result<()> {
    fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(file)?
        .write_all(text)
}
