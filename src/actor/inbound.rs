//! [`InboundBatch`]: what the frames of one batch bring for a process, sent to it in one message.

use std::borrow::Cow;

use bytes::{Bytes, BytesMut};

use super::process::ProcessEvent;
use crate::{
    machine::{ProcessFact, ProcessId},
    protocol::{OutputPiece, OutputView, StdStream},
};

/// Pieces shorter than this are put together, up to as much, so that many small ones cost no more than a few large ones. And so that
/// none of them keeps the 64 KiB that were read at once, of which it may be a small part.
const SMALL: usize = 16 * 1024;

/// Output of a process, in one piece.
#[derive(Debug)]
pub(super) struct Chunk<D = Bytes> {
    pub(super) stream: StdStream,
    /// Bytes of the stream before it (v2).
    pub(super) offset: Option<u64>,
    pub(super) data: D,
}

/// What is for one process, gathered from the frames of one batch.
#[derive(Default)]
pub(super) struct InboundBatch {
    process: ProcessId,
    events: Vec<ProcessEvent>,
    /// Output behind the events.
    chunks: Vec<Chunk>,
    /// Small pieces that follow one another.
    gathered: Option<Chunk<BytesMut>>,
    /// Bytes of frames that are not looked at: there is no more output in them.
    ahead: usize,
}

impl InboundBatch {
    /// Of frames with so many bytes.
    pub(super) fn of(bytes: usize) -> Self {
        Self {
            ahead: bytes,
            ..Self::default()
        }
    }

    /// A frame with so many bytes is looked at now.
    pub(super) fn advance(&mut self, bytes: usize) {
        self.ahead = self.ahead.saturating_sub(bytes);
    }

    /// Whom it is for.
    pub(super) fn process(&self) -> ProcessId {
        self.process
    }

    /// What follows is for this process; all that is for another was taken before.
    pub(super) fn begin(&mut self, process: ProcessId) {
        self.process = process;
    }

    /// Output that is still in its frame.
    pub(super) fn push_view(&mut self, output: OutputView<'_>, frame: &Bytes) {
        let offset = output.place.map(|(_, offset)| offset);
        let stream = output.stream;
        if output.data.len() >= SMALL {
            let data = match output.data {
                Cow::Borrowed(data) if !keeps_little_else(data.len(), frame.len()) => {
                    Bytes::copy_from_slice(data)
                }
                _ => output.into_data(frame),
            };
            return self.push(Chunk {
                stream,
                offset,
                data,
            });
        }
        if let Some(gathered) = &mut self.gathered
            && gathered.is_continued_by(stream, offset, output.data.len())
        {
            gathered.data.extend_from_slice(&output.data);
            return;
        }
        self.close();
        let capacity = (output.data.len() + self.ahead).min(SMALL);
        let mut data = BytesMut::with_capacity(capacity);
        data.extend_from_slice(&output.data);
        self.gathered = Some(Chunk {
            stream,
            offset,
            data,
        });
    }

    pub(super) fn push_piece(&mut self, piece: OutputPiece) {
        self.push(Chunk {
            stream: piece.stream,
            offset: piece.place.map(|place| place.offset),
            data: piece.data,
        });
    }

    fn push(&mut self, chunk: Chunk) {
        self.close();
        self.chunks.push(chunk);
    }

    fn close(&mut self) {
        if let Some(gathered) = self.gathered.take() {
            let data = gathered.data;
            // Room that was not filled would be kept with them.
            let data = match data.len() * 4 < data.capacity() {
                true => Bytes::copy_from_slice(&data),
                false => data.freeze(),
            };
            self.chunks.push(Chunk {
                stream: gathered.stream,
                offset: gathered.offset,
                data,
            });
        }
    }

    pub(super) fn push_fact(&mut self, fact: ProcessFact) {
        self.close_output();
        self.events.push(ProcessEvent::Fact(fact));
    }

    fn close_output(&mut self) {
        self.close();
        if !self.chunks.is_empty() {
            let chunks = std::mem::take(&mut self.chunks);
            self.events.push(ProcessEvent::Output(chunks));
        }
    }

    /// All that is here, in order.
    pub(super) fn take(&mut self) -> Vec<ProcessEvent> {
        self.close_output();
        std::mem::take(&mut self.events)
    }
}

/// Whether a piece of a frame may stay there: whoever keeps it keeps all of the frame.
fn keeps_little_else(data: usize, frame: usize) -> bool {
    data.saturating_mul(4) >= frame
}

