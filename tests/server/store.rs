//! Snapshots and checkpoints with a raw client: messages are as recorded, and failures lose no data
//! and restore nothing that they must not.

use std::path::Path;

use crate::support::{
    archives,
    raw_client::{Client, Identity, assert_empty, entries, processes_of},
};
use actix_sandbox::server::LocalServer;
use serde_json::{Value, json};

async fn on(state: &Path) -> LocalServer {
    let builder = LocalServer::builder().state_directory(state);
    builder.start().await.unwrap()
}

fn checkpointable() -> Value {
    json!({"idle_timeout": 60, "enable_checkpoint": true})
}

async fn snapshot(client: &mut Client, name: &str) -> Vec<String> {
    client
        .send(json!({"action": "snapshot_filesystem", "name": name}))
        .await;
    let mut lines = vec![client.line().await];
    while !lines.last().unwrap().ends_with("CREATED") && !lines.last().unwrap().contains("error: ")
    {
        lines.push(client.line().await);
    }
    lines
}

/// Creates a sandbox, runs code in it and checkpoints it.
async fn checkpointed(server: &LocalServer, code: &str) -> Identity {
    let (mut client, identity) = Client::create_with(server, checkpointable()).await;
    client.bash(code).await;
    client.action("checkpoint").await;
    assert_eq!(
        client.until("close 1000").await,
        [
            "SANDBOX_CHECKPOINTING",
            "SANDBOX_DELETING",
            "SANDBOX_DELETED",
            "SANDBOX_CHECKPOINTED",
            "close 1000"
        ]
    );
    identity
}

/// Attaches to a checkpointed sandbox. Checks that the server restores it.
async fn restored(server: &LocalServer, identity: &Identity) -> Client {
    let mut client = Client::connect(server, &identity.attach_path()).await;
    assert_eq!(client.line().await, "SANDBOX_RESTORING");
    assert_eq!(client.line().await, "SANDBOX_RUNNING");
    client
}

async fn refused(server: &LocalServer, identity: &Identity, close: &str) -> Vec<String> {
    let mut client = Client::connect(server, &identity.attach_path()).await;
    client.until(close).await
}

#[tokio::test]
async fn a_new_sandbox_starts_from_a_snapshot_and_the_old_one_goes_on() {
    let state = tempfile::tempdir().unwrap();
    let server = on(state.path()).await;
    let (mut client, _) = Client::create(&server).await;
    client
        .bash("mkdir -p d; echo one > d/file; echo tmp > $TMPDIR/t; ln -s d/file link; chmod 750 d")
        .await;
    let created = [
        "SANDBOX_FILESYSTEM_SNAPSHOT_CREATING",
        "SANDBOX_FILESYSTEM_SNAPSHOT_CREATED",
    ];
    assert_eq!(snapshot(&mut client, "snap-1.0").await, created);
    client.bash("echo two > d/file").await;
    assert_eq!(snapshot(&mut client, "later").await, created);
    assert_eq!(client.bash("cat d/file").await, "two\n");
    // A snapshot replaces an older one with the same name.
    client.bash("echo three > d/file").await;
    assert_eq!(snapshot(&mut client, "later").await, created);
    server.stop().await;

    let server = on(state.path()).await;
    for (name, text) in [("snap-1.0", "one"), ("later", "three")] {
        let config = json!({"idle_timeout": 60, "filesystem_snapshot_name": name});
        let (mut client, _) = Client::create_with(&server, config).await;
        let seen = client
            .bash("cat link $TMPDIR/t; find d -maxdepth 0 -printf '%m\\n'; pwd")
            .await;
        let home = client.bash("echo $HOME").await;
        assert_eq!(seen, format!("{text}\ntmp\n750\n{home}"));
    }
    server.stop().await;
    assert_eq!(
        entries(&state.path().join("snapshots")).len(),
        2,
        "and nothing unfinished"
    );
}

