//! Tests of removing files and directories.

use std::{
    fs,
    os::unix::fs::symlink,
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use nix::{
    fcntl::OFlag,
    sys::stat::{Mode, mkdirat},
    unistd::mkfifo,
};
use serde_json::{Value, json};

use super::{
    super::{
        run,
        testing::{Home, ends, parse},
    },
    *,
};

fn removal(path: &str, recursive: bool) -> Value {
    json!({"op": "remove", "path": path, "recursive": recursive})
}

#[test]
fn removes_files_links_and_empty_directories() {
    let home = Home::new();
    home.put("kept", "");
    home.put("file", "");
    fs::create_dir(home.path("d")).unwrap();
    fs::create_dir(home.path("e")).unwrap();
    symlink("kept", home.path("link")).unwrap();
    mkfifo(&home.path("fifo"), Mode::S_IRWXU).unwrap();
    for path in ["file", "d", "e//", "link", "fifo"] {
        assert_eq!(
            home.call(&removal(path, false)).unwrap(),
            json!({}),
            "{path}"
        );
    }
    assert_eq!(home.names(""), ["kept"]);
}

#[test]
fn removes_trees_and_not_what_links_point_to() {
    let (home, elsewhere) = (Home::new(), Home::new());
    elsewhere.put("kept", "");
    fs::create_dir_all(home.path("d/e/f")).unwrap();
    symlink(elsewhere.0.path(), home.path("d/e/link")).unwrap();
    symlink(elsewhere.0.path(), home.path("link")).unwrap();
    for number in 0..3_000 {
        home.put(&format!("d/{number}"), "");
    }
    home.call(&removal("d", true)).unwrap();
    home.call(&removal("link/", true)).unwrap();
    assert_eq!(home.names(""), [""; 0]);
    assert_eq!(elsewhere.names(""), ["kept"]);
}

#[test]
fn bad_removals_are_refused() {
    let home = Home::new();
    fs::create_dir_all(home.path("d/e")).unwrap();
    let absolute = home.0.path().to_str().unwrap().to_owned();
    let name = "n".repeat(300);
    for (path, recursive, kind) in [
        ("d", false, BuiltinErrorKind::NotEmpty),
        ("missing", true, BuiltinErrorKind::NotFound),
        ("", true, BuiltinErrorKind::InvalidInput),
        (".", true, BuiltinErrorKind::InvalidInput),
        ("d/..", true, BuiltinErrorKind::InvalidInput),
        ("/", true, BuiltinErrorKind::InvalidInput),
        (absolute.as_str(), true, BuiltinErrorKind::InvalidInput),
        (name.as_str(), true, BuiltinErrorKind::InvalidInput),
    ] {
        let error = home.call(&removal(path, recursive)).unwrap_err();
        assert_eq!(
            (error.kind, error.path.clone()),
            (kind, Some(path.into())),
            "{error}"
        );
    }
    assert_eq!(home.names("d"), ["e"]);
}

#[test]
fn a_deep_tree_is_removed() {
    let home = Home::new();
    let mut directory = Dir::open(home.0.path(), OFlag::O_RDONLY, Mode::empty()).unwrap();
    for _ in 0..5_000 {
        mkdirat(&directory, "d", Mode::S_IRWXU).unwrap();
        directory = Dir::openat(&directory, "d", OFlag::O_RDONLY, Mode::empty()).unwrap();
    }
    home.call(&removal("d", true)).unwrap();
    assert_eq!(home.names(""), [""; 0]);
}

#[test]
fn a_stop_ends_a_removal() {
    let home = Home::new();
    fs::create_dir(home.path("d")).unwrap();
    let (mut streams, mut ends) = ends();
    ends.stop(&streams);
    let error = run(&parse(&removal("d", true)), home.0.path(), &mut streams).unwrap_err();
    assert_eq!(
        error.message,
        "cannot remove 'd': the operation was stopped"
    );
}

#[test]
fn a_directory_swapped_for_a_link_is_not_emptied() {
    let (home, elsewhere) = (Home::new(), Home::new());
    elsewhere.put("kept", "");
    let is_done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            // The removal may remove each of these at any time.
            while !is_done.load(Ordering::Relaxed) {
                let _ = fs::create_dir_all(home.path("d/e"));
                let _ = symlink(elsewhere.0.path(), home.path("d/link"));
                let _ = fs::rename(home.path("d/e"), home.path("d/f"));
                let _ = fs::rename(home.path("d/link"), home.path("d/e"));
            }
        });
        for _ in 0..2_000 {
            let _ = home.call(&removal("d", true));
        }
        is_done.store(true, Ordering::Relaxed);
    });
    assert_eq!(elsewhere.names(""), ["kept"]);
}
