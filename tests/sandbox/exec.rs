//! Execs: the client against the local server, with bash and python. docs/parity.md names many of
//! these tests.

use crate::support::{VERSIONS, events, sandbox_of, within};
use actix_sandbox::{
    Effect, ErrorKind, Language, ProcessEnd, ProtocolVersion, SandboxEnd, SandboxState,
};
use futures::{StreamExt, future::join_all};

/// The end of a process that returned 0. v1 doesn't report exit codes.
pub(crate) fn exited(version: ProtocolVersion) -> ProcessEnd {
    match version {
        ProtocolVersion::V1 => ProcessEnd::Unknown,
        _ => ProcessEnd::Exited(0),
    }
}

#[actix::test]
async fn several_execs_run_one_after_the_other() {
    for version in VERSIONS {
        let (_server, sandbox) = sandbox_of(version).await;
        for i in 0..5 {
            let output = within(
                "run",
                sandbox.run(Language::Bash, format!("echo {i}; echo e{i} >&2")),
            )
            .await
            .expect("ran");
            assert_eq!(
                (output.stdout, output.stderr),
                (format!("{i}\n").into(), format!("e{i}\n").into())
            );
            assert_eq!(output.end, exited(version));
        }
    }
}

/// v1 doesn't report exit codes, and the error says so.
#[actix::test]
async fn an_end_that_v1_does_not_tell_is_unknown() {
    let (_server, sandbox) = sandbox_of(ProtocolVersion::V1).await;
    for code in ["true", "exit 3"] {
        let output = within("run", sandbox.run(Language::Bash, code)).await;
        let output = output.expect("ran");
        assert_eq!(output.end, ProcessEnd::Unknown);
        let error = output.error_for_status().expect_err("unknown success");
        assert_eq!(error.kind(), ErrorKind::ProcessFailed);
        let text = "the server did not report whether the process succeeded";
        assert!(error.to_string().starts_with(text), "{error}");
    }
}

/// v1 only: a second exec at the same time is a state error and doesn't disturb the first.
#[actix::test]
async fn a_second_exec_is_refused_and_disturbs_nothing() {
    let (_server, sandbox) = sandbox_of(ProtocolVersion::V1).await;
    let first = sandbox
        .exec(Language::Bash, "read line; echo got $line")
        .await
        .expect("started");
    let error = sandbox
        .exec(Language::Bash, "echo second")
        .await
        .expect_err("refused");
    assert_eq!(error.kind(), ErrorKind::ProcessRunning);
    assert_eq!(error.effect(), Effect::NotApplied);
    assert!(
        error.to_string().contains("a process is running"),
        "{error}"
    );
    first.write_to_stdin("on\n").await.expect("written");
    assert_eq!(
        within("read", first.stdout().read_all())
            .await
            .expect("read"),
        "got on\n"
    );
}

/// An exec in a sandbox that isn't running is a state error that names the state.
#[actix::test]
async fn exec_after_kill_names_the_state() {
    for version in VERSIONS {
        let (_server, sandbox) = sandbox_of(version).await;
        sandbox.kill().await.expect("killed");
        assert_eq!(sandbox.state(), SandboxState::Ended(SandboxEnd::Killed));
        let error = sandbox
            .exec(Language::Bash, "echo")
            .await
            .expect_err("refused");
        assert_eq!(error.kind(), ErrorKind::WrongState);
        assert!(error.to_string().contains("it was killed"), "{error}");
    }
}

/// `exec` fails with the server's reason, and the sandbox stays usable.
#[actix::test]
async fn an_unsupported_language_fails_with_the_servers_reason() {
    for version in VERSIONS {
        let (_server, sandbox) = sandbox_of(version).await;
        for language in ["ruby", "", "Python", "../../bin/sh", "p\"y\n"] {
            let error = sandbox
                .exec(language.to_owned(), "puts 1")
                .await
                .expect_err("refused");
            assert_eq!(error.kind(), ErrorKind::UnsupportedLanguage);
            let reason = error.server_reason().expect("a reason");
            assert!(
                reason.contains(language) && reason.contains("python, bash"),
                "{reason}"
            );
        }
        assert_eq!(
            sandbox
                .run(Language::Bash, "echo alive")
                .await
                .expect("ran")
                .stdout,
            "alive\n"
        );
    }
}

