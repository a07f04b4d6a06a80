//! [`Outputs`]: where the results of a benchmark go.

use std::{
    fs::{File, OpenOptions, Permissions},
    io::{self, ErrorKind, Write},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use tempfile::NamedTempFile;

use super::{measure::Measured, page, report::Report};
use crate::cli::{failure::Failure, output, shared};

/// The destinations of the results.
pub(super) struct Outputs {
    pub(super) json: Option<Place>,
    pub(super) html: Option<Place>,
    pub(super) quiet: bool,
}

/// A destination of results, checked before the run.
pub(super) enum Place {
    Stdout,
    /// A regular file, which may not exist. The results replace it in one step, so it always holds
    /// the results of one run.
    File(PathBuf),
    /// A pipe or a device.
    Other(File, PathBuf),
}

/// Mode of a new file, before the umask.
const MODE: u32 = 0o666;

impl Place {
    /// Fails if the place can't be written. Changes no file.
    pub(super) fn open(path: PathBuf) -> Result<Self, String> {
        if path == Path::new("-") || path == Path::new("/dev/stdout") {
            return Ok(Self::Stdout);
        }
        Self::check(&path).map_err(|error| cannot_write(&path, &error))
    }

    fn check(path: &Path) -> io::Result<Self> {
        let path = match path.metadata() {
            Ok(meta) => {
                let file = OpenOptions::new().write(true).open(path)?;
                if !meta.is_file() {
                    return Ok(Self::Other(file, path.to_owned()));
                }
                // The results replace the file that a link names, not the link.
                path.canonicalize()?
            }
            Err(error) if error.kind() == ErrorKind::NotFound => path.to_owned(),
            Err(error) => return Err(error),
        };
        temporary(&path)?;
        Ok(Self::File(path))
    }

    fn write(&self, text: &str) -> Result<(), Failure> {
        let (done, path) = match self {
            Self::Stdout => return output::print(text),
            Self::File(path) => (replace(path, text), path),
            Self::Other(file, path) => ({ file }.write_all(text.as_bytes()), path),
        };
        Ok(done.map_err(|error| cannot_write(path, &error))?)
    }

    /// Returns the path of a file that already has contents, such as the results of an earlier run.
    fn with_results(&self) -> Option<&Path> {
        match self {
            Self::File(path) if path.metadata().is_ok_and(|it| it.len() > 0) => Some(path),
            Self::File(_) | Self::Other(..) | Self::Stdout => None,
        }
    }

    pub(super) fn is_stdout(&self) -> bool {
        matches!(self, Self::Stdout)
    }
}

fn cannot_write(path: &Path, error: &io::Error) -> String {
    format!("cannot write to {}: {error}", path.display())
}

/// Creates a file next to `path`, which is removed when it is dropped.
fn temporary(path: &Path) -> io::Result<NamedTempFile> {
    let directory = path.parent().filter(|it| !it.as_os_str().is_empty());
    let directory = directory.unwrap_or(Path::new("."));
    directory.metadata()?;
    let mode = path.metadata().map_or(MODE, |it| it.permissions().mode());
    let file = tempfile::Builder::new()
        .prefix(".actix-sandbox-bench-")
        .permissions(Permissions::from_mode(mode & 0o777))
        .tempfile_in(directory);
    // The text of this error also names the temporary file.
    file.map_err(|error| error.kind().into())
}

fn replace(path: &Path, text: &str) -> io::Result<()> {
    let mut file = temporary(path)?;
    file.as_file_mut().write_all(text.as_bytes())?;
    file.persist(path).map_err(|error| error.error)?;
    Ok(())
}

impl Outputs {
    /// Writes the table and the other results. The table goes to standard output, or to standard
    /// error if other results go to standard output. Writes as much as possible before it fails.
    pub(super) fn write(&self, report: &Report, measured: &Measured) -> Result<(), Failure> {
        let places = [&self.json, &self.html];
        let is_taken = places.into_iter().flatten().any(Place::is_stdout);
        let table = match is_taken {
            // No sandbox was created, so the error says everything.
            _ if report.stopped == "unreachable" => Ok(()),
            false => output::print(&report.to_string()),
            true => {
                _ = write!(io::stderr(), "{report}");
                Ok(())
            }
        };
        let json = Self::put(&self.json, report, || report.json());
        let html = Self::put(&self.html, report, || Ok(page::page(report, measured)));
        json.and(html).and(table)
    }

    /// Writes the results to `place`. Keeps an existing file if nothing was measured.
    fn put(
        place: &Option<Place>,
        report: &Report,
        text: impl FnOnce() -> Result<String, String>,
    ) -> Result<(), Failure> {
        let Some(place) = place else {
            return Ok(());
        };
        match place.with_results().filter(|_| report.phases.is_empty()) {
            Some(path) => {
                shared::say(format_args!(
                    "nothing was measured, so {} is unchanged",
                    path.display()
                ));
                Ok(())
            }
            None => place.write(&text()?),
        }
    }
}
