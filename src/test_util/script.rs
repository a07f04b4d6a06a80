//! [`Script`]: a recording being replayed, line by line.

use std::{
    collections::HashMap,
    future::{Future, poll_fn},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use futures::FutureExt;
use serde_json::Value;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::oneshot,
    time::{sleep, timeout},
};

use super::{
    Deviation, Event, Line, PlayerBuilder, Recording, Side,
    deviation::quoted,
    execs::{Execs, Wrong},
    peer::{Heard, Peer, Stage},
    upgrade::Dial,
};
use crate::{
    protocol::names::{
        EVENT_STDIN, KEY_DATA, KEY_EVENT, KEY_EXEC, KEY_SANDBOX_TOKEN, SUBPROTOCOL_V2,
    },
    transport::RECORDED_TOKEN,
};

/// Maximum number of frames, and of bytes of input, that may arrive before the line that expects
/// them.
const MAX_AHEAD: usize = 100_000;
const MAX_INPUT_AHEAD: usize = 64 * 1024 * 1024;

/// The expectation after the last line of a connection or of the recording.
const NOTHING_MORE: &str = "nothing more from the client";

pub(super) struct Script {
    recording: Arc<Recording>,
    options: PlayerBuilder,
    listener: TcpListener,
    /// Dials that arrived before the line that expects them.
    early: Vec<Dial>,
    /// Dials that a later line refuses, by connection.
    refused: HashMap<String, Dial>,
    peers: Vec<Peer>,
    execs: Execs,
    /// Frames that a v1 client sent while its connection was being cut. They count for the next
    /// connection.
    carried: Vec<Value>,
    carried_input: String,
}

impl Script {
    pub(super) fn new(options: PlayerBuilder, listener: TcpListener) -> Self {
        Self {
            execs: Execs::new(&options.recording),
            recording: Arc::new(options.recording.clone()),
            options,
            listener,
            early: Vec::new(),
            refused: HashMap::new(),
            peers: Vec::new(),
            carried: Vec::new(),
            carried_input: String::new(),
        }
    }

    /// Plays all lines, then checks that the client sends nothing more until the program is done.
    pub(super) async fn run(mut self, finish: oneshot::Receiver<()>) -> Result<(), Deviation> {
        let recording = self.recording.clone();
        let mut before = None;
        for (index, line) in recording.lines().iter().enumerate() {
            let is_servers = !matches!(line.event, Event::Connect { .. } | Event::Send(_));
            if self.options.keep_time && is_servers {
                let pause = line.at.saturating_sub(before.unwrap_or(line.at));
                self.rest(pause, line).await?;
            }
            before = Some(line.at);
            self.play(index, line).await?;
        }
        self.finish(finish).await
    }

    async fn play(&mut self, index: usize, line: &Line) -> Result<(), Deviation> {
        match &line.event {
            Event::Connect { path, protocol } => {
                self.connect(index, line, path, protocol.as_deref()).await
            }
            Event::Refused(status) => {
                if let Some(dial) = self.refused.remove(&line.conn) {
                    dial.refuse(*status).await;
                }
                Ok(())
            }
            Event::Send(frame) => self.expect(index, line, frame).await,
            Event::Recv(frame) => self.say(index, line, frame).await,
            Event::Close(1006, Side::Server) | Event::Cut(Side::Server) => {
                let peer = self.peer(line)?;
                self.peers[peer].cut().await;
                self.carry(peer);
                Ok(())
            }
            Event::Close(code, Side::Server) => {
                let peer = self.peer(line)?;
                self.look(line)?;
                self.says_nothing_more(peer, Some(line))?;
                let closing = self.peers[peer].close(*code);
                // A client that doesn't read notices the end of the connection.
                let _ = timeout(self.options.patience, closing).await;
                Ok(())
            }
            Event::Close(_, Side::Client) | Event::Cut(Side::Client) => {
                let peer = self.peer(line)?;
                while !self.peers[peer].is_gone {
                    self.hear(line, "the client to end the connection").await?;
                }
                self.peers[peer].stage = Stage::Ending;
                match line.event {
                    Event::Close(..) => self.says_nothing_more(peer, Some(line)),
                    _ => {
                        self.carry(peer);
                        Ok(())
                    }
                }
            }
            Event::Quiet => Ok(()),
        }
    }

