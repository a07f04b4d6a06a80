//! Parsing and printing of a client's messages.

use super::{
    super::{ParseError, TerminalSize, Version},
    *,
};

#[test]
fn encoded_messages_parse_back() {
    for message in [
        ClientMessage::exec("python", "print(\"é\\n\")"),
        ClientMessage::stdin("line\n"),
        ClientMessage::KillProcess,
        ClientMessage::KillSandbox,
        ClientMessage::SnapshotFilesystem {
            name: Some("snap".into()),
        },
        ClientMessage::Checkpoint,
        ClientMessage::Reconnect,
    ] {
        let text = message.encode();
        let parsed = ClientMessage::parse(text.as_bytes());
        assert_eq!(parsed.as_ref(), Ok(&message));
        // A message without `exec` means the same under v2.
        let parsed = ClientMessage::parse_as(text.as_bytes(), Version::V2);
        assert_eq!(parsed, Ok(message));
    }
}

#[test]
fn encoded_messages_about_an_exec_parse_back_in_v2() {
    let options = ExecOptions {
        args: vec!["a b".into(), String::new()],
        env: vec![("K".into(), "V=\"".into())],
        cwd: Some("src".into()),
        timeout_ms: Some(5_000),
        output_grace_ms: Some(0),
        window: Some(1),
        binary: true,
        terminal: TerminalSize::new(100, 30),
    };
    let stdin = |data: &'static [u8], eof| NamedMessage::Stdin {
        offset: 7,
        data: data.into(),
        eof,
    };
    for message in [
        NamedMessage::Exec(Program::Code(ExecRequest::new("bash", "cat")), options),
        NamedMessage::Exec(
            Program::Code(ExecRequest::new("bash", "cat")),
            ExecOptions::default(),
        ),
        stdin(b"text", false),
        stdin(b"\xff\0", true),
        stdin(b"", true),
        NamedMessage::Ack {
            offsets: [u64::MAX, 0],
            done: true,
        },
        NamedMessage::Ack {
            offsets: [1, 2],
            done: false,
        },
        NamedMessage::Kill,
        NamedMessage::Reconnect { offsets: [3, 4] },
    ] {
        let message = ClientMessage::Named("7f3a-1".into(), message);
        let text = message.encode();
        let parsed = ClientMessage::parse_as(text.as_bytes(), Version::V2);
        assert_eq!(parsed, Ok(message), "{text}");
        let parsed = ClientMessage::parse(text.as_bytes());
        assert!(!matches!(parsed, Ok(ClientMessage::Named(..))), "{text}");
    }
}

