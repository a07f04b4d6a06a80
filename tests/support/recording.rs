//! The recordings of the cloud-run-sandbox server in `tests/transcripts/`. Each line is one event.

use actix_sandbox::test_util::Recording;
pub(crate) use actix_sandbox::test_util::{Event, Line};

/// Returns the names of all recordings, sorted.
pub(crate) fn names() -> Vec<String> {
    let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/transcripts");
    let mut names: Vec<String> = std::fs::read_dir(directory)
        .expect("the recordings")
        .filter_map(|entry| {
            let name = entry.ok()?.file_name().into_string().ok()?;
            Some(name.strip_suffix(".jsonl")?.to_owned())
        })
        .collect();
    names.sort();
    names
}

pub(crate) fn load(name: &str) -> Recording {
    let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/transcripts");
    Recording::load(format!("{directory}/{name}.jsonl")).expect("a recording")
}

pub(crate) fn lines(name: &str) -> Vec<Line> {
    load(name).lines().to_vec()
}
