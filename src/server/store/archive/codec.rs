//! The compression of an archive: one frame of LZ4, whose checksum covers the content.
//!
//! [`FrameDecoder`] takes an input that is cut between two blocks for a whole one, and ignores data
//! after the frame. [`Decoder`] refuses both. It still accepts a frame that ends with an empty block
//! instead of an end mark and a checksum. [`encoder`] writes no empty block, so a cut archive never
//! ends with one: only a crafted archive does.

use std::io::{self, BufReader, Read, Write};

use lz4_flex::frame::{self, BlockSize, FrameDecoder, FrameEncoder, FrameInfo};

/// Compresses one archive. The caller must [`finish`](FrameEncoder::finish) it.
pub(super) fn encoder<W: Write>(to: W) -> FrameEncoder<W> {
    // Larger blocks hardly compress better.
    let info = FrameInfo::new()
        .block_size(BlockSize::Max256KB)
        .content_checksum(true);
    FrameEncoder::with_frame_info(info, to)
}

/// Decompresses one archive. Takes at most 17 MiB of memory, whatever block size the frame has.
pub(super) struct Decoder<R: Read> {
    frame: FrameDecoder<Source<R>>,
    is_complete: bool,
}

impl<R: Read> Decoder<R> {
    pub(super) fn new(from: R) -> Self {
        Self {
            frame: FrameDecoder::new(Source {
                inner: BufReader::new(from),
                has_ended: false,
            }),
            is_complete: false,
        }
    }

    /// Called when the decoder reports the end of the frame. Fails if it met the end of the input
    /// before, or if data follows.
    fn complete(&mut self) -> io::Result<()> {
        let source = self.frame.get_mut();
        if source.has_ended {
            return Err(cut_short());
        }
        if source.read(&mut [0])? != 0 {
            return Err(damaged("data follows the end of the compressed archive"));
        }
        self.is_complete = true;
        Ok(())
    }
}

impl<R: Read> Read for Decoder<R> {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        if to.is_empty() || self.is_complete {
            return Ok(0);
        }
        match self.frame.read(to) {
            Ok(0) => self.complete().map(|()| 0),
            Err(_) if self.frame.get_ref().has_ended => Err(cut_short()),
            // Not an error of the storage.
            Err(error) if error.get_ref().is_some_and(|it| it.is::<frame::Error>()) => {
                Err(damaged(&format!("it is not a valid LZ4 frame: {error}")))
            }
            result => result,
        }
    }
}

/// The compressed bytes. Decompressing a whole frame never reads past its last byte, so a read that
/// meets the end of the input means that the frame is cut.
struct Source<R> {
    inner: BufReader<R>,
    /// Whether a read has met the end.
    has_ended: bool,
}

impl<R: Read> Read for Source<R> {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        let length = self.inner.read(to)?;
        self.has_ended |= length == 0 && !to.is_empty();
        Ok(length)
    }
}

fn cut_short() -> io::Error {
    let what = "the archive is cut short: its compressed data ends too early";
    io::Error::new(io::ErrorKind::UnexpectedEof, what)
}

fn damaged(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compressed(data: &[u8]) -> Vec<u8> {
        let mut encoder = encoder(Vec::new());
        encoder.write_all(data).unwrap();
        encoder.finish().unwrap()
    }

    fn decompressed(archive: &[u8]) -> io::Result<Vec<u8>> {
        let mut data = Vec::new();
        io::copy(&mut Decoder::new(archive), &mut data).map(|_| data)
    }

    /// Three blocks that can't be compressed (xorshift).
    fn noise() -> Vec<u8> {
        let next = |it: &u64| {
            let it = it ^ (it << 13);
            let it = it ^ (it >> 7);
            Some(it ^ (it << 17))
        };
        let numbers = std::iter::successors(Some(1), next);
        numbers.skip(100).take(600_000).map(|it| it as u8).collect()
    }

    #[test]
    fn data_comes_back() {
        for data in [&b""[..], b"x", &[0; 1_000_000], &noise()] {
            assert!(decompressed(&compressed(data)).unwrap() == data);
        }
    }

    #[test]
    fn an_archive_cut_anywhere_is_refused() {
        let whole = compressed(&noise());
        // The header, the ends of the blocks, and the checksum; then places within the blocks.
        let block = 4 + 256 * 1024;
        let borders = [
            0,
            7,
            7 + block,
            7 + 2 * block,
            whole.len() - 8,
            whole.len() - 4,
        ];
        let near = borders.iter().flat_map(|&at| at.saturating_sub(4)..at + 5);
        for at in near
            .filter(|&at| at < whole.len())
            .chain((0..whole.len()).step_by(9_973))
        {
            let error = decompressed(&whole[..at]).expect_err(&at.to_string());
            assert!(error.to_string().contains("cut short"), "{at}: {error}");
        }
    }

    #[test]
    fn a_flipped_bit_never_changes_the_data() {
        let data: Vec<u8> = (0..400_u32)
            .flat_map(|it| (it % 30).to_le_bytes())
            .chain(*b"an end that does not repeat")
            .collect();
        let whole = compressed(&data);
        let mut refused = 0;
        for bit in 0..whole.len() * 8 {
            let mut flipped = whole.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            match decompressed(&flipped) {
                // A reference to another copy of the same bytes.
                Ok(found) => assert!(found == data, "bit {bit}"),
                Err(_) => refused += 1,
            }
        }
        assert!(
            refused > whole.len() * 7,
            "{refused} of {} bits",
            whole.len() * 8
        );
    }

    #[test]
    fn data_after_the_frame_is_refused() {
        let whole = compressed(b"text");
        for more in [&b"x"[..], &[0], &whole, &[0; 4096]] {
            let error = decompressed(&[&whole, more].concat()).unwrap_err();
            assert!(error.to_string().contains("data follows"), "{error}");
        }
    }

    #[test]
    fn other_formats_are_refused() {
        // Gzip, zstd, an uncompressed archive, LZ4's skippable frame and its old format.
        let gzip = b"\x1f\x8b\x08\0\0\0\0\0\0\x03\0\0\0\0";
        let zstd = b"\x28\xb5\x2f\xfd\x24\x04\x21\0\0text\0\0\0\0";
        let skippable = b"\x50\x2a\x4d\x18\x04\0\0\0text";
        let legacy = b"\x02\x21\x4c\x18\x05\0\0\0\x40text";
        for other in [&gzip[..], zstd, b"home\0\0\0\0\0\0\0", skippable, legacy] {
            assert!(decompressed(other).is_err(), "{other:?}");
        }
    }

    #[test]
    fn an_error_of_the_storage_stays_as_it_is() {
        struct Fails;
        impl Read for Fails {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                Err(io::Error::new(io::ErrorKind::TimedOut, "the bucket hangs"))
            }
        }
        let whole = compressed(&noise());
        let mut decoder = Decoder::new(whole[..100_000].chain(Fails));
        let error = io::copy(&mut decoder, &mut io::sink()).unwrap_err();
        assert_eq!(error.to_string(), "the bucket hangs");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }
}
