//! Tests of listing directories.

use std::{
    fs,
    os::unix::{ffi::OsStrExt, fs::symlink},
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use serde_json::{Value, json};

use super::{
    super::{
        run,
        testing::{Home, ends, parse},
    },
    *,
};

fn entries(home: &Home, builtin: Value) -> Vec<FileEntry> {
    let (result, output) = home.run(&parse(&builtin), b"");
    assert_eq!(result.unwrap(), json!({}));
    output
        .split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty())
        .map(|line| serde_json::from_slice(line).unwrap())
        .collect()
}

fn paths(home: &Home, builtin: Value) -> Vec<String> {
    let entries = entries(home, builtin);
    entries.iter().map(|it| it.path.to_string()).collect()
}

#[test]
fn entries_are_sorted_and_described() {
    let home = Home::new();
    fs::create_dir(home.path("d")).unwrap();
    home.put("b", "12");
    symlink("nowhere", home.path("c")).unwrap();
    let odd = std::ffi::OsStr::from_bytes(b"a\xff");
    fs::write(home.0.path().join(odd), "").unwrap();
    let listed = entries(&home, json!({"op": "list", "path": ""}));
    let names: Vec<_> = listed.iter().map(|it| it.path.as_bytes()).collect();
    assert_eq!(names, [&b"a\xff"[..], b"b", b"c", b"d"]);
    assert_eq!(
        (listed[1].metadata.kind, listed[1].metadata.size),
        (FileKind::File, 2)
    );
    assert_eq!(listed[2].metadata.kind, FileKind::Symlink);
    assert_eq!(listed[2].metadata.target, Some("nowhere".into()));
    assert_eq!(listed[3].metadata.kind, FileKind::Directory);
    for entry in &listed {
        let path = home.0.path().join(entry.path.as_path());
        let metadata = fs::symlink_metadata(path).unwrap();
        let modified = metadata.modified().unwrap();
        let modified = modified.duration_since(std::time::UNIX_EPOCH).unwrap();
        assert_eq!(entry.metadata.modified_ns as u128, modified.as_nanos());
    }
}

#[test]
fn depth_and_pattern_limit_the_entries() {
    let home = Home::new();
    fs::create_dir_all(home.path("d/e")).unwrap();
    fs::create_dir(home.path("a")).unwrap();
    for path in ["d/x.rs", "d/e/y.rs", "z.rs", "d-1"] {
        home.put(path, "");
    }
    symlink("d", home.path("link")).unwrap();
    let list = |depth, pattern: Option<&str>| {
        let builtin = json!({"op": "list", "path": ".", "depth": depth, "pattern": pattern});
        paths(&home, builtin)
    };
    assert_eq!(list(1, None), ["a", "d", "d-1", "link", "z.rs"]);
    assert_eq!(list(0, None), list(1, None));
    let two = ["a", "d", "d/e", "d/x.rs", "d-1", "link", "z.rs"];
    assert_eq!(list(2, None), two);
    assert_eq!(list(u32::MAX, Some("*.rs")), ["d/e/y.rs", "d/x.rs", "z.rs"]);
    assert_eq!(list(2, Some("?")), ["a", "d", "d/e"]);
    // The listed path itself is followed.
    assert_eq!(
        paths(&home, json!({"op": "list", "path": "link"})),
        ["e", "x.rs"]
    );
}

#[test]
fn patterns_match_whole_names() {
    for (pattern, name, is_match) in [
        ("", "", true),
        ("", "a", false),
        ("*", "", true),
        ("*", "abc", true),
        ("a*c", "abbc", true),
        ("a*c", "abcd", false),
        ("*a*b*", "xxaybz", true),
        ("??", "üb", true),
        ("?", "ab", false),
        ("*?", "", false),
        ("*.tar.*", "a.tar.tar.gz", true),
        ("[a]", "a", false),
    ] {
        let found = matches(pattern.as_bytes(), name.as_bytes());
        assert_eq!(found, is_match, "{pattern} {name}");
    }
    assert!(matches(b"a?", b"a\xff"));
    assert!(!matches("*a".repeat(127).as_bytes(), &[b'a'; 126]));
}

