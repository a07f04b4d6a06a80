//! [`plain_length`]: how far a JSON string goes without an escape.

/// How many bytes there are before the next that ends a string, begins an escape, or may not stand in a string.
pub(super) fn plain_length(bytes: &[u8]) -> usize {
    const ONES: u64 = u64::from_ne_bytes([0x01; 8]);
    const HIGHS: u64 = u64::from_ne_bytes([0x80; 8]);
    // The high bit of each byte that is less than `limit`, which is at most 0x80; above the first it may be wrong.
    let less = |word: u64, limit: u8| word.wrapping_sub(ONES * u64::from(limit)) & !word & HIGHS;
    let equal = |word: u64, byte: u8| less(word ^ (ONES * u64::from(byte)), 1);
    let (words, _) = bytes.as_chunks::<8>();
    for (index, word) in words.iter().enumerate() {
        let word = u64::from_le_bytes(*word);
        let found = less(word, 0x20) | equal(word, b'"') | equal(word, b'\\');
        if found != 0 {
            return index * 8 + (found.trailing_zeros() / 8) as usize;
        }
    }
    let from = words.len() * 8;
    let rest = &bytes[from..];
    let plain = |byte: &&u8| !matches!(byte, 0..0x20 | b'"' | b'\\');
    from + rest.iter().take_while(plain).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_is_special_is_found_at_every_place() {
        for length in 0..40 {
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
