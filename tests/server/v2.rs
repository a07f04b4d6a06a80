//! The local server on v2 links, message by message: it does what `src/protocol/V2.md` specifies.

use std::time::Duration;

use crate::support::{
    backend,
    raw_client::{Client, PATIENCE, V2, dial, eventually, processes_of},
};
use actix_sandbox::{actor::ExecOptions, server::LocalServer};
use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Value, json};

/// Sends a request for an exec with this id.
async fn exec(client: &mut Client, id: &str, code: &str, more: Value) {
    let mut message = json!({"language": "bash", "code": code, "exec": id});
    let more = more.as_object().expect("an object").clone();
    message.as_object_mut().unwrap().extend(more);
    client.send(message).await;
}

/// The next message with this status about this exec. Skips other messages.
async fn status(client: &mut Client, id: &str, status: &str) -> Value {
    loop {
        let message = client.json().await;
        assert!(!message.is_null(), "the session ended before {status}");
        if message["exec"] == id && message["status"] == status {
            return message;
        }
    }
}

async fn started(client: &mut Client, id: &str) -> Value {
    status(client, id, "SANDBOX_EXECUTION_RUNNING").await
}

async fn done(client: &mut Client, id: &str) -> Value {
    status(client, id, "SANDBOX_EXECUTION_DONE").await
}

async fn ack(client: &mut Client, id: &str, stdout: u64, stderr: u64, done: bool) {
    let mut ack = json!({"event": "ack", "exec": id, "stdout": stdout, "stderr": stderr});
    if done {
        ack["done"] = true.into();
    }
    client.send(ack).await;
}

/// The offset and the bytes of a message with output.
fn piece(message: &Value) -> (u64, Vec<u8>) {
    let data = match (&message["data"], &message["data_b64"]) {
        (Value::String(text), Value::Null) => text.clone().into_bytes(),
        (Value::Null, Value::String(bytes)) => STANDARD.decode(bytes).expect("base64"),
        _ => panic!("{message}"),
    };
    (message["offset"].as_u64().expect("an offset"), data)
}

/// Reads at least `most` bytes of a stream, from an offset on. Panics if a byte is missing,
/// repeated or out of order.
async fn hears(client: &mut Client, id: &str, stream: &str, from: u64, most: u64) -> Vec<u8> {
    let mut heard = Vec::new();
    while (heard.len() as u64) < most {
        let message = client.json().await;
        if message["event"] == stream && message["exec"] == id {
            let (offset, data) = piece(&message);
            assert_eq!(offset, from + heard.len() as u64, "{message}");
            heard.extend(data);
        }
        assert!(!message.is_null(), "it ended after {} bytes", heard.len());
    }
    heard
}

#[tokio::test]
async fn v2_is_spoken_where_it_is_offered_and_nowhere_else() {
    let server = LocalServer::start().await.unwrap();
    let (mut client, _) = Client::create(&server).await;
    // On a link without the offer, the server ignores v2 keys and sends none.
    exec(&mut client, "x", "echo v1", json!({"args": ["y"]})).await;
    for expected in [
        json!({"event": "status_update", "status": "SANDBOX_EXECUTION_RUNNING"}),
        json!({"event": "stdout", "data": "v1\n"}),
        json!({"event": "status_update", "status": "SANDBOX_EXECUTION_DONE"}),
    ] {
        assert_eq!(client.json().await, expected);
    }
    client.exec("cobol", "x").await;
    assert_eq!(client.json().await.get("message"), None);

    // The offer may be one of several, and a v1 server may ignore it.
    let offers = ("sec-websocket-protocol", "chat, sandbox.v2");
    assert!(dial(&server, "/create", &[offers]).await.is_ok());
    let old = LocalServer::builder()
        .max_protocol_version(actix_sandbox::ProtocolVersion::V1)
        .start()
        .await
        .unwrap();
    let (mut client, _) = Client::create(&old).await;
    assert_eq!(client.bash("echo old").await, "old\n");
}

#[tokio::test]
async fn an_exec_announces_its_window_and_ends_with_its_lengths() {
    let server = LocalServer::start().await.unwrap();
    let (mut client, _) = Client::create_v2(&server).await;
    exec(
        &mut client,
        "a",
        "echo é; echo err >&2; exit 3",
        json!({"window": 5_000}),
    )
    .await;
    let started = started(&mut client, "a").await;
    assert_eq!(
        (&started["stdin"], &started["window"]),
        (&json!(0), &json!(5_000))
    );
    let end = done(&mut client, "a").await;
    assert_eq!(
        end,
        json!({
            "event": "status_update", "status": "SANDBOX_EXECUTION_DONE", "exec": "a",
            "exit_code": 3, "stdout": 3, "stderr": 4, "reason": "exited"
        })
    );
    // The window is at least 1 KiB, and at most the server's output buffer.
    for (asked, granted) in [(1, 1_024), (u64::MAX, 1 << 20)] {
        let id = format!("w{asked}");
        exec(&mut client, &id, "true", json!({"window": asked})).await;
        assert_eq!(started_window(&mut client, &id).await, granted);
    }
    exec(&mut client, "default", "true", json!({})).await;
    assert_eq!(started_window(&mut client, "default").await, 1 << 20);
}

