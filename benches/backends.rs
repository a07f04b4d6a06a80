//! The latency of each operation of a sandbox, on each backend that works on this machine: create,
//! exec, snapshot, create from a snapshot, checkpoint, restore, kill. Prints medians of 50.
//!
//! On a backend with a warm pool, also prints how long it takes to create a sandbox from the pool
//! and to run `true` in it. The samples alternate with runs of `true` in a sandbox that is in use,
//! and the last row has the median of their ratios.
//!
//! Also prints the rate of 256 MiB of output, the memory of an idle sandbox, and the floors: how
//! long bash takes directly, in bubblewrap and by `runsc exec`, and how long `runsc` takes to start
//! a container. The samples of the floors alternate with those of their backend.
//!
//! The checkpointed sandbox has a background process. `gvisor` stores and restores its memory; the
//! other backends end it.
//!
//! ```text
//! cargo bench --bench backends
//! ```
//!
//! The latencies include client and server, which share a process. They depend on the machine, so
//! compare only columns of the same run.
#![allow(clippy::unwrap_used, reason = "a benchmark fails by panicking")]
#![allow(clippy::disallowed_methods, reason = "it measures real time")]

use std::{
    process::Stdio,
    time::{Duration, Instant},
};

use futures::StreamExt;
use serde_json::json;

use actix_sandbox::{
    Language, LocalServer, Sandbox,
    server::{Backend, GvisorOptions, NamespaceOptions},
};

const TIMES: usize = 50;

/// The number of sandboxes to keep warm.
const WARM: usize = 4;

/// How much output to read to measure its rate, in MiB.
const OUTPUT_MIB: u32 = 256;

struct Medians {
    backend: &'static str,
    phases: [Duration; PHASES.len()],
    /// `None` without a warm pool.
    warm: Option<Warm>,
    /// The rate of output, in MiB/s.
    output: f64,
    /// The memory of the processes of an idle sandbox: proportional set size in KiB.
    idle: Option<u64>,
    floors: Vec<Floor>,
}

/// How long a program takes that a backend can't be faster than.
struct Floor {
    name: &'static str,
    /// The phase that it bounds, as an index of [`PHASES`].
    phase: usize,
    /// `None` if the program does not work on this machine.
    durations: Option<Vec<Duration>>,
}

/// Medians of a backend with a warm pool.
struct Warm {
    /// A create that takes a warm sandbox, and a run of `true`.
    create_and_run: Duration,
    /// [`Self::create_and_run`], divided by a run of `true` in a sandbox that is in use.
    ratio: f64,
}

const PHASES: [&str; 7] = [
    "create, and run `true`",
    "run `true`",
    "snapshot of 1 MiB",
    "create from it, and run `true`",
    "checkpoint of 1 MiB",
    "restore it, and run `true`",
    "kill",
];

/// The phases that have floors, as indices of [`PHASES`].
const CREATE: usize = 0;
const RUN: usize = 1;

fn main() {
    actix_sandbox::server::agent();
    actix::System::new().block_on(print_all());
}

