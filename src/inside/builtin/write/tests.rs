//! Tests of writing and copying files.

use std::{
    fs,
    os::unix::fs::{MetadataExt, symlink},
    thread,
};

use nix::{sys::stat::Mode, unistd::mkfifo};
use serde_json::{Value, json};

use super::{
    super::{
        run,
        testing::{Home, ends, parse},
    },
    *,
};

fn permissions(home: &Home, path: &str) -> u32 {
    fs::metadata(home.path(path)).unwrap().mode() & 0o7777
}

fn write(home: &Home, builtin: Value, input: &[u8]) {
    let (result, output) = home.run(&parse(&builtin), input);
    assert_eq!(result.unwrap(), json!({"bytes": input.len(), "entries": 1}));
    assert_eq!(output, b"");
}

fn error(home: &Home, builtin: Value, input: &[u8]) -> BuiltinError {
    home.run(&parse(&builtin), input).0.unwrap_err()
}

#[test]
fn replace_writes_a_whole_file_with_its_parents() {
    let home = Home::new();
    let content = vec![7; 300_000];
    write(&home, json!({"op": "write", "path": "a/b/c"}), &content);
    assert_eq!(home.get("a/b/c"), content);
    assert_eq!(permissions(&home, "a/b/c"), 0o644);
    write(&home, json!({"op": "write", "path": "a/b/c"}), b"");
    assert_eq!(home.get("a/b/c"), b"");
    let name = "ü".repeat(127);
    write(
        &home,
        json!({"op": "write", "path": format!("a/{name}x")}),
        b"1",
    );
    assert_eq!(home.names("a"), ["b".to_owned(), format!("{name}x")]);
}

#[test]
fn replace_keeps_permissions_unless_others_are_given() {
    let home = Home::new();
    home.put("a", "old");
    fs::set_permissions(home.path("a"), Permissions::from_mode(0o751)).unwrap();
    write(&home, json!({"op": "write", "path": "a"}), b"new");
    assert_eq!(
        (home.get("a"), permissions(&home, "a")),
        (b"new".to_vec(), 0o751)
    );
    write(
        &home,
        json!({"op": "write", "path": "a", "permissions": 0o604}),
        b"3",
    );
    assert_eq!(permissions(&home, "a"), 0o604);
    let bad = json!({"op": "write", "path": "a", "permissions": 0o10000});
    assert_eq!(error(&home, bad, b"").kind, BuiltinErrorKind::InvalidInput);
}

#[test]
fn replace_keeps_links_and_writes_their_target() {
    let home = Home::new();
    fs::create_dir(home.path("d")).unwrap();
    symlink("d/second", home.path("first")).unwrap();
    symlink("target", home.path("d/second")).unwrap();
    write(&home, json!({"op": "write", "path": "first"}), b"new");
    assert_eq!(home.get("d/target"), b"new");
    assert!(fs::read_link(home.path("first")).is_ok());
    symlink("loop", home.path("loop")).unwrap();
    let failed = error(&home, json!({"op": "write", "path": "loop"}), b"");
    assert_eq!(failed.kind, BuiltinErrorKind::Other, "{failed}");
}

#[test]
fn create_never_replaces() {
    let home = Home::new();
    let create = json!({"op": "write", "path": "a", "mode": "create"});
    write(&home, create.clone(), b"1");
    let failed = error(&home, create, b"2");
    assert_eq!(failed.kind, BuiltinErrorKind::AlreadyExists);
    symlink("nowhere", home.path("link")).unwrap();
    let failed = error(
        &home,
        json!({"op": "write", "path": "link", "mode": "create"}),
        b"2",
    );
    assert_eq!(failed.kind, BuiltinErrorKind::AlreadyExists);
    assert_eq!(home.get("a"), b"1");
    assert_eq!(home.names(""), ["a", "link"]);
}

#[test]
fn create_fails_if_the_file_appears_meanwhile() {
    let home = Home::new();
    let create = parse(&json!({"op": "write", "path": "a", "mode": "create"}));
    let (mut streams, mut ends) = ends();
    thread::scope(|scope| {
        let writing = scope.spawn(|| run(&create, home.0.path(), &mut streams));
        wait_for_names(&home, 1);
        home.put("a", "other");
        ends.stdin.take();
        let failed = writing.join().unwrap().unwrap_err();
        assert_eq!(failed.kind, BuiltinErrorKind::AlreadyExists);
    });
    assert_eq!(home.get("a"), b"other");
    assert_eq!(home.names(""), ["a"]);
}

/// Waits until the home has this many entries: a write creates its temporary file before it reads.
fn wait_for_names(home: &Home, count: usize) {
    while home.names("").len() < count {
        thread::yield_now();
    }
}