async fn started_window(client: &mut Client, id: &str) -> u64 {
    started(client, id).await["window"].as_u64().expect("one")
}

#[tokio::test]
async fn the_same_id_never_runs_twice() {
    let server = LocalServer::start().await.unwrap();
    let (mut client, identity) = Client::create_v2(&server).await;
    let code = "echo ran >> runs; read x; cat runs";
    for _ in 0..3 {
        exec(&mut client, "once", code, json!({})).await;
        started(&mut client, "once").await;
    }
    drop(client);
    let mut client = Client::attach_v2(&server, &identity).await;
    exec(&mut client, "once", code, json!({})).await;
    started(&mut client, "once").await;
    client
        .send(json!({"event": "stdin", "exec": "once", "offset": 0, "data": "\n"}))
        .await;
    assert_eq!(hears(&mut client, "once", "stdout", 0, 4).await, b"ran\n");
    done(&mut client, "once").await;
    // It doesn't run again after its end was acknowledged either.
    ack(&mut client, "once", 4, 0, true).await;
    exec(&mut client, "once", code, json!({})).await;
    assert_eq!(done(&mut client, "once").await["exit_code"], 0);
}

#[tokio::test]
async fn binary_output_is_base64_and_code_points_stay_whole() {
    let server = LocalServer::start().await.unwrap();
    let (mut client, _) = Client::create_v2(&server).await;
    let code = r"printf 'a\303'; read; printf '\251z'; read; printf '\377\n'";
    let mut seen = false;
    // The server holds back an incomplete code point for 250 ms. On a busy machine, the answer may
    // come later, so try again.
    for attempt in 0..100 {
        let id = format!("b{attempt}");
        exec(&mut client, &id, code, json!({})).await;
        let mut pieces = Vec::new();
        loop {
            let message = client.json().await;
            assert!(!message.is_null(), "the connection is over");
            if message["event"] == "stdout" {
                assert_eq!(
                    message.get("data").is_some(),
                    message.get("data_b64").is_none()
                );
                pieces.push(piece(&message));
                if let offset @ 0..2 = pieces.len() - 1 {
                    let line =
                        json!({"event": "stdin", "exec": id, "offset": offset, "data": "\n"});
                    client.send(line).await;
                }
            }
            if message["status"] == "SANDBOX_EXECUTION_DONE" {
                assert_eq!(message["stdout"], 6);
                break;
            }
        }
        let all: Vec<u8> = pieces.iter().flat_map(|(_, data)| data.clone()).collect();
        assert_eq!(all, b"a\xc3\xa9z\xff\n");
        seen = pieces
            == [
                (0, b"a".to_vec()),
                (1, "éz".as_bytes().to_vec()),
                (4, b"\xff\n".to_vec()),
            ];
        if seen {
            break;
        }
    }
    assert!(seen);
}

#[tokio::test]
async fn a_partial_code_point_is_sent_after_a_pause() {
    let server = LocalServer::start().await.unwrap();
    let (mut client, _) = Client::create_v2(&server).await;
    let code = r"printf 'a\xc3'; read x; printf '\xa9b'";
    exec(&mut client, "half", code, json!({})).await;
    started(&mut client, "half").await;
    assert_eq!(hears(&mut client, "half", "stdout", 0, 2).await, b"a\xc3");
    // The process still waits, and the input lets it continue.
    client
        .send(json!({"event": "stdin", "exec": "half", "offset": 0, "data": "\n"}))
        .await;
    assert_eq!(hears(&mut client, "half", "stdout", 2, 2).await, b"\xa9b");
    assert_eq!(done(&mut client, "half").await["stdout"], 4);
}

#[tokio::test]
async fn the_end_does_not_wait_for_output_that_the_window_holds_back() {
    let server = LocalServer::start().await.unwrap();
    let (mut client, _) = Client::create_v2(&server).await;
    let code = "head -c 50000 /dev/zero | tr '\\0' x";
    exec(&mut client, "big", code, json!({"window": 1_024})).await;
    let end = done(&mut client, "big").await;
    assert_eq!(
        (&end["stdout"], &end["reason"], &end["exit_code"]),
        (&json!(50_000), &json!("exited"), &json!(0))
    );
    // The output that was held back is not lost.
    let (mut heard, mut step) = (1_024, 0);
    while heard < 50_000 {
        ack(&mut client, "big", heard, 0, false).await;
        step = 1_024.min(50_000 - heard);
        let piece = hears(&mut client, "big", "stdout", heard, step).await;
        heard += piece.len() as u64;
    }
    assert!(step > 0);
}

