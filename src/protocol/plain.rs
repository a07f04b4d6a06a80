//! [`plain_length`]: the length of the part of a JSON string that has no escapes.

/// The size of a block of a long string, in bytes.
const LONG: usize = 64;
/// The size of a block of a short string, in bytes. Most strings are short.
const SHORT: usize = 16;

/// Returns the number of bytes before the first byte that ends the string, begins an escape, or
/// isn't allowed in a string.
pub(super) fn plain_length(bytes: &[u8]) -> usize {
    let (begin, rest) = bytes.split_at(bytes.len().min(LONG));
    let mut plain = plain_blocks::<SHORT>(begin);
    if plain == LONG {
        plain += plain_blocks::<LONG>(rest);
        plain += plain_blocks::<SHORT>(&bytes[plain..bytes.len().min(plain + LONG)]);
    }
    plain + plain_length_of_few(&bytes[plain..bytes.len().min(plain + SHORT)])
}

/// Returns the number of bytes in the leading blocks without special bytes. The compiler vectorizes
/// this loop.
fn plain_blocks<const LENGTH: usize>(bytes: &[u8]) -> usize {
    let is_plain = |block: &&[u8; LENGTH]| {
        let bytes = block.iter();
        !bytes.fold(false, |found, &byte| found | is_special(byte))
    };
    let (blocks, _) = bytes.as_chunks::<LENGTH>();
    blocks.iter().take_while(is_plain).count() * LENGTH
}

/// Like [`plain_length`], eight bytes at a time.
fn plain_length_of_few(bytes: &[u8]) -> usize {
    const ONES: u64 = u64::from_ne_bytes([0x01; 8]);
    const HIGHS: u64 = u64::from_ne_bytes([0x80; 8]);
    // Sets the high bit of each byte that is less than `limit`, which is at most 0x80. Bits above
    // the first that is set may be wrong.
    let less = |word: u64, limit: u8| word.wrapping_sub(ONES * u64::from(limit)) & !word & HIGHS;
    let equal = |word: u64, byte: u8| less(word ^ (ONES * u64::from(byte)), 1);
    let (words, last) = bytes.as_chunks::<8>();
    for (index, word) in words.iter().enumerate() {
        let word = u64::from_le_bytes(*word);
        let found = less(word, 0x20) | equal(word, b'"') | equal(word, b'\\');
        if found != 0 {
            return index * 8 + (found.trailing_zeros() / 8) as usize;
        }
    }
    let plain = last.iter().take_while(|byte| !is_special(**byte)).count();
    words.len() * 8 + plain
}

fn is_special(byte: u8) -> bool {
    (byte < 0x20) | (byte == b'"') | (byte == b'\\')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn special_bytes_are_found_at_every_position() {
        for length in (0..40).chain(60..70).chain(120..140) {
            for byte in 0..=255_u8 {
                let special = byte < 0x20 || byte == b'"' || byte == b'\\';
                for at in 0..length {
                    let mut bytes = vec![b'x'; length];
                    bytes[at] = byte;
                    let expected = if special { at } else { length };
                    assert_eq!(plain_length(&bytes), expected, "{byte} at {at} of {length}");
                }
            }
        }
        assert_eq!(plain_length(b"\x80\"\x80\x1f\xff\xff\xff\xff"), 1);
    }
}
