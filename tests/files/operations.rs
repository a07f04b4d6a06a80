//! Each operation, through the handle [`Files`](actix_sandbox::Files).

use actix_sandbox::{
    BuiltinErrorKind, ErrorKind, FileEvent, FileKind, FilePath, Language, WriteMode,
};
use futures::StreamExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::support::{sandbox, within};

#[actix::test]
async fn files_are_written_and_read() {
    let (_server, sandbox) = sandbox().await;
    let files = sandbox.files();
    let all: Vec<u8> = (0..=255).cycle().take(300_000).collect();
    within("the write", files.write("a/b/all", all.clone()))
        .await
        .unwrap();
    assert!(files.read("a/b/all").await.unwrap() == all);
    let part = files.read_range("a/b/all", 255, Some(2)).await.unwrap();
    assert_eq!(part, &[255, 0][..]);

    files.write("empty", "").await.unwrap();
    assert_eq!(files.read("empty").await.unwrap(), "");
    files.append("text", "é\n").await.unwrap();
    files.append("text", "two\n").await.unwrap();
    files.write_at("text", 3, "TWO").await.unwrap();
    assert_eq!(files.read_to_string("text").await.unwrap(), "é\nTWO\n");
    let error = files.write_new("text", "x").await.unwrap_err();
    let kind = ErrorKind::Builtin(BuiltinErrorKind::AlreadyExists);
    assert_eq!(error.kind(), kind, "{error}");

    // Code sees the files that the client wrote, and the other way round.
    let output = sandbox.run(Language::Bash, "cat text; echo code > own");
    assert_eq!(output.await.unwrap().stdout, "é\nTWO\n");
    assert_eq!(files.read_to_string("own").await.unwrap(), "code\n");
}

#[actix::test]
async fn a_reader_and_a_writer_stream_a_file() {
    let (_server, sandbox) = sandbox().await;
    let files = sandbox.files();
    let content: Vec<u8> = (0..3_000_000_u32).map(|it| (it % 251) as u8).collect();
    let mut writer = files.create("large").await.unwrap();
    writer.write_all(&content).await.unwrap();
    assert!(!files.exists("large").await.unwrap());
    within("the commit", writer.shutdown()).await.unwrap();
    let mut reader = files.open("large").await.unwrap();
    let mut read = Vec::new();
    within("the content", reader.read_to_end(&mut read))
        .await
        .unwrap();
    assert!(read == content);

    let mut dropped = files.writer("large", WriteMode::Replace).await.unwrap();
    dropped.write_all(b"half").await.unwrap();
    drop(dropped);
    let error = files.open("missing").await.unwrap().read_u8().await;
    assert_eq!(error.unwrap_err().kind(), std::io::ErrorKind::NotFound);
    // The dropped writer is killed in the background. Its file never appears.
    let names = within("no temporary file", async {
        loop {
            let names = files.list(".").await.unwrap();
            if names.len() == 1 {
                return names;
            }
        }
    })
    .await;
    assert_eq!(names[0].path, FilePath::from("large"));
    assert_eq!(names[0].metadata.size, content.len() as u64);
}

#[actix::test]
async fn directories_links_and_permissions_are_changed_and_described() {
    let (_server, sandbox) = sandbox().await;
    let files = sandbox.files();
    files.create_dir("d/e/f").await.unwrap();
    files.create_dir("d/e/f").await.unwrap();
    files.write("d/one.txt", "1").await.unwrap();
    files.write("d/e/two.txt", "22").await.unwrap();
    files.symlink("one.txt", "d/link").await.unwrap();
    files.hard_link("d/one.txt", "d/hard").await.unwrap();
    files.set_permissions("d/one.txt", 0o640).await.unwrap();
    let names = |entries: Vec<actix_sandbox::FileEntry>| {
        let names = entries.iter().map(|entry| entry.path.to_string());
        names.collect::<Vec<_>>()
    };
    let listed = files.list("d").await.unwrap();
    assert_eq!(listed[3].metadata.permissions, 0o640);
    assert_eq!(listed[2].metadata.target, Some("one.txt".into()));
    assert_eq!(names(listed), ["e", "hard", "link", "one.txt"]);
    let deep = files.entries("d", 9, Some("*.txt")).await.unwrap();
    let deep = deep.map(Result::unwrap).collect().await;
    assert_eq!(names(deep), ["e/two.txt", "one.txt"]);

    let link = files.symlink_metadata("d/link").await.unwrap();
    assert_eq!(link.kind, FileKind::Symlink);
    let target = files.metadata("d/link").await.unwrap();
    assert_eq!((target.kind, target.size), (FileKind::File, 1));
    assert_eq!(files.copy("d/e/two.txt", "copy").await.unwrap(), 2);
    files.rename("copy", "d/renamed").await.unwrap();
    assert!(!files.exists("copy").await.unwrap());
    assert_eq!(files.read("d/renamed").await.unwrap(), "22");
    let error = files.remove("d").await.unwrap_err();
    let kind = ErrorKind::Builtin(BuiltinErrorKind::NotEmpty);
    assert_eq!(error.kind(), kind, "{error}");
    files.remove("d/link").await.unwrap();
    assert!(files.exists("d/one.txt").await.unwrap());
    files.remove_all("d").await.unwrap();
    assert!(files.list("").await.unwrap().is_empty());
}

#[actix::test]
async fn a_watch_reports_changes_in_order() {
    let (_server, sandbox) = sandbox().await;
    let files = sandbox.files();
    files.create_dir("w/sub").await.unwrap();
    let mut events = within("the watch", files.watch("w", true)).await.unwrap();
    files.write("w/sub/a", "1").await.unwrap();
    files.rename("w/sub/a", "w/b").await.unwrap();
    files.remove("w/b").await.unwrap();
    let mut seen = Vec::new();
    while seen.last() != Some(&FileEvent::Removed { path: "b".into() }) {
        let event = within("an event", events.next()).await.unwrap();
        seen.push(event.unwrap());
    }
    let (path, to) = ("sub/a".into(), "b".into());
    assert_eq!(
        seen,
        [
            // The write appears as one change.
            FileEvent::Created {
                path: "sub/a".into()
            },
            FileEvent::Renamed { path, to },
            FileEvent::Removed { path: "b".into() },
        ]
    );
    files.remove_all("w").await.unwrap();
    let rest: Vec<_> = within("the end", events.collect()).await;
    let last = rest.last().unwrap().as_ref().unwrap();
    assert_eq!(*last, FileEvent::Removed { path: "".into() });
}

#[actix::test]
async fn a_program_runs_without_a_shell() {
    let (_server, sandbox) = sandbox().await;
    let odd = ["$HOME", "a b", "", "*", "é\n"];
    let output = sandbox.program("printf").arg("%s|").args(odd).output();
    let output = within("the program", output).await.unwrap();
    assert_eq!(output.stdout, "$HOME|a b||*|é\n|");
    let error = sandbox.program("no-such-program").output().await;
    let error = error.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ExecFailed, "{error}");
    assert!(error.to_string().contains("no-such-program"), "{error}");
}