/// Streams end when the process ends or is killed, and when the sandbox is killed or lost.
#[actix::test]
async fn streams_end_with_the_process_a_kill_or_the_sandbox() {
    for version in VERSIONS {
        let (server, sandbox) = sandbox_of(version).await;
        let forever = "echo begun; sleep 1000";

        let process = sandbox
            .exec(Language::Bash, "echo begun")
            .await
            .expect("started");
        assert_eq!(
            within("end", process.stdout().read_all())
                .await
                .expect("read"),
            "begun\n"
        );
        assert_eq!(
            within("end", process.stderr().read_all())
                .await
                .expect("read"),
            ""
        );

        let process = sandbox
            .exec(Language::Bash, forever)
            .await
            .expect("started");
        let mut stdout = process.stdout();
        assert_eq!(
            stdout.next().await.expect("some").expect("output"),
            "begun\n"
        );
        process.kill().await.expect("killed");
        assert!(within("end after kill", stdout.next()).await.is_none());

        let process = sandbox
            .exec(Language::Bash, forever)
            .await
            .expect("started");
        let mut stdout = process.stdout();
        assert_eq!(
            stdout.next().await.expect("some").expect("output"),
            "begun\n"
        );
        sandbox.kill().await.expect("killed");
        assert!(
            within("end after kill of the sandbox", stdout.next())
                .await
                .is_none()
        );
        assert_eq!(process.wait().await.expect("end"), ProcessEnd::Killed);

        // v1 only: a v2 server reports the length of the output, so the stream ends without error.
        let sandbox = actix_sandbox::Sandbox::create(server.url())
            .max_protocol_version(ProtocolVersion::V1)
            .await
            .expect("another");
        let process = sandbox
            .exec(Language::Bash, forever)
            .await
            .expect("started");
        let mut stdout = process.stdout();
        assert_eq!(
            stdout.next().await.expect("some").expect("output"),
            "begun\n"
        );
        server.stop().await;
        // A lost process must not look like a finished one.
        let error = within("end after the server went", stdout.next())
            .await
            .expect("an error")
            .expect_err("an error");
        assert!(
            matches!(error.kind(), ErrorKind::LinkLost | ErrorKind::SandboxEnded),
            "{error:?}"
        );
        assert!(within("end after the error", stdout.next()).await.is_none());
        let end = within("wait", process.wait()).await.expect("an end");
        assert!(
            matches!(end, ProcessEnd::SandboxLost { .. }) && !end.is_confirmed(),
            "{end:?}"
        );
    }
}

#[actix::test]
async fn writing_to_a_finished_process_is_a_state_error() {
    for version in VERSIONS {
        let (_server, sandbox) = sandbox_of(version).await;
        let process = sandbox.exec(Language::Bash, "true").await.expect("started");
        process.wait().await.expect("ended");
        let error = process.write_to_stdin("x").await.expect_err("refused");
        assert_eq!(error.kind(), ErrorKind::ProcessEnded);
        // The next exec still works.
        assert_eq!(
            sandbox
                .run(Language::Bash, "echo next")
                .await
                .expect("ran")
                .stdout,
            "next\n"
        );
    }
}

/// Concurrent and repeated kills succeed. A kill of a finished process succeeds at once.
#[actix::test]
async fn kill_is_idempotent_and_any_number_may_ask_and_wait() {
    for version in VERSIONS {
        let (_server, sandbox) = sandbox_of(version).await;
        let process = sandbox
            .exec(Language::Bash, "sleep 1000")
            .await
            .expect("started");
        let kills = join_all((0..20).map(|_| process.kill()));
        let waits = join_all((0..20).map(|_| process.wait()));
        let (kills, waits) = within("kills", futures::future::join(kills, waits)).await;
        assert!(kills.iter().all(Result::is_ok), "{kills:?}");
        assert!(
            waits
                .iter()
                .all(|end| matches!(end, Ok(ProcessEnd::Killed))),
            "{waits:?}"
        );
        within("kill again", process.kill()).await.expect("at once");

        let process = sandbox.exec(Language::Bash, "true").await.expect("started");
        assert_eq!(process.wait().await.expect("ended"), exited(version));
        process.kill().await.expect("at once");
        assert_eq!(
            process.wait().await.expect("ended"),
            exited(version),
            "a later kill changes nothing"
        );

        let (first, second) = futures::future::join(sandbox.kill(), sandbox.kill()).await;
        first.expect("killed");
        second.expect("killed");
        sandbox.kill().await.expect("killed before");
    }
}

