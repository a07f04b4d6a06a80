//! [`Link`]: one open WebSocket. It reads while it has credit, writes while the socket accepts
//! data, and pings a quiet peer.

use std::{
    collections::VecDeque,
    future::Future,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use actix_http::ws::{CloseCode, CloseReason, Frame, Item, Message};
use bytes::Bytes;
use tokio::{
    task::coop::has_budget_remaining,
    time::{Instant, Sleep},
};

use super::{
    credit::{Credit, Credits},
    recorder::RecordedLink,
    socket::Socket,
};
use crate::{
    machine::{Keepalive, KeepaliveAction, KeepaliveConfig, LinkError},
    protocol::{Encoded, Fragment, Piece, Reassembly, excerpt},
    yield_now::Yield,
};

/// Maximum number of batches in flight: the consumer handles one while the link reads the next.
const CREDITS: usize = 2;
/// A batch ends at this many bytes or frames.
const BATCH_BYTES: usize = 64 * 1024;
const BATCH_FRAMES: usize = 256;
/// Maximum number of queued messages. The senders limit what they queue: for each process, one exec
/// request, one stdin message and the acknowledgements of its output; for the sandbox, a few other
/// requests. So the queue reaches this limit only if the peer stops reading.
const MAX_OUTGOING: usize = 16_384;

/// Options of a link.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LinkConfig {
    pub(crate) keepalive: KeepaliveConfig,
    pub(crate) max_message_bytes: usize,
}

/// An event of a link.
#[derive(Debug)]
pub(crate) enum LinkEvent {
    /// Messages, in order. Dropping the credit lets the link read another batch.
    Frames(Vec<Bytes>, Credit),
    /// The socket has accepted the messages with these tags and all earlier ones.
    Written(Vec<u64>),
    /// The link is lost. This is the last event.
    Lost(LinkError),
}

/// One open WebSocket, driven by [`poll`](Link::poll).
pub(crate) struct Link {
    socket: Socket,
    reassembly: Reassembly,

    outgoing: VecDeque<(Message, Option<u64>)>,
    /// Tags of messages that are encoded but not flushed.
    unflushed: Vec<u64>,
    /// Whether messages wait for a flush, or for room in the socket.
    dirty: bool,
    /// The payload of the latest unanswered ping. Earlier pings need no answer (RFC 6455, 5.5.3).
    pong: Option<Bytes>,
    /// Whether the close frame was sent or queued. No message is sent after it.
    closing: bool,

    credits: Credits,
    /// The credit of the batch that is being read.
    credit: Option<Credit>,
    /// Whether the link waits for a credit or for the recorder, and so doesn't read.
    paused: bool,
    batch: Vec<Bytes>,
    batch_bytes: usize,
    lost: Option<LinkError>,
    /// Set after a full batch. The link reads on once the thread has polled its other sockets and
    /// timers.
    yielding: Option<Yield>,
    /// The error of a failed write. The link reads all remaining frames before it reports the
    /// error.
    broken: Option<LinkError>,
    /// Whether the last read found the socket empty.
    drained: bool,

    keepalive: Keepalive,
    timer: Pin<Box<Sleep>>,

    recorded: Option<RecordedLink>,
}

impl Link {
    pub(crate) fn new(socket: Socket, config: LinkConfig) -> Self {
        let now = Instant::now();
        let keepalive = Keepalive::new(config.keepalive, now.into_std());
        let timer = Box::pin(tokio::time::sleep_until(keepalive.poll_timeout().into()));
        Self {
            socket,
            reassembly: Reassembly::new(config.max_message_bytes),
            outgoing: VecDeque::new(),
            unflushed: Vec::new(),
            dirty: false,
            pong: None,
            closing: false,
            credits: Credits::new(CREDITS),
            credit: None,
            paused: false,
            batch: Vec::new(),
            batch_bytes: 0,
            lost: None,
            yielding: None,
            broken: None,
            drained: false,
            keepalive,
            timer,
            recorded: None,
        }
    }

    /// Sets where all messages from now on are recorded, if anywhere.
    pub(crate) fn record(&mut self, recorded: Option<RecordedLink>) {
        self.recorded = recorded;
    }

