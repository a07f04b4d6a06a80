//! Each operation, by messages to the actors.

use actix_sandbox::{
    BuiltinErrorKind, FileEvent, FileKind, FileMetadata, FilePath, LocalServer, ProcessEnd,
    Transferred, WriteMode,
    actor::{Builtin, CloseStdin, Exec, ExecProgram, Kill, Wait, WriteStdin},
};
use futures::StreamExt;
use serde_json::{Value, json};

use super::by_message::{assert_goes_on, end, link, list, perform, read, remove, write};
use crate::support::{patient, proxy::Proxy, sandbox, within};

fn moved(result: &Value) -> Transferred {
    serde_json::from_value(result.clone()).unwrap()
}

#[actix::test]
async fn messages_write_read_and_copy_files() {
    let (_server, sandbox) = sandbox().await;
    let content: Vec<u8> = (0..=255).cycle().take(200_000).collect();
    let new = Builtin::Write {
        path: "a/file".into(),
        mode: WriteMode::Create,
        permissions: Some(0o600),
    };
    let (result, output) = perform(&sandbox, new.clone(), &content).await.unwrap();
    assert_eq!(moved(&result), Transferred::new(200_000, 1));
    assert!(output.is_empty());
    let error = perform(&sandbox, new, b"again").await.unwrap_err();
    assert_eq!(error.kind, BuiltinErrorKind::AlreadyExists, "{error}");

    let (result, output) = perform(&sandbox, read("a/file"), b"").await.unwrap();
    assert_eq!(moved(&result), Transferred::new(200_000, 1));
    assert!(output == content);
    let part = Builtin::Read {
        path: "a/file".into(),
        offset: 199_999,
        length: Some(7),
    };
    let (result, output) = perform(&sandbox, part, b"").await.unwrap();
    assert_eq!(
        (moved(&result).bytes, &output[..]),
        (1, &content[199_999..])
    );

    let copy = Builtin::Copy {
        path: "a/file".into(),
        to: "b/copy".into(),
    };
    let (result, _) = perform(&sandbox, copy, b"").await.unwrap();
    assert_eq!(moved(&result), Transferred::new(200_000, 1));
    let metadata = Builtin::Metadata {
        path: "b/copy".into(),
        follow: false,
    };
    let (result, _) = perform(&sandbox, metadata, b"").await.unwrap();
    let metadata: FileMetadata = serde_json::from_value(result).unwrap();
    let described = (metadata.kind, metadata.size, metadata.permissions);
    assert_eq!(described, (FileKind::File, 200_000, 0o600));

    for (mode, input) in [
        (WriteMode::Replace, &b"one"[..]),
        (WriteMode::Append, b" two"),
        (WriteMode::At(1), b"NE"),
    ] {
        let (result, _) = perform(&sandbox, write("text", mode), input).await.unwrap();
        assert_eq!(moved(&result), Transferred::new(input.len() as u64, 1));
    }
    let (_, output) = perform(&sandbox, read("text"), b"").await.unwrap();
    assert_eq!(output, b"oNE two");
    assert_goes_on(&sandbox).await;
}

#[actix::test]
async fn messages_change_directories_links_and_permissions() {
    let (_server, sandbox) = sandbox().await;
    let run = |builtin| perform(&sandbox, builtin, b"");
    let done = (json!({}), Vec::new());
    let create = Builtin::CreateDir { path: "d/e".into() };
    assert_eq!(run(create).await.unwrap(), done);
    perform(&sandbox, write("d/one", WriteMode::Replace), b"1")
        .await
        .unwrap();
    assert_eq!(run(link("d/soft", "one", true)).await.unwrap(), done);
    assert_eq!(run(link("d/e/hard", "d/one", false)).await.unwrap(), done);
    let change = Builtin::SetPermissions {
        path: "d/soft".into(),
        permissions: 0o4751,
    };
    assert_eq!(run(change).await.unwrap(), done);
    let rename = Builtin::Rename {
        path: "d/one".into(),
        to: "d/two".into(),
    };
    assert_eq!(run(rename).await.unwrap(), done);

    let (result, output) = run(list("d", 2)).await.unwrap();
    assert_eq!(result, json!({}));
    let entries = String::from_utf8(output).unwrap();
    let entries: Vec<Value> = entries
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let listed: Vec<_> = entries
        .iter()
        .map(|entry| (&entry["path"], &entry["kind"], &entry["permissions"]))
        .collect();
    let mode = json!(0o4751);
    assert_eq!(listed.len(), 4, "{listed:?}");
    assert_eq!(listed[0].0, "e");
    assert_eq!(listed[1], (&json!("e/hard"), &json!("file"), &mode));
    assert_eq!(
        (listed[2].0, listed[2].1),
        (&json!("soft"), &json!("symlink"))
    );
    assert_eq!(entries[2]["target"], "one");
    assert_eq!(listed[3], (&json!("two"), &json!("file"), &mode));

    let error = run(remove("d", false)).await.unwrap_err();
    assert_eq!(error.kind, BuiltinErrorKind::NotEmpty, "{error}");
    assert_eq!(run(remove("d", true)).await.unwrap(), done);
    let (_, output) = run(list("", 9)).await.unwrap();
    assert!(output.is_empty());
    assert_goes_on(&sandbox).await;
}