impl Chunk<BytesMut> {
    fn is_continued_by(&self, stream: StdStream, offset: Option<u64>, bytes: usize) -> bool {
        let end = self
            .offset
            .map(|offset| offset.checked_add(self.data.len() as u64));
        stream == self.stream
            && end == offset.map(Some)
            && self.data.len() + bytes <= self.data.capacity()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunks(pieces: &[(StdStream, Option<u64>, &'static str)]) -> Vec<(StdStream, u64, Bytes)> {
        let frames = pieces
            .iter()
            .map(|(.., data)| Bytes::from_static(data.as_bytes()));
        let frames: Vec<_> = frames.collect();
        let mut batch = InboundBatch::of(frames.iter().map(Bytes::len).sum());
        for ((stream, offset, _), frame) in pieces.iter().zip(&frames) {
            batch.advance(frame.len());
            let view = OutputView {
                stream: *stream,
                place: offset.map(|offset| ("exec", offset)),
                data: frame[..].into(),
            };
            batch.push_view(view, frame);
        }
        let events = batch.take();
        let Ok([ProcessEvent::Output(chunks)]) = <[_; 1]>::try_from(events) else {
            panic!()
        };
        let chunks = chunks.into_iter();
        chunks
            .map(|chunk| (chunk.stream, chunk.offset.unwrap_or(0), chunk.data))
            .collect()
    }

    #[test]
    fn small_pieces_that_follow_one_another_become_one() {
        use StdStream::{Stderr, Stdout};
        assert_eq!(
            chunks(&[
                (Stdout, Some(5), "ab"),
                (Stdout, Some(7), "c"),
                (Stderr, Some(8), "x"),
                (Stderr, Some(10), "gap"),
                (Stderr, Some(10), "again"),
                (Stdout, Some(8), "d"),
            ]),
            [
                (Stdout, 5, "abc".into()),
                (Stderr, 8, "x".into()),
                (Stderr, 10, "gap".into()),
                (Stderr, 10, "again".into()),
                (Stdout, 8, "d".into()),
            ]
        );
        assert_eq!(
            chunks(&[(Stdout, None, "a"), (Stdout, None, "b")]),
            [(Stdout, 0, "ab".into())]
        );
    }

    #[test]
    fn a_large_piece_stays_in_its_frame_and_in_its_place() {
        let large: &'static str = "x".repeat(SMALL).leak();
        let stdout = StdStream::Stdout;
        let chunks = chunks(&[
            (stdout, None, "a"),
            (stdout, None, large),
            (stdout, None, "b"),
        ]);
        let data: Vec<_> = chunks.into_iter().map(|(.., data)| data).collect();
        assert_eq!(data, ["a", large, "b"]);
        assert_eq!(data[1].as_ptr(), large.as_ptr());
    }

    #[test]
    fn a_kept_piece_does_not_retain_a_much_larger_buffer() {
        let view = |data: &'static [u8]| OutputView {
            stream: StdStream::Stdout,
            place: None,
            data: data.into(),
        };
        for (piece, frame) in [(1_024, 1_024), (SMALL - 1, SMALL), (SMALL, 5 * SMALL)] {
            let frame = Bytes::from_static("x".repeat(frame).leak().as_bytes());
            let data: &'static [u8] = "x".repeat(piece).leak().as_bytes();
            let mut batch = InboundBatch::of(frame.len());
            batch.push_view(view(data), &frame);
            let events = batch.take();
            let [ProcessEvent::Output(chunks)] = &events[..] else {
                panic!()
            };
            assert_eq!(chunks[0].data, data);
            assert_ne!(chunks[0].data.as_ptr(), data.as_ptr(), "{piece}");
        }
    }

    #[test]
    fn pieces_that_are_put_together_keep_no_room_for_many_more() {
        let mut batch = InboundBatch::of(64 * 1024);
        for number in 0..8 {
            let frame = Bytes::from(vec![b'x'; 1_024]);
            batch.advance(frame.len());
            let view = OutputView {
                stream: [StdStream::Stdout, StdStream::Stderr][number % 2],
                place: None,
                data: (&frame[..]).into(),
            };
            batch.push_view(view, &frame);
        }
        let events = batch.take();
        let Ok([ProcessEvent::Output(chunks)]) = <[_; 1]>::try_from(events) else {
            panic!()
        };
        for chunk in chunks {
            let (length, memory) = (chunk.data.len(), BytesMut::from(chunk.data));
            assert!(memory.capacity() <= 4 * length, "{}", memory.capacity());
        }
    }
}
