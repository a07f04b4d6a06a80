//! The crate's player plays the recordings of the cloud-run-sandbox server to the client over real
//! sockets. The client sends what the recorded client sent, and ends in the state that the
//! recording implies.

use std::{future::Future, time::Duration};

use crate::support::{
    recording::{Event, load, names},
    within,
};
use actix_sandbox::{
    Error, ErrorKind, Language, ProcessEnd, ReconnectPolicy, Sandbox, SandboxBuilder, SandboxEnd,
    SandboxState,
    test_util::{Player, Recording},
};
use futures::future::join;

/// Plays a recording while `scenario` runs the client. Removes two things from the recording that
/// this crate's client never does: sending the messages in `unsaid`, whose answers remain, and
/// dialling without a token.
async fn replay<S: Future<Output = ()>>(
    name: &str,
    unsaid: &[&str],
    scenario: impl FnOnce(String) -> S,
) {
    let mut recording = load(name);
    let refused: Vec<String> = recording
        .lines()
        .iter()
        .filter(|line| matches!(line.event, Event::Refused(_)))
        .map(|line| line.conn.clone())
        .collect();
    recording.retain(|line| {
        let is_unsaid = matches!(&line.event, Event::Send(frame) if unsaid.contains(&&**frame));
        !is_unsaid && !refused.contains(&line.conn)
    });
    play(recording, scenario).await;
}

async fn play<S: Future<Output = ()>>(recording: Recording, scenario: impl FnOnce(String) -> S) {
    let name = recording.name().to_owned();
    let player = Player::start(recording).await.expect("a player");
    within(&name, scenario(player.url())).await;
    let played = within(&name, player.finish()).await;
    played.unwrap_or_else(|deviation| panic!("{deviation}"));
}

async fn create(url: &str) -> Sandbox {
    Sandbox::create(url).await.expect("a sandbox")
}

/// Runs code, and returns its stdout and stderr.
async fn run(sandbox: &Sandbox, language: Language, code: &str) -> [String; 2] {
    let output = sandbox.run(language, code).await.expect("ran");
    assert_eq!(output.end, ProcessEnd::Unknown);
    [output.stdout_lossy(), output.stderr_lossy()].map(Into::into)
}

async fn kill(sandbox: Sandbox) {
    sandbox.kill().await.expect("killed");
    assert_eq!(ended(&sandbox).await, SandboxEnd::Killed);
}

async fn ended(sandbox: &Sandbox) -> SandboxEnd {
    match sandbox.state() {
        SandboxState::Ended(end) => end,
        other => panic!("it is {other}"),
    }
}

fn refused<T>(result: Result<T, Error>, kind: ErrorKind, reason: Option<&str>) {
    let Err(error) = result else {
        panic!("expected a refusal");
    };
    assert_eq!(error.kind(), kind, "{error}");
    match (error.server_reason(), reason) {
        (None, None) => {}
        (Some(told), Some(reason)) => assert!(told.contains(reason), "{told}"),
        (told, _) => panic!("{told:?} instead of {reason:?}"),
    }
}

/// A builder whose client reconnects at once.
fn reconnecting(url: &str) -> SandboxBuilder {
    Sandbox::create(url)
        .enable_auto_reconnect(true)
        .reconnect_policy(ReconnectPolicy {
            initial: Duration::from_millis(1),
            ..ReconnectPolicy::default()
        })
}

#[test]
fn every_recording_has_a_scenario() {
    let source = include_str!("replay.rs");
    for name in names() {
        let scenario = format!("async fn {name}(");
        assert!(source.contains(&scenario), "no {scenario}");
    }
}

