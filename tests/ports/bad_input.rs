//! Ports that don't exist, ports on which nothing listens, and sandboxes that are over.

use actix_sandbox::{
    BuiltinErrorKind::{self, ConnectionRefused, InvalidInput},
    Effect, Error, ErrorKind, Language, LocalServer, ProcessEnd, ProtocolVersion, Sandbox,
    actor::Builtin,
};
use serde_json::{Value, json};

use super::{
    messages::{end, start},
    program::Program,
};
use crate::support::{raw_client::Client, sandbox, sandbox_of, within};

async fn assert_goes_on(sandbox: &Sandbox) {
    let output = within("`true`", sandbox.run(Language::Bash, "true")).await;
    let end = output.unwrap().end;
    assert!(
        matches!(end, ProcessEnd::Exited(0) | ProcessEnd::Unknown),
        "{end}"
    );
}

fn assert_kind<T: std::fmt::Debug>(result: Result<T, Error>, kind: BuiltinErrorKind, text: &str) {
    let error = result.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Builtin(kind), "{error}");
    assert!(error.to_string().contains(text), "{error}");
}

#[actix::test]
async fn numbers_that_are_no_port_are_refused() {
    let (_server, sandbox) = sandbox().await;
    for port in [0, 70_000, -1] {
        let text = format!("port {port}: a port is a number from 1 to 65535");
        assert_kind(sandbox.connect(port).await, InvalidInput, &text);
        let forward = sandbox.forward("127.0.0.1:0", port).await;
        assert_kind(forward, InvalidInput, &text);
        assert_kind(sandbox.wait_for_port(port).await, InvalidInput, &text);
    }
    for builtin in [
        Builtin::Connect { port: 0 },
        Builtin::WaitForPort {
            port: 0,
            timeout_ms: Some(1),
        },
    ] {
        let started = start(&sandbox, builtin).await;
        let ProcessEnd::Completed(Err(error)) = end(&started).await else {
            panic!("port 0 was accepted");
        };
        assert_eq!(error.kind, InvalidInput, "{error}");
    }
    assert_goes_on(&sandbox).await;
}

#[actix::test]
async fn requests_with_a_number_that_fits_no_port_are_refused() {
    let server = LocalServer::start().await.unwrap();
    let (mut client, _) = Client::create_v2(&server).await;
    for (op, port) in [
        ("connect", json!(70_000)),
        ("connect", json!(-1)),
        ("connect", json!("80")),
        ("connect", Value::Null),
        ("wait_for_port", json!(70_000)),
    ] {
        let builtin = json!({"op": op, "port": port});
        client
            .send(json!({"builtin": builtin, "exec": "a", "binary": true}))
            .await;
        let refused = client.json().await;
        assert_eq!(refused["status"], "SANDBOX_EXECUTION_ERROR", "{refused}");
        let error = client.json().await;
        assert_eq!(error["message"], refused["message"], "{error}");
    }
    client
        .send(json!({"builtin": {"op": "ports"}, "exec": "a"}))
        .await;
    let running = client.json().await;
    assert_eq!(running["status"], "SANDBOX_EXECUTION_RUNNING", "{running}");
}

#[actix::test]
async fn a_port_on_which_nothing_listens_is_refused() {
    let (_server, sandbox) = sandbox().await;
    let program = Program::bound(&sandbox, "input()").await;
    let port = program.port;
    let text = format!("cannot connect to port {port}: nothing listens on it");
    assert_kind(sandbox.connect(port).await, ConnectionRefused, &text);
    let started = start(&sandbox, Builtin::Connect { port }).await;
    let ProcessEnd::Completed(Err(error)) = end(&started).await else {
        panic!("no error");
    };
    assert_eq!(error.kind, ConnectionRefused, "{error}");
    assert_goes_on(&sandbox).await;
}

#[actix::test]
async fn operations_in_a_sandbox_that_is_over_fail() {
    let (_server, sandbox) = sandbox().await;
    sandbox.kill().await.unwrap();
    let errors = [
        sandbox.connect(80).await.unwrap_err(),
        sandbox.ports().await.unwrap_err(),
        sandbox.wait_for_port(80).await.unwrap_err(),
        sandbox.forward("127.0.0.1:0", 80).await.unwrap_err(),
    ];
    for error in errors {
        assert_eq!(error.kind(), ErrorKind::WrongState, "{error}");
    }
}

#[actix::test]
async fn a_server_without_the_feature_is_sent_nothing() {
    let (_server, sandbox) = sandbox_of(ProtocolVersion::V1).await;
    let errors = [
        sandbox.connect(80).await.unwrap_err(),
        sandbox.ports().await.unwrap_err(),
        sandbox.wait_for_port(80).await.unwrap_err(),
        sandbox.forward("127.0.0.1:0", 80).await.unwrap_err(),
    ];
    for error in errors {
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
        assert_eq!(error.effect(), Effect::NotApplied, "{error}");
    }
    assert_goes_on(&sandbox).await;
}

#[actix::test]
async fn a_local_address_that_is_in_use_is_refused() {
    let (_server, sandbox) = sandbox().await;
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let error = sandbox.forward(address, 80).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::LocalAddress, "{error}");
    assert!(error.to_string().contains("in use"), "{error}");
}

#[actix::test]
async fn a_local_address_with_a_host_name_is_refused() {
    let (_server, sandbox) = sandbox().await;
    for local in ["localhost:0", "127.0.0.1", ""] {
        let error = sandbox.forward(local, 80).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::LocalAddress, "{error}");
        let text = format!("'{local}' is not an IP address with a port");
        assert!(error.to_string().contains(&text), "{error}");
    }
}
