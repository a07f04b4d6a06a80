//! The configuration file: the service that commands use by default.

use std::{fs, io, os::unix::fs::MetadataExt, path::PathBuf};

use etcetera::BaseStrategy;
use serde::Deserialize;

use crate::{failure::Failure, service::Service};

/// Name of the directory of this program in the user's directories.
pub(crate) const DIRECTORY: &str = "actix-sandbox";

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Config {
    pub(crate) service: Option<Service>,
}

impl Config {
    /// Reads the file. Returns the defaults if there is none.
    pub(crate) fn read() -> Result<Self, Failure> {
        // Without a home directory, there is no configuration.
        let Ok(path) = path() else {
            return Ok(Self::default());
        };
        let failed = |reason: String| {
            Failure::from(format!(
                "cannot use the configuration file {}: {reason}",
                path.display()
            ))
        };
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => return Err(failed(error.to_string())),
        };
        let meta = fs::metadata(&path).map_err(|error| failed(error.to_string()))?;
        if meta.mode() & 0o022 != 0 {
            return Err(failed(format!(
                "other users may write to it (mode {:04o}): run `chmod go-w`",
                meta.mode() & 0o7777
            )));
        }
        toml::from_str(&text).map_err(|error| {
            let before = error.span().and_then(|span| text.get(..span.start));
            let line = before.map_or(1, |before| before.matches('\n').count() + 1);
            failed(format!("line {line}: {}", error.message()))
        })
    }
}

/// The path of the file: by default `~/.config/actix-sandbox/config.toml`.
fn path() -> Result<PathBuf, String> {
    let directories = etcetera::choose_base_strategy().map_err(|error| error.to_string())?;
    Ok(directories.config_dir().join(DIRECTORY).join("config.toml"))
}