async fn print_all() {
    // cargo passes `--bench` to measure. `cargo test --benches` only checks that this runs.
    let times = match std::env::args().any(|arg| arg == "--bench") {
        true => TIMES,
        false => 1,
    };
    let mut all = Vec::new();
    for backend in [
        Backend::Host,
        Backend::Namespace(NamespaceOptions::default()),
        Backend::Gvisor(GvisorOptions::default()),
    ] {
        match LocalServer::builder()
            .backend(backend.clone())
            .start()
            .await
        {
            Ok(server) => {
                let mut medians = measure(server, &backend, times).await;
                medians.warm = measure_warm(backend, times).await;
                all.push(medians);
            }
            Err(error) => println!("not measured: {error}"),
        }
    }
    print!("| median of {times} |");
    all.iter().for_each(|it| print!(" {} |", it.backend));
    println!("\n| --- |{}", " --- |".repeat(all.len()));
    for (number, phase) in PHASES.iter().enumerate() {
        print!("| {phase} |");
        for it in &all {
            print!(" {:.1} ms |", it.phases[number].as_secs_f64() * 1_000.0);
        }
        println!();
    }
    print!("| warm: create, and run `true` |");
    for it in &all {
        match &it.warm {
            Some(warm) => print!(" {:.1} ms |", warm.create_and_run.as_secs_f64() * 1_000.0),
            None => print!(" none |"),
        }
    }
    print!("\n| the same, divided by `true` in a sandbox that is in use |");
    for it in &all {
        match &it.warm {
            Some(warm) => print!(" {:.2} |", warm.ratio),
            None => print!(" none |"),
        }
    }
    println!();
    print!("| {OUTPUT_MIB} MiB of output |");
    all.iter()
        .for_each(|it| print!(" {:.0} MiB/s |", it.output));
    print!("\n| memory of an idle sandbox (PSS) |");
    for it in &all {
        match it.idle {
            Some(kib) => print!(" {:.1} MiB |", kib as f64 / 1_024.0),
            None => print!(" none |"),
        }
    }
    println!("\n\n| floor, median of {times} | | a backend, divided by it |\n| --- | --- | --- |");
    for it in all {
        it.floors.into_iter().for_each(|floor| {
            let (phase, time) = (PHASES[floor.phase], it.phases[floor.phase]);
            print!("| {} |", floor.name);
            match floor.durations.map(median) {
                Some(floor) => println!(
                    " {:.1} ms | {}, {phase}: {:.2} |",
                    floor.as_secs_f64() * 1_000.0,
                    it.backend,
                    time.div_duration_f64(floor)
                ),
                None => println!(" does not work on this machine | |"),
            }
        });
    }
}

impl Floor {
    fn new(name: &'static str, phase: usize) -> Self {
        Self {
            name,
            phase,
            durations: Some(Vec::new()),
        }
    }

    fn push(&mut self, sample: Option<Duration>) {
        self.durations = self.durations.take().zip(sample).map(|(mut all, sample)| {
            all.push(sample);
            all
        });
    }
}

/// Measures the floors of a backend.
enum Programs {
    Host,
    Namespace,
    Gvisor(Container),
}

impl Programs {
    fn of(backend: &Backend) -> (Self, Vec<Floor>) {
        match backend {
            Backend::Namespace(_) => (
                Self::Namespace,
                vec![Floor::new("bubblewrap and bash", CREATE)],
            ),
            Backend::Gvisor(_) => (
                Self::Gvisor(Container::new()),
                vec![
                    Floor::new("`runsc create` and `runsc start`", CREATE),
                    Floor::new("`runsc exec` of bash", RUN),
                ],
            ),
            _ => (Self::Host, vec![Floor::new("bash", RUN)]),
        }
    }

    /// Adds a sample to each floor.
    fn sample(&mut self, floors: &mut [Floor]) {
        let bash = ["bash", "-c", "true"];
        let samples = match self {
            Self::Host => vec![timed(&bash)],
            Self::Namespace => {
                let bwrap = [
                    "bwrap",
                    "--unshare-all",
                    "--as-pid-1",
                    "--ro-bind",
                    "/",
                    "/",
                ];
                vec![timed(&[&bwrap[..], &["--proc", "/proc"], &bash].concat())]
            }
            Self::Gvisor(container) => Vec::from(container.timed()),
        };
        for (floor, sample) in floors.iter_mut().zip(samples) {
            floor.push(sample);
        }
    }
}

/// How long a command takes. `None` if it fails.
fn timed(command: &[&str]) -> Option<Duration> {
    let begun = Instant::now();
    let mut run = std::process::Command::new(command[0]);
    // No pipes: a container that keeps running would hold them open.
    run.args(&command[1..])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    run.status()
        .is_ok_and(|status| status.success())
        .then(|| begun.elapsed())
}

