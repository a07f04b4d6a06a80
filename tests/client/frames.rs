//! Invalid frames end the session with a protocol error. Unusual but valid frames don't.

use std::time::Duration;

use actix_sandbox::{
    Error, ErrorKind, Language, ProcessEnd, Sandbox, SandboxBuilder, SandboxEnd, SandboxEvent,
    SandboxState,
};
use futures::future::join;
use serde_json::json;
use tokio::task::spawn_blocking;

use crate::support::scripted::{
    Heard, ID, PATIENCE, Peer, Scripted, TOKEN, Watched, clock, frame, header, shown, within,
};

const TEXT: u8 = 0x81;
const BINARY: u8 = 0x82;
const FIRST_TEXT: u8 = 0x01;
const FIRST_BINARY: u8 = 0x02;
const CONTINUE: u8 = 0x00;
const LAST: u8 = 0x80;
const PING: u8 = 0x89;
const PONG: u8 = 0x8A;

/// Returns the error of a create that the server answers with these bytes.
async fn create(builder: impl FnOnce(SandboxBuilder) -> SandboxBuilder, bytes: &[u8]) -> Error {
    let server = Scripted::bind().await;
    let builder = builder(Sandbox::create(server.url()));
    let (result, ()) = join(within("the end of create", builder.into_future()), async {
        let mut peer = server.peer().await;
        peer.configuration().await;
        peer.try_raw(bytes).await;
        // The peer stays connected and sends no more, so it is the client that ends the session.
        peer.rest().await;
    })
    .await;
    result.expect_err("no sandbox")
}

fn assert_protocol(error: &Error, parts: &[&str]) {
    let text = error.to_string();
    assert_eq!(error.kind(), ErrorKind::Protocol, "{text}");
    assert!(!error.is_retryable(), "{text}");
    assert!(
        text.contains("the server violated the protocol: "),
        "{text}"
    );
    // The error has its own text and quotes at most 200 characters of the server's.
    assert!(
        text.chars().count() < 400,
        "{} characters: {text}",
        text.chars().count()
    );
    for part in parts {
        assert!(text.contains(part), "no {part:?} in: {text}");
    }
    crate::support::scripted::assert_no_secret(&shown(error));
}

/// A text frame that is not JSON, or not an object, ends the session with an error that quotes it.
#[actix::test]
async fn text_frames_without_a_json_object_are_protocol_errors() {
    let deep = format!("{{\"event\":\"x\",\"a\":{}", "[".repeat(100_000));
    for (text, parts) in [
        ("this is not JSON", &["not JSON", "this is not JSON"][..]),
        ("", &["not JSON"]),
        (" ", &["not JSON"]),
        ("\u{feff}{}", &["not JSON"]),
        (
            "{\"event\":\"status_update\",\"status\":\"SANDBOX_RUN",
            &["not JSON", "SANDBOX_RUN"],
        ),
        ("{\"event\":\"x\"} trailing", &["not JSON", "trailing"]),
        ("{\"event\":\"x\"}{\"event\":\"x\"}", &["not JSON"]),
        ("{'event':'x'}", &["not JSON"]),
        ("{\"event\":\"a\u{0}b\"}", &["not JSON"]),
        ("NaN", &["not JSON"]),
        ("[1,2,3]", &["not a JSON object", "[1,2,3]"]),
        ("42", &["not a JSON object", "42"]),
        ("\"stdout\"", &["not a JSON object", "stdout"]),
        ("null", &["not a JSON object", "null"]),
        ("true", &["not a JSON object"]),
        (&deep, &["not JSON"]),
    ] {
        let error = create(|builder| builder, &frame(TEXT, text.as_bytes())).await;
        assert_protocol(&error, parts);
    }
}

/// The limit counts characters, also if they are wide or unprintable.
#[actix::test]
async fn long_frames_are_quoted_with_at_most_200_characters() {
    for unit in ["q", "é", "😀", "\u{1b}", "\u{fffd}"] {
        let text = unit.repeat(5_000);
        let error = create(|builder| builder, &frame(TEXT, text.as_bytes())).await;
        assert_protocol(&error, &["…"]);
        assert!(error.to_string().matches(unit).count() <= 200, "{error}");
        assert!(!error.to_string().contains('\u{1b}'), "{error}");
    }
}

