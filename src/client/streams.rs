//! Text from output: [`TextStream`] and [`LineStream`], and `read_all` in [`OutputExt`].

use std::{
    collections::VecDeque,
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Bytes, BytesMut};
use futures::{Stream, StreamExt};

use crate::{Error, OutputStream, protocol::Utf8Decoder};

/// Most bytes that `read_all` and `run` collect unless told otherwise.
pub(super) const READ_LIMIT: usize = 64 * 1024 * 1024;

/// Longest line that [`LineStream`] gives in one piece, in bytes.
const MAX_LINE: usize = 1024 * 1024;

/// Ways to read an [`OutputStream`] other than piece by piece.
pub trait OutputExt: Sized {
    /// Everything up to the end, as text; what is not UTF-8 is replaced by U+FFFD.
    ///
    /// # Errors
    ///
    /// More than 64 MiB ([`ErrorKind::OutputTooLarge`](crate::ErrorKind::OutputTooLarge)), a gap, or a
    /// lost sandbox. What was read before is gone with the error; to keep it, read piece by piece.
    ///
    /// Not cancellation safe: what was read when the future is dropped is gone.
    fn read_all(self) -> impl Future<Output = Result<String, Error>> + Send;

    /// Everything up to the end, in bytes, at most `limit`.
    ///
    /// # Errors
    ///
    /// As [`read_all`](Self::read_all).
    fn read_to_limit(self, limit: usize) -> impl Future<Output = Result<Bytes, Error>> + Send;

    /// Text as it comes, never split inside a code point. Cancellation safe.
    ///
    /// The stream reads ahead by up to one piece: keep it for as long as you read, since what it has
    /// read and not given is gone with it.
    fn text(self) -> TextStream;

    /// Line by line, without the line ends (`\n` or `\r\n`). The last line may have none. A line
    /// longer than 1 MiB may come in several pieces. Cancellation safe.
    ///
    /// The stream reads ahead by up to one piece: keep it for as long as you read, since what it has
    /// read and not given is gone with it.
    fn lines(self) -> LineStream;
}

impl OutputExt for OutputStream {
    async fn read_all(self) -> Result<String, Error> {
        let bytes = self.read_to_limit(READ_LIMIT).await?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    async fn read_to_limit(mut self, limit: usize) -> Result<Bytes, Error> {
        let mut all = BytesMut::new();
        while let Some(piece) = self.next().await {
            let piece = piece?;
            if all.len() + piece.len() > limit {
                return Err(Error::output_too_large(limit));
            }
            all.extend_from_slice(&piece);
        }
        Ok(all.freeze())
    }

    fn text(self) -> TextStream {
        TextStream {
            output: self,
            decoder: Utf8Decoder::default(),
        }
    }

    fn lines(self) -> LineStream {
        LineStream {
            text: self.text(),
            line: String::new(),
            ready: VecDeque::new(),
        }
    }
}

/// Output as text, as it comes. Made by [`OutputExt::text`].
#[derive(Debug)]
pub struct TextStream {
    output: OutputStream,
    decoder: Utf8Decoder,
}

impl Stream for TextStream {
    type Item = Result<String, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            let text = match ready!(self.output.poll_next_unpin(cx)) {
                Some(Ok(piece)) => self.decoder.decode(&piece),
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => {
                    let rest = self.decoder.finish();
                    return Poll::Ready((!rest.is_empty()).then_some(Ok(rest)));
                }
            };
            if !text.is_empty() {
                return Poll::Ready(Some(Ok(text)));
            }
        }
    }
}

/// Output line by line. Made by [`OutputExt::lines`].
#[derive(Debug)]
pub struct LineStream {
    text: TextStream,
    /// The beginning of a line.
    line: String,
    /// Lines that are complete.
    ready: VecDeque<Result<String, Error>>,
}

impl LineStream {
    fn absorb(&mut self, text: &str) {
        for piece in text.split_inclusive('\n') {
            self.line.push_str(piece);
            if piece.ends_with('\n') {
                self.line.pop();
                if self.line.ends_with('\r') {
                    self.line.pop();
                }
                self.ready.push_back(Ok(std::mem::take(&mut self.line)));
            } else if self.line.len() >= MAX_LINE {
                self.ready.push_back(Ok(std::mem::take(&mut self.line)));
            }
        }
    }
}

impl Stream for LineStream {
    type Item = Result<String, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            if let Some(line) = self.ready.pop_front() {
                return Poll::Ready(Some(line));
            }
            match ready!(self.text.poll_next_unpin(cx)) {
                Some(Ok(text)) => self.absorb(&text),
                Some(Err(error)) => {
                    // The line that the gap is in is given first, as far as it came.
                    if !self.line.is_empty() {
                        let begun = std::mem::take(&mut self.line);
                        self.ready.push_back(Ok(begun));
                    }
                    self.ready.push_back(Err(error));
                }
                None if self.line.is_empty() => return Poll::Ready(None),
                None => return Poll::Ready(Some(Ok(std::mem::take(&mut self.line)))),
            }
        }
    }
}
