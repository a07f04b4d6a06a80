//! What the commands say if they can't use a sandbox, or if an argument is wrong.

use std::fs;

use super::{at, sandbox};
use crate::support::{
    cli::{Cli, Ran, Running},
    program::Program,
};

/// Every command that uses the sandbox `id`.
fn commands(id: &str) -> [Vec<String>; 7] {
    let place = at(id, "f");
    [
        vec!["cp".to_owned(), "stdin".to_owned(), place.clone()],
        vec!["cp".to_owned(), place.clone(), "-".to_owned()],
        vec!["ls".to_owned(), place.clone()],
        vec!["cat".to_owned(), place.clone()],
        vec!["watch".to_owned(), place],
        vec!["forward".to_owned(), id.to_owned(), "0:80".to_owned()],
        vec!["top".to_owned(), id.to_owned()],
    ]
}

/// Runs every command with this sandbox. All must fail, write nothing to stdout, and say `part`.
fn all_fail(cli: &Cli, id: &str, part: &str) {
    fs::write(cli.home().join("stdin"), "").unwrap();
    for arguments in commands(id) {
        let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
        let ran = cli.run(&arguments);
        assert_failed(&ran, part);
    }
}

fn assert_failed(ran: &Ran, part: &str) {
    assert_eq!((ran.status, &*ran.stdout), (1, ""), "{ran:?}");
    assert!(ran.stderr.contains(part), "{part}: {ran:?}");
    assert_eq!(ran.stderr.lines().count(), 1, "{ran:?}");
}

#[test]
fn wrong_arguments_are_refused() {
    let cli = Cli::new("http://127.0.0.1:1");
    for (arguments, part) in [
        (&["cp", "a"][..], "<DST>"),
        (&["cp", "a", "b"], "neither SRC nor DST is in a sandbox"),
        (&["cp", "-", "-"], "neither SRC nor DST is in a sandbox"),
        (
            &["cp", "./a:b", "/c:d"],
            "neither SRC nor DST is in a sandbox",
        ),
        (&["cp", "a:b", "c:d"], "from a sandbox to a sandbox"),
        (&["cp", ":b", "c"], "write ./ before it"),
        (&["cp", "", "a:b"], "expected a path"),
        (&["cp", "a:b", ".", "--ignore", "x"], "`--ignore`"),
        (&["cp", "-", "a:b", "--ignore", "x"], "`--ignore`"),
        (&["cp", ".", "a:b", "--max-size", "1MB"], "`--max-size`"),
        (&["cp", "a:b", ".", "--max-size", "0"], "at least 1 byte"),
        (&["ls"], "ID[:PATH]"),
        (&["ls", ":x"], "expected ID:PATH"),
        (&["cat"], "ID:PATH"),
        (&["watch", "a", "--output", "xml"], "xml"),
        (&["forward", "a"], "PORT"),
        (&["forward", "a", "x"], "expected PORT"),
        (&["forward", "a", "0"], "expected PORT"),
        (&["forward", "a", "localhost:1:2"], "expected PORT"),
        (&["top", "--interval", "0s"], "longer than 0"),
        (
            &["top", "--interval", "1s", "--once"],
            "cannot be used with",
        ),
    ] {
        let ran = cli.run(arguments);
        assert_eq!(
            (ran.status, &*ran.stdout),
            (2, ""),
            "{arguments:?}: {ran:?}"
        );
        assert!(ran.stderr.contains(part), "{arguments:?}: {ran:?}");
    }
}

#[test]
fn unknown_and_ambiguous_ids_are_refused() {
    let (_program, cli, id) = sandbox();
    all_fail(&cli, "nosuch", "you have no sandbox with the id `nosuch`");
    cli.create();
    all_fail(&cli, "sandbox-", "`sandbox-` is ambiguous: 2 sandboxes");
    assert_failed(&cli.run(&["ls", &at(&id, "nosuch")]), "'nosuch'");
}

#[test]
fn a_dead_server_is_reported() {
    let (program, cli, id) = sandbox();
    drop(program);
    all_fail(&cli, &id, &format!("cannot use {id}"));
}

#[test]
fn a_wrong_token_is_reported_with_the_flag() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    fs::write(&file, "the-right-access-token").unwrap();
    let file = file.to_str().unwrap();
    let program = Program::start(&["--token-file", file]);
    let cli = Cli::new(&program.url);
    let wrong = folder.path().join("wrong");
    fs::write(&wrong, "some-wrong-access-token").unwrap();
    let wrong = wrong.to_str().unwrap();
    let id = cli.stdout_of(&["create", "--token-file", file]);
    let id = id.trim();
    fs::write(cli.home().join("stdin"), "").unwrap();
    for arguments in commands(id) {
        let mut arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
        arguments.extend(["--token-file", wrong]);
        assert_failed(&cli.run(&arguments), "`--token-file`");
    }
    // `create` has stored the path of the file.
    cli.stdout_of(&["ls", id]);
}

#[test]
fn missing_paths_are_reported() {
    let (_program, cli, id) = sandbox();
    let missing = at(&id, "no/such/file");
    for arguments in [
        &["cp", &missing, "."][..],
        &["cp", &missing, "-"],
        &["ls", &missing],
        &["cat", &missing],
        &["watch", &missing],
    ] {
        assert_failed(
            &cli.run(arguments),
            "'no/such/file': No such file or directory",
        );
    }
    assert_failed(
        &cli.run(&["cp", "no/such/file", &at(&id, "")]),
        "cannot read no/such/file: No such file or directory",
    );
    assert_failed(&cli.run(&["cat", &at(&id, "/")]), "directory");
}

#[test]
fn services_that_speak_only_v1_need_the_lift() {
    let program = Program::start(&[]);
    let cli = Cli::new(&program.url_of_v1());
    let id = cli.create();
    all_fail(&cli, &id, "`--lift` adds it");
    let text = Running::start({
        let mut command = cli.command(&["cp", "--lift", "-", &at(&id, "f")]);
        command.stdin(fs::File::open("/proc/sys/kernel/ostype").unwrap());
        command
    });
    assert_eq!(text.end().status, 0);
    assert_eq!(cli.stdout_of(&["cat", "--lift", &at(&id, "f")]), "Linux\n");
}