#[actix::test]
async fn attach_errors() {
    replay("attach_errors", &[], async |url| {
        let first = create(&url).await;
        let (id, token) = (first.sandbox_id().clone(), first.sandbox_token().clone());
        let attach = Sandbox::attach(&url, id.clone(), token.clone()).await;
        refused(attach, ErrorKind::InUse, None);
        let attach = Sandbox::attach(&url, "sandbox-none", "x").await;
        refused(attach, ErrorKind::NotFound, None);
        let attach = Sandbox::attach(&url, id.clone(), "wrong").await;
        refused(
            attach,
            ErrorKind::PermissionDenied,
            Some("Invalid sandbox token."),
        );
        drop(first);
        let last = Sandbox::attach(&url, id, token).await.expect("attached");
        let output = run(&last, Language::Bash, "echo attached").await;
        assert_eq!(output, ["attached\n", ""]);
        kill(last).await;
    })
    .await;
}

#[actix::test]
async fn checkpoint_and_restore() {
    replay("checkpoint_and_restore", &[], async |url| {
        let first = Sandbox::create(&url).enable_sandbox_checkpoint(true);
        let first = first.await.expect("a sandbox");
        run(&first, Language::Bash, "echo hello > /test.txt").await;
        let process = first.exec(Language::Bash, "sleep 1; echo done").await;
        let process = process.expect("started");
        let reason = "Cannot checkpoint while an execution is in progress.";
        refused(first.checkpoint().await, ErrorKind::Refused, Some(reason));
        assert_eq!(process.stdout().read_all().await.expect("read"), "done\n");
        process.wait().await.expect("ended");
        first.checkpoint().await.expect("stored");
        assert_eq!(ended(&first).await, SandboxEnd::Checkpointed);
        let (id, token) = (first.sandbox_id().clone(), first.sandbox_token().clone());
        let second = Sandbox::attach(&url, id, token).await.expect("restored");
        let output = run(&second, Language::Bash, "cat /test.txt").await;
        assert_eq!(output, ["hello\n", ""]);
        kill(second).await;
    })
    .await;
}

#[actix::test]
async fn checkpoint_not_enabled_for_sandbox() {
    // The recorded client requested a checkpoint without enabling checkpoints. This crate's client
    // refuses that, so the test enables them in the recording.
    let path = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/transcripts/checkpoint_not_enabled_for_sandbox.jsonl"
    );
    let enabled = r#"\"idle_timeout\": 60, \"enable_checkpoint\": true"#;
    let text = std::fs::read_to_string(path).expect(path);
    let text = text.replace(r#"\"idle_timeout\": 60"#, enabled);
    let recording = Recording::parse("checkpoint_not_enabled", &text).expect("a recording");
    play(recording, async |url| {
        let sandbox = Sandbox::create(&url).enable_sandbox_checkpoint(true);
        let sandbox = sandbox.await.expect("a sandbox");
        let checkpoint = sandbox.checkpoint().await;
        let reason = "is not configured for checkpointing";
        refused(checkpoint, ErrorKind::SandboxEnded, Some(reason));
        assert!(matches!(ended(&sandbox).await, SandboxEnd::Failed { .. }));
    })
    .await;
}

/// The client itself refuses two of the three recorded configurations. Only the first is played.
#[actix::test]
async fn create_errors() {
    let mut recording = load("create_errors");
    recording.retain(|line| line.conn == "A0");
    play(recording, async |url| {
        let create = Sandbox::create(&url).filesystem_snapshot_name("nope");
        let reason = "Filesystem snapshot not found";
        refused(create.await, ErrorKind::CreationFailed, Some(reason));
        for create in [
            Sandbox::create(&url).enable_sandbox_handoff(true),
            Sandbox::create(&url).enable_idle_timeout_auto_checkpoint(true),
        ] {
            let error = create.await.expect_err("refused");
            assert_eq!(error.kind(), ErrorKind::InvalidOption);
            // The text is from the recording of the cloud-run-sandbox server.
            assert!(
                error
                    .to_string()
                    .contains("requires checkpointing to be enabled.")
            );
        }
    })
    .await;
}

