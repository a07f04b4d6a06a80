//! With a raw client: hostile archives, limits on packing and unpacking, and store operations that
//! take turns fairly.

use std::{
    fs,
    io::Read,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    time::Duration,
};

use crate::support::{
    archives,
    raw_client::{Client, Identity, entries},
};
use actix_sandbox::server::{LocalServer, ServerBuilder};
use serde_json::json;

/// An empty list of directory entries.
const NONE: [PathBuf; 0] = [];

/// A temporary directory with the state and the sandboxes of a server.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn builder(&self) -> ServerBuilder {
        LocalServer::builder()
            .state_directory(self.state())
            .directory(self.sandboxes())
    }

    fn state(&self) -> PathBuf {
        self.0.path().join("state")
    }

    fn sandboxes(&self) -> PathBuf {
        self.0.path().join("sandboxes")
    }

    fn snapshot(&self, name: &str) -> PathBuf {
        self.state().join(format!("snapshots/{name}.tar.lz4"))
    }

    /// The directories of sandboxes that exist.
    fn left(&self) -> Vec<PathBuf> {
        let servers = entries(&self.sandboxes());
        let all = servers.iter().flat_map(|server| entries(server));
        all.filter(|path| {
            path.file_name()
                .unwrap()
                .to_string_lossy()
                .starts_with("sandbox-")
        })
        .collect()
    }
}

/// Creates a sandbox from a snapshot. Returns the error, or `SANDBOX_RUNNING`.
async fn create_from(server: &LocalServer, name: &str) -> (Client, String) {
    let mut client = Client::connect(server, "/create").await;
    client.send(json!({"filesystem_snapshot_name": name})).await;
    loop {
        let line = client.line().await;
        if line.starts_with("error: ") || line == "SANDBOX_RUNNING" {
            return (client, line);
        }
    }
}

async fn snapshot(client: &mut Client, name: &str) -> String {
    ask_for_snapshot(client, name).await;
    client.line().await
}

async fn ask_for_snapshot(client: &mut Client, name: &str) {
    let ask = json!({"action": "snapshot_filesystem", "name": name});
    client.send(ask).await;
    assert_eq!(client.line().await, "SANDBOX_FILESYSTEM_SNAPSHOT_CREATING");
}

/// In commit f587439, the first of these archives ran `id` as root on the host (backend `gvisor`).
#[tokio::test]
async fn an_archive_with_server_files_is_refused_and_never_runs() {
    let place = Place::new();
    let server = place.builder().start().await.unwrap();
    let made = place.0.path().join("made-on-the-host");
    let code = format!("id > {}", made.display());
    let bundle = archives::bundle_that_makes(&made);
    let home = ("home", "DIRTYPE", "");
    for entry in [
        ("bundle/config.json", "REGTYPE", &*bundle),
        ("source/run.pl", "REGTYPE", &*code),
        ("code/main-1.sh", "REGTYPE", &*code),
        ("exit", "SYMTYPE", "/etc"),
        ("home", "SYMTYPE", "/etc"),
        ("../escaped", "REGTYPE", ""),
        ("/escaped", "REGTYPE", ""),
        ("home/name", "LNKTYPE", "/etc/passwd"),
        ("home/null", "CHRTYPE", ""),
    ] {
        let first: &[_] = if entry.0 == "home" { &[] } else { &[home] };
        archives::by_hand(&place.snapshot("evil"), &[first, &[entry]].concat());
        let (mut client, said) = create_from(&server, "evil").await;
        if said == "SANDBOX_RUNNING" {
            client.exec("bash", "true").await;
            // Give the code time to run: two messages, whatever they are.
            client.line().await;
            client.line().await;
        }
        let by_root = fs::read_to_string(&made).unwrap_or_default();
        assert_eq!(by_root, "", "{}: ran on the host", entry.0);
        assert!(said.contains(entry.0), "{}: {said}", entry.0);
        client.until("close 4000").await;
        assert_eq!(place.left(), NONE, "{}", entry.0);
        assert_eq!(server.sandbox_count(), 0);
    }
    assert!(!place.sandboxes().join("escaped").exists() && !Path::new("/escaped").exists());
    server.stop().await;
}

