//! The latency of each operation of a sandbox, on each backend that works on this machine: create,
//! exec, snapshot, create from a snapshot, checkpoint, restore, kill. Prints medians of 50.
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

use std::time::{Duration, Instant};

use actix_sandbox::{
    Language, LocalServer, Sandbox,
    server::{Backend, GvisorOptions, NamespaceOptions},
};

const TIMES: usize = 50;

struct Medians {
    backend: &'static str,
    phases: [Duration; PHASES.len()],
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

#[actix::main]
async fn main() {
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
        match LocalServer::builder().backend(backend).start().await {
            Ok(server) => all.push(measure(server, times).await),
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
}

async fn measure(server: LocalServer, times: usize) -> Medians {
    let mut phases: [Vec<Duration>; PHASES.len()] = Default::default();
    let run = async |sandbox: &Sandbox, code: &str| {
        let output = sandbox.run(Language::Bash, code).await.unwrap();
        output.error_for_status().unwrap();
    };
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
    let backend = server.backend();
    server.stop().await;
    let phases = phases.map(|mut times| {
        times.sort_unstable();
        times[times.len() / 2]
    });
    Medians { backend, phases }
}
