//! Invalid URLs and options are refused before the client dials.

use std::time::Duration;

use actix_sandbox::{Effect, Error, ErrorKind, OutputPolicy, Sandbox, SandboxBuilder};

use crate::support::scripted::{Scripted, within};

async fn refused(builder: SandboxBuilder) -> Error {
    let error = within("the refusal", builder.into_future())
        .await
        .expect_err("cannot be used");
    assert_eq!(error.effect(), Effect::NotApplied, "{error}");
    assert!(!error.is_retryable(), "{error}");
    error
}

#[actix::test]
async fn urls_that_cannot_be_used_are_refused_by_name() {
    for (url, parts) in [
        ("", &["is not a URL", "wss://host"][..]),
        (
            "sandbox.example.com",
            &["`sandbox.example.com` is not a URL", "wss://host"],
        ),
        ("/create", &["`/…` is not a URL", "wss://host"]),
        ("ws://h:99999", &["`ws://h:99999` is not a URL", "port"]),
        ("ws://[::1", &["`ws://[::1` is not a URL", "wss://host"]),
        ("ws://a b", &["`ws://a b` is not a URL", "wss://host"]),
        ("ws://", &["`ws://` names no host", "wss://host"]),
        (
            "ftp://h/x",
            &[
                "`ftp://h/…`",
                "scheme `ftp`",
                "ws://, wss://, http:// or https://",
            ],
        ),
        (
            "file:///tmp/x",
            &["`file:///…`", "scheme `file`", "ws://, wss://"],
        ),
        (
            "localhost:8080",
            &["`localhost:8080`", "scheme `localhost`", "ws://, wss://"],
        ),
        (
            "javascript:alert(1)",
            &["scheme `javascript`", "ws://, wss://"],
        ),
        (
            "ws://h?sandbox_token=abc",
            &["URL of h", "a query or a fragment"],
        ),
        ("ws://h#top", &["URL of h", "a query or a fragment"]),
    ] {
        let error = refused(Sandbox::create(url)).await;
        assert_eq!(error.kind(), ErrorKind::InvalidUrl, "{url}: {error}");
        for part in parts {
            assert!(error.to_string().contains(part), "{url}: {error}");
        }
    }
}

#[actix::test]
async fn nothing_is_dialled_for_a_url_that_cannot_be_used() {
    let server = Scripted::bind().await;
    let address = server.address();
    for url in [
        format!("ftp://{address}"),
        format!("tcp://{address}"),
        format!("ws://me:secret@{address}"),
        format!("ws://{address}?x=1"),
        format!("ws://{address}#x"),
        address.clone(),
    ] {
        let error = refused(Sandbox::create(&url)).await;
        assert_eq!(error.kind(), ErrorKind::InvalidUrl, "{url}: {error}");
    }
    server.assert_not_dialled().await;
}

/// Invariant 4: no secret in an error or a `Debug`.
#[actix::test]
async fn a_password_in_a_url_is_refused_and_never_shown() {
    for url in [
        "ws://me:hunter2@h",
        "wss://me:hunter2@h:99999",
        "ftp://me:hunter2@h",
        "me:hunter2@h",
        "ws:me:hunter2@h",
        "ws:/me:hunter2@h",
        r"ws:\\me:hunter2@h",
        "foo:/me:hunter2@h",
        "foo:me:hunter2@h",
        "//me:hunter2@h",
        "/me:hunter2@h",
        "http://me:a/hunter2@h:99999",
        "http://me:hunter2/b@h:99999",
        "http://me:a?hunter2@h:99999",
        "http://me:hunter2?a@h:99999",
        "http://me:hunter2#a@h:99999",
        "http://a@b:hunter2@h:99999",
        "ws://h:x?sandbox_token=hunter2",
        "ws://h?sandbox_token=hunter2",
        "ws://h#hunter2",
        "h?sandbox_token=hunter2",
    ] {
        let builder = Sandbox::create(url);
        let debug = format!("{builder:?} {builder:#?}");
        assert!(!debug.contains("hunter2"), "{url}: {debug}");
        let error = refused(builder).await;
        assert_eq!(error.kind(), ErrorKind::InvalidUrl, "{url}: {error}");
        let shown = crate::support::scripted::shown(&error);
        assert!(!shown.contains("hunter2"), "{url}: {shown}");
    }
}

