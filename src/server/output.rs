//! The way of output from a pipe to pieces of text: read as it comes, joined when it comes close
//! together, never cut inside a code point. Uses `protocol` alone.

use std::time::Duration;

use bytes::{BufMut, BytesMut};
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    sync::{mpsc, watch},
    time::{Instant, timeout, timeout_at},
};

use super::link::MAX_PIECE_BYTES;
use crate::protocol::{StdStream, Utf8Decoder};

/// Pieces that are written closer together than this leave as one message.
const JOIN_WITHIN: Duration = Duration::from_millis(1);

/// Longest time that a piece waits for more to join it.
const JOIN_AT_MOST: Duration = Duration::from_millis(10);

/// How long a pipe that a background child still holds must be silent after the process ended.
const SILENCE_AFTER_END: Duration = Duration::from_millis(20);

/// Longest time that such a pipe is read after the process ended.
const READ_AFTER_END: Duration = Duration::from_millis(250);

/// A pipe that carries output.
pub(super) type Pipe = Box<dyn AsyncRead + Send + Unpin>;

/// Reads `pipe` to its end and hands on what it carries.
///
/// When `ended` turns true the process is gone: what is already in the pipe is read, and the end of
/// the pipe is not waited for. Then the pipe is given back, because background children still hold it.
pub(super) async fn pump<T>(
    mut pipe: Pipe,
    stream: StdStream,
    mut ended: watch::Receiver<bool>,
    pieces: mpsc::Sender<T>,
    wrap: fn(StdStream, String) -> T,
) -> Option<Pipe> {
    let mut decoder = Utf8Decoder::default();
    let mut buffer = BytesMut::with_capacity(MAX_PIECE_BYTES);
    let mut stop_at = None;
    let mut open = true;
    let mut held = false;

    while open {
        let read = read_more(&mut pipe, &mut buffer);
        let first = match stop_at {
            None => tokio::select! {
                biased;
                read = read => Some(read),
                _ = ended.wait_for(|&ended| ended) => {
                    stop_at = Some(Instant::now() + READ_AFTER_END);
                    continue;
                }
            },
            Some(stop_at) => timeout_at(stop_at.min(Instant::now() + SILENCE_AFTER_END), read)
                .await
                .ok(),
        };
        match first {
            Some(true) => {}
            Some(false) => open = false,
            None => (open, held) = (false, true),
        }
        if open {
            open = join_more(&mut pipe, &mut buffer).await;
        }
        let mut text = decoder.decode(&buffer);
        buffer.clear();
        if !open {
            text.push_str(&decoder.finish());
        }
        if !text.is_empty() && pieces.send(wrap(stream, text)).await.is_err() {
            return None;
        }
    }
    held.then_some(pipe)
}

/// Reads what comes shortly after the first bytes; false at the end of the pipe.
async fn join_more(pipe: &mut Pipe, buffer: &mut BytesMut) -> bool {
    let last = Instant::now() + JOIN_AT_MOST;
    while buffer.len() < MAX_PIECE_BYTES && Instant::now() < last {
        match timeout(JOIN_WITHIN, read_more(pipe, buffer)).await {
            Ok(true) => {}
            Ok(false) => return false,
            Err(_elapsed) => break,
        }
    }
    true
}

/// Reads some bytes; false at the end of the pipe. A pipe that fails is at its end.
async fn read_more(pipe: &mut Pipe, buffer: &mut BytesMut) -> bool {
    let room = MAX_PIECE_BYTES.saturating_sub(buffer.len());
    matches!(pipe.read_buf(&mut buffer.limit(room)).await, Ok(read) if read > 0)
}

/// Reads a pipe to its end and drops what it carries, so that nobody who writes to it is stopped.
pub(super) async fn discard(mut pipe: Pipe) {
    let _ = tokio::io::copy(&mut pipe, &mut tokio::io::sink()).await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncWriteExt, DuplexStream};

    fn start(
        capacity: usize,
    ) -> (
        DuplexStream,
        watch::Sender<bool>,
        mpsc::Receiver<String>,
        tokio::task::JoinHandle<Option<Pipe>>,
    ) {
        let (writer, reader) = tokio::io::duplex(1 << 20);
        let (end, ended) = watch::channel(false);
        let (sender, pieces) = mpsc::channel(capacity);
        let pump = tokio::spawn(pump(
            Box::new(reader),
            StdStream::Stdout,
            ended,
            sender,
            |_, text| text,
        ));
        (writer, end, pieces, pump)
    }

    #[tokio::test(start_paused = true)]
    async fn writes_close_together_leave_as_one_piece_and_later_ones_do_not() {
        let (mut writer, _end, mut pieces, _pump) = start(8);
        for word in ["one ", "two ", "three"] {
            writer.write_all(word.as_bytes()).await.unwrap();
            tokio::task::yield_now().await;
        }
        assert_eq!(pieces.recv().await.as_deref(), Some("one two three"));
        writer.write_all(b"later").await.unwrap();
        assert_eq!(pieces.recv().await.as_deref(), Some("later"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_code_point_written_in_two_halves_is_one() {
        let (mut writer, _end, mut pieces, _pump) = start(8);
        writer.write_all(b"a\xc3").await.unwrap();
        assert_eq!(pieces.recv().await.as_deref(), Some("a"));
        writer.write_all(b"\xa9").await.unwrap();
        assert_eq!(pieces.recv().await.as_deref(), Some("é"));
        writer.write_all(b"\xff\xe2\x82").await.unwrap();
        drop(writer);
        assert_eq!(pieces.recv().await.as_deref(), Some("\u{FFFD}\u{FFFD}"));
        assert_eq!(pieces.recv().await, None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_pipe_that_a_child_holds_is_given_back_after_what_is_in_it() {
        let (mut writer, end, mut pieces, pump) = start(8);
        writer.write_all(b"last words").await.unwrap();
        end.send_replace(true);
        assert_eq!(pieces.recv().await.as_deref(), Some("last words"));
        assert!(pump.await.unwrap().is_some());
        assert_eq!(pieces.recv().await, None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_reader_that_does_not_take_pieces_stops_the_writer() {
        let (mut writer, _end, mut pieces, _pump) = start(1);
        let written = tokio::spawn(async move {
            let mut written = 0;
            let chunk = [b'x'; 32 * 1024];
            while timeout(Duration::from_secs(1), writer.write_all(&chunk))
                .await
                .is_ok_and(|write| write.is_ok())
            {
                written += chunk.len();
            }
            written
        })
        .await
        .unwrap();
        assert!(written < 2 << 20, "{written}");
        assert!(pieces.recv().await.is_some());
    }
}
