//! Uploads and downloads of directories and files.

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    fs,
    os::unix::{
        ffi::OsStrExt,
        fs::{FileExt, MetadataExt, PermissionsExt, symlink},
    },
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use actix_sandbox::{BuiltinErrorKind, ErrorKind, FilePath, Language, LocalServer, WriteMode};
use tempfile::tempdir;
use tokio::io::AsyncWriteExt;

use super::support::{
    memory_sampler,
    proxy::{Chance, Plan},
    resident_memory, sandbox, sandbox_behind, within, within_long,
};

const FILES: u64 = 10_000;
/// How many links of each transfer are cut.
const CUTS: usize = 200;

/// Creates a tree of links and of empty, small and large files, with unusual names, permissions and
/// times.
fn fill(root: &Path, files: u64) {
    let mut chance = Chance::new(21);
    for directory in 0..20 {
        fs::create_dir(root.join(format!("d{directory}"))).unwrap();
    }
    for number in 0..files {
        let parent = root.join(format!("d{}", number % 20));
        let name = match number % 100 {
            0 => [b"\xff\xfe ".to_vec(), number.to_string().into_bytes()].concat(),
            1 => format!("line\nbreak {number}").into_bytes(),
            2 => format!("{number:-<255}").into_bytes(),
            3 => format!(" -rf é {number}").into_bytes(),
            _ => number.to_string().into_bytes(),
        };
        let path = parent.join(OsStr::from_bytes(&name));
        if number % 50 == 7 {
            symlink(
                ["1", "../d3", "/etc/passwd", "missing"][number as usize / 50 % 4],
                &path,
            )
            .unwrap();
            continue;
        }
        let size = match number {
            _ if number % 4 == 0 => 0,
            _ if number % 1_000 == 1 => 2_000_000,
            _ => chance.below(2_000),
        };
        let content: Vec<u8> = (0..size)
            .map(|at| ((at * (number + 1)) >> 3) as u8)
            .collect();
        fs::write(&path, content).unwrap();
        if number == 11 {
            // A hole of 8 MiB.
            let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
            file.write_all_at(b"end", 8 << 20).unwrap();
        }
        let mode = [0o644, 0o600, 0o444, 0o755, 0o666, 0o400][number as usize % 6];
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        let old = Duration::new(number * 100_000, number as u32 * 1_001);
        let file = fs::File::open(&path).unwrap();
        file.set_modified(SystemTime::UNIX_EPOCH + old).unwrap();
    }
    fs::set_permissions(root.join("d5"), fs::Permissions::from_mode(0o500)).unwrap();
}

/// The mode, the time, and the content or target of each file below a directory.
fn describe(root: &Path) -> BTreeMap<PathBuf, (u32, i64, i64, Vec<u8>)> {
    let mut all = BTreeMap::new();
    let mut pending = vec![root.to_owned()];
    while let Some(directory) = pending.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            let meta = fs::symlink_metadata(&path).unwrap();
            let content = match (meta.is_symlink(), meta.is_dir()) {
                (true, _) => fs::read_link(&path)
                    .unwrap()
                    .as_os_str()
                    .as_bytes()
                    .to_vec(),
                (_, true) => {
                    pending.push(path.clone());
                    Vec::new()
                }
                _ => fs::read(&path).unwrap(),
            };
            // The file systems of some sandboxes have no times of links.
            let time = match meta.is_symlink() {
                true => (0, 0),
                false => (meta.mtime(), meta.mtime_nsec()),
            };
            let name = path.strip_prefix(root).unwrap().to_owned();
            let mode = meta.mode() & 0o777;
            all.insert(name, (mode, time.0, time.1, content));
        }
    }
    all
}

/// Compares two trees, and names the first difference.
fn assert_equal(one: &Path, other: &Path) {
    let (one, mut other) = (describe(one), describe(other));
    for (name, file) in one {
        let copy = other.remove(&name);
        assert!(copy.as_ref() == Some(&file), "{name:?} differs");
    }
    assert!(other.is_empty(), "{:?}", other.keys());
}

