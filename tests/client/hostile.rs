//! Hundreds of peers that send random frames: every call settles, and no actor panics.

use std::time::Duration;

use actix_sandbox::{Error, ErrorKind, Language, Sandbox};
use futures::StreamExt;
use serde_json::json;

use crate::support::scripted::{
    Heard, ID, Peer, Scripted, TOKEN, assert_no_secret, frame, header, shown, within,
};

/// A SplitMix64 generator: the same seed gives the same peer.
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.roll() % bound as u64) as usize
    }

    fn pick<'a, T: ?Sized>(&mut self, from: &[&'a T]) -> &'a T {
        from[self.below(from.len())]
    }

    fn bytes(&mut self, most: usize) -> Vec<u8> {
        let count = self.below(most + 1);
        (0..count).map(|_| self.roll() as u8).collect()
    }

    /// Returns a message, which is usually valid.
    fn message(&mut self) -> String {
        let status = self.pick(&[
            "SANDBOX_CREATING",
            "SANDBOX_RUNNING",
            "SANDBOX_RUNNING",
            "SANDBOX_CREATION_ERROR",
            "SANDBOX_NOT_FOUND",
            "SANDBOX_IN_USE",
            "SANDBOX_RESTORING",
            "SANDBOX_EXECUTION_RUNNING",
            "SANDBOX_EXECUTION_RUNNING",
            "SANDBOX_EXECUTION_DONE",
            "SANDBOX_EXECUTION_ERROR",
            "SANDBOX_EXECUTION_UNSUPPORTED_LANGUAGE_ERROR",
            "SANDBOX_EXECUTION_FORCE_KILLED",
            "SANDBOX_EXECUTION_FORCE_KILL_ERROR",
            "SANDBOX_EXECUTION_IN_PROGRESS_ERROR",
            "SANDBOX_STDIN_ERROR",
            "SANDBOX_CHECKPOINTING",
            "SANDBOX_CHECKPOINTED",
            "SANDBOX_CHECKPOINT_ERROR",
            "SANDBOX_FILESYSTEM_SNAPSHOT_CREATED",
            "SANDBOX_FILESYSTEM_SNAPSHOT_ERROR",
            "SANDBOX_KILLING",
            "SANDBOX_KILLED",
            "SANDBOX_KILL_ERROR",
            "SANDBOX_DELETING",
            "SANDBOX_DELETED",
            "SANDBOX_LOCK_RELEASE_REQUESTED",
            "SANDBOX_LOCK_RENEWAL_ERROR",
            "SANDBOX_ERROR",
            "HUH",
        ]);
        match self.below(8) {
            0 | 1 => json!({"event": "status_update", "status": status}),
            2 => json!({"event": "status_update", "status": status, "message": "why"}),
            3 => json!({"event": "sandbox_id", "sandbox_id": ID, "sandbox_token": TOKEN}),
            4 => json!({"event": self.pick(&["stdout", "stderr"]), "data": "x".repeat(self.below(3_000))}),
            5 => json!({"event": "error", "message": "because"}),
            6 => json!({"event": "weather", "x": [1, null]}),
            _ => json!({"event": self.below(3), "status": [status]}),
        }
        .to_string()
    }

    /// Returns the bytes of up to 11 frames: valid, truncated, corrupted or random.
    fn stream(&mut self) -> Vec<u8> {
        let mut stream = Vec::new();
        for _ in 0..self.below(12) {
            let mut piece = match self.below(12) {
                0 => self.bytes(40),
                1 => header(self.roll() as u8, self.roll() >> self.below(64)),
                2 => frame(self.roll() as u8, &self.bytes(300)),
                3 => frame(
                    self.pick(&[&0x89, &0x8A, &0x01, &0x00, &0x80]).to_owned(),
                    &self.bytes(125),
                ),
                4 => frame(0x81, &self.bytes(100)),
                _ => frame(0x81, self.message().as_bytes()),
            };
            if self.below(6) == 0 && !piece.is_empty() {
                let at = self.below(piece.len());
                match self.below(3) {
                    0 => piece[at] ^= 1 << self.below(8),
                    1 => piece.truncate(at),
                    _ => piece.insert(at, self.roll() as u8),
                }
            }
            stream.extend(piece);
        }
        stream
    }
}

