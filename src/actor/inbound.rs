//! [`ProcessInput`]: a message from a sandbox to a process. [`InboundBatch`] collects its events
//! from the frames of one batch.

use std::borrow::Cow;

use actix::Message;
use bytes::{Bytes, BytesMut};

use crate::{
    machine::{ProcessFact, ProcessId},
    protocol::{OutputPiece, OutputView, StdStream},
    transport::Credit,
};

/// Output pieces shorter than this are copied into chunks of at most this size. Many small pieces
/// then cost little more than a few large ones, and none of them keeps its whole read buffer of
/// 64 KiB alive.
const SMALL: usize = 16 * 1024;

/// Events for a process, in order.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct ProcessInput {
    pub(super) events: Vec<ProcessEvent>,
    /// Lets the link read more when it is dropped. The process keeps it while its buffer is full.
    pub(super) credit: Option<Credit>,
}

impl ProcessInput {
    /// An input with one event.
    pub(super) fn one(event: ProcessEvent) -> Self {
        Self {
            events: vec![event],
            credit: None,
        }
    }
}

/// An event for a process.
#[derive(Debug)]
pub(crate) enum ProcessEvent {
    /// Output arrived.
    Output(Vec<Chunk>),
    /// The sandbox reports a fact.
    Fact(ProcessFact),
    /// Whether a caller waits for a status of the sandbox, which may queue behind the output.
    Awaited(bool),
}

/// A piece of a process's output.
#[derive(Debug)]
pub(super) struct Chunk<D = Bytes> {
    pub(super) stream: StdStream,
    /// The offset of the piece in its stream (v2).
    pub(super) offset: Option<u64>,
    pub(super) data: D,
}

/// Collects the events of one process from the frames of one batch.
#[derive(Default)]
pub(super) struct InboundBatch {
    process: ProcessId,
    events: Vec<ProcessEvent>,
    /// Output that follows the events.
    chunks: Vec<Chunk>,
    /// Joined small pieces of one stream, without a gap between them.
    gathered: Option<Chunk<BytesMut>>,
    /// The size of the frames that are still to be read, which bounds the output in them.
    ahead: usize,
}

impl InboundBatch {
    /// A batch of frames with this total size.
    pub(super) fn of(bytes: usize) -> Self {
        Self {
            ahead: bytes,
            ..Self::default()
        }
    }

    /// Counts the next frame, of this size, as read.
    pub(super) fn advance(&mut self, bytes: usize) {
        self.ahead = self.ahead.saturating_sub(bytes);
    }

    /// The process that receives the events.
    pub(super) fn process(&self) -> ProcessId {
        self.process
    }

    /// Sets the process that receives later events. The events of the previous process must have
    /// been [taken](Self::take).
    pub(super) fn begin(&mut self, process: ProcessId) {
        self.process = process;
    }

    /// Adds output that is still part of its frame.
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
            // A mostly empty buffer would waste memory for as long as the output is kept.
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

    /// Adds the end of a stream, if there is one.
    pub(super) fn push_end(&mut self, end: Option<(StdStream, u64)>) {
        if let Some((stream, at)) = end {
            self.push_fact(ProcessFact::StreamEnded(stream, at));
        }
    }

    fn close_output(&mut self) {
        self.close();
        if !self.chunks.is_empty() {
            let chunks = std::mem::take(&mut self.chunks);
            self.events.push(ProcessEvent::Output(chunks));
        }
    }

    /// Takes the events, in order.
    pub(super) fn take(&mut self) -> Vec<ProcessEvent> {
        self.close_output();
        std::mem::take(&mut self.events)
    }
}

/// Whether a piece is at least a quarter of its frame, so that it may share the frame's memory.
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
                eof: false,
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
            eof: false,
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
    fn joined_pieces_do_not_retain_large_buffers() {
        let mut batch = InboundBatch::of(64 * 1024);
        for number in 0..8 {
            let frame = Bytes::from(vec![b'x'; 1_024]);
            batch.advance(frame.len());
            let view = OutputView {
                stream: [StdStream::Stdout, StdStream::Stderr][number % 2],
                place: None,
                data: (&frame[..]).into(),
                eof: false,
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
