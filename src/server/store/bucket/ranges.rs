//! [`Ranges`]: a reader that fetches an object in ranges.

use std::{
    io::{self, Read},
    ops::Range,
};

use bytes::{Buf, Bytes};
use object_store::ObjectMeta;

/// Size of a part of an upload, and maximum size of a range of a download.
pub(super) const PART_BYTES: u64 = 8 * 1024 * 1024;

/// Size of the first range. It is enough for a reader that needs only the record.
const FIRST_BYTES: u64 = 256 * 1024;

/// Fetches a range of the object. Fails if the object doesn't have the ETag that is given.
type Fetch<'a> = Box<dyn Fn(Range<u64>, Option<String>) -> io::Result<(ObjectMeta, Bytes)> + 'a>;

pub(super) struct Ranges<'a> {
    fetch: Fetch<'a>,
    object: ObjectMeta,
    /// Offset of the next byte to fetch.
    next: u64,
    data: Bytes,
}

impl<'a> Ranges<'a> {
    pub(super) fn open(fetch: Fetch<'a>) -> io::Result<Self> {
        let (object, data) = fetch(0..FIRST_BYTES, None)?;
        Ok(Self {
            fetch,
            object,
            next: data.len() as u64,
            data,
        })
    }

    pub(super) fn size(&self) -> u64 {
        self.object.size
    }

    /// The data that was fetched and not yet read. Fetches more if it is empty. It is still empty
    /// only at the end of the object.
    pub(super) fn data(&mut self) -> io::Result<&mut Bytes> {
        if self.data.is_empty() && self.next < self.object.size {
            let range = self.next..self.next + PART_BYTES;
            // The ETag keeps the reader from joining parts of two objects if the object is
            // replaced.
            (_, self.data) = (self.fetch)(range, self.object.e_tag.clone())?;
            self.next += self.data.len() as u64;
            if self.data.is_empty() {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(&mut self.data)
    }
}

impl Read for Ranges<'_> {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        self.data()?.reader().read(to)
    }
}