#[tokio::test]
async fn a_flooding_child_costs_its_parent_no_output() {
    let server = LocalServer::start().await.unwrap();
    let (mut client, _) = Client::create_v2(&server).await;
    // Both pipes hold more than the window has room for. Then a child floods stdout.
    let code = "printf '%30000s' '' >&2; yes & echo $! > pid; exit 1";
    exec(&mut client, "parent", code, json!({"window": 1_024})).await;
    let exited = status(&mut client, "parent", "SANDBOX_EXECUTION_EXITED").await;
    let expected = json!({
        "event": "status_update", "status": "SANDBOX_EXECUTION_EXITED", "exec": "parent",
        "exit_code": 1, "reason": "exited"
    });
    assert_eq!(exited, expected);
    exec(&mut client, "look", "kill -0 $(cat pid)", json!({})).await;
    assert_eq!(done(&mut client, "look").await["exit_code"], 0);
    let kill = json!({"action": "kill_process", "exec": "parent"});
    client.send(kill).await;
    let end = done(&mut client, "parent").await;
    assert_eq!(
        (&end["exit_code"], &end["reason"]),
        (&json!(1), &json!("exited"))
    );
    assert_eq!(end["stderr"], 30_000);
}

/// The server repeats the exit of the main process, and the end of the exec, on a new link.
#[tokio::test]
async fn an_exit_is_told_at_once_and_again_after_a_cut() {
    let server = LocalServer::start().await.unwrap();
    let (mut client, identity) = Client::create_v2(&server).await;
    let code = "(until [ -e go ]; do read -t 0.01 <> <(:); done; echo late) & echo main; exit 3";
    let grace = json!({"output_grace_ms": 600_000});
    exec(&mut client, "a", code, grace).await;
    let exited = status(&mut client, "a", "SANDBOX_EXECUTION_EXITED").await;
    assert_eq!(
        (&exited["exit_code"], &exited["stdout"]),
        (&json!(3), &Value::Null)
    );
    drop(client);
    let mut client = Client::attach_v2(&server, &identity).await;
    let reconnect = json!({"action": "reconnect", "exec": "a", "stdout": 0, "stderr": 0});
    client.send(reconnect.clone()).await;
    started(&mut client, "a").await;
    assert_eq!(
        status(&mut client, "a", "SANDBOX_EXECUTION_EXITED").await,
        exited
    );
    // The server ignores an acknowledgement of an end that it hasn't sent.
    ack(&mut client, "a", 0, 0, true).await;
    assert_eq!(hears(&mut client, "a", "stdout", 0, 5).await, b"main\n");
    exec(&mut client, "b", "touch go", json!({})).await;
    assert_eq!(hears(&mut client, "a", "stdout", 5, 5).await, b"late\n");
    let end = done(&mut client, "a").await;
    let expected = (&json!(3), &json!(10), &Value::Null);
    assert_eq!(
        (&end["exit_code"], &end["stdout"], &end["output_cut"]),
        expected
    );
    // On another link, the same end comes again.
    drop(client);
    let mut client = Client::attach_v2(&server, &identity).await;
    client.send(reconnect).await;
    started(&mut client, "a").await;
    assert_eq!(
        hears(&mut client, "a", "stdout", 0, 10).await,
        b"main\nlate\n"
    );
    assert_eq!(client.json().await, end);
}

#[tokio::test]
async fn output_that_is_still_held_after_the_grace_is_cut() {
    let server = LocalServer::start().await.unwrap();
    let (mut client, _) = Client::create_v2(&server).await;
    let grace = json!({"output_grace_ms": 0});
    exec(&mut client, "a", "sleep 1000 & echo main", grace).await;
    let end = done(&mut client, "a").await;
    let expected = (&json!(0), &json!(5), &json!(true));
    assert_eq!(
        (&end["exit_code"], &end["stdout"], &end["output_cut"]),
        expected
    );
    // Output that ends with the process is not reported as cut. Not with a grace of 0: a process
    // that another test is starting holds the pipe, too, until it executes a program.
    let grace = json!({"output_grace_ms": 60_000});
    exec(&mut client, "b", "echo main", grace).await;
    assert_eq!(done(&mut client, "b").await["output_cut"], Value::Null);
}

