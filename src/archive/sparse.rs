//! Files with holes: [`pieces`] finds the pieces between the holes, [`describe`] writes their list,
//! [`Pieces`] reads them.
//!
//! The file may change while it is packed. So the list is read from the file only once, and
//! [`Pieces`] returns exactly the number of bytes that the header announces, or fails. With another
//! number, the reader of the archive would parse the content of files as headers.

use std::{
    fs,
    io::{self, Read},
    ops::Range,
};

use tar::{EntryType, GnuExtSparseHeader, GnuSparseHeader, Header};

/// Maximum number of pieces between the holes of a file. The reader keeps the list of pieces in
/// memory, so a file with more pieces is stored without holes.
#[cfg(unix)]
pub(crate) const MAX_PIECES: usize = 65_536;

/// Size of a block of a tar archive, in bytes.
#[cfg(unix)]
const TAR_BLOCK: u64 = 512;

/// The pieces of data between the holes of a file, in order. Returns one piece for the whole file
/// if the file has no holes, if the file system doesn't report them, or if an archive can't
/// represent them.
pub(super) fn pieces(file: &fs::File, meta: &fs::Metadata) -> Vec<Range<u64>> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;

        let has_holes = meta.blocks().saturating_mul(512) < meta.len();
        if has_holes && let Some(pieces) = between_holes(file, meta.len()) {
            return pieces;
        }
    }
    #[cfg(not(unix))]
    let _ = file;
    Vec::from_iter(Some(0..meta.len()))
}

#[cfg(unix)]
fn between_holes(file: &fs::File, size: u64) -> Option<Vec<Range<u64>>> {
    let (mut pieces, mut at) = (Vec::new(), 0);
    while let Some(data) = next_data(file, at, size).ok()? {
        // Each piece but the last fills whole blocks of the archive.
        let is_whole = data.end == size || (data.end - data.start).is_multiple_of(TAR_BLOCK);
        if pieces.len() == MAX_PIECES || data.is_empty() || !is_whole {
            return None;
        }
        at = data.end;
        pieces.push(data);
    }
    Some(pieces)
}

/// The first part of a file from `at` to `end` that is not a hole. Fails if the file system doesn't
/// report holes.
#[cfg(unix)]
pub(crate) fn next_data(file: &fs::File, at: u64, end: u64) -> nix::Result<Option<Range<u64>>> {
    use nix::{
        errno::Errno,
        unistd::{Whence, lseek},
    };

    if at >= end {
        return Ok(None);
    }
    let seek = |offset: u64, whence| {
        let offset = offset.try_into().map_err(|_| Errno::EOVERFLOW)?;
        lseek(file, offset, whence).map(|found| u64::try_from(found).unwrap_or_default())
    };
    let start = match seek(at, Whence::SeekData) {
        Ok(start) if start < end => start,
        Ok(_) | Err(Errno::ENXIO) => return Ok(None),
        Err(error) => return Err(error),
    };
    let hole = seek(start, Whence::SeekHole)?;
    Ok(Some(start..hole.clamp(start, end)))
}

/// Turns a header into the header of a file with holes. Returns the extended headers that follow
/// it. The manual of GNU tar describes the format as "Old GNU Format".
pub(super) fn describe(
    header: &mut Header,
    pieces: &[Range<u64>],
    size: u64,
) -> io::Result<Vec<u8>> {
    header.set_entry_type(EntryType::GNUSparse);
    header.set_size(pieces.iter().map(|piece| piece.end - piece.start).sum());
    let gnu = header
        .as_gnu_mut()
        .ok_or_else(|| io::Error::other("a file with holes needs a GNU header"))?;
    gnu.set_real_size(size);
    // An empty piece marks the end of the file, so that the file can end with a hole.
    let pieces: Vec<_> = pieces.iter().cloned().chain(Some(size..size)).collect();
    let (first, more) = pieces.split_at(pieces.len().min(gnu.sparse.len()));
    write_pieces(&mut gnu.sparse, first);
    gnu.set_is_extended(!more.is_empty());

    let mut extended = Vec::new();
    let mut more = more
        .chunks(GnuExtSparseHeader::new().sparse.len())
        .peekable();
    while let Some(next) = more.next() {
        let mut header = GnuExtSparseHeader::new();
        write_pieces(&mut header.sparse, next);
        header.set_is_extended(more.peek().is_some());
        extended.extend_from_slice(header.as_bytes());
    }
    Ok(extended)
}

fn write_pieces(to: &mut [GnuSparseHeader], pieces: &[Range<u64>]) {
    for (to, piece) in to.iter_mut().zip(pieces) {
        to.set_offset(piece.start);
        to.set_length(piece.end - piece.start);
    }
}

/// What to do if a file becomes shorter while it is packed.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Shrunk {
    /// Replace the missing bytes with zeros.
    #[cfg(all(unix, feature = "server"))]
    Pad,
    /// Fail.
    Fail,
}

/// Reads the pieces of a file in order.
pub(super) struct Pieces<'a> {
    file: &'a fs::File,
    shrunk: Shrunk,
    /// The remaining pieces, in reverse order.
    left: Vec<Range<u64>>,
}

impl<'a> Pieces<'a> {
    pub(super) fn new(file: &'a fs::File, mut pieces: Vec<Range<u64>>, shrunk: Shrunk) -> Self {
        pieces.reverse();
        Self {
            file,
            shrunk,
            left: pieces,
        }
    }
}

impl Read for Pieces<'_> {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        while let Some(piece) = self.left.last_mut() {
            if piece.is_empty() {
                self.left.pop();
                continue;
            }
            let left = usize::try_from(piece.end - piece.start).unwrap_or(usize::MAX);
            let length = left.min(to.len());
            let to = &mut to[..length];
            let length = match (read_at(self.file, to, piece.start)?, self.shrunk) {
                (0, Shrunk::Fail) if !to.is_empty() => {
                    let what = "it became shorter while it was packed. Pack it again";
                    return Err(io::Error::other(what));
                }
                #[cfg(all(unix, feature = "server"))]
                (0, Shrunk::Pad) => {
                    to.fill(0);
                    length
                }
                (read, _) => read,
            };
            piece.start += length as u64;
            return Ok(length);
        }
        Ok(0)
    }
}

fn read_at(file: &fs::File, to: &mut [u8], offset: u64) -> io::Result<usize> {
    #[cfg(unix)]
    return std::os::unix::fs::FileExt::read_at(file, to, offset);
    #[cfg(windows)]
    return std::os::windows::fs::FileExt::seek_read(file, to, offset);
}

#[cfg(test)]
#[cfg(all(unix, feature = "server"))]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::*;

    #[test]
    fn a_file_that_shrank_is_padded_with_zeros() {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(&[b'x'; 20_000], 0).unwrap();
        let mut reader = Pieces::new(
            &file,
            vec![0..4_096, 8_192..12_288, 16_384..20_000],
            Shrunk::Pad,
        );
        let mut found = vec![0; 4_000];
        reader.read_exact(&mut found).unwrap();
        file.set_len(10_000).unwrap();
        reader.read_to_end(&mut found).unwrap();
        let kept = 4_096 + 10_000 - 8_192;
        assert_eq!(found.len(), 4_096 + 4_096 + 3_616);
        assert!(found[..kept].iter().all(|&it| it == b'x'));
        assert!(found[kept..].iter().all(|&it| it == 0));
    }
}