#[test]
fn options_that_cannot_be_read_are_refused_with_the_reason() {
    let many = vec![r#""a""#; 2_000].join(",");
    let variables: Vec<_> = (0..2_000).map(|i| format!(r#""{i}":"""#)).collect();
    let variables = variables.join(",");
    for (options, part) in [
        (r#""args":"a""#.to_owned(), "'args' must be a list of text"),
        (r#""args":[1]"#.to_owned(), "'args' must be a list of text"),
        (
            r#""env":{"a":1}"#.to_owned(),
            "'env' must be an object of text",
        ),
        (r#""cwd":1"#.to_owned(), "'cwd' must be text"),
        (
            r#""timeout_ms":-1"#.to_owned(),
            "'timeout_ms' must be a whole number",
        ),
        (
            r#""window":1.5"#.to_owned(),
            "'window' must be a whole number",
        ),
        (
            r#""terminal":{"columns":0,"rows":0}"#.to_owned(),
            "'terminal' must be an object with 'columns' and 'rows', each from 1 to 4096",
        ),
        (
            r#""terminal":{"columns":10000,"rows":10000}"#.to_owned(),
            "each from 1 to 4096",
        ),
        (
            r#""terminal":{"columns":80}"#.to_owned(),
            "'terminal' must be an object",
        ),
        (
            r#""terminal":true"#.to_owned(),
            "'terminal' must be an object",
        ),
        (format!(r#""args":[{many}]"#), "more than 1000 arguments"),
        (
            format!(r#""env":{{{variables}}}"#),
            "more than 1000 arguments",
        ),
    ] {
        let text = format!(r#"{{"language":"bash","code":"","exec":"e",{options}}}"#);
        let parsed = ClientMessage::parse_as(text.as_bytes(), Version::V2);
        let Ok(ClientMessage::Named(_, NamedMessage::Malformed(why))) = parsed else {
            panic!("{options}: {parsed:?}")
        };
        assert!(why.contains(part), "{options}: {why}");
    }
}

#[test]
fn programs_that_cannot_be_read_are_refused_with_the_reason() {
    let long = "x".repeat(70_000);
    for (program, part) in [
        (r#""argv":[]"#.to_owned(), "'argv' must name a program"),
        (r#""argv":["a",1]"#.to_owned(), "'argv' must be a list"),
        (
            r#""argv":["a"],"language":"bash","code":"""#.to_owned(),
            "Give either",
        ),
        (
            r#""builtin":{"op":"explode","path":"a"}"#.to_owned(),
            "unknown variant `explode`",
        ),
        (
            r#""builtin":{"op":"read"}"#.to_owned(),
            "missing field `path`",
        ),
        (
            r#""builtin":{"op":"read","path":"a","path":"b"}"#.to_owned(),
            "duplicate field",
        ),
        (
            r#""builtin":{"op":"read","path":{"b64":"*"}}"#.to_owned(),
            "'builtin' can't be read",
        ),
        (
            format!(r#""builtin":{{"op":"read","path":"{long}"}}"#),
            "longer than 65536 bytes",
        ),
    ] {
        let text = format!(r#"{{"exec":"e",{program}}}"#);
        let parsed = ClientMessage::parse_as(text.as_bytes(), Version::V2);
        let Ok(ClientMessage::Named(_, NamedMessage::Malformed(why))) = parsed else {
            panic!("{program}: {parsed:?}")
        };
        assert!(why.contains(part), "{program}: {why}");
    }
}

#[test]
fn input_that_cannot_be_read_is_refused_with_the_reason() {
    fn parse(text: &str) -> Result<ClientMessage<'_>, ParseError> {
        ClientMessage::parse_as(text.as_bytes(), Version::V2)
    }
    for (rest, part) in [
        (r#""data":"x""#, "'offset' must be given"),
        (r#""offset":-1,"data":"x""#, "'offset' must be given"),
        (r#""offset":0,"data":1"#, "'data' must be text"),
        (r#""offset":0,"data_b64":"*""#, "'data_b64' base64"),
        (r#""offset":0,"data":"x","data_b64":"eA==""#, "not both"),
    ] {
        let text = format!(r#"{{"event":"stdin","exec":"e",{rest}}}"#);
        let parsed = parse(&text);
        let Ok(ClientMessage::Named(_, NamedMessage::MalformedStdin(why))) = parsed else {
            panic!("{rest}: {parsed:?}")
        };
        assert!(why.contains(part), "{rest}: {why}");
    }
    assert_eq!(
        parse(r#"{"action":"dance","exec":"e"}"#),
        Ok(ClientMessage::Named("e".into(), NamedMessage::Unknown))
    );
}

/// Otherwise, a message about a named exec would be taken for one about the v1 exec.
#[test]
fn an_exec_id_that_cannot_be_decoded_is_refused() {
    for rest in [
        r#""action":"kill_process""#,
        r#""language":"bash","code":"x""#,
    ] {
        let text = format!(r#"{{"exec":"\ud800",{rest}}}"#);
        let parsed = ClientMessage::parse_as(text.as_bytes(), Version::V2);
        assert!(
            matches!(parsed, Err(ParseError::NotJson { .. })),
            "{text}: {parsed:?}"
        );
    }
}

#[test]
fn missing_values_and_wrong_types_are_left_to_the_server() {
    let parse = |text: &'static str| ClientMessage::parse(text.as_bytes()).expect(text);
    assert_eq!(
        parse(r#"{"code":"print(1)"}"#),
        ClientMessage::Exec(ExecRequest {
            language: None,
            code: Some("print(1)".into())
        })
    );
    assert_eq!(
        parse(r#"{"language":7,"code":{}}"#),
        ClientMessage::Exec(ExecRequest {
            language: Some("7".into()),
            code: None
        })
    );
    assert_eq!(
        parse(r#"{"event":"stdin","data":7}"#),
        ClientMessage::Stdin { data: None }
    );
    assert!(matches!(
        parse(r#"{"action":"no_such_action"}"#),
        ClientMessage::Unknown
    ));
    assert!(ClientMessage::parse(b"[1,2,3]").is_err());
    assert!(ClientMessage::parse(b"this is not json").is_err());
}