/// A process that the server's time limit ends counts as killed, not as finished.
#[actix::test]
async fn a_process_killed_by_someone_else_ends_with_that_cause() {
    let server = actix_sandbox::LocalServer::builder()
        .max_run_time(crate::support::backend::LONG_ENOUGH_TO_BEGIN)
        .start()
        .await
        .expect("a server");
    for (version, cause) in [
        (ProtocolVersion::V1, ProcessEnd::Killed),
        (ProtocolVersion::V2, ProcessEnd::TimedOut),
    ] {
        let sandbox = actix_sandbox::Sandbox::create(server.url())
            .max_protocol_version(version)
            .await
            .expect("a sandbox");
        let process = sandbox
            .exec(Language::Bash, "sleep 1000")
            .await
            .expect("started");
        assert_eq!(
            within("the limit", process.wait()).await.expect("ended"),
            cause
        );
        let next = sandbox.run(Language::Bash, "echo next").await;
        assert_eq!(next.expect("ran").stdout, "next\n");
    }
}

/// Empty code, 10 MiB of code and NUL bytes: the code runs or the server gives a reason, and the
/// sandbox stays usable.
#[actix::test]
async fn odd_code_runs_or_is_refused_with_a_reason() {
    for version in VERSIONS {
        let (_server, sandbox) = sandbox_of(version).await;
        for language in [Language::Bash, Language::Python] {
            let output = within("empty", sandbox.run(language, ""))
                .await
                .expect("ran");
            assert!(output.stdout.is_empty() && output.stderr.is_empty());
        }
        let long = format!("# {}\nprint('end of a long one')", "x".repeat(10 << 20));
        let output = within("10 MiB", sandbox.run(Language::Python, long))
            .await
            .expect("ran");
        assert_eq!(output.stdout, "end of a long one\n");

        match within("NUL", sandbox.run(Language::Bash, "echo a\0b")).await {
            Ok(_) => {}
            Err(error) => assert!(error.server_reason().is_some(), "{error}"),
        }
        let quotes = r#"print("'\"\\", 'é😀\u0000'.encode())"#;
        let output = within("quotes", sandbox.run(Language::Python, quotes))
            .await
            .expect("ran");
        assert!(output.stdout.starts_with(b"'\"\\ b'"), "{output:?}");
        assert_eq!(
            sandbox
                .run(Language::Bash, "echo alive")
                .await
                .expect("ran")
                .stdout,
            "alive\n"
        );
    }
}

/// Code over the server's message limit ends the session. The call fails instead of hanging.
#[actix::test]
async fn code_over_the_message_limit_ends_the_session_with_the_reason() {
    for version in VERSIONS {
        let (_server, sandbox) = sandbox_of(version).await;
        let error = within("20 MiB", sandbox.run(Language::Bash, "#".repeat(20 << 20)))
            .await
            .expect_err("too large");
        assert_eq!(error.kind(), ErrorKind::LinkLost, "{error}");
    }
}

/// A kill gets through a flood of output, whether the output is read or not.
#[actix::test]
async fn a_kill_goes_through_while_output_floods() {
    for version in VERSIONS {
        let (_server, sandbox) = sandbox_of(version).await;
        for read in [true, false, true, false] {
            let process = sandbox.exec(Language::Bash, "yes").await.expect("started");
            let mut stdout = process.stdout();
            let mut came = 0;
            while came < 5 << 20 {
                came += within("output", stdout.next())
                    .await
                    .expect("some")
                    .expect("output")
                    .len();
            }
            if read {
                let reading = stdout.fold((), async |(), _| ());
                let (killed, ()) =
                    within("kill", futures::future::join(process.kill(), reading)).await;
                killed.expect("killed");
            } else {
                drop(stdout);
                within("kill", process.kill()).await.expect("killed");
            }
            assert_eq!(process.wait().await.expect("ended"), ProcessEnd::Killed);
        }
    }
}