#[tokio::test]
async fn names_that_lead_elsewhere_are_refused_with_what_is_allowed() {
    let state = tempfile::tempdir().unwrap();
    let server = on(state.path()).await;
    let (mut client, identity) = Client::create(&server).await;
    for name in [
        "../escaped",
        "/tmp/x",
        "",
        ".hidden",
        "a\u{0}b",
        "é",
        &"n".repeat(5000),
    ] {
        let lines = snapshot(&mut client, name).await;
        assert_eq!(
            lines[..2],
            [
                "SANDBOX_FILESYSTEM_SNAPSHOT_CREATING",
                "SANDBOX_FILESYSTEM_SNAPSHOT_ERROR"
            ]
        );
        assert!(
            lines[2].contains("letters, digits") && lines[2].len() < 700,
            "{lines:?}"
        );
        assert!(lines[2].contains(&identity.id));

        let mut other = Client::connect(&server, "/create").await;
        other.send(json!({"filesystem_snapshot_name": name})).await;
        let lines = other.until("close 4000").await;
        assert_eq!(lines[1], "SANDBOX_CREATION_ERROR");
        assert!(lines[2].contains("letters, digits"), "{lines:?}");
    }
    client.action("snapshot_filesystem").await;
    let lines = [
        client.line().await,
        client.line().await,
        client.line().await,
    ];
    assert!(lines[2].contains("The name is missing."), "{lines:?}");
    assert_eq!(client.bash("echo goes on").await, "goes on\n");
    assert_empty(&state.path().join("snapshots"));
    assert_eq!(server.sandbox_count(), 1);
}

/// During a large snapshot, the sandbox runs code, a second snapshot is refused, and a kill doesn't
/// wait.
#[tokio::test]
async fn a_snapshot_holds_up_nothing_and_a_kill_ends_it() {
    let state = tempfile::tempdir().unwrap();
    let builder = LocalServer::builder().state_directory(state.path());
    let server = builder.max_archive_size(1 << 50).start().await.unwrap();
    let (mut client, identity) = Client::create(&server).await;
    client.run("python", archives::ENDLESS).await;
    let ask = json!({"action": "snapshot_filesystem", "name": "large"});
    client.send(ask.clone()).await;
    client.send(ask).await;
    client.exec("bash", "echo meanwhile").await;
    let lines = client.until("SANDBOX_EXECUTION_DONE").await;
    let error = format!(
        "error: Failed to snapshot filesystem for sandbox {}: A filesystem snapshot is already in progress.",
        identity.id
    );
    assert_eq!(
        lines,
        [
            "SANDBOX_FILESYSTEM_SNAPSHOT_CREATING",
            "SANDBOX_FILESYSTEM_SNAPSHOT_CREATING",
            "SANDBOX_FILESYSTEM_SNAPSHOT_ERROR",
            &error,
            "SANDBOX_EXECUTION_RUNNING",
            "stdout: meanwhile\n",
            "SANDBOX_EXECUTION_DONE"
        ]
    );
    client.action("kill_sandbox").await;
    let lines = client.until("close 1000").await;
    assert_eq!(lines[lines.len() - 2], "SANDBOX_KILLED", "{lines:?}");
    assert_empty(&state.path().join("snapshots"));
    server.stop().await;
}

#[tokio::test]
async fn a_checkpoint_is_restored_also_by_a_server_started_later() {
    let state = tempfile::tempdir().unwrap();
    let server = on(state.path()).await;
    let identity = checkpointed(&server, "echo kept > file; sleep 1000 > log 2>&1 & disown").await;
    assert_eq!(server.sandbox_count(), 0);
    assert_eq!(processes_of(&identity), [0_u32; 0], "memory is not kept");

    let mut client = restored(&server, &identity).await;
    assert_eq!(client.bash("cat file; echo more >> file").await, "kept\n");
    client.action("checkpoint").await;
    client.until("close 1000").await;
    server.stop().await;

    let server = on(state.path()).await;
    let mut client = restored(&server, &identity).await;
    assert_eq!(client.bash("cat file").await, "kept\nmore\n");
    // The restored sandbox keeps its configuration, so it can be checkpointed.
    client.action("checkpoint").await;
    client.until("close 1000").await;
    // A kill deletes the checkpoint, too.
    restored(&server, &identity).await.kill_sandbox().await;
    let gone = ["SANDBOX_RESTORING", "SANDBOX_NOT_FOUND", "close 1011"];
    assert_eq!(refused(&server, &identity, "close 1011").await, gone);
    assert_empty(&state.path().join("checkpoints"));
    server.stop().await;
}

