//! What `watch` reports.

use std::{
    fs,
    io::{BufRead, BufReader},
};

use serde_json::{Value, json};

use super::{at, bash, sandbox};
use crate::support::{cli::Cli, program::Program};

/// Creates, renames and removes a file again and again.
const LOOP: &str = r"mkdir d
    (while sleep 0.02; do echo > $'d/a\e'; mv $'d/a\e' d/b; rm d/b; done) > /dev/null 2>&1 &";

#[test]
fn changes_are_reported_as_lines_until_ctrl_c() {
    let (_program, cli, id) = sandbox();
    bash(&cli, &id, LOOP);
    let mut watch = cli.spawn(&["watch", &at(&id, "d")]);
    let stdout = watch.child().stdout.take().unwrap();
    let mut lines = BufReader::new(stdout).lines().map(Result::unwrap);
    for expected in [r"created a\u{1b}", r"renamed a\u{1b} -> b", "removed b"] {
        assert!(lines.any(|line| line == expected), "{expected}");
    }
    watch.signal("INT");
    let ran = watch.end();
    assert_eq!(ran.status, 130, "{ran:?}");
    assert_eq!(ran.stderr, "actix-sandbox: watching d\n");
}

#[test]
fn changes_are_reported_as_json_until_sigterm() {
    let (_program, cli, id) = sandbox();
    bash(&cli, &id, LOOP);
    let mut watch = cli.spawn(&["watch", "--recursive", "--output", "json", &id]);
    let stdout = watch.child().stdout.take().unwrap();
    let mut lines = BufReader::new(stdout).lines();
    let mut next = || serde_json::from_str::<Value>(&lines.next().unwrap().unwrap()).unwrap();
    assert_eq!(next(), json!({"event": "ready"}));
    for expected in [
        json!({"event": "created", "path": "d/a\u{1b}"}),
        json!({"event": "renamed", "path": "d/a\u{1b}", "to": "d/b"}),
        json!({"event": "removed", "path": "d/b"}),
    ] {
        while next() != expected {}
    }
    watch.signal("TERM");
    assert_eq!(watch.end().status, 143);
}

#[test]
fn a_watch_ends_with_the_watched_directory() {
    // On this backend, the files are those of this machine.
    let program = Program::start(&["--backend", "host"]);
    let cli = Cli::new(&program.url);
    let id = cli.create();
    let directory = bash(&cli, &id, "mkdir d; cd d; pwd");
    let mut watch = cli.spawn(&["watch", "--output", "json", &at(&id, "d")]);
    let stdout = watch.child().stdout.take().unwrap();
    let mut lines = BufReader::new(stdout).lines().map(Result::unwrap);
    assert_eq!(lines.next().unwrap(), r#"{"event":"ready"}"#);
    fs::remove_dir(directory.trim()).unwrap();
    assert_eq!(lines.last().unwrap(), r#"{"event":"removed","path":""}"#);
    assert_eq!(watch.end().status, 0);
}
