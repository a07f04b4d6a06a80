//! Bearer tokens from a token source. The client requests one for each dial, never shows it, and
//! reports failures of the source.

use std::{
    future::IntoFuture,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use crate::support::scripted::{Scripted, Watched, shown, within};
use actix_sandbox::{
    BearerToken, Effect, Error, ErrorKind, ReconnectPolicy, Sandbox, SandboxBuilder, SandboxEvent,
    TokenError,
};
use futures::future::join;

const SECRET: &str = "bearer-5e1f0c7a9b";

fn soon() -> ReconnectPolicy {
    ReconnectPolicy {
        initial: Duration::from_millis(2),
        max: Duration::from_millis(10),
        ..ReconnectPolicy::default()
    }
}

async fn refused(builder: SandboxBuilder) -> Error {
    let error = within("the refusal", builder.into_future()).await;
    let error = error.expect_err("refused");
    assert!(!shown(&error).contains(SECRET), "{error}");
    error
}

#[actix::test]
async fn every_dial_carries_a_token_that_was_asked_for_then() {
    let server = Scripted::bind().await;
    let asked = Arc::new(AtomicUsize::new(0));
    let source = {
        let asked = asked.clone();
        move || {
            let number = asked.fetch_add(1, Ordering::SeqCst) + 1;
            async move { Ok(BearerToken::new(format!("{SECRET}-{number}"))) }
        }
    };
    let builder = Sandbox::create(server.url())
        .bearer_token_source(source)
        .enable_auto_reconnect(true)
        .reconnect_policy(soon());
    assert_eq!(asked.load(Ordering::SeqCst), 0);
    let (sandbox, mut peer) = join(builder.into_future(), server.running()).await;
    let _sandbox = sandbox.expect("a sandbox");
    for number in 1..=4 {
        let expected = format!("Bearer {SECRET}-{number}");
        assert_eq!(peer.header("authorization"), Some(&*expected));
        assert_eq!(asked.load(Ordering::SeqCst), number);
        drop(peer);
        peer = server.peer().await;
        peer.status("SANDBOX_RUNNING").await;
    }
}

#[actix::test]
async fn a_failing_token_source_is_reported_and_nothing_is_dialled() {
    let server = Scripted::bind().await;
    type Source = fn() -> futures::future::BoxFuture<'static, Result<BearerToken, TokenError>>;
    let sources: [(&str, Source); 4] = [
        ("the vault is sealed", || {
            Box::pin(async { Err("the vault is sealed".into()) })
        }),
        ("the source took longer than", || {
            Box::pin(std::future::pending())
        }),
        ("the source panicked", || {
            Box::pin(async { panic!("a bug in the source") })
        }),
        ("such as a line break", || {
            Box::pin(async { Ok(BearerToken::new(format!("{SECRET}\r\nX-Injected: yes"))) })
        }),
    ];
    for (reason, source) in sources {
        let builder = Sandbox::create(server.url())
            .connect_timeout(Duration::from_millis(100))
            .bearer_token_source(source);
        let error = refused(builder).await;
        assert_eq!(error.kind(), ErrorKind::NoToken, "{error}");
        assert_eq!(error.effect(), Effect::NotApplied);
        assert!(error.to_string().contains(reason), "{error}");
    }
    server.assert_not_dialled().await;
}

/// While the source fails, the client retries under the reconnect policy.
#[actix::test]
async fn a_source_that_fails_for_a_while_is_asked_again() {
    let server = Scripted::bind().await;
    let asked = AtomicUsize::new(0);
    let source = move || {
        let number = asked.fetch_add(1, Ordering::SeqCst);
        async move {
            match number {
                1..4 => Err(TokenError::from("not now")),
                _ => Ok(BearerToken::new(SECRET)),
            }
        }
    };
    let builder = Sandbox::create(server.url())
        .bearer_token_source(source)
        .enable_auto_reconnect(true)
        .reconnect_policy(soon());
    let mut watched = Watched::start(builder).await;
    let (opened, peer) = join(watched.open(), server.running()).await;
    opened.expect("a sandbox");
    drop(peer);
    let mut peer = server.peer().await;
    peer.status("SANDBOX_RUNNING").await;
    let mut causes = Vec::new();
    loop {
        match watched.event().await {
            SandboxEvent::Reconnecting { cause, .. } => causes.push(cause.to_string()),
            SandboxEvent::Reconnected => break,
            _ => {}
        }
    }
    assert_eq!(causes.len(), 4, "{causes:?}");
    assert!(
        causes[1..].iter().all(|cause| cause.contains("not now")),
        "{causes:?}"
    );
}

#[actix::test]
async fn contradictory_options_are_refused_before_dialling() {
    let server = Scripted::bind().await;
    let builder = Sandbox::create(server.url())
        .header("Authorization", "Bearer own")
        .bearer_token_source(|| async { Ok(BearerToken::new(SECRET)) });
    let error = refused(builder).await;
    assert_eq!(error.kind(), ErrorKind::InvalidOption);
    assert!(
        error.to_string().contains("`bearer_token_source`"),
        "{error}"
    );
    server.assert_not_dialled().await;
}

#[actix::test]
async fn a_refused_token_names_the_option_and_the_role() {
    for status in ["401 Unauthorized", "403 Forbidden"] {
        let server = Scripted::bind().await;
        let builder = Sandbox::create(server.url())
            .bearer_token_source(|| async { Ok(BearerToken::new(SECRET)) });
        let answer = format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n");
        let (error, _stream) = join(refused(builder), server.answer(answer.as_bytes())).await;
        assert_eq!(error.kind(), ErrorKind::UpgradeRefused);
        assert_eq!(error.http_status(), status[..3].parse().ok());
        let text = error.to_string();
        for part in [
            "use_google_auth",
            "bearer_token_source",
            "roles/run.invoker",
        ] {
            assert!(text.contains(part), "{text}");
        }
    }
}

#[test]
fn a_token_shows_nothing() {
    assert!(!format!("{:?}", BearerToken::new(SECRET)).contains("5e1f"));
    let builder = Sandbox::create("ws://localhost")
        .bearer_token_source(|| async { Ok(BearerToken::new(SECRET)) });
    assert!(!format!("{builder:?}").contains("5e1f"));
}