#[actix::test]
async fn messages_watch_until_stdin_is_closed() {
    let (_server, sandbox) = sandbox().await;
    let watch = Builtin::Watch {
        path: FilePath::default(),
        recursive: false,
    };
    let started = sandbox.addr().send(Exec::builtin(watch)).await.unwrap();
    let started = started.unwrap();
    let mut stdout = started.output.stdout();
    let mut output = Vec::new();
    while !output.ends_with(b"\n") {
        let piece = within("the first event", stdout.next()).await.unwrap();
        output.extend_from_slice(&piece.unwrap());
    }
    perform(&sandbox, write("a", WriteMode::Append), b"1")
        .await
        .unwrap();
    within("the end of stdin", started.actor.send(CloseStdin))
        .await
        .unwrap()
        .unwrap();
    while let Some(piece) = within("an event", stdout.next()).await {
        output.extend_from_slice(&piece.unwrap());
    }
    let end = within("the end", started.actor.send(Wait)).await.unwrap();
    assert_eq!(end.unwrap(), ProcessEnd::Completed(Ok("{}".to_owned())));
    let events = String::from_utf8(output).unwrap();
    let events: Vec<FileEvent> = events
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let path = || FilePath::from("a");
    assert_eq!(events[0], FileEvent::Ready);
    assert_eq!(events[1], FileEvent::Created { path: path() });
    assert_eq!(events[2], FileEvent::Modified { path: path() });
}

#[actix::test]
async fn messages_pack_and_unpack_a_directory() {
    let (_server, sandbox) = sandbox().await;
    perform(
        &sandbox,
        write("from/d/file", WriteMode::Replace),
        b"content",
    )
    .await
    .unwrap();
    perform(&sandbox, link("from/soft", "d/file", true), b"")
        .await
        .unwrap();
    let pack = Builtin::Pack {
        path: "from".into(),
    };
    let (result, archive) = perform(&sandbox, pack, b"").await.unwrap();
    assert_eq!(moved(&result).bytes, 7, "{result}");
    let unpack = Builtin::Unpack {
        path: "to".into(),
        file: false,
    };
    let (result, output) = perform(&sandbox, unpack, &archive).await.unwrap();
    assert_eq!(moved(&result).bytes, 7, "{result}");
    assert!(output.is_empty());
    let (_, output) = perform(&sandbox, read("to/soft"), b"").await.unwrap();
    assert_eq!(output, b"content");
}

#[actix::test]
async fn a_message_kills_an_operation() {
    let (_server, sandbox) = sandbox().await;
    let exec = Exec::builtin(write("file", WriteMode::Replace));
    let started = sandbox.addr().send(exec).await.unwrap().unwrap();
    let half = WriteStdin(vec![7; 100_000].into());
    started.actor.send(half).await.unwrap().unwrap();
    within("the kill", started.actor.send(Kill))
        .await
        .unwrap()
        .unwrap();
    let ended = within("the end", started.actor.send(Wait)).await.unwrap();
    assert_eq!(ended.unwrap(), ProcessEnd::Killed);
    let (ended, output) = end(&sandbox, list("", 1), b"").await;
    assert!(ended.success() && output.is_empty(), "{ended}");
    assert_goes_on(&sandbox).await;
}

#[actix::test]
async fn a_stream_of_a_binary_exec_can_end_before_the_exec() {
    let server = LocalServer::start().await.unwrap();
    let proxy = Proxy::plain(&server).await;
    let sandbox = patient(&proxy.url()).auto_reconnect(true).await.unwrap();
    let code = "echo out; exec >&-; read -r line; echo \"$line\" >&2; exit 3";
    let argv = ["bash", "-c", code].map(str::to_owned).to_vec();
    let mut exec = Exec::of(ExecProgram::Argv(argv));
    exec.options.binary = true;
    let started = sandbox.addr().send(exec).await.unwrap().unwrap();
    let stdout = within("stdout", started.output.stdout().read_all()).await;
    assert_eq!(stdout.unwrap(), "out\n");
    // The process still waits for its input.
    assert_eq!(started.output.process_end(), None);
    proxy.cut();
    let line = WriteStdin("more\n".into());
    started.actor.send(line).await.unwrap().unwrap();
    let stderr = within("stderr", started.output.stderr().read_all()).await;
    assert_eq!(stderr.unwrap(), "more\n");
    let end = within("the end", started.actor.send(Wait)).await.unwrap();
    assert_eq!(end.unwrap(), ProcessEnd::Exited(3));
}