/// Stdin arrives complete and in order, in pieces of any size.
#[actix::test]
async fn stdin_arrives_in_order_and_whole() {
    for version in VERSIONS {
        let (_server, sandbox) = sandbox_of(version).await;
        let code = "import sys, hashlib\ndata = sys.stdin.readline()\nn = int(data)\nbody = sys.stdin.read(n)\nprint(len(body), hashlib.sha256(body.encode()).hexdigest())";
        let process = sandbox.exec(Language::Python, code).await.expect("started");
        let pieces: Vec<String> = (0..3_000)
            .map(|i| format!("{i} é€😀 {}\n", "x".repeat(i % 700)))
            .collect();
        let body = pieces.concat();
        process
            .write_to_stdin(format!("{}\n", body.chars().count()))
            .await
            .expect("written");
        for piece in pieces {
            within("write", process.write_to_stdin(piece))
                .await
                .expect("written");
        }
        within("flush", process.flush_stdin())
            .await
            .expect("flushed");
        let seen = within("read", process.stdout().read_all())
            .await
            .expect("read");
        let expected = sandbox
        .run(Language::Python, "import hashlib\nb=''.join(f'{i} é€😀 '+'x'*(i%700)+'\\n' for i in range(3000))\nprint(len(b), hashlib.sha256(b.encode()).hexdigest())")
        .await
        .expect("ran")
        .stdout;
        assert_eq!(seen, expected);
    }
}

/// Output arrives while the process runs, not only at its end.
#[actix::test]
async fn output_is_live() {
    for version in VERSIONS {
        let (_server, sandbox) = sandbox_of(version).await;
        let process = sandbox
            .exec(
                Language::Bash,
                "while read line; do echo \"echo $line\"; done",
            )
            .await
            .expect("started");
        let mut lines = process.stdout().lines();
        for i in 0..20 {
            process
                .write_to_stdin(format!("{i}\n"))
                .await
                .expect("written");
            assert_eq!(
                within("echo", lines.next())
                    .await
                    .expect("a line")
                    .expect("a line"),
                format!("echo {i}")
            );
        }
        process.kill().await.expect("killed");
    }
}

#[actix::test]
async fn bytes_text_and_lines_tell_the_same() {
    for version in VERSIONS {
        let (_server, sandbox) = sandbox_of(version).await;
        let code = r"printf 'one\r\ntwo\n\nfour é😀'";
        let whole = "one\r\ntwo\n\nfour é😀";

        let process = sandbox.exec(Language::Bash, code).await.expect("started");
        let text: String = process
            .stdout()
            .text()
            .map(|text| text.expect("text"))
            .collect()
            .await;
        assert_eq!(text, whole);
        let process = sandbox.exec(Language::Bash, code).await.expect("started");
        let lines: Vec<String> = process
            .stdout()
            .lines()
            .map(|line| line.expect("line"))
            .collect()
            .await;
        assert_eq!(lines, ["one", "two", "", "four é😀"]);
        let process = sandbox.exec(Language::Bash, code).await.expect("started");
        let limited = process
            .stdout()
            .read_to_limit(5)
            .await
            .expect_err("too large");
        assert_eq!(limited.kind(), ErrorKind::OutputTooLarge);
        process.wait().await.expect("ended");
        assert_eq!(
            sandbox.run(Language::Bash, code).await.expect("ran").stdout,
            whole
        );
    }
}

