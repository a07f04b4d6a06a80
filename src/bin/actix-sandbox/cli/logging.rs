//! The log: its format, and its levels from `RUST_LOG`.

use std::ffi::OsStr;

use clap::ValueEnum;
use tracing_subscriber::{
    filter::{LevelFilter, Targets},
    prelude::*,
};

/// The environment variable with the levels of the log.
const LEVELS: &str = "RUST_LOG";

#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum LogFormat {
    Text,
    Json,
}

/// Starts to log to stderr. Fails if the levels in the environment are not valid.
pub(crate) fn init(format: LogFormat) -> Result<(), String> {
    let levels = levels(&std::env::var_os(LEVELS).unwrap_or_default())?;
    let log = tracing_subscriber::fmt()
        .with_max_level(LevelFilter::TRACE)
        // Otherwise the logger panics if stderr is a closed pipe.
        .log_internal_errors(false)
        .with_writer(std::io::stderr);
    match format {
        LogFormat::Text => log.with_ansi(false).finish().with(levels).init(),
        LogFormat::Json => log.json().finish().with(levels).init(),
    }
    Ok(())
}

/// Starts to log if the environment has levels. Commands that use the client log nothing otherwise.
pub(crate) fn init_if_wanted() -> Result<(), String> {
    match std::env::var_os(LEVELS).is_some_and(|levels| !levels.is_empty()) {
        true => init(LogFormat::Text),
        false => Ok(()),
    }
}

/// Parses levels and `target=level` pairs with commas between them. Empty parts are ignored. If
/// nothing remains, returns the default.
fn levels(value: &OsStr) -> Result<Targets, String> {
    let refused = |reason: &str| {
        format!(
            "{LEVELS} is `{}`: {reason}; expected for example `debug` or \
             `actix_sandbox=debug,info`",
            value.display()
        )
    };
    let text = value.to_str().ok_or_else(|| refused("not valid UTF-8"))?;
    let parts = text.split(',').map(str::trim);
    let parts: Vec<_> = parts.filter(|part| !part.is_empty()).collect();
    if parts.is_empty() {
        let default = Targets::new().with_default(LevelFilter::INFO);
        return Ok(default.with_target("actix_server", LevelFilter::WARN));
    }
    // The parser takes a misspelt level for a target.
    let is_known = |word: &str| word.parse::<LevelFilter>().is_ok() || word.starts_with("actix");
    let unknown = |part: &&&str| !part.contains('=') && !is_known(part);
    if let Some(unknown) = parts.iter().find(unknown) {
        return Err(refused(&format!(
            "`{unknown}` is not a level; for a target, write `{unknown}=trace`"
        )));
    }
    let levels = parts.join(",").parse();
    levels.map_err(|error| refused(&format!("{error}")))
}
