//! Many operations at once: they wait for their turn, and none holds back the others.

use actix_sandbox::{Language, Sandbox};
use futures::future::{join_all, try_join_all};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::by_message::assert_goes_on;
use crate::support::{sandbox, within};

/// How many operations that move content run concurrently.
const TURNS: usize = 16;

#[actix::test]
async fn five_hundred_small_reads_at_once_succeed() {
    let (_server, sandbox) = sandbox().await;
    let files = sandbox.files();
    files.write("small", "content").await.unwrap();
    let reads = (0..500).map(|_| files.read("small"));
    let reads = within("the reads", try_join_all(reads)).await.unwrap();
    assert!(reads.iter().all(|read| read == "content"));
    assert_goes_on(&sandbox).await;
}

/// The number of temporary files: each running write has one.
async fn temporaries(sandbox: &Sandbox) -> usize {
    let names = sandbox.files().list("").await.unwrap();
    let names = names.iter().map(|entry| entry.path.to_string());
    names
        .filter(|name| name.starts_with(".actix-sandbox-"))
        .count()
}

async fn wait_for_temporaries(sandbox: &Sandbox, number: usize) {
    within("the writes", async {
        loop {
            let found = temporaries(sandbox).await;
            assert!(found <= TURNS, "{found} writes run");
            if found == number {
                return;
            }
        }
    })
    .await;
}

#[actix::test]
async fn writers_beyond_the_limit_wait_without_an_error() {
    let (_server, sandbox) = sandbox().await;
    let files = sandbox.files();
    let mut writers = Vec::new();
    for number in 0..40 {
        let writer = within("a writer", files.create(format!("file-{number:02}"))).await;
        let mut writer = writer.unwrap();
        within("a write", writer.write_all(&[number; 5_000]))
            .await
            .unwrap();
        writers.push(writer);
    }
    wait_for_temporaries(&sandbox, TURNS).await;
    assert!(within("a call", files.metadata("")).await.is_ok());
    assert_goes_on(&sandbox).await;

    let mut rest = writers.split_off(TURNS);
    let first = join_all(writers.iter_mut().map(AsyncWriteExt::shutdown));
    for result in within("the first writes", first).await {
        result.unwrap();
    }
    wait_for_temporaries(&sandbox, TURNS).await;
    assert!(within("a call", files.metadata("file-15")).await.is_ok());
    let rest = join_all(rest.iter_mut().map(AsyncWriteExt::shutdown));
    for result in within("the other writes", rest).await {
        result.unwrap();
    }
    let names = files.list("").await.unwrap();
    let written = names.iter().filter(|entry| entry.metadata.size == 5_000);
    assert_eq!((names.len(), written.count()), (40, 40));
    assert_eq!(files.read("file-39").await.unwrap(), vec![39; 5_000]);
}

#[actix::test]
async fn unread_readers_hold_back_no_other_call() {
    let (_server, sandbox) = sandbox().await;
    let files = sandbox.files();
    files.write("large", vec![1; 2 << 20]).await.unwrap();
    let readers = (0..300).map(|_| files.open("large"));
    let mut readers = within("the readers", try_join_all(readers)).await.unwrap();
    let large = within("a call", files.metadata("large")).await.unwrap();
    assert_eq!(large.size, 2 << 20);
    let output = within("code", sandbox.run(Language::Bash, "echo on")).await;
    assert_eq!(output.unwrap().stdout, "on\n");
    // A transfer needs a turn: readers that are dropped make room.
    readers.truncate(10);
    let read = within("a read", files.read_range("large", 5, Some(3))).await;
    assert_eq!(read.unwrap(), vec![1; 3]);

    within("the kill", sandbox.kill()).await.unwrap();
    for mut reader in readers {
        let mut read = Vec::new();
        let result = within("the end", reader.read_to_end(&mut read)).await;
        assert!(result.is_err() || read.len() == 2 << 20, "{}", read.len());
    }
}