/// A container of gVisor that this benchmark starts without a server.
struct Container {
    directory: tempfile::TempDir,
    started: usize,
}

impl Container {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join("root")).unwrap();
        let mounts = ["/usr", "/bin", "/lib", "/lib64"];
        let mounts = mounts.iter().filter(|it| std::path::Path::new(it).exists());
        let mounts = mounts.map(|it| {
            let source = std::fs::canonicalize(it).unwrap();
            json!({
                "type": "bind", "source": source, "destination": it, "options": ["rbind", "ro"],
            })
        });
        let namespaces = ["pid", "ipc", "uts", "mount", "network"].map(|it| json!({ "type": it }));
        let config = json!({
            "ociVersion": "1.0.2",
            "process": {
                "terminal": false, "user": { "uid": 0, "gid": 0 }, "cwd": "/",
                "args": ["/bin/sleep", "1000"], "env": ["PATH=/usr/bin:/bin"],
            },
            "root": { "path": directory.path().join("root") },
            "mounts": mounts.collect::<Vec<_>>(),
            "linux": { "namespaces": namespaces },
        });
        std::fs::write(directory.path().join("config.json"), config.to_string()).unwrap();
        Self {
            directory,
            started: 0,
        }
    }

    /// The times to create and start a container, and to run bash in it.
    fn timed(&mut self) -> [Option<Duration>; 2] {
        let place = self.directory.path().to_str().unwrap();
        let records = format!("{place}/records");
        let flags = [
            "runsc",
            "--root",
            &records,
            "--ignore-cgroups",
            "--network=none",
        ];
        let runsc = |arguments: &[&str]| timed(&[&flags, arguments].concat());
        let name = format!("floor-{}", self.started);
        self.started += 1;
        let create = runsc(&["create", "--bundle", place, &name]);
        let start = runsc(&["start", &name]);
        let executed = runsc(&["exec", &name, "/bin/bash", "-c", "true"]);
        // `runsc delete` takes more than a second, and after an idle wait the processor is slow.
        runsc(&["kill", &name, "KILL"]);
        [
            create.zip(start).map(|(create, start)| create + start),
            executed,
        ]
    }
}

/// The proportional set size, in KiB, of the descendants of this process and of all processes of
/// gVisor on this machine, which are not descendants. `None` if there are none.
fn sandboxes_kib() -> Option<u64> {
    let stat = |pid: &str, file: &str| std::fs::read_to_string(format!("/proc/{pid}/{file}")).ok();
    let parent = |pid: &str| {
        let stat = stat(pid, "stat")?;
        let rest = stat.rsplit_once(") ")?.1;
        rest.split(' ').nth(1).map(str::to_owned)
    };
    let me = std::process::id().to_string();
    let mut total = None;
    for entry in std::fs::read_dir("/proc").ok()?.flatten() {
        let pid = entry.file_name().to_string_lossy().into_owned();
        let parents = std::iter::successors(parent(&pid), |pid| parent(pid));
        let is_gvisor = || stat(&pid, "cmdline").is_some_and(|line| line.starts_with("runsc-"));
        if parents.take(16).any(|it| it == me) || is_gvisor() {
            let rollup = stat(&pid, "smaps_rollup").unwrap_or_default();
            let pss = rollup.lines().find_map(|line| line.strip_prefix("Pss:"));
            let kib = pss.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
            *total.get_or_insert(0) += kib.unwrap_or(0);
        }
    }
    total
}

async fn run(sandbox: &Sandbox, code: &str) {
    let output = sandbox.run(Language::Bash, code).await.unwrap();
    output.error_for_status().unwrap();
}

