//! [`RecvStreams`]: the receiving half.

use super::distance;

/// `N` streams that a peer sends within one window. Holds their offsets; the owner keeps the bytes.
#[derive(Debug)]
pub(crate) struct RecvStreams<const N: usize> {
    /// Bytes that the peer may send past the last acknowledgement.
    window: u64,
    /// Everything before has come, or is known to be lost.
    received: [u64; N],
    /// Everything before was taken by the consumer.
    taken: [u64; N],
    /// Everything before was acknowledged, on this link or an earlier one.
    acked: [u64; N],
    /// The last acknowledgement is to be repeated, because it may be lost with its link.
    /// Set by a new link, cleared by the next acknowledgement.
    ack_again: bool,
    /// The consumer is gone: all bytes count as taken. Never cleared.
    abandoned: bool,
    /// How long the streams are, once the peer has said that.
    end: Option<[u64; N]>,
}

impl<const N: usize> RecvStreams<N> {
    /// Streams of which everything before these offsets was received earlier.
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

    /// The peer keeps to a smaller window. A larger one has no effect.
    pub(crate) fn limit_window(&mut self, window: u64) {
        self.window = self.window.min(window);
    }

    pub(crate) fn received(&self) -> [u64; N] {
        self.received
    }

    pub(crate) fn taken(&self) -> [u64; N] {
        self.taken
    }

    /// Whether the consumer has taken everything that has come.
    pub(crate) fn is_taken(&self) -> bool {
        self.taken == self.received
    }

    /// The link is new. What was acknowledged on the last one may not have arrived.
    pub(crate) fn resume(&mut self) {
        self.ack_again = self.taken != [0; N];
    }

    /// How many bytes are missing before a piece, and how many at its front have come before.
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

    /// A piece came. Returns how many bytes are missing before it, and how many at its front are
    /// not new.
    ///
    /// Missing bytes are not waited for. Bytes past the window are dropped and count as missing, so
    /// that the peer cannot make this side grow.
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

    /// A piece came that counts only in order. Returns how many bytes at its front are not new;
    /// `None` if bytes are missing before it, or if all of it lies before bytes that have come.
    pub(crate) fn skip_known(&self, stream: usize, offset: u64, length: usize) -> Option<usize> {
        let (gap, known) = self.fit(stream, offset, length);
        let end = offset.saturating_add(length as u64);
        (gap == 0 && end >= self.received[stream]).then_some(known)
    }

    /// Accepts bytes behind those that have come. `false`: they exceed the window.
    pub(crate) fn accept(&mut self, stream: usize, length: usize) -> bool {
        let fits = self.is_within_window(length as u64);
        if fits {
            self.received[stream] += length as u64;
        }
        fits
    }

    /// The consumer has taken everything before these offsets.
    pub(crate) fn take(&mut self, taken: [u64; N]) {
        for (stream, taken) in taken.into_iter().enumerate() {
            let known = &mut self.taken[stream];
            *known = taken.max(*known).min(self.received[stream]);
        }
    }

    /// The consumer is gone.
    pub(crate) fn abandon(&mut self) {
        self.abandoned = true;
        self.taken = self.received;
    }

    /// The peer said how long the streams are. `None`: no more comes than has come.
    pub(crate) fn end(&mut self, lengths: Option<[u64; N]>) {
        self.end = Some(lengths.unwrap_or(self.received));
    }

    /// Whether the peer said how long the streams are.
    pub(crate) fn is_ended(&self) -> bool {
        self.end.is_some()
    }

    /// Whether everything has come.
    pub(crate) fn is_complete(&self) -> bool {
        self.end
            .is_some_and(|end| (0..N).all(|it| self.received[it] >= end[it]))
    }

    /// A quarter of the window that is not filled with bytes that the consumer has not taken.
    ///
    /// A quarter of the whole window would not do: one stream that is not read may fill most of it.
    /// Then the other can never take as much as a quarter, and the peer would wait for ever.
    pub(crate) fn ack_step(&self) -> u64 {
        let untaken = distance(self.taken, self.received);
        (self.window.saturating_sub(untaken) / 4).max(1)
    }

    /// How many more bytes the consumer takes until such an acknowledgement is due.
    pub(crate) fn ack_after(&self) -> u64 {
        let unacked = distance(self.acked, self.taken);
        self.ack_step().saturating_sub(unacked).max(1)
    }

    /// The acknowledgement to send. It is due when the consumer has taken this many bytes since the
    /// last one.
    pub(crate) fn poll_ack(&mut self, step: u64) -> Option<[u64; N]> {
        if !self.ack_again && distance(self.acked, self.taken) < step {
            return None;
        }
        self.ack_again = false;
        self.acked = self.taken;
        Some(self.acked)
    }
}
