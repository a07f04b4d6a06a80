//! What `ls` and `cat` show.

use serde_json::{Value, json};

use super::{ESCAPED, at, bash, sandbox};

#[test]
fn hidden_files_are_listed_on_request() {
    let (_program, cli, id) = sandbox();
    bash(
        &cli,
        &id,
        "mkdir -p d/.h/x d/b; touch d/.f d/a d/b/c d/b/.g; ln -s d link",
    );
    for (arguments, expected) in [
        (&["d"][..], "a\nb\n"),
        (&["d", "-a"], ".f\n.h\na\nb\n"),
        (&["d", "-R"], "a\nb\nb/c\n"),
        (&["d", "-Ra"], ".f\n.h\n.h/x\na\nb\nb/.g\nb/c\n"),
        (&["d/.f"], "d/.f\n"),
        (&["link"], "a\nb\n"),
        (&["d/b/../a"], "d/b/../a\n"),
    ] {
        let place = at(&id, arguments[0]);
        let arguments = [&["ls", &place], &arguments[1..]].concat();
        assert_eq!(cli.stdout_of(&arguments), expected, "{arguments:?}");
    }
    let home = cli.stdout_of(&["ls", &id]);
    assert!(home.contains("d\nlink\n"), "{home}");
    assert_eq!(home, cli.stdout_of(&["ls", &at(&id, "")]));
}

#[test]
fn details_include_modes_sizes_times_and_targets() {
    let (_program, cli, id) = sandbox();
    let script = "mkdir d; cd d; printf 12345 > file; chmod 640 file; ln -s $'no\\nfile' link;
        touch -h -d 2001-02-03T04:05:06Z file link";
    bash(&cli, &id, script);
    let expected = "-rw-r-----            5 2001-02-03T04:05:06Z file\n\
                    lrwxrwxrwx            7 2001-02-03T04:05:06Z link -> no\\nfile\n";
    assert_eq!(cli.stdout_of(&["ls", "-l", &at(&id, "d")]), expected);
    let dangling = cli.stdout_of(&["ls", "-l", &at(&id, "d/link")]);
    assert!(dangling.ends_with(" d/link -> no\\nfile\n"), "{dangling}");

    let json = cli.stdout_of(&["ls", "--output", "json", &at(&id, "d")]);
    let entries: Value = serde_json::from_str(&json).unwrap();
    let time = 981_173_106_000_000_000_u64;
    let expected = json!([
        {"path": "file", "kind": "file", "size": 5, "permissions": 0o640, "modified_ns": time},
        {"path": "link", "kind": "symlink", "size": 7, "permissions": 0o777, "modified_ns": time,
         "target": "no\nfile"},
    ]);
    assert_eq!(entries, expected);
}

#[test]
fn hostile_names_are_escaped() {
    let (_program, cli, id) = sandbox();
    bash(&cli, &id, r"mkdir d; touch $'d/\e[2J\n\xff'");
    for option in ["-a", "-R"] {
        let listed = cli.stdout_of(&["ls", option, &at(&id, "d")]);
        assert_eq!(listed, format!("{ESCAPED}\n"));
    }
    let json = cli.stdout_of(&["ls", "--output", "json", &at(&id, "d")]);
    let entries: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(entries[0]["path"], json!({"b64": "G1sySgr/"}));
    // Errors, too, contain names.
    for command in ["ls", "cat"] {
        let ran = cli.run(&[command, &at(&id, "\x1b[2J")]);
        assert_eq!(ran.status, 1);
        assert!(ran.stderr.contains(r"\u{1b}[2J"), "{ran:?}");
        assert!(!ran.stderr.contains('\x1b'), "{ran:?}");
    }
}

#[test]
fn cat_writes_the_bytes_of_several_files() {
    let (_program, cli, id) = sandbox();
    let other = cli.create();
    let script = r"printf 'a\0' > a; printf '\xff' > b; head -c 3000000 /dev/zero > large";
    bash(&cli, &id, script);
    bash(&cli, &other, "printf other > a");
    let mut command = cli.command(&["cat", &at(&id, "a"), &at(&id, "b"), &at(&other, "a")]);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(output.stdout, b"a\0\xffother");
    let large = cli.stdout_of(&["cat", &at(&id, "large")]);
    assert!(large.bytes().all(|byte| byte == 0) && large.len() == 3_000_000);

    let ran = cli.run(&["cat", &at(&id, "a"), &at(&id, "missing"), &at(&id, "b")]);
    assert_eq!((ran.status, &*ran.stdout), (1, "a\0"));
    assert!(ran.stderr.contains("'missing'"), "{ran:?}");
}
