//! Round trips, output and creation, each compared with the same exchange by the bare loop.

use std::{cell::RefCell, time::Duration};

use actix_sandbox::{ProtocolVersion, Sandbox};
use futures::{StreamExt, stream};
use tokio::{
    runtime::Runtime,
    sync::{mpsc, oneshot},
    time::Instant,
};

use super::{
    Scale,
    clients::{Bare, BareLink, Client, Ours},
    server::Server,
    table::{Pairs, Row, Target, interleave, short},
};

/// A line for stdin.
const INPUT: &str = "0123456789012345678901234567890123456789012345678901234567890123";

/// A server and both of its clients.
struct Stage {
    server: Server,
    ours: Ours,
    bare: Bare,
}

impl Stage {
    fn new(version: ProtocolVersion) -> Self {
        let server = Server::start();
        let url = server.url().to_owned();
        Self {
            bare: Bare::new(&url, version),
            ours: Ours { url, version },
            server,
        }
    }

    async fn links(&self) -> (RefCell<Sandbox>, RefCell<BareLink>) {
        let (ours, bare) = (self.ours.open().await, self.bare.open().await);
        (RefCell::new(ours), RefCell::new(bare))
    }
}

/// Execs in sequence. The caller and the actors share a System.
pub(crate) fn exec(scale: Scale, version: ProtocolVersion) -> Row {
    actix::System::new().block_on(async {
        let stage = Stage::new(version);
        let (mut sandbox, mut link) = (stage.ours.open().await, stage.bare.open().await);
        let count = scale.of(1_000);
        let times = interleave(
            scale.samples(),
            async || {
                for _ in 0..count {
                    stage.ours.exec(&mut sandbox).await;
                }
            },
            async || {
                for _ in 0..count {
                    stage.bare.exec(&mut link).await;
                }
            },
        )
        .await;
        let what = format!("exec round trips, caller in the same System ({version})");
        Pairs::new(&times, count as f64).row(&what, "/s", 0.9)
    })
}

/// Execs in sequence. The caller is a task of a multi-threaded tokio runtime, the actors run on the
/// crate's threads. A second row shows the cost of two threads alone: it sends requests through a
/// channel to a bare loop on another thread.
pub(crate) fn exec_from_tokio(scale: Scale, version: ProtocolVersion) -> Vec<Row> {
    let system = actix::System::new();
    let runtime = Runtime::new().expect("a runtime");
    let count = scale.of(1_000);
    let stage = system.block_on(async { Stage::new(version) });
    let mut link = system.block_on(stage.bare.open());
    let url = stage.ours.url.clone();
    let ours = move || Ours {
        url: url.clone(),
        version,
    };
    let client = ours();
    let sandbox = runtime.block_on(runtime.spawn(async move { client.open().await }));
    let sandbox = sandbox.expect("a sandbox");

    let asked = asked(stage.ours.url.clone(), version);
    let (mut times, mut floor) = (Vec::new(), Vec::new());
    for _ in 0..scale.samples() {
        let (client, mut sandbox) = (ours(), sandbox.clone());
        let sample = runtime.block_on(runtime.spawn(async move {
            let begin = Instant::now();
            for _ in 0..count {
                client.exec(&mut sandbox).await;
            }
            begin.elapsed()
        }));
        let begin = Instant::now();
        system.block_on(async {
            for _ in 0..count {
                stage.bare.exec(&mut link).await;
            }
        });
        let bare = begin.elapsed();
        let asked = asked.clone();
        let through_channels = runtime.block_on(runtime.spawn(async move {
            let begin = Instant::now();
            for _ in 0..count {
                let (answer, answered) = oneshot::channel();
                asked.send(answer).await.expect("a thread that listens");
                answered.await.expect("an answer");
            }
            begin.elapsed()
        }));
        times.push((sample.expect("a sample"), bare));
        floor.push((through_channels.expect("a sample"), bare));
    }
    let what = format!("exec round trips, caller on a tokio multi-thread runtime ({version})");
    let row = |times, what, target| Pairs::new(times, count as f64).rated(what, "/s", target);
    vec![
        row(&times, &what, Target::AtLeast(0.7)),
        row(
            &floor,
            "for comparison: the bare loop, each request sent through a channel",
            Target::None,
        ),
    ]
}

