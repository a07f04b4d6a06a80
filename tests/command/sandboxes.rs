//! The commands for sandboxes that outlive a command: `create`, `list`, `inspect`, `exec`,
//! `attach`, `kill`, `snapshot` and `checkpoint`.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    os::unix::fs::PermissionsExt,
    process::Stdio,
};

use serde_json::Value;

use crate::{
    run::{assert_nothing_left, sentence},
    support::{
        cli::{Cli, Running},
        program::Program,
    },
};

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// Stops the sandbox's process that reads stdin, which `exec` attaches to this command.
fn occupy(cli: &Cli, id: &str) -> Running {
    let mut command = cli.command(&["exec", id, "sh", "-c", "echo here; cat"]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut running = Running::start_as_is(command);
    let mut line = String::new();
    let stdout = running.child().stdout.take().unwrap();
    BufReader::new(stdout).read_line(&mut line).unwrap();
    assert_eq!(line, "here\n");
    running
}

#[actix::test]
async fn a_sandbox_is_created_listed_inspected_and_killed() {
    let server = Program::start(&[]);
    let cli = Cli::new(&server.url);
    let made = cli.stdout_of(&[
        "create",
        "--label",
        "job=17",
        "--env",
        "MODE=test",
        "--max-lifetime",
        "1h",
        "--output",
        "json",
    ]);
    let id = json(&made)["id"].as_str().unwrap().to_owned();
    assert_eq!(json(&made)["protocol"], "v2");
    let other = cli.create();

    let listed = json(&cli.stdout_of(&["list", "--output", "json"]));
    assert_eq!(listed.as_array().unwrap().len(), 2);
    let listed = json(&cli.stdout_of(&["list", "--label", "job=17", "--output", "json"]));
    assert_eq!(listed[0]["id"], *id);
    assert_eq!(listed[0]["labels"]["job"], "17");
    assert_eq!(listed.as_array().unwrap().len(), 1);
    let table = cli.stdout_of(&["list", "--mine"]);
    assert!(table.starts_with("ID "), "{table}");
    assert_eq!(table.lines().count(), 3, "{table}");

    assert_eq!(cli.stdout_of(&["exec", &id, "printenv", "MODE"]), "test\n");
    let inspected = json(&cli.stdout_of(&["inspect", &id, "--output", "json"]));
    assert_eq!(inspected["labels"]["job"], "17");
    assert!(inspected["metrics"]["memory_bytes"].is_u64(), "{inspected}");
    assert!(inspected["ends_at_ms"].is_u64(), "{inspected}");
    assert!(inspected.get("token").is_none(), "{inspected}");
    let text = cli.stdout_of(&["inspect", &id]);
    assert!(text.contains("label      job=17"), "{text}");

    let said = cli.stdout_of(&["kill", &id, &other]);
    assert_eq!(said, format!("killed {id}\nkilled {other}\n"));
    assert_nothing_left(&server, &cli).await;
}

/// The file has a secret for each sandbox.
#[test]
fn tokens_are_stored_for_this_user_alone() {
    let server = Program::start(&[]);
    let cli = Cli::new(&server.url);
    let id = cli.create();
    let file = cli.home().join("state/actix-sandbox/sandboxes.json");
    let mode = |path: &std::path::Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&file), 0o600);
    assert_eq!(mode(file.parent().unwrap()), 0o700);
    let stored = json(&fs::read_to_string(&file).unwrap());
    let token = stored["sandboxes"][0]["token"].as_str().unwrap();
    for shown in [
        cli.stdout_of(&["list", "--mine"]),
        cli.stdout_of(&["list", "--mine", "--output", "json"]),
        cli.stdout_of(&["inspect", &id]),
    ] {
        assert!(!shown.contains(token), "{shown}");
        assert!(!shown.contains(server.secret()), "{shown}");
    }
    let shown = cli.stdout_of(&["inspect", &id, "--show-token"]);
    assert!(shown.contains(token), "{shown}");

    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    let ran = cli.run(&["list", "--mine"]);
    assert_eq!(ran.status, 1);
    assert!(sentence(&ran).contains("0644"), "{ran:?}");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(&file, "{").unwrap();
    let ran = cli.run(&["kill", "--all", "--mine"]);
    assert_eq!(ran.status, 1);
    assert!(sentence(&ran).contains("remove the file"), "{ran:?}");
}

