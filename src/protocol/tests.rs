//! Freezes the wire: every message with its JSON. Entries may be added, but none may change.

use std::borrow::Cow;

use bytes::Bytes;

use super::*;

#[test]
fn messages_of_a_server_are_frozen() {
    let exec = || ExecId::new("e");
    let place = || OutputPlace {
        exec: exec(),
        offset: 4,
    };
    let update = |end| ExecUpdate {
        stdin: Some(1),
        window: Some(2),
        end,
        ..ExecUpdate::new(exec())
    };
    let end = ExecEnd {
        exit_code: Some(-1),
        signal: Some(9),
        lengths: Some([3, 4]),
        output_cut: true,
        reason: EndReason::Exited,
        outcome: None,
    };
    let of_exec = |end, message| ServerMessage::exec_status(Status::ExecutionDone, end, message);
    let with_reason = |reason| {
        let end = Some(ExecEnd {
            reason,
            ..ExecEnd::lost()
        });
        of_exec(
            ExecUpdate {
                end,
                ..ExecUpdate::new(exec())
            },
            None,
        )
    };
    let of_builtin = |outcome| {
        let end = Some(ExecEnd {
            reason: EndReason::Exited,
            outcome: Some(Box::new(outcome)),
            ..ExecEnd::lost()
        });
        of_exec(
            ExecUpdate {
                end,
                ..ExecUpdate::new(exec())
            },
            None,
        )
    };
    for (message, json) in [
        (
            ServerMessage::status(Status::SandboxRunning),
            r#"{"event":"status_update","status":"SANDBOX_RUNNING"}"#,
        ),
        (
            ServerMessage::status_because(Status::SandboxError, "why".into()),
            r#"{"event":"status_update","status":"SANDBOX_ERROR","message":"why"}"#,
        ),
        (
            of_exec(update(None), None),
            r#"{"event":"status_update","status":"SANDBOX_EXECUTION_DONE","exec":"e","stdin":1,"window":2}"#,
        ),
        (
            of_exec(update(Some(end)), Some("why".into())),
            r#"{"event":"status_update","status":"SANDBOX_EXECUTION_DONE","message":"why","exec":"e","stdin":1,"window":2,"exit_code":-1,"signal":9,"stdout":3,"stderr":4,"output_cut":true,"reason":"exited"}"#,
        ),
        (
            of_builtin(Outcome::Result(r#"{"bytes":5}"#.into())),
            r#"{"event":"status_update","status":"SANDBOX_EXECUTION_DONE","exec":"e","reason":"exited","result":{"bytes":5}}"#,
        ),
        (
            of_builtin(Outcome::Error(BuiltinError::new(
                BuiltinErrorKind::NotFound,
                "a".into(),
                "why",
            ))),
            r#"{"event":"status_update","status":"SANDBOX_EXECUTION_DONE","exec":"e","reason":"exited","error":{"kind":"not_found","path":"a","message":"why"}}"#,
        ),
        (
            ServerMessage::running(),
            r#"{"event":"status_update","status":"SANDBOX_RUNNING","features":["argv","builtins","binary","signals","terminals","ports","metrics","lifetime"]}"#,
        ),
        (
            with_reason(EndReason::Killed),
            r#"{"event":"status_update","status":"SANDBOX_EXECUTION_DONE","exec":"e","reason":"killed"}"#,
        ),
        (
            with_reason(EndReason::TimedOut),
            r#"{"event":"status_update","status":"SANDBOX_EXECUTION_DONE","exec":"e","reason":"timed_out"}"#,
        ),
        (
            with_reason(EndReason::SandboxLost),
            r#"{"event":"status_update","status":"SANDBOX_EXECUTION_DONE","exec":"e","reason":"sandbox_lost"}"#,
        ),
        (
            ServerMessage::identity("s".into(), "t".into()),
            r#"{"event":"sandbox_id","sandbox_id":"s","sandbox_token":"t"}"#,
        ),
        (
            ServerMessage::output(StdStream::Stdout, "é\n"),
            r#"{"event":"stdout","data":"é\n"}"#,
        ),
        (
            ServerMessage::output_at(StdStream::Stderr, "text", place()),
            r#"{"event":"stderr","exec":"e","offset":4,"data":"text"}"#,
        ),
        (
            ServerMessage::output_at(StdStream::Stdout, &b"\xff"[..], place()),
            r#"{"event":"stdout","exec":"e","offset":4,"data_b64":"/w=="}"#,
        ),
        (
            ServerMessage::error("why"),
            r#"{"event":"error","message":"why"}"#,
        ),
        (
            ServerMessage::StdinAck {
                exec: exec(),
                offset: 4,
            },
            r#"{"event":"stdin_ack","exec":"e","offset":4}"#,
        ),
    ] {
        assert_eq!(message.encode(), json);
        let frame = Bytes::from_static(json.as_bytes());
        let parsed = ServerMessage::parse_as(&frame, Version::V2);
        assert_eq!(parsed, Ok(message), "{json}");
    }
}

#[test]
fn messages_of_a_client_are_frozen() {
    let named = |message| ClientMessage::Named("e".into(), message);
    let options = ExecOptions {
        args: vec!["a".into()],
        env: vec![("K".into(), "V".into())],
        cwd: Some("src".into()),
        timeout_ms: Some(1),
        output_grace_ms: Some(2),
        window: Some(3),
        binary: true,
        terminal: TerminalSize::new(80, 24),
    };
    let stdin = |data: &'static [u8], eof| {
        named(NamedMessage::Stdin {
            offset: 4,
            data: data.into(),
            eof,
        })
    };
    let ack = |done| {
        named(NamedMessage::Ack {
            offsets: [4, 5],
            done,
        })
    };
    for (message, json) in [
        (
            ClientMessage::exec("bash", "ls\n"),
            r#"{"language":"bash","code":"ls\n"}"#,
        ),
        (
            ClientMessage::stdin("text"),
            r#"{"event":"stdin","data":"text"}"#,
        ),
        (ClientMessage::KillProcess, r#"{"action":"kill_process"}"#),
        (ClientMessage::KillSandbox, r#"{"action":"kill_sandbox"}"#),
        (
            ClientMessage::SnapshotFilesystem {
                name: Some("n".into()),
            },
            r#"{"action":"snapshot_filesystem","name":"n"}"#,
        ),
        (ClientMessage::Checkpoint, r#"{"action":"checkpoint"}"#),
        (ClientMessage::Reconnect, r#"{"action":"reconnect"}"#),
        (
            named(NamedMessage::Exec(
                Program::Argv(Cow::Owned(vec!["ls".into(), "-l".into()])),
                ExecOptions::default(),
            )),
            r#"{"argv":["ls","-l"],"exec":"e"}"#,
        ),
        (
            named(NamedMessage::Exec(
                Program::Builtin(Cow::Owned(Builtin::Remove {
                    path: "a".into(),
                    recursive: true,
                })),
                ExecOptions::default(),
            )),
            r#"{"builtin":{"op":"remove","path":"a","recursive":true},"exec":"e"}"#,
        ),
        (
            named(NamedMessage::Exec(
                Program::Builtin(Cow::Owned(Builtin::Signal {
                    exec: "f".into(),
                    signal: 15,
                    group: true,
                })),
                ExecOptions::default(),
            )),
            r#"{"builtin":{"op":"signal","exec":"f","signal":15,"group":true},"exec":"e"}"#,
        ),
        (
            named(NamedMessage::Exec(
                Program::Builtin(Cow::Owned(Builtin::SetIdleTimeout { seconds: 60 })),
                ExecOptions::default(),
            )),
            r#"{"builtin":{"op":"set_idle_timeout","seconds":60},"exec":"e"}"#,
        ),
        (
            named(NamedMessage::Exec(
                Program::Builtin(Cow::Owned(Builtin::Extend { seconds: 60 })),
                ExecOptions::default(),
            )),
            r#"{"builtin":{"op":"extend","seconds":60},"exec":"e"}"#,
        ),
        (
            named(NamedMessage::Exec(
                Program::Code(ExecRequest::new("bash", "ls")),
                ExecOptions::default(),
            )),
            r#"{"language":"bash","code":"ls","exec":"e"}"#,
        ),
        (
            named(NamedMessage::Exec(
                Program::Code(ExecRequest::new("bash", "ls")),
                options,
            )),
            r#"{"language":"bash","code":"ls","exec":"e","args":["a"],"env":{"K":"V"},"cwd":"src","timeout_ms":1,"output_grace_ms":2,"window":3,"binary":true,"terminal":{"columns":80,"rows":24}}"#,
        ),
        (
            stdin(b"text", false),
            r#"{"event":"stdin","exec":"e","offset":4,"data":"text"}"#,
        ),
        (
            stdin(b"\xff", true),
            r#"{"event":"stdin","exec":"e","offset":4,"data_b64":"/w==","eof":true}"#,
        ),
        (
            ack(false),
            r#"{"event":"ack","exec":"e","stdout":4,"stderr":5}"#,
        ),
        (
            ack(true),
            r#"{"event":"ack","exec":"e","stdout":4,"stderr":5,"done":true}"#,
        ),
        (
            named(NamedMessage::Kill),
            r#"{"action":"kill_process","exec":"e"}"#,
        ),
        (
            named(NamedMessage::Reconnect { offsets: [4, 5] }),
            r#"{"action":"reconnect","exec":"e","stdout":4,"stderr":5}"#,
        ),
    ] {
        assert_eq!(message.encode(), json);
        let parsed = ClientMessage::parse_as(json.as_bytes(), Version::V2);
        assert_eq!(parsed, Ok(message), "{json}");
    }
}

#[test]
fn the_configuration_is_frozen() {
    let config = SandboxConfig {
        idle_timeout: Some(60),
        enable_checkpoint: true,
        enable_idle_timeout_auto_checkpoint: true,
        enable_sandbox_handoff: true,
        filesystem_snapshot_name: Some("n".into()),
        labels: [("k".into(), "v".into())].into(),
        env: Variables::new([("K".into(), "V".into())]),
        max_lifetime: Some(3_600),
        limits: SandboxLimits {
            memory: Some(1),
            processes: Some(2),
            disk: Some(3),
        },
    };
    let json = r#"{"idle_timeout":60,"enable_checkpoint":true,"enable_idle_timeout_auto_checkpoint":true,"enable_sandbox_handoff":true,"filesystem_snapshot_name":"n","labels":{"k":"v"},"env":{"K":"V"},"max_lifetime":3600,"limits":{"memory":1,"processes":2,"disk":3}}"#;
    assert_eq!(config.encode(), json);
    assert_eq!(SandboxConfig::parse(json.as_bytes()), Ok(config));
}