    /// Queues a message. With a tag, [`LinkEvent::Written`] reports when the socket has accepted
    /// it.
    pub(crate) fn send(&mut self, frame: Encoded, tag: Option<u64>) {
        if self.closing {
            return;
        }
        if self.outgoing.len() >= MAX_OUTGOING {
            self.lost.get_or_insert(LinkError::Dropped {
                detail: format!("the server stopped reading; {MAX_OUTGOING} messages are queued"),
            });
            return;
        }
        let message = match frame {
            Encoded::Text(text) => Message::Text(text.into()),
            Encoded::Binary(bytes) => Message::Binary(bytes),
        };
        self.outgoing.push_back((message, tag));
    }

    /// Makes the link fail with this error, after the frames that it has read.
    pub(crate) fn abort(&mut self, cause: LinkError) {
        self.lost.get_or_insert(cause);
    }

    /// Starts the close handshake. Sends all queued messages first.
    pub(crate) fn close(&mut self) {
        if !self.closing {
            self.closing = true;
            if let Some(recorded) = &mut self.recorded {
                recorded.closing();
            }
            let reason = CloseReason {
                code: CloseCode::Normal,
                description: None,
            };
            self.outgoing
                .push_back((Message::Close(Some(reason)), None));
        }
    }

    /// Returns the next event. Reads and writes make progress independently of each other.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<LinkEvent> {
        self.write(cx);
        if !self.dirty && !self.unflushed.is_empty() {
            return Poll::Ready(LinkEvent::Written(std::mem::take(&mut self.unflushed)));
        }
        if let Some(event) = self.poll_read(cx) {
            return Poll::Ready(event);
        }
        let broken = |link: &mut Self| link.broken.take_if(|_| link.drained);
        if let Some(error) = self.lost.take().or_else(|| broken(self)) {
            return Poll::Ready(self.ended(error));
        }
        // The write error may come from the ping that the keepalive just sent.
        match self.poll_keepalive(cx).or_else(|| broken(self)) {
            Some(error) => Poll::Ready(self.ended(error)),
            None => Poll::Pending,
        }
    }

    fn ended(&mut self, error: LinkError) -> LinkEvent {
        if let Some(mut recorded) = self.recorded.take() {
            recorded.lost(&error);
        }
        LinkEvent::Lost(error)
    }

    /// Writes queued messages. Stores an error instead of returning it, because the peer may have
    /// sent a close frame with the reason before the write failed.
    fn write(&mut self, cx: &mut Context<'_>) {
        if self.broken.is_none()
            && let Err(error) = self.poll_write(cx)
        {
            self.broken = Some(error);
        }
    }

    fn poll_write(&mut self, cx: &mut Context<'_>) -> Result<(), LinkError> {
        loop {
            if self.pong.is_none() && self.outgoing.is_empty() {
                break;
            }
            // Check the socket before taking a message. A message that does not fit stays queued,
            // and a newer pong replaces an older one.
            match self.socket.poll_ready(cx) {
                Poll::Ready(ready) => ready?,
                Poll::Pending => {
                    self.dirty = true;
                    return Ok(());
                }
            }
            let message = match self.pong.take() {
                Some(payload) => (Message::Pong(payload), None),
                None => match self.outgoing.pop_front() {
                    Some(message) => message,
                    None => break,
                },
            };
            match (&self.recorded, &message.0) {
                (Some(recorded), Message::Text(text)) => recorded.sent(text),
                (Some(recorded), Message::Binary(bytes)) => {
                    recorded.sent(&Encoded::Binary(bytes.clone()).into_text());
                }
                _ => {}
            }
            self.socket.send(message.0)?;
            self.unflushed.extend(message.1);
            self.dirty = true;
        }
        if self.dirty
            && let Poll::Ready(flushed) = self.socket.poll_flush(cx)
        {
            flushed?;
            self.dirty = false;
        }
        Ok(())
    }

    /// Reads frames into a batch while the link has credit.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Option<LinkEvent> {
        if let Some(yielding) = &self.yielding {
            if yielding.poll(cx).is_pending() {
                return None;
            }
            self.yielding = None;
        }
        self.drained = false;
        let mut frames = 0;
        let mut alive = false;
        while self.lost.is_none() {
            if let Some(recorded) = &mut self.recorded
                && recorded.poll_room(cx).is_pending()
            {
                self.paused = true;
                break;
            }
            if self.credit.is_none() && !self.closing {
                match self.credits.poll_take(cx) {
                    Poll::Ready(credit) => self.credit = Some(credit),
                    Poll::Pending => {
                        self.paused = true;
                        return None;
                    }
                }
            }
            if std::mem::take(&mut self.paused) {
                // While the link doesn't read, the peer only seems silent.
                self.keepalive.handle_alive(Instant::now().into_std());
            }
            match self.socket.poll_frame(cx) {
                Poll::Pending => {
                    // When the coop budget of the task is used up, tokio returns `Pending` without
                    // reading the socket, and wakes the task again.
                    self.drained = has_budget_remaining();
                    break;
                }
                Poll::Ready(None) => {
                    self.lost = Some(LinkError::Dropped {
                        detail: "the stream ended without a close frame".to_owned(),
                    });
                }
                Poll::Ready(Some(Err(error))) => self.lost = Some(error),
                Poll::Ready(Some(Ok(frame))) => {
                    alive = true;
                    if let Err(error) = self.handle_frame(frame, cx) {
                        self.lost = Some(error);
                    }
                }
            }
            // Control frames count towards the limit of a batch, too.
            frames += 1;
            if self.batch_bytes >= BATCH_BYTES || frames >= BATCH_FRAMES {
                self.yielding = Some(Yield::begin());
                break;
            }
        }
        if alive {
            self.keepalive.handle_alive(Instant::now().into_std());
        }
        if self.batch.is_empty() {
            if let Some(yielding) = &self.yielding
                && yielding.poll(cx).is_ready()
            {
                cx.waker().wake_by_ref();
            }
            return None;
        }
        self.batch_bytes = 0;
        let credit = self.credit.take()?;
        Some(LinkEvent::Frames(std::mem::take(&mut self.batch), credit))
    }

    fn handle_frame(&mut self, frame: Frame, cx: &mut Context<'_>) -> Result<(), LinkError> {
        let protocol = |detail: String| LinkError::Protocol { detail };
        match frame {
            Frame::Text(text) => self.take(text),
            Frame::Continuation(item) => {
                let fragment = match item {
                    Item::FirstText(data) => Fragment::First(data),
                    Item::FirstBinary(data) if Piece::begins(&data) => Fragment::First(data),
                    Item::FirstBinary(data) => return Err(protocol(binary(&data))),
                    Item::Continue(data) => Fragment::Middle(data),
                    Item::Last(data) => Fragment::Last(data),
                };
                if let Some(text) = self
                    .reassembly
                    .push(fragment)
                    .map_err(|error| protocol(error.to_string()))?
                {
                    self.take(text);
                }
            }
            // Under v1, the machine refuses the frame.
            Frame::Binary(data) if Piece::read(&data).is_some_and(|it| it.stream.is_some()) => {
                self.take(data);
            }
            Frame::Binary(data) => return Err(protocol(binary(&data))),
            Frame::Ping(payload) => {
                self.pong = Some(payload);
                self.write(cx);
            }
            Frame::Pong(_) => {}
            Frame::Close(reason) => {
                // Our close frame completes the handshake. It is small, so one attempt to write it
                // is enough.
                if !self.closing {
                    self.outgoing.clear();
                    self.outgoing
                        .push_back((Message::Close(reason.clone()), None));
                    self.closing = true;
                    self.write(cx);
                }
                let (code, reason) = match reason {
                    Some(reason) => (
                        Some(u16::from(reason.code)),
                        reason.description.unwrap_or_default(),
                    ),
                    None => (None, String::new()),
                };
                let reason = excerpt(reason.as_bytes());
                return Err(LinkError::Closed { code, reason });
            }
        }
        Ok(())
    }

    fn take(&mut self, frame: Bytes) {
        // Without a credit, the link is closing. Drop the message, because no consumer reads it.
        if self.credit.is_some() {
            if let Some(recorded) = &self.recorded {
                match Piece::read(&frame) {
                    Some(piece) => recorded.received(piece.to_text().as_bytes()),
                    None => recorded.received(&frame),
                }
            }
            self.batch_bytes += frame.len();
            self.batch.push(frame);
        }
    }

    fn poll_keepalive(&mut self, cx: &mut Context<'_>) -> Option<LinkError> {
        loop {
            // The answer to a ping can make the next deadline earlier.
            let due = self.keepalive.poll_timeout().into();
            if due < self.timer.deadline() {
                self.timer.as_mut().reset(due);
            }
            if self.timer.as_mut().poll(cx).is_pending() {
                return None;
            }
            let now = Instant::now().into_std();
            if self.paused {
                self.keepalive.handle_alive(now);
            }
            match self.keepalive.poll(now) {
                Some(KeepaliveAction::Dead(after)) => {
                    return Some(LinkError::Silent {
                        after: round(after),
                    });
                }
                Some(KeepaliveAction::Ping) => {
                    self.outgoing.push_back((Message::Ping(Bytes::new()), None));
                    self.write(cx);
                }
                None => {}
            }
            self.timer
                .as_mut()
                .reset(self.keepalive.poll_timeout().into());
        }
    }
}