/// Messages that the client knows, with missing keys or values of the wrong type.
#[actix::test]
async fn known_messages_without_their_keys_are_protocol_errors() {
    for (message, part) in [
        (json!({"event": "status_update"}), "`status`"),
        (
            json!({"event": "status_update", "status": null}),
            "`status`",
        ),
        (json!({"event": "status_update", "status": 7}), "`status`"),
        (
            json!({"event": "status_update", "status": ["SANDBOX_RUNNING"]}),
            "`status`",
        ),
        (json!({"event": "sandbox_id"}), "`sandbox_id`"),
        (
            json!({"event": "sandbox_id", "sandbox_id": 9182, "sandbox_token": TOKEN}),
            "`sandbox_id`",
        ),
        (
            json!({"event": "sandbox_id", "sandbox_id": ID}),
            "`sandbox_token`",
        ),
        (
            json!({"event": "sandbox_id", "sandbox_id": ID, "sandbox_token": {"t": TOKEN}}),
            "`sandbox_token`",
        ),
        (json!({"event": "stdout"}), "`data`"),
        (json!({"event": "stderr", "data": 5}), "`data`"),
        (json!({"event": "stdout", "data": {"a": "b"}}), "`data`"),
        (json!({"event": "error"}), "`message`"),
        (json!({"event": "error", "message": 1e300}), "`message`"),
    ] {
        let text = message.to_string();
        let error = create(|builder| builder, &frame(TEXT, text.as_bytes())).await;
        assert_protocol(&error, &["no text under the key", part]);
    }
}

