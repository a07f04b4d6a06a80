//! Tests of creating directories, renaming, setting permissions and linking.

use std::os::unix::fs::MetadataExt;

use serde_json::json;

use super::{super::testing::Home, *};
use crate::protocol::BuiltinErrorKind;

#[test]
fn create_dir_creates_parents_and_accepts_a_directory() {
    let home = Home::new();
    let create = json!({"op": "create_dir", "path": "a/b/c"});
    assert_eq!(home.call(&create).unwrap(), json!({}));
    assert_eq!(home.call(&create).unwrap(), json!({}));
    assert_eq!(home.names("a/b"), ["c"]);
    home.put("file", "");
    let name = format!("new/{}", "n".repeat(300));
    for (path, kind) in [
        ("file", BuiltinErrorKind::AlreadyExists),
        ("file/d", BuiltinErrorKind::NotADirectory),
        (name.as_str(), BuiltinErrorKind::InvalidInput),
    ] {
        let error = home
            .call(&json!({"op": "create_dir", "path": path}))
            .unwrap_err();
        assert_eq!(
            (error.kind, error.path.clone()),
            (kind, Some(path.into())),
            "{error}"
        );
    }
    assert_eq!(home.names(""), ["a", "file"]);
}

#[test]
fn rename_replaces_files_and_names_the_path_that_failed() {
    let home = Home::new();
    home.put("a", "1");
    home.put("b", "2");
    fs::create_dir_all(home.path("d/e")).unwrap();
    home.call(&json!({"op": "rename", "path": "a", "to": "b"}))
        .unwrap();
    assert_eq!(home.get("b"), b"1");
    for (path, to, kind, about) in [
        ("missing", "c", BuiltinErrorKind::NotFound, "missing"),
        ("b", "missing/c", BuiltinErrorKind::NotFound, "missing/c"),
        ("b", "d", BuiltinErrorKind::IsADirectory, "d"),
        ("d", "b", BuiltinErrorKind::NotADirectory, "b"),
        ("d", "d/e/f", BuiltinErrorKind::InvalidInput, "d/e/f"),
    ] {
        let error = home
            .call(&json!({"op": "rename", "path": path, "to": to}))
            .unwrap_err();
        assert_eq!(
            (error.kind, error.path.clone()),
            (kind, Some(about.into())),
            "{error}"
        );
        let start = format!("cannot rename '{path}' to '{to}': ");
        assert!(error.message.starts_with(&start), "{error}");
    }
}

#[test]
fn permissions_are_set_through_links() {
    let home = Home::new();
    home.put("a", "");
    symlink("a", home.path("link")).unwrap();
    let set = |bits: u32| json!({"op": "set_permissions", "path": "link", "permissions": bits});
    home.call(&set(0o4751)).unwrap();
    let metadata = home.call(&json!({"op": "metadata", "path": "a"})).unwrap();
    assert_eq!(metadata["permissions"], 0o4751);
    let error = home.call(&set(0o10000)).unwrap_err();
    assert_eq!(error.kind, BuiltinErrorKind::InvalidInput);
}

#[test]
fn links_are_created_and_described() {
    let home = Home::new();
    fs::create_dir(home.path("d")).unwrap();
    home.put("a", "123");
    let link = |path, target, symbolic| {
        let mut builtin = json!({"op": "link", "path": path, "target": target});
        builtin["symbolic"] = json!(symbolic);
        builtin
    };
    home.call(&link("d/soft", "../a", true)).unwrap();
    home.call(&link("d/hard", "a", false)).unwrap();
    home.call(&link("dangling", "nowhere", true)).unwrap();
    let describe = |path, follow| json!({"op": "metadata", "path": path, "follow": follow});
    let described = home.call(&describe("d/soft", false)).unwrap();
    assert_eq!(
        (&described["kind"], &described["target"]),
        (&json!("symlink"), &json!("../a"))
    );
    let described = home.call(&describe("d/soft", true)).unwrap();
    assert_eq!(
        (&described["kind"], &described["size"]),
        (&json!("file"), &json!(3))
    );
    assert_eq!(home.path("d/hard").metadata().unwrap().nlink(), 2);
    assert_eq!(
        home.call(&describe("", false)).unwrap()["kind"],
        "directory"
    );
    for (builtin, kind, about) in [
        (link("a", "x", true), BuiltinErrorKind::AlreadyExists, "a"),
        (
            link("dangling", "a", false),
            BuiltinErrorKind::AlreadyExists,
            "dangling",
        ),
        (
            link("new", "missing", false),
            BuiltinErrorKind::NotFound,
            "missing",
        ),
        (link("new", "", true), BuiltinErrorKind::InvalidInput, ""),
        (
            describe("missing", false),
            BuiltinErrorKind::NotFound,
            "missing",
        ),
        (
            describe("dangling", true),
            BuiltinErrorKind::NotFound,
            "dangling",
        ),
    ] {
        let error = home.call(&builtin).unwrap_err();
        assert_eq!(
            (error.kind, error.path.clone()),
            (kind, Some(about.into())),
            "{error}"
        );
    }
}
