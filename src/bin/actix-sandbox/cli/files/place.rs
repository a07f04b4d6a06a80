//! [`Place`] and [`RemotePath`]: the paths that are arguments.

use std::{
    ffi::{OsStr, OsString},
    os::unix::ffi::{OsStrExt, OsStringExt},
    path::PathBuf,
};

use actix_sandbox::FilePath;
use clap::builder::{OsStringValueParser, TypedValueParser};

use crate::cli::{failure::Failure, kept::Kept, known, service::ServiceArguments};

/// Where a copy starts or ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// Standard input or standard output.
    Stream,
    /// A path of this machine.
    Local(PathBuf),
    Remote(RemotePath),
}

/// A path in a sandbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RemotePath {
    /// The id of the sandbox, or a prefix of it.
    id: String,
    /// The path as it was given. Empty for the home directory.
    path: Vec<u8>,
}

impl Place {
    /// A parser of `-`, `ID:PATH` and local paths. A path is local if it has no colon, or if a `/`
    /// comes before the first colon.
    pub(super) fn parser() -> impl TypedValueParser<Value = Self> {
        OsStringValueParser::new().try_map(Self::parse)
    }

    fn parse(text: OsString) -> Result<Self, String> {
        let bytes = text.as_bytes();
        let before_colon = bytes.iter().position(|byte| *byte == b':');
        match before_colon.map(|at| &bytes[..at]) {
            _ if bytes == b"-" => Ok(Self::Stream),
            _ if bytes.is_empty() => Err("expected a path or ID:PATH".to_owned()),
            Some(id) if !id.contains(&b'/') => RemotePath::parse(text).map(Self::Remote),
            _ => Ok(Self::Local(text.into())),
        }
    }
}

impl RemotePath {
    /// A parser of `ID`, `ID:` and `ID:PATH`.
    pub(super) fn parser() -> impl TypedValueParser<Value = Self> {
        OsStringValueParser::new().try_map(Self::parse)
    }

    fn parse(text: OsString) -> Result<Self, String> {
        let bytes = text.as_bytes();
        let mut parts = bytes.splitn(2, |byte| *byte == b':');
        let id = parts.next().unwrap_or_default();
        match std::str::from_utf8(id) {
            Ok(id) if !id.is_empty() => Ok(Self {
                id: id.to_owned(),
                path: parts.next().unwrap_or_default().to_owned(),
            }),
            _ => Err(
                "expected ID:PATH with the id of a sandbox; for a local path of `cp` that contains a \
                 colon, write ./ before it"
                    .to_owned(),
            ),
        }
    }

    /// Finds the sandbox among those of this user.
    pub(super) fn find(&self, service: &ServiceArguments) -> Result<Kept, Failure> {
        known::find(&self.id, service)
    }

    /// The path for the library.
    pub(super) fn path(&self) -> FilePath {
        match self.path.is_empty() {
            true => ".".into(),
            false => FilePath::from_bytes(&*self.path),
        }
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.path
    }
}

/// The name that a source gets in a directory. `None` if its contents go into the directory, as
/// with `.` and `directory/.`.
pub(super) fn name(source: &[u8]) -> Option<&[u8]> {
    let length = source.iter().rposition(|byte| *byte != b'/')? + 1;
    match source[..length].rsplit(|byte| *byte == b'/').next() {
        None | Some(b"." | b"..") => None,
        name => name,
    }
}

/// Whether a path says that it is a directory.
pub(super) fn ends_with_slash(path: &[u8]) -> bool {
    path.ends_with(b"/")
}

/// Where a source goes: into a directory under its name, or to the path itself.
pub(super) fn target(to: &[u8], is_directory: bool, source: &[u8]) -> PathBuf {
    let target = PathBuf::from(OsString::from_vec(to.to_owned()));
    match name(source) {
        Some(name) if is_directory || ends_with_slash(to) => target.join(OsStr::from_bytes(name)),
        _ => target,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Option<(String, String)> {
        match Place::parse(text.into()).unwrap() {
            Place::Remote(RemotePath { id, path }) => Some((id, String::from_utf8(path).unwrap())),
            _ => None,
        }
    }

    #[test]
    fn a_slash_before_the_first_colon_makes_a_path_local() {
        for local in ["a", "./a:b", "/a:b", "d/a:b:c", ".", "-"] {
            assert_eq!(parsed(local), None, "{local}");
        }
        for (text, id, path) in [
            ("a:b", "a", "b"),
            ("a:", "a", ""),
            ("a:/b:c", "a", "/b:c"),
            ("sandbox-1:./x", "sandbox-1", "./x"),
        ] {
            assert_eq!(parsed(text), Some((id.into(), path.into())), "{text}");
        }
        assert!(Place::parse(":b".into()).is_err());
        assert!(Place::parse("".into()).is_err());
    }

    #[test]
    fn sources_keep_their_names_in_directories() {
        for (to, is_directory, source, expected) in [
            ("d", true, "a/b", "d/b"),
            ("d", false, "a/b", "d"),
            ("d/", false, "a/b/", "d/b"),
            ("d", true, "a/.", "d"),
            ("d", true, "..", "d"),
            ("d", true, "/", "d"),
            ("d", true, "", "d"),
            ("/", true, "b", "/b"),
        ] {
            let target = target(to.as_bytes(), is_directory, source.as_bytes());
            assert_eq!(target, PathBuf::from(expected), "{to} {source}");
        }
    }
}
