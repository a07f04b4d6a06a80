//! `Sandbox::attach` against the local server, and against a scripted server for messages that the
//! local server doesn't send.

use std::future::IntoFuture;

use crate::support::scripted::{
    Heard, ID, PATIENCE, Scripted, TOKEN, assert_no_secret, shown, within,
};
use actix::Actor;
use actix_sandbox::{
    Effect, Error, ErrorKind, Language, LocalServer, ProtocolVersion, Sandbox, SandboxState, actor,
};
use futures::future::join;

/// Attaches as soon as the server notices that the previous client is gone.
async fn attach_again(server: &LocalServer, id: &str, token: &str) -> Sandbox {
    attach_again_as(ProtocolVersion::V2, server, id, token).await
}

async fn attach_again_as(
    version: ProtocolVersion,
    server: &LocalServer,
    id: &str,
    token: &str,
) -> Sandbox {
    let attach = async {
        loop {
            let attach = Sandbox::attach(server.url(), id, token).max_protocol_version(version);
            match attach.await {
                Ok(sandbox) => return sandbox,
                Err(error) => assert_eq!(error.kind(), ErrorKind::InUse, "{error}"),
            }
        }
    };
    within("the attach", attach).await
}

#[actix::test]
async fn another_client_goes_on_where_the_first_stopped() {
    let server = LocalServer::start().await.expect("a local server");
    let first = Sandbox::create(server.url()).await.expect("a sandbox");
    let made = first.run(Language::Bash, "echo kept > file").await;
    made.expect("ran");
    let (id, token) = (first.sandbox_id().clone(), first.sandbox_token().clone());
    drop(first);

    let second = attach_again(&server, id.as_str(), token.expose_secret()).await;
    assert_eq!(*second.sandbox_id(), id);
    assert_eq!(*second.sandbox_token(), token);
    assert_eq!(second.state(), SandboxState::Running);
    let output = second.run(Language::Bash, "cat file").await.expect("ran");
    assert_eq!(output.stdout, "kept\n");
    second.kill().await.expect("killed");
    assert_eq!(server.sandbox_count(), 0);

    let gone = Sandbox::attach(server.url(), id, token).await;
    assert_eq!(gone.expect_err("gone").kind(), ErrorKind::NotFound);
}

/// Each of `NOT_FOUND`, `IN_USE`, `RESTORE_ERROR` and `PERMISSION_DENIAL_ERROR` has its own kind of
/// error.
#[actix::test]
async fn every_refusal_of_an_attach_is_an_error_of_its_own() {
    let server = LocalServer::start().await.expect("a local server");
    let holder = Sandbox::create(server.url()).await.expect("a sandbox");
    let (id, token) = (holder.sandbox_id(), holder.sandbox_token());

    let attach = |id: &str, token: &str| {
        let attach = Sandbox::attach(server.url(), id, token);
        async { attach.await.expect_err("refused") }
    };
    let unknown = attach("sandbox-0", "a token of nothing").await;
    assert_eq!(unknown.kind(), ErrorKind::NotFound);
    let used = attach(id.as_str(), token.expose_secret()).await;
    assert_eq!(used.kind(), ErrorKind::InUse);
    assert!(used.is_retryable(), "the other client may go");
    let denied = attach(id.as_str(), "wrong-token-wrong").await;
    assert_eq!(denied.kind(), ErrorKind::PermissionDenied);
    assert_eq!(denied.server_reason(), Some("Invalid sandbox token."));
    assert!(!denied.is_retryable());
    for error in [unknown, used, denied] {
        assert_eq!(error.effect(), Effect::NotApplied, "{error}");
        let text = shown(&error);
        assert!(!text.contains(token.expose_secret()), "{text}");
        assert!(!text.contains("wrong-token-wrong"), "{text}");
    }
    let output = holder.run(Language::Bash, "echo undisturbed").await;
    assert_eq!(output.expect("ran").stdout, "undisturbed\n");

    // The local server has no checkpoint to restore here, so a scripted server reports this
    // failure.
    let server = Scripted::bind().await;
    let script = async {
        let mut peer = server.peer().await;
        peer.status("SANDBOX_RESTORING").await;
        peer.status("SANDBOX_RESTORE_ERROR").await;
        peer.error("The checkpoint is damaged.").await;
        peer.close(4000, "").await
    };
    let attach = Sandbox::attach(server.url(), ID, TOKEN).into_future();
    let (refused, _) = join(attach, script).await;
    let refused = refused.expect_err("refused");
    assert_eq!(refused.kind(), ErrorKind::RestoreFailed);
    assert_eq!(refused.server_reason(), Some("The checkpoint is damaged."));
}

#[actix::test]
async fn an_empty_id_or_token_is_refused_before_dialling() {
    let server = Scripted::bind().await;
    for (id, token, option) in [("", TOKEN, "`id`"), (ID, "", "`token`")] {
        let error = Sandbox::attach(server.url(), id, token).await;
        let error = error.expect_err("refused");
        assert_eq!(error.kind(), ErrorKind::InvalidOption);
        let text = error.to_string();
        assert!(text.contains(option) && text.contains("empty"), "{text}");
    }
    server.assert_not_dialled().await;
}

