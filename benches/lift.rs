//! What the lift costs: the same operations over v1 without it, over v1 with it, and over v2, on
//! the local server. Prints the median of 50 durations, or of 5 rates. The samples of the three
//! columns alternate.
//!
//! ```text
//! cargo bench --bench lift
//! ACTIX_SANDBOX_BACKEND=gvisor cargo bench --bench lift
//! ```
//!
//! The times include client and server, which share a process. They depend on the machine, so
//! compare only columns of the same run.
#![allow(clippy::unwrap_used, reason = "a benchmark fails by panicking")]
#![allow(clippy::disallowed_methods, reason = "it measures real time")]

use std::{
    future::IntoFuture,
    time::{Duration, Instant},
};

use actix_sandbox::{Language, LocalServer, ProtocolVersion, Sandbox, SandboxBuilder};
use futures::StreamExt;

const TIMES: usize = 50;
const RATES: usize = 5;

/// The amount of data for each rate, in MiB.
const MIB: usize = 64;

const COLUMNS: [&str; 3] = ["v1", "v1, lifted", "v2"];

fn main() {
    actix_sandbox::server::agent();
    actix::System::new().block_on(print_all());
}

/// A builder for the protocol of a column.
fn builder(column: usize, url: &str) -> SandboxBuilder {
    let versions = [
        ProtocolVersion::V1,
        ProtocolVersion::V1,
        ProtocolVersion::V2,
    ];
    Sandbox::create(url)
        .max_protocol_version(versions[column])
        .lift(column == 1)
}

async fn print_all() {
    // cargo passes `--bench` to measure. `cargo test --benches` only checks that this runs.
    let is_measured = std::env::args().any(|arg| arg == "--bench");
    let (times, bytes) = match is_measured {
        true => (TIMES, MIB << 20),
        false => (1, 1 << 20),
    };
    let server = LocalServer::start().await.unwrap();
    println!(
        "| backend {}, median of {times} | {} |",
        server.backend(),
        COLUMNS.join(" | ")
    );
    println!("| --- | --- | --- | --- |");

    let mut create: [Vec<Duration>; 3] = Default::default();
    let mut run: [Vec<Duration>; 3] = Default::default();
    for _ in 0..times {
        for column in 0..COLUMNS.len() {
            let begun = Instant::now();
            let sandbox = builder(column, server.url()).await.unwrap();
            sandbox.run(Language::Bash, "true").await.unwrap();
            create[column].push(begun.elapsed());
            let begun = Instant::now();
            sandbox.run(Language::Bash, "true").await.unwrap();
            run[column].push(begun.elapsed());
            sandbox.kill().await.unwrap();
        }
    }
    print_times("create, and run `true`", create);
    print_times("run `true`", run);

    let mut output: [Vec<f64>; 3] = Default::default();
    let mut input: [Vec<f64>; 3] = Default::default();
    for _ in 0..times.min(RATES) {
        for column in 0..COLUMNS.len() {
            let sandbox = builder(column, server.url()).await.unwrap();
            output[column].push(rate(bytes, read(&sandbox, bytes)).await);
            input[column].push(rate(bytes, write(&sandbox, bytes)).await);
            sandbox.kill().await.unwrap();
        }
    }
    print_rates("output of text", output);
    print_rates("input of text", input);

    let sandbox = builder(1, server.url()).await.unwrap();
    let code = "grep -h VmRSS /proc/$PPID/status | tr -dc 0-9";
    let memory = sandbox.run(Language::Bash, code).await.unwrap();
    let kib: f64 = memory.stdout_lossy().parse().unwrap();
    println!(
        "| memory of the program (RSS) | | {:.1} MiB | |",
        kib / 1_024.0
    );
    sandbox.kill().await.unwrap();
    server.stop().await;
}

/// Reads output of a process.
async fn read(sandbox: &Sandbox, bytes: usize) {
    let code = format!("yes | head -c {bytes}");
    let process = sandbox.exec(Language::Bash, code).await.unwrap();
    let mut stdout = process.stdout();
    let mut read = 0;
    while let Some(piece) = stdout.next().await {
        read += piece.unwrap().len();
    }
    assert_eq!(read, bytes);
}

/// Writes to a process that counts what it reads.
async fn write(sandbox: &Sandbox, bytes: usize) {
    let code = format!("head -c {bytes} | wc -c");
    let process = sandbox.exec(Language::Bash, code).await.unwrap();
    let piece = "y\n".repeat(32 * 1_024);
    for _ in 0..bytes / piece.len() {
        process.write_to_stdin(piece.clone()).await.unwrap();
    }
    let counted = process.stdout().read_all().await.unwrap();
    let counted = std::str::from_utf8(&counted).unwrap();
    assert_eq!(counted.trim(), bytes.to_string());
}

/// The rate of a transfer, in MB/s.
async fn rate(bytes: usize, transfer: impl IntoFuture<Output = ()>) -> f64 {
    let begun = Instant::now();
    transfer.await;
    bytes as f64 / 1e6 / begun.elapsed().as_secs_f64()
}

fn print_times(name: &str, columns: [Vec<Duration>; 3]) {
    print!("| {name} |");
    for mut samples in columns {
        samples.sort_unstable();
        print!(
            " {:.1} ms |",
            samples[samples.len() / 2].as_secs_f64() * 1_000.0
        );
    }
    println!();
}

fn print_rates(name: &str, columns: [Vec<f64>; 3]) {
    print!("| {name} |");
    for mut samples in columns {
        samples.sort_unstable_by(f64::total_cmp);
        print!(" {:.0} MB/s |", samples[samples.len() / 2]);
    }
    println!();
}