#[test]
fn an_unambiguous_prefix_is_an_id() {
    let server = Program::start(&[]);
    let cli = Cli::new(&server.url);
    let id = cli.create();
    assert_eq!(cli.stdout_of(&["exec", &id[..12], "echo", "1"]), "1\n");
    assert_eq!(cli.stdout_of(&["exec", &id[8..14], "echo", "2"]), "2\n");
    let second = cli.create();
    let ran = cli.run(&["exec", "sandbox-", "true"]);
    assert_eq!(ran.status, 125);
    let said = sentence(&ran);
    assert!(said.contains("ambiguous") && said.contains(&id), "{said}");
    assert!(said.contains(&second), "{said}");
    for unknown in ["", "x", "sandbox-x"] {
        let ran = cli.run(&["kill", unknown]);
        assert_eq!(ran.status, 1);
        assert!(sentence(&ran).contains("list --mine"), "{ran:?}");
    }
}

#[test]
fn programs_and_code_run_with_their_options() {
    let server = Program::start(&[]);
    let cli = Cli::new(&server.url);
    let id = cli.create();
    let ran = cli.run(&[
        "exec",
        &id,
        "--env",
        "A=1",
        "--cwd",
        "/",
        "sh",
        "-c",
        "echo $A $PWD; exit 9",
    ]);
    assert_eq!((ran.status, &*ran.stdout), (9, "1 /\n"));
    let said = cli.stdout_of(&[
        "exec",
        &id,
        "-c",
        "import sys; print(sys.argv[1:])",
        "a",
        "-b",
    ]);
    assert_eq!(said, "['a', '-b']\n");
    let ran = cli.run(&["exec", "--timeout", "1s", &id, "sleep", "1000"]);
    assert_eq!(ran.status, 124, "{ran:?}");
    let ran = cli.run(&["exec", &id, "/missing/program"]);
    assert_eq!(ran.status, 125);
    assert!(sentence(&ran).contains("/missing/program"), "{ran:?}");
    assert_eq!(cli.run(&["exec", &id]).status, 2);
}

#[test]
fn a_detached_process_is_resumed_and_killed() {
    let server = Program::start(&[]);
    let cli = Cli::new(&server.url);
    let id = cli.create();
    let code = "echo one; read x; echo got $x; exit 6";
    let process = cli.stdout_of(&["exec", "-d", &id, "sh", "-c", code]);
    let process = process.trim();
    let inspected = json(&cli.stdout_of(&["inspect", &id, "--output", "json"]));
    assert_eq!(inspected["processes"][0]["id"], *process);

    let mut command = cli.command(&["attach", &id, &process[..8]]);
    command.stdin(Stdio::piped());
    let mut running = Running::start(command);
    let mut stdin = running.child().stdin.take().unwrap();
    stdin.write_all(b"this\n").unwrap();
    let ran = running.end();
    drop(stdin);
    assert_eq!((ran.status, &*ran.stdout), (6, "one\ngot this\n"));

    // Also after it has ended.
    let process = cli.stdout_of(&["exec", "-d", &id, "sh", "-c", "echo short; exit 7"]);
    let is_over = || {
        let inspected = json(&cli.stdout_of(&["inspect", &id, "--output", "json"]));
        inspected["processes"] == Value::Array(Vec::new())
    };
    while !is_over() {}
    let inspected = cli.stdout_of(&["inspect", &id]);
    assert!(
        inspected.contains("ended; `attach` shows its output"),
        "{inspected}"
    );
    let ran = cli.run(&["attach", &id, process.trim()]);
    assert_eq!((ran.status, &*ran.stdout), (7, "short\n"));
    let ran = cli.run(&["attach", &id, process.trim()]);
    assert_eq!(ran.status, 125);
    assert!(sentence(&ran).contains("no process"), "{ran:?}");

    let process = cli.stdout_of(&["exec", "-d", &id, "sleep", "1000"]);
    let process = process.trim();
    let ran = cli.run(&["kill", &id, "--process", ""]);
    assert_eq!(ran.status, 1);
    let ran = cli.run(&["kill", &id, "--process", process, "--signal", "NOPE"]);
    assert_eq!(ran.status, 2);
    cli.stdout_of(&["kill", &id, "--process", process, "--signal", "term"]);
    let ran = cli.run(&["attach", &id, "missing"]);
    assert_eq!(ran.status, 125);
    assert!(sentence(&ran).contains("no process `missing`"), "{ran:?}");
    let process = cli.stdout_of(&["exec", "-d", &id, "sleep", "1000"]);
    assert_eq!(
        cli.stdout_of(&["kill", &id, "--process", process.trim()]),
        ""
    );
}

#[test]
fn one_command_at_a_time_uses_a_sandbox() {
    let server = Program::start(&[]);
    let cli = Cli::new(&server.url);
    let id = cli.create();
    let mut running = occupy(&cli, &id);
    let ran = cli.run(&["exec", &id, "true"]);
    assert_eq!(ran.status, 125);
    assert!(sentence(&ran).contains("is in use"), "{ran:?}");
    // What the service says about the sandbox needs no attachment.
    let text = cli.stdout_of(&["inspect", &id]);
    assert!(text.contains("state    attached"), "{text}");
    drop(running.child().stdin.take());
    assert_eq!(running.end().status, 0);
    assert_eq!(cli.run(&["exec", &id, "true"]).status, 0);
}

