//! [`Builtin::Pack`](crate::protocol::Builtin::Pack) and
//! [`Builtin::Unpack`](crate::protocol::Builtin::Unpack): tar archives of directories.

use std::path::Path;

use serde::Serialize;
use serde_json::Value;

use super::{Streams, failure, place};
use crate::{
    archive::{self, ArchiveError, ArchiveErrorKind, Limits, Summary},
    protocol::{BuiltinError, BuiltinErrorKind, FilePath, MAX_RESULT_BYTES, Transferred},
};

/// Writes an archive of a file or directory to stdout.
pub(super) fn pack(
    home: &Path,
    path: &FilePath,
    streams: &mut Streams,
) -> Result<Value, BuiltinError> {
    let packed = archive::pack(&place(home, path), &|_, _| false, streams, &mut |_| {});
    packed
        .map_err(|error| failed(path, &error))
        .and_then(|summary| result(path, summary))
}

/// Unpacks an archive from stdin into a directory.
///
/// There are no limits: code could write the same files, and the disk of the sandbox has a limit.
pub(super) fn unpack(
    home: &Path,
    path: &FilePath,
    streams: &mut Streams,
) -> Result<Value, BuiltinError> {
    let unpacked = archive::unpack(&place(home, path), streams, &Limits::NONE, &mut |_| {});
    unpacked
        .map_err(|error| failed(path, &error))
        .and_then(|summary| result(path, summary))
}

/// The result for the client.
#[derive(Serialize)]
struct Outcome {
    #[serde(flatten)]
    transferred: Transferred,
    /// As many skipped files as fit into the result.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    skipped: Vec<SkippedFile>,
    /// The number of all skipped files.
    #[serde(skip_serializing_if = "is_zero")]
    skipped_count: u64,
}

#[derive(Serialize)]
struct SkippedFile {
    path: FilePath,
    reason: String,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

fn result(path: &FilePath, summary: Summary) -> Result<Value, BuiltinError> {
    let mut outcome = Outcome {
        transferred: Transferred::new(summary.bytes, summary.entries),
        skipped: Vec::new(),
        skipped_count: summary.skipped_count,
    };
    let other = |error| {
        failure(
            "describe the result of",
            path,
            &std::io::Error::other(error),
        )
    };
    // The rest of the result takes less than this.
    let mut left = MAX_RESULT_BYTES - 1024;
    for skipped in summary.skipped {
        let skipped = SkippedFile {
            path: skipped.path.into(),
            reason: skipped.reason,
        };
        let bytes = serde_json::to_vec(&skipped).map_err(other)?.len() + 1;
        if bytes > left {
            break;
        }
        left -= bytes;
        outcome.skipped.push(skipped);
    }
    serde_json::to_value(outcome).map_err(other)
}

fn failed(path: &FilePath, error: &ArchiveError) -> BuiltinError {
    let below = match error.path() {
        // A path in the archive is relative to the path of the operation.
        Some(below) if below.is_relative() => path.as_path().join(below).into(),
        _ => path.clone(),
    };
    match error.kind() {
        ArchiveErrorKind::File => failure(error.operation(), &below, error.io()),
        kind => BuiltinError::new(
            match kind {
                ArchiveErrorKind::Stream | ArchiveErrorKind::File => BuiltinErrorKind::Other,
                ArchiveErrorKind::InvalidArchive | ArchiveErrorKind::Truncated => {
                    BuiltinErrorKind::InvalidInput
                }
            },
            below,
            error.to_string(),
        ),
    }
}