/// Starts a bare loop on its own thread. It runs an exec for each request, then answers. It ends
/// when the sender is dropped.
fn asked(url: String, version: ProtocolVersion) -> mpsc::Sender<oneshot::Sender<()>> {
    let (ask, mut asked) = mpsc::channel::<oneshot::Sender<()>>(1);
    std::thread::spawn(move || {
        actix::System::new().block_on(async {
            let bare = Bare::new(&url, version);
            let mut link = bare.open().await;
            while let Some(answer) = asked.recv().await {
                bare.exec(&mut link).await;
                // The caller may have stopped waiting.
                let _ = answer.send(());
            }
        });
    });
    ask
}

/// Lines that are written to stdin and echoed, in sequence.
pub(crate) fn stdin(scale: Scale) -> Row {
    actix::System::new().block_on(async {
        let stage = Stage::new(ProtocolVersion::V2);
        let (sandbox, mut link) = (stage.ours.open().await, stage.bare.open().await);
        let mut cat = stage.ours.cat(&sandbox).await;
        let mut bare_cat = link.cat().await;
        let count = scale.of(1_500);
        let times = interleave(
            scale.samples(),
            async || {
                for _ in 0..count {
                    stage.ours.echo(&mut cat, INPUT).await;
                }
            },
            async || {
                for _ in 0..count {
                    link.echo(&mut bare_cat, INPUT).await;
                }
            },
        )
        .await;
        Pairs::new(&times, count as f64).row("stdin round trips", "/s", 0.9)
    })
}

/// The output of one process, in messages of `size` bytes.
pub(crate) fn output(
    scale: Scale,
    version: ProtocolVersion,
    size: usize,
    count: usize,
) -> Vec<Row> {
    actix::System::new().block_on(async {
        let stage = Stage::new(version);
        let (sandbox, link) = stage.links().await;
        let count = scale.of(count);
        let times = interleave(
            scale.samples(),
            async || stage.ours.print(&sandbox.borrow(), count, size).await,
            async || link.borrow_mut().print(count, size).await,
        )
        .await;
        let what = format!("output in messages of {} ({version})", bytes(size));
        if size < 1024 {
            let pairs = Pairs::new(&times, count as f64);
            let rate = format!("{} /s", short(pairs.ours));
            let floor = Row::new("the same, by its rate alone", rate, "");
            let floor = floor.target(pairs.ours, Target::AtLeast(2e6));
            vec![pairs.row(&what, "/s", 0.6), floor]
        } else {
            let megabytes = (count * size) as f64 / 1e6;
            vec![Pairs::new(&times, megabytes).row(&what, "MB/s", 0.6)]
        }
    })
}

fn bytes(size: usize) -> String {
    match size {
        0..1024 => format!("{size} B"),
        _ => format!("{} KiB", size / 1024),
    }
}

/// Creates sandboxes, 16 at a time, and keeps them open until all are created.
pub(crate) fn create(scale: Scale) -> Row {
    const AT_ONCE: usize = 16;
    actix::System::new().block_on(async {
        let stage = Stage::new(ProtocolVersion::V2);
        let count = scale.of(150);
        let mut times = Vec::new();
        for sample in 0..=scale.samples() {
            let ours = create_all(&stage, &stage.ours, count, AT_ONCE).await;
            let bare = create_all(&stage, &stage.bare, count, AT_ONCE).await;
            if sample > 0 {
                times.push((ours, bare));
            }
        }
        Pairs::new(&times, count as f64).row("creation, 16 at once", "/s", 0.7)
    })
}

async fn create_all<C: Client>(
    stage: &Stage,
    client: &C,
    count: usize,
    at_once: usize,
) -> Duration {
    let begin = Instant::now();
    let links: Vec<C::Link> = stream::iter(0..count)
        .map(|_| client.open())
        .buffer_unordered(at_once)
        .collect()
        .await;
    let elapsed = begin.elapsed();
    drop(links);
    // Neither sample includes the cost of closing.
    stage.server.at_most(0).await;
    elapsed
}
