//! [`Outputs`]: where the results of a benchmark go.

use std::{
    fs::{File, OpenOptions},
    io::{self, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

use super::{measure::Measured, page, report::Report};
use crate::shared;

/// The destinations of the results.
pub(super) struct Outputs {
    pub(super) json: Option<Place>,
    pub(super) html: Option<Place>,
    pub(super) quiet: bool,
}

/// A destination of results. A file is opened before the run, so an unusable path fails early. The
/// file keeps its contents until there are results to write.
pub(super) enum Place {
    Stdout,
    File(File, PathBuf),
}

impl Place {
    pub(super) fn open(path: PathBuf) -> Result<Self, String> {
        if path == Path::new("-") {
            return Ok(Self::Stdout);
        }
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path);
        match file {
            Ok(file) => Ok(Self::File(file, path)),
            Err(error) => Err(format!("cannot write to {}: {error}", path.display())),
        }
    }

    fn write(&self, text: &str) -> Result<(), String> {
        match self {
            // Ignore errors: a closed pipe must not fail the benchmark.
            Self::Stdout => _ = io::stdout().write_all(text.as_bytes()),
            Self::File(file, path) => replace(file, text)
                .map_err(|error| format!("cannot write to {}: {error}", path.display()))?,
        }
        Ok(())
    }

    /// Returns the path of a file that already has contents, such as the results of an earlier run.
    fn with_results(&self) -> Option<&Path> {
        match self {
            Self::File(file, path) if file.metadata().is_ok_and(|it| it.len() > 0) => Some(path),
            Self::File(..) | Self::Stdout => None,
        }
    }

    pub(super) fn is_stdout(&self) -> bool {
        matches!(self, Self::Stdout)
    }
}

fn replace(mut file: &File, text: &str) -> io::Result<()> {
    // Only regular files can be truncated.
    if file.metadata()?.is_file() {
        file.set_len(0)?;
        file.seek(SeekFrom::Start(0))?;
    }
    file.write_all(text.as_bytes())
}

impl Outputs {
    /// Writes the table and the other results. The table goes to standard output, or to standard
    /// error if other results go to standard output.
    pub(super) fn write(&self, report: &Report, measured: &Measured) -> Result<(), String> {
        let places = [&self.json, &self.html];
        let is_taken = places.into_iter().flatten().any(Place::is_stdout);
        match is_taken {
            // No sandbox was created, so the error says everything.
            _ if report.stopped == "unreachable" => {}
            false => Place::Stdout.write(&report.to_string())?,
            true => _ = write!(io::stderr(), "{report}"),
        }
        Self::put(&self.json, report, || report.json())?;
        Self::put(&self.html, report, || Ok(page::page(report, measured)))
    }

    /// Writes the results to `place`. Keeps an existing file if nothing was measured.
    fn put(
        place: &Option<Place>,
        report: &Report,
        text: impl FnOnce() -> Result<String, String>,
    ) -> Result<(), String> {
        let Some(place) = place else { return Ok(()) };
        match place.with_results().filter(|_| report.phases.is_empty()) {
            Some(path) => shared::say(format_args!(
                "nothing was measured, so {} is unchanged",
                path.display()
            )),
            None => place.write(&text()?)?,
        }
        Ok(())
    }
}