#[actix::test]
async fn a_signal_ends_exec_and_its_process() {
    let server = Program::start(&[]);
    let cli = Cli::new(&server.url);
    let id = cli.create();
    let running = occupy(&cli, &id);
    running.signal("TERM");
    assert_eq!(running.end().status, 143);
    let inspected = json(&cli.stdout_of(&["inspect", &id, "--output", "json"]));
    assert_eq!(inspected["processes"], Value::Array(Vec::new()));
}

#[test]
fn files_of_a_snapshot_start_new_sandboxes() {
    let server = Program::start(&[]);
    let cli = Cli::new(&server.url);
    let id = cli.create();
    cli.stdout_of(&["exec", &id, "sh", "-c", "echo prepared > file"]);
    assert_eq!(cli.stdout_of(&["snapshot", &id, "ready"]), "stored ready\n");
    let code = "print(open('file').read(), end='')";
    let said = cli.stdout_of(&["run", "--snapshot", "ready", "-c", code]);
    assert_eq!(said, "prepared\n");
    let ran = cli.run(&["run", "--snapshot", "misspelt", "-c", code]);
    assert_eq!(ran.status, 125);
    assert!(sentence(&ran).contains("misspelt"), "{ran:?}");
    let ran = cli.run(&["snapshot", &id, "../name"]);
    assert_eq!(ran.status, 1);
    assert!(sentence(&ran).contains("../name"), "{ran:?}");
}

#[test]
fn a_checkpointed_sandbox_is_restored_by_the_next_command() {
    let server = Program::start(&[]);
    let cli = Cli::new(&server.url);
    let id = cli.create();
    let ran = cli.run(&["checkpoint", &id]);
    assert_eq!(ran.status, 1);
    assert!(sentence(&ran).contains("`--checkpoint`"), "{ran:?}");
    let id = cli.stdout_of(&["create", "--checkpoint", "--label", "a=b"]);
    let id = id.trim();
    cli.stdout_of(&["exec", id, "sh", "-c", "echo day one > file"]);
    let said = cli.stdout_of(&["checkpoint", id]);
    assert!(said.starts_with(&format!("checkpointed {id}")), "{said}");
    assert!(cli.stdout_of(&["list", "--mine"]).contains("not running"));
    let inspected = json(&cli.stdout_of(&["inspect", id, "--output", "json"]));
    assert_eq!(inspected["labels"]["a"], "b");
    assert_eq!(cli.stdout_of(&["attach", id]), format!("{id} is running\n"));
    assert_eq!(cli.stdout_of(&["exec", id, "cat", "file"]), "day one\n");
}

#[actix::test]
async fn a_sandbox_of_another_program_is_added_by_its_token() {
    let server = Program::start(&[]);
    let cli = Cli::new(&server.url);
    let sandbox = actix_sandbox::Sandbox::create(&server.url).await.unwrap();
    let id = sandbox.sandbox_id().as_str().to_owned();
    let token = sandbox.sandbox_token().expose_secret().to_owned();
    drop(sandbox);
    // The actor of the sandbox runs on this thread, which the commands block.
    let is_detached = async || {
        let all = actix_sandbox::Sandbox::list(&server.url).await.unwrap();
        all[0].state == actix_sandbox::ListedState::Detached
    };
    while !is_detached().await {}
    let file = cli.home().join("token");
    fs::write(&file, "wrong").unwrap();
    let ran = cli.run(&["attach", &id, "--sandbox-token-file", "token"]);
    assert_eq!(ran.status, 125);
    assert!(sentence(&ran).contains("token"), "{ran:?}");
    fs::write(&file, token).unwrap();
    cli.stdout_of(&["attach", &id, "--sandbox-token-file", "token"]);
    assert_eq!(cli.stdout_of(&["exec", &id, "echo", "mine"]), "mine\n");
    cli.stdout_of(&["kill", &id]);
    assert_nothing_left(&server, &cli).await;
}

#[test]
fn a_sandbox_that_is_gone_is_forgotten_by_kill() {
    let server = Program::start(&[]);
    let cli = Cli::new(&server.url);
    let id = cli.create();
    let other = Cli::new(&server.url);
    let copied = other.home().join("state/actix-sandbox");
    fs::create_dir_all(&copied).unwrap();
    let file = cli.home().join("state/actix-sandbox/sandboxes.json");
    fs::copy(file, copied.join("sandboxes.json")).unwrap();
    cli.stdout_of(&["kill", &id]);
    let ran = other.run(&["exec", &id, "true"]);
    assert_eq!(ran.status, 125);
    assert!(sentence(&ran).contains("no longer exists"), "{ran:?}");
    assert_eq!(
        other.stdout_of(&["kill", &id]),
        format!("{id} was already gone\n")
    );
    assert_eq!(
        other.stdout_of(&["list", "--mine", "--output", "json"]),
        "[]\n"
    );
}