#[tokio::test]
async fn a_checkpoint_keeps_an_exec_with_output_in_flight() {
    let server = LocalServer::start().await.unwrap();
    let config = json!({"idle_timeout": 60, "enable_checkpoint": true});
    let (mut client, identity) = Client::create_v2_with(&server, config).await;
    // The child holds the pipe, so the end comes some time after the process is gone. Meanwhile no
    // exec is in progress, and the checkpoint is accepted.
    let code = "echo kept; sleep 1000 & exit 3";
    exec(&mut client, "last", code, json!({})).await;
    loop {
        client.send(json!({"action": "checkpoint"})).await;
        let refused = loop {
            let message = client.json().await;
            match message["status"].as_str() {
                Some("SANDBOX_EXECUTION_IN_PROGRESS_ERROR") => break true,
                Some("SANDBOX_CHECKPOINTED") => break false,
                _ => assert!(!message.is_null(), "the session ended"),
            }
        };
        if !refused {
            break;
        }
    }
    drop(client);
    let mut client = Client::attach_v2(&server, &identity).await;
    client
        .send(json!({"action": "reconnect", "exec": "last", "stdout": 0, "stderr": 0}))
        .await;
    assert_eq!(hears(&mut client, "last", "stdout", 0, 5).await, b"kept\n");
    let end = done(&mut client, "last").await;
    let expected = (&json!(3), &json!("exited"), &json!(true));
    assert_eq!(
        (&end["exit_code"], &end["reason"], &end["output_cut"]),
        expected
    );
}

#[tokio::test]
async fn a_kill_and_input_are_answered_after_the_end_on_any_link() {
    let server = LocalServer::start().await.unwrap();
    let (mut client, identity) = Client::create_v2(&server).await;
    exec(&mut client, "settled", "true", json!({})).await;
    done(&mut client, "settled").await;
    ack(&mut client, "settled", 0, 0, true).await;
    exec(&mut client, "ended", "true", json!({})).await;
    done(&mut client, "ended").await;
    let (kill, input) = (
        |id| json!({"action": "kill_process", "exec": id}),
        |id| json!({"event": "stdin", "exec": id, "offset": 0, "data": "x"}),
    );
    for on_another_link in [false, true] {
        if on_another_link {
            drop(client);
            client = Client::attach_v2(&server, &identity).await;
        }
        for id in ["settled", "ended"] {
            client.send(kill(id)).await;
            status(&mut client, id, "SANDBOX_EXECUTION_FORCE_KILLED").await;
            client.send(input(id)).await;
            status(&mut client, id, "SANDBOX_STDIN_ERROR").await;
        }
    }
}

#[tokio::test]
async fn invalid_input_is_refused_with_the_id_of_its_exec() {
    let server = LocalServer::start().await.unwrap();
    let (mut client, _) = Client::create_v2(&server).await;
    exec(&mut client, "a", "cat", json!({})).await;
    started(&mut client, "a").await;
    for (garbage, named) in [
        (json!({"offset": 0, "data_b64": "***"}), "data_b64"),
        (
            json!({"offset": 0, "data": "x", "data_b64": "eA=="}),
            "data_b64",
        ),
        (json!({"offset": 0, "data": 1}), "'data'"),
        (json!({"data": "x"}), "offset"),
        (json!({"offset": -1, "data": "x"}), "offset"),
    ] {
        let mut message = json!({"event": "stdin", "exec": "a"});
        let garbage = garbage.as_object().unwrap().clone();
        message.as_object_mut().unwrap().extend(garbage);
        client.send(message).await;
        let refusal = client.json().await;
        assert_eq!(refusal["status"], "SANDBOX_STDIN_ERROR", "{refusal}");
        assert_eq!(refusal["exec"], "a");
        let why = refusal["message"].as_str().unwrap();
        assert!(why.contains(named), "{why}");
        assert_eq!(client.json().await["message"], refusal["message"]);
    }
    // An unknown action is ignored. In particular, it is not an exec without an id.
    client.send(json!({"action": "dance", "exec": "a"})).await;
    client
        .send(json!({"event": "stdin", "exec": "a", "offset": 0, "data": "x", "eof": true}))
        .await;
    assert_eq!(hears(&mut client, "a", "stdout", 0, 1).await, b"x");
}

