//! What `actix-sandbox run` adds to the time of a warm confined sandbox: the same work by the
//! library and by the command, on one server. The samples alternate.
//!
//! ```text
//! cargo bench --bench command
//! ```
//!
//! The time of the command includes the start and the end of its process. The times depend on the
//! machine, so compare only columns of the same run.
#![allow(clippy::unwrap_used, reason = "a benchmark fails by panicking")]
#![allow(clippy::disallowed_methods, reason = "it measures real time")]

use std::{
    process::Command,
    time::{Duration, Instant},
};

use actix_sandbox::{Language, LocalServer, Sandbox};
use tempfile::TempDir;

const TIMES: usize = 50;

/// The number of sandboxes to keep warm. Each sample takes one of them.
const WARM: usize = 2;

fn main() {
    actix_sandbox::server::agent();
    actix::System::new().block_on(print_all());
}

async fn print_all() {
    // cargo passes `--bench` to measure. `cargo test --benches` only checks that this runs.
    let is_measured = std::env::args().any(|arg| arg == "--bench");
    let times = if is_measured { TIMES } else { 1 };
    println!(
        "| median of {times}: create a warm sandbox, run `true`, kill it | library | `run` | difference |"
    );
    println!("| --- | --- | --- | --- |");
    for backend in ["namespace", "gvisor"] {
        let server = LocalServer::builder()
            .backend(backend.parse().unwrap())
            .warm(WARM);
        match server.start().await {
            Ok(server) => print_backend(server, times).await,
            Err(error) => println!("| {backend} | not measured: {error} | | |"),
        }
    }
}

async fn print_backend(server: LocalServer, times: usize) {
    let state = tempfile::tempdir().unwrap();
    let (mut library, mut command) = (Vec::new(), Vec::new());
    for _ in 0..times {
        fill(&server).await;
        let begun = Instant::now();
        by_library(server.url()).await;
        library.push(begun.elapsed());
        fill(&server).await;
        let begun = Instant::now();
        by_command(server.url().to_owned(), &state).await;
        command.push(begun.elapsed());
    }
    let (library, command) = (median(library), median(command));
    let millis = |time: Duration| time.as_secs_f64() * 1_000.0;
    println!(
        "| {} | {:.1} ms | {:.1} ms | {:.1} ms |",
        server.backend(),
        millis(library),
        millis(command),
        millis(command) - millis(library)
    );
    server.stop().await;
}

/// Waits until the pool is full, so that its refill disturbs no sample.
async fn fill(server: &LocalServer) {
    while server.warm_count().unwrap() < WARM {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn by_library(url: &str) {
    let sandbox = Sandbox::create(url).await.unwrap();
    let output = sandbox.run(Language::Bash, "true").await.unwrap();
    assert!(output.success());
    sandbox.kill().await.unwrap();
}

async fn by_command(url: String, state: &TempDir) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_actix-sandbox"));
    command.args(["run", "--language", "bash", "-c", "true"]);
    command
        .env("SANDBOX_URL", url)
        .env("XDG_STATE_HOME", state.path());
    let status = tokio::task::spawn_blocking(move || command.status());
    assert!(status.await.unwrap().unwrap().success());
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}
