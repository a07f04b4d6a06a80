//! Other ways to read an [`OutputStream`]: all at once, as text ([`TextStream`]) or by lines
//! ([`LineStream`]).

use std::{
    collections::VecDeque,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Bytes, BytesMut};
use futures::{Stream, StreamExt};

use crate::{Error, OutputStream, protocol::Utf8Decoder};

/// The most bytes of one stream that `read_all`, `run` and `output` collect by default.
pub(super) const READ_LIMIT: usize = 64 * 1024 * 1024;

/// Longest line that [`LineStream`] gives in one piece, in bytes.
const MAX_LINE: usize = 1024 * 1024;

impl OutputStream {
    /// Reads everything up to the end, at most 64 MiB.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::OutputTooLarge`](crate::ErrorKind::OutputTooLarge) if there is more, and the
    /// errors of the stream. What was read before the error is lost; to keep it, read piece by
    /// piece.
    ///
    /// **Cancel safety.** Not cancel safe: dropping the future loses what it has read.
    pub async fn read_all(self) -> Result<Bytes, Error> {
        self.read_to_limit(READ_LIMIT).await
    }

    /// Reads everything up to the end, at most `limit` bytes. Otherwise like
    /// [`read_all`](Self::read_all).
    ///
    /// # Errors
    ///
    /// The errors of [`read_all`](Self::read_all).
    pub async fn read_to_limit(mut self, limit: usize) -> Result<Bytes, Error> {
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

    /// Text as it comes, never split inside a code point. U+FFFD replaces bytes that are not UTF-8.
    ///
    /// **Cancel safety.** Dropping a read loses nothing. Dropping the text stream loses the
    /// beginning of a code point that it has read.
    pub fn text(self) -> TextStream {
        TextStream {
            output: self,
            decoder: Utf8Decoder::default(),
            error: None,
        }
    }

    /// Text line by line, without the line ends (`\n` or `\r\n`). The last line may have none. A
    /// line longer than 1 MiB may come in several items.
    ///
    /// **Cancel safety.** Dropping a read loses nothing. Dropping the line stream loses what it has
    /// read ahead, at most one piece and one line.
    pub fn lines(self) -> LineStream {
        LineStream {
            text: self.text(),
            line: String::new(),
            is_rest: false,
            ready: VecDeque::new(),
        }
    }
}

/// Output as text, as it comes. Returned by [`OutputStream::text`].
#[derive(Debug)]
#[must_use = "streams do nothing unless they are polled"]
pub struct TextStream {
    output: OutputStream,
    decoder: Utf8Decoder,
    /// Comes after the text before it.
    error: Option<Error>,
}

impl Stream for TextStream {
    type Item = Result<String, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            if let Some(error) = self.error.take() {
                return Poll::Ready(Some(Err(error)));
            }
            let text = match ready!(self.output.poll_next_unpin(cx)) {
                Some(Ok(piece)) => self.decoder.decode(&piece),
                Some(Err(error)) => {
                    self.error = Some(error);
                    self.decoder.finish()
                }
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

/// Output line by line. Returned by [`OutputStream::lines`].
#[derive(Debug)]
#[must_use = "streams do nothing unless they are polled"]
pub struct LineStream {
    text: TextStream,
    /// The beginning of a line.
    line: String,
    /// The line before was given without its end, because it is long.
    is_rest: bool,
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
                let is_rest = std::mem::take(&mut self.is_rest);
                if !is_rest || !self.line.is_empty() {
                    self.ready.push_back(Ok(std::mem::take(&mut self.line)));
                }
            } else if self.line.len() >= MAX_LINE {
                self.is_rest = true;
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
