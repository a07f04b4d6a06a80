//! Labels, variables and limits of a sandbox, and what is refused.

use std::time::Duration;

use actix_sandbox::{
    Effect, Error, ErrorKind, Language, LocalServer, ProtocolVersion, Sandbox, SandboxBuilder,
};
use serde_json::json;

use crate::support::{
    patient,
    raw_client::{Client, V2, dial},
    sandbox, scripted,
    scripted::Scripted,
    within,
};

const SECRET: &str = "s3cr3t-of-a-variable";

async fn text(sandbox: &Sandbox, code: &str) -> String {
    let output = within("a run", sandbox.run(Language::Bash, code)).await;
    output.expect("ran").stdout_lossy().trim_end().to_owned()
}

#[actix::test]
async fn every_exec_has_the_variables_and_may_replace_them() {
    let server = LocalServer::start().await.unwrap();
    let create = patient(server.url()).env("KEY", SECRET).env("OTHER", "a=b");
    let sandbox = within("create", create.env("KEY", "last")).await.unwrap();
    assert_eq!(text(&sandbox, "echo $KEY $OTHER").await, "last a=b");
    let python = "import os; print(os.environ['KEY'])";
    let output = within("python", sandbox.run(Language::Python, python)).await;
    assert_eq!(output.unwrap().stdout, "last\n");
    let program = sandbox.program("printenv").args(["KEY"]);
    let output = within("a program", program.output()).await;
    assert_eq!(output.unwrap().stdout, "last\n");
    let command = sandbox.command(Language::Bash, "echo $KEY $OTHER");
    let output = within("a command", command.env("KEY", "own").output()).await;
    assert_eq!(output.unwrap().stdout, "own a=b\n");
    assert_eq!(text(&sandbox, "echo $KEY").await, "last");
    within("stop", server.stop()).await;
}

#[actix::test]
async fn labels_and_variables_survive_a_checkpoint() {
    let server = LocalServer::start().await.unwrap();
    let create = patient(server.url()).env("KEY", SECRET).label("job", "17");
    let first = within("create", create.checkpoint(true)).await.unwrap();
    within("checkpoint", first.checkpoint()).await.unwrap();
    let (id, token) = (first.sandbox_id().clone(), first.sandbox_token().clone());
    let attach = Sandbox::attach(server.url(), id.clone(), token);
    let second = within("attach", attach).await.unwrap();
    assert_eq!(text(&second, "echo $KEY").await, SECRET);
    let listed = Sandbox::list(server.url()).label("job", "17").await;
    assert_eq!(listed.unwrap()[0].id, id);
    within("stop", server.stop()).await;
}

/// In the JSON of a checkpoint, a control character takes six bytes.
#[actix::test]
async fn the_largest_variables_and_labels_survive_a_checkpoint() {
    const ESCAPED: &str = "\u{1f}";
    let server = LocalServer::start().await.unwrap();
    let mut create = patient(server.url()).checkpoint(true);
    for number in 0..64 {
        let key = format!("{}{number:02}", "\"".repeat(61));
        create = create.label(key, ESCAPED.repeat(255));
    }
    let half = (1 << 15) - 1;
    for name in ["A", "B"] {
        create = create.env(name, ESCAPED.repeat(half));
    }
    let first = within("create", create).await.unwrap();
    within("checkpoint", first.checkpoint()).await.unwrap();
    let (id, token) = (first.sandbox_id().clone(), first.sandbox_token().clone());
    let attach = Sandbox::attach(server.url(), id.clone(), token);
    let second = within("attach", attach).await.unwrap();
    let lengths = text(&second, "echo ${#A} ${#B}").await;
    assert_eq!(lengths, format!("{half} {half}"));
    let listed = Sandbox::list(server.url()).await.unwrap();
    assert_eq!((&listed[0].id, listed[0].labels.len()), (&id, 64));
    let values = || listed[0].labels.values();
    assert!(values().all(|it| *it == ESCAPED.repeat(255)));
    within("stop", server.stop()).await;
}

async fn refused(builder: SandboxBuilder) -> Error {
    let error = within("the refusal", builder).await.expect_err("refused");
    assert_eq!(error.effect(), Effect::NotApplied, "{error}");
    let shown = format!("{error} {error:?} {error:#?}");
    assert!(!shown.contains(SECRET), "{shown}");
    error
}

#[actix::test]
async fn bad_options_are_refused_before_the_client_dials() {
    let server = Scripted::bind().await;
    let create = || Sandbox::create(server.url());
    let many = (0..65).fold(create(), |it, number| it.label(number.to_string(), ""));
    let mebibyte = || "a".repeat(1 << 20);
    let variables = (0..1_001).fold(create(), |it, number| it.env(number.to_string(), ""));
    for (builder, part) in [
        (
            create().label(mebibyte(), ""),
            "`label` contains a key of 1048576",
        ),
        (
            create().label("k", mebibyte()),
            "`label` contains a value of 1048576",
        ),
        (create().label("", "v"), "`label` contains an empty key"),
        (
            create().label("a=b", "v"),
            "`label` contains the key \"a=b\"",
        ),
        (many, "`label` contains 65 labels; at most 64"),
        (
            create().env("A=B", SECRET),
            "`env` contains the name \"A=B\"",
        ),
        (create().env("", SECRET), "`env` contains an empty name"),
        (create().env("A\0", SECRET), "'=' or a zero byte"),
        (
            create().env("A", format!("{SECRET}\0")),
            "a value with a zero byte",
        ),
        (
            create().env("A", mebibyte()),
            "`env` contains 1048577 bytes",
        ),
        (variables, "`env` contains more than 1000 variables"),
        (
            create().max_lifetime(Duration::ZERO),
            "`max_lifetime` is 0ns",
        ),
        (
            create().max_lifetime(Duration::from_millis(1_500)),
            "whole number of seconds",
        ),
        (
            create().max_lifetime(Duration::MAX),
            "`max_lifetime` is 18446744073709551615",
        ),
        (
            create().max_lifetime(Duration::from_secs(1 << 32)),
            "`max_lifetime` is longer",
        ),
    ] {
        let error = refused(builder).await;
        assert_eq!(error.kind(), ErrorKind::InvalidOption, "{error}");
        assert!(error.to_string().contains(part), "{part}: {error}");
    }
    server.assert_not_dialled().await;
}