/// Deleting the sandbox deletes its old checkpoint, too.
#[tokio::test]
async fn a_restored_sandbox_that_is_deleted_for_being_idle_is_gone() {
    let state = tempfile::tempdir().unwrap();
    let server = on(state.path()).await;
    let config = json!({"idle_timeout": 5, "enable_checkpoint": true});
    let (mut client, identity) = Client::create_with(&server, config).await;
    client.action("checkpoint").await;
    client.until("close 1000").await;
    let mut client = restored(&server, &identity).await;
    client.bash("echo changed > file").await;
    assert_eq!(client.line().await, "SANDBOX_DELETING");
    assert_eq!(client.line().await, "SANDBOX_DELETED");
    let gone = ["SANDBOX_RESTORING", "SANDBOX_NOT_FOUND", "close 1011"];
    assert_eq!(refused(&server, &identity, "close 1011").await, gone);
    assert_empty(&state.path().join("checkpoints"));
}

/// Two servers share a state directory. When one deletes its copy of a sandbox, the newer
/// checkpoint of the other stays.
#[tokio::test]
async fn deleting_an_idle_sandbox_keeps_a_newer_checkpoint() {
    let state = tempfile::tempdir().unwrap();
    let (first, second) = (on(state.path()).await, on(state.path()).await);
    let config = json!({"idle_timeout": 5, "enable_checkpoint": true});
    let (mut client, identity) = Client::create_with(&first, config).await;
    client.action("checkpoint").await;
    client.until("close 1000").await;
    let mut old = restored(&first, &identity).await;
    // The exec keeps the old copy from idling until the other server has stored more.
    old.exec("bash", "read x").await;
    assert_eq!(old.line().await, "SANDBOX_EXECUTION_RUNNING");
    let mut new = restored(&second, &identity).await;
    new.bash("echo newer > file").await;
    new.action("checkpoint").await;
    new.until("close 1000").await;
    old.stdin("\n").await;
    assert_eq!(old.line().await, "SANDBOX_EXECUTION_DONE");
    assert_eq!(old.line().await, "SANDBOX_DELETING");
    assert_eq!(old.line().await, "SANDBOX_DELETED");
    let mut client = restored(&second, &identity).await;
    assert_eq!(client.bash("cat file").await, "newer\n");
}

/// Two servers share a state directory. Each has its own processes of the sandbox.
#[tokio::test]
async fn kills_end_nothing_of_the_same_sandbox_on_another_server() {
    let state = tempfile::tempdir().unwrap();
    let (first, second) = (on(state.path()).await, on(state.path()).await);
    let identity = checkpointed(&first, "true").await;
    let mut one = restored(&first, &identity).await;
    let mut two = restored(&second, &identity).await;
    one.exec("bash", "read x; echo alive").await;
    assert_eq!(one.line().await, "SANDBOX_EXECUTION_RUNNING");
    two.exec("bash", "sleep 1000").await;
    assert_eq!(two.line().await, "SANDBOX_EXECUTION_RUNNING");
    two.action("kill_process").await;
    two.until("SANDBOX_EXECUTION_FORCE_KILLED").await;
    two.kill_sandbox().await;
    one.stdin("\n").await;
    one.hears("alive\n").await;
    one.kill_sandbox().await;
}

/// A restore keeps the checkpoint, so a server that is killed after a restore only loses later
/// changes.
#[tokio::test]
async fn a_restored_sandbox_still_has_its_checkpoint() {
    let state = tempfile::tempdir().unwrap();
    let server = on(state.path()).await;
    let identity = checkpointed(&server, "echo kept > file").await;
    let _client = restored(&server, &identity).await;
    let other = on(state.path()).await;
    assert_eq!(
        restored(&other, &identity).await.bash("cat file").await,
        "kept\n"
    );
}

