//! The configuration file: the service that commands use by default.

use std::{
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use etcetera::BaseStrategy;
use serde::Deserialize;

use crate::cli::failure::Failure;

/// Name of the directory of this program in the user's directories.
pub(crate) const DIRECTORY: &str = "actix-sandbox";

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Config {
    service: Option<ConfiguredService>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ConfiguredService {
    pub(crate) url: String,
    pub(crate) token_file: Option<PathBuf>,
    #[serde(default)]
    pub(crate) lift: bool,
    #[serde(default)]
    pub(crate) google_auth: bool,
}

impl Config {
    /// Reads the service in the file. `None` if there is no file, or no service in it.
    pub(crate) fn read() -> Result<Option<ConfiguredService>, Failure> {
        // Without a home directory, there is no configuration.
        let Ok(path) = path() else {
            return Ok(None);
        };
        let config = Self::read_from(&path).map_err(|reason| {
            format!(
                "cannot use the configuration file {}: {reason}",
                path.display()
            )
        })?;
        let directory = path.parent().unwrap_or(Path::new("/"));
        Ok(config.service.map(|mut service| {
            // A relative path starts at the directory of the configuration file.
            service.token_file = service.token_file.map(|file| directory.join(file));
            service
        }))
    }

    fn read_from(path: &Path) -> Result<Self, String> {
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) => match error.kind() {
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => {
                    return Ok(Self::default());
                }
                _ => return Err(error.to_string()),
            },
        };
        let meta = fs::metadata(path).map_err(|error| error.to_string())?;
        if meta.mode() & 0o022 != 0 {
            return Err(format!(
                "other users may write to it (mode {:04o}): run `chmod go-w`",
                meta.mode() & 0o7777
            ));
        }
        toml::from_str(&text).map_err(|error| {
            let before = error.span().and_then(|span| text.get(..span.start));
            let line = before.map_or(1, |before| before.matches('\n').count() + 1);
            format!("line {line}: {}", error.message())
        })
    }
}

/// The path of the file: by default `~/.config/actix-sandbox/config.toml`.
fn path() -> Result<PathBuf, String> {
    let directories = etcetera::choose_base_strategy().map_err(|error| error.to_string())?;
    Ok(directories.config_dir().join(DIRECTORY).join("config.toml"))
}
