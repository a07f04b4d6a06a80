//! Compares the client with a bare awc loop that does the same exchange with the same server, and
//! prints a table of the ratios.
//!
//! `cargo bench --bench end_to_end -- [--quick] [FILTER…]`. A filter is a part of a name that
//! `--list` prints. The two sides are sampled alternately, which criterion doesn't support: see
//! `table.rs`.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a benchmark fails by panicking"
)]
#![allow(
    clippy::await_holding_refcell_ref,
    reason = "the two closures that borrow it run in turn"
)]

#[cfg(unix)]
mod clients;
#[cfg(unix)]
mod cores;
#[cfg(unix)]
mod local;
#[cfg(unix)]
mod many;
#[cfg(unix)]
mod one;
#[cfg(unix)]
mod server;
#[cfg(unix)]
mod table;

/// How much to measure.
#[derive(Clone, Copy, PartialEq)]
enum Scale {
    /// Each benchmark once, to check that it works, for `cargo test --benches`.
    Test,
    Quick,
    Full,
}

impl Scale {
    /// Number of samples of each side.
    fn samples(self) -> usize {
        match self {
            Self::Test => 1,
            Self::Quick => 7,
            Self::Full => 21,
        }
    }

    /// Scales the number of operations of a full sample.
    fn of(self, full: usize) -> usize {
        match self {
            Self::Test => (full / 100).max(2),
            _ => full,
        }
    }

    /// Number of sandboxes that are open at the same time.
    fn many(self) -> usize {
        match self {
            Self::Test => 20,
            Self::Quick => 2_000,
            Self::Full => 10_000,
        }
    }
}

#[cfg(unix)]
fn main() {
    use actix_sandbox::ProtocolVersion::{V1, V2};

    cores::of_the_client();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let Some(at) = arguments.iter().position(|it| it == many::ROLE) {
        return many::play(&arguments[at + 1..]);
    }
    let given = |option: &str| arguments.iter().any(|it| it == option);
    // cargo passes `--bench` to measure.
    let scale = match (given("--bench") && !given("--test"), given("--quick")) {
        (false, _) => Scale::Test,
        (true, true) => Scale::Quick,
        (true, false) => Scale::Full,
    };
    type Bench = fn(Scale) -> Vec<table::Row>;
    let benches: [(&str, Bench); 11] = [
        ("exec/same_system", |scale| vec![one::exec(scale, V2)]),
        ("exec/same_system_v1", |scale| vec![one::exec(scale, V1)]),
        ("exec/tokio", |scale| one::exec_from_tokio(scale, V2)),
        ("stdin", |scale| vec![one::stdin(scale)]),
        ("output/64", |scale| one::output(scale, V2, 64, 100_000)),
        ("output/64_v1", |scale| one::output(scale, V1, 64, 100_000)),
        ("output/16384", |scale| {
            one::output(scale, V2, 16_384, 8_000)
        }),
        ("create", |scale| vec![one::create(scale)]),
        ("many", many::many),
        ("local", |scale| vec![local::exec(scale)]),
        ("instructions", |scale| vec![many::instructions(scale)]),
    ];
    if given("--list") {
        return benches
            .iter()
            .for_each(|(name, _)| println!("{name}: benchmark"));
    }
    let filters: Vec<&String> = arguments.iter().filter(|it| !it.starts_with('-')).collect();
    let wanted = |name: &str| filters.is_empty() || filters.iter().any(|it| name.contains(*it));
    let mut rows = Vec::new();
    for (name, bench) in benches {
        if wanted(name) {
            eprintln!("end_to_end: {name}");
            rows.extend(bench(scale));
        }
    }
    match scale {
        Scale::Test => println!("end_to_end: each of {} rows measured once", rows.len()),
        _ => table::print(&rows),
    }
}

#[cfg(not(unix))]
fn main() {
    println!("end_to_end: runs on Unix only, as the local server does");
}
