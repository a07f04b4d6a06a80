//! [`plain_length`]: how far a JSON string goes without an escape.

/// Bytes of a long string that are looked at together.
const BLOCK: usize = 64;

/// How many bytes there are before the next that ends a string, begins an escape, or may not stand in a string.
pub(super) fn plain_length(bytes: &[u8]) -> usize {
    // Most strings are short.
    let (begin, rest) = bytes.split_at(bytes.len().min(BLOCK));
    let plain = plain_length_of_few(begin);
    if plain < begin.len() || rest.is_empty() {
        return plain;
    }
    // In a long one, the compiler looks at many bytes at once.
    let (blocks, _) = rest.as_chunks::<BLOCK>();
    let special = |block: &[u8; BLOCK]| {
        let bytes = block.iter();
        bytes.fold(false, |found, &byte| found | is_special(byte))
    };
    let plain = blocks.iter().take_while(|block| !special(block)).count();
    let from = BLOCK + plain * BLOCK;
    let end = bytes.len().min(from + BLOCK);
    from + plain_length_of_few(&bytes[from..end])
}

/// The same, eight bytes at once.
fn plain_length_of_few(bytes: &[u8]) -> usize {
    const ONES: u64 = u64::from_ne_bytes([0x01; 8]);
    const HIGHS: u64 = u64::from_ne_bytes([0x80; 8]);
    // The high bit of each byte that is less than `limit`, which is at most 0x80; above the first it may be wrong.
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
    fn whatever_is_special_is_found_at_every_place() {
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
