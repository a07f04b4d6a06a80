//! Operations on files beside an exec that does the same, on each backend that works here: how long
//! a small read and a list of 10,000 entries take, and the rate of 256 MiB in each direction.
//!
//! ```text
//! cargo bench --bench files
//! ```
//!
//! The samples of an operation alternate with those of its exec. The numbers include client and
//! server, which share a process. They depend on the machine, so compare only columns of the same
//! run.
#![allow(clippy::unwrap_used, reason = "a benchmark fails by panicking")]
#![allow(clippy::disallowed_methods, reason = "it measures real time")]

use std::time::{Duration, Instant};

use actix_sandbox::{
    Language, Sandbox,
    server::{Backend, GvisorOptions, LocalServer, NamespaceOptions},
};
use futures::StreamExt;
use tokio::io::AsyncReadExt;

const ENTRIES: u32 = 10_000;

fn main() {
    actix_sandbox::server::agent();
    actix::System::new().block_on(print_all());
}

async fn print_all() {
    // cargo passes `--bench` to measure. `cargo test --benches` only checks that this runs.
    let (times, mib) = match std::env::args().any(|arg| arg == "--bench") {
        true => (25, 256),
        false => (1, 1),
    };
    println!("| median of {times} | | operation | exec | operation / exec |");
    println!("| --- | --- | --- | --- | --- |");
    for backend in [
        Backend::Host,
        Backend::Namespace(NamespaceOptions::default()),
        Backend::Gvisor(GvisorOptions::default()),
    ] {
        match LocalServer::builder().backend(backend).start().await {
            Ok(server) => measure(&server, times, mib).await,
            Err(error) => println!("not measured: {error}"),
        }
    }
}

async fn measure(server: &LocalServer, times: usize, mib: u32) {
    let name = server.backend();
    let sandbox = Sandbox::create(server.url()).await.unwrap();
    let files = sandbox.files();
    let make = format!("mkdir many && cd many && seq {ENTRIES} | xargs touch");
    run(&sandbox, &make).await;
    files.write("small", "content\n").await.unwrap();

    let (mut read, mut cat) = (Vec::new(), Vec::new());
    let (mut list, mut ls) = (Vec::new(), Vec::new());
    for _ in 0..times {
        read.push(timed(async { files.read("small").await.unwrap() }).await);
        cat.push(timed(run(&sandbox, "cat small")).await);
        let listed =
            async { assert_eq!(files.list("many").await.unwrap().len(), ENTRIES as usize) };
        list.push(timed(listed).await);
        // `ls` needs an option of a system call that old releases of gVisor lack.
        ls.push(timed(run(&sandbox, "ls -la many || find many -ls")).await);
    }
    print_times(name, "read a small file, `cat`", read, cat);
    print_times(name, "list 10,000 entries, `ls -la`", list, ls);

    let bytes = u64::from(mib) << 20;
    let local = tempfile::tempdir().unwrap();
    let (one, two) = (local.path().join("one"), local.path().join("two"));
    let block: Vec<u8> = (0..1_u32 << 20).map(|at| (at ^ (at >> 7)) as u8).collect();
    std::fs::write(&one, block.repeat(mib as usize)).unwrap();
    let (mut up, mut down, mut streamed, mut out) = (vec![], vec![], vec![], vec![]);
    for _ in 0..times.div_ceil(9) {
        let code = format!("yes | head -c {bytes}");
        let printed = async {
            let process = sandbox.exec(Language::Bash, code).await.unwrap();
            let mut read = 0;
            while let Some(piece) = process.stdout().next().await {
                read += piece.unwrap().len() as u64;
            }
            assert_eq!(read, bytes);
        };
        out.push(timed(printed).await);
        up.push(timed(async { files.upload(&one, "large").await.unwrap() }).await);
        down.push(timed(async { files.download("large", &two).await.unwrap() }).await);
        let read = async {
            let mut file = files.open("large").await.unwrap();
            let (mut buffer, mut read) = (vec![0; 64 * 1_024], 0);
            loop {
                match file.read(&mut buffer).await.unwrap() {
                    0 => break,
                    length => read += length as u64,
                }
            }
            assert_eq!(read, bytes);
        };
        streamed.push(timed(read).await);
    }
    let out = rate(mib, out);
    for (what, times) in [
        ("upload", up),
        ("download", down),
        ("read as a stream", streamed),
    ] {
        let rate = rate(mib, times);
        println!(
            "| {name} | {what} {mib} MiB, output of an exec | {rate:.0} MiB/s | {out:.0} MiB/s | {:.2} |",
            rate / out
        );
    }
    sandbox.kill().await.unwrap();
}

async fn run(sandbox: &Sandbox, code: &str) {
    let output = sandbox.run(Language::Bash, code).await.unwrap();
    output.error_for_status().unwrap();
}

async fn timed<T>(work: impl Future<Output = T>) -> Duration {
    let begun = Instant::now();
    work.await;
    begun.elapsed()
}

fn print_times(backend: &str, what: &str, operation: Vec<Duration>, exec: Vec<Duration>) {
    let (operation, exec) = (median(operation), median(exec));
    println!(
        "| {backend} | {what} | {:.1} ms | {:.1} ms | {:.2} |",
        operation.as_secs_f64() * 1_000.0,
        exec.as_secs_f64() * 1_000.0,
        operation.div_duration_f64(exec)
    );
}

fn rate(mib: u32, durations: Vec<Duration>) -> f64 {
    f64::from(mib) / median(durations).as_secs_f64()
}

fn median(mut durations: Vec<Duration>) -> Duration {
    durations.sort_unstable();
    durations[durations.len() / 2]
}
