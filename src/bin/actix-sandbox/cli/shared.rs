//! Code that commands share: argument parsers, the access token, and error texts that name flags.

use std::{
    fmt::Display, io::Write, ops::RangeInclusive, os::unix::fs::MetadataExt, path::Path,
    str::FromStr, time::Duration,
};

use actix_sandbox::server::{Backend, ServerError};
use bytesize::ByteSize;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::cli::escape::escaped_lines;

/// The environment variable with the access token. The token itself is not an argument, because
/// every user of the machine can read arguments.
pub(crate) const TOKEN: &str = "ACTIX_SANDBOX_TOKEN";
/// Minimum length of the access token of a server. Shorter tokens can be guessed.
const SHORTEST_TOKEN: usize = 16;

/// The heading of the options of a local server in `--help`.
pub(crate) const LOCAL_SERVER: &str = "Local server";

/// Parses the name of a backend. An empty value means `auto`, as in the library.
pub(crate) fn backend(name: &str) -> Result<Backend, String> {
    match name {
        "" => Ok(Backend::Auto),
        name => name.parse(),
    }
}

/// Parses a whole number of at least 1.
pub(crate) fn positive(text: &str) -> Result<usize, String> {
    within(text, 1..=usize::MAX)
}

/// Like [`positive`], for `u64`.
pub(crate) fn positive_u64(text: &str) -> Result<u64, String> {
    within(text, 1..=u64::MAX)
}

/// Parses a number of worker threads.
pub(crate) fn workers(text: &str) -> Result<usize, String> {
    within(text, 1..=512)
}

/// Parses a number of warm sandboxes.
pub(crate) fn warm(text: &str) -> Result<usize, String> {
    within(text, 0..=1_000)
}

fn within<T: FromStr + PartialOrd + Display + Copy>(
    text: &str,
    range: RangeInclusive<T>,
) -> Result<T, String> {
    let number = text.parse().ok().filter(|number| range.contains(number));
    number.ok_or_else(|| {
        let (least, most) = (range.start(), range.end());
        format!("expected a whole number from {least} to {most}")
    })
}

/// Parses a size of at least 1 byte.
pub(crate) fn size(text: &str) -> Result<ByteSize, String> {
    let size = text
        .parse()
        .ok()
        .filter(|size: &ByteSize| size.as_u64() > 0);
    size.ok_or_else(|| "expected a size of at least 1 byte, for example 8GiB".to_owned())
}

/// Parses a time longer than 0.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let time = humantime::parse_duration(text).ok();
    let time = time.filter(|time| !time.is_zero());
    time.ok_or_else(|| "expected a time longer than 0, for example 30s or 5m".to_owned())
}

/// A name and a value.
pub(crate) type Assignment = (String, String);

/// Parses `NAME=VALUE`, or `NAME`, whose value is that of this process's own variable.
pub(crate) fn assignment(text: &str) -> Result<Assignment, String> {
    let (name, value) = match text.split_once('=') {
        Some((name, value)) => (name, value.to_owned()),
        None => match std::env::var(text) {
            Ok(value) => (text, value),
            // The text of the error would contain the value.
            Err(std::env::VarError::NotUnicode(_)) => {
                return Err("its value is not valid UTF-8".to_owned());
            }
            Err(_) => {
                return Err("expected NAME=VALUE, or the name of a variable that is set".to_owned());
            }
        },
    };
    match name.is_empty() {
        true => Err("expected NAME=VALUE".to_owned()),
        false => Ok((name.to_owned(), value)),
    }
}

/// Parses `KEY=VALUE`.
pub(crate) fn label(text: &str) -> Result<Assignment, String> {
    let (key, value) = text.split_once('=').ok_or("expected KEY=VALUE")?;
    Ok((key.to_owned(), value.to_owned()))
}

/// Reads the access token from `file`, or else from the variable [`TOKEN`]. Returns `None` if
/// neither is set.
pub(crate) fn token(file: Option<&Path>) -> Result<Option<String>, String> {
    token_of(file, 1)
}

/// Reads the access token of a server, which must be long.
pub(crate) fn server_token(file: Option<&Path>) -> Result<Option<String>, String> {
    token_of(file, SHORTEST_TOKEN)
}

fn token_of(file: Option<&Path>, shortest: usize) -> Result<Option<String>, String> {
    let (token, place) = match file {
        Some(file) => (read(file)?, file.display().to_string()),
        None => match variable(TOKEN)? {
            Some(token) => (token, format!("the variable {TOKEN}")),
            None => return Ok(None),
        },
    };
    let token = token.trim();
    let is_sendable = token.bytes().all(|byte| byte.is_ascii_graphic());
    match token.len() >= shortest && is_sendable {
        true => Ok(Some(token.to_owned())),
        false if shortest == SHORTEST_TOKEN => Err(format!(
            "the access token in {place} cannot be used: expected at least {shortest} ASCII \
             characters without spaces; `head -c 24 /dev/urandom | base64` generates one"
        )),
        false => Err(format!(
            "the access token in {place} cannot be used: it is empty, or contains spaces or \
             characters that are not ASCII"
        )),
    }
}