fn binary(data: &[u8]) -> String {
    format!(
        "a binary frame that is not a piece of a stream: {}",
        excerpt(data)
    )
}

fn round(duration: Duration) -> Duration {
    Duration::from_millis(duration.as_millis().try_into().unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use std::{io, task::Waker};

    use actix_codec::Framed;
    use actix_http::ws::Codec;
    use awc::BoxedSocket;
    use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};

    use super::*;

    fn link(io: impl AsyncRead + AsyncWrite + Unpin + 'static) -> Link {
        let io: BoxedSocket = Box::new(io);
        let config = LinkConfig {
            keepalive: KeepaliveConfig::default(),
            max_message_bytes: 1 << 20,
        };
        Link::new(
            Socket::new(Framed::new(io, Codec::new()), config.max_message_bytes),
            config,
        )
    }

    #[tokio::test]
    async fn pings_of_a_peer_that_takes_no_answer_do_not_pile_up() {
        let (near, mut far) = tokio::io::duplex(1024);
        let mut link = link(near);
        let mut ping = vec![0x89, 125];
        ping.extend([b'x'; 125]);
        let pings = async {
            for _ in 0..10_000 {
                far.write_all(&ping).await.expect("the link reads");
            }
        };
        let link_polled = std::future::poll_fn(|cx| {
            let polled = link.poll(cx);
            assert!(polled.is_pending(), "{polled:?}");
            assert!(
                link.outgoing.len() <= 1,
                "{} pongs wait",
                link.outgoing.len()
            );
            Poll::<()>::Pending
        });
        futures::future::select(Box::pin(pings), link_polled).await;
    }

    /// A stream whose writes fail, but which still has data to read.
    struct HalfDead(&'static [u8]);

    impl AsyncRead for HalfDead {
        fn poll_read(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            buf: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            buf.put_slice(std::mem::take(&mut self.0));
            Poll::Ready(Ok(()))
        }
    }

    impl AsyncWrite for HalfDead {
        fn poll_write(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
            _: &[u8],
        ) -> Poll<io::Result<usize>> {
            Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()))
        }
        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[tokio::test]
    async fn a_peers_last_message_is_read_after_a_failed_write() {
        let mut cx = Context::from_waker(Waker::noop());
        let mut link = link(HalfDead(b"\x81\x02hi\x88\x05\x0f\xa0why"));
        link.send("too late".to_owned().into(), None);
        let Poll::Ready(LinkEvent::Frames(frames, _)) = link.poll(&mut cx) else {
            panic!("the frame is lost")
        };
        assert_eq!(frames, ["hi"]);
        let Poll::Ready(LinkEvent::Lost(LinkError::Closed { code, reason })) = link.poll(&mut cx)
        else {
            panic!("the reason is lost")
        };
        assert_eq!((code, reason.as_str()), (Some(4000), "why"));
    }

    #[tokio::test]
    async fn a_task_out_of_budget_does_not_mistake_a_link_for_idle() {
        let (near, mut far) = tokio::io::duplex(1024);
        let mut link = link(near);
        far.write_all(b"\x81\x02hi").await.expect("room");
        link.broken = Some(LinkError::Dropped {
            detail: "nothing can be written".to_owned(),
        });
        let first = std::future::poll_fn(|cx| {
            for _ in 0..1_000 {
                let _ = std::pin::pin!(tokio::task::coop::consume_budget()).poll(cx);
            }
            assert!(!has_budget_remaining());
            Poll::Ready(link.poll(cx))
        });
        let first = first.await;
        assert!(first.is_pending(), "{first:?}");
        tokio::task::yield_now().await;
        let mut cx = Context::from_waker(Waker::noop());
        let Poll::Ready(LinkEvent::Frames(frames, _)) = link.poll(&mut cx) else {
            panic!("the frame is lost")
        };
        assert_eq!(frames, ["hi"]);
    }
}
