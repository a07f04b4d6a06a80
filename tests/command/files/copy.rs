//! Where `cp` puts what it copies, and what it leaves out.

use std::{fs, os::unix::fs::PermissionsExt};

use super::{ESCAPED, at, bash, hostile, read, run_with, sandbox, tree};

#[test]
fn directories_are_copied_both_ways() {
    let (_program, cli, id) = sandbox();
    let home = cli.home();
    fs::create_dir_all(home.join("d/e")).unwrap();
    fs::write(home.join("d/e/program"), "#!/bin/sh\n").unwrap();
    fs::set_permissions(home.join("d/e/program"), fs::Permissions::from_mode(0o750)).unwrap();
    std::os::unix::fs::symlink("e/program", home.join("d/link")).unwrap();
    let expected = ["e", "e/program", "link"];

    // A new name, then the same name twice: the directory is in it, then.
    cli.stdout_of(&["cp", "d", &at(&id, "new")]);
    cli.stdout_of(&["cp", "d", &at(&id, "new")]);
    cli.stdout_of(&["cp", "d/", &at(&id, "made/")]);
    let found = bash(
        &cli,
        &id,
        "find new made | sort; find new/d/e/program -printf '%m\\n'",
    );
    let below = |top: &str| expected.map(|it| format!("{top}/{it}\n")).concat();
    let list = format!(
        "made\nmade/d\n{}new\nnew/d\n{}{}750\n",
        below("made/d"),
        below("new/d"),
        below("new")
    );
    assert_eq!(found, list);

    cli.stdout_of(&["cp", &at(&id, "made/d"), "out"]);
    assert_eq!(tree(&home.join("out")), expected);
    cli.stdout_of(&["cp", &at(&id, "made/d/"), "out"]);
    assert_eq!(tree(&home.join("out/d")), expected);
    let link = fs::read_link(home.join("out/link")).unwrap();
    assert_eq!(link.to_str(), Some("e/program"));
    let mode = fs::metadata(home.join("out/e/program"))
        .unwrap()
        .permissions();
    assert_eq!(mode.mode() & 0o777, 0o750);

    // The contents, not the directory.
    cli.stdout_of(&["cp", &at(&id, "made/d/."), "contents/"]);
    assert_eq!(tree(&home.join("contents")), expected);
    cli.stdout_of(&["cp", &at(&id, ""), "everything"]);
    assert!(home.join("everything/made/d/link").is_symlink());
}

#[test]
fn files_go_into_directories_or_replace_files() {
    let (_program, cli, id) = sandbox();
    let home = cli.home();
    fs::write(home.join("a:b"), "colon").unwrap();
    fs::write(home.join("file"), "new").unwrap();
    bash(&cli, &id, "mkdir d; echo old > d/old");
    for (from, to) in [
        ("./a:b", ""),
        ("file", "d"),
        ("file", "d/old"),
        ("file", "made/"),
        ("file", "x/y/z"),
    ] {
        cli.stdout_of(&["cp", from, &at(&id, to)]);
    }
    let found = bash(
        &cli,
        &id,
        "for it in a:b d/file d/old made/file x/y/z; do cat $it; echo; done",
    );
    assert_eq!(found, "colon\nnew\nnew\nnew\nnew\n");

    fs::create_dir(home.join("d")).unwrap();
    fs::write(home.join("d/old"), "old").unwrap();
    for (from, to) in [
        ("d/old", "."),
        ("d/old", "d"),
        ("d/old", "d/old2"),
        ("d/old", "made/"),
        ("d/old", "./c:d"),
    ] {
        cli.stdout_of(&["cp", &at(&id, from), to]);
    }
    for path in ["old", "d/old", "d/old2", "made/old", "c:d"] {
        assert_eq!(read(home.join(path)), "new", "{path}");
    }
}

#[test]
fn a_prefix_of_the_id_is_enough() {
    let (_program, cli, id) = sandbox();
    let short = &id.strip_prefix("sandbox-").unwrap()[..8];
    let ran = run_with(&cli, b"text", &["cp", "-", &at(short, "f")]);
    assert_eq!(ran.status, 0, "{ran:?}");
    assert_eq!(cli.stdout_of(&["cat", &at(short, "f")]), "text");
}

#[test]
fn a_dash_is_standard_input_and_output() {
    let (_program, cli, id) = sandbox();
    let content = b"a\0b\nwithout a newline at the end";
    let ran = run_with(&cli, content, &["cp", "-", &at(&id, "d/f")]);
    assert_eq!((ran.status, &*ran.stderr), (0, ""));
    let content = std::str::from_utf8(content).unwrap();
    assert_eq!(cli.stdout_of(&["cp", &at(&id, "d/f"), "-"]), content);

    for arguments in [
        ["cp", "-", &at(&id, "d")],
        ["cp", "-", &at(&id, "new/")],
        ["cp", &at(&id, "d"), "-"],
    ] {
        let ran = cli.run(&arguments);
        assert_eq!(ran.status, 1, "{ran:?}");
        assert!(ran.stderr.contains("name a file"), "{ran:?}");
    }
    let ran = cli.run(&["cp", "--max-size", "5B", &at(&id, "d/f"), "-"]);
    assert_eq!((ran.status, &*ran.stdout), (1, ""));
    assert!(ran.stderr.contains("`--max-size`"), "{ran:?}");
}

#[test]
fn skipped_files_are_reported_by_escaped_names() {
    let (_program, cli, id) = sandbox();
    let home = cli.home();
    fs::create_dir(home.join("d")).unwrap();
    fs::write(home.join("d/file"), "").unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(home.join("d").join(hostile())).unwrap();
    let ran = cli.run(&["cp", "d", &at(&id, "d")]);
    assert_eq!(ran.status, 1);
    let expected =
        format!("actix-sandbox: skipped {ESCAPED}: it is a pipe, a socket or a device\n");
    assert_eq!(ran.stderr, expected);
    assert_eq!(bash(&cli, &id, "find d -type f"), "d/file\n");

    bash(&cli, &id, r"mkfifo $'d/\e[2J\n\xff'");
    let ran = cli.run(&["cp", &at(&id, "d"), "back"]);
    assert_eq!((ran.status, ran.stderr), (1, expected));
    assert_eq!(tree(&home.join("back")), ["file"]);
}

#[test]
fn uploads_leave_out_what_the_rules_ignore() {
    let (_program, cli, id) = sandbox();
    let home = cli.home();
    fs::create_dir_all(home.join("d/target")).unwrap();
    for name in ["target/x", "a.log", "keep.log", "a.rs"] {
        fs::write(home.join("d").join(name), "").unwrap();
    }
    let rules = [
        "--ignore",
        "target/",
        "--ignore",
        "*.log",
        "--ignore",
        "!keep.log",
    ];
    let to = at(&id, "d");
    cli.stdout_of(&[&["cp", "d", &to][..], &rules].concat());
    assert_eq!(
        bash(&cli, &id, "find d -type f | sort"),
        "d/a.rs\nd/keep.log\n"
    );
}

#[test]
fn downloads_stop_at_their_limits() {
    let (_program, cli, id) = sandbox();
    bash(
        &cli,
        &id,
        "mkdir d; head -c 100000 /dev/zero > d/large; touch d/small",
    );
    for limit in [["--max-size", "50kB"], ["--max-entries", "1"]] {
        let ran = cli.run(&["cp", limit[0], limit[1], &at(&id, "d"), "out"]);
        assert_eq!(ran.status, 1, "{ran:?}");
        let advice = "raise it by `--max-size` or `--max-entries`";
        assert!(ran.stderr.contains(advice), "{ran:?}");
    }
}