#[tokio::test]
async fn what_is_not_configured_is_refused_and_the_sandbox_lives_on() {
    let server = LocalServer::start().await.unwrap();
    let (mut client, identity) = Client::create(&server).await;
    client.bash("echo kept > file").await;
    client.action("checkpoint").await;
    let id = &identity.id;
    assert_eq!(
        client.until("close 4000").await,
        [
            "SANDBOX_CHECKPOINTING",
            "SANDBOX_CHECKPOINT_ERROR",
            &format!(
                "error: Failed to checkpoint sandbox {id}: Sandbox {id} is not configured for checkpointing."
            ),
            "close 4000"
        ]
    );
    assert_eq!(
        Client::attach(&server, &identity)
            .await
            .bash("cat file")
            .await,
        "kept\n"
    );
}

#[tokio::test]
async fn a_checkpoint_during_an_exec_is_refused_and_the_exec_runs_on() {
    let server = LocalServer::start().await.unwrap();
    let (mut client, _) = Client::create_with(&server, checkpointable()).await;
    client.exec("bash", "read line; echo $line").await;
    assert_eq!(client.line().await, "SANDBOX_EXECUTION_RUNNING");
    client.action("checkpoint").await;
    assert_eq!(client.line().await, "SANDBOX_CHECKPOINTING");
    assert_eq!(client.line().await, "SANDBOX_EXECUTION_IN_PROGRESS_ERROR");
    assert_eq!(
        client.line().await,
        "error: Cannot checkpoint while an execution is in progress."
    );
    client.stdin("done\n").await;
    assert_eq!(
        client.until("SANDBOX_EXECUTION_DONE").await[0],
        "stdout: done\n"
    );
    client.action("checkpoint").await;
    client.until("SANDBOX_CHECKPOINTED").await;
}

/// The checkpoint cancels a snapshot that is under way. The snapshot is answered before the sandbox
/// ends, and leaves no file.
#[tokio::test]
async fn a_checkpoint_cancels_a_snapshot_and_reports_it() {
    let state = tempfile::tempdir().unwrap();
    let server = on(state.path()).await;
    let (mut client, identity) = Client::create_with(&server, checkpointable()).await;
    client
        .bash("head -c 300000000 /dev/urandom > noise; echo kept > file")
        .await;
    client
        .send(json!({"action": "snapshot_filesystem", "name": "large"}))
        .await;
    client.action("checkpoint").await;
    let mut lines = client.until("close 1000").await;
    let reason = lines.remove(3);
    assert!(reason.contains("it was given up"), "{reason}");
    assert_eq!(
        lines,
        [
            "SANDBOX_FILESYSTEM_SNAPSHOT_CREATING",
            "SANDBOX_CHECKPOINTING",
            "SANDBOX_FILESYSTEM_SNAPSHOT_ERROR",
            "SANDBOX_DELETING",
            "SANDBOX_DELETED",
            "SANDBOX_CHECKPOINTED",
            "close 1000"
        ]
    );
    assert_empty(&state.path().join("snapshots"));
    let mut client = restored(&server, &identity).await;
    assert_eq!(client.bash("cat file").await, "kept\n");
}

#[tokio::test]
async fn a_wrong_token_restores_nothing_and_loses_nothing() {
    let state = tempfile::tempdir().unwrap();
    let server = on(state.path()).await;
    let identity = checkpointed(&server, "echo kept > file").await;
    let stranger = Identity {
        token: "f".repeat(48),
        ..identity.clone()
    };
    assert_eq!(
        refused(&server, &stranger, "close 4000").await,
        [
            "SANDBOX_RESTORING",
            "SANDBOX_PERMISSION_DENIAL_ERROR",
            "error: Invalid sandbox token.",
            "close 4000"
        ]
    );
    assert_eq!(server.sandbox_count(), 0);
    assert_eq!(
        restored(&server, &identity).await.bash("cat file").await,
        "kept\n"
    );
    // The stored checkpoint doesn't contain the token.
    for file in entries(&state.path().join("checkpoints")) {
        let plain = archives::decompress(&file).unwrap();
        let text = String::from_utf8_lossy(&plain);
        assert!(text.contains(&identity.id) && !text.contains(&identity.token));
    }
}

