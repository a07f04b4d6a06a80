//! Converts errors of a bucket to errors that the server reports.

use std::{error::Error as _, io};

use object_store::Error;

/// The kind of an error. A missing bucket is not `NotFound`: that would mean a missing file.
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

/// The text of an error and its causes. Reduces an answer in XML or HTML to its error code, because
/// such an answer repeats the request, including the ID of the access key and the string to sign.
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
