//! [`RecvStreams`]: the receiving half.

use super::distance;

/// `N` streams that share one window. Tracks their offsets; the owner keeps the bytes.
#[derive(Debug)]
pub(crate) struct RecvStreams<const N: usize> {
    /// The number of bytes that the peer may send past the last acknowledgement.
    window: u64,
    /// For each stream, the offset up to which bytes have arrived or are known to be lost.
    received: [u64; N],
    /// For each stream, the offset up to which the consumer has taken the bytes.
    taken: [u64; N],
    /// For each stream, the offset that was acknowledged last, on this link or an earlier one.
    acked: [u64; N],
    /// Whether to repeat the last acknowledgement, because it may have been lost with its link. Set
    /// by a new link, cleared by the next acknowledgement.
    ack_again: bool,
    /// Whether the consumer is gone, so that all bytes count as taken. Never cleared.
    abandoned: bool,
    /// The lengths of the streams, if the peer has reported their end.
    end: Option<[u64; N]>,
}

impl<const N: usize> RecvStreams<N> {
    /// Creates streams of which everything before these offsets was received earlier.
    pub(crate) fn new(window: u64, received: [u64; N]) -> Self {
        Self {
            window,
            received,
            taken: received,
            acked: received,
            ack_again: false,
            abandoned: false,
            end: None,
        }
    }

    pub(crate) fn window(&self) -> u64 {
        self.window
    }

    /// Reduces the window. A larger one has no effect.
    pub(crate) fn limit_window(&mut self, window: u64) {
        self.window = self.window.min(window);
    }

    pub(crate) fn received(&self) -> [u64; N] {
        self.received
    }

    pub(crate) fn taken(&self) -> [u64; N] {
        self.taken
    }

    /// Whether the consumer has taken everything that has arrived.
    pub(crate) fn is_taken(&self) -> bool {
        self.taken == self.received
    }

    /// Resumes on a new link. The last acknowledgement may have been lost with the previous link.
    pub(crate) fn resume(&mut self) {
        self.ack_again = self.taken != [0; N];
    }

    /// Returns how many bytes are missing before a piece, and how many bytes at its front arrived
    /// earlier.
    fn fit(&self, stream: usize, offset: u64, length: usize) -> (u64, usize) {
        let received = self.received[stream];
        let known = received.saturating_sub(offset);
        let known = usize::try_from(known).unwrap_or(length).min(length);
        (offset.saturating_sub(received), known)
    }

    fn is_within_window(&self, more: u64) -> bool {
        let unacked = distance(self.acked, self.received);
        unacked.saturating_add(more) <= self.window
    }

    /// Handles a piece. Returns how many bytes are missing before it, and how many bytes at its
    /// front are not new.
    ///
    /// Missing bytes count as lost. Bytes past the window are dropped and count as missing, so that
    /// the peer can't exhaust memory.
    pub(crate) fn receive(&mut self, stream: usize, offset: u64, length: usize) -> (u64, usize) {
        let (mut gap, mut known) = self.fit(stream, offset, length);
        let new = (length - known) as u64;
        if self.abandoned {
            (gap, known) = (0, length);
        } else if !self.is_within_window(new) {
            gap = gap.saturating_add(new);
            known = length;
        }
        let end = offset.saturating_add(length as u64);
        let end = self.received[stream].max(end);
        self.received[stream] = end;
        for offsets in [&mut self.taken, &mut self.acked] {
            let offset = &mut offsets[stream];
            *offset = offset.saturating_add(gap).min(end);
        }
        if self.abandoned {
            self.taken = self.received;
        }
        (gap, known)
    }

    /// Checks a piece that must arrive in order. Returns how many bytes at its front are not new.
    /// `None` if bytes are missing before it, or if it ends before the bytes that have arrived.
    pub(crate) fn skip_known(&self, stream: usize, offset: u64, length: usize) -> Option<usize> {
        let (gap, known) = self.fit(stream, offset, length);
        let end = offset.saturating_add(length as u64);
        (gap == 0 && end >= self.received[stream]).then_some(known)
    }

    /// Accepts bytes after those that have arrived. Returns `false` if they exceed the window.
    pub(crate) fn accept(&mut self, stream: usize, length: usize) -> bool {
        let fits = self.is_within_window(length as u64);
        if fits {
            self.received[stream] += length as u64;
        }
        fits
    }

    /// The consumer took everything before these offsets.
    pub(crate) fn take(&mut self, taken: [u64; N]) {
        for (stream, taken) in taken.into_iter().enumerate() {
            let known = &mut self.taken[stream];
            *known = taken.max(*known).min(self.received[stream]);
        }
    }

    /// The consumer is gone, so all bytes count as taken.
    pub(crate) fn abandon(&mut self) {
        self.abandoned = true;
        self.taken = self.received;
    }

    /// The peer reported the end of the streams, with their lengths. `None`: they end with the
    /// bytes that have arrived.
    pub(crate) fn end(&mut self, lengths: Option<[u64; N]>) {
        self.end = Some(lengths.unwrap_or(self.received));
    }

    /// Whether the peer has reported the end of the streams.
    pub(crate) fn is_ended(&self) -> bool {
        self.end.is_some()
    }

    /// Whether the streams have ended and all of their bytes have arrived.
    pub(crate) fn is_complete(&self) -> bool {
        self.end
            .is_some_and(|end| (0..N).all(|it| self.received[it] >= end[it]))
    }

    /// The number of bytes after which an acknowledgement is due: a quarter of the part of the
    /// window that untaken bytes don't use.
    ///
    /// A quarter of the whole window could be too much: an unread stream may use most of the
    /// window. Then the other stream could never advance by a quarter, and the peer would wait
    /// forever.
    pub(crate) fn ack_step(&self) -> u64 {
        let untaken = distance(self.taken, self.received);
        (self.window.saturating_sub(untaken) / 4).max(1)
    }

    /// The number of bytes that the consumer can take before an acknowledgement is due.
    pub(crate) fn ack_after(&self) -> u64 {
        let unacked = distance(self.acked, self.taken);
        self.ack_step().saturating_sub(unacked).max(1)
    }

    /// Returns the acknowledgement to send, if the consumer has taken `step` bytes since the last
    /// one.
    pub(crate) fn poll_ack(&mut self, step: u64) -> Option<[u64; N]> {
        if !self.ack_again && distance(self.acked, self.taken) < step {
            return None;
        }
        self.ack_again = false;
        self.acked = self.taken;
        Some(self.acked)
    }
}
