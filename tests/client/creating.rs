//! Failures of `create` after the upgrade succeeded: the server is silent, closes early or reports
//! an error, or the caller drops the future.

use std::{pin::pin, time::Duration};

use actix_sandbox::{Effect, Error, ErrorKind, Sandbox, SandboxBuilder, SandboxEnd, SandboxEvent};
use futures::future::{Either, join, poll_immediate, select};
use serde_json::json;
use tokio_tungstenite::tungstenite::Message;

use crate::support::scripted::{Heard, ID, PATIENCE, Peer, Scripted, Watched, within};

async fn failed(builder: SandboxBuilder) -> Error {
    within("the end of create", builder.into_future())
        .await
        .expect_err("no sandbox")
}

/// Asserts that the client sends a close frame with code 1000, and nothing before it.
async fn assert_closed(peer: &mut Peer) {
    assert_eq!(peer.rest().await, [Heard::Close(Some(1000))]);
}

/// Waits until the client has processed every earlier message: it answers a ping.
async fn settled(peer: &mut Peer) {
    assert!(peer.try_send(Message::Ping("now".into())).await);
    assert_eq!(peer.heard().await, Heard::Pong(b"now".to_vec()));
}

/// The server accepts, then sends none or some of the expected messages. The error is the create
/// timeout and names the missing status, and the client closes the connection.
#[actix::test]
async fn silence_after_the_upgrade_is_the_create_timeout() {
    for said in 0..3 {
        let server = Scripted::bind().await;
        let builder = Sandbox::create(server.url()).create_timeout(Duration::from_secs(1));
        let (error, ()) = join(failed(builder), async {
            let mut peer = server.peer().await;
            peer.configuration().await;
            if said > 0 {
                peer.status("SANDBOX_CREATING").await;
            }
            if said > 1 {
                // Now the sandbox exists. The caller gets no handle, so the client kills it.
                peer.identity().await;
                peer.expect(json!({"action": "kill_sandbox"})).await;
            }
            assert_closed(&mut peer).await;
        })
        .await;
        assert_eq!(error.kind(), ErrorKind::Timeout, "{error}");
        assert!(error.is_retryable());
        let text = error.to_string();
        assert!(
            text.contains("SANDBOX_RUNNING") && text.contains("1s"),
            "{text}"
        );
    }
}

/// Pings from the server don't extend the create timeout.
#[actix::test]
async fn a_server_that_only_pings_runs_into_the_create_timeout() {
    let server = Scripted::bind().await;
    let builder = Sandbox::create(server.url())
        .create_timeout(Duration::from_secs(1))
        .keepalive(Duration::from_millis(20), Duration::from_secs(20));
    let (error, ()) = join(failed(builder), async {
        let mut peer = server.peer().await;
        peer.configuration().await;
        while peer.try_send(Message::Ping("still here".into())).await {
            if !matches!(peer.any().await, Heard::Ping | Heard::Pong(_)) {
                break;
            }
        }
    })
    .await;
    assert_eq!(error.kind(), ErrorKind::Timeout, "{error}");
}

/// The close frame has a code, a code and a reason, or neither.
#[actix::test]
async fn an_early_close_is_a_lost_link_with_its_code_and_reason() {
    for (code, reason, parts) in [
        (Some(1011), "", &["code 1011"][..]),
        (Some(4000), "no capacity", &["code 4000", "no capacity"]),
        (Some(1000), "", &["code 1000"]),
        (None, "", &["the server closed the connection"]),
    ] {
        let server = Scripted::bind().await;
        let (error, heard) = join(failed(Sandbox::create(server.url())), async {
            let mut peer = server.peer().await;
            peer.configuration().await;
            peer.status("SANDBOX_CREATING").await;
            match code {
                Some(code) => peer.close(code, reason).await,
                None => {
                    assert!(peer.try_send(Message::Close(None)).await);
                    peer.rest().await
                }
            }
        })
        .await;
        assert_eq!(error.kind(), ErrorKind::LinkLost, "{error}");
        for part in parts {
            assert!(error.to_string().contains(part), "{part}: {error}");
        }
        // The client completes the close handshake with the same code.
        assert_eq!(heard, [Heard::Close(code)], "{error}");
    }
}

