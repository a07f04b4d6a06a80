//! [`Ranges`]: an object, fetched in ranges as it is read.

use std::{
    io::{self, Read},
    ops::Range,
};

use bytes::{Buf, Bytes};
use object_store::ObjectMeta;

/// Size of a part of an upload, and most of what is downloaded by one request.
pub(super) const PART_BYTES: u64 = 8 * 1024 * 1024;

/// Size of the first range: a reader of the record alone needs no more.
const FIRST_BYTES: u64 = 256 * 1024;

/// Fetches a range of the object, which must have this ETag if one is given.
type Fetch<'a> = Box<dyn Fn(Range<u64>, Option<String>) -> io::Result<(ObjectMeta, Bytes)> + 'a>;

pub(super) struct Ranges<'a> {
    fetch: Fetch<'a>,
    object: ObjectMeta,
    /// The first byte that was not fetched yet.
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

    /// The data that was fetched and not read yet. Fetches more if there is none; empty at the end.
    pub(super) fn data(&mut self) -> io::Result<&mut Bytes> {
        if self.data.is_empty() && self.next < self.object.size {
            let range = self.next..self.next + PART_BYTES;
            // Not the beginning of one object and the end of another.
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
