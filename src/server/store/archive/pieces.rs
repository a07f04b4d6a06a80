//! Files with holes: [`describe`] writes the list of pieces between the holes, [`Pieces`] reads the
//! pieces.
//!
//! Code in the sandbox may change a file while it is stored. So the list is read from the file only
//! once, and [`Pieces`] returns exactly the number of bytes that the header announces. With another
//! number, the reader of the archive would parse the content of files as headers.

use std::{
    fs,
    io::{self, Read},
    ops::Range,
    os::unix::fs::FileExt,
};

use tar::{EntryType, GnuExtSparseHeader, GnuSparseHeader, Header};

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

/// Reads the pieces of a file in order. If the file has shrunk, returns zeros for the lost bytes.
pub(super) struct Pieces<'a> {
    file: &'a fs::File,
    /// The remaining pieces, in reverse order.
    left: Vec<Range<u64>>,
}

impl<'a> Pieces<'a> {
    pub(super) fn new(file: &'a fs::File, mut pieces: Vec<Range<u64>>) -> Self {
        pieces.reverse();
        Self { file, left: pieces }
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
            let length = match self.file.read_at(to, piece.start)? {
                0 => {
                    to.fill(0);
                    length
                }
                read => read,
            };
            piece.start += length as u64;
            return Ok(length);
        }
        Ok(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_shrank_is_padded_with_zeros() {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(&[b'x'; 20_000], 0).unwrap();
        let mut reader = Pieces::new(&file, vec![0..4_096, 8_192..12_288, 16_384..20_000]);
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
