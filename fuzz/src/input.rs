//! [`Input`]: reads decisions from bytes. After the last byte, every decision is zero.

pub(crate) struct Input<'a>(pub(crate) &'a [u8]);

impl<'a> Input<'a> {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn byte(&mut self) -> u8 {
        let (first, rest) = self.0.split_first().unwrap_or((&0, &[]));
        self.0 = rest;
        *first
    }

    /// Returns a number: usually a small one, sometimes one close to `near`, sometimes any `u64`.
    pub(crate) fn number(&mut self, near: u64) -> u64 {
        match self.byte() {
            byte @ 0..=127 => byte.into(),
            byte @ 128..=159 => near.saturating_sub((byte - 128).into()),
            byte @ 160..=191 => near.saturating_add((byte - 160).into()),
            byte @ 192..=223 => u64::from(byte - 192) * 256 + u64::from(self.byte()),
            byte @ 224..=239 => u64::MAX - u64::from(byte - 224),
            240..=247 => near,
            _ => u64::from_le_bytes(std::array::from_fn(|_| self.byte())),
        }
    }

    /// Returns at most `most` bytes.
    pub(crate) fn bytes(&mut self, most: usize) -> &'a [u8] {
        let length = usize::from(self.byte()) * usize::from(1 + self.byte() % 8);
        let (bytes, rest) = self.0.split_at(length.min(most).min(self.0.len()));
        self.0 = rest;
        bytes
    }
}