#[actix::test]
async fn exec_python_and_bash() {
    replay("exec_python_and_bash", &[], async |url| {
        let sandbox = create(&url).await;
        let code = "print('hi'); import sys; print('err', file=sys.stderr)";
        let output = run(&sandbox, Language::Python, code).await;
        assert_eq!(output, ["hi\n", "err\n"]);
        let output = run(&sandbox, Language::Bash, "echo a; echo b >&2; exit 3").await;
        assert_eq!(output, ["a\n", "b\n"]);
        let [stdout, stderr] = run(&sandbox, Language::Python, "raise ValueError('boom')").await;
        assert_eq!(stdout, "");
        assert!(stderr.starts_with("Traceback (most recent call last):\n  File"));
        assert!(
            stderr
                .ends_with("line 1, in <module>\n    raise ValueError('boom')\nValueError: boom\n")
        );
        kill(sandbox).await;
    })
    .await;
}

#[actix::test]
async fn filesystem_snapshot_failure() {
    replay("filesystem_snapshot_failure", &[], async |url| {
        let sandbox = create(&url).await;
        let snapshot = sandbox.snapshot_filesystem("snap").await;
        refused(
            snapshot,
            ErrorKind::Refused,
            Some("Failed to snapshot filesystem"),
        );
        let output = run(&sandbox, Language::Bash, "echo alive").await;
        assert_eq!(output, ["alive\n", ""]);
        kill(sandbox).await;
    })
    .await;
}

/// The first client loses the sandbox, and the second fails to restore it.
#[actix::test]
async fn handoff() {
    replay("handoff", &[], async |url| {
        let first = Sandbox::create(&url)
            .enable_sandbox_checkpoint(true)
            .enable_sandbox_handoff(true)
            .enable_auto_reconnect(true)
            .await
            .expect("a sandbox");
        run(&first, Language::Bash, "echo kept > /t.txt").await;
        let (id, token) = (first.sandbox_id().clone(), first.sandbox_token().clone());
        let second = Sandbox::attach(&url, id, token).await;
        refused(
            second,
            ErrorKind::RestoreFailed,
            Some("gVisor container failed to restore"),
        );
        assert_eq!(ended(&first).await, SandboxEnd::HandedOff);
    })
    .await;
}

#[actix::test]
async fn idle_timeout_delete() {
    replay("idle_timeout_delete", &[], async |url| {
        let sandbox = Sandbox::create(&url).idle_timeout(Duration::from_secs(1));
        let sandbox = sandbox.await.expect("a sandbox");
        while sandbox.state() != SandboxState::Ended(SandboxEnd::Deleted) {
            tokio::task::yield_now().await;
        }
        let (id, token) = (
            sandbox.sandbox_id().clone(),
            sandbox.sandbox_token().clone(),
        );
        let attach = Sandbox::attach(&url, id, token).await;
        refused(attach, ErrorKind::NotFound, None);
    })
    .await;
}

/// The recorded client killed and wrote to a process although none ran. This crate's client never
/// does, and ignores the answers.
#[actix::test]
async fn kill_process_when_idle() {
    let unsaid = [
        r#"{"action": "kill_process"}"#,
        r#"{"event": "stdin", "data": "nobody\n"}"#,
        r#"{"event": "stdin"}"#,
    ];
    replay("kill_process_when_idle", &unsaid, async |url| {
        kill(create(&url).await).await;
    })
    .await;
}

/// In this recording, the cloud-run-sandbox server lost the output of two execs. The client reports
/// what it received.
#[actix::test]
async fn large_and_unicode_output() {
    replay("large_and_unicode_output", &[], async |url| {
        let sandbox = create(&url).await;
        let code = "import sys; sys.stdout.write('x'*5000); sys.stdout.write('\\n')";
        let [stdout, _] = run(&sandbox, Language::Python, code).await;
        assert_eq!(stdout, format!("{}\n", "x".repeat(5000)));
        let code = "import sys; sys.stdout.write('a'+'\\u00e9'*1500+'END')";
        assert_eq!(run(&sandbox, Language::Python, code).await, ["", ""]);
        let code = "printf '\\xff\\xfe'; echo END";
        assert_eq!(run(&sandbox, Language::Bash, code).await, ["", ""]);
        kill(sandbox).await;
    })
    .await;
}