#[test]
fn a_stop_keeps_the_old_file_and_removes_the_new_one() {
    for bytes in [0, 1, 100_000] {
        let home = Home::new();
        home.put("a", "old");
        let replace = parse(&json!({"op": "write", "path": "a"}));
        let (mut streams, mut ends) = ends();
        thread::scope(|scope| {
            let writing = scope.spawn(|| run(&replace, home.0.path(), &mut streams));
            wait_for_names(&home, 2);
            let stdin = ends.stdin.as_mut().unwrap();
            stdin.write_all(&vec![1; bytes]).unwrap();
            ends.stopper.take();
            let failed = writing.join().unwrap().unwrap_err();
            assert_eq!(
                failed.message,
                "cannot write 'a': the operation was stopped"
            );
        });
        assert_eq!(home.get("a"), b"old");
        assert_eq!(home.names(""), ["a"]);
    }
}

#[test]
fn a_stop_before_the_commit_discards_the_input() {
    let home = Home::new();
    home.put("a", "old");
    let (streams, mut ends) = ends();
    let new = NewFile::create(Place::open(&home.path("a")).unwrap(), None).unwrap();
    (&new.file).write_all(b"new").unwrap();
    ends.stop(&streams);
    new.commit(false, &streams).unwrap_err();
    assert_eq!(home.get("a"), b"old");
    assert_eq!(home.names(""), ["a"]);
}

#[test]
fn a_failed_write_removes_the_parents_that_it_created() {
    let home = Home::new();
    fs::create_dir(home.path("a")).unwrap();
    let (mut streams, mut ends) = ends();
    ends.stopper.take();
    let replace = parse(&json!({"op": "write", "path": "a/b/c/d"}));
    run(&replace, home.0.path(), &mut streams).unwrap_err();
    assert_eq!(home.names("a"), [""; 0]);
}

#[test]
fn a_renamed_parent_keeps_no_temporary_file() {
    let home = Home::new();
    let replace = parse(&json!({"op": "write", "path": "d/a"}));
    fs::create_dir(home.path("d")).unwrap();
    let (mut streams, mut ends) = ends();
    thread::scope(|scope| {
        let writing = scope.spawn(|| run(&replace, home.0.path(), &mut streams));
        while home.names("d").is_empty() {
            thread::yield_now();
        }
        fs::rename(home.path("d"), home.path("e")).unwrap();
        ends.stopper.take();
        writing.join().unwrap().unwrap_err();
    });
    assert_eq!(home.names("e"), [""; 0]);
}

#[test]
fn writes_refuse_bad_paths_before_they_read() {
    let home = Home::new();
    mkfifo(&home.path("fifo"), Mode::S_IRWXU).unwrap();
    fs::create_dir(home.path("directory")).unwrap();
    home.put("file", "");
    let before = home.names("");
    let name = "n".repeat(300);
    for mode in [json!("replace"), json!("append"), json!({"at": 3})] {
        for (path, kind) in [
            ("fifo", BuiltinErrorKind::NotAFile),
            ("/dev/null", BuiltinErrorKind::NotAFile),
            ("directory", BuiltinErrorKind::IsADirectory),
            ("directory/", BuiltinErrorKind::IsADirectory),
            ("directory/..", BuiltinErrorKind::IsADirectory),
            ("new/", BuiltinErrorKind::IsADirectory),
            ("/", BuiltinErrorKind::IsADirectory),
            ("file/x", BuiltinErrorKind::NotADirectory),
            ("", BuiltinErrorKind::InvalidInput),
            ("a\0", BuiltinErrorKind::InvalidInput),
            (name.as_str(), BuiltinErrorKind::InvalidInput),
        ] {
            let builtin = parse(&json!({"op": "write", "path": path, "mode": mode}));
            // The input never ends, so a write that reads it would not return.
            let (mut streams, _ends) = ends();
            let failed = run(&builtin, home.0.path(), &mut streams).unwrap_err();
            assert_eq!(failed.kind, kind, "{failed}");
            assert_eq!(failed.path, Some(path.into()));
        }
    }
    assert_eq!(home.names(""), before);
}

#[test]
fn append_and_at_write_in_place() {
    let home = Home::new();
    let append = json!({"op": "write", "path": "d/a", "mode": "append"});
    write(&home, append.clone(), b"0123");
    write(&home, append, b"456789");
    write(
        &home,
        json!({"op": "write", "path": "d/a", "mode": {"at": 2}}),
        b"xy",
    );
    assert_eq!(home.get("d/a"), b"01xy456789");
    write(
        &home,
        json!({"op": "write", "path": "d/b", "mode": {"at": 3}}),
        b"z",
    );
    assert_eq!(home.get("d/b"), b"\0\0\0z");
    let far = json!({"op": "write", "path": "d/b", "mode": {"at": u64::MAX}});
    assert_eq!(error(&home, far, b"z").kind, BuiltinErrorKind::InvalidInput);
}

