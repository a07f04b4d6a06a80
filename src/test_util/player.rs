//! [`Player`]: a server that replays a recording to a client.

use std::{io, net::SocketAddr, time::Duration};

use tokio::{net::TcpListener, sync::oneshot, task::JoinHandle};

use super::{Deviation, PlayerBuilder, Recording, script::Script};

/// A server that replays one recording. It answers each dial as recorded, sends the recorded
/// messages of the server, and waits for the recorded messages of the client.
///
/// So your program gets the same results and the same faults each time, without a service.
/// [`finish`](Self::finish) reports whether the program still behaves as recorded. The player
/// compares:
///
/// - the client's frames, as JSON, in order. Under protocol v2, frames of different processes may
///   arrive in any order.
/// - input (stdin), by its bytes and not by its messages. A v1 message that was sent during a cut
///   counts for the next connection.
/// - the path of each dial. A redacted token matches any token, and a recorded exec id matches the
///   id that the client chose. The player ignores headers.
///
/// Acknowledgements of output (v2) depend on timing. They open the window for more output, and are
/// not compared.
///
/// The player sends each message as soon as the order permits, unless [`PlayerBuilder::keep_time`]
/// is set. The playback is then faster than the recording. So an action that your program takes
/// after a fixed time, such as a kill after five seconds, happens after more messages than
/// recorded.
///
/// Dropping the player closes its connections. See the [module](super) for an example.
#[derive(Debug)]
#[must_use = "dropping the player stops it"]
pub struct Player {
    address: SocketAddr,
    finish: Option<oneshot::Sender<()>>,
    playing: JoinHandle<Result<(), Deviation>>,
    name: String,
}

impl PlayerBuilder {
    /// Starts to listen on `127.0.0.1` at a free port. Must be called in a tokio runtime, which
    /// runs the player.
    ///
    /// # Errors
    ///
    /// The port can't be bound.
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
    /// A builder for a player of this recording.
    pub fn builder(recording: Recording) -> PlayerBuilder {
        PlayerBuilder {
            recording,
            patience: Duration::from_secs(30),
            keep_time: false,
        }
    }

    /// Starts a player with default options. Must be called in a tokio runtime, which runs the
    /// player.
    ///
    /// # Errors
    ///
    /// The port can't be bound.
    pub async fn start(recording: Recording) -> io::Result<Self> {
        Self::builder(recording).start().await
    }

    /// The URL of the player: `ws://127.0.0.1:port`.
    pub fn url(&self) -> String {
        format!("ws://{}", self.address)
    }

    /// The address that the player listens on.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Call this when your program is done. Waits until the rest of the recording is played.
    ///
    /// # Errors
    ///
    /// The first deviation: the client sent, dialled or ended something that was not recorded, or
    /// did nothing for [`patience`](PlayerBuilder::patience). The player closed all connections at
    /// that point.
    pub async fn finish(mut self) -> Result<(), Deviation> {
        if let Some(finish) = self.finish.take() {
            // A player that has already ended reports why below.
            let _ = finish.send(());
        }
        match (&mut self.playing).await {
            Ok(played) => played,
            Err(error) => Err(Deviation::new(
                &self.name,
                None,
                "the player to run",
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