/// The server drops the TCP connection after the upgrade without a close frame: before or after it
/// has read the configuration.
#[actix::test]
async fn a_connection_that_just_ends_is_a_lost_link() {
    for read in [false, true] {
        let server = Scripted::bind().await;
        let (error, ()) = join(failed(Sandbox::create(server.url())), async {
            let mut peer = server.peer().await;
            if read {
                peer.configuration().await;
            }
        })
        .await;
        assert_eq!(error.kind(), ErrorKind::LinkLost, "{error}");
        assert!(
            error.to_string().contains("the connection broke: "),
            "{error}"
        );
        assert!(error.is_retryable());
    }
}

/// The close frame is malformed: half a code, a reason that is not UTF-8, an invalid code.
#[actix::test]
async fn a_broken_close_frame_ends_the_session_like_any_other() {
    for payload in [&b"\x03"[..], b"\x03\xe8\xff\xfe", b"\x00\x00", b"\xff\xff"] {
        let server = Scripted::bind().await;
        let (error, ()) = join(failed(Sandbox::create(server.url())), async {
            let mut peer = server.peer().await;
            peer.configuration().await;
            peer.raw(&crate::support::scripted::frame(0x88, payload))
                .await;
            peer.rest().await;
        })
        .await;
        assert!(
            matches!(error.kind(), ErrorKind::LinkLost | ErrorKind::Protocol),
            "{payload:?}: {error}"
        );
    }
}

/// When and where the server gives the reason of an error status.
#[derive(Clone, Copy, Debug)]
enum Reason {
    Next,
    InStatus,
    Both,
    AfterAPing,
    AfterAnUnknownEvent,
    Never,
    NeverAndClose,
    TooLate,
}

/// The server sends the reason in the next message, in the status itself, late, or never. `create`
/// fails once, and the client closes the connection.
#[actix::test]
async fn a_creation_error_carries_the_servers_reason() {
    for reason in [
        Reason::Next,
        Reason::InStatus,
        Reason::Both,
        Reason::AfterAPing,
        Reason::AfterAnUnknownEvent,
        Reason::Never,
        Reason::NeverAndClose,
        Reason::TooLate,
    ] {
        let server = Scripted::bind().await;
        let mut watched = Watched::start(Sandbox::create(server.url())).await;
        let script = async {
            let mut peer = server.peer().await;
            peer.configuration().await;
            peer.status("SANDBOX_CREATING").await;
            match reason {
                Reason::InStatus | Reason::Both => {
                    peer.json(json!({
                        "event": "status_update",
                        "status": "SANDBOX_CREATION_ERROR",
                        "message": "no image",
                    }))
                    .await;
                }
                _ => peer.status("SANDBOX_CREATION_ERROR").await,
            }
            match reason {
                Reason::AfterAPing => settled(&mut peer).await,
                Reason::AfterAnUnknownEvent => peer.json(json!({"event": "weather"})).await,
                Reason::TooLate => assert_eq!(peer.heard().await, Heard::Close(Some(1000))),
                _ => {}
            }
            match reason {
                Reason::InStatus | Reason::Never => {}
                Reason::NeverAndClose => {
                    peer.close(4000, "").await;
                    return;
                }
                _ => {
                    let error = json!({"event": "error", "message": "no image"});
                    peer.try_send(Message::text(error.to_string())).await;
                }
            }
            peer.rest().await;
        };
        let (opened, ()) = join(watched.open(), script).await;
        let error = opened.expect_err("no sandbox");
        assert_eq!(
            error.kind(),
            ErrorKind::CreationFailed,
            "{reason:?}: {error}"
        );
        assert!(
            error.to_string().contains("SANDBOX_CREATION_ERROR"),
            "{error}"
        );
        let given = match reason {
            Reason::Never | Reason::NeverAndClose | Reason::TooLate => None,
            _ => Some("no image"),
        };
        assert_eq!(error.server_reason(), given, "{reason:?}");
        assert!(
            error.to_string().contains(given.unwrap_or_default()),
            "{error}"
        );

        // `create` fails once. A second `Open` gets the same error.
        let events = watched.rest().await;
        let ends = events
            .iter()
            .filter(|event| matches!(event, SandboxEvent::Ended(_)));
        assert_eq!(ends.count(), 1, "{events:?}");
        let again = watched.open().await.expect_err("still none");
        assert_eq!(again.to_string(), error.to_string());
    }
}