#[test]
fn a_stopped_append_tells_how_much_it_wrote() {
    let home = Home::new();
    home.put("a", "old");
    let append = parse(&json!({"op": "write", "path": "a", "mode": "append"}));
    let (mut streams, mut ends) = ends();
    thread::scope(|scope| {
        let writing = scope.spawn(|| run(&append, home.0.path(), &mut streams));
        ends.stdin.as_mut().unwrap().write_all(b"12345").unwrap();
        while home.get("a").len() < 8 {
            thread::yield_now();
        }
        ends.stopper.take();
        let failed = writing.join().unwrap().unwrap_err();
        let expected = "cannot append to 'a': the operation was stopped; 5 bytes were written";
        assert_eq!(failed.message, expected);
    });
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_keeps_the_old_file() {
    let home = Home::new();
    let Some(_disk) = Disk::mount(&home) else {
        eprintln!("skipped: needs root");
        return;
    };
    home.put("a", "old");
    let content = vec![1; 2 << 20];
    let failed = error(&home, json!({"op": "write", "path": "a"}), &content);
    assert_eq!(failed.kind, BuiltinErrorKind::NoSpace, "{failed}");
    assert_eq!(home.get("a"), b"old");
    assert_eq!(home.names(""), ["a"]);
    let append = json!({"op": "write", "path": "b", "mode": "append"});
    let failed = error(&home, append, &content);
    assert_eq!(failed.kind, BuiltinErrorKind::NoSpace, "{failed}");
    let written = home.get("b").len();
    assert!(
        failed
            .message
            .ends_with(&format!("; {written} bytes were written"))
    );
}

/// A small file system on the home.
#[cfg(target_os = "linux")]
struct Disk(std::path::PathBuf);

#[cfg(target_os = "linux")]
impl Disk {
    fn mount(home: &Home) -> Option<Self> {
        use rustix::mount::{MountFlags, mount};
        let path = home.0.path();
        let options = c"size=1m";
        mount("tmpfs", path, "tmpfs", MountFlags::empty(), Some(options)).ok()?;
        Some(Self(path.to_owned()))
    }
}

#[cfg(target_os = "linux")]
impl Drop for Disk {
    fn drop(&mut self) {
        rustix::mount::unmount(&self.0, rustix::mount::UnmountFlags::DETACH).unwrap();
    }
}

#[test]
fn copy_keeps_content_permissions_and_holes() {
    let home = Home::new();
    let file = File::create(home.path("a")).unwrap();
    file.write_all_at(b"start", 0).unwrap();
    file.write_all_at(b"end", 8 << 20).unwrap();
    file.set_len(20 << 20).unwrap();
    file.set_permissions(Permissions::from_mode(0o751)).unwrap();
    let copied = home
        .call(&json!({"op": "copy", "path": "a", "to": "new/b"}))
        .unwrap();
    assert_eq!(copied, json!({"bytes": 20 << 20, "entries": 1}));
    assert_eq!(home.get("a"), home.get("new/b"));
    assert_eq!(permissions(&home, "new/b"), 0o751);
    if file.metadata().unwrap().blocks() * 512 < 1 << 20 {
        let copy = fs::metadata(home.path("new/b")).unwrap();
        assert!(copy.blocks() * 512 < 1 << 20, "{} blocks", copy.blocks());
    }
}

#[test]
fn copy_refuses_bad_paths() {
    let home = Home::new();
    home.put("a", "1");
    fs::create_dir(home.path("d")).unwrap();
    for (path, to, kind, about) in [
        ("missing", "b", BuiltinErrorKind::NotFound, "missing"),
        ("/dev/zero", "b", BuiltinErrorKind::NotAFile, "/dev/zero"),
        ("d", "b", BuiltinErrorKind::IsADirectory, "d"),
        ("a", "d", BuiltinErrorKind::IsADirectory, "d"),
        ("a", "a/b", BuiltinErrorKind::NotADirectory, "a/b"),
    ] {
        let failed = home
            .call(&json!({"op": "copy", "path": path, "to": to}))
            .unwrap_err();
        assert_eq!(
            (failed.kind, failed.path.clone()),
            (kind, Some(about.into())),
            "{failed}"
        );
    }
    assert_eq!(home.names(""), ["a", "d"]);
}