    async fn connect(
        &mut self,
        index: usize,
        line: &Line,
        path: &str,
        protocol: Option<&str>,
    ) -> Result<(), Deviation> {
        let dial = loop {
            let fits = |dial: &Dial| is_path(path, &dial.path);
            if let Some(at) = self.early.iter().position(fits) {
                break self.early.remove(at);
            }
            let expected = format!("a dial to {}", quoted(path));
            let Some(dial) = self.accept(line, &expected).await? else {
                continue;
            };
            let later = &self.recording.lines()[index..];
            let is_meant = later.iter().any(|line| {
                matches!(&line.event, Event::Connect { path, .. } if is_path(path, &dial.path))
            });
            if !is_meant {
                let found = format!("the client dialled {}", quoted(without_token(&dial.path)));
                return Err(self.deviation(Some(line), expected, found));
            }
            self.early.push(dial);
        };
        let later = &self.recording.lines()[index..];
        let is_refused = later
            .iter()
            .any(|later| later.conn == line.conn && matches!(later.event, Event::Refused(_)));
        if is_refused {
            self.refused.insert(line.conn.clone(), dial);
            return Ok(());
        }
        if let Some(protocol) = protocol.filter(|protocol| !dial.offers(protocol)) {
            let expected = format!("a client that offers the subprotocol `{protocol}`");
            return Err(self.deviation(Some(line), expected, "this one does not"));
        }
        match dial.accept(protocol).await {
            Ok(framed) => {
                let is_v2 = protocol == Some(SUBPROTOCOL_V2);
                let mut peer = Peer::new(line.conn.clone(), is_v2, framed);
                if !is_v2 {
                    peer.input = std::mem::take(&mut self.carried_input);
                }
                self.peers.push(peer);
                Ok(())
            }
            Err(error) => {
                let found = format!("the answer could not be sent: {error}");
                Err(self.deviation(Some(line), "a client that waits for the upgrade", found))
            }
        }
    }

    /// Accepts the next dial. `None` if the client sent no upgrade request, or left.
    async fn accept(&mut self, line: &Line, expected: &str) -> Result<Option<Dial>, Deviation> {
        let patience = self.options.patience;
        let accepted = poll_fn(|cx| {
            if let Poll::Ready(accepted) = self.listener.poll_accept(cx) {
                return Poll::Ready(Ok(accepted));
            }
            // Meanwhile, answer the connected clients.
            match self.poll_heard(cx) {
                Poll::Ready(Err(wrong)) => Poll::Ready(Err(wrong)),
                Poll::Ready(Ok(())) => {
                    cx.waker().wake_by_ref();
                    Poll::Pending
                }
                Poll::Pending => Poll::Pending,
            }
        });
        let stream = match timeout(patience, accepted).await {
            Ok(Ok(Ok((stream, _)))) => stream,
            Ok(Ok(Err(error))) => {
                let found = format!("the player cannot accept a connection: {error}");
                return Err(self.deviation(Some(line), expected, found));
            }
            Ok(Err(wrong)) => return Err(self.wrong(Some(line), wrong)),
            Err(_) => {
                let found = format!("the client did not dial for {patience:?}");
                return Err(self.deviation(Some(line), expected, found));
            }
        };
        Ok(read(stream, patience).await)
    }