/// Mount points in the restored tree are symlinks. The server must not follow them.
#[tokio::test]
async fn a_restored_root_cannot_redirect_what_is_mounted_in_it() {
    if crate::support::backend::is("host") || std::env::var_os("ACTIX_SANDBOX_BACKEND").is_none() {
        // The host backend has no separate root.
        return;
    }
    let place = Place::new();
    let outside = place.0.path().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::set_permissions(&outside, fs::Permissions::from_mode(0o777)).unwrap();
    let server = place.builder().start().await.unwrap();
    let to = outside.to_str().unwrap();
    let root = ["run", "proc", "tmp", "home", "usr", "var"].map(|name| format!("root/{name}"));
    let links = root.iter().map(|name| (&**name, "SYMTYPE", to));
    let all: Vec<_> = [("root", "DIRTYPE", ""), ("home", "DIRTYPE", "")]
        .into_iter()
        .take(1)
        .chain(links)
        .chain([("home", "DIRTYPE", ""), ("home/file", "REGTYPE", "kept\n")])
        .collect();
    archives::by_hand(&place.snapshot("links"), &all);
    let (mut client, said) = create_from(&server, "links").await;
    assert_eq!(said, "SANDBOX_RUNNING");
    assert_eq!(client.bash("cat file; cd /; pwd").await, "kept\n/\n");
    assert_eq!(entries(&outside), NONE);
    server.stop().await;
}

#[tokio::test]
async fn archives_that_exceed_a_limit_are_refused_and_leave_nothing() {
    let place = Place::new();
    let builder = place.builder().max_archive_size(64 << 20);
    let server = builder.max_archive_files(1_000).start().await.unwrap();
    archives::bomb(&place.snapshot("bomb"));
    let names: Vec<_> = (0..2_000).map(|number| format!("home/{number}")).collect();
    let many = names.iter().map(|name| (&**name, "REGTYPE", ""));
    let many: Vec<_> = [("home", "DIRTYPE", "")].into_iter().chain(many).collect();
    archives::by_hand(&place.snapshot("many"), &many);
    for (name, option) in [
        ("bomb", "`max_archive_size`"),
        ("many", "`max_archive_files`"),
    ] {
        let (mut client, said) = create_from(&server, name).await;
        assert!(said.contains(option), "{name}: {said}");
        client.until("close 4000").await;
        assert_eq!(place.left(), NONE, "{name}");
        // The same entries in the checkpoint of a sandbox, after the checkpoint's own record.
        let (mut client, identity) =
            Client::create_with(&server, json!({"enable_checkpoint": true})).await;
        client.bash("echo small > file").await;
        client.action("checkpoint").await;
        client.until("close 1000").await;
        let file = entries(&place.state().join("checkpoints")).remove(0);
        let head = archives::decompress(&file).unwrap();
        let head = &head[..head.windows(5).position(|it| it == b"home\0").unwrap()];
        let evil = archives::decoder(&place.snapshot(name)).unwrap();
        // More than the limit, but not all of the gigabyte.
        let whole = head.chain(evil).take(128 << 20);
        archives::compress(whole, fs::File::create(&file).unwrap());
        let mut client = Client::connect(&server, &identity.attach_path()).await;
        let lines = client.until("close 4000").await;
        assert!(lines[2].contains(option), "{name}: {lines:?}");
        assert_eq!(place.left(), NONE, "{name}");
        fs::remove_file(file).unwrap();
    }
    server.stop().await;
}

#[tokio::test]
async fn a_sandbox_that_exceeds_a_limit_is_not_stored_and_goes_on() {
    let place = Place::new();
    let builder = place.builder().max_archive_size(1 << 20);
    let server = builder.max_archive_files(50).start().await.unwrap();
    let (mut client, _) = Client::create(&server).await;
    assert_eq!(
        snapshot(&mut client, "small").await,
        "SANDBOX_FILESYSTEM_SNAPSHOT_CREATED"
    );
    for (code, option) in [
        (
            "head -c 2000000 /dev/zero > large; echo made",
            "`max_archive_size`",
        ),
        ("rm large; touch {1..100}; echo made", "`max_archive_files`"),
    ] {
        assert_eq!(client.bash(code).await, "made\n");
        let line = snapshot(&mut client, "large").await;
        assert_eq!(line, "SANDBOX_FILESYSTEM_SNAPSHOT_ERROR");
        let line = client.line().await;
        assert!(line.contains(option), "{line}");
    }
    assert_eq!(
        entries(&place.state().join("snapshots")),
        [place.snapshot("small")]
    );
    server.stop().await;
}

