//! Checks that the tests exist that the documents name: ARCHITECTURE.md for each invariant,
//! docs/threats.md for each defence, docs/parity.md for each row.

#![allow(
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on fails"
)]

mod imports;

use std::{fs, path::Path};

/// Appends the text of every Rust file below a directory.
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

/// The names of tests in the tables of a document: the last segment of each path in backticks.
fn named_tests(text: &str) -> Vec<&str> {
    text.lines()
        .filter(|line| line.starts_with("| "))
        .flat_map(|row| row.split('`').skip(1).step_by(2))
        .filter_map(|name| name.rsplit("::").next())
        .filter(|name| {
            name.contains('_')
                && name
                    .bytes()
                    .all(|it| it.is_ascii_alphanumeric() || it == b'_')
        })
        .collect()
}

#[test]
fn every_test_that_the_documents_name_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut code = String::new();
    sources(&root.join("src"), &mut code);
    sources(&root.join("tests"), &mut code);
    let read = |file: &str| fs::read_to_string(root.join(file)).expect(file);

    let text = read("ARCHITECTURE.md");
    let (_, invariants) = text.split_once("## Invariants").expect("the section");
    let (invariants, _) = invariants.split_once("\n## ").expect("another section");
    let text = read("docs/threats.md");
    let (_, boundaries) = text.split_once("## Boundaries").expect("the section");
    let (boundaries, _) = boundaries.split_once("\n## ").expect("another section");
    for (document, text) in [
        ("ARCHITECTURE.md", invariants),
        ("docs/threats.md", boundaries),
    ] {
        let named = named_tests(text);
        assert!(named.len() > 10, "{document}: {named:?}");
        for name in named {
            assert!(
                code.contains(&format!("fn {name}(")),
                "{document} names a missing test: {name}"
            );
        }
    }
}

/// Each row must name an existing test as `file::test`.
#[test]
fn every_row_of_the_parity_tables_has_a_test() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = fs::read_to_string(root.join("docs/parity.md")).expect("docs/parity.md");
    let mut rows = 0;
    for row in text.lines().filter(|line| line.starts_with("| ")) {
        let cells: Vec<&str> = row.trim_matches('|').split(" | ").collect();
        let last = cells.last().expect("a cell");
        if last.trim() == "test" || last.contains("---") {
            continue;
        }
        rows += 1;
        let tests: Vec<&str> = last.split('`').skip(1).step_by(2).collect();
        assert!(!tests.is_empty(), "no test: {row}");
        for test in tests {
            let (file, name) = test.split_once("::").expect("file::test");
            let code = ["tests", "tests/bad_input"]
                .iter()
                .find_map(|place| fs::read_to_string(root.join(format!("{place}/{file}.rs"))).ok())
                .unwrap_or_else(|| panic!("docs/parity.md names a missing file: {test}"));
            let exists = code.contains(&format!("async fn {name}()"));
            assert!(exists, "docs/parity.md names a missing test: {test}");
        }
    }
    assert!(rows > 40, "only {rows} rows were found");
}
