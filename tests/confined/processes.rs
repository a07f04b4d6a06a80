//! Finds the processes of sandboxes from outside.

use std::{collections::BTreeMap, fs, path::Path};

/// The processes that have a mount from this place, or name it on their command line: their command
/// lines by PID.
pub(crate) fn processes_of(place: impl AsRef<Path>) -> BTreeMap<i32, String> {
    let place = place.as_ref().to_str().unwrap();
    let entries = fs::read_dir("/proc").unwrap();
    let pids = entries.filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok());
    let mut found = BTreeMap::new();
    for pid in pids {
        let read = |file| {
            let text = fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
            String::from_utf8_lossy(&text).replace('\0', " ")
        };
        let line = read("cmdline");
        if line.contains(place) || read("mountinfo").contains(place) {
            found.insert(pid, line);
        }
    }
    found
}