    /// Waits until the client has sent this frame.
    async fn expect(&mut self, index: usize, line: &Line, frame: &str) -> Result<(), Deviation> {
        let peer = self.peer(line)?;
        let recorded = value(frame);
        let expected = format!("the client to send {}", quoted(frame));
        loop {
            if self.is_said(index, peer, &recorded, frame)? {
                return Ok(());
            }
            if self.peers[peer].is_gone {
                let found = "it ended the connection";
                return Err(self.deviation(Some(line), expected, found));
            }
            self.hear(line, &expected).await?;
        }
    }

    /// Whether the client has sent this frame. If so, removes it from the received frames.
    fn is_said(
        &mut self,
        index: usize,
        peer: usize,
        recorded: &Value,
        frame: &str,
    ) -> Result<bool, Deviation> {
        let recording = self.recording.clone();
        let line = &recording.lines()[index];
        let Self { peers, execs, .. } = self;
        let peer = &mut peers[peer];
        if peer.is_v2
            && let Some(is_heard) = execs.is_heard(frame)
        {
            return Ok(is_heard);
        }
        if let Some(input) = input_of(recorded) {
            if peer.input.starts_with(input) {
                peer.input.drain(..input.len());
                return Ok(true);
            }
            if input.starts_with(&*peer.input) {
                return Ok(false);
            }
            let expected = format!("as input {}", quoted(input));
            let found = format!("the client sent {}", quoted(&peer.input));
            return Err(self.deviation(Some(line), expected, found));
        }
        let mut strange = None;
        for at in 0..peer.said.len() {
            let heard = &peer.said[at];
            if execs.is_like(recorded, heard) {
                execs.bind(recorded, heard);
                peer.said.remove(at);
                return Ok(true);
            }
            let is_due_later = || {
                let later = recording.lines()[index + 1..].iter();
                later.filter(|later| later.conn == line.conn).any(|later| {
                    matches!(&later.event, Event::Send(frame) if execs.is_like(&value(frame), heard))
                })
            };
            if execs.are_ordered(recorded, heard) || !is_due_later() {
                strange = Some(heard.to_string());
                break;
            }
        }
        // A v1 client may have sent it while its previous connection was being cut.
        if let Some(at) = self.carried.iter().position(|heard| heard == recorded) {
            self.carried.remove(at);
            return Ok(true);
        }
        match strange {
            None => Ok(false),
            Some(heard) => {
                let expected = format!("the client to send {}", quoted(frame));
                let found = format!("it sent {}", quoted(heard));
                Err(self.deviation(Some(line), expected, found))
            }
        }
    }

    /// Sends this frame to the client.
    async fn say(&mut self, index: usize, line: &Line, frame: &str) -> Result<(), Deviation> {
        let peer = self.peer(line)?;
        let parts = match self.peers[peer].is_v2 {
            true => self.execs.parts(frame),
            false => vec![(frame.to_owned(), None)],
        };
        for (text, part) in parts {
            if let Some(part) = part {
                while !self.peers[peer].is_gone && !self.execs.try_send(&part) {
                    self.hear(line, "the client to acknowledge output").await?;
                }
            }
            self.look(line)?;
            let sending = self.peers[peer].send(text);
            let patience = self.options.patience;
            let Ok(sent) = timeout(patience, sending).await else {
                let found = format!("it read nothing for {patience:?}");
                let expected = format!("the client to receive {}", quoted(frame));
                return Err(self.deviation(Some(line), expected, found));
            };
            if sent.is_err() || self.peers[peer].is_gone {
                self.peers[peer].is_gone = true;
                if self.may_leave(index, &line.conn) {
                    return Ok(());
                }
                let expected = format!("the client to receive {}", quoted(frame));
                let found = "it had ended the connection";
                return Err(self.deviation(Some(line), expected, found));
            }
        }
        Ok(())
    }

    /// Whether the client may end this connection now: the recording has no later frame of it, and
    /// the client ended it.
    fn may_leave(&self, index: usize, conn: &str) -> bool {
        let later = self.recording.lines()[index..].iter();
        let mut later = later.filter(|line| line.conn == conn);
        later.all(|line| !matches!(line.event, Event::Send(_)))
            && self.recording.lines().iter().any(|line| {
                let is_end = matches!(
                    line.event,
                    Event::Close(_, Side::Client) | Event::Cut(Side::Client)
                );
                line.conn == conn && is_end
            })
    }