/// Plays the server. Returns when the client is gone.
async fn play(dice: &mut Dice, server: &Scripted) {
    let mut peer: Peer = server.peer().await;
    if peer.heard().await == Heard::End {
        return;
    }
    if dice.below(4) > 0 {
        let prologue = [
            json!({"event": "sandbox_id", "sandbox_id": ID, "sandbox_token": TOKEN}).to_string(),
            json!({"event": "status_update", "status": "SANDBOX_RUNNING"}).to_string(),
        ];
        for message in prologue {
            peer.try_raw(&frame(0x81, message.as_bytes())).await;
        }
    }
    for _ in 0..4 {
        if !peer.try_raw(&dice.stream()).await {
            return;
        }
        if dice.below(3) > 0 {
            let running = json!({"event": "status_update", "status": "SANDBOX_EXECUTION_RUNNING"});
            if matches!(peer.heard().await, Heard::Close(_) | Heard::End) {
                return;
            }
            peer.try_raw(&frame(0x81, running.to_string().as_bytes()))
                .await;
        }
    }
    match dice.below(4) {
        0 => {}
        1 => {
            peer.close(1000 + dice.below(4_000) as u16, "bye").await;
        }
        _ => {
            peer.rest().await;
        }
    }
}

/// Plays the client: makes every call of the API, some of them concurrently.
async fn call(server: &Scripted) -> Result<(), Error> {
    let short = Duration::from_millis(150);
    let sandbox = Sandbox::create(server.url())
        .create_timeout(short)
        .exec_timeout(short)
        .kill_timeout(short)
        .store_timeout(short)
        .keepalive(short, short)
        .await?;
    let process = sandbox.exec(Language::Bash, "x").await?;
    let (mut stdout, stderr) = (process.stdout(), process.stderr());
    let (first, _errors, written, killed) = futures::join!(
        stdout.next(),
        stderr.read_all(),
        process.write_to_stdin("y"),
        process.kill()
    );
    let (ended, second, snapshot) = futures::join!(
        process.wait(),
        sandbox.exec(Language::Python, "z"),
        sandbox.snapshot_filesystem("s")
    );
    let sandbox_killed = sandbox.kill().await;
    let _ = sandbox.state();
    if let Some(first) = first {
        first?;
    }
    for result in [written, killed, snapshot, sandbox_killed] {
        result?;
    }
    ended?;
    second.map(drop)
}

/// A failure names its seed, which reproduces the peer.
#[actix::test]
async fn whatever_a_peer_sends_every_call_settles() {
    let mut kinds = std::collections::HashMap::new();
    for seeds in (0..400_u64).collect::<Vec<_>>().chunks(20) {
        let games = seeds.iter().map(|&seed| async move {
            let server = Scripted::bind().await;
            let mut dice = Dice(seed);
            let what = format!("the end of the game with seed {seed}");
            let (result, ()) = within(
                &what,
                futures::future::join(call(&server), play(&mut dice, &server)),
            )
            .await;
            (seed, result)
        });
        for (seed, result) in futures::future::join_all(games).await {
            let kind = result.as_ref().map_err(Error::kind).err();
            *kinds.entry(kind).or_insert(0) += 1;
            if let Err(error) = result {
                assert_ne!(error.kind(), ErrorKind::ActorGone, "seed {seed}: {error}");
                assert_no_secret(&shown(&error));
                assert!(
                    error.to_string().chars().count() < 700,
                    "seed {seed}: {error}"
                );
            }
        }
    }
    // The test covers something only if the sessions end in many ways.
    assert!(kinds.len() >= 6, "{kinds:?}");
    println!("{kinds:?}");
}
