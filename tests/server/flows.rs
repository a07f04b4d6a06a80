//! The local server sends the same messages, in the same order, as in the recordings of the
//! cloud-run-sandbox server.

use std::time::Duration;

use crate::support::raw_client::{Client, get};
use actix_sandbox::server::LocalServer;
use serde_json::json;
use tokio_tungstenite::tungstenite::Message;

#[tokio::test]
async fn the_endpoints_answer() {
    let server = LocalServer::start().await.unwrap();
    assert_eq!(
        get(&server, "/status", &[]).await,
        (200, r#"{"status":"ok"}"#.into())
    );
    assert_eq!(
        get(&server, "/", &[]).await,
        (200, r#"{"message":"Server is running"}"#.into())
    );
    assert_eq!(get(&server, "/create", &[]).await.0, 400);
    assert_eq!(get(&server, "/nothing", &[]).await.0, 404);
    server.stop().await;
}

#[tokio::test]
async fn python_and_bash_run_and_the_sandbox_is_killed() {
    let server = LocalServer::start().await.unwrap();
    let (mut client, _) = Client::create(&server).await;
    let mut lines = client
        .run(
            "python",
            "import sys; sys.stdout.write('hi\\n'); sys.stderr.write('err\\n')",
        )
        .await;
    lines[1..3].sort();
    assert_eq!(
        lines,
        [
            "SANDBOX_EXECUTION_RUNNING",
            "stderr: err\n",
            "stdout: hi\n",
            "SANDBOX_EXECUTION_DONE"
        ]
    );
    let mut lines = client.run("bash", "echo a; echo b >&2; exit 3").await;
    lines[1..3].sort();
    assert_eq!(
        lines,
        [
            "SANDBOX_EXECUTION_RUNNING",
            "stderr: b\n",
            "stdout: a\n",
            "SANDBOX_EXECUTION_DONE"
        ]
    );
    let lines = client.run("python", "raise ValueError('boom')").await;
    assert!(
        lines[1].starts_with("stderr: Traceback (most recent call last):\n"),
        "{lines:?}"
    );
    assert!(lines[1].ends_with("ValueError: boom\n"), "{lines:?}");
    assert_eq!(lines.len(), 3);

    client.action("kill_sandbox").await;
    assert_eq!(
        client.until("close 1000").await,
        [
            "SANDBOX_KILLING",
            "SANDBOX_DELETING",
            "SANDBOX_DELETED",
            "SANDBOX_KILLED",
            "close 1000"
        ]
    );
    server.stop().await;
}

#[tokio::test]
async fn creation_is_refused_with_the_recorded_words() {
    let server = LocalServer::start().await.unwrap();
    for (config, reason) in [
        (
            json!({"idle_timeout": 60, "filesystem_snapshot_name": "nope"}),
            "Filesystem snapshot not found: 'nope'",
        ),
        (
            json!({"idle_timeout": 60, "enable_sandbox_handoff": true}),
            "Sandbox handoff requires checkpointing to be enabled.",
        ),
        (
            json!({"idle_timeout": 60, "enable_idle_timeout_auto_checkpoint": true}),
            "Idle timeout auto checkpoint requires checkpointing to be enabled.",
        ),
    ] {
        let mut client = Client::connect(&server, "/create").await;
        client.send(config).await;
        assert_eq!(
            client.until("close 4000").await,
            [
                "SANDBOX_CREATING",
                "SANDBOX_CREATION_ERROR",
                &format!("error: {reason}"),
                "close 4000"
            ]
        );
    }
    server.stop().await;
}

#[tokio::test]
async fn attach_errors_are_as_recorded() {
    let server = LocalServer::start().await.unwrap();
    let (client, identity) = Client::create(&server).await;

    let mut second = Client::connect(&server, &identity.attach_path()).await;
    assert_eq!(
        second.until("close 1011").await,
        ["SANDBOX_IN_USE", "close 1011"]
    );
    let mut unknown = Client::connect(&server, "/attach/sandbox-none?sandbox_token=x").await;
    assert_eq!(
        unknown.until("close 1011").await,
        ["SANDBOX_RESTORING", "SANDBOX_NOT_FOUND", "close 1011"]
    );
    let no_token =
        crate::support::raw_client::dial(&server, &format!("/attach/{}", identity.id), &[]).await;
    let (status, reason) = no_token.err().expect("a refusal");
    assert_eq!(status, 403);
    assert!(reason.contains("sandbox_token"), "{reason}");

    drop(client);
    let wrong = format!("/attach/{}?sandbox_token=wrong", identity.id);
    let mut wrong = Client::connect(&server, &wrong).await;
    assert_eq!(
        wrong.until("close 4000").await,
        [
            "SANDBOX_PERMISSION_DENIAL_ERROR",
            "error: Invalid sandbox token.",
            "close 4000"
        ]
    );
    // The server has detected that the old socket is closed, so the client can attach.
    let mut attached = Client::attach(&server, &identity).await;
    assert_eq!(attached.bash("echo attached").await, "attached\n");
    attached.kill_sandbox().await;
    server.stop().await;
}

#[tokio::test]
async fn languages_that_are_not_supported_are_named() {
    let server = LocalServer::start().await.unwrap();
    let (mut client, _) = Client::create(&server).await;
    for (request, status, reason) in [
        (
            json!({"language": "ruby", "code": "puts 1"}),
            "SANDBOX_EXECUTION_UNSUPPORTED_LANGUAGE_ERROR",
            "Unsupported language: 'ruby'. Supported languages are: python, bash",
        ),
        (
            json!({"code": "print(1)"}),
            "SANDBOX_EXECUTION_UNSUPPORTED_LANGUAGE_ERROR",
            "Unsupported language: 'None'. Supported languages are: python, bash",
        ),
        (
            json!({"language": "python"}),
            "SANDBOX_EXECUTION_ERROR",
            "Invalid message format. 'language' and 'code' fields are required. Supported languages are: python, bash",
        ),
        (
            json!({"action": "no_such_action"}),
            "SANDBOX_EXECUTION_UNSUPPORTED_LANGUAGE_ERROR",
            "Unsupported language: 'None'. Supported languages are: python, bash",
        ),
    ] {
        client.send(request).await;
        assert_eq!(
            client.until("SANDBOX_EXECUTION_DONE").await,
            [
                status,
                &format!("error: {reason}"),
                "SANDBOX_EXECUTION_DONE"
            ]
        );
    }
    assert_eq!(client.bash("echo still alive").await, "still alive\n");
    server.stop().await;
}

#[tokio::test]
async fn stdin_arrives_in_order_and_the_process_is_killed() {
    let server = LocalServer::start().await.unwrap();
    let (mut client, _) = Client::create(&server).await;
    client
        .exec(
            "python",
            "import sys\nfor l in sys.stdin: print('got', l.strip(), flush=True)",
        )
        .await;
    assert_eq!(client.line().await, "SANDBOX_EXECUTION_RUNNING");
    for i in 0..100 {
        client.stdin(&format!("line {i}\n")).await;
    }
    let expected: String = (0..100).map(|i| format!("got line {i}\n")).collect();
    let mut heard = String::new();
    while heard.len() < expected.len() {
        heard += client
            .line()
            .await
            .strip_prefix("stdout: ")
            .expect("output");
    }
    assert_eq!(heard, expected);
    client.action("kill_process").await;
    client.exec("bash", "echo next").await;
    let lines = client.until("SANDBOX_EXECUTION_DONE").await;
    assert_eq!(
        lines.last_chunk::<2>().unwrap(),
        &["SANDBOX_EXECUTION_FORCE_KILLED", "SANDBOX_EXECUTION_DONE"]
    );
    server.stop().await;
}

#[tokio::test]
async fn requests_without_an_exec_are_answered_as_recorded() {
    let server = LocalServer::start().await.unwrap();
    let (mut client, _) = Client::create(&server).await;
    client.action("kill_process").await;
    assert_eq!(client.line().await, "SANDBOX_EXECUTION_FORCE_KILLED");
    client.stdin("unread\n").await;
    assert_eq!(client.line().await, "SANDBOX_EXECUTION_ERROR");
    assert_eq!(
        client.line().await,
        "error: No process is running in the sandbox."
    );
    client.send(json!({"event": "stdin"})).await;
    assert_eq!(client.line().await, "SANDBOX_STDIN_ERROR");
    assert_eq!(
        client.line().await,
        "error: Invalid stdin message format. 'data' field is required."
    );
    client.send_raw(Message::Ping("are you there".into())).await;
    assert_eq!(client.line().await, "pong are you there");
    client.stays_silent(Duration::from_millis(100)).await;
    client.kill_sandbox().await;
    server.stop().await;
}

#[tokio::test]
async fn a_second_exec_is_refused_and_disturbs_nothing() {
    let server = LocalServer::start().await.unwrap();
    let (mut client, _) = Client::create(&server).await;
    client.exec("bash", "read line; echo first").await;
    assert_eq!(client.line().await, "SANDBOX_EXECUTION_RUNNING");
    client.exec("bash", "echo second").await;
    assert_eq!(client.line().await, "SANDBOX_EXECUTION_ERROR");
    assert_eq!(
        client.line().await,
        "error: An execution is already in progress."
    );
    client.stdin("go\n").await;
    assert_eq!(
        client.until("SANDBOX_EXECUTION_DONE").await,
        ["stdout: first\n", "SANDBOX_EXECUTION_DONE"]
    );
    server.stop().await;
}

#[tokio::test]
async fn an_idle_sandbox_is_deleted_and_its_socket_stays_open() {
    let server = LocalServer::start().await.unwrap();
    let (mut client, identity) = Client::create_with(&server, json!({"idle_timeout": 4})).await;
    // A sandbox with a running exec is not idle.
    assert_eq!(client.bash("sleep 4.5; echo awake").await, "awake\n");
    assert_eq!(client.line().await, "SANDBOX_DELETING");
    assert_eq!(client.line().await, "SANDBOX_DELETED");
    client.exec("bash", "echo unheard").await;
    client.stays_silent(Duration::from_millis(100)).await;
    let mut late = Client::connect(&server, &identity.attach_path()).await;
    assert_eq!(
        late.until("close 1011").await,
        ["SANDBOX_RESTORING", "SANDBOX_NOT_FOUND", "close 1011"]
    );
    server.stop().await;
}

#[tokio::test]
async fn the_idle_time_has_a_limit_of_the_server() {
    let server = LocalServer::builder()
        .max_idle_timeout(Duration::from_millis(50))
        .start()
        .await
        .unwrap();
    let (mut client, _) = Client::create(&server).await;
    assert_eq!(client.line().await, "SANDBOX_DELETING");
    let (mut client, _) = Client::create_with(&server, json!({})).await;
    assert_eq!(client.line().await, "SANDBOX_DELETING");
    server.stop().await;
}

#[tokio::test]
async fn a_malformed_frame_drops_the_socket_and_the_sandbox_lives_on() {
    let server = LocalServer::start().await.unwrap();
    let (mut client, identity) = Client::create(&server).await;
    for frame in [
        Message::text("this is not json"),
        Message::text("[1,2,3]"),
        Message::text(""),
        Message::text("{".repeat(100_000)),
        Message::binary(b"{\"action\":\"kill_sandbox\"}".to_vec()),
    ] {
        client.send_raw(frame).await;
        assert_eq!(client.line().await, "lost");
        client = Client::attach(&server, &identity).await;
    }
    assert_eq!(client.bash("echo alive").await, "alive\n");
    let mut client = Client::connect(&server, "/create").await;
    client.send_raw(Message::text("[1,2,3]")).await;
    assert_eq!(client.line().await, "lost");
    server.stop().await;
}

#[tokio::test]
async fn a_close_frame_is_answered_and_the_sandbox_lives_on() {
    let server = LocalServer::start().await.unwrap();
    let (mut client, identity) = Client::create(&server).await;
    client.send_raw(Message::Close(None)).await;
    assert!(client.line().await.starts_with("close"));
    assert_eq!(client.line().await, "lost");
    Client::attach(&server, &identity).await;
    server.stop().await;
}
