//! A start of a server that is cancelled half-way. It needs a process of its own, because it counts
//! threads.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod support;

use std::time::Duration;

use actix_sandbox::server::LocalServer;
use support::raw_client::{assert_empty, eventually};
use tokio::time::sleep;

fn threads_of_servers() -> usize {
    std::fs::read_dir("/proc/self/task")
        .unwrap()
        .filter(|task| {
            let name = task.as_ref().unwrap().path().join("comm");
            std::fs::read_to_string(name).is_ok_and(|name| name.starts_with("actix-"))
        })
        .count()
}

#[tokio::test]
async fn a_cancelled_start_leaves_neither_listener_nor_directory() {
    let directory = tempfile::tempdir().unwrap();
    for polls in 1..=2 {
        for pause in [0, 1, 3, 300] {
            let mut start = Box::pin(LocalServer::builder().directory(directory.path()).start());
            for _ in 0..polls {
                if futures::poll!(start.as_mut()).is_ready() {
                    break;
                }
                sleep(Duration::from_millis(pause)).await;
            }
        }
    }
    eventually("no thread is left", || threads_of_servers() == 0).await;
    assert_empty(directory.path());
}