#[actix::test]
async fn binary_and_invalid_utf_8_are_protocol_errors() {
    for (bytes, part) in [
        (frame(BINARY, br#"{"event":"x"}"#), "binary"),
        (frame(BINARY, &[0; 3_000]), "binary"),
        (frame(BINARY, b""), "binary"),
        (frame(FIRST_BINARY, b"abc"), "binary"),
        (frame(TEXT, b"{\"event\":\"\xff\"}"), "UTF-8"),
        (frame(TEXT, b"{\"event\":\"\xc3"), "UTF-8"),
        (frame(TEXT, b"\xed\xa0\x80"), "UTF-8"),
    ] {
        let error = create(|builder| builder, &bytes).await;
        assert_protocol(&error, &[part]);
    }
}

/// Bytes that violate RFC 6455.
#[actix::test]
async fn broken_websocket_frames_are_protocol_errors() {
    let message = br#"{"event":"x"}"#;
    let mut masked = vec![TEXT, 0x80 | 5, 1, 2, 3, 4];
    masked.extend(*b"hello");
    let fragmented_ping = frame(0x09, b"x");
    let twice = [frame(FIRST_TEXT, b"{"), frame(TEXT, message)].concat();
    let twice_first = [frame(FIRST_TEXT, b"{"), frame(FIRST_TEXT, b"{")].concat();
    for (what, bytes) in [
        ("masked", masked),
        ("masked, header only", vec![TEXT, 0x85]),
        ("reserved bits", frame(0xC1, message)),
        ("reserved bits, all", frame(0xF1, message)),
        ("reserved opcode 3", frame(0x83, message)),
        ("reserved opcode 15", frame(0x8F, message)),
        ("continuation of nothing", frame(CONTINUE, message)),
        ("last of nothing", frame(LAST, message)),
        ("a message within a message", twice),
        ("a first fragment within a message", twice_first),
        ("a fragmented ping", fragmented_ping),
        ("a ping that is too long", frame(PING, &[0; 126])),
        ("a length with its highest bit", header(TEXT, u64::MAX)),
        (
            "random bytes",
            vec![0xDE, 0xAD, 0xBE, 0xEF, 0xDE, 0xAD, 0xBE, 0xEF],
        ),
    ] {
        let error = create(|builder| builder, &bytes).await;
        assert_eq!(error.kind(), ErrorKind::Protocol, "{what}: {error}");
        assert_protocol(&error, &[]);
    }
}

/// The client refuses a frame of 1 GiB when it reads the header. The peer goes on to send the
/// payload, and the client neither reads nor buffers it.
#[actix::test]
async fn a_frame_of_1_gib_is_refused_by_its_header() {
    for first in [TEXT, BINARY, FIRST_TEXT, PING] {
        let error = create(|builder| builder, &header(first, 1 << 30)).await;
        assert_protocol(&error, &["1073741824 bytes", "limit is 16777216"]);
    }

    let server = Scripted::bind().await;
    let create = Sandbox::create(server.url()).into_future();
    let before = resident();
    let (error, taken) = join(within("the end of create", create), async {
        let mut peer = server.peer().await;
        peer.configuration().await;
        peer.raw(&header(TEXT, 1 << 30)).await;
        let (chunk, mut taken) = (vec![b'x'; 1 << 20], 0);
        while taken < 1 << 30 && peer.try_raw(&chunk).await {
            taken += chunk.len();
        }
        taken
    })
    .await;
    assert_protocol(&error.unwrap_err(), &["1073741824 bytes"]);
    assert!(taken < 64 << 20, "the client took {taken} bytes");
    if let (Some(before), Some(after)) = (before, resident()) {
        let grown = after.saturating_sub(before);
        assert!(grown < 128 << 20, "memory grew by {grown} bytes");
    }
}

/// Returns the resident memory of this process in bytes, where `/proc` provides it.
fn resident() -> Option<usize> {
    let statm = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: usize = statm.split_whitespace().nth(1)?.parse().ok()?;
    Some(pages * 4096)
}

/// Returns a message of exactly this many bytes, with an event that the client ignores.
fn filler(bytes: usize) -> String {
    let text = json!({"event": "filler", "x": ""}).to_string();
    let text = text.replace(
        "\"x\":\"\"",
        &format!("\"x\":\"{}\"", "x".repeat(bytes - text.len())),
    );
    assert_eq!(text.len(), bytes);
    text
}

/// The limit is `max_message_bytes`.
#[actix::test]
async fn the_message_limit_is_the_users() {
    let limit = |builder: SandboxBuilder| builder.max_message_bytes(2_048);
    let error = create(limit, &frame(TEXT, filler(2_049).as_bytes())).await;
    assert_protocol(&error, &["2049 bytes", "limit is 2048"]);

    // A message of exactly the limit passes, in one frame and in fragments.
    let server = Scripted::bind().await;
    let builder = limit(Sandbox::create(server.url()));
    let (sandbox, _peer) = join(within("the sandbox", builder.into_future()), async {
        let mut peer = server.peer().await;
        peer.raw(&frame(TEXT, filler(2_048).as_bytes())).await;
        peer.raw(&fragments(&filler(2_048), 100)).await;
        peer.run().await;
        peer
    })
    .await;
    sandbox.expect("a sandbox");
}

/// Returns the frames of a text in fragments of `size` bytes. A fragment may end inside a
/// character.
fn fragments(text: &str, size: usize) -> Vec<u8> {
    let chunks: Vec<_> = text.as_bytes().chunks(size).collect();
    let last = chunks.len() - 1;
    let mut bytes = Vec::new();
    for (index, chunk) in chunks.into_iter().enumerate() {
        let first = match index {
            0 => FIRST_TEXT,
            _ if index == last => LAST,
            _ => CONTINUE,
        };
        bytes.extend(frame(first, chunk));
    }
    bytes
}

/// Each fragment is within the limit, but their sum is not.
#[actix::test]
async fn a_fragmented_message_is_limited_by_its_sum() {
    let limit = |builder: SandboxBuilder| builder.max_message_bytes(2_048);
    let whole = fragments(&filler(2_049), 1_000);
    assert_protocol(&create(limit, &whole).await, &["over the limit of 2048"]);
    // The client refuses the message before its last fragment arrives.
    let mut endless = frame(FIRST_TEXT, b"{");
    for _ in 0..100 {
        endless.extend(frame(CONTINUE, &[b' '; 100]));
    }
    assert_protocol(&create(limit, &endless).await, &["over the limit of 2048"]);
}

/// The client answers pings between fragments. Fragments may split characters.
#[actix::test]
async fn a_fragmented_message_with_pings_between_is_put_together() {
    let server = Scripted::bind().await;
    let create = Sandbox::create(server.url()).into_future();
    let (sandbox, mut peer) = join(within("the sandbox", create), server.running()).await;
    let sandbox = sandbox.unwrap();
    let text = "grüße 😀 ".repeat(50);
    let (output, ()) = join(
        within("the output", sandbox.run(Language::Bash, "x")),
        async {
            peer.heard().await;
            peer.status("SANDBOX_EXECUTION_RUNNING").await;
            let message = format!("{{\"event\":\"stdout\",\"data\":\"{text}\"}}");
            let chunks: Vec<_> = message.as_bytes().chunks(7).collect();
            let last = chunks.len() - 1;
            for (index, chunk) in chunks.into_iter().enumerate() {
                let first = if index == 0 {
                    FIRST_TEXT
                } else if index == last {
                    LAST
                } else {
                    CONTINUE
                };
                peer.raw(&frame(first, chunk)).await;
                peer.raw(&frame(PING, &[index as u8])).await;
                assert_eq!(peer.heard().await, Heard::Pong(vec![index as u8]));
            }
            // Empty fragments are valid.
            let event = json!({"event": "stdout", "data": "!"}).to_string();
            peer.raw(&frame(FIRST_TEXT, b"")).await;
            peer.raw(&frame(CONTINUE, event.as_bytes())).await;
            peer.raw(&frame(LAST, b"")).await;
            peer.status("SANDBOX_EXECUTION_DONE").await;
        },
    )
    .await;
    assert_eq!(output.unwrap().stdout, format!("{text}!"));
}

async fn created(peer: &mut Peer) {
    peer.configuration().await;
    peer.status("SANDBOX_CREATING").await;
}

/// Messages that are not valid before the sandbox runs, and identities that contradict each other.
#[actix::test]
async fn messages_out_of_order_are_protocol_errors() {
    let status = |status: &str| json!({"event": "status_update", "status": status});
    let id = |id: &str, token: &str| json!({"event": "sandbox_id", "sandbox_id": id, "sandbox_token": token});
    let error = json!({"event": "error", "message": "because"});
    let long = "x".repeat(5_000);
    for (messages, parts) in [
        (
            vec![status("SANDBOX_RUNNING")],
            &["SANDBOX_RUNNING before the sandbox's id"][..],
        ),
        (
            vec![json!({"event": "stdout", "data": "a"})],
            &["stdout before the sandbox was created"],
        ),
        (
            vec![json!({"event": "stderr", "data": "a"})],
            &["stderr before the sandbox was created"],
        ),
        (
            vec![id(ID, TOKEN), json!({"event": "stdout", "data": "a"})],
            &["stdout before"],
        ),
        (
            vec![status("SANDBOX_EXECUTION_RUNNING")],
            &["SANDBOX_EXECUTION_RUNNING before"],
        ),
        (
            vec![status("SANDBOX_EXECUTION_DONE")],
            &["SANDBOX_EXECUTION_DONE before"],
        ),
        (
            vec![status("SANDBOX_EXECUTION_FORCE_KILLED")],
            &["SANDBOX_EXECUTION_FORCE_KILLED before"],
        ),
        (
            vec![status("SANDBOX_EXECUTION_ERROR"), error.clone()],
            &["SANDBOX_EXECUTION_ERROR before"],
        ),
        (
            vec![
                status("SANDBOX_EXECUTION_UNSUPPORTED_LANGUAGE_ERROR"),
                error,
            ],
            &["SANDBOX_EXECUTION_UNSUPPORTED_LANGUAGE_ERROR before"],
        ),
        (
            vec![id(ID, TOKEN), id("other", TOKEN)],
            &["now calls the sandbox `other`"],
        ),
        (
            vec![id(ID, TOKEN), id(&long, TOKEN)],
            &["now calls the sandbox `xxx"],
        ),
        (
            vec![id(ID, TOKEN), id(ID, &format!("{TOKEN}2"))],
            &["changed the token"],
        ),
    ] {
        let server = Scripted::bind().await;
        let create = Sandbox::create(server.url()).into_future();
        let (result, ()) = join(within("the end of create", create), async {
            let mut peer = server.peer().await;
            created(&mut peer).await;
            for message in messages {
                peer.json(message).await;
            }
            assert_eq!(peer.rest().await, [Heard::Close(Some(1000))]);
        })
        .await;
        assert_protocol(&result.unwrap_err(), parts);
    }
}

/// The server repeats the identity and statuses.
#[actix::test]
async fn repeated_messages_are_not_an_error() {
    let server = Scripted::bind().await;
    let create = Sandbox::create(server.url()).into_future();
    let (sandbox, mut peer) = join(within("the sandbox", create), async {
        let mut peer = server.peer().await;
        created(&mut peer).await;
        peer.status("SANDBOX_CREATING").await;
        peer.identity().await;
        peer.identity().await;
        peer.status("SANDBOX_RUNNING").await;
        peer.status("SANDBOX_RUNNING").await;
        peer.identity().await;
        peer
    })
    .await;
    let sandbox = sandbox.unwrap();
    runs(&sandbox, &mut peer).await;
}

/// Checks that the sandbox works: runs a process to its end.
async fn runs(sandbox: &Sandbox, peer: &mut Peer) {
    let run = sandbox.run(Language::Bash, "echo ok");
    let (output, ()) = join(within("the output", run), async {
        peer.expect(json!({"language": "bash", "code": "echo ok"}))
            .await;
        peer.status("SANDBOX_EXECUTION_RUNNING").await;
        peer.stdout("ok\n").await;
        peer.status("SANDBOX_EXECUTION_DONE").await;
    })
    .await;
    assert_eq!(output.unwrap().stdout, "ok\n");
}

/// The client reports unknown events, statuses and keys to its subscribers, and the session goes
/// on.
#[actix::test]
async fn unknown_events_statuses_and_keys_reach_subscribers_and_go_on() {
    let server = Scripted::bind().await;
    let mut watched = Watched::start(Sandbox::create(server.url())).await;
    let (opened, mut peer) = join(watched.open(), async {
        let mut peer = server.peer().await;
        peer.configuration().await;
        for message in [
            json!({"event": "weather", "data": {"t": 3}, "status": "SANDBOX_RUNNING"}),
            json!({"event": "status_update", "status": "SANDBOX_LEVITATING", "height": 3}),
            json!({"event": "status_update", "status": ""}),
            json!({"event": "status_update", "status": "SANDBOX_CREATING", "region": "eu", "message": 5}),
            json!({"hello": "world"}),
            json!({"event": 5, "status": "SANDBOX_ERROR"}),
            json!({"event": null}),
            json!({}),
            json!({"event": "sandbox_id", "sandbox_id": ID, "sandbox_token": TOKEN, "zone": [1, {"a": null}]}),
            json!({"event": "error", "message": "no status before it"}),
            json!({"action": "kill_sandbox"}),
            json!({"event": "status_update", "status": "SANDBOX_RUNNING", "region": "eu"}),
        ] {
            peer.json(message).await;
        }
        peer
    })
    .await;
    opened.expect("a sandbox");
    let mut events = Vec::new();
    loop {
        let event = watched.event().await;
        let running = event == SandboxEvent::State(SandboxState::Running);
        events.push(event);
        if running {
            break;
        }
    }
    let unknown: Vec<_> = events
        .iter()
        .filter_map(|event| match event {
            SandboxEvent::UnknownEvent { event } => Some(event.as_deref()),
            _ => None,
        })
        .collect();
    assert_eq!(unknown, [Some("weather"), None, None, None, None, None]);
    let has = |wanted: &str| {
        events.iter().any(
            |event| matches!(event, SandboxEvent::Status { status, .. } if status.as_str() == wanted),
        )
    };
    assert!(
        has("SANDBOX_LEVITATING") && has("") && has("SANDBOX_CREATING"),
        "{events:?}"
    );
    assert!(
        events.contains(&SandboxEvent::Reason("no status before it".into())),
        "{events:?}"
    );

    // Once the sandbox runs, output that belongs to no process is reported, and changes nothing.
    peer.stdout("stray").await;
    let stray = watched
        .event_like("the stray output", |event| {
            matches!(event, SandboxEvent::StrayOutput { .. })
        })
        .await;
    assert_eq!(stray, SandboxEvent::StrayOutput { bytes: 5 });
}

/// Invalid frames while a process runs: every waiting call fails, and the client doesn't reconnect.
#[actix::test]
async fn garbage_during_a_process_fails_every_call() {
    for (bytes, part) in [
        (frame(TEXT, b"garbage"), "garbage"),
        (frame(BINARY, b"garbage"), "binary"),
        (frame(0xF1, b"garbage"), "reserved"),
        (header(TEXT, 1 << 30), "1073741824"),
        (
            frame(
                TEXT,
                json!({"event": "sandbox_id", "sandbox_id": "other", "sandbox_token": TOKEN})
                    .to_string()
                    .as_bytes(),
            ),
            "`other`",
        ),
    ] {
        let server = Scripted::bind().await;
        let create = Sandbox::create(server.url())
            .enable_auto_reconnect(true)
            .into_future();
        let (sandbox, mut peer) = join(within("the sandbox", create), server.running()).await;
        let sandbox = sandbox.unwrap();
        let exec = sandbox.exec(Language::Bash, "x");
        let (process, ()) = join(within("the process", exec), async {
            peer.heard().await;
            peer.status("SANDBOX_EXECUTION_RUNNING").await;
            peer.stdout("before").await;
        })
        .await;
        let process = process.unwrap();
        let mut stdout = process.stdout();
        let (end, chunks, kill, snapshot, ()) = within("the end of every call", async {
            futures::join!(
                process.wait(),
                async {
                    let mut chunks = Vec::new();
                    while let Some(chunk) = futures::StreamExt::next(&mut stdout).await {
                        chunks.push(chunk);
                    }
                    chunks
                },
                process.kill(),
                sandbox.snapshot_filesystem("s"),
                async {
                    // The client has sent both requests before the garbage arrives.
                    peer.heard().await;
                    peer.heard().await;
                    peer.raw(&bytes).await;
                    peer.rest().await;
                }
            )
        })
        .await;
        let Ok(ProcessEnd::SandboxLost {
            end: SandboxEnd::LinkLost { cause, .. },
        }) = &end
        else {
            panic!("{end:?}");
        };
        assert!(cause.to_string().contains(part), "{cause}");
        assert_eq!(chunks[0].as_ref().unwrap(), "before");
        let lost = chunks[1].as_ref().expect_err("the output is not complete");
        assert_eq!(lost.kind(), ErrorKind::Protocol, "{lost}");
        for error in [kill.unwrap_err(), snapshot.unwrap_err()] {
            assert_eq!(error.kind(), ErrorKind::Protocol, "{error}");
            assert!(error.to_string().contains(part), "{error}");
        }
        // Later calls fail, too.
        let error = within("the refusal", sandbox.exec(Language::Bash, "x"))
            .await
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::WrongState, "{error}");
        assert!(error.to_string().contains(part), "{error}");
        server.assert_not_dialled().await;
    }
}

/// An endless flood of pings, small messages or empty fragments delays neither the timeout of a
/// call nor the close of the connection.
#[actix::test]
async fn floods_do_not_keep_create_from_its_timeout() {
    let floods = [
        frame(PING, b"x"),
        frame(PONG, b"x"),
        frame(TEXT, b"{}"),
        frame(
            TEXT,
            br#"{"event":"status_update","status":"SANDBOX_CREATING"}"#,
        ),
        frame(CONTINUE, b""),
    ];
    futures::future::join_all(floods.into_iter().map(flood)).await;
}

async fn flood(unit: Vec<u8>) {
    let server = Scripted::bind().await;
    let create = Sandbox::create(server.url()).create_timeout(Duration::from_millis(300));
    let script = async {
        let mut peer = server.peer().await;
        peer.configuration().await;
        if unit[0] == CONTINUE {
            peer.raw(&frame(FIRST_TEXT, b"")).await;
        }
        // Dedicated threads send the flood, so that the client always finds data in its socket.
        let stream = peer.into_inner().into_std().unwrap();
        stream.set_nonblocking(false).unwrap();
        let mut drained = stream.try_clone().unwrap();
        let drain = spawn_blocking(move || std::io::copy(&mut drained, &mut std::io::sink()));
        let (flood, begin) = (unit.repeat(20_000), clock());
        let pour = spawn_blocking(move || {
            let mut stream = stream;
            while std::io::Write::write_all(&mut stream, &flood).is_ok() {
                if begin.elapsed() > PATIENCE {
                    stream.shutdown(std::net::Shutdown::Both).ok();
                    return false;
                }
            }
            true
        });
        assert!(
            pour.await.unwrap(),
            "the client doesn't leave a flood of {unit:?}"
        );
        drain.await.unwrap().ok();
    };
    let (result, ()) = join(create.into_future(), script).await;
    let error = result.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout, "{error}");
}
