//! [`read()`]: writes the bytes of a file to stdout.

use std::{
    fs::{File, Metadata},
    io::{self, Write},
    os::unix::fs::FileExt,
    path::Path,
};

use nix::{
    fcntl::{OFlag, open},
    sys::stat::Mode,
};

use super::{Streams, Subject};
use crate::protocol::{BuiltinError, BuiltinErrorKind, FilePath, Transferred};

/// How many bytes are moved at once.
pub(super) const CHUNK: usize = 64 * 1024;

/// Maximum bytes to read from a file that reports the size 0 but has content, as in `/proc`.
pub(super) const MAX_UNSIZED: u64 = 16 * 1024 * 1024;

/// Without a `length`, reads up to the size that the file had when it was opened, so the operation
/// ends even if code keeps writing to the file. A file that shrinks is read up to its new end.
pub(super) fn read(
    home: &Path,
    path: &FilePath,
    offset: u64,
    length: Option<u64>,
    streams: &mut Streams,
) -> Result<Transferred, BuiltinError> {
    let subject = Subject::new("read", path)?;
    let (file, metadata) = open_file(subject, &subject.on_machine(home))?;
    let is_unsized = metadata.len() == 0;
    let limit = length.unwrap_or(match is_unsized {
        true => MAX_UNSIZED,
        false => metadata.len().saturating_sub(offset),
    });
    let mut buffer = vec![0; CHUNK];
    let bytes = each_chunk(&file, offset, limit, &mut buffer, |_, chunk| {
        streams.write_all(chunk)
    })
    .map_err(|error| subject.fail(error))?;
    if is_unsized && length.is_none() && bytes == limit {
        refuse_more(subject, &file, offset.saturating_add(bytes))?;
    }
    Ok(Transferred::new(bytes, 1))
}

/// Opens a regular file to read it. Doesn't block, whatever the path is.
pub(super) fn open_file(
    subject: Subject<'_>,
    path: &Path,
) -> Result<(File, Metadata), BuiltinError> {
    let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC | OFlag::O_NOCTTY;
    let file = open(path, flags, Mode::empty()).map_err(|error| subject.fail(error))?;
    let file = File::from(file);
    let metadata = file.metadata().map_err(|error| subject.fail(error))?;
    check_regular(subject, &metadata)?;
    Ok((file, metadata))
}

/// Fails if this is not a regular file.
pub(super) fn check_regular(subject: Subject<'_>, metadata: &Metadata) -> Result<(), BuiltinError> {
    if metadata.is_dir() {
        return Err(subject.fail(nix::errno::Errno::EISDIR));
    }
    match metadata.is_file() {
        true => Ok(()),
        false => Err(subject.not_a_file()),
    }
}