/// The client escapes the id and the token in the URL.
#[actix::test]
async fn ids_and_tokens_arrive_unchanged_whatever_is_in_them() {
    let server = Scripted::bind().await;
    let (id, token) = ("../a b?c#d%2F&é=\u{1F600}", "t/&=+ %3D?#\u{e9}-long-enough");
    let (attached, path) = join(
        Sandbox::attach(server.url(), id, token).into_future(),
        async {
            let mut peer = server.peer().await;
            peer.status("SANDBOX_RUNNING").await;
            let path = peer.path.clone();
            (peer, path)
        },
    )
    .await;
    let (_peer, path) = path;
    let sandbox = attached.expect("attached");
    assert_eq!(sandbox.sandbox_id().as_str(), id);
    let (path, query) = path.split_once('?').expect("a query");
    let decode = |text: &str| {
        let decoded = percent_encoding::percent_decode_str(text).decode_utf8();
        decoded.expect("UTF-8").into_owned()
    };
    let raw = path.strip_prefix("/attach/").expect("the path");
    assert!(!raw.contains('/'), "one segment: {raw}");
    assert_eq!(decode(raw), id);
    let value = query.strip_prefix("sandbox_token=").expect("the token");
    assert!(!value.contains(['&', '=', '+', '#']), "{value}");
    assert_eq!(decode(value), token);

    // The local server decodes them: its only complaint is that it has no such sandbox.
    let server = LocalServer::start().await.expect("a local server");
    let error = Sandbox::attach(server.url(), id, token).await;
    assert_eq!(error.expect_err("unknown").kind(), ErrorKind::NotFound);
}

/// An attach fails on an error status, a socket error, an early close or a timeout.
#[actix::test]
async fn an_attach_that_gets_no_answer_fails() {
    type Script = (&'static str, ErrorKind);
    let scripts: [Script; 4] = [
        ("fatal", ErrorKind::SandboxEnded),
        ("close", ErrorKind::LinkLost),
        ("cut", ErrorKind::LinkLost),
        ("silent", ErrorKind::Timeout),
    ];
    for (script, kind) in scripts {
        let server = Scripted::bind().await;
        let mut attach = Sandbox::attach(server.url(), ID, TOKEN);
        if script == "silent" {
            attach = attach.create_timeout(std::time::Duration::from_secs(2));
        } else {
            attach = attach.create_timeout(10 * PATIENCE);
        }
        let serve = async {
            let mut peer = server.peer().await;
            match script {
                "fatal" => {
                    peer.status("SANDBOX_ERROR").await;
                    peer.error("out of memory").await;
                    peer.rest().await
                }
                "close" => peer.close(1001, "going away").await,
                "cut" => {
                    drop(peer);
                    Vec::new()
                }
                _ => peer.rest().await,
            }
        };
        let (failed, heard) = within(script, join(attach.into_future(), serve)).await;
        let error: Error = failed.expect_err(script);
        assert_eq!(error.kind(), kind, "{script}: {error}");
        assert_no_secret(&shown(&error));
        // The client sent no request.
        let asked = |heard: &Heard| matches!(heard, Heard::Json(_));
        assert!(!heard.iter().any(asked), "{script}: {heard:?}");
    }
}

/// A cancelled create kills its sandbox. A cancelled attach doesn't, because the sandbox existed
/// before and may have another user.
#[actix::test]
async fn a_cancelled_attach_kills_nothing() {
    let server = Scripted::bind().await;
    let mut attach = Sandbox::attach(server.url(), ID, TOKEN).into_future();
    let mut peer = tokio::select! {
        _ = &mut attach => panic!("attached before the sandbox runs"),
        peer = server.peer() => peer,
    };
    drop(attach);
    let heard = peer.rest().await;
    let asked = |heard: &Heard| matches!(heard, Heard::Json(_));
    assert!(!heard.iter().any(asked), "{heard:?}");
}

#[actix::test]
async fn programs_made_of_actors_attach_too() {
    let server = LocalServer::start().await.expect("a local server");
    // Under v1, a sandbox runs one process at a time.
    let first = Sandbox::create(server.url())
        .max_protocol_version(ProtocolVersion::V1)
        .await
        .expect("a sandbox");
    let (id, token) = (first.sandbox_id().clone(), first.sandbox_token().clone());
    let started = first
        .exec(Language::Bash, "read line; echo got $line")
        .await;
    let process = started.expect("started");
    // The second client doesn't own the first client's process, but its exec is refused while that
    // process runs.
    drop((process, first));
    let (id, token) = (id.as_str(), token.expose_secret());
    let sandbox = attach_again_as(ProtocolVersion::V1, &server, id, token).await;
    let error = sandbox.exec(Language::Bash, "echo").await;
    assert_eq!(error.expect_err("busy").kind(), ErrorKind::ExecFailed);
    sandbox.kill().await.expect("killed");

    let second = Sandbox::create(server.url()).await.expect("a sandbox");
    let (id, token) = (second.sandbox_id().clone(), second.sandbox_token().clone());
    drop(second);
    let opened = within("the answer to Open", async {
        loop {
            let builder = Sandbox::attach(server.url(), id.clone(), token.clone());
            let addr = builder.into_actor().expect("good options").start();
            match addr.send(actor::Open).await.expect("an actor") {
                Ok(opened) => break (addr, opened),
                Err(error) => assert_eq!(error.kind(), ErrorKind::InUse, "{error}"),
            }
        }
    })
    .await;
    let (addr, opened) = opened;
    assert_eq!(opened.sandbox_id, id);
    let started = addr
        .send(actor::Exec::new(Language::Bash, "echo by message"))
        .await
        .expect("an actor")
        .expect("started");
    let stdout = started.output.stdout().read_all();
    assert_eq!(
        within("its output", stdout).await.expect("read"),
        "by message\n"
    );
}