/// Otherwise a token that the user exports for one service would go to all others, too.
#[test]
fn a_token_goes_only_to_the_service_that_it_is_for() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let cli = Cli::new("");
    let directory = cli.home().join("state/actix-sandbox");
    fs::create_dir_all(&directory).unwrap();
    let file = directory.join("sandboxes.json");
    for (variable, is_sent) in [("", false), (r#""token_variable": true,"#, true)] {
        let kept = format!(
            r#"{{"sandboxes": [{{"id": "sandbox-1", "token": "t", "created_ms": 0,
                "service": {{ {variable} "url": "{url}" }} }}]}}"#
        );
        fs::write(&file, kept).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        let mut command = cli.command(&["exec", "sandbox-1", "true"]);
        command.env("ACTIX_SANDBOX_TOKEN", "a-token-for-another-service");
        let running = Running::start(command);
        let (stream, _) = listener.accept().unwrap();
        let head = BufReader::new(&stream).lines().map_while(Result::ok);
        let head: Vec<_> = head.take_while(|line| !line.is_empty()).collect();
        let has_token = head.iter().any(|line| line.contains("a-token-for-another"));
        assert_eq!(has_token, is_sent, "{head:?}");
        drop(stream);
        assert_eq!(running.end().status, 125);
    }
}

#[test]
fn a_sandbox_whose_lifetime_has_ended_is_gone() {
    let server = Program::start(&[]);
    let cli = Cli::new(&server.url);
    let id = cli.stdout_of(&["create", "--max-lifetime", "1s"]);
    while cli.stdout_of(&["list", "--output", "json"]) != "[]\n" {}
    let said = cli.stdout_of(&["kill", "--all", "--mine"]);
    assert_eq!(said, format!("{} was already gone\n", id.trim()));
}

#[test]
fn sandboxes_of_a_dead_server_can_be_forgotten() {
    let mut server = Program::start(&[]);
    let cli = Cli::new(&server.url);
    let id = cli.create();
    server.signal("KILL");
    while !server.is_over() {
        std::thread::yield_now();
    }
    let ran = cli.run(&["kill", "--all", "--mine"]);
    assert_eq!(ran.status, 1);
    assert!(ran.stderr.contains(&id), "{ran:?}");
    assert!(
        ran.stderr.contains("1 of 1 sandboxes may still run"),
        "{ran:?}"
    );
    let table = cli.stdout_of(&["list", "--mine"]);
    assert!(table.contains("unknown"), "{table}");
    let said = cli.stdout_of(&["kill", "--all", "--mine", "--forget"]);
    assert!(said.starts_with(&format!("forgot {id}: ")), "{said}");
    assert_eq!(cli.stdout_of(&["kill", "--all", "--mine"]), "");
}

#[actix::test]
async fn a_sandbox_that_cannot_be_recorded_is_killed() {
    let server = Program::start(&[]);
    let cli = Cli::new(&server.url);
    // A file is where the directory should be.
    fs::write(cli.home().join("state"), "").unwrap();
    let ran = cli.run(&["create"]);
    assert_eq!((ran.status, &*ran.stdout), (1, ""));
    assert!(sentence(&ran).contains("sandboxes.json"), "{ran:?}");
    // `run` needs no record, and warns.
    let ran = cli.run(&["run", "-c", "print(1)"]);
    assert_eq!((ran.status, &*ran.stdout), (0, "1\n"));
    assert!(sentence(&ran).contains("cannot store the id"), "{ran:?}");
    fs::remove_file(cli.home().join("state")).unwrap();
    assert_nothing_left(&server, &cli).await;
}

#[test]
fn options_that_contradict_each_other_are_refused() {
    let cli = Cli::new("http://127.0.0.1:1");
    for arguments in [
        &["kill"][..],
        &["kill", "--all"],
        &["kill", "--mine"],
        &["kill", "--all", "--mine", "id"],
        &["kill", "id", "--signal", "TERM"],
        &["create", "--label", "x"],
        &["create", "--memory", "0"],
        &["create", "--idle-timeout", "0s"],
        &["list", "--output", "yaml"],
        &["inspect"],
        &["snapshot", "id"],
        &["nonsense"],
    ] {
        let ran = cli.run(arguments);
        assert_eq!((ran.status, &*ran.stdout), (2, ""), "{arguments:?}");
        assert!(ran.stderr.starts_with("error: "), "{ran:?}");
    }
}
