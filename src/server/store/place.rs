//! [`Place`]: where the state is kept, as the options name it.

use std::path::PathBuf;

/// Where the state is kept.
#[derive(Clone, Debug)]
pub(crate) enum Place {
    Directory(PathBuf),
    /// The URL of a bucket or a directory. It is parsed when the storage is opened.
    Url(ShownUrl),
}

/// A URL whose `Debug` output leaves out the parts that may hold secrets.
#[derive(Clone)]
pub(crate) struct ShownUrl(pub(crate) String);

impl std::fmt::Debug for ShownUrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&shown(&self.0))
    }
}

/// The URL without its user, password, query and fragment.
pub(crate) fn shown(url: &str) -> String {
    let end = url.find(['?', '#']).unwrap_or(url.len());
    let (scheme, rest) = url[..end].split_once("://").unwrap_or(("", &url[..end]));
    // Any text before an `@` could be a password, even if the URL is malformed.
    let rest = rest.rsplit_once('@').map_or(rest, |(_, rest)| rest);
    match scheme {
        "" => rest.to_owned(),
        scheme => format!("{scheme}://{rest}"),
    }
}
