//! [`Builtin::Pack`](crate::protocol::Builtin::Pack) and
//! [`Builtin::Unpack`](crate::protocol::Builtin::Unpack): tar archives of directories.

use std::path::Path;

use serde_json::Value;

use super::{Streams, failure, place::Subject};
use crate::{
    archive::{self, ArchiveError, ArchiveErrorKind, Limits, Summary},
    protocol::{
        ArchiveResult, BuiltinError, BuiltinErrorKind, FilePath, MAX_RESULT_BYTES, Transferred,
    },
};

/// Writes an archive of a file or directory to stdout.
pub(super) fn pack(
    home: &Path,
    path: &FilePath,
    streams: &mut Streams,
) -> Result<Value, BuiltinError> {
    let source = Subject::or_home("pack", path)?.on_machine(home);
    let packed = archive::pack(&source, &|_, _| false, streams, &mut |_| {});
    packed
        .map_err(|error| failed(path, &error))
        .and_then(|summary| result(path, summary))
}

/// Unpacks an archive from stdin into a directory, or with `file`, one file to a path.
///
/// Has no limits of its own: code could write the same files.
pub(super) fn unpack(
    home: &Path,
    path: &FilePath,
    file: bool,
    streams: &mut Streams,
) -> Result<Value, BuiltinError> {
    let destination = Subject::or_home("unpack into", path)?.on_machine(home);
    let unpack = match file {
        true => archive::unpack_file,
        false => archive::unpack,
    };
    let unpacked = unpack(&destination, streams, &Limits::NONE, &mut |_| {});
    unpacked
        .map_err(|error| failed(path, &error))
        .and_then(|summary| result(path, summary))
}

fn result(path: &FilePath, summary: Summary) -> Result<Value, BuiltinError> {
    let mut outcome = ArchiveResult {
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

#[cfg(test)]
mod tests {
    use std::{fs, io::Write, thread};

    use serde_json::json;

    use super::{
        super::{
            run,
            testing::{Home, ends},
        },
        *,
    };
    use crate::protocol::{Builtin, SkippedFile};

    fn pack(path: &str) -> Builtin {
        Builtin::Pack { path: path.into() }
    }

    fn unpack(path: &str) -> Builtin {
        Builtin::Unpack {
            path: path.into(),
            file: false,
        }
    }

    #[test]
    fn a_directory_moves_through_the_streams() {
        let home = Home::new();
        fs::create_dir_all(home.path("from/d")).unwrap();
        fs::write(home.path("from/d/file"), vec![7; 500_000]).unwrap();
        let (packed, archive) = home.run(&pack("from"), b"");
        let expected = json!({"bytes": 500_000, "entries": 2});
        assert_eq!(packed, Ok(expected.clone()));
        let (unpacked, output) = home.run(&unpack("new/to"), &archive);
        assert_eq!((unpacked, output), (Ok(expected), Vec::new()));
        let file = fs::read(home.path("new/to/d/file")).unwrap();
        assert!(file == vec![7; 500_000]);
    }

    #[test]
    fn skipped_files_are_in_the_result() {
        let home = Home::new();
        let _socket = std::os::unix::net::UnixListener::bind(home.path("socket")).unwrap();
        let (packed, _) = home.run(&pack("."), b"");
        let skipped = json!([{"path": "socket", "reason": "it is a pipe, a socket or a device"}]);
        let expected = json!({"bytes": 0, "entries": 0, "skipped": skipped, "skipped_count": 1});
        assert_eq!(packed, Ok(expected));
    }

    #[test]
    fn a_result_with_many_skipped_files_stays_below_its_limit() {
        let skipped = |number: usize| SkippedFile::new("\n".repeat(number), "reason");
        let summary = Summary {
            skipped: (0..1_000).map(skipped).collect(),
            skipped_count: u64::MAX,
            ..Summary::default()
        };
        let value = result(&".".into(), summary).unwrap();
        let bytes = value.to_string().len();
        assert!(
            (MAX_RESULT_BYTES / 2..MAX_RESULT_BYTES).contains(&bytes),
            "{bytes}"
        );
    }

    #[test]
    fn failures_have_a_kind_and_a_path() {
        let home = Home::new();
        fs::create_dir_all(home.path("from")).unwrap();
        fs::write(home.path("from/name"), "text").unwrap();
        let archive = home.run(&pack("from"), b"").1;
        fs::create_dir_all(home.path("to/name")).unwrap();
        fs::write(home.path("file"), "").unwrap();
        let cases: [(Builtin, &[u8], BuiltinErrorKind, &str); 5] = [
            (pack("missing"), b"", BuiltinErrorKind::NotFound, "missing"),
            (
                unpack("to"),
                &archive,
                BuiltinErrorKind::IsADirectory,
                "to/name",
            ),
            (
                unpack("file/x"),
                &archive,
                BuiltinErrorKind::NotADirectory,
                "file/x",
            ),
            (
                unpack("new"),
                &archive[..700],
                BuiltinErrorKind::InvalidInput,
                "new",
            ),
            (
                unpack("new"),
                &[b'x'; 2_000],
                BuiltinErrorKind::InvalidInput,
                "new",
            ),
        ];
        for (builtin, input, kind, path) in cases {
            let error = home.run(&builtin, input).0.unwrap_err();
            assert_eq!(
                (error.kind, error.path),
                (kind, Some(path.into())),
                "{}",
                error.message
            );
        }
    }

    #[test]
    fn a_stop_ends_unpacking_and_leaves_no_partial_file() {
        let home = Home::new();
        fs::create_dir(home.path("from")).unwrap();
        fs::write(home.path("from/file"), vec![7; 30_000]).unwrap();
        let archive = home.run(&pack("from"), b"").1;
        let (mut streams, mut ends) = ends();
        let stdin = ends.stdin.as_mut().unwrap();
        stdin.write_all(&archive[..20_000]).unwrap();
        let stopped = thread::scope(|scope| {
            let running = scope.spawn(|| run(&unpack("to"), home.0.path(), &mut streams));
            ends.stopper.take();
            running.join().unwrap()
        });
        let error = stopped.unwrap_err();
        assert!(error.message.contains("stopped"), "{}", error.message);
        assert!(!home.path("to/file").exists());
    }
}
