//! What is left after a command that ended early: signals, closed pipes, full disks.

use std::{
    fs,
    io::{Read, Write},
    process::{Command, Stdio},
    thread,
};

use super::{at, bash, run_on_full_disk, sandbox, tree};
use crate::support::cli::Running;

/// Whether a directory contains an unfinished file.
fn unfinished(directory: &std::path::Path) -> bool {
    let mut entries = fs::read_dir(directory).unwrap().map(Result::unwrap);
    entries.any(|it| {
        let name = it.file_name();
        name.to_str().unwrap().starts_with(".actix-sandbox-")
    })
}

#[test]
fn an_interrupted_download_leaves_no_file() {
    let (program, cli, id) = sandbox();
    bash(&cli, &id, "head -c 200000000 /dev/zero > large");
    for (signal, status) in [("INT", 130), ("TERM", 143)] {
        let out = cli.home().join(signal);
        fs::create_dir(&out).unwrap();
        let copy = cli.spawn(&["cp", &at(&id, "large"), signal]);
        while !unfinished(&out) {
            thread::yield_now();
        }
        // The copy can't complete before it gets the signal.
        program.signal("STOP");
        copy.signal(signal);
        let ran = copy.end();
        program.signal("CONT");
        assert_eq!(ran.status, status, "{ran:?}");
        assert_eq!(tree(&out), [""; 0]);
    }
}

#[test]
fn an_interrupted_upload_keeps_the_old_file() {
    let (_program, cli, id) = sandbox();
    bash(&cli, &id, "mkdir d; echo old > d/f");
    let mut command = cli.command(&["cp", "-", &at(&id, "d/f")]);
    command.stdin(Stdio::piped());
    let mut copy = Running::start(command);
    let mut stdin = copy.child().stdin.take().unwrap();
    // More than the pipe and the buffers of the client hold, so a part has arrived.
    stdin.write_all(&vec![b'x'; 8 << 20]).unwrap();
    copy.signal("INT");
    let ran = copy.end();
    assert_eq!(ran.status, 130, "{ran:?}");
    assert_eq!(bash(&cli, &id, "find d; cat d/f"), "d\nd/f\nold\n");
}

/// A server runs at most 16 transfers of a sandbox at a time.
#[test]
fn interrupted_transfers_stop_on_the_server() {
    let (_program, cli, id) = sandbox();
    bash(&cli, &id, "head -c 50000000 /dev/zero > large");
    for round in 0..17 {
        let mut cat = cli.spawn(&["cat", &at(&id, "large")]);
        // The rest is not read, so the transfer waits.
        let mut stdout = cat.child().stdout.take().unwrap();
        stdout.read_exact(&mut [0]).unwrap();
        cat.signal("INT");
        let ran = cat.end();
        assert_eq!(ran.status, 130, "round {round}: {ran:?}");
    }
}

#[test]
fn closed_pipes_end_the_commands_quietly() {
    let (_program, cli, id) = sandbox();
    bash(&cli, &id, "head -c 8000000 /dev/zero > large");
    let large = at(&id, "large");
    for arguments in [&["cat", &large][..], &["cp", &large, "-"]] {
        let mut command = cli.spawn(arguments);
        let mut stdout = command.child().stdout.take().unwrap();
        stdout.read_exact(&mut [0]).unwrap();
        drop(stdout);
        let ran = command.end();
        assert_eq!((ran.status, &*ran.stderr), (141, ""), "{arguments:?}");
    }
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    for arguments in [
        &["ls", &id][..],
        &["top", &id],
        &["watch", &id, "--output", "json"],
    ] {
        let mut command = cli.command(arguments);
        command.stdout(writer.try_clone().unwrap());
        command.stderr(Stdio::piped());
        let ran = Running::start_as_is(command).end();
        assert_eq!((ran.status, &*ran.stderr), (141, ""), "{arguments:?}");
    }
}

#[test]
fn a_full_disk_is_reported_in_one_sentence() {
    let (_program, cli, id) = sandbox();
    bash(&cli, &id, "head -c 3000000 /dev/zero > large");
    let large = at(&id, "large");
    for arguments in [&["cat", &large][..], &["cp", &large, "-"], &["ls", &id]] {
        let ran = run_on_full_disk(&cli, arguments);
        assert_eq!(ran.status, 1, "{ran:?}");
        let expected = "actix-sandbox: cannot write to standard output: No space left on device \
                        (os error 28)\n";
        assert_eq!(ran.stderr, expected);
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_download_to_a_full_disk_leaves_no_file() {
    let (_program, cli, id) = sandbox();
    bash(&cli, &id, "mkdir d; head -c 3000000 /dev/zero > d/large");
    let disk = cli.home().join("disk");
    fs::create_dir(&disk).unwrap();
    let mut mount = Command::new("mount");
    mount.args(["-t", "tmpfs", "-o", "size=1m", "tmpfs"]);
    if !mount.arg(&disk).status().is_ok_and(|it| it.success()) {
        println!("not tried: only root can mount a disk");
        return;
    }
    let ran = cli.run(&["cp", &at(&id, "d/large"), "disk"]);
    let of_directory = cli.run(&["cp", &at(&id, "d"), "disk"]);
    let left = tree(&disk);
    let unmounted = Command::new("umount").arg("--lazy").arg(&disk).status();
    assert!(unmounted.unwrap().success());
    for ran in [ran, of_directory] {
        assert_eq!(ran.status, 1, "{ran:?}");
        assert!(ran.stderr.contains("No space left on device"), "{ran:?}");
        assert_eq!(ran.stderr.lines().count(), 1, "{ran:?}");
    }
    assert_eq!(left, ["d"]);
}