/// Messages after the first error don't change the result.
#[actix::test]
async fn create_fails_once_on_the_first_error() {
    let server = Scripted::bind().await;
    let mut watched = Watched::start(Sandbox::create(server.url())).await;
    let (opened, _) = join(watched.open(), async {
        let mut peer = server.peer().await;
        peer.configuration().await;
        peer.status("SANDBOX_CREATION_ERROR").await;
        peer.error("the first").await;
        peer.status("SANDBOX_ERROR").await;
        peer.error("the second").await;
        peer.text("garbage").await;
        peer.identity().await;
        peer.status("SANDBOX_RUNNING").await;
        peer.close(4000, "the third").await
    })
    .await;
    let error = opened.expect_err("no sandbox");
    assert_eq!(error.server_reason(), Some("the first"), "{error}");
    let events = watched.rest().await;
    let Some(SandboxEvent::Ended(SandboxEnd::Failed { reason, .. })) = events.last() else {
        panic!("{events:?}");
    };
    assert_eq!(reason.as_deref(), Some("the first"));
}

/// Every status that ends the session before the sandbox runs fails `create` at once.
#[actix::test]
async fn every_fatal_status_fails_create_with_its_own_kind() {
    for (status, kind) in [
        ("SANDBOX_CREATION_ERROR", ErrorKind::CreationFailed),
        ("SANDBOX_NOT_FOUND", ErrorKind::NotFound),
        ("SANDBOX_IN_USE", ErrorKind::InUse),
        (
            "SANDBOX_PERMISSION_DENIAL_ERROR",
            ErrorKind::PermissionDenied,
        ),
        ("SANDBOX_RESTORE_ERROR", ErrorKind::RestoreFailed),
        ("SANDBOX_CHECKPOINT_ERROR", ErrorKind::SandboxEnded),
        ("SANDBOX_LOCK_RENEWAL_ERROR", ErrorKind::SandboxEnded),
        ("SANDBOX_ERROR", ErrorKind::SandboxEnded),
        ("SANDBOX_DELETED", ErrorKind::SandboxEnded),
        ("SANDBOX_KILLED", ErrorKind::SandboxEnded),
        ("SANDBOX_CHECKPOINTED", ErrorKind::SandboxEnded),
    ] {
        let server = Scripted::bind().await;
        let (error, ()) = join(failed(Sandbox::create(server.url())), async {
            let mut peer = server.peer().await;
            peer.configuration().await;
            peer.status(status).await;
            let error = json!({"event": "error", "message": "because"});
            peer.try_send(Message::text(error.to_string())).await;
            peer.rest().await;
        })
        .await;
        assert_eq!(error.kind(), kind, "{status}: {error}");
    }
}

#[actix::test]
async fn create_resolves_on_running_and_not_before() {
    let server = Scripted::bind().await;
    let mut create = Sandbox::create(server.url()).into_future();
    let mut peer = match select(&mut create, pin!(server.peer())).await {
        Either::Left((result, _)) => panic!("resolved before the upgrade: {result:?}"),
        Either::Right((peer, _)) => peer,
    };
    peer.configuration().await;
    peer.status("SANDBOX_CREATING").await;
    peer.identity().await;
    settled(&mut peer).await;
    assert!(
        poll_immediate(&mut create).await.is_none(),
        "resolved before RUNNING"
    );
    peer.status("SANDBOX_RUNNING").await;
    let sandbox = within("the sandbox", create).await.expect("a sandbox");
    assert_eq!(sandbox.sandbox_id().as_str(), ID);
}

/// Runs the start of a session, then drops the future of `create`.
async fn dropped_after(server: &Scripted, identity: bool, builder: SandboxBuilder) -> Peer {
    let create = builder.into_future();
    let script = async {
        let mut peer = server.peer().await;
        peer.configuration().await;
        peer.status("SANDBOX_CREATING").await;
        if identity {
            peer.identity().await;
        }
        settled(&mut peer).await;
        peer
    };
    match select(create, pin!(script)).await {
        Either::Left((result, _)) => panic!("resolved without RUNNING: {result:?}"),
        Either::Right((peer, _create)) => peer,
    }
}

/// Dropping the future of `create` cancels it. A sandbox that was already created is killed.
#[actix::test]
async fn a_sandbox_whose_create_was_dropped_is_killed_once_it_runs() {
    for identity in [false, true] {
        let server = Scripted::bind().await;
        let mut peer = dropped_after(&server, identity, Sandbox::create(server.url())).await;
        if !identity {
            peer.identity().await;
        }
        peer.status("SANDBOX_RUNNING").await;
        peer.expect(json!({"action": "kill_sandbox"})).await;
        // The client keeps the connection open until the server confirms the kill.
        settled(&mut peer).await;
        for status in [
            "SANDBOX_KILLING",
            "SANDBOX_DELETING",
            "SANDBOX_DELETED",
            "SANDBOX_KILLED",
        ] {
            peer.status(status).await;
        }
        assert_closed(&mut peer).await;
    }
}