#[tokio::test]
async fn a_damaged_checkpoint_is_a_restore_error_and_is_kept() {
    let state = tempfile::tempdir().unwrap();
    let server = on(state.path()).await;
    let identity = checkpointed(
        &server,
        "head -c 100000 /dev/urandom > noise; echo kept > file",
    )
    .await;
    let file = entries(&state.path().join("checkpoints")).remove(0);
    let whole = std::fs::read(&file).unwrap();
    for damaged in [&whole[..whole.len() / 2], &whole[..10], b"garbage", b""] {
        std::fs::write(&file, damaged).unwrap();
        let lines = refused(&server, &identity, "close 4000").await;
        assert_eq!(lines[..2], ["SANDBOX_RESTORING", "SANDBOX_RESTORE_ERROR"]);
        let begin = format!("error: Failed to restore sandbox {}: ", identity.id);
        assert!(lines[2].starts_with(&begin), "{lines:?}");
        assert_eq!(std::fs::read(&file).unwrap(), damaged);
        assert_eq!(server.sandbox_count(), 0);
    }
    // The checkpoint of another sandbox is not restored as this one.
    let other = checkpointed(&server, "true").await;
    let others = entries(&state.path().join("checkpoints"));
    let others = others.iter().find(|path| **path != file).unwrap();
    std::fs::copy(others, &file).unwrap();
    let lines = refused(&server, &identity, "close 4000").await;
    assert!(lines[2].contains("belongs to another sandbox"), "{lines:?}");
    restored(&server, &other).await;

    std::fs::write(&file, &whole).unwrap();
    assert_eq!(
        restored(&server, &identity).await.bash("cat file").await,
        "kept\n"
    );
}

/// An attacker has put an archive into the state directory with a symlink out of the sandbox.
#[tokio::test]
async fn a_snapshot_that_escapes_the_sandbox_writes_nothing() {
    let state = tempfile::tempdir().unwrap();
    let outside = tempfile::tempdir().unwrap();
    let server = on(state.path()).await;
    let make = "
import io, sys, tarfile
archive = tarfile.open(fileobj=sys.stdout.buffer, mode='w|')
link = tarfile.TarInfo('home')
link.type, link.linkname = tarfile.SYMTYPE, sys.argv[1]
archive.addfile(link)
archive.addfile(tarfile.TarInfo('home/escaped'), io.BytesIO())
archive.close()";
    let made = std::process::Command::new("python3")
        .args(["-c", make])
        .arg(outside.path())
        .output()
        .unwrap();
    assert!(made.status.success(), "{made:?}");
    let archive = state.path().join("snapshots/evil.tar.lz4");
    archives::compress(&made.stdout[..], std::fs::File::create(archive).unwrap());

    let mut client = Client::connect(&server, "/create").await;
    client
        .send(json!({"filesystem_snapshot_name": "evil"}))
        .await;
    let lines = client.until("close 4000").await;
    assert_eq!(lines[..2], ["SANDBOX_CREATING", "SANDBOX_CREATION_ERROR"]);
    assert!(lines[2].contains("'evil'"), "{lines:?}");
    assert_empty(outside.path());
    assert_eq!(server.sandbox_count(), 0);
}

/// Of eight clients, one restores the sandbox. The others learn that it is in use.
#[tokio::test]
async fn of_many_that_attach_at_once_one_gets_the_sandbox() {
    let server = LocalServer::start().await.unwrap();
    let identity = checkpointed(
        &server,
        "head -c 3000000 /dev/urandom > noise; echo kept > file",
    )
    .await;
    let attach = || async {
        let mut client = Client::connect(&server, &identity.attach_path()).await;
        loop {
            match client.line().await.as_str() {
                "SANDBOX_RESTORING" => {}
                "SANDBOX_RUNNING" => return Some(client),
                "SANDBOX_IN_USE" => return None,
                // A session that loses the race to restore the sandbox tries again by itself.
                other => panic!("{other}"),
            }
        }
    };
    let clients = futures::future::join_all((0..8).map(|_| attach())).await;
    let mut clients: Vec<_> = clients.into_iter().flatten().collect();
    assert_eq!(clients.len(), 1);
    assert_eq!(clients[0].bash("cat file").await, "kept\n");
    assert_eq!(server.sandbox_count(), 1);
}