/// Measures creates that take a warm sandbox. `None` if the backend has no warm pool.
async fn measure_warm(backend: Backend, times: usize) -> Option<Warm> {
    let server = LocalServer::builder().backend(backend).warm(WARM);
    let server = server.start().await.ok()?;
    let busy = Sandbox::create(server.url()).await.unwrap();
    let (mut durations, mut ratios) = (Vec::new(), Vec::new());
    while durations.len() < times {
        // Each create finds a full pool.
        while server.warm_count()? < WARM {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        // After an idle wait, the processor is slow at first. The other benchmarks have no such
        // wait, so keep the processor busy before the measurement.
        run(&busy, "true").await;
        let begun = Instant::now();
        run(&busy, "true").await;
        let only_run = begun.elapsed();
        let begun = Instant::now();
        let sandbox = Sandbox::create(server.url()).await.unwrap();
        run(&sandbox, "true").await;
        let create_and_run = begun.elapsed();
        durations.push(create_and_run);
        ratios.push(create_and_run.div_duration_f64(only_run));
        sandbox.kill().await.unwrap();
    }
    server.stop().await;
    ratios.sort_unstable_by(f64::total_cmp);
    Some(Warm {
        create_and_run: median(durations),
        ratio: ratios[ratios.len() / 2],
    })
}

fn median(mut durations: Vec<Duration>) -> Duration {
    durations.sort_unstable();
    durations[durations.len() / 2]
}

async fn measure(server: LocalServer, backend: &Backend, times: usize) -> Medians {
    let (mut programs, mut floors) = Programs::of(backend);
    let before = sandboxes_kib();
    let sandbox = Sandbox::create(server.url()).await.unwrap();
    run(&sandbox, "true").await;
    let idle = sandboxes_kib()
        .zip(before)
        .map(|(after, before)| after.saturating_sub(before));
    sandbox.kill().await.unwrap();
    let mut phases: [Vec<Duration>; PHASES.len()] = Default::default();
    for number in 0..times {
        let begun = Instant::now();
        let sandbox = Sandbox::create(server.url()).await.unwrap();
        run(&sandbox, "true").await;
        phases[0].push(begun.elapsed());

        let begun = Instant::now();
        run(&sandbox, "true").await;
        phases[1].push(begun.elapsed());

        run(&sandbox, "head -c 1048576 /dev/urandom > file").await;
        let name = format!("snapshot-{number}");
        let begun = Instant::now();
        sandbox.snapshot_filesystem(&name).await.unwrap();
        phases[2].push(begun.elapsed());
        sandbox.kill().await.unwrap();

        let begun = Instant::now();
        let from = Sandbox::create(server.url()).filesystem_snapshot_name(&name);
        let sandbox = from.enable_sandbox_checkpoint(true).await.unwrap();
        run(&sandbox, "true").await;
        phases[3].push(begun.elapsed());

        run(&sandbox, "sleep 1000 < /dev/null > /dev/null 2>&1 &").await;
        let begun = Instant::now();
        sandbox.checkpoint().await.unwrap();
        phases[4].push(begun.elapsed());

        let (id, token) = (
            sandbox.sandbox_id().clone(),
            sandbox.sandbox_token().clone(),
        );
        let begun = Instant::now();
        let sandbox = Sandbox::attach(server.url(), id, token).await.unwrap();
        run(&sandbox, "true").await;
        phases[5].push(begun.elapsed());

        let begun = Instant::now();
        sandbox.kill().await.unwrap();
        phases[6].push(begun.elapsed());
        programs.sample(&mut floors);
    }
    let sandbox = Sandbox::create(server.url()).await.unwrap();
    let code = format!("yes | head -c {OUTPUT_MIB}M");
    let begun = Instant::now();
    let process = sandbox.exec(Language::Bash, code).await.unwrap();
    let mut read = 0;
    while let Some(piece) = process.stdout().next().await {
        read += piece.unwrap().len();
    }
    let output = f64::from(OUTPUT_MIB) / begun.elapsed().as_secs_f64();
    assert_eq!(read, OUTPUT_MIB as usize * 1_024 * 1_024);
    sandbox.kill().await.unwrap();
    let backend = server.backend();
    server.stop().await;
    Medians {
        backend,
        phases: phases.map(median),
        warm: None,
        output,
        idle,
        floors,
    }
}
