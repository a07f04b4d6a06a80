//! Checks that the documents name only tests that exist: ARCHITECTURE.md for each invariant,
//! docs/threats.md for each defence, docs/parity.md for each row. `imports` checks the layers.

#![allow(
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod imports;

use std::{
    fs,
    path::{Path, PathBuf},
};

use syn::{Attribute, Item};

/// The full paths of all tests in this crate. `server::store::name` is the test `name` in
/// `tests/server/store.rs`.
struct Tests(Vec<String>);

impl Tests {
    fn all() -> Self {
        let root = root();
        let mut tests = Self(Vec::new());
        tests.add_directory(&root.join("src"), "");
        tests.add_directory(&root.join("tests"), "");
        tests
    }

    /// Whether a test has this path, or a path that ends with these segments.
    fn contains(&self, name: &str) -> bool {
        let end = format!("::{name}");
        self.0.iter().any(|test| test.ends_with(&end))
    }

    fn add_directory(&mut self, directory: &Path, module: &str) {
        for entry in fs::read_dir(directory).expect("a directory") {
            let path = entry.expect("an entry").path();
            let stem = path.file_stem().and_then(|stem| stem.to_str());
            let stem = stem.expect("a name in UTF-8");
            let inner = match stem {
                "lib" | "main" | "mod" => module.to_owned(),
                stem => format!("{module}::{stem}"),
            };
            if path.is_dir() {
                self.add_directory(&path, &inner);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(path).expect("a file");
                let file = syn::parse_file(&text).expect("Rust");
                self.add_items(&file.items, &inner);
            }
        }
    }

    fn add_items(&mut self, items: &[Item], module: &str) {
        for item in items {
            match item {
                Item::Fn(function) if is_test(&function.attrs) => {
                    self.0.push(format!("{module}::{}", function.sig.ident));
                }
                Item::Mod(inner) => {
                    let items = inner.content.as_ref().map_or(&[][..], |(_, items)| items);
                    self.add_items(items, &format!("{module}::{}", inner.ident));
                }
                // `syn` doesn't parse the tests inside `proptest!`.
                Item::Macro(it) if it.mac.path.is_ident("proptest") => {
                    let text = it.mac.tokens.to_string();
                    let names = text.split("fn ").skip(1);
                    let names = names.filter_map(|text| text.split([' ', '(']).next());
                    self.0.extend(names.map(|name| format!("{module}::{name}")));
                }
                _ => {}
            }
        }
    }
}

/// Whether an attribute is `test` of any crate, for example `tokio::test`.
fn is_test(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|it| {
        let last = it.path().segments.last();
        last.is_some_and(|last| last.ident == "test")
    })
}

/// The names of tests in the tables of a document: paths in backticks that contain an underscore.
fn named_tests(text: &str) -> Vec<&str> {
    text.lines()
        .filter(|line| line.starts_with("| "))
        .flat_map(|row| row.split('`').skip(1).step_by(2))
        .filter(|name| {
            name.contains('_')
                && name
                    .bytes()
                    .all(|it| it.is_ascii_alphanumeric() || it == b'_' || it == b':')
        })
        .collect()
}

#[test]
fn every_test_that_the_documents_name_exists() {
    let root = root();
    let tests = Tests::all();
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
                tests.contains(name),
                "{document} names a missing test: {name}"
            );
        }
    }
}

/// Each row must name at least one existing test in its last cell.
#[test]
fn every_row_of_the_parity_tables_has_a_test() {
    let root = root();
    let text = fs::read_to_string(root.join("docs/parity.md")).expect("docs/parity.md");
    let tests = Tests::all();
    let mut rows = 0;
    for row in text.lines().filter(|line| line.starts_with("| ")) {
        let cells: Vec<&str> = row.trim_matches('|').split(" | ").collect();
        let last = cells.last().expect("a cell");
        if last.trim() == "test" || last.contains("---") {
            continue;
        }
        rows += 1;
        let named: Vec<&str> = last.split('`').skip(1).step_by(2).collect();
        assert!(!named.is_empty(), "no test: {row}");
        for test in named {
            assert!(
                tests.contains(test),
                "docs/parity.md names a missing test: {test}"
            );
        }
    }
    assert!(rows > 40, "only {rows} rows were found");
}

/// A file that no `mod` item declares is not compiled, and its tests never run.
#[test]
fn every_file_belongs_to_a_module() {
    let root = root();
    let mut lost = Vec::new();
    for directory in ["src", "tests"] {
        add_undeclared(&root.join(directory), &mut lost);
    }
    assert!(lost.is_empty(), "no module declares {lost:?}");
}

/// Adds the files and folders in this directory, and below it, that the module of the directory
/// doesn't declare.
fn add_undeclared(directory: &Path, lost: &mut Vec<PathBuf>) {
    let mut modules = ["mod.rs", "lib.rs", "main.rs"]
        .map(|name| directory.join(name))
        .to_vec();
    modules.push(directory.with_extension("rs"));
    let module: String = modules.iter().flat_map(fs::read_to_string).collect();
    for entry in fs::read_dir(directory).expect("a directory") {
        let path = entry.expect("an entry").path();
        let is_source = path.extension().is_some_and(|extension| extension == "rs");
        if path.is_dir() {
            add_undeclared(&path, lost);
        } else if !is_source {
            continue;
        }
        let name = path.file_stem().and_then(|stem| stem.to_str());
        let name = name.expect("a name in UTF-8");
        // Each file and folder of `tests` itself is a crate, and `bin` holds programs.
        let is_root = ["mod", "lib", "main", "bin"].contains(&name)
            || directory.ends_with("tests") && directory.parent() == Some(root())
            || directory.ends_with("bin");
        let is_declared = [";", " {"].map(|end| module.contains(&format!("mod {name}{end}")));
        let has_sources = !path.is_dir() || holds_sources(&path);
        if !is_root && has_sources && !is_declared.contains(&true) {
            lost.push(path);
        }
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn holds_sources(directory: &Path) -> bool {
    let mut entries = fs::read_dir(directory).expect("a directory");
    entries.any(|entry| {
        let path = entry.expect("an entry").path();
        path.is_dir() || path.extension().is_some_and(|extension| extension == "rs")
    })
}