#[tokio::test]
async fn an_idle_sandbox_is_checkpointed_when_that_was_asked_for() {
    let state = tempfile::tempdir().unwrap();
    let server = on(state.path()).await;
    let config = json!({
        "idle_timeout": 5,
        "enable_checkpoint": true,
        "enable_idle_timeout_auto_checkpoint": true
    });
    let (mut client, identity) = Client::create_with(&server, config.clone()).await;
    client.bash("echo kept > file").await;
    assert_eq!(client.line().await, "SANDBOX_DELETING");
    assert_eq!(client.line().await, "SANDBOX_DELETED");
    let mut client = restored(&server, &identity).await;
    assert_eq!(client.bash("cat file; echo two > file").await, "kept\n");
    drop(client);

    // A graceful shutdown stores a checkpoint, too.
    server.stop().await;
    let server = on(state.path()).await;
    assert_eq!(
        restored(&server, &identity).await.bash("cat file").await,
        "two\n"
    );
}

#[tokio::test]
async fn a_server_that_is_full_restores_nothing_and_says_so() {
    let server = LocalServer::builder()
        .max_sandboxes(1)
        .start()
        .await
        .unwrap();
    let identity = checkpointed(&server, "echo kept > file").await;
    let (client, _) = Client::create(&server).await;
    let lines = refused(&server, &identity, "close 4000").await;
    assert!(lines[2].contains("its limit of 1 sandboxes"), "{lines:?}");
    client.kill_sandbox().await;
    restored(&server, &identity).await;
}

/// The variable that marks the process in which the disk is full.
const DISK_IS_FULL: &str = "ACTIX_SANDBOX_TEST_DISK_IS_FULL";

/// The test runs in a process that can't write more than 64 KiB to a file, so larger archives
/// fail.
#[test]
fn a_full_disk_is_an_error_and_old_archives_are_kept() {
    let name = "store::a_full_disk_is_an_error_and_old_archives_are_kept";
    if std::env::var_os(DISK_IS_FULL).is_none() {
        let limited = format!("trap '' XFSZ; ulimit -f 64; exec \"$0\" --exact {name} --nocapture");
        let output = std::process::Command::new("bash")
            .args(["-c", &limited])
            .arg(std::env::current_exe().unwrap())
            .env(DISK_IS_FULL, "1")
            // `runsc` itself needs larger files.
            .env("ACTIX_SANDBOX_BACKEND", "host")
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(
            output.status.success() && text.contains("1 passed"),
            "{output:?}"
        );
        return;
    }
    let system = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    system.unwrap().block_on(async {
        let state = tempfile::tempdir().unwrap();
        let server = on(state.path()).await;
        let (mut client, identity) = Client::create_with(&server, checkpointable()).await;
        client.bash("echo small > file").await;
        assert_eq!(snapshot(&mut client, "snap").await.len(), 2);
        client
            .bash("for i in {1..20}; do head -c 30000 /dev/urandom > $i; done; echo large > file")
            .await;
        let lines = snapshot(&mut client, "snap").await;
        assert_eq!(lines[1], "SANDBOX_FILESYSTEM_SNAPSHOT_ERROR");
        assert!(lines[2].contains("File too large"), "{lines:?}");
        assert_eq!(entries(&state.path().join("snapshots")).len(), 1);

        client.action("checkpoint").await;
        let lines = client.until("close 4000").await;
        assert_eq!(lines[1], "SANDBOX_CHECKPOINT_ERROR");
        assert!(lines[2].contains("File too large"), "{lines:?}");
        assert_empty(&state.path().join("checkpoints"));
        // The failed checkpoint doesn't end the sandbox.
        let mut again = Client::attach(&server, &identity).await;
        assert_eq!(again.bash("cat file; rm {1..20}").await, "large\n");
        again.action("checkpoint").await;
        again.until("SANDBOX_CHECKPOINTED").await;

        let config = json!({"filesystem_snapshot_name": "snap"});
        let (mut old, _) = Client::create_with(&server, config).await;
        assert_eq!(old.bash("cat file").await, "small\n");
        server.stop().await;
    });
}

#[tokio::test]
async fn a_state_directory_that_cannot_be_used_is_named() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let builder = LocalServer::builder().state_directory(file.path().join("below"));
    let error = builder.start().await.unwrap_err().to_string();
    assert!(
        error.contains("below") && error.contains("state_directory"),
        "{error}"
    );
}
