//! Errors of a storage, as the server tells them.

use std::{error::Error as _, io};

use object_store::Error;

/// A bucket that is not there is no file that is not there.
pub(super) fn kind(error: &Error) -> io::ErrorKind {
    match error {
        Error::NotFound { .. } if !error.to_string().contains("NoSuchBucket") => {
            io::ErrorKind::NotFound
        }
        Error::PermissionDenied { .. } | Error::Unauthenticated { .. } => {
            io::ErrorKind::PermissionDenied
        }
        _ => io::ErrorKind::Other,
    }
}

/// What an error says, and what is behind it. Of an answer in XML or HTML its code alone: such answers repeat the
/// request, with the name of the key and what was signed.
pub(super) fn explain(error: &Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    if let (Some(begin), Some(end)) = (text.find('<'), text.rfind('>')) {
        let code = text
            .split_once("<Code>")
            .and_then(|(_, rest)| rest.split_once("</Code>"))
            .map_or("", |(code, _)| code)
            .to_owned();
        let rest = text.get(end + 1..).unwrap_or_default();
        text = format!("{}{code}{rest}", &text[..begin.min(end)]);
    }
    text.trim().to_owned()
}