#[actix::test]
async fn ten_thousand_files_move_both_ways_through_cuts() {
    let server = LocalServer::start().await.unwrap();
    let (source, destination) = (tempdir().unwrap(), tempdir().unwrap());
    fill(source.path(), FILES);
    // The first link lasts until the sandbox runs.
    let plans = Arc::new(Mutex::new(Vec::new()));
    let planned = plans.clone();
    let plan = move |_| planned.lock().unwrap().pop().unwrap_or_default();
    let (proxy, sandbox) = sandbox_behind(&server, plan).await;
    let files = sandbox.files();
    let baseline = resident_memory() as u64;
    let mut chance = Chance::new(1);
    for is_upload in [true, false] {
        *plans.lock().unwrap() = (0..CUTS)
            .map(|_| {
                let cut = Some(20_000 + chance.below(100_000));
                Plan {
                    cut_up: cut.filter(|_| is_upload),
                    cut_down: cut.filter(|_| !is_upload),
                    ..Plan::default()
                }
            })
            .collect();
        proxy.cut();
        let most = Arc::new(AtomicU64::new(0));
        let check = memory_sampler(&most);
        let moved = match is_upload {
            true => {
                let upload = files.upload(source.path(), "tree").progress(check);
                within_long("the upload", upload).await
            }
            false => {
                let download = files.download("tree", destination.path()).progress(check);
                within_long("the download", download).await
            }
        };
        let moved = moved.unwrap();
        assert_eq!((moved.entries, moved.skipped_count), (FILES + 20, 0));
        let grown = most.load(Ordering::Relaxed).saturating_sub(baseline) >> 20;
        println!("upload: {is_upload}, {grown} MiB more memory");
        assert!(plans.lock().unwrap().is_empty(), "there were fewer cuts");
        // Client and server share this process.
        assert!(grown < 2 * 64, "{grown} MiB more memory");
    }
    assert_equal(source.path(), destination.path());
    sandbox.kill().await.unwrap();
}

#[actix::test]
async fn a_file_moves_as_a_whole_with_its_permissions_and_time() {
    let (_server, sandbox) = sandbox().await;
    let files = sandbox.files();
    let local = tempdir().unwrap();
    let (one, two) = (local.path().join("one"), local.path().join("a/two"));
    fs::write(&one, vec![7; 300_000]).unwrap();
    fs::set_permissions(&one, fs::Permissions::from_mode(0o750)).unwrap();
    let old = SystemTime::UNIX_EPOCH + Duration::new(5, 6_000);
    fs::File::open(&one).unwrap().set_modified(old).unwrap();
    files.write("b/two", "old").await.unwrap();
    let moved = within("the upload", files.upload(&one, "b/two"))
        .await
        .unwrap();
    assert_eq!((moved.bytes, moved.entries), (300_000, 1));
    let meta = files.metadata("b/two").await.unwrap();
    assert_eq!((meta.permissions, meta.modified_ns), (0o750, 5_000_006_000));
    within("the download", files.download("b/two", &two))
        .await
        .unwrap();
    assert_equal_files(&one, &two);
    assert_eq!(files.list("b").await.unwrap().len(), 1);
}

fn assert_equal_files(one: &Path, two: &Path) {
    let describe = |path: &Path| {
        let meta = fs::metadata(path).unwrap();
        (
            fs::read(path).unwrap(),
            meta.mode(),
            meta.mtime(),
            meta.mtime_nsec(),
        )
    };
    assert!(describe(one) == describe(two));
}

#[actix::test]
async fn rules_leave_files_out_and_skipped_files_are_reported() {
    let (_server, sandbox) = sandbox().await;
    let files = sandbox.files();
    let local = tempdir().unwrap();
    fs::create_dir_all(local.path().join("target/deep")).unwrap();
    for name in ["a.rs", "b.log", "keep.log", "target/deep/x"] {
        fs::write(local.path().join(name), name).unwrap();
    }
    let socket = std::os::unix::net::UnixListener::bind(local.path().join("socket")).unwrap();
    let upload = files
        .upload(local.path(), "p")
        .ignore(["target/", "*.log", "!keep.log"]);
    let moved = within_long("the upload", upload).await.unwrap();
    assert_eq!((moved.entries, moved.skipped_count), (2, 1), "{moved:?}");
    assert_eq!(moved.skipped[0].path, FilePath::from("socket"));
    drop(socket);
    let run = sandbox.run(Language::Bash, "mkfifo p/pipe; echo p/*");
    assert_eq!(run.await.unwrap().stdout, "p/a.rs p/keep.log p/pipe\n");
    let back = tempdir().unwrap();
    let moved = within("the download", files.download("p", back.path()))
        .await
        .unwrap();
    assert_eq!((moved.entries, moved.skipped_count), (2, 1), "{moved:?}");
    assert_eq!(moved.skipped[0].path, FilePath::from("pipe"));
}

