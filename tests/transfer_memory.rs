//! A file of 1 GiB moves in both directions, and memory stays small. One test in a separate binary,
//! because it measures the memory of the whole process, server included.
#![cfg(target_os = "linux")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod support;

use std::{
    fs,
    io::{Read, Write},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use sha2::{Digest, Sha256};
use support::{memory_sampler, resident_memory, sandbox, within};

const MIB: u64 = 1 << 20;
const SIZE: u64 = 1 << 30;
/// How much the memory of client and server together may grow.
const ALLOWED: u64 = 32 * MIB;

/// Writes a file without holes and without repeated blocks.
fn fill(path: &Path) {
    let mut file = fs::File::create(path).unwrap();
    for number in 0..SIZE / MIB {
        let block: Vec<u8> = (0..MIB).map(|at| (at ^ number ^ (at >> 7)) as u8).collect();
        file.write_all(&block).unwrap();
    }
}

fn hash(path: &Path) -> Vec<u8> {
    let (mut file, mut hash) = (fs::File::open(path).unwrap(), Sha256::new());
    let mut block = vec![0; MIB as usize];
    loop {
        match file.read(&mut block).unwrap() {
            0 => return hash.finalize().to_vec(),
            read => hash.update(&block[..read]),
        }
    }
}

#[actix::test]
async fn a_large_file_moves_both_ways_in_little_memory() {
    let (_server, sandbox) = sandbox().await;
    let files = sandbox.files();
    let local = tempfile::tempdir().unwrap();
    let (one, two) = (local.path().join("one"), local.path().join("two"));
    fill(&one);
    files.write("warm", vec![0; 100_000]).await.unwrap();
    let before = resident_memory() as u64;
    let most = Arc::new(AtomicU64::new(0));
    let upload = files.upload(&one, "large").progress(memory_sampler(&most));
    within("the upload", upload).await.unwrap();
    let download = files
        .download("large", &two)
        .progress(memory_sampler(&most));
    within("the download", download).await.unwrap();
    let grown = most.load(Ordering::Relaxed).saturating_sub(before);
    println!("memory grew by {:.1} MiB", grown as f64 / MIB as f64);
    assert!(grown < ALLOWED, "memory grew by {grown} bytes");
    assert_eq!(hash(&one), hash(&two));
}