#[tokio::test]
async fn the_execs_that_ended_last_are_kept() {
    let server = LocalServer::start().await.unwrap();
    let (mut client, identity) = Client::create_v2(&server).await;
    exec(&mut client, "long", "read x; echo kept", json!({})).await;
    started(&mut client, "long").await;
    // One more than the server keeps unacknowledged, so it drops the first.
    for number in 0..65 {
        let id = format!("short{number}");
        exec(&mut client, &id, "echo x", json!({})).await;
        done(&mut client, &id).await;
    }
    client
        .send(json!({"event": "stdin", "exec": "long", "offset": 0, "data": "\n"}))
        .await;
    done(&mut client, "long").await;
    drop(client);
    let mut client = Client::attach_v2(&server, &identity).await;
    for (id, reason) in [
        ("long", "exited"),
        ("short0", "sandbox_lost"),
        ("short64", "exited"),
    ] {
        client
            .send(json!({"action": "reconnect", "exec": id, "stdout": 0, "stderr": 0}))
            .await;
        assert_eq!(done(&mut client, id).await["reason"], reason, "{id}");
    }
}

#[tokio::test]
async fn a_full_window_stops_the_process_and_nothing_else() {
    let server = LocalServer::start().await.unwrap();
    let (mut client, identity) = Client::create_v2(&server).await;
    exec(&mut client, "full", "yes", json!({"window": 10_000})).await;
    let heard = hears(&mut client, "full", "stdout", 0, 9_997).await;
    assert!(heard.len() <= 10_000, "{} bytes", heard.len());
    // Others aren't blocked: another exec, a v1 exec, a kill.
    exec(&mut client, "other", "echo other", json!({})).await;
    assert_eq!(done(&mut client, "other").await["exit_code"], 0);
    client.exec("bash", "echo v1").await;
    loop {
        let message = client.json().await;
        assert_ne!(message["exec"], "full", "past the window: {message}");
        if message["status"] == "SANDBOX_EXECUTION_DONE" && message["exec"].is_null() {
            break;
        }
    }
    // An acknowledgement lets the exec send as many bytes again.
    let mut taken = heard.len() as u64;
    ack(&mut client, "full", taken - 5_000, 0, false).await;
    let more = hears(&mut client, "full", "stdout", taken, 4_900).await;
    taken += more.len() as u64;
    // A lower acknowledgement, or one beyond what was sent, has no effect.
    ack(&mut client, "full", 0, u64::MAX, false).await;
    client
        .send(json!({"action": "kill_process", "exec": "full"}))
        .await;
    status(&mut client, "full", "SANDBOX_EXECUTION_FORCE_KILLED").await;
    let end = done(&mut client, "full").await;
    assert_eq!(end["reason"], "killed");
    // Output from before the kill still comes, as fast as it is acknowledged.
    let length = end["stdout"].as_u64().unwrap();
    while taken < length {
        ack(&mut client, "full", taken, 0, false).await;
        taken += hears(&mut client, "full", "stdout", taken, 1).await.len() as u64;
    }
    eventually("all are gone", || processes_of(&identity).is_empty()).await;
}

#[tokio::test]
async fn unacknowledged_output_is_resent_from_the_given_offset() {
    let server = LocalServer::start().await.unwrap();
    let (mut client, identity) = Client::create_v2(&server).await;
    exec(
        &mut client,
        "r",
        "seq 1 1000; seq 1 3 >&2; exit 7",
        json!({}),
    )
    .await;
    let end = done(&mut client, "r").await;
    let all: String = (1..=1000).map(|i| format!("{i}\n")).collect();
    ack(&mut client, "r", 100, 0, false).await;
    drop(client);
    for from in [150, 100, 0, all.len() as u64] {
        let mut client = Client::attach_v2(&server, &identity).await;
        client
            .send(json!({"action": "reconnect", "exec": "r", "stdout": from, "stderr": 2}))
            .await;
        assert_eq!(client.json().await["status"], "SANDBOX_EXECUTION_RUNNING");
        // The server has dropped acknowledged bytes.
        let from = from.max(100);
        let rest = &all[from as usize..];
        let heard = hears(&mut client, "r", "stdout", from, rest.len() as u64).await;
        assert_eq!(String::from_utf8_lossy(&heard), rest);
        assert_eq!(done(&mut client, "r").await, end);
    }
    // The end can be requested again, even after its acknowledgement.
    let mut client = Client::attach_v2(&server, &identity).await;
    client
        .send(json!({"action": "reconnect", "exec": "r"}))
        .await;
    assert_eq!(done(&mut client, "r").await, end);
    ack(&mut client, "r", all.len() as u64, 6, true).await;
    client
        .send(json!({"action": "reconnect", "exec": "r"}))
        .await;
    assert_eq!(done(&mut client, "r").await, end);
}

