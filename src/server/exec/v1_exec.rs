//! [`V1Exec`]: the exec without a name, of protocol v1.
//!
//! Its events go through a channel that is bounded, and read by the sandbox only while there is room for output. So a full one
//! stops the reading of the pipes, and so the process. The way back, [`Control`], is never blocked by that.

use std::{sync::Arc, time::Duration};

use tokio::sync::mpsc;

use super::{
    execution::{Control, ExecEvent, Limits, Outlet},
    output_pump::{Drains, Taker},
    stdin_queue::StdinQueue,
};
use crate::{
    protocol::{StdStream, Utf8Decoder},
    server::backend::{
        api::{BackendSandbox, Input},
        job::Job,
    },
};

/// Pieces of output on their way to the sandbox; each is at most 64 KiB.
const EVENTS_IN_FLIGHT: usize = 2;

/// How long the output of an exec of v1 is read after the end of its main process, while other
/// processes hold it.
pub(crate) const V1_GRACE: Duration = Duration::from_secs(30);

/// The sandbox's handle of the exec without a name. When it is dropped the exec is killed.
pub(crate) struct V1Exec {
    pub(crate) events: mpsc::Receiver<ExecEvent>,
    pub(crate) stdin: Arc<StdinQueue>,
    pub(crate) control: Control,
}

impl V1Exec {
    /// Starts a job in a sandbox.
    pub(crate) fn start(
        sandbox: Arc<dyn BackendSandbox>,
        job: Job,
        run_time: Duration,
        stdin: Arc<StdinQueue>,
        drains: Drains,
    ) -> Self {
        let limits = Limits {
            run_time,
            output_grace: V1_GRACE.min(run_time),
        };
        let (sender, events) = mpsc::channel(EVENTS_IN_FLIGHT);
        let channel = Channel {
            events: sender,
            stdin: stdin.clone(),
        };
        Self {
            events,
            stdin,
            control: Control::start(sandbox, job, limits, channel, drains),
        }
    }

    /// Kills the exec and waits for its end; output that was not told yet is dropped.
    pub(crate) async fn abandon(mut self) {
        self.control.kill();
        drop(self.events);
        self.control.ended().await;
    }
}

/// The outlet of the exec without a name.
struct Channel {
    events: mpsc::Sender<ExecEvent>,
    stdin: Arc<StdinQueue>,
}

impl Outlet for Channel {
    fn taker(&self, stream: StdStream) -> impl Taker {
        TextTaker::new(stream, self.events.clone(), ExecEvent::Output)
    }

    async fn tell(&self, event: ExecEvent) {
        let _ = self.events.send(event).await;
    }

    async fn feed(&self, pipe: Input) {
        self.stdin.feed(pipe).await;
    }

    /// The sandbox makes room for it.
    fn exited(&self) {}

    fn dying(&self) {}

    fn close_stdin(&self) {
        self.stdin.close();
    }
}

/// Hands output on as text, which may be cut anywhere but inside a code point.
pub(crate) struct TextTaker<T> {
    stream: StdStream,
    decoder: Utf8Decoder,
    pieces: mpsc::Sender<T>,
    wrap: fn(StdStream, String) -> T,
}

impl<T> TextTaker<T> {
    pub(crate) fn new(
        stream: StdStream,
        pieces: mpsc::Sender<T>,
        wrap: fn(StdStream, String) -> T,
    ) -> Self {
        Self {
            stream,
            decoder: Utf8Decoder::default(),
            pieces,
            wrap,
        }
    }
}

impl<T: Send + 'static> Taker for TextTaker<T> {
    async fn take(&mut self, bytes: &[u8], last: bool) -> bool {
        let mut text = self.decoder.decode(bytes);
        if last {
            text.push_str(&self.decoder.finish());
        }
        if text.is_empty() {
            return true;
        }
        let piece = (self.wrap)(self.stream, text);
        self.pieces.send(piece).await.is_ok()
    }
}