/// Each error names the option, also where the option needs another one.
#[actix::test]
async fn bad_options_are_refused_by_name_before_dialling() {
    let server = Scripted::bind().await;
    let zero = Duration::ZERO;
    let second = Duration::from_secs(1);
    let create = || Sandbox::create(server.url());
    for (builder, parts) in [
        (
            create().idle_timeout(zero),
            &["`idle_timeout`", "at least 1 s"][..],
        ),
        (
            create().idle_timeout(second / 2),
            &["`idle_timeout`", "500ms", "whole number of seconds"],
        ),
        (
            create().idle_timeout(second * 3 / 2),
            &["`idle_timeout`", "1.5s", "whole number of seconds"],
        ),
        (
            create().connect_timeout(zero),
            &["`connect_timeout`", "zero"],
        ),
        (create().create_timeout(zero), &["`create_timeout`", "zero"]),
        (create().exec_timeout(zero), &["`exec_timeout`", "zero"]),
        (create().kill_timeout(zero), &["`kill_timeout`", "zero"]),
        (create().store_timeout(zero), &["`store_timeout`", "zero"]),
        (create().keepalive(zero, second), &["`keepalive`", "zero"]),
        (create().keepalive(second, zero), &["`keepalive`", "zero"]),
        (
            create().max_message_bytes(0),
            &["`max_message_bytes`", "at least 1024"],
        ),
        (
            create().max_message_bytes(1023),
            &["`max_message_bytes`", "1023"],
        ),
        (
            create().output_policy(OutputPolicy {
                budget: 0,
                ..OutputPolicy::default()
            }),
            &["`output_policy`", "at least 1"],
        ),
        (
            create().output_policy(OutputPolicy {
                budget: (2 << 30) + 1,
                ..OutputPolicy::default()
            }),
            &["`output_policy`", "2 GiB"],
        ),
        (
            create().enable_idle_timeout_auto_checkpoint(true),
            &["auto", "enable_sandbox_checkpoint(true)"],
        ),
        (
            create().enable_sandbox_handoff(true),
            &["handoff", "enable_sandbox_checkpoint(true)"],
        ),
    ] {
        let error = refused(builder).await;
        assert_eq!(error.kind(), ErrorKind::InvalidOption, "{error}");
        for part in parts {
            assert!(error.to_string().contains(part), "{part}: {error}");
        }
    }
    server.assert_not_dialled().await;
}

/// Invariant 4: errors and `Debug` never show the value of a header.
#[actix::test]
async fn headers_that_cannot_be_used_are_refused_without_their_value() {
    let server = Scripted::bind().await;
    let long = "x".repeat(5_000) + "\n";
    for (name, value, part) in [
        ("", "hunter2", "not a valid header name"),
        ("not a name", "hunter2", "`not a name`"),
        ("x:y", "hunter2", "`x:y`"),
        ("x\r\nevil", "hunter2", "not a valid header name"),
        ("ключ", "hunter2", "not a valid header name"),
        (&long, "hunter2", "not a valid header name"),
        ("authorization", "Bearer hunter2\r\nx: y", "`authorization`"),
        ("authorization", "hunter2\n", "control characters"),
        ("authorization", "hunter2\0", "control characters"),
        ("Host", "hunter2", "sets `Host`"),
        ("Cookie", "a=hunter2", "sets `Cookie`"),
        ("connection", "hunter2", "only the client may set"),
        ("UPGRADE", "hunter2", "sets `UPGRADE`"),
        ("Sec-WebSocket-Key", "hunter2", "only the client may set"),
        (
            "sec-websocket-version",
            "hunter2",
            "only the client may set",
        ),
        (
            "sec-websocket-protocol",
            "hunter2",
            "only the client may set",
        ),
        (
            "sec-websocket-extensions",
            "hunter2",
            "only the client may set",
        ),
        ("Content-Length", "7", "only the client may set"),
        ("Transfer-Encoding", "chunked", "only the client may set"),
    ] {
        let builder = Sandbox::create(server.url()).header(name, value);
        let debug = format!("{builder:?} {builder:#?}");
        assert!(!debug.contains("hunter2"), "{debug}");
        let error = refused(builder).await;
        assert_eq!(error.kind(), ErrorKind::InvalidOption, "{error}");
        let shown = crate::support::scripted::shown(&error);
        assert!(error.to_string().contains(part), "{part}: {error}");
        assert!(!shown.contains("hunter2"), "{shown}");
        assert!(error.to_string().len() < 1_000, "{error}");
    }
    server.assert_not_dialled().await;
}

/// The client sends headers and configuration, and accepts `http://` and a trailing slash.
#[actix::test]
async fn good_options_reach_the_server() {
    let server = Scripted::bind().await;
    let url = format!("http://{}/base/", server.address());
    let builder = Sandbox::create(url)
        .header("Authorization", "Bearer hunter2")
        .idle_timeout(Duration::from_secs(7))
        .enable_sandbox_checkpoint(true)
        .enable_idle_timeout_auto_checkpoint(true)
        .enable_sandbox_handoff(true)
        .filesystem_snapshot_name("snap \"1\"");
    let (sandbox, peer) = futures::join!(within("the sandbox", builder.into_future()), async {
        let mut peer = server.peer().await;
        assert_eq!(peer.path, "/base/create");
        assert_eq!(peer.header("authorization"), Some("Bearer hunter2"));
        assert_eq!(peer.header("host"), Some(&*server.address()));
        let configuration = peer.configuration().await;
        assert_eq!(
            configuration,
            serde_json::json!({
                "idle_timeout": 7,
                "enable_checkpoint": true,
                "enable_idle_timeout_auto_checkpoint": true,
                "enable_sandbox_handoff": true,
                "filesystem_snapshot_name": "snap \"1\"",
            })
        );
        peer.identity().await;
        peer.status("SANDBOX_RUNNING").await;
        peer
    });
    drop((sandbox.expect("a sandbox"), peer));
}