#[tokio::test]
async fn a_new_link_gets_nothing_of_an_exec_before_reconnect() {
    let server = LocalServer::start().await.unwrap();
    let (mut client, identity) = Client::create_v2(&server).await;
    exec(&mut client, "quiet", "read x; seq 1 100", json!({})).await;
    started(&mut client, "quiet").await;
    drop(client);
    let mut client = Client::attach_v2(&server, &identity).await;
    client
        .send(json!({"event": "stdin", "exec": "quiet", "offset": 0, "data": "\n"}))
        .await;
    // A `reconnect` without an id means the v1 exec. There is none, so the server answers
    // `SANDBOX_RUNNING`.
    client.action("reconnect").await;
    assert_eq!(client.json().await["status"], "SANDBOX_RUNNING");
    client
        .send(json!({"action": "reconnect", "exec": "quiet"}))
        .await;
    assert_eq!(client.json().await["status"], "SANDBOX_EXECUTION_RUNNING");
    let end = done(&mut client, "quiet").await;
    assert_eq!(end["stdout"], 292);
    // An exec that the server doesn't know is reported as lost.
    client
        .send(json!({"action": "reconnect", "exec": "unknown"}))
        .await;
    let lost = done(&mut client, "unknown").await;
    assert_eq!(lost["reason"], "sandbox_lost");
    assert_eq!(lost.get("stdout"), None);
    assert!(lost["message"].is_string(), "{lost}");
}

#[tokio::test]
async fn input_is_applied_once_and_ends_at_eof() {
    let server = LocalServer::start().await.unwrap();
    let (mut client, identity) = Client::create_v2(&server).await;
    exec(&mut client, "in", "cat", json!({})).await;
    started(&mut client, "in").await;
    let stdin = |offset: u64, data: &str| json!({"event": "stdin", "exec": "in", "offset": offset, "data": data});
    client.send(stdin(0, "hello")).await;
    assert_eq!(hears(&mut client, "in", "stdout", 0, 5).await, b"hello");
    // Duplicate bytes are dropped. A message after a gap is ignored.
    client.send(stdin(0, "hello")).await;
    client.send(stdin(3, "lo, w")).await;
    client.send(stdin(100, "never")).await;
    assert_eq!(hears(&mut client, "in", "stdout", 5, 3).await, b", w");
    drop(client);

    let mut client = Client::attach_v2(&server, &identity).await;
    client
        .send(json!({"action": "reconnect", "exec": "in", "stdout": 8}))
        .await;
    assert_eq!(started(&mut client, "in").await["stdin"], 8);
    let b64 = STANDARD.encode([0xff, 0x00]);
    client
        .send(json!({"event": "stdin", "exec": "in", "offset": 8, "data_b64": b64, "eof": true}))
        .await;
    assert_eq!(hears(&mut client, "in", "stdout", 8, 2).await, [0xff, 0x00]);
    assert_eq!(done(&mut client, "in").await["exit_code"], 0);
}

#[tokio::test]
async fn input_to_a_closed_stdin_is_refused_once() {
    let server = backend::with_visible_processes().start().await.unwrap();
    let (mut client, _) = Client::create_v2(&server).await;
    exec(
        &mut client,
        "deaf",
        "exec <&-; echo closed; sleep 1000",
        json!({}),
    )
    .await;
    hears(&mut client, "deaf", "stdout", 0, 7).await;
    let stdin = |offset| json!({"event": "stdin", "exec": "deaf", "offset": offset, "data": "x"});
    let mut offset = 0;
    let refused = loop {
        client.send(stdin(offset)).await;
        let answer = client.json().await;
        offset += 1;
        // A process that another test is starting may still hold a copy of the pipe.
        if answer["event"] != "stdin_ack" {
            break answer;
        }
    };
    assert_eq!(refused["status"], "SANDBOX_STDIN_ERROR", "{refused}");
    assert!(refused["message"].is_string(), "{refused}");
    assert_eq!(client.json().await["event"], "error");
    client.send(stdin(offset)).await;
    client.send(stdin(offset + 1)).await;
    client.stays_silent(Duration::from_millis(20)).await;
}

#[tokio::test]
async fn acknowledgements_of_input_say_what_the_pipe_took() {
    let server = LocalServer::start().await.unwrap();
    let (mut client, _) = Client::create_v2(&server).await;
    exec(&mut client, "p", "sleep 1000", json!({})).await;
    started(&mut client, "p").await;
    // The pipe takes 64 KiB, and the server buffers at most 1 MiB more. It ignores the rest.
    let piece = "x".repeat(64 * 1024);
    for number in 0..20_u64 {
        client
            .send(json!({"event": "stdin", "exec": "p", "offset": number << 16, "data": piece}))
            .await;
    }
    client
        .send(json!({"action": "reconnect", "exec": "p"}))
        .await;
    let mut taken = 0;
    let received = loop {
        let message = client.json().await;
        if message["event"] == "stdin_ack" {
            let offset = message["offset"].as_u64().unwrap();
            assert!(offset >= taken, "{message}");
            taken = offset;
        }
        if message["status"] == "SANDBOX_EXECUTION_RUNNING" {
            break message["stdin"].as_u64().unwrap();
        }
    };
    assert!((16 << 16..=17 << 16).contains(&received), "{received}");
}

