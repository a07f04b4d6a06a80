//! Runs the fuzz targets of `fuzz/` on their corpus and on random bytes, with the crate's own
//! toolchain.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

#[path = "../fuzz/src/lib.rs"]
#[allow(
    clippy::disallowed_methods,
    unreachable_pub,
    reason = "virtual time needs an origin, and `fuzz` is a crate where these items are public"
)]
mod fuzz;

use std::{fs, path::Path};

use proptest::prelude::*;

/// Runs a target on each seed in `fuzz/corpus`. Prints the name of each seed first, so that a
/// failure shows which one it was.
fn seeds(target: &str, run: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
    let mut seeds = 0;
    for seed in fs::read_dir(folder.join(target)).unwrap() {
        let seed = seed.unwrap().path();
        println!("{}", seed.display());
        run(&fs::read(&seed).unwrap());
        seeds += 1;
    }
    assert!(seeds > 0, "no seed of {target}");
}

#[test]
fn the_seeds_of_the_agent_find_nothing() {
    seeds("agent_frames", fuzz::agent_frames);
}

#[test]
fn the_seeds_of_the_codec_find_nothing() {
    seeds("codec", fuzz::codec);
}

#[test]
fn the_seeds_of_the_machines_of_the_client_find_nothing() {
    seeds("client_machine", fuzz::client_machine);
}

#[test]
fn the_seeds_of_the_machine_of_the_server_find_nothing() {
    seeds("server_machine", fuzz::server_machine);
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 300,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn random_bytes_find_nothing(bytes in prop::collection::vec(any::<u8>(), 0..2_000)) {
        fuzz::agent_frames(&bytes);
        fuzz::codec(&bytes);
        fuzz::client_machine(&bytes);
        fuzz::server_machine(&bytes);
    }
}
