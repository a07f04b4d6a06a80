//! [`Outputs`]: where the results of a benchmark go.

use std::{
    fs::{File, OpenOptions},
    io::{self, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

use super::{measure::Measured, page, report::Report};
use crate::shared;

/// Where the results go.
pub(super) struct Outputs {
    pub(super) json: Option<Place>,
    pub(super) html: Option<Place>,
    pub(super) quiet: bool,
}

/// A file that was opened before the run: what cannot be written is known then, and what is there is kept until there is more.
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
            // The benchmark does not fail if its reader is gone.
            Self::Stdout => _ = io::stdout().write_all(text.as_bytes()),
            Self::File(file, path) => replace(file, text)
                .map_err(|error| format!("cannot write to {}: {error}", path.display()))?,
        }
        Ok(())
    }

    /// Where it is, if it holds the results of an earlier run.
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
    // What is no file of a disk has no length.
    if file.metadata()?.is_file() {
        file.set_len(0)?;
        file.seek(SeekFrom::Start(0))?;
    }
    file.write_all(text.as_bytes())
}

impl Outputs {
    /// Writes the table to the standard output, and what else was asked for.
    pub(super) fn write(&self, report: &Report, measured: &Measured) -> Result<(), String> {
        let places = [&self.json, &self.html];
        let is_taken = places.into_iter().flatten().any(Place::is_stdout);
        match is_taken {
            // What went wrong is all that there is to say.
            _ if report.stopped == "unreachable" => {}
            false => Place::Stdout.write(&report.to_string())?,
            true => _ = write!(io::stderr(), "{report}"),
        }
        Self::put(&self.json, report, || report.json())?;
        Self::put(&self.html, report, || Ok(page::page(report, measured)))
    }

    /// A run in which nothing was created is no reason to lose the results of another.
    fn put(
        place: &Option<Place>,
        report: &Report,
        text: impl FnOnce() -> Result<String, String>,
    ) -> Result<(), String> {
        let Some(place) = place else { return Ok(()) };
        match place.with_results().filter(|_| report.phases.is_empty()) {
            Some(path) => shared::say(format_args!(
                "{} is left as it was: nothing was measured",
                path.display()
            )),
            None => place.write(&text()?)?,
        }
        Ok(())
    }
}