/// Passes up to `limit` bytes of a file to `take`, with the offset of each chunk. Returns the
/// number of bytes.
pub(super) fn each_chunk(
    file: &File,
    offset: u64,
    limit: u64,
    buffer: &mut [u8],
    mut take: impl FnMut(u64, &[u8]) -> io::Result<()>,
) -> io::Result<u64> {
    // The system refuses to read beyond the largest offset. No file has bytes there.
    let limit = limit.min(i64::MAX.unsigned_abs().saturating_sub(offset));
    let mut done = 0;
    while done < limit {
        let wanted = usize::try_from(limit - done).unwrap_or(usize::MAX);
        let length = wanted.min(buffer.len());
        let at = offset.saturating_add(done);
        let chunk = match file.read_at(&mut buffer[..length], at) {
            Ok(0) => break,
            Ok(read) => &buffer[..read],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        take(at, chunk)?;
        done += chunk.len() as u64;
    }
    Ok(done)
}

/// Fails if a file that reports the size 0 has content at `at`, the offset where reading stopped.
pub(super) fn refuse_more(subject: Subject<'_>, file: &File, at: u64) -> Result<(), BuiltinError> {
    match file
        .read_at(&mut [0], at)
        .map_err(|error| subject.fail(error))?
    {
        0 => Ok(()),
        _ => Err(subject.refuse(
            BuiltinErrorKind::TooLarge,
            "the file does not report its size and has more than 16 MiB; read it with a length",
        )),
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::net::UnixListener, thread};

    use nix::unistd::mkfifo;
    use serde_json::json;

    use super::super::{
        run,
        testing::{Home, ends, parse},
    };
    use super::*;

    fn output(home: &Home, builtin: serde_json::Value) -> Vec<u8> {
        let (result, output) = home.run(&parse(&builtin), b"");
        assert_eq!(
            result.unwrap(),
            json!({"bytes": output.len(), "entries": 1})
        );
        output
    }

    #[test]
    fn reads_the_requested_range() {
        let home = Home::new();
        let content: Vec<u8> = (0..200_000_u32).map(|it| it as u8).collect();
        home.put("a", &content);
        assert_eq!(output(&home, json!({"op": "read", "path": "a"})), content);
        let range = json!({"op": "read", "path": "a", "offset": 100_000, "length": 70_000});
        assert_eq!(output(&home, range), content[100_000..170_000]);
        for (offset, length) in [(200_000, 5), (1_u64 << 40, 5), (0, 0)] {
            let range = json!({"op": "read", "path": "a", "offset": offset, "length": length});
            assert_eq!(output(&home, range), b"");
        }
        home.put("empty", b"");
        assert_eq!(output(&home, json!({"op": "read", "path": "empty"})), b"");
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn reads_files_without_a_size() {
        let home = Home::new();
        let read = json!({"op": "read", "path": "/proc/self/status"});
        assert!(output(&home, read).starts_with(b"Name:"));
    }

    #[test]
    fn refuses_what_is_not_a_regular_file() {
        let home = Home::new();
        mkfifo(&home.path("fifo"), Mode::S_IRWXU).unwrap();
        let _listener = UnixListener::bind(home.path("socket")).unwrap();
        fs::create_dir(home.path("directory")).unwrap();
        home.put("file", "");
        std::os::unix::fs::symlink("loop", home.path("loop")).unwrap();
        let name = "n".repeat(300);
        for (path, kind) in [
            ("missing", BuiltinErrorKind::NotFound),
            ("fifo", BuiltinErrorKind::NotAFile),
            ("socket", BuiltinErrorKind::NotAFile),
            ("/dev/zero", BuiltinErrorKind::NotAFile),
            ("directory", BuiltinErrorKind::IsADirectory),
            (".", BuiltinErrorKind::IsADirectory),
            ("file/x", BuiltinErrorKind::NotADirectory),
            ("loop", BuiltinErrorKind::Other),
            ("", BuiltinErrorKind::InvalidInput),
            ("a\0b", BuiltinErrorKind::InvalidInput),
            (name.as_str(), BuiltinErrorKind::InvalidInput),
        ] {
            let error = home.call(&json!({"op": "read", "path": path})).unwrap_err();
            assert_eq!(error.kind, kind, "{error}");
            assert_eq!(error.path, Some(path.into()));
            let start = format!("cannot read '{path}': ");
            assert!(error.message.starts_with(&start), "{error}");
            assert!(!error.message.contains("os error"), "{error}");
        }
    }

    #[test]
    fn a_stop_ends_a_read_whose_output_is_not_read() {
        let home = Home::new();
        home.put("big", vec![1; 1 << 20]);
        let read = parse(&json!({"op": "read", "path": "big"}));
        let (mut streams, mut ends) = ends();
        let reading = thread::spawn(move || run(&read, home.0.path(), &mut streams));
        // The first byte shows that the operation has started.
        io::Read::read_exact(&mut ends.stdout, &mut [0]).unwrap();
        ends.stopper.take();
        let error = reading.join().unwrap().unwrap_err();
        assert_eq!(
            error.message,
            "cannot read 'big': the operation was stopped"
        );
    }
}