async fn with_endless_tree(server: &LocalServer) -> (Client, Identity) {
    let (mut client, identity) = Client::create(server).await;
    client.run("python", archives::ENDLESS).await;
    (client, identity)
}

/// Four endless snapshots are under way, as many as the server runs at once, when a small one
/// starts.
#[tokio::test]
async fn a_small_snapshot_overtakes_large_ones() {
    let place = Place::new();
    let server = place
        .builder()
        .max_archive_size(1 << 50)
        .start()
        .await
        .unwrap();
    let mut endless = Vec::new();
    for number in 0..4 {
        let (mut client, _) = with_endless_tree(&server).await;
        ask_for_snapshot(&mut client, &format!("endless-{number}")).await;
        endless.push(client);
    }
    let (mut client, _) = Client::create(&server).await;
    assert_eq!(
        snapshot(&mut client, "small").await,
        "SANDBOX_FILESYSTEM_SNAPSHOT_CREATED"
    );
    // None of the endless snapshots has ended.
    for mut client in endless {
        client.ping("done?").await;
        assert_eq!(client.line().await, "pong done?");
        client.action("kill_sandbox").await;
        let lines = client.until("close 1000").await;
        assert_eq!(lines[lines.len() - 2], "SANDBOX_KILLED", "{lines:?}");
    }
    assert_eq!(
        entries(&place.state().join("snapshots")),
        [place.snapshot("small")]
    );
    server.stop().await;
}

#[tokio::test]
async fn a_snapshot_that_never_ends_is_ended_by_the_time_limit() {
    let place = Place::new();
    let builder = place.builder().max_archive_size(1 << 50);
    let server = builder
        .store_timeout(Duration::from_secs(10))
        .start()
        .await
        .unwrap();
    let (mut client, _) = with_endless_tree(&server).await;
    let line = snapshot(&mut client, "endless").await;
    assert_eq!(line, "SANDBOX_FILESYSTEM_SNAPSHOT_ERROR");
    let line = client.line().await;
    assert!(
        line.contains("longer than 10 seconds") && line.contains("`store_timeout`"),
        "{line}"
    );
    assert_eq!(entries(&place.state().join("snapshots")), NONE);
    assert_eq!(client.bash("rm *; echo goes on").await, "goes on\n");
    assert_eq!(
        snapshot(&mut client, "small").await,
        "SANDBOX_FILESYSTEM_SNAPSHOT_CREATED"
    );
    server.stop().await;
}

#[tokio::test]
async fn a_state_directory_that_others_could_replace_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("state");
    let start = async |state: &Path| {
        let builder = LocalServer::builder().state_directory(state);
        builder
            .start()
            .await
            .map(drop)
            .map_err(|error| error.to_string())
    };
    let mode = |path: &Path, mode| {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    };
    start(&state).await.unwrap();
    let link = folder.path().join("link");
    symlink(&state, &link).unwrap();
    let error = start(&link).await.unwrap_err();
    assert!(
        error.contains("symbolic link") && error.contains("link"),
        "{error}"
    );
    // A symlink inside the state directory is refused, too.
    fs::remove_dir(state.join("snapshots")).unwrap();
    symlink("/tmp", state.join("snapshots")).unwrap();
    let error = start(&state).await.unwrap_err();
    assert!(
        error.contains("snapshots") && error.contains("link"),
        "{error}"
    );
    fs::remove_file(state.join("snapshots")).unwrap();

    mode(&state, 0o770);
    let error = start(&state).await.unwrap_err();
    assert!(
        error.contains(&format!("`chmod 700 {}`", state.display())),
        "{error}"
    );
    mode(&state, 0o700);
    mode(folder.path(), 0o777);
    let error = start(&state).await.unwrap_err();
    assert!(error.contains("`chmod go-w "), "{error}");
    let error = LocalServer::builder().directory(folder.path().join("sandboxes"));
    let error = error.start().await.unwrap_err().to_string();
    assert!(error.contains("`chmod go-w "), "{error}");
    mode(folder.path(), 0o700);
    // Only root can change the owner.
    if std::os::unix::fs::chown(&state, Some(4711), None).is_ok() {
        let error = start(&state).await.unwrap_err();
        assert!(
            error.contains("4711") && error.contains("`chown "),
            "{error}"
        );
        std::os::unix::fs::chown(&state, Some(0), None).unwrap();
    }
    start(&state).await.unwrap();
}
