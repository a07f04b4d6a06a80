//! `actix-sandbox ls`: the files of a directory in a sandbox.

use std::{fmt::Write, process::ExitCode};

use actix_sandbox::{
    BuiltinErrorKind, Error, ErrorKind, FileEntry, FileKind, FileMetadata, FilePath, Files,
};
use clap::Args;
use futures::StreamExt;

use super::place::RemotePath;
use crate::cli::{
    escape::escaped_bytes,
    failure::{Failure, STATUS},
    known, operation,
    output::{self, Format},
    runtime,
    service::ServiceArguments,
    signals::Signals,
    usage,
};

/// How many entries to print at once, at most.
const AT_ONCE: usize = 1_000;

#[derive(Args)]
#[command(after_help = STATUS)]
pub(crate) struct List {
    /// Directory or file to list. Without PATH, the home directory of the sandbox.
    #[arg(value_name = "ID[:PATH]", value_parser = RemotePath::parser())]
    place: RemotePath,

    /// Shows the mode, the size in bytes, the time of the last change and the target of a link.
    #[arg(short)]
    long: bool,

    /// Lists subdirectories recursively, one path on each line.
    #[arg(short = 'R', long)]
    recursive: bool,

    /// Includes names that start with a dot.
    #[arg(short, long)]
    all: bool,

    /// Format of the output: text, or a JSON array with all properties.
    #[arg(long, value_enum, default_value = "text")]
    output: Format,

    #[command(flatten)]
    service: ServiceArguments,
}

impl List {
    pub(crate) fn run(self) -> Result<ExitCode, Failure> {
        runtime::run(|signals| self.start(signals))
    }

    async fn start(self, mut signals: Signals) -> Result<ExitCode, Failure> {
        let kept = self.place.find(&self.service)?;
        let sandbox = signals.or(known::attach(&kept)).await?;
        let listed = self.list(sandbox.files());
        operation::run(&sandbox, &mut signals, listed).await?;
        Ok(ExitCode::SUCCESS)
    }

    async fn list(&self, files: Files) -> Result<(), Failure> {
        let path = self.place.path();
        if let Some(file) = file(&files, &path).await? {
            return self.print(vec![file]);
        }
        let depth = if self.recursive { u32::MAX } else { 1 };
        let entries = files.entries(path, depth, None).await?;
        // JSON is one array.
        let at_once = match self.output {
            Format::Text => AT_ONCE,
            Format::Json => usize::MAX,
        };
        let mut all = Vec::new();
        let mut pieces = entries.ready_chunks(AT_ONCE);
        while let Some(piece) = pieces.next().await {
            for entry in piece {
                let entry = entry?;
                if self.all || !is_hidden(&entry.path) {
                    all.push(entry);
                }
            }
            if at_once == AT_ONCE {
                self.print(std::mem::take(&mut all))?;
            }
        }
        match self.output {
            Format::Text => Ok(()),
            Format::Json => self.print(all),
        }
    }

    fn print(&self, entries: Vec<FileEntry>) -> Result<(), Failure> {
        match self.output {
            Format::Json => output::print_json(&entries),
            Format::Text => {
                output::print(&entries.iter().map(|it| self.line(it)).collect::<String>())
            }
        }
    }

    fn line(&self, entry: &FileEntry) -> String {
        let mut line = String::new();
        let it = &entry.metadata;
        if self.long {
            let time = usage::time(u64::try_from(it.modified_ns / 1_000_000).unwrap_or(0));
            // A write to a String can't fail.
            let _ = write!(line, "{} {:>12} {time} ", mode(it), it.size);
        }
        line += &escaped_bytes(entry.path.as_bytes());
        if let (true, Some(target)) = (self.long, &it.target) {
            line += " -> ";
            line += &escaped_bytes(target.as_bytes());
        }
        line.push('\n');
        line
    }
}

/// The entry of a path that is not a directory. `None` for a directory, and for a link to one.
async fn file(files: &Files, path: &FilePath) -> Result<Option<FileEntry>, Error> {
    let metadata = files.symlink_metadata(path).await?;
    let is_directory = match metadata.kind {
        FileKind::Symlink => match files.metadata(path).await {
            Ok(target) => target.is_dir(),
            Err(error) if is_missing(&error) => false,
            Err(error) => return Err(error),
        },
        kind => kind == FileKind::Directory,
    };
    Ok((!is_directory).then(|| FileEntry::new(path.clone(), metadata)))
}

/// Whether an operation failed because there is no file at its path.
pub(super) fn is_missing(error: &Error) -> bool {
    use BuiltinErrorKind::{NotADirectory, NotFound};
    matches!(error.kind(), ErrorKind::Builtin(NotFound | NotADirectory))
}

/// Whether a part of the path starts with a dot.
fn is_hidden(path: &FilePath) -> bool {
    let mut names = path.as_bytes().split(|byte| *byte == b'/');
    names.any(|name| name.starts_with(b"."))
}

/// The kind and the permissions, as `ls -l` shows them.
fn mode(it: &FileMetadata) -> String {
    let mut text = String::from(match it.kind {
        FileKind::File => '-',
        FileKind::Directory => 'd',
        FileKind::Symlink => 'l',
        _ => '?',
    });
    for (shift, special, letter) in [(6, 0o4000, 's'), (3, 0o2000, 's'), (0, 0o1000, 't')] {
        let bits = it.permissions >> shift;
        text.push(if bits & 4 != 0 { 'r' } else { '-' });
        text.push(if bits & 2 != 0 { 'w' } else { '-' });
        text.push(match (it.permissions & special != 0, bits & 1 != 0) {
            (true, true) => letter,
            (true, false) => letter.to_ascii_uppercase(),
            (false, true) => 'x',
            (false, false) => '-',
        });
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_look_like_those_of_ls() {
        for (kind, permissions, expected) in [
            (FileKind::File, 0o644, "-rw-r--r--"),
            (FileKind::Directory, 0o1777, "drwxrwxrwt"),
            (FileKind::Symlink, 0o777, "lrwxrwxrwx"),
            (FileKind::File, 0o6711, "-rws--s--x"),
            (FileKind::Other, 0o4600, "?rwS------"),
        ] {
            let metadata = FileMetadata::new(kind, 0, permissions, 0);
            assert_eq!(mode(&metadata), expected);
        }
    }
}
