//! What every command does in the same way when something outside it fails: one sentence, a status
//! that is not 0, and nothing left behind.

use std::{fs, io::Read, net::TcpListener, os::unix::fs::PermissionsExt, process::Stdio};

use crate::{
    run::sentence,
    support::{
        cli::{Cli, Ran, Running},
        port::Port,
        program::Program,
    },
};

const TOKEN: &str = "a-token-for-these-tests-alone";

/// The commands that use a service, with right arguments. `ID` stands for the id of a sandbox.
const COMMANDS: [&[&str]; 17] = [
    &["run", "-c", "print(1)"],
    &["shell", "--", "true"],
    &["create"],
    &["list"],
    &["inspect", "ID"],
    &["exec", "ID", "echo", "1"],
    &["attach", "ID"],
    &["kill", "ID"],
    &["snapshot", "ID", "name"],
    &["checkpoint", "ID"],
    &["cp", "file", "ID:file"],
    &["cp", "ID:file", "copy"],
    &["ls", "ID"],
    &["cat", "ID:file"],
    &["watch", "ID"],
    &["forward", "ID", "0:80"],
    &["top", "ID"],
];

/// The commands that write to stdout before they end by themselves.
const WRITE: [&[&str]; 8] = [
    &["run", "-c", "print(1)"],
    &["list"],
    &["inspect", "ID"],
    &["exec", "ID", "echo", "1"],
    &["ls", "ID"],
    &["cat", "ID:file"],
    &["forward", "ID", "0:80"],
    &["top", "ID"],
];

fn with_id<'a>(command: &[&'a str], id: &'a str, place: &'a str) -> Vec<&'a str> {
    let word = |word: &&'a str| match *word {
        "ID" => id,
        "ID:file" => place,
        other => other,
    };
    command.iter().map(word).collect()
}

/// A user with a sandbox that has a file, and a local file.
fn prepared(server: &Program, arguments: &[&str]) -> (Cli, String, String) {
    let cli = Cli::new(&server.url);
    fs::write(cli.home().join("file"), "content").unwrap();
    let create = [&["create", "--checkpoint"], arguments].concat();
    let id = cli.stdout_of(&create).trim().to_owned();
    cli.stdout_of(&["exec", &id, "sh", "-c", "echo content > file"]);
    let place = format!("{id}:file");
    (cli, id, place)
}

fn assert_failed(command: &[&str], ran: &Ran, said: &str) {
    assert!([1, 125].contains(&ran.status), "{command:?}: {ran:?}");
    // `kill` reports each sandbox, and then how many it could not kill.
    let lines = if command[0] == "kill" { 2 } else { 1 };
    assert_eq!(ran.stderr.lines().count(), lines, "{command:?}: {ran:?}");
    assert!(ran.stderr.contains(said), "{command:?}: {ran:?}");
}

#[test]
fn a_dead_server_is_one_sentence() {
    let port = Port::reserve();
    let address = port.address().to_string();
    let mut server = Program::start(&["--address", &address]);
    let (cli, id, place) = prepared(&server, &[]);
    server.signal("KILL");
    while !server.is_over() {
        std::thread::yield_now();
    }
    for command in COMMANDS {
        let ran = cli.run(&with_id(command, &id, &place));
        assert_failed(command, &ran, "refused");
        assert!(!ran.stderr.contains(server.secret()), "{ran:?}");
        assert_eq!(ran.stdout, "", "{command:?}");
    }
    assert!(!cli.home().join("copy").exists());
}

#[test]
fn a_wrong_token_is_one_sentence() {
    let tokens = tempfile::tempdir().unwrap();
    let [right, wrong] = ["right", "wrong"].map(|name| {
        let file = tokens.path().join(name);
        fs::write(&file, format!("{TOKEN}-{name}")).unwrap();
        file.to_str().unwrap().to_owned()
    });
    let server = Program::start(&["--token-file", &right]);
    let (cli, id, place) = prepared(&server, &["--token-file", &right]);
    for command in COMMANDS {
        let mut arguments = with_id(command, &id, &place);
        arguments.splice(1..1, ["--token-file", &*wrong]);
        let ran = cli.run(&arguments);
        assert_failed(command, &ran, "`--token-file`");
        assert!(!ran.stderr.contains(TOKEN), "{ran:?}");
    }
    // The sandbox is still there, and the right token still known.
    assert_eq!(cli.stdout_of(&["cat", &place]), "content\n");
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_is_one_sentence() {
    let server = Program::start(&[]);
    let (cli, id, place) = prepared(&server, &[]);
    for command in WRITE {
        let mut process = cli.command(&with_id(command, &id, &place));
        let full = fs::File::options().write(true).open("/dev/full").unwrap();
        process.stdout(full).stderr(Stdio::piped());
        let ran = Running::start_as_is(process).end();
        assert_failed(command, &ran, "cannot write to standard output: No space");
    }
}

#[test]
fn a_closed_pipe_ends_a_command_quietly() {
    let server = Program::start(&[]);
    let (cli, id, place) = prepared(&server, &[]);
    for command in WRITE {
        let mut process = cli.command(&with_id(command, &id, &place));
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        process.stdout(writer).stderr(Stdio::piped());
        let ran = Running::start_as_is(process).end();
        assert_eq!((ran.status, &*ran.stderr), (141, ""), "{command:?}");
    }
}

#[test]
fn a_signal_ends_a_command_whose_service_does_not_answer() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let cli = Cli::new(&url);
    fs::write(cli.home().join("file"), "content").unwrap();
    let directory = cli.home().join("state/actix-sandbox");
    fs::create_dir_all(&directory).unwrap();
    let kept = format!(
        r#"{{"sandboxes": [{{"id": "sandbox-1", "token": "t", "created_ms": 0,
            "service": {{ "url": "{url}" }} }}]}}"#
    );
    let file = directory.join("sandboxes.json");
    fs::write(&file, kept).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    // All at once, because those that create something wait a few seconds for it.
    let mut all = Vec::new();
    for command in COMMANDS {
        for (signal, status, said) in [
            ("INT", 130, "interrupted"),
            ("TERM", 143, "ended by SIGTERM"),
        ] {
            let running = cli.spawn(&with_id(command, "sandbox-1", "sandbox-1:file"));
            // It has sent its request.
            let (mut stream, _) = listener.accept().unwrap();
            stream.read_exact(&mut [0; 4]).unwrap();
            running.signal(signal);
            all.push((command, status, said, running, stream));
        }
    }
    for (command, status, said, running, stream) in all {
        let ran = running.end();
        drop(stream);
        assert_eq!(ran.status, status, "{command:?}: {ran:?}");
        // After Ctrl-C, the usual end of these commands, some say nothing.
        if status == 130 && ["watch", "forward", "top"].contains(&command[0]) {
            assert!(ran.stderr.lines().count() <= 1, "{command:?}: {ran:?}");
        } else if ["run", "shell", "create"].contains(&command[0]) {
            assert!(ran.stderr.contains("may still create"), "{ran:?}");
            assert!(ran.stderr.ends_with(&format!("{said}\n")), "{ran:?}");
        } else {
            assert_eq!(sentence(&ran), said, "{command:?}");
        }
    }
}
