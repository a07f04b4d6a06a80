//! [`Incoming`]: the lines that the program writes to its stdout, `LINK NUMBER JSON`.

use bytes::{Bytes, BytesMut};

/// The longest line, in bytes. The program sends at most 48 KiB of output in a line.
const MAX_LINE_BYTES: usize = 1024 * 1024;

/// Joins the pieces of the program's stdout into lines. Ignores the lines of earlier links and what
/// other programs wrote in between.
#[derive(Debug)]
pub(super) struct Incoming {
    /// What each line of this link begins with: the name of the link and a space.
    prefix: String,
    /// The number of the next line.
    next: u64,
    /// The beginning of a line whose end hasn't arrived.
    partial: BytesMut,
    /// How many bytes of `partial` were searched for the end of the line.
    searched: usize,
}

/// A line is missing, too long or not valid.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct BadLine(pub(super) String);

impl Incoming {
    /// Begins a new link: expects its line 0.
    pub(super) fn new(link: &str) -> Self {
        Self {
            prefix: format!("{link} "),
            next: 0,
            partial: BytesMut::new(),
            searched: 0,
        }
    }

    /// Takes a piece of stdout.
    pub(super) fn push(&mut self, piece: &[u8]) {
        self.partial.extend_from_slice(piece);
    }

    /// The JSON of the next line.
    pub(super) fn next_line(&mut self) -> Option<Result<Bytes, BadLine>> {
        loop {
            let end = memchr(b'\n', &self.partial[self.searched..]);
            let Some(end) = end.map(|at| at + self.searched) else {
                self.searched = self.partial.len();
                if self.partial.len() <= MAX_LINE_BYTES {
                    return None;
                }
                self.partial.clear();
                self.searched = 0;
                return Some(Err(BadLine(format!(
                    "a line is longer than {MAX_LINE_BYTES} bytes"
                ))));
            };
            self.searched = 0;
            let line = self.partial.split_to(end + 1).freeze();
            if let Some(found) = self.read(&line.slice(..end)) {
                return Some(found);
            }
        }
    }

    /// Reads a line. `None` if it isn't one of this link.
    fn read(&mut self, line: &Bytes) -> Option<Result<Bytes, BadLine>> {
        let prefix = self.prefix.as_bytes();
        let at = line.windows(prefix.len()).position(|it| it == prefix)?;
        let rest = line.slice(at + prefix.len()..);
        let space = memchr(b' ', &rest)?;
        let number = std::str::from_utf8(&rest[..space]).ok()?.parse::<u64>();
        let expected = self.next;
        Some(match number {
            Ok(number) if number == expected => {
                self.next += 1;
                Ok(rest.slice(space + 1..))
            }
            Ok(number) => Err(BadLine(format!(
                "got line {number}, expected line {expected}"
            ))),
            Err(_) => return None,
        })
    }
}

fn memchr(byte: u8, bytes: &[u8]) -> Option<usize> {
    bytes.iter().position(|it| *it == byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(incoming: &mut Incoming, text: &str) -> Vec<Result<String, String>> {
        incoming.push(text.as_bytes());
        std::iter::from_fn(|| incoming.next_line())
            .map(|line| {
                line.map(|it| String::from_utf8_lossy(&it).into_owned())
                    .map_err(|gap| gap.0)
            })
            .collect()
    }

    #[test]
    fn pieces_are_joined_and_foreign_lines_are_ignored() {
        let mut incoming = Incoming::new("f00d");
        assert_eq!(lines(&mut incoming, "left\nold 7 {}\nf00"), []);
        assert_eq!(lines(&mut incoming, "d 0 {}"), []);
        assert_eq!(
            lines(&mut incoming, "\nnoise f00d 1 {\"a\":1}\nf00d x {}\n"),
            [Ok("{}".to_owned()), Ok("{\"a\":1}".to_owned())]
        );
    }

    #[test]
    fn a_missing_line_and_an_endless_line_are_gaps() {
        let mut incoming = Incoming::new("f00d");
        let gap = "got line 1, expected line 0".to_owned();
        assert_eq!(lines(&mut incoming, "f00d 1 {}\n"), [Err(gap)]);
        let endless = "x".repeat(MAX_LINE_BYTES + 1);
        let gap = "a line is longer than 1048576 bytes".to_owned();
        assert_eq!(lines(&mut incoming, &endless), [Err(gap)]);
        assert!(incoming.partial.is_empty());
    }
}