/// The value of an environment variable. `None` if it is not set or empty. The error doesn't
/// contain the value, which may be a secret.
pub(crate) fn variable(name: &str) -> Result<Option<String>, String> {
    match std::env::var(name) {
        Ok(value) => Ok(Some(value).filter(|value| !value.is_empty())),
        Err(std::env::VarError::NotPresent) => Ok(None),
        Err(std::env::VarError::NotUnicode(_)) => {
            Err(format!("the variable {name} is not valid UTF-8"))
        }
    }
}

/// Describes why a server did not start, with the flags to change. The library names its methods
/// instead.
pub(crate) fn not_started(error: &ServerError) -> String {
    match error {
        ServerError::Bind { address, source } => format!(
            "cannot listen on {address}: {source}; choose another `--address`, for example 127.0.0.1:0 \
             for a free port"
        ),
        ServerError::Directory { path, source } => format!(
            "cannot use {} for the sandboxes: {source}; choose a directory that this user can write \
             to (`--directory`)",
            path.display()
        ),
        ServerError::StateDirectory { path, source } => format!(
            "cannot use {} for snapshots and checkpoints: {source}; choose a directory that \
             this user owns (`--state`)",
            path.display()
        ),
        ServerError::StateUrl { url, source } => {
            format!("cannot use {url} for snapshots and checkpoints (`--state`): {source}")
        }
        ServerError::Backend { backend, reason } => format!(
            "the backend `{backend}` does not work here: {reason}; choose another (`--backend host` runs \
             code as this user, `--backend auto` uses the best backend that works)"
        ),
        ServerError::NotConfined { reason } => format!(
            "no backend that confines code works here: {reason}; to run trusted code as this user, \
             use `--backend host`"
        ),
        ServerError::Limit {
            option,
            given,
            least,
            unit,
        } => {
            let flag = option.replace('_', "-");
            format!("`--{flag}`: {given}{unit} is too little; at least {least} are needed")
        }
        ServerError::WarmOnHost => "`--warm` needs a backend that confines code, and `host` \
             doesn't: choose one (`--backend confined`), or leave out `--warm`"
            .to_owned(),
        error => error.to_string(),
    }
}

/// Describes why the local server of a command that is not `serve` did not start. Such a command has
/// no flags for directories and addresses.
pub(crate) fn local_not_started(error: &ServerError) -> String {
    match error {
        ServerError::Directory { path, source } => format!(
            "cannot use {} for the sandboxes: {source}; set TMPDIR to a directory that you can \
             write to",
            path.display()
        ),
        ServerError::Bind { .. }
        | ServerError::StateDirectory { .. }
        | ServerError::StateUrl { .. } => error.to_string(),
        ServerError::NotConfined { reason } => format!(
            "no backend that confines code works here: {reason}; `actix-sandbox doctor` shows how \
             to fix this; to run trusted code without confinement, use `--backend host`"
        ),
        error => not_started(error),
    }
}

/// Writes a message to standard error. Escapes it, because it may contain text from a sandbox or a
/// peer. `eprintln!` would panic if standard error is a closed pipe.
pub(crate) fn say(message: impl Display) {
    say_with_end(message, "\n");
}

/// Like [`say`], with this end of the line.
pub(crate) fn say_with_end(message: impl Display, end: &str) {
    let message = escaped_lines(&message.to_string());
    let _ = write!(std::io::stderr(), "actix-sandbox: {message}{end}");
}

/// Reads the token of a sandbox from a file.
pub(crate) fn sandbox_token(file: &Path) -> Result<String, String> {
    let token = read(file)?.trim().to_owned();
    match token.is_empty() {
        true => Err(format!("the file {} is empty", file.display())),
        false => Ok(token),
    }
}

fn read(file: &Path) -> Result<String, String> {
    let failed =
        |reason: String| format!("cannot read the token from {}: {reason}", file.display());
    let meta = std::fs::metadata(file).map_err(|error| failed(error.to_string()))?;
    if !meta.is_file() {
        return Err(failed(
            "it must be a regular file, because the command reads it again for each connection"
                .to_owned(),
        ));
    }
    let mode = meta.mode() & 0o777;
    if mode & 0o022 != 0 {
        return Err(failed(format!(
            "another user may have changed the token (mode {mode:04o}): run `chmod 600`, and write a \
             new token to the file"
        )));
    }
    std::fs::read_to_string(file).map_err(|error| failed(error.to_string()))
}

/// Raises the soft limit on open files to the hard limit. Many shells set a soft limit of 1024.
pub(crate) fn raise_open_files() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
    if let Err(error) = raised {
        tracing::warn!(%error, "cannot raise the limit on open files");
    }
}
