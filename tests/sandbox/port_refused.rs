//! A port refuses connections for a minute of virtual time. The dials follow the reconnect policy,
//! and dropping the last handle ends them.

use std::time::Duration;

use crate::support::{events, proxy::Proxy, starting::Starting};
use actix_sandbox::{ErrorKind, LocalServer, ReconnectPolicy, Sandbox, SandboxEvent};
use tokio::time::{Instant, advance, pause};

/// A policy with the delays 1, 2, 4, 8, 10, 10, … seconds.
fn policy() -> ReconnectPolicy {
    ReconnectPolicy {
        initial: Duration::from_secs(1),
        max: Duration::from_secs(10),
        factor: 2.0,
        jitter: 0.0,
        max_attempts: None,
        max_elapsed: Some(Duration::from_secs(60)),
        stable_after: Duration::from_secs(10),
    }
}

/// Creates a sandbox, then makes its server unreachable and pauses the clock.
async fn unreachable() -> (
    LocalServer,
    Proxy,
    Sandbox,
    tokio::sync::mpsc::Receiver<SandboxEvent>,
) {
    let server = LocalServer::start().await.expect("a local server");
    let mut proxy = Proxy::plain(&server).await;
    let sandbox = Sandbox::create(proxy.url())
        .enable_auto_reconnect(true)
        .reconnect_policy(policy())
        .await
        .expect("a sandbox");
    let events = events(&sandbox).await;
    proxy.refuse().await;
    pause();
    proxy.cut();
    (server, proxy, sandbox, events)
}

#[actix::test]
async fn the_number_and_spacing_of_dials_follow_the_policy() {
    let (_server, _proxy, sandbox, mut events) = unreachable().await;
    let mut dials = Vec::new();
    let began = loop {
        if let SandboxEvent::Reconnecting {
            attempt: 1, delay, ..
        } = events.recv().await.unwrap()
        {
            assert_eq!(delay, Duration::from_secs(1));
            break Instant::now();
        }
    };
    // The event of each later attempt arrives when the previous dial was refused.
    let attempts = loop {
        match events.recv().await.unwrap() {
            SandboxEvent::Reconnecting { cause, .. } => {
                assert!(cause.to_string().contains("refused"), "{cause}");
                dials.push(began.elapsed().as_secs_f64().round());
            }
            SandboxEvent::GaveUp { attempts, cause } => {
                assert!(cause.to_string().contains("refused"), "{cause}");
                dials.push(began.elapsed().as_secs_f64().round());
                break attempts;
            }
            _ => {}
        }
    };
    assert_eq!(dials, [1.0, 3.0, 7.0, 15.0, 25.0, 35.0, 45.0, 55.0]);
    assert_eq!(attempts as usize, dials.len());
    let error = sandbox.kill().await.expect_err("given up");
    assert!(error.to_string().contains("8 attempts"), "{error}");
}

#[actix::test]
async fn dropping_the_last_handle_in_the_middle_ends_everything() {
    let (_server, mut proxy, sandbox, mut events) = unreachable().await;
    loop {
        if let SandboxEvent::Reconnecting { attempt: 4, .. } = events.recv().await.unwrap() {
            break;
        }
    }
    let actor = sandbox.addr().downgrade();
    drop(sandbox);
    let mut last = None;
    while let Some(event) = events.recv().await {
        assert!(
            !matches!(event, SandboxEvent::Reconnecting { .. }),
            "the client dials again"
        );
        last = Some(event);
    }
    assert!(matches!(last, Some(SandboxEvent::Ended(_))), "{last:?}");
    assert!(actor.upgrade().is_none(), "the actor is gone");
    // The port accepts again, and for two minutes the client doesn't dial.
    let dials = proxy.accepted();
    proxy.accept().await;
    for _ in 0..120 {
        advance(Duration::from_secs(1)).await;
    }
    assert_eq!(proxy.accepted(), dials);
}

/// A child process between fork and exec holds copies of all descriptors.
#[actix::test]
async fn a_proxy_refuses_and_accepts_while_a_process_is_being_started() {
    let server = LocalServer::start().await.expect("a local server");
    let mut proxy = Proxy::plain(&server).await;
    let starting = Starting::begin();
    proxy.refuse().await;
    let refused = Sandbox::create(proxy.url()).await.map(drop);
    proxy.accept().await;
    drop(starting);
    assert_eq!(refused.expect_err("refused").kind(), ErrorKind::Connect);
    let sandbox = Sandbox::create(proxy.url()).await.expect("a sandbox");
    sandbox.kill().await.expect("killed");
}
