//! Other ways to read an [`OutputStream`]: all at once, as text ([`TextStream`]) or line by line
//! ([`LineStream`]).

use std::{
    collections::VecDeque,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Bytes, BytesMut};
use futures::{Stream, StreamExt};

use crate::{Error, OutputStream, protocol::Utf8Decoder};

/// The maximum number of bytes of one stream that `read_all`, `run` and `output` collect by
/// default.
pub(super) const READ_LIMIT: usize = 64 * 1024 * 1024;

/// The size in bytes from which [`LineStream`] may split a line.
const MAX_LINE: usize = 1024 * 1024;

impl OutputStream {
    /// Reads the stream to its end, at most 64 MiB.
    ///
    /// # Errors
    ///
    /// Fails with [`ErrorKind::OutputTooLarge`](crate::ErrorKind::OutputTooLarge) if there is more,
    /// and with the [errors of the stream](Self#errors). Output that was read before the error is
    /// lost; to keep it, read piece by piece.
    ///
    /// # Cancel safety
    ///
    /// Not cancel safe: dropping the future loses the output that it has read.
    pub async fn read_all(self) -> Result<Bytes, Error> {
        self.read_to_limit(READ_LIMIT).await
    }

    /// Reads the stream to its end, at most `limit` bytes. Otherwise like
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

    /// Converts the stream to text. Items are as long as the pieces that arrive, and never split a
    /// code point. U+FFFD replaces bytes that are not UTF-8.
    ///
    /// # Cancel safety
    ///
    /// Dropping a read loses nothing. Dropping the text stream loses the first bytes of an
    /// incomplete code point, if it has read any.
    pub fn text(self) -> TextStream {
        TextStream {
            output: self,
            decoder: Utf8Decoder::default(),
            error: None,
        }
    }

    /// Converts the stream to lines of text, without the line ends (`\n` or `\r\n`). The last line
    /// needs no line end. A line longer than 1 MiB may be split into several items.
    ///
    /// # Cancel safety
    ///
    /// Dropping a read loses nothing. Dropping the line stream loses the output that it has read
    /// ahead, at most one piece and one line.
    pub fn lines(self) -> LineStream {
        LineStream {
            text: self.text(),
            line: String::new(),
            is_rest: false,
            ready: VecDeque::new(),
        }
    }
}

/// Output as text. Returned by [`OutputStream::text`].
#[derive(Debug)]
#[must_use = "streams do nothing unless they are polled"]
pub struct TextStream {
    output: OutputStream,
    decoder: Utf8Decoder,
    /// An error that follows the text before it.
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
    /// The incomplete line.
    line: String,
    /// Whether `line` continues a long line, whose beginning was already returned.
    is_rest: bool,
    /// Complete lines, and errors between them.
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
                    // The incomplete line comes before the error.
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
