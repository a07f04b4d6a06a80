//! [`Player`]: a server that plays a recording to a client.

use std::{io, net::SocketAddr, time::Duration};

use tokio::{net::TcpListener, sync::oneshot, task::JoinHandle};

use super::{Deviation, PlayerBuilder, Recording, script::Script};

/// A server that plays one recording: it answers each dial as recorded, says what the server said, and waits
/// for the client to say what was recorded before it goes on.
///
/// So your program gets the same results, and the same faults, each time, without a service; and
/// [`finish`](Self::finish) tells whether it still does what it did when it was recorded. What is compared:
///
/// - every frame of the client's, as JSON, in order; in protocol v2 frames about different processes have
///   no order between each other;
/// - input (stdin) by its bytes, not by the messages it comes in. A v1 message that crossed a cut counts for the
///   next connection;
/// - the path of each dial. A redacted token stands for every token, and a recorded exec id for the one that
///   the client has chosen. Headers are not looked at.
///
/// Acknowledgements of output (v2) depend on time and are not compared: they open the window for more output.
///
/// Time is not kept, unless [`PlayerBuilder::keep_time`] says so: what is recorded comes as soon as it may. Whatever
/// your program does by time, such as to kill after five seconds, comes later in comparison.
///
/// Dropped, it ends, and its connections with it. There is an example [above](super).
#[derive(Debug)]
#[must_use = "the player ends when this is dropped"]
pub struct Player {
    address: SocketAddr,
    finish: Option<oneshot::Sender<()>>,
    playing: JoinHandle<Result<(), Deviation>>,
    name: String,
}

impl PlayerBuilder {
    /// Listens on 127.0.0.1 at a free port. Must be awaited in a tokio runtime, which runs the player.
    ///
    /// # Errors
    ///
    /// The system gives no port.
    pub async fn start(self) -> io::Result<Player> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let (finish, finished) = oneshot::channel();
        let name = self.recording.name().to_owned();
        let script = Script::new(self, listener);
        Ok(Player {
            address,
            finish: Some(finish),
            playing: tokio::spawn(script.run(finished)),
            name,
        })
    }
}

impl Player {
    /// A player of this recording, with options.
    pub fn builder(recording: Recording) -> PlayerBuilder {
        PlayerBuilder {
            recording,
            patience: Duration::from_secs(30),
            keep_time: false,
        }
    }

    /// A player of this recording. Must be awaited in a tokio runtime, which runs the player.
    ///
    /// # Errors
    ///
    /// The system gives no port.
    pub async fn start(recording: Recording) -> io::Result<Self> {
        Self::builder(recording).start().await
    }

    /// Where your program finds it: `ws://127.0.0.1:port`.
    pub fn url(&self) -> String {
        format!("ws://{}", self.address)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Your program is done: waits until the rest is played.
    ///
    /// # Errors
    ///
    /// The first deviation: the client said, dialled or ended something else than recorded, more than that, or
    /// nothing for [so long](PlayerBuilder::patience). At that point all connections were ended.
    pub async fn finish(mut self) -> Result<(), Deviation> {
        if let Some(finish) = self.finish.take() {
            // A player that has ended before tells why below.
            let _ = finish.send(());
        }
        match (&mut self.playing).await {
            Ok(played) => played,
            Err(error) => Err(Deviation::new(
                &self.name,
                None,
                "the player to play",
                format!("its runtime ended it: {error}"),
            )),
        }
    }
}

impl Drop for Player {
    fn drop(&mut self) {
        self.playing.abort();
    }
}
