//! Parsing and printing of a server's messages.

mod fast;

use super::*;

fn parse(frame: &str) -> Result<ServerMessage, ParseError> {
    ServerMessage::parse(&Bytes::copy_from_slice(frame.as_bytes()))
}

#[test]
fn output_without_escapes_is_a_slice_of_its_frame() {
    let frame = Bytes::from_static(br#"{"event":"stdout","data":"plain text"}"#);
    let Ok(ServerMessage::Output(piece)) = ServerMessage::parse(&frame) else {
        panic!()
    };
    assert_eq!(piece.data, "plain text");
    let range = frame.as_ptr_range();
    assert!(range.contains(&piece.data.as_ptr()), "the data was copied");
}

#[test]
fn escaped_output_is_unescaped() {
    let Ok(ServerMessage::Output(piece)) =
        parse(r#"{"event":"stderr","data":"a\n\u00e9\ud83d\ude00"}"#)
    else {
        panic!()
    };
    assert_eq!(piece.stream, StdStream::Stderr);
    assert_eq!(piece.data, "a\né😀");
}

#[test]
fn unknown_keys_events_and_statuses_are_not_errors() {
    assert_eq!(
        parse(r#"{"event":"status_update","status":"SANDBOX_RUNNING","region":"eu","n":[1]}"#),
        Ok(ServerMessage::status(Status::SandboxRunning))
    );
    assert_eq!(
        parse(r#"{"event":"status_update","status":"SANDBOX_LEVITATING","message":5}"#),
        Ok(ServerMessage::status(Status::Unknown(
            "SANDBOX_LEVITATING".into()
        )))
    );
    for (frame, event) in [
        (
            r#"{"event":"weather","data":{"t":3},"status":7}"#,
            Some("weather"),
        ),
        (r#"{"event":5,"status":"SANDBOX_ERROR"}"#, None),
        (r#"{"hello":1}"#, None),
        (r#"{"event":"\ud800"}"#, None),
        ("{}", None),
    ] {
        let event = event.map(str::to_owned);
        assert_eq!(
            parse(frame),
            Ok(ServerMessage::Unknown(UnknownMessage { event }))
        );
    }
}

#[test]
fn a_repeated_key_is_an_error_that_names_it() {
    for version in [Version::V1, Version::V2] {
        let frame = Bytes::from_static(br#"{"event":"stdout","data":"x","data":"y"}"#);
        let error = ServerMessage::parse_as(&frame, version).expect_err("refused");
        assert!(
            error.to_string().contains("duplicate field `data`"),
            "{error}"
        );
    }
}

#[test]
fn an_invalid_frame_is_refused_with_the_reason() {
    for (frame, part) in [
        ("this is not json", "is not JSON"),
        ("", "is not JSON"),
        ("{\"event\":\"stdout\",\"data\":\"cut", "is not JSON"),
        ("[1,2,3]", "is not a JSON object"),
        ("42", "is not a JSON object"),
        ("\"stdout\"", "is not a JSON object"),
        ("null", "is not a JSON object"),
        (r#"{"event":"stdout"}"#, "no text under the key `data`"),
        (
            r#"{"event":"stdout","data":5}"#,
            "no text under the key `data`",
        ),
        (
            r#"{"event":"status_update","status":null}"#,
            "no text under the key `status`",
        ),
        (
            r#"{"event":"sandbox_id","sandbox_id":"a"}"#,
            "no text under the key `sandbox_token`",
        ),
        (r#"{"event":"error"}"#, "no text under the key `message`"),
        (
            r#"{"event":"stdout","data":"\ud800"}"#,
            "no text under the key `data`",
        ),
    ] {
        let error = parse(frame).expect_err(frame).to_string();
        assert!(error.contains(part), "{frame}: {error}");
    }
    let error =
        ServerMessage::parse(&Bytes::from_static(b"{\"event\":\"\xff\"}")).expect_err("not UTF-8");
    assert!(matches!(error, ParseError::NotUtf8 { .. }));
}

#[test]
fn encoded_messages_parse_back() {
    for message in [
        ServerMessage::status(Status::ExecutionDone),
        ServerMessage::identity("sandbox-1".into(), "t".into()),
        ServerMessage::output(
            StdStream::Stdout,
            "quote \" backslash \\ newline \n é 😀 \u{0}",
        ),
        ServerMessage::error("No process is running in the sandbox."),
    ] {
        assert_eq!(parse(&message.encode()), Ok(message));
    }
    assert_eq!(
        ServerMessage::status(Status::SandboxRunning).encode(),
        r#"{"event":"status_update","status":"SANDBOX_RUNNING"}"#
    );
}

#[test]
fn encoded_messages_about_an_exec_parse_back_in_v2() {
    let end = |reason, exit_code, signal, lengths| ExecUpdate {
        exec: "7f3a-1".into(),
        stdin: None,
        window: None,
        stdin_window: None,
        end: Some(ExecEnd {
            reason,
            exit_code,
            signal,
            lengths,
            output_cut: false,
            outcome: None,
        }),
    };
    let cut = |mut update: ExecUpdate| {
        update.end.as_mut().unwrap().output_cut = true;
        update
    };
    let place = || OutputPlace {
        exec: "7f3a-1".into(),
        offset: u64::MAX,
    };
    let done = Status::ExecutionDone;
    for message in [
        ServerMessage::exec_status(
            Status::ExecutionRunning,
            ExecUpdate {
                exec: "7f3a-1".into(),
                stdin: Some(0),
                window: Some(1),
                stdin_window: Some(2),
                end: None,
            },
            None,
        ),
        ServerMessage::exec_status(
            done.clone(),
            end(EndReason::Exited, Some(-1), None, Some([1, u64::MAX])),
            None,
        ),
        ServerMessage::exec_status(
            done.clone(),
            end(EndReason::Killed, None, Some(9), Some([0, 0])),
            None,
        ),
        ServerMessage::exec_status(
            Status::ExecutionExited,
            end(EndReason::Exited, Some(3), None, None),
            None,
        ),
        ServerMessage::exec_status(
            done.clone(),
            cut(end(EndReason::Exited, Some(3), None, Some([7, 0]))),
            None,
        ),
        ServerMessage::exec_status(
            done,
            end(EndReason::SandboxLost, None, None, None),
            Some("why".to_owned()),
        ),
        ServerMessage::output_at(StdStream::Stdout, "é", place()),
        ServerMessage::output_at(StdStream::Stderr, &b"\xff\0"[..], place()),
        ServerMessage::StdinAck {
            exec: "7f3a-1".into(),
            offset: 7,
        },
    ] {
        let frame = Bytes::from(message.encode());
        let parsed = ServerMessage::parse_as(&frame, Version::V2);
        assert_eq!(parsed, Ok(message), "{frame:?}");
    }
    // Under v1, these are unknown keys.
    let frame = r#"{"event":"stdout","exec":"e","offset":3,"data":"x"}"#;
    let Ok(ServerMessage::Output(piece)) = parse(frame) else {
        panic!()
    };
    assert_eq!(piece.place, None);
}

#[test]
fn output_of_an_exec_without_offset_or_data_is_refused() {
    for frame in [
        r#"{"event":"stdout","exec":"e","data":"x"}"#,
        r#"{"event":"stdout","exec":"e","offset":-1,"data":"x"}"#,
        r#"{"event":"stdout","exec":"e","offset":0,"data_b64":"?"}"#,
        r#"{"event":"stdin_ack","exec":"e"}"#,
    ] {
        let parsed = ServerMessage::parse_as(&Bytes::from_static(frame.as_bytes()), Version::V2);
        assert!(parsed.is_err(), "{frame}: {parsed:?}");
    }
}
