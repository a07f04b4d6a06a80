//! The sources of the program that the client runs in the sandbox.

use std::sync::LazyLock;

/// The version of the lines between client and program. Both have to agree.
pub(super) const VERSION: u64 = 1;

/// The language of [`LOADER`].
pub(super) const LANGUAGE: &str = "python";

/// The code of the v1 exec. It reads [`sources`] from stdin and runs them.
pub(super) const LOADER: &str = include_str!("program/loader.py");

macro_rules! files {
    ($($name:literal),* $(,)?) => {
        [$(($name, include_str!(concat!("program/", $name, ".py")))),*]
    };
}

const FILES: [(&str, &str); 41] = files![
    "archive",
    "archive_reader",
    "builtins",
    "codefiles",
    "connection",
    "ends",
    "execs",
    "files",
    "foreground",
    "inotify",
    "link",
    "listing",
    "loop",
    "main",
    "marks",
    "metrics",
    "moves",
    "new_file",
    "operations",
    "output",
    "pack",
    "paths",
    "places",
    "ports",
    "processes",
    "programs",
    "reading",
    "relay",
    "removing",
    "requests",
    "sitecustomize",
    "spawn",
    "stdio",
    "steering",
    "streams",
    "sweep",
    "table",
    "unpack",
    "watch",
    "workers",
    "writing",
];

/// The sources of the program: one line of JSON, for the stdin of [`LOADER`].
pub(super) fn sources() -> &'static str {
    static SOURCES: LazyLock<String> = LazyLock::new(|| {
        let files = FILES.map(|(name, source)| (name.to_owned(), source.into()));
        let files = serde_json::Map::from_iter(files);
        format!("{}\n", serde_json::Value::Object(files))
    });
    &SOURCES
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, fs};

    use super::*;

    #[test]
    fn every_file_of_the_program_is_sent() {
        let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/src/lift/program");
        let files = fs::read_dir(directory).expect("the directory of the program");
        let names = files.filter_map(|file| {
            let name = file.expect("an entry").file_name().into_string().ok()?;
            name.strip_suffix(".py").map(str::to_owned)
        });
        let there: BTreeSet<_> = names
            .filter(|name| name != "loader" && name != "__init__")
            .collect();
        let sent: BTreeSet<_> = FILES.iter().map(|(name, _)| (*name).to_owned()).collect();
        assert_eq!(sent, there);
    }
}