/// The recorded client sent malformed frames, which this crate's client never does. The server then
/// closed without a close frame, which is a lost link.
#[actix::test]
async fn malformed_frames() {
    let unsaid = [
        "this is not json",
        r#"{"action": "no_such_action"}"#,
        "[1,2,3]",
    ];
    replay("malformed_frames", &unsaid, async |url| {
        for _ in 0..2 {
            let sandbox = create(&url).await;
            loop {
                match sandbox.state() {
                    SandboxState::Ended(SandboxEnd::LinkLost { attempts: 0, .. }) => break,
                    SandboxState::Running => tokio::task::yield_now().await,
                    other => panic!("it is {other}"),
                }
            }
        }
    })
    .await;
}

#[actix::test]
async fn reconnect_after_exec_ended() {
    replay("reconnect_after_exec_ended", &[], async |url| {
        let sandbox = reconnecting(&url).await.expect("a sandbox");
        let output = run(&sandbox, Language::Bash, "sleep 1; echo tail").await;
        assert_eq!(output, ["tail\n", ""]);
        kill(sandbox).await;
    })
    .await;
}

#[actix::test]
async fn reconnect_mid_stream() {
    replay("reconnect_mid_stream", &[], async |url| {
        let sandbox = reconnecting(&url).await.expect("a sandbox");
        let code = "for i in $(seq 1 20); do echo L$i; sleep 0.1; done";
        let [stdout, _] = run(&sandbox, Language::Bash, code).await;
        let expected: String = (1..=20).map(|i| format!("L{i}\n")).collect();
        assert_eq!(stdout, expected);
        let output = run(&sandbox, Language::Bash, "echo after").await;
        assert_eq!(output, ["after\n", ""]);
        kill(sandbox).await;
    })
    .await;
}

/// The recorded client sent a second exec, and the server refused it. The refusal doesn't affect
/// the first.
#[actix::test]
async fn second_exec_while_running() {
    let unsaid = [r#"{"language": "bash", "code": "echo second"}"#];
    replay("second_exec_while_running", &unsaid, async |url| {
        let sandbox = create(&url).await;
        let first = sandbox.exec(Language::Bash, "sleep 1; echo first").await;
        let first = first.expect("started");
        let stdout = first.stdout().read_all().await.expect("read");
        assert_eq!(stdout, "first\n");
        assert_eq!(first.wait().await.expect("ended"), ProcessEnd::Unknown);
        kill(sandbox).await;
    })
    .await;
}

/// The client doesn't attribute the late `FORCE_KILLED` to the next process.
#[actix::test]
async fn stdin_and_kill_process() {
    replay("stdin_and_kill_process", &[], async |url| {
        let sandbox = create(&url).await;
        let code = "import sys\nfor l in sys.stdin: print('got', l.strip(), flush=True)";
        let process = sandbox.exec(Language::Python, code).await.expect("started");
        for i in 0..3 {
            let line = format!("line {i}\n");
            process.write_to_stdin(line).await.expect("written");
        }
        let (killed, next) = join(process.kill(), async {
            process.wait().await.expect("ended");
            run(&sandbox, Language::Bash, "echo next").await
        })
        .await;
        killed.expect("killed");
        assert_eq!(next, ["next\n", ""]);
        let stdout = process.stdout().read_all().await.expect("read");
        assert_eq!(stdout, "got line 0\ngot line 1\ngot line 2\n");
        kill(sandbox).await;
    })
    .await;
}

#[actix::test]
async fn unsupported_language() {
    let unsaid = [r#"{"code": "print(1)"}"#, r#"{"language": "python"}"#];
    replay("unsupported_language", &unsaid, async |url| {
        let sandbox = create(&url).await;
        let exec = sandbox.exec("ruby", "puts 1").await;
        refused(
            exec,
            ErrorKind::UnsupportedLanguage,
            Some("Unsupported language: 'ruby'"),
        );
        // The answers to the `unsaid` messages arrive before the next exec.
        let output = run(&sandbox, Language::Bash, "echo still alive").await;
        assert_eq!(output, ["still alive\n", ""]);
        kill(sandbox).await;
    })
    .await;
}