#[actix::test]
async fn a_failed_transfer_names_the_side_and_the_path() {
    let (_server, sandbox) = sandbox().await;
    let files = sandbox.files();
    let local = tempdir().unwrap();
    let missing = local.path().join("missing");
    let error = files.upload(&missing, "x").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::LocalFile);
    assert!(error.to_string().contains("missing"), "{error}");
    let error = files.download("nothing", &missing).await.unwrap_err();
    let not_found = ErrorKind::Builtin(BuiltinErrorKind::NotFound);
    assert_eq!(error.kind(), not_found, "{error}");
    assert!(!missing.exists());

    // A file in the place of a directory, on either side.
    files.write("file", "x").await.unwrap();
    fs::create_dir(local.path().join("d")).unwrap();
    fs::write(local.path().join("d/one"), "1").unwrap();
    let error = files
        .upload(local.path().join("d"), "file")
        .await
        .unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Builtin(_)), "{error}");
    assert!(error.to_string().contains("file"), "{error}");
    files.create_dir("dir").await.unwrap();
    let error = files
        .download("dir", local.path().join("d/one"))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::LocalFile, "{error}");
    assert_eq!(fs::read(local.path().join("d/one")).unwrap(), b"1");

    // A limit of the client, and a full disk.
    files.write("large", vec![1; 100_000]).await.unwrap();
    let download = files
        .download("large", local.path().join("large"))
        .max_bytes(50_000);
    let error = within("the refusal", download).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::LocalFile, "{error}");
    assert!(
        error.to_string().contains("limit of 50000 bytes"),
        "{error}"
    );
    let error = files.download("large", "/dev/full/x").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::LocalFile, "{error}");
    assert_eq!(fs::read_dir(local.path()).unwrap().count(), 1);
    sandbox.run(Language::Bash, "true").await.unwrap();
}

#[actix::test]
async fn a_hostile_sandbox_writes_nothing_outside_of_the_destination() {
    let (_server, sandbox) = sandbox().await;
    let files = sandbox.files();
    let local = tempdir().unwrap();
    let (outside, inside) = (local.path().join("outside"), local.path().join("inside"));
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("canary"), "untouched").unwrap();
    // The first download leaves links that lead outside. The second has directories and files of
    // the same names.
    let links = format!(
        "mkdir -p t && ln -s {0} t/d && ln -s {0}/canary t/f",
        outside.display()
    );
    sandbox
        .run(Language::Bash, links)
        .await
        .unwrap()
        .error_for_status()
        .unwrap();
    within("the first", files.download("t", &inside))
        .await
        .unwrap();
    let replace = "rm -r t; mkdir -p t/d; echo evil | tee t/d/canary t/f";
    sandbox.run(Language::Bash, replace).await.unwrap();
    within("the second", files.download("t", &inside))
        .await
        .unwrap();
    assert_eq!(fs::read(outside.join("canary")).unwrap(), b"untouched");
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 1);
    assert_eq!(fs::read(inside.join("d/canary")).unwrap(), b"evil\n");
}

#[actix::test]
async fn a_panic_of_the_progress_function_fails_the_transfer() {
    let (_server, sandbox) = sandbox().await;
    let files = sandbox.files();
    let local = tempdir().unwrap();
    fs::write(local.path().join("one"), "1").unwrap();
    let upload = files
        .upload(local.path(), "to")
        .progress(|_| panic!("of the test"));
    let error = within_long("the upload", upload).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::LocalFile, "{error}");
    files.write("one", "1").await.unwrap();
    let download = files.download("one", local.path().join("two"));
    let download = download.progress(|_| panic!("of the test"));
    let error = within_long("the download", download).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::LocalFile, "{error}");
    assert_eq!(fs::read_dir(local.path()).unwrap().count(), 1);
}

#[actix::test]
async fn a_download_does_not_replace_a_pipe() {
    let (_server, sandbox) = sandbox().await;
    let files = sandbox.files();
    let local = tempdir().unwrap();
    let pipe = local.path().join("pipe");
    let made = std::process::Command::new("mkfifo").arg(&pipe).status();
    assert!(made.unwrap().success());
    files.write("one", "1").await.unwrap();
    let error = files.download("one", &pipe).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::LocalFile, "{error}");
    assert!(error.to_string().contains("is not a file"), "{error}");
    assert!(!fs::symlink_metadata(&pipe).unwrap().is_file());
}

#[actix::test]
async fn a_transfer_in_a_killed_sandbox_tells_that_it_was_killed() {
    let (_server, sandbox) = sandbox().await;
    let files = sandbox.files();
    let mut writer = files.writer("text", WriteMode::Append).await.unwrap();
    writer.write_all(b"line\n").await.unwrap();
    writer.flush().await.unwrap();
    sandbox.kill().await.unwrap();
    let error = within("the end", writer.shutdown()).await.unwrap_err();
    let error = error.downcast::<actix_sandbox::Error>().unwrap();
    assert_eq!(error.kind(), ErrorKind::SandboxEnded, "{error}");
    assert_eq!(error.effect(), actix_sandbox::Effect::Unknown);
}