#[test]
fn bad_paths_are_refused() {
    let home = Home::new();
    home.put("file", "");
    let name = "n".repeat(300);
    for (path, kind) in [
        ("missing", BuiltinErrorKind::NotFound),
        ("file", BuiltinErrorKind::NotADirectory),
        ("/dev/zero", BuiltinErrorKind::NotADirectory),
        (name.as_str(), BuiltinErrorKind::InvalidInput),
    ] {
        let error = home.call(&json!({"op": "list", "path": path})).unwrap_err();
        assert_eq!(
            (error.kind, error.path.clone()),
            (kind, Some(path.into())),
            "{error}"
        );
    }
}

#[test]
fn too_many_levels_are_an_error() {
    let home = Home::new();
    fs::create_dir_all(home.path(&"d/".repeat(MAX_LEVELS))).unwrap();
    let list = |depth| json!({"op": "list", "path": "", "depth": depth});
    assert_eq!(paths(&home, list(MAX_LEVELS)).len(), MAX_LEVELS);
    let error = home.run(&parse(&list(MAX_LEVELS + 1)), b"").0.unwrap_err();
    assert_eq!(error.kind, BuiltinErrorKind::Unsupported);
}

#[test]
fn a_list_of_many_entries_is_complete() {
    let home = Home::new();
    for number in 0..10_000 {
        fs::File::create(home.path(&number.to_string())).unwrap();
    }
    let mut expected: Vec<_> = (0..10_000).map(|it| it.to_string()).collect();
    expected.sort();
    assert_eq!(paths(&home, json!({"op": "list", "path": ""})), expected);
}

#[test]
fn a_stop_ends_a_list() {
    let home = Home::new();
    home.put("a", "");
    let (mut streams, mut ends) = ends();
    ends.stop(&streams);
    let list = parse(&json!({"op": "list", "path": ""}));
    let error = run(&list, home.0.path(), &mut streams).unwrap_err();
    assert_eq!(error.message, "cannot list '': the operation was stopped");
}

#[test]
fn a_directory_swapped_for_a_link_is_not_followed() {
    let (home, elsewhere) = (Home::new(), Home::new());
    elsewhere.put("secret", "");
    fs::create_dir(home.path("d")).unwrap();
    symlink(elsewhere.0.path(), home.path("link")).unwrap();
    let is_done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !is_done.load(Ordering::Relaxed) {
                for (from, to) in [("d", "e"), ("link", "d"), ("d", "link"), ("e", "d")] {
                    fs::rename(home.path(from), home.path(to)).unwrap();
                }
            }
        });
        for _ in 0..1_000 {
            let listed = paths(&home, json!({"op": "list", "path": "", "depth": 3}));
            if listed.iter().any(|path| path.contains("secret")) {
                is_done.store(true, Ordering::Relaxed);
                panic!("{listed:?}");
            }
        }
        is_done.store(true, Ordering::Relaxed);
    });
}

#[cfg(target_os = "linux")]
#[test]
fn unreadable_directories_are_listed_and_not_entered() {
    use std::os::unix::fs::PermissionsExt;

    use super::super::testing::call_as_user;

    let home = Home::new();
    fs::create_dir_all(home.path("d/e")).unwrap();
    home.put("z", "");
    fs::set_permissions(home.path("d"), fs::Permissions::from_mode(0o700)).unwrap();
    fs::set_permissions(home.path("z"), fs::Permissions::from_mode(0o600)).unwrap();
    let list = |path| json!({"op": "list", "path": path, "depth": 3});
    let Some((result, output)) = call_as_user(&home, &list("")) else {
        eprintln!("skipped: needs root");
        return;
    };
    assert_eq!(result.unwrap(), json!({}));
    let lines = String::from_utf8(output).unwrap();
    assert_eq!(lines.lines().count(), 2, "{lines}");
    for builtin in [
        list("d"),
        json!({"op": "read", "path": "z"}),
        json!({"op": "write", "path": "new"}),
        json!({"op": "write", "path": "z", "mode": "append"}),
        json!({"op": "write", "path": "d/new"}),
        json!({"op": "remove", "path": "d", "recursive": true}),
        json!({"op": "watch", "path": "d"}),
        json!({"op": "create_dir", "path": "new"}),
    ] {
        let (result, _) = call_as_user(&home, &builtin).unwrap();
        let kind = result.map_err(|error| error.kind);
        assert_eq!(kind, Err(BuiltinErrorKind::PermissionDenied), "{builtin}");
    }
    assert_eq!(home.names(""), ["d", "z"]);
    assert_eq!(home.names("d"), ["e"]);
}