#[tokio::test]
async fn bad_options_are_refused_and_the_id_stays_free() {
    let server = LocalServer::start().await.unwrap();
    let (mut client, identity) = Client::create_v2(&server).await;
    let many: Vec<String> = vec!["x".into(); ExecOptions::MAX_VALUES + 1];
    for options in [
        json!({"args": "x"}),
        json!({"args": [1]}),
        json!({"args": ["a\u{0}b"]}),
        json!({"args": many}),
        json!({"env": ["A=B"]}),
        json!({"env": {"A": 1}}),
        json!({"env": {"A=B": "x"}}),
        json!({"env": {"": "x"}}),
        json!({"cwd": 1}),
        json!({"cwd": "no/such/directory"}),
        json!({"cwd": "a\u{0}"}),
        json!({"timeout_ms": -1}),
        json!({"timeout_ms": "soon"}),
        json!({"window": "wide"}),
        json!({"code": 1}),
    ] {
        exec(&mut client, "odd", "touch ran", options.clone()).await;
        let refused = status(&mut client, "odd", "SANDBOX_EXECUTION_ERROR").await;
        let why = refused["message"].as_str().expect("a reason");
        assert!(!why.is_empty(), "{options}");
        let error = client.json().await;
        assert_eq!(
            (&error["event"], &error["message"]),
            (&json!("error"), &json!(why))
        );
    }
    exec(&mut client, "odd", "", json!({"language": "cobol"})).await;
    let wanted = "SANDBOX_EXECUTION_UNSUPPORTED_LANGUAGE_ERROR";
    assert!(status(&mut client, "odd", wanted).await["message"].is_string());
    let long = "x".repeat(129);
    for id in ["", &long] {
        exec(&mut client, id, "touch ran", json!({})).await;
        status(&mut client, id, "SANDBOX_EXECUTION_ERROR").await;
    }
    exec(&mut client, "odd", "ls", json!({})).await;
    let end = done(&mut client, "odd").await;
    assert_eq!((&end["stdout"], &end["exit_code"]), (&json!(0), &json!(0)));
    assert_eq!(processes_of(&identity), [0_u32; 0]);
}

#[tokio::test]
async fn a_timeout_kills_every_process_of_an_unread_exec() {
    let server = LocalServer::start().await.unwrap();
    let (mut client, identity) = Client::create_v2(&server).await;
    let code = "(sleep 1000 &) ; yes & yes >&2 & wait";
    let options = json!({"timeout_ms": 200, "window": 1_024});
    exec(&mut client, "slow", code, options).await;
    let end = done(&mut client, "slow").await;
    assert_eq!(end["reason"], "timed_out");
    eventually("all are gone", || processes_of(&identity).is_empty()).await;
}

#[tokio::test]
async fn no_more_than_the_limit_run_at_once() {
    let server = LocalServer::builder().max_execs(3).start().await.unwrap();
    let (mut client, _) = Client::create_v2(&server).await;
    for id in ["1", "2", "3"] {
        exec(&mut client, id, "sleep 1000", json!({})).await;
        started(&mut client, id).await;
    }
    exec(&mut client, "4", "true", json!({})).await;
    let refused = status(&mut client, "4", "SANDBOX_EXECUTION_ERROR").await;
    assert!(
        refused["message"].as_str().unwrap().contains("limit of 3"),
        "{refused}"
    );
    client
        .send(json!({"action": "kill_process", "exec": "2"}))
        .await;
    done(&mut client, "2").await;
    exec(&mut client, "4", "true", json!({})).await;
    assert_eq!(done(&mut client, "4").await["exit_code"], 0);
}

#[tokio::test]
async fn a_running_exec_refuses_checkpoints_and_is_not_idle() {
    let server = LocalServer::start().await.unwrap();
    let config = json!({"idle_timeout": 4, "enable_checkpoint": true});
    let (mut client, identity) = Client::create_v2_with(&server, config).await;
    let code = "sleep 5; read x; echo done";
    exec(&mut client, "busy", code, json!({})).await;
    started(&mut client, "busy").await;
    client.action("checkpoint").await;
    assert_eq!(client.json().await["status"], "SANDBOX_CHECKPOINTING");
    let refused = client.json().await;
    assert_eq!(refused["status"], "SANDBOX_EXECUTION_IN_PROGRESS_ERROR");
    assert!(refused["message"].is_string(), "{refused}");
    let stdin = json!({"event": "stdin", "exec": "busy", "offset": 0, "data": "\n"});
    client.send(stdin).await;
    // The exec ran longer than the idle timeout.
    assert_eq!(done(&mut client, "busy").await["stdout"], 5);
    assert_eq!(processes_of(&identity), [0_u32; 0]);
}

