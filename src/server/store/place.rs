//! [`Place`]: where the state is to be, as the options name it.

use std::path::PathBuf;

/// Where the state is kept.
#[derive(Clone, Debug)]
pub(crate) enum Place {
    Directory(PathBuf),
    /// What holds it is found out when it is opened.
    Url(ShownUrl),
}

/// A URL that is shown without what may be a secret.
#[derive(Clone)]
pub(crate) struct ShownUrl(pub(crate) String);

impl std::fmt::Debug for ShownUrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&shown(&self.0))
    }
}

/// A URL without user, password, query and fragment.
pub(crate) fn shown(url: &str) -> String {
    let end = url.find(['?', '#']).unwrap_or(url.len());
    let (scheme, rest) = url[..end].split_once("://").unwrap_or(("", &url[..end]));
    // Whatever stands before an `@` could be a password, wherever the `@` is.
    let rest = rest.rsplit_once('@').map_or(rest, |(_, rest)| rest);
    match scheme {
        "" => rest.to_owned(),
        scheme => format!("{scheme}://{rest}"),
    }
}
