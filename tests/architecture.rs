//! ARCHITECTURE.md names the test of each invariant; here it is seen that they exist.

#![allow(clippy::expect_used, reason = "a test that cannot go on fails")]

use std::{fs, path::Path};

/// The text of every Rust file below a directory.
fn sources(directory: &Path, text: &mut String) {
    for entry in fs::read_dir(directory).expect("a directory") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            sources(&path, text);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            text.push_str(&fs::read_to_string(path).expect("a file"));
        }
    }
}

#[test]
fn every_test_that_the_architecture_names_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut code = String::new();
    sources(&root.join("src"), &mut code);
    sources(&root.join("tests"), &mut code);

    let text = fs::read_to_string(root.join("ARCHITECTURE.md")).expect("ARCHITECTURE.md");
    let (_, invariants) = text.split_once("## Invariants").expect("the section");
    let (invariants, _) = invariants.split_once("\n## ").expect("another section");
    let named: Vec<&str> = invariants
        .split('`')
        .skip(1)
        .step_by(2)
        .filter_map(|name| name.rsplit("::").next())
        .filter(|name| name.contains('_'))
        .collect();
    assert!(named.len() > 10, "{named:?}");
    for name in named {
        assert!(
            code.contains(&format!("fn {name}(")),
            "ARCHITECTURE.md names a test `{name}` that is not there"
        );
    }
}