#[tokio::test]
async fn named_execs_end_with_their_sandbox_or_server() {
    let server = LocalServer::start().await.unwrap();
    let (mut client, identity) = Client::create_v2(&server).await;
    for id in ["1", "2"] {
        exec(&mut client, id, "setsid sleep 1000 & sleep 1000", json!({})).await;
        started(&mut client, id).await;
    }
    client.action("kill_sandbox").await;
    let mut lost = 0;
    loop {
        let message = client.json().await;
        lost += usize::from(message["reason"] == "sandbox_lost");
        if message["status"] == "SANDBOX_KILLED" {
            break;
        }
    }
    assert_eq!(lost, 2);
    assert_eq!(processes_of(&identity), [0_u32; 0]);

    let (mut client, identity) = Client::create_v2(&server).await;
    exec(&mut client, "1", "yes", json!({"window": 1_024})).await;
    started(&mut client, "1").await;
    let stop = tokio::time::timeout(PATIENCE, server.stop());
    stop.await.expect("it stops without a reader");
    assert_eq!(processes_of(&identity), [0_u32; 0]);
}

#[tokio::test]
async fn a_kill_gets_through_though_the_client_never_reads() {
    let server = LocalServer::start().await.unwrap();
    let (mut client, identity) = Client::create_v2(&server).await;
    for number in 0..20 {
        let id = number.to_string();
        exec(&mut client, &id, "yes", json!({"window": 1 << 20})).await;
    }
    // The client never reads. The server still receives the kill.
    client.action("kill_sandbox").await;
    eventually("all are gone", || {
        server.sandbox_count() == 0 && processes_of(&identity).is_empty()
    })
    .await;
    drop(client);
}

#[tokio::test]
async fn garbage_about_unknown_execs_is_ignored() {
    let server = LocalServer::start().await.unwrap();
    let (mut client, _) = Client::create_v2(&server).await;
    exec(&mut client, "a", "read x; echo $x", json!({})).await;
    started(&mut client, "a").await;
    for garbage in [
        json!({"event": "ack", "exec": "a", "stdout": -1}),
        json!({"event": "ack", "exec": "a", "stdout": u64::MAX, "stderr": u64::MAX, "done": true}),
        json!({"event": "ack", "exec": 1, "stdout": 1}),
        json!({"event": "ack"}),
        json!({"event": "stdin", "exec": "a", "offset": u64::MAX, "data": "x"}),
        json!({"event": "stdin", "exec": "a", "offset": -1, "data": "x"}),
        json!({"event": "stdin", "exec": "a", "data_b64": "***"}),
        json!({"event": "stdin", "exec": "unknown", "offset": 0, "data": "x", "eof": true}),
        json!({"action": "reconnect", "exec": "a", "stdout": u64::MAX, "stderr": "x"}),
        json!({"action": "kill_process", "exec": "unknown"}),
        json!({"action": "kill_process", "exec": {}}),
        json!({"action": "dance", "exec": "a"}),
    ] {
        client.send(garbage).await;
    }
    client
        .send(json!({"event": "stdin", "exec": "a", "offset": 0, "data": "still\n"}))
        .await;
    loop {
        let message = client.json().await;
        assert!(!message.is_null(), "the session ended");
        if message["event"] == "stdout" {
            assert_eq!(piece(&message), (0, b"still\n".to_vec()));
            break;
        }
    }
    let other = Client::create(&server).await;
    drop(other);
}

#[tokio::test]
async fn an_exec_of_v1_runs_beside_named_ones() {
    let server = LocalServer::start().await.unwrap();
    let (mut client, _) = Client::create_v2(&server).await;
    exec(&mut client, "named", "sleep 1000", json!({})).await;
    started(&mut client, "named").await;
    client.exec("bash", "echo plain; sleep 1000").await;
    assert_eq!(client.line().await, "SANDBOX_EXECUTION_RUNNING");
    client.hears("plain\n").await;
    // A kill without an id means the v1 exec.
    client.action("kill_process").await;
    assert_eq!(client.line().await, "SANDBOX_EXECUTION_FORCE_KILLED");
    assert_eq!(client.line().await, "SANDBOX_EXECUTION_DONE");
    client.stays_silent(Duration::from_millis(20)).await;
    client
        .send(json!({"action": "kill_process", "exec": "named"}))
        .await;
    assert_eq!(done(&mut client, "named").await["reason"], "killed");
}

#[test]
fn the_tests_offer_the_specified_subprotocol() {
    assert_eq!(V2.1, actix_sandbox::protocol::names::SUBPROTOCOL_V2);
}