    /// Waits until a client sends something or leaves.
    async fn hear(&mut self, line: &Line, expected: &str) -> Result<(), Deviation> {
        let patience = self.options.patience;
        match timeout(patience, poll_fn(|cx| self.poll_heard(cx))).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(wrong)) => Err(self.wrong(Some(line), wrong)),
            Err(_) => {
                let found = format!("nothing came for {patience:?}");
                Err(self.deviation(Some(line), expected, found))
            }
        }
    }

    /// Reads what has arrived, without waiting.
    fn look(&mut self, line: &Line) -> Result<(), Deviation> {
        match poll_fn(|cx| self.poll_heard(cx)).now_or_never() {
            Some(Err(wrong)) => Err(self.wrong(Some(line), wrong)),
            _ => Ok(()),
        }
    }

    /// Waits for `pause`, and answers clients meanwhile.
    async fn rest(&mut self, pause: std::time::Duration, line: &Line) -> Result<(), Deviation> {
        let mut pause = Box::pin(sleep(pause));
        let wrong = poll_fn(|cx| {
            if let Poll::Ready(Err(wrong)) = self.poll_heard(cx) {
                return Poll::Ready(Some(wrong));
            }
            pause.as_mut().poll(cx).map(|()| None)
        });
        match wrong.await {
            Some(wrong) => Err(self.wrong(Some(line), wrong)),
            None => Ok(()),
        }
    }

    /// Reads from all peers. Ready if something arrived.
    fn poll_heard(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Wrong>> {
        let mut any = false;
        for at in 0..self.peers.len() {
            while !self.peers[at].is_gone {
                let Poll::Ready(heard) = self.peers[at].poll_heard(cx) else {
                    break;
                };
                any = true;
                if let Heard::Text(text) = heard {
                    self.take(at, &text)?;
                }
            }
        }
        match any {
            true => Poll::Ready(Ok(())),
            false => Poll::Pending,
        }
    }

    /// Takes a frame of a client: counts it, or keeps it until a line expects it.
    fn take(&mut self, at: usize, text: &str) -> Result<(), Wrong> {
        let peer = &mut self.peers[at];
        if peer.is_v2 && self.execs.hear(text)? {
            return Ok(());
        }
        let frame = value(text);
        if let Some(input) = input_of(&frame) {
            peer.input.push_str(input);
        } else {
            peer.said.push_back(frame);
        }
        if peer.said.len() > MAX_AHEAD || peer.input.len() > MAX_INPUT_AHEAD {
            let found = "the client sent too much that no line expects";
            return Err(Wrong(NOTHING_MORE.to_owned(), found.to_owned()));
        }
        if peer.stage == Stage::Cut {
            self.carry(at);
        }
        Ok(())
    }

    /// The connection is cut. A v2 client repeats what matters. Frames of a v1 client count for the
    /// next connection.
    fn carry(&mut self, at: usize) {
        let peer = &mut self.peers[at];
        let (said, input) = (
            std::mem::take(&mut peer.said),
            std::mem::take(&mut peer.input),
        );
        if !peer.is_v2 && self.carried.len() + said.len() <= MAX_AHEAD {
            self.carried.extend(said);
            self.carried_input += &input;
        }
    }

    fn says_nothing_more(&self, at: usize, line: Option<&Line>) -> Result<(), Deviation> {
        let peer = &self.peers[at];
        let found = match (peer.said.front(), peer.input.as_str()) {
            (None, "") => return Ok(()),
            (Some(frame), _) => format!("it sent {}", quoted(frame)),
            (None, input) => format!("it sent the input {}", quoted(input)),
        };
        Err(self.deviation(line, NOTHING_MORE, found))
    }

    /// All lines are played. Checks that the client sends and dials nothing more until the program
    /// is done.
    async fn finish(mut self, finish: oneshot::Receiver<()>) -> Result<(), Deviation> {
        let mut finish = finish.fuse();
        let mut is_done = false;
        let mut patience: Option<Pin<Box<tokio::time::Sleep>>> = None;
        loop {
            let next = poll_fn(|cx| {
                if let Poll::Ready(Ok((stream, _))) = self.listener.poll_accept(cx) {
                    return Poll::Ready(Ok(Some(stream)));
                }
                if let Poll::Ready(heard) = self.poll_heard(cx) {
                    return Poll::Ready(heard.map(|()| None));
                }
                if !is_done && finish.poll_unpin(cx).is_ready() {
                    is_done = true;
                    return Poll::Ready(Ok(None));
                }
                match &mut patience {
                    Some(patience) => patience.as_mut().poll(cx).map(|()| Ok(None)),
                    None => Poll::Pending,
                }
            });
            match next.await {
                Ok(None) => {}
                Ok(Some(stream)) => {
                    if let Some(dial) = read(stream, self.options.patience).await {
                        self.early.push(dial);
                    }
                }
                Err(wrong) => return Err(self.wrong(None, wrong)),
            }
            for at in 0..self.peers.len() {
                self.says_nothing_more(at, None)?;
            }
            if let Some(dial) = self.early.first() {
                let found = format!("the client dialled {}", quoted(without_token(&dial.path)));
                return Err(self.deviation(None, "no more dials", found));
            }
            if is_done {
                // If the end was recorded, wait for it, to see everything before it.
                let patience =
                    patience.get_or_insert_with(|| Box::pin(sleep(self.options.patience)));
                let mut ending = self.peers.iter().filter(|peer| peer.stage != Stage::Open);
                if patience.is_elapsed() || ending.all(|peer| peer.is_gone) {
                    return Ok(());
                }
            }
        }
    }

    fn peer(&self, line: &Line) -> Result<usize, Deviation> {
        let peer = self.peers.iter().position(|peer| peer.conn == line.conn);
        peer.ok_or_else(|| {
            let found = "no earlier line has this connection";
            self.deviation(Some(line), "a connection that was dialled", found)
        })
    }

    fn wrong(&self, line: Option<&Line>, wrong: Wrong) -> Deviation {
        self.deviation(line, wrong.0, wrong.1)
    }

    fn deviation(
        &self,
        line: Option<&Line>,
        expected: impl Into<String>,
        found: impl Into<String>,
    ) -> Deviation {
        Deviation::new(self.recording.name(), line, expected, found)
    }
}

/// Reads the upgrade request of a client. `None` if no valid one arrives in time.
async fn read(stream: TcpStream, patience: std::time::Duration) -> Option<Dial> {
    timeout(patience, Dial::read(stream)).await.ok()?.ok()
}

/// Parses a frame as JSON. Text that isn't JSON becomes a JSON string.
fn value(frame: &str) -> Value {
    serde_json::from_str(frame).unwrap_or_else(|_| frame.into())
}

/// Returns the input of a v1 stdin message.
fn input_of(frame: &Value) -> Option<&str> {
    let is_input = frame.get(KEY_EVENT)? == EVENT_STDIN && frame.get(KEY_EXEC).is_none();
    is_input.then(|| frame.get(KEY_DATA)?.as_str())?
}

/// Whether a path is the recorded one. A redacted token matches any token.
fn is_path(recorded: &str, path: &str) -> bool {
    match recorded.strip_suffix(RECORDED_TOKEN) {
        Some(before) if before.ends_with('=') => path.starts_with(before),
        _ => recorded == path,
    }
}

fn without_token(path: &str) -> &str {
    match path.split_once(KEY_SANDBOX_TOKEN) {
        Some((before, _)) => before.trim_end_matches('?'),
        None => path,
    }
}