/// The drop races with the server's `SANDBOX_RUNNING`. Each round drops the future at another
/// point.
#[actix::test]
async fn a_create_dropped_in_the_moment_of_running_leaks_no_sandbox() {
    for turns in 0..40 {
        let server = Scripted::bind().await;
        let mut create = Some(Sandbox::create(server.url()).into_future());
        let mut peer = match select(create.as_mut().unwrap(), pin!(server.peer())).await {
            Either::Left((result, _)) => panic!("resolved before the upgrade: {result:?}"),
            Either::Right((peer, _)) => peer,
        };
        peer.run().await;
        // The actors run during these yields. The future itself is not polled.
        for _ in 0..turns {
            tokio::task::yield_now().await;
        }
        create = None;
        peer.expect(json!({"action": "kill_sandbox"})).await;
        peer.status("SANDBOX_KILLED").await;
        assert_closed(&mut peer).await;
        drop(create);
    }
}

/// The future runs on a tokio runtime, the actors on an arbiter.
#[test]
fn a_create_dropped_on_another_runtime_leaks_no_sandbox() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let server = Scripted::bind().await;
        let mut peer = dropped_after(&server, true, Sandbox::create(server.url())).await;
        peer.status("SANDBOX_RUNNING").await;
        peer.expect(json!({"action": "kill_sandbox"})).await;
        peer.status("SANDBOX_KILLED").await;
        assert_closed(&mut peer).await;
    });
}

/// After a drop, the client waits at most the create timeout for the sandbox, and at most the kill
/// timeout for the confirmation of the kill.
#[actix::test]
async fn a_dropped_create_does_not_stay_forever() {
    let short = Duration::from_secs(1);
    let server = Scripted::bind().await;
    let builder = Sandbox::create(server.url()).create_timeout(short);
    let mut peer = dropped_after(&server, true, builder).await;
    peer.expect(json!({"action": "kill_sandbox"})).await;
    assert_closed(&mut peer).await;

    let builder = Sandbox::create(server.url()).kill_timeout(short);
    let mut peer = dropped_after(&server, true, builder).await;
    peer.status("SANDBOX_RUNNING").await;
    peer.expect(json!({"action": "kill_sandbox"})).await;
    assert_closed(&mut peer).await;
}

/// If the creation fails after the drop, the client closes the connection.
#[actix::test]
async fn a_dropped_create_that_fails_after_all_closes() {
    let server = Scripted::bind().await;
    let mut peer = dropped_after(&server, false, Sandbox::create(server.url())).await;
    peer.status("SANDBOX_CREATION_ERROR").await;
    peer.error("no image").await;
    assert_closed(&mut peer).await;
}

/// Of several concurrent creates, each succeeds or fails on its own.
#[actix::test]
async fn creates_that_fail_do_not_disturb_one_that_succeeds() {
    let server = Scripted::bind().await;
    let script = async {
        let mut peers = Vec::new();
        for index in 0..8 {
            let mut peer = server.peer().await;
            peer.configuration().await;
            if index % 2 == 0 {
                peer.text("garbage").await;
            } else {
                peer.identity().await;
                peer.status("SANDBOX_RUNNING").await;
            }
            peers.push(peer);
        }
        peers
    };
    let creates =
        futures::future::join_all((0..8).map(|_| Sandbox::create(server.url()).into_future()));
    let (results, _peers) = within("all of them", join(creates, script)).await;
    let (good, bad): (Vec<_>, Vec<_>) = results.into_iter().partition(Result::is_ok);
    assert_eq!((good.len(), bad.len()), (4, 4));
    for error in bad.into_iter().filter_map(Result::err) {
        assert_eq!(error.kind(), ErrorKind::Protocol, "{error}");
        assert_eq!(error.effect(), Effect::Unknown);
    }
}

/// A failure is reported when it happens, not when a timeout expires.
#[actix::test]
async fn a_failure_is_reported_at_once() {
    let server = Scripted::bind().await;
    // The create timeout is longer than the test waits.
    let create = Sandbox::create(server.url()).create_timeout(10 * PATIENCE);
    let (error, _) = join(failed(create), async {
        let mut peer = server.peer().await;
        peer.configuration().await;
        peer.status("SANDBOX_NOT_FOUND").await;
        peer.rest().await
    })
    .await;
    assert_eq!(error.kind(), ErrorKind::NotFound);
}
