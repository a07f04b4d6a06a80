//! Tests of watching files.

use std::{
    collections::HashMap,
    fs,
    io::{BufRead, BufReader, Lines, PipeReader, PipeWriter},
    thread::{self, JoinHandle},
};

use serde_json::{Value, json};

use super::{
    super::{
        run,
        testing::{Home, ends, parse},
    },
    *,
};

/// A running watch of a home.
struct Watching {
    lines: Lines<BufReader<PipeReader>>,
    stdin: Option<PipeWriter>,
    stopper: Option<PipeWriter>,
    thread: JoinHandle<Result<Value, BuiltinError>>,
}

impl Watching {
    fn start(home: &Home, builtin: Value) -> Self {
        let (mut streams, ends) = ends();
        let root = home.0.path().to_owned();
        let builtin = parse(&builtin);
        let thread = thread::spawn(move || run(&builtin, &root, &mut streams));
        let mut watching = Self {
            lines: BufReader::new(ends.stdout).lines(),
            stdin: ends.stdin,
            stopper: ends.stopper,
            thread,
        };
        assert_eq!(watching.next(), Some(FileEvent::Ready));
        watching
    }

    fn recursive(home: &Home) -> Self {
        Self::start(home, json!({"op": "watch", "path": "", "recursive": true}))
    }

    fn next(&mut self) -> Option<FileEvent> {
        let line = self.lines.next()?.unwrap();
        Some(serde_json::from_str(&line).unwrap())
    }

    /// Ends the watch. Returns the other events.
    fn finish(mut self) -> Vec<FileEvent> {
        self.stdin.take();
        let events = std::iter::from_fn(|| self.next()).collect();
        assert_eq!(self.thread.join().unwrap().unwrap(), json!({}));
        events
    }
}

fn created(path: &str) -> FileEvent {
    FileEvent::Created { path: path.into() }
}

fn modified(path: &str) -> FileEvent {
    FileEvent::Modified { path: path.into() }
}

fn removed(path: &str) -> FileEvent {
    FileEvent::Removed { path: path.into() }
}

fn renamed(path: &str, to: &str) -> FileEvent {
    FileEvent::Renamed {
        path: path.into(),
        to: to.into(),
    }
}

#[test]
fn changes_are_reported_in_order() {
    let home = Home::new();
    fs::create_dir(home.path("d")).unwrap();
    let watching = Watching::recursive(&home);
    home.put("a", "1");
    fs::rename(home.path("a"), home.path("d/b")).unwrap();
    fs::remove_file(home.path("d/b")).unwrap();
    let expected = [
        created("a"),
        modified("a"),
        renamed("a", "d/b"),
        removed("d/b"),
    ];
    assert_eq!(watching.finish(), expected);
}

#[test]
fn moves_into_and_out_of_a_watch_are_reported() {
    let (home, elsewhere) = (Home::new(), Home::new());
    fs::create_dir_all(home.path("d/e")).unwrap();
    let mut watching = Watching::recursive(&home);
    fs::rename(home.path("d"), elsewhere.path("d")).unwrap();
    // No other event follows, so this comes when the wait for the second half times out.
    assert_eq!(watching.next(), Some(removed("d")));
    elsewhere.put("d/e/silent", "");
    fs::rename(elsewhere.path("d"), home.path("f")).unwrap();
    assert_eq!(watching.next(), Some(created("f")));
    assert_eq!(watching.next(), Some(created("f/e")));
    assert_eq!(watching.next(), Some(created("f/e/silent")));
    home.put("f/e/new", "");
    assert_eq!(watching.finish(), [created("f/e/new")]);
}

#[test]
fn a_renamed_directory_stays_watched() {
    let home = Home::new();
    fs::create_dir_all(home.path("d/e")).unwrap();
    let watching = Watching::recursive(&home);
    fs::rename(home.path("d"), home.path("f")).unwrap();
    home.put("f/e/a", "");
    fs::create_dir(home.path("d")).unwrap();
    home.put("d/b", "");
    let events = watching.finish();
    let expected = [
        renamed("d", "f"),
        created("f/e/a"),
        created("d"),
        created("d/b"),
    ];
    assert_eq!(events, expected);
}

#[test]
fn without_recursion_only_direct_entries_are_reported() {
    let home = Home::new();
    fs::create_dir(home.path("d")).unwrap();
    let watching = Watching::start(&home, json!({"op": "watch", "path": "."}));
    home.put("d/a", "");
    home.put("b", "");
    assert_eq!(watching.finish(), [created("b")]);
}

