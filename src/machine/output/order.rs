//! [`Order`]: the order in which the unread bytes of the two streams arrived.

use std::collections::VecDeque;

use crate::protocol::StdStream::{self, Stderr, Stdout};

/// If the queue has room for more runs than this, its memory is freed when it is empty.
const KEPT_RUNS: usize = 1024;

/// A queue of runs, each of consecutive bytes of one stream. A run takes four bytes, and the queue
/// may have room for twice as many runs as it holds. So output that alternates between the streams
/// with every byte needs at most nine times its size. This memory is freed when everything was read
/// or dropped.
#[derive(Debug)]
pub(super) struct Order {
    /// The stream of the first run. The streams of the runs alternate.
    first: StdStream,
    /// The length of each run, which is never 0.
    runs: VecDeque<u32>,
}

impl Default for Order {
    fn default() -> Self {
        Self {
            first: Stdout,
            runs: VecDeque::new(),
        }
    }
}

impl Order {
    /// Records that bytes arrived. A `u32` suffices: at most `MAX_BUDGET` plus one message is
    /// buffered.
    pub(super) fn push(&mut self, stream: StdStream, bytes: usize) {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        let last = match self.runs.len() % 2 {
            1 => self.first,
            _ => other(self.first),
        };
        match self.runs.back_mut() {
            Some(run) if last == stream => *run = run.saturating_add(bytes),
            Some(_) => self.runs.push_back(bytes),
            None => {
                self.first = stream;
                self.runs.push_back(bytes);
            }
        }
    }

    /// Records that the oldest bytes of a stream were read or dropped.
    pub(super) fn remove(&mut self, stream: StdStream, mut bytes: usize) {
        while bytes > 0 {
            // The oldest run of the stream is the first or the second of all.
            let at = usize::from(stream != self.first);
            let Some(run) = self.runs.get_mut(at) else {
                return;
            };
            let removed = bytes.min(*run as usize);
            bytes -= removed;
            *run -= removed as u32;
            if *run > 0 {
                return;
            }
            self.runs.remove(at);
            if at == 0 {
                self.first = other(self.first);
                if self.runs.is_empty() && self.runs.capacity() > KEPT_RUNS {
                    self.runs = VecDeque::new();
                }
            } else if let Some(next) = self.runs.remove(1) {
                // The runs before and after it join.
                self.runs[0] = self.runs[0].saturating_add(next);
            }
        }
    }

    /// The stream of the oldest bytes, and the length of the first run.
    pub(super) fn first(&self) -> Option<(StdStream, usize)> {
        self.runs.front().map(|&run| (self.first, run as usize))
    }
}

pub(super) fn other(stream: StdStream) -> StdStream {
    match stream {
        Stdout => Stderr,
        Stderr => Stdout,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_join_when_what_was_between_them_is_gone() {
        let mut order = Order::default();
        for (stream, bytes) in [(Stderr, 2), (Stdout, 3), (Stderr, 1), (Stdout, 1)] {
            order.push(stream, bytes);
        }
        order.remove(Stdout, 3);
        assert_eq!(order.first(), Some((Stderr, 3)));
        order.remove(Stderr, 1);
        assert_eq!(order.first(), Some((Stderr, 2)));
        order.remove(Stderr, 2);
        order.push(Stdout, 4);
        assert_eq!(order.first(), Some((Stdout, 5)));
        order.remove(Stdout, 5);
        assert_eq!(order.first(), None);
    }
}