#[actix::test]
async fn the_server_refuses_what_a_client_should_not_send() {
    let server = LocalServer::start().await.unwrap();
    let labels: serde_json::Map<_, _> = (0..65).map(|it| (it.to_string(), json!("v"))).collect();
    for (config, part) in [
        (
            json!({"labels": {"k": "v".repeat(1 << 20)}}),
            "a value of 1048576 bytes",
        ),
        (json!({"labels": labels}), "contains 65 labels"),
        (json!({"labels": {"": "v"}}), "an empty key"),
        (
            json!({"labels": ["k"]}),
            "'labels' must be an object of text",
        ),
        (json!({"env": {"A=B": SECRET}}), "which contains '='"),
        (
            json!({"env": {"A": SECRET, "B": 1}}),
            "'env' must be an object of text",
        ),
        (
            json!({"env": {"A": SECRET.repeat(1 << 16)}}),
            "at most 65536 bytes",
        ),
        (json!({"max_lifetime": 0}), "at least 1, got 0"),
        (
            json!({"max_lifetime": 1_u64 << 32}),
            "'max_lifetime' is longer",
        ),
    ] {
        let mut client = dial(&server, "/create", &[V2]).await.unwrap();
        client.send(config).await;
        client.line().await;
        let refusal = client.json().await;
        assert_eq!(refusal["status"], "SANDBOX_CREATION_ERROR", "{refusal}");
        let reason = refusal["message"].as_str().unwrap();
        assert!(
            reason.contains(part) && !reason.contains(SECRET),
            "{reason}"
        );
    }
    // A link of v1 shows the reason in a message of its own.
    let mut client = Client::connect(&server, "/create").await;
    client.send(json!({"labels": {"": "v"}})).await;
    client.until("SANDBOX_CREATION_ERROR").await;
    assert!(client.line().await.contains("an empty key"));
    assert_eq!(server.sandbox_count(), 0);
    within("stop", server.stop()).await;
}

#[actix::test]
async fn a_v1_server_is_not_asked_for_the_sandbox() {
    let server = LocalServer::builder().max_protocol_version(ProtocolVersion::V1);
    let server = server.start().await.unwrap();
    let create = || Sandbox::create(server.url());
    for (builder, option) in [
        (create().label("k", "v"), "`label`"),
        (create().env("KEY", SECRET), "`env`"),
        (
            create().max_lifetime(Duration::from_secs(60)),
            "`max_lifetime`",
        ),
    ] {
        let error = refused(builder).await;
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
        assert!(error.to_string().contains(option), "{error}");
        assert_eq!(server.sandbox_count(), 0);
    }
    within("stop", server.stop()).await;
}

/// The server reports that the sandbox runs, but not that it knows the option.
#[actix::test]
async fn a_server_that_ignores_an_option_must_kill_the_sandbox() {
    for confirms in [true, false] {
        let server = Scripted::bind().await;
        let create = Sandbox::create(server.url()).label("k", "v");
        let create = scripted::within("the refusal", create.into_future());
        let script = async {
            let mut peer = server.peer_v2().await;
            peer.expect(json!({"idle_timeout": 60, "labels": {"k": "v"}}))
                .await;
            peer.identity().await;
            peer.status("SANDBOX_RUNNING").await;
            peer.expect(json!({"action": "kill_sandbox"})).await;
            if confirms {
                peer.status("SANDBOX_KILLED").await;
            }
            // Without the confirmation, the connection is lost here.
        };
        let (error, ()) = futures::join!(create, script);
        let error = error.expect_err("not supported");
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
        let effect = if confirms {
            Effect::NotApplied
        } else {
            Effect::Unknown
        };
        assert_eq!(error.effect(), effect, "{error}");
        let doubts = error.to_string().contains("not confirmed");
        assert_eq!(doubts, !confirms, "{error}");
    }
}

#[actix::test]
async fn a_sandbox_without_these_options_needs_no_feature() {
    let (server, sandbox) = sandbox().await;
    assert_eq!(text(&sandbox, "echo ok").await, "ok");
    within("stop", server.stop()).await;
    let server = LocalServer::builder().max_protocol_version(ProtocolVersion::V1);
    let server = server.start().await.unwrap();
    let sandbox = within("create", patient(server.url())).await.unwrap();
    assert_eq!(text(&sandbox, "echo ok").await, "ok");
    within("stop", server.stop()).await;
}