#[test]
fn a_watch_ends_when_its_path_is_removed() {
    let home = Home::new();
    for is_directory in [true, false] {
        match is_directory {
            true => fs::create_dir(home.path("a")).unwrap(),
            false => home.put("a", ""),
        }
        let mut watching = Watching::start(&home, json!({"op": "watch", "path": "a"}));
        match is_directory {
            true => fs::remove_dir(home.path("a")).unwrap(),
            false => fs::rename(home.path("a"), home.path("b")).unwrap(),
        }
        assert_eq!(watching.next(), Some(removed("")));
        assert_eq!(watching.next(), None);
        assert_eq!(watching.thread.join().unwrap().unwrap(), json!({}));
    }
}

#[test]
fn changes_of_a_watched_file_are_reported() {
    let home = Home::new();
    home.put("a", "1");
    let open = fs::File::open(home.path("a")).unwrap();
    let mut watching = Watching::start(&home, json!({"op": "watch", "path": "a"}));
    fs::OpenOptions::new()
        .append(true)
        .open(home.path("a"))
        .unwrap()
        .write_all(b"2")
        .unwrap();
    assert_eq!(watching.next(), Some(modified("")));
    fs::remove_file(home.path("a")).unwrap();
    assert_eq!(watching.next(), Some(removed("")));
    drop(open);
}

#[test]
fn a_stop_ends_a_watch() {
    let home = Home::new();
    let mut watching = Watching::recursive(&home);
    watching.stopper.take();
    let error = watching.thread.join().unwrap().unwrap_err();
    assert!(
        error.message.ends_with("the operation was stopped"),
        "{error}"
    );
}

#[test]
fn bad_paths_are_refused() {
    let home = Home::new();
    let error = home
        .call(&json!({"op": "watch", "path": "missing"}))
        .unwrap_err();
    assert_eq!(
        error.message,
        "cannot watch 'missing': No such file or directory"
    );
}

/// Fails if a path is missing or was reported twice, unless an overflow was reported.
fn check_creations(events: &[FileEvent], expected: impl Iterator<Item = String>) {
    if events.contains(&FileEvent::Overflow) {
        return;
    }
    let mut counts = HashMap::new();
    for event in events {
        if let FileEvent::Created { path } = event {
            *counts.entry(path.to_string()).or_insert(0) += 1;
        }
    }
    for path in expected {
        assert_eq!(counts.remove(&path), Some(1), "{path}");
    }
    assert_eq!(counts, HashMap::new());
}

#[test]
fn each_of_many_creations_is_reported_once() {
    let home = Home::new();
    let watching = Watching::recursive(&home);
    let path = |number: u32| match number % 100 {
        0 => format!("d{number}"),
        _ => format!("d{}/{number}", number / 100 * 100),
    };
    let events = thread::scope(|scope| {
        let finishing = scope.spawn({
            let mut watching = watching;
            move || {
                let mut events = Vec::new();
                while events.last() != Some(&created("last")) {
                    events.push(watching.next().unwrap());
                }
                events.extend(watching.finish());
                events
            }
        });
        for number in 0..10_000 {
            match number % 100 {
                0 => fs::create_dir(home.path(&path(number))).unwrap(),
                _ => drop(fs::File::create(home.path(&path(number))).unwrap()),
            }
        }
        home.put("last", "");
        finishing.join().unwrap()
    });
    check_creations(&events, (0..10_000).map(path).chain(["last".to_owned()]));
}

#[test]
fn an_overflow_is_reported_and_the_watch_goes_on() {
    let limit = fs::read_to_string("/proc/sys/fs/inotify/max_queued_events").unwrap_or_default();
    let limit = limit.trim().parse::<usize>();
    let Some(limit) = limit.ok().filter(|limit| *limit < 100_000) else {
        eprintln!("skipped: the queue of the kernel is too long, or its length is unknown");
        return;
    };
    let home = Home::new();
    fs::create_dir(home.path("d")).unwrap();
    let mut watching = Watching::recursive(&home);
    // The output is not read, so the queue of the kernel fills up.
    let name = "n".repeat(200);
    for number in 0..limit + 5_000 {
        let path = home.path(&format!("d/{name}{number}"));
        drop(fs::File::create(path).unwrap());
    }
    while watching.next() != Some(FileEvent::Overflow) {}
    home.put("d/after", "");
    assert!(watching.finish().contains(&created("d/after")));
}
