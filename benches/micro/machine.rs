//! The throughput of the client's state machines, in events per second, without sockets, actors or
//! a clock.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a benchmark fails by panicking"
)]

use std::time::{Duration, Instant};

use actix_sandbox::{
    machine::{
        Epoch, LinkFact, NewExec, OutputBuffer, OutputPolicy, Piece, Process, ProcessAction,
        ProcessConfig, ProcessFact, ProcessId, RequestId, Sandbox, SandboxAction, SandboxConfig,
        Timeouts,
    },
    protocol::{ExecId, ExecOptions, SandboxConfig as Configuration, StdStream, Version},
};
use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

const LINK: Epoch = Epoch(1);
/// The window that the client requests under the default output policy.
const WINDOW: u64 = 4 * 1024 * 1024 + 4;
/// Number of frames to handle before the output is read.
const BATCH: u64 = 256;

/// The instant that the machines get as the current time. It never advances.
#[expect(clippy::disallowed_methods, reason = "virtual time needs an origin")]
fn some_instant() -> Instant {
    Instant::now()
}

/// A running sandbox.
struct World {
    sandbox: Sandbox,
    now: Instant,
    requests: u64,
}

impl World {
    fn new(version: Version) -> Self {
        let mode = actix_sandbox::machine::Mode::Create(Configuration::default());
        let mut world = Self {
            sandbox: Sandbox::new(SandboxConfig {
                mode,
                timeouts: Timeouts::default(),
                process: ProcessConfig::default(),
                exec_prefix: "0123456789abcdef".to_owned(),
            }),
            now: some_instant(),
            requests: 0,
        };
        let opened = LinkFact::Opened(LINK, version);
        world.sandbox.handle_link(opened, world.now);
        for text in [
            r#"{"event":"status_update","status":"SANDBOX_CREATING"}"#,
            r#"{"event":"sandbox_id","sandbox_id":"sandbox-1","sandbox_token":"t"}"#,
            r#"{"event":"status_update","status":"SANDBOX_RUNNING"}"#,
        ] {
            world.frame(&Bytes::from_static(text.as_bytes()));
        }
        while world.sandbox.poll_action().is_some() {}
        world
    }

    fn request(&mut self) -> RequestId {
        self.requests += 1;
        RequestId(self.requests)
    }

    fn frame(&mut self, text: &Bytes) {
        self.sandbox.handle_frame(LINK, text, self.now);
    }

