//! Client machines and server machines, joined in virtual time by a link that breaks (protocol v2).
//!
//! | file | |
//! | --- | --- |
//! | `tests.rs` | the steps of a history, and how many histories to try |
//! | `tests/program.rs` | a program on the server, which prints, echoes its input and ends |
//! | `tests/server.rs` | a server around [`ServedExec`](super::ServedExec) |
//! | `tests/process.rs` | one exec at the client: [`Process`](super::Process), its output and its readers |
//! | `tests/client.rs` | a client: [`Connection`](super::Connection), [`Sandbox`](super::Sandbox) and processes |
//! | `tests/world.rs` | a client, a server, the link between them, and time |
//! | `tests/verdict.rs` | the invariants, during a history and at its end |

mod client;
mod process;
mod program;
mod server;
mod verdict;
mod world;

use proptest::prelude::*;

use crate::protocol::StdStream;
use process::Speed;
use program::Do;
use world::World;

/// A step of a history. A number selects an exec, modulo the number of execs.
#[derive(Clone, Debug)]
enum Step {
    Exec {
        script: Vec<Do>,
        window: u64,
        input: Option<Vec<u8>>,
        timeout: Option<u64>,
        grace: Option<u64>,
    },
    CancelExec(usize),
    Write(usize, Vec<u8>),
    Close(usize),
    Flush(usize),
    Wait(usize),
    Kill(usize),
    Read(usize, StdStream, Speed),
    /// The link breaks. The fields are the number of messages in flight that still arrive, in each
    /// direction, and the time until each end notices the loss.
    Cut {
        up: usize,
        down: usize,
        client: u64,
        server: u64,
    },
    /// This many next dials fail.
    DialsFail(u32),
    /// The link breaks, and the sandbox is checkpointed and restored elsewhere.
    Restore,
    /// The link breaks, and the next link leads to a server that speaks v1.
    Downgrade,
    /// Another client resumes where this one left off.
    Handover,
    Time(u64),
}

fn stream() -> impl Strategy<Value = StdStream> {
    prop_oneof![Just(StdStream::Stdout), Just(StdStream::Stderr)]
}

/// Valid and invalid UTF-8, with code points cut anywhere.
fn bytes(pieces: usize) -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        4 => "[a-z\"\\\\\n]{1,60}".prop_map(String::into_bytes),
        2 => Just("aé€😀".repeat(20).into_bytes()),
        1 => prop::sample::select(vec![
            &b"\xf0\x9f\x98"[..], b"\xf0\x9f", b"\x80", b"\xe2\x82", b"\xff\xfe", b"\xc3", b"\0",
        ]).prop_map(<[u8]>::to_vec),
        1 => prop::collection::vec(any::<u8>(), 1..300),
    ];
    prop::collection::vec(piece, 1..pieces).prop_map(|pieces| pieces.concat())
}

fn script() -> impl Strategy<Value = Vec<Do>> {
    let step = prop_oneof![
        8 => (stream(), bytes(20)).prop_map(|(stream, bytes)| Do::Print(stream, bytes)),
        2 => (stream(), 1usize..20_000).prop_map(|(stream, bytes)| Do::Flood(stream, bytes)),
        1 => (1usize..300).prop_map(Do::Alternate),
        3 => stream().prop_map(Do::Echo),
        1 => Just(Do::CloseInput),
        3 => (1u64..500).prop_map(Do::Sleep),
        1 => (0i32..3).prop_map(Do::Exit),
        2 => (0i32..3).prop_map(Do::Leave),
        1 => Just(Do::Signal(11)),
        1 => Just(Do::Hang),
    ];
    prop::collection::vec(step, 0..6)
}

fn exec() -> impl Strategy<Value = Step> {
    let window = prop_oneof![3 => Just(1024u64), 1 => 1_000u64..8_000, 1 => Just(1 << 20)];
    let input = prop::option::weighted(0.3, bytes(8));
    let timeout = prop::option::weighted(0.2, 1u64..2_000);
    let grace = prop::option::weighted(0.5, 0u64..4_000);
    let options = (window, input, timeout, grace);
    (script(), options).prop_map(|(script, (window, input, timeout, grace))| Step::Exec {
        script,
        window,
        input,
        timeout,
        grace,
    })
}

fn cut() -> impl Strategy<Value = Step> {
    (0usize..6, 0usize..12, 0u64..300, 0u64..300).prop_map(|(up, down, client, server)| Step::Cut {
        up,
        down,
        client,
        server,
    })
}

fn step() -> impl Strategy<Value = Step> {
    let pick = 0usize..8;
    let speed = prop_oneof![
        2 => Just(Speed::Fast),
        2 => (1u64..200).prop_map(Speed::Slow),
        2 => Just(Speed::Stopped),
    ];
    prop_oneof![
        5 => exec(),
        1 => pick.clone().prop_map(Step::CancelExec),
        6 => (pick.clone(), bytes(8)).prop_map(|(pick, bytes)| Step::Write(pick, bytes)),
        1 => pick.clone().prop_map(Step::Close),
        1 => pick.clone().prop_map(Step::Flush),
        1 => pick.clone().prop_map(Step::Wait),
        1 => pick.clone().prop_map(Step::Kill),
        4 => (pick, stream(), speed).prop_map(|(pick, stream, speed)| Step::Read(pick, stream, speed)),
        5 => cut(),
        1 => (1u32..4).prop_map(Step::DialsFail),
        1 => Just(Step::Restore),
        1 => Just(Step::Handover),
        8 => (0u64..400).prop_map(Step::Time),
        1 => (0u64..20_000).prop_map(Step::Time),
    ]
}

fn run(seed: u64, steps: Vec<Step>) {
    let mut world = World::new(seed);
    for step in steps {
        world.step(step);
    }
    world.finish();
}

/// `MODEL_TIMES=100 cargo test --lib machine::tests` tries a hundred times as many histories.
pub(in crate::machine) fn config(cases: u32) -> ProptestConfig {
    let times = std::env::var("MODEL_TIMES")
        .ok()
        .and_then(|times| times.parse().ok());
    ProptestConfig {
        cases: cases.saturating_mul(times.unwrap_or(1)),
        max_shrink_iters: 2_000,
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(config(150))]

    /// The invariants 1 to 3 of the design: everything settles once, no byte is lost or duplicated,
    /// and no success is reported without a confirmation of the server.
    #[test]
    fn nothing_is_lost_nothing_comes_twice_and_everything_settles(
        seed in any::<u64>(),
        first in exec(),
        steps in prop::collection::vec(step(), 0..50),
    ) {
        let steps = std::iter::once(first).chain(steps).collect();
        run(seed, steps);
    }
}

proptest! {
    #![proptest_config(config(40))]

    /// A reconnect to a v1 server ends the v2 execs, and reports it.
    #[test]
    fn a_version_change_after_a_cut_settles_everything(
        seed in any::<u64>(),
        before in prop::collection::vec(step(), 1..20),
        after in prop::collection::vec(step(), 0..20),
    ) {
        let steps = before.into_iter().chain([Step::Downgrade]).chain(after).collect();
        run(seed, steps);
    }
}
