//! The latency of each operation of a sandbox, on each backend that works on this machine: create,
//! exec, snapshot, create from a snapshot, checkpoint, restore, kill. Prints medians of 50.
//!
//! On a backend with a warm pool, also prints how long it takes to create a sandbox from the pool
//! and to run `true` in it.
//!
//! Also prints the rate of 256 MiB of output, the memory of an idle sandbox, and the floors: how
//! long bash takes directly, in bubblewrap and by `runsc exec`, and how long `runsc` takes to start
//! a container.
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
    /// A create that takes a warm sandbox, and a run of `true`. `None` without a warm pool.
    warm: Option<Duration>,
    /// The rate of output, in MiB/s.
    output: f64,
    /// The memory of the processes of an idle sandbox: proportional set size in KiB.
    idle: Option<u64>,
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
                let mut medians = measure(server, times).await;
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
        match it.warm {
            Some(warm) => print!(" {:.1} ms |", warm.as_secs_f64() * 1_000.0),
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
    println!();
    print_floors(times);
}

/// Prints the floors: how long the programs that a backend needs take on their own.
fn print_floors(times: usize) {
    let bash = ["bash", "-c", "true"];
    let namespaces = [
        "--unshare-all",
        "--as-pid-1",
        "--ro-bind",
        "/",
        "/",
        "--proc",
        "/proc",
    ];
    let bwrap: Vec<_> = ["bwrap"]
        .into_iter()
        .chain(namespaces)
        .chain(bash)
        .collect();
    println!("\n| floor, median of {times} | |\n| --- | --- |");
    for (name, command) in [("bash", &bash[..]), ("bubblewrap and bash", &bwrap)] {
        let measured = (0..times).map(|_| timed(command)).collect();
        print_floor(name, measured);
    }
    let (started, executed) = gvisor_floors(times);
    print_floor("`runsc create` and `runsc start`", started);
    print_floor("`runsc exec` of bash", executed);
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

fn print_floor(name: &str, measured: Option<Vec<Duration>>) {
    match measured {
        Some(durations) => {
            let median = median(durations).as_secs_f64() * 1_000.0;
            println!("| {name} | {median:.1} ms |");
        }
        None => println!("| {name} | does not work on this machine |"),
    }
}

/// The times to create and start a container, and to run bash in it.
fn gvisor_floors(times: usize) -> (Option<Vec<Duration>>, Option<Vec<Duration>>) {
    let directory = tempfile::tempdir().unwrap();
    let place = directory.path().to_str().unwrap();
    std::fs::create_dir(directory.path().join("root")).unwrap();
    let mounts = ["/usr", "/bin", "/lib", "/lib64"];
    let mounts = mounts.iter().filter(|it| std::path::Path::new(it).exists());
    let mounts = mounts.map(|it| {
        let source = std::fs::canonicalize(it).unwrap();
        json!({ "type": "bind", "source": source, "destination": it, "options": ["rbind", "ro"] })
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
    let records = directory.path().join("records");
    let flags = [
        "runsc",
        "--root",
        records.to_str().unwrap(),
        "--ignore-cgroups",
        "--network=none",
    ];
    let runsc = |arguments: &[&str]| timed(&[&flags, arguments].concat());
    let (mut started, mut executed) = (Vec::new(), Vec::new());
    for number in 0..times {
        let name = format!("floor-{number}");
        let create = runsc(&["create", "--bundle", place, &name]);
        started.push(
            create
                .zip(runsc(&["start", &name]))
                .map(|(one, two)| one + two),
        );
        executed.push(runsc(&["exec", &name, "/bin/bash", "-c", "true"]));
        runsc(&["delete", "--force", &name]);
    }
    (
        started.into_iter().collect(),
        executed.into_iter().collect(),
    )
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

/// The median of the time to take a warm sandbox and to run `true` in it. `None` if the backend has
/// no warm pool.
async fn measure_warm(backend: Backend, times: usize) -> Option<Duration> {
    let server = LocalServer::builder().backend(backend).warm(WARM);
    let server = server.start().await.ok()?;
    let busy = Sandbox::create(server.url()).await.unwrap();
    let mut durations = Vec::new();
    while durations.len() < times {
        // Each create finds a full pool.
        while server.warm_count()? < WARM {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        // After an idle wait, the processor is slow at first. The other benchmarks have no such
        // wait, so keep the processor busy before the measurement.
        run(&busy, "true").await;
        let begun = Instant::now();
        let sandbox = Sandbox::create(server.url()).await.unwrap();
        run(&sandbox, "true").await;
        durations.push(begun.elapsed());
        sandbox.kill().await.unwrap();
    }
    server.stop().await;
    Some(median(durations))
}

fn median(mut durations: Vec<Duration>) -> Duration {
    durations.sort_unstable();
    durations[durations.len() / 2]
}

async fn measure(server: LocalServer, times: usize) -> Medians {
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
    }
    let before = sandboxes_kib();
    let sandbox = Sandbox::create(server.url()).await.unwrap();
    run(&sandbox, "true").await;
    let idle = sandboxes_kib()
        .zip(before)
        .map(|(after, before)| after.saturating_sub(before));
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
    }
}