    fn status(&mut self, status: &str, more: &str) {
        let text = format!(r#"{{"event":"status_update","status":"{status}"{more}}}"#);
        self.frame(&Bytes::from(text));
    }

    /// Requests an exec, and handles its `SANDBOX_EXECUTION_RUNNING`.
    fn start(&mut self) -> (ProcessId, Box<Process>, Option<ExecId>) {
        let request = self.request();
        let options = ExecOptions {
            window: Some(WINDOW),
            ..ExecOptions::default()
        };
        let mut run = NewExec::code("bash", "true");
        run.options = options;
        let begun = self.sandbox.exec(request, run, self.now);
        let (id, mut process) = begun.expect("an exec");
        let exec = process.place().map(|(exec, _)| exec.clone());
        let named = match &exec {
            Some(exec) => format!(r#","exec":"{}","stdin":0"#, exec.as_str()),
            None => String::new(),
        };
        self.status("SANDBOX_EXECUTION_RUNNING", &named);
        self.tell(&mut process);
        (id, process, exec)
    }

    /// Performs the actions of the sandbox: passes facts to the process.
    fn tell(&mut self, process: &mut Process) {
        while let Some(action) = self.sandbox.poll_action() {
            if let SandboxAction::Tell(_, fact) = action {
                process.handle_fact(fact, self.now);
            }
        }
    }

    /// Runs an exec to its end.
    fn exec(&mut self) {
        let (id, mut process, exec) = self.start();
        process.wait(RequestId(0));
        let end = match &exec {
            Some(exec) => format!(
                r#","exec":"{}","exit_code":0,"stdout":0,"stderr":0,"reason":"exited""#,
                exec.as_str()
            ),
            None => String::new(),
        };
        self.status("SANDBOX_EXECUTION_DONE", &end);
        self.tell(&mut process);
        process.handle_taken([0; 2]);
        let mut settled = false;
        while let Some(action) = process.poll_action() {
            match action {
                ProcessAction::Ended { .. } => self.sandbox.process_ended(id),
                ProcessAction::Settled => self.sandbox.process_settled(id),
                ProcessAction::Settle(..) => settled = true,
                _ => {}
            }
        }
        assert!(settled, "`wait` has no answer");
        self.tell(&mut process);
    }
}

fn execs(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("machine/exec");
    group.throughput(Throughput::Elements(1));
    for version in [Version::V1, Version::V2] {
        group.bench_function(version.to_string(), |bencher| {
            let mut world = World::new(version);
            bencher.iter(|| world.exec());
        });
    }
    group.finish();
}

/// The path of output from the frame to the reader, as the actors pass it on.
fn output(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("machine/output");
    for (version, size) in [(Version::V1, 64), (Version::V2, 64), (Version::V2, 16_384)] {
        group.throughput(Throughput::Elements(BATCH));
        group.bench_function(format!("{version}/{size}"), |bencher| {
            let mut world = World::new(version);
            let (_, mut process, exec) = world.start();
            let mut buffer = OutputBuffer::<()>::new(OutputPolicy::default());
            if let Some(window) = process.window() {
                buffer.set_window(window);
            }
            buffer.add_reader(StdStream::Stdout);
            let data = "x".repeat(size);
            let mut offset = 0;
            // Frames are created outside the measurement.
            let frames = |from: u64| -> Vec<Bytes> {
                let place = |at| match &exec {
                    Some(exec) => format!(
                        r#""exec":"{}","offset":{},"#,
                        exec.as_str(),
                        from + at * size as u64
                    ),
                    None => String::new(),
                };
                (0..BATCH)
                    .map(|at| format!(r#"{{"event":"stdout",{}"data":"{data}"}}"#, place(at)))
                    .map(Bytes::from)
                    .collect()
            };
            let setup = || {
                let made = frames(offset);
                offset += BATCH * size as u64;
                made
            };
            bencher.iter_batched(
                setup,
                |frames| {
                    for frame in &frames {
                        world.frame(frame);
                        while let Some(action) = world.sandbox.poll_action() {
                            if let SandboxAction::Output(_, piece) = action {
                                let stream = piece.stream;
                                let offset = piece.place.map(|place| place.offset);
                                let (gap, data) = process.handle_output(stream, offset, piece.data);
                                assert_eq!(gap, 0);
                                assert!(buffer.handle_output(stream, data));
                                process.handle_output_kept();
                            }
                        }
                    }
                    let mut bytes = 0;
                    while let Some(Piece::Data(data)) = buffer.read(StdStream::Stdout, world.now) {
                        bytes += data.len();
                    }
                    assert_eq!(bytes, size * BATCH as usize);
                    if let Some((received, _)) = process.acknowledgeable() {
                        process.handle_taken(received);
                    }
                    while process.poll_action().is_some() {}
                    frames
                },
                criterion::BatchSize::LargeInput,
            );
        });
    }
    group.finish();
}

/// Stdin that is written, sent and acknowledged.
fn stdin(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("machine/stdin");
    group.throughput(Throughput::Elements(1));
    for version in [Version::V1, Version::V2] {
        group.bench_function(version.to_string(), |bencher| {
            let mut world = World::new(version);
            let (_, mut process, _) = world.start();
            let line = "x".repeat(63) + "\n";
            let (mut taken, now) = (0, world.now);
            bencher.iter(|| {
                process.write_stdin(RequestId(0), line.clone().into_bytes());
                taken += line.len() as u64;
                let mut sent = 0;
                while let Some(action) = process.poll_action() {
                    if let ProcessAction::SendStdin { number, .. } = action {
                        sent += 1;
                        process.handle_fact(ProcessFact::StdinWritten(number), now);
                        process.handle_fact(ProcessFact::StdinTaken(taken), now);
                    }
                }
                assert_eq!(sent, 1);
            });
        });
    }
    group.finish();
}

fn short() -> Criterion {
    Criterion::default()
        .sample_size(30)
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_secs(1))
}

criterion_group!(name = machine; config = short(); targets = execs, output, stdin);
criterion_main!(machine);