/// Output arrives complete even if it is not UTF-8 or is written in parts of code points. v1
/// replaces invalid bytes.
#[actix::test]
async fn invalid_utf8_in_output_is_replaced_and_the_rest_arrives() {
    for version in VERSIONS {
        let (_server, sandbox) = sandbox_of(version).await;
        let output = sandbox
            .run(Language::Bash, r"printf '\xff\xfe'; echo END")
            .await
            .expect("ran");
        assert_eq!(output.stdout_lossy(), "\u{FFFD}\u{FFFD}END\n");
        let is_whole = output.stdout == b"\xff\xfeEND\n"[..];
        assert_eq!(is_whole, version == ProtocolVersion::V2);
        let code =
            "import sys, os, time\nfor b in ('aé€😀'*50).encode():\n    os.write(1, bytes([b]))\n";
        let output = sandbox.run(Language::Python, code).await.expect("ran");
        assert_eq!(output.stdout, "aé€😀".repeat(50));
        let code = "import sys; sys.stdout.write('a'+'\u{e9}'*150000+'END')";
        let output = sandbox.run(Language::Python, code).await.expect("ran");
        assert_eq!(output.stdout, format!("a{}END", "é".repeat(150_000)));
    }
}

/// The end of the sandbox is the last event, so a subscriber can stop there.
#[actix::test]
async fn a_process_ends_before_its_sandbox_does() {
    use actix_sandbox::SandboxEvent;
    for version in VERSIONS {
        let (_server, sandbox) = sandbox_of(version).await;
        let mut events = events(&sandbox).await;
        let process = sandbox.exec(Language::Bash, "sleep 1000").await;
        let process = process.expect("started");
        sandbox.kill().await.expect("killed");
        assert_eq!(process.wait().await.expect("an end"), ProcessEnd::Killed);
        drop((process, sandbox));
        let mut seen = Vec::new();
        while let Some(event) = within("event", events.recv()).await {
            seen.push(event);
        }
        let is_end = |event: &SandboxEvent| matches!(event, SandboxEvent::ProcessEnded { .. });
        let ends: Vec<_> = (0..seen.len()).filter(|&at| is_end(&seen[at])).collect();
        match version {
            // v1 only reports the end of the sandbox, so the process ends right before it.
            ProtocolVersion::V1 => assert_eq!(ends, [seen.len() - 2], "{seen:?}"),
            ProtocolVersion::V2 | ProtocolVersion::Lifted => assert_eq!(ends.len(), 1, "{seen:?}"),
        }
        assert!(
            matches!(seen.last(), Some(SandboxEvent::Ended(_))),
            "{seen:?}"
        );
    }
}

/// Subscribers get the start and the end of a process, all statuses, and the end of the sandbox.
#[actix::test]
async fn subscribers_learn_of_processes_and_the_end() {
    for version in VERSIONS {
        use actix_sandbox::{ProcessId, SandboxEvent};
        let (_server, sandbox) = sandbox_of(version).await;
        let mut events = events(&sandbox).await;
        sandbox.run(Language::Bash, "true").await.expect("ran");
        sandbox.kill().await.expect("killed");
        let mut seen = Vec::new();
        loop {
            let event = within("event", events.recv())
                .await
                .expect("the last is Ended");
            let last = matches!(event, SandboxEvent::Ended(_));
            seen.push(event);
            if last {
                break;
            }
        }
        assert!(seen.contains(&SandboxEvent::ProcessStarted(ProcessId(1))));
        assert!(seen.iter().any(|e| matches!(
            e,
            SandboxEvent::ProcessEnded {
                process: ProcessId(1),
                end,
                ..
            } if *end == exited(version)
        )));
        assert_eq!(seen.last(), Some(&SandboxEvent::Ended(SandboxEnd::Killed)));
        let statuses: Vec<_> = seen
            .iter()
            .filter_map(|event| match event {
                SandboxEvent::Status { status, .. } => Some(status.to_string()),
                _ => None,
            })
            // A server leaves it out if the output ends together with the process.
            .filter(|status| status != "SANDBOX_EXECUTION_EXITED")
            .collect();
        assert_eq!(
            statuses,
            [
                "SANDBOX_EXECUTION_RUNNING",
                "SANDBOX_EXECUTION_DONE",
                "SANDBOX_KILLING",
                "SANDBOX_DELETING",
                "SANDBOX_DELETED",
                "SANDBOX_KILLED"
            ]
        );
    }
}
