//! TLS: failures of the handshake, and whole sessions.

use actix_sandbox::{Error, ErrorKind, Language, Sandbox};
use serde_json::json;
use tokio::{io::AsyncWriteExt, net::TcpListener};

use crate::support::scripted::{Heard, Peer, Scripted, Tls, shown, within};

fn check(error: &Error, kind: ErrorKind, server: &Scripted, cause: &str) {
    let text = error.to_string();
    assert_eq!(error.kind(), kind, "{text}");
    assert!(text.contains(&server.address()), "{text}");
    assert!(text.contains(cause), "no {cause:?} in: {text}");
}

/// The certificate is self-signed.
#[actix::test]
async fn an_untrusted_certificate_is_a_tls_error_that_says_so() {
    let (server, tls) = (Scripted::bind().await, Tls::self_signed());
    let (error, accepted) = futures::join!(
        within(
            "the end of create",
            Sandbox::create(server.tls_url()).into_future()
        ),
        async { tls.accept(server.tcp().await).await }
    );
    let error = error.expect_err("an untrusted certificate");
    check(&error, ErrorKind::Tls, &server, "UnknownIssuer");
    assert!(!error.is_retryable(), "{error}");
    assert!(accepted.is_err(), "the handshake succeeded for the server");
}

#[actix::test]
async fn a_certificate_for_another_host_is_a_tls_error() {
    let tls = Tls::self_signed();
    // Only Linux accepts connections on all of 127.0.0.0/8.
    let Ok(listener) = TcpListener::bind("127.0.0.2:0").await else {
        return;
    };
    let address = listener.local_addr().unwrap();
    let builder = Sandbox::create(format!("wss://{address}")).tls_config(tls.trusting_client());
    let (error, ()) = futures::join!(within("the end of create", builder.into_future()), async {
        let (stream, _) = within("a connection", listener.accept()).await.unwrap();
        // The client aborts the handshake.
        let _ = tls.accept(stream).await;
    });
    let error = error.expect_err("a certificate for 127.0.0.1");
    assert_eq!(error.kind(), ErrorKind::Tls, "{error}");
    assert!(error.to_string().contains("127.0.0.2"), "{error}");
}

/// The port speaks plain HTTP.
#[actix::test]
async fn tls_to_a_plain_port_is_a_tls_error() {
    let server = Scripted::bind().await;
    let (error, _stream) = futures::join!(
        within(
            "the end of create",
            Sandbox::create(server.tls_url()).into_future()
        ),
        async {
            let mut stream = server.tcp().await;
            stream
                .write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")
                .await
                .unwrap();
            stream
        }
    );
    check(
        &error.unwrap_err(),
        ErrorKind::Tls,
        &server,
        "TLS handshake",
    );
}

/// The peer may be restarting, so the error is retryable.
#[actix::test]
async fn a_peer_that_closes_in_the_tls_handshake_is_a_lost_link() {
    let server = Scripted::bind().await;
    let (error, ()) = futures::join!(
        within(
            "the end of create",
            Sandbox::create(server.tls_url()).into_future()
        ),
        async { drop(server.tcp().await) }
    );
    let error = error.unwrap_err();
    check(
        &error,
        ErrorKind::LinkLost,
        &server,
        "closed the connection",
    );
    assert!(error.is_retryable(), "{error}");
}

/// The answer of a TLS port to a plain client is a TLS alert, which is not HTTP.
#[actix::test]
async fn plain_to_a_tls_port_is_no_websocket_server() {
    let (server, tls) = (Scripted::bind().await, Tls::self_signed());
    let (error, _) = futures::join!(
        within(
            "the end of create",
            Sandbox::create(server.url()).into_future()
        ),
        async { tls.accept(server.tcp().await).await.is_err() }
    );
    let error = error.unwrap_err();
    assert!(
        matches!(error.kind(), ErrorKind::NotWebSocket | ErrorKind::LinkLost),
        "{error:?}"
    );
    assert!(error.to_string().contains(&server.address()), "{error}");
}

/// `.tls_config` makes the client trust the certificate.
#[actix::test]
async fn wss_works_end_to_end_with_a_trusted_certificate() {
    let (server, tls) = (Scripted::bind().await, Tls::self_signed());
    for url in [
        server.tls_url(),
        server.tls_url().replace("wss://", "https://"),
    ] {
        let builder = Sandbox::create(url).tls_config(tls.trusting_client());
        let client = async {
            let sandbox = builder.await.expect("a sandbox");
            let output = sandbox
                .run(Language::Bash, "echo hi")
                .await
                .expect("an output");
            assert_eq!(output.stdout, "hi\n");
            sandbox.kill().await.expect("a kill");
        };
        let script = async {
            let stream = tls.accept(server.tcp().await).await.expect("a handshake");
            let mut peer = Peer::upgrade(stream).await;
            peer.run().await;
            peer.expect(json!({"language": "bash", "code": "echo hi"}))
                .await;
            peer.status("SANDBOX_EXECUTION_RUNNING").await;
            peer.stdout("hi\n").await;
            peer.status("SANDBOX_EXECUTION_DONE").await;
            peer.expect(json!({"action": "kill_sandbox"})).await;
            peer.status("SANDBOX_KILLED").await;
            assert_eq!(peer.heard().await, Heard::Close(Some(1000)));
        };
        within("a session over TLS", futures::future::join(client, script)).await;
    }
}

#[actix::test]
async fn an_ipv6_address_works_over_tls() {
    let (server, tls) = (Scripted::bind_to("[::1]:0").await, Tls::self_signed());
    for url in [
        server.tls_url(),
        server.tls_url().replace("wss://", "https://"),
    ] {
        let create = Sandbox::create(url).tls_config(tls.trusting_client());
        let script = async {
            let stream = tls.accept(server.tcp().await).await.expect("a handshake");
            let mut peer = Peer::upgrade(stream).await;
            assert_eq!(peer.header("host"), Some(&*server.address()));
            peer.run().await;
            peer
        };
        let session = futures::future::join(create.into_future(), script);
        let (sandbox, _peer) = within("a session over TLS", session).await;
        sandbox.expect("a sandbox");
    }
}

#[actix::test]
async fn a_certificate_without_the_ipv6_address_is_a_tls_error() {
    let (server, tls) = (Scripted::bind_to("[::1]:0").await, Tls::self_signed());
    let (error, _) = futures::join!(
        within(
            "the end of create",
            Sandbox::create(server.tls_url()).into_future()
        ),
        async { tls.accept(server.tcp().await).await.is_err() }
    );
    check(
        &error.unwrap_err(),
        ErrorKind::Tls,
        &server,
        "UnknownIssuer",
    );
}

/// Invalid frames over TLS are reported like invalid frames over plain TCP.
#[actix::test]
async fn garbage_inside_tls_is_a_protocol_error() {
    let (server, tls) = (Scripted::bind().await, Tls::self_signed());
    let builder = Sandbox::create(server.tls_url()).tls_config(tls.trusting_client());
    let (error, _peer) =
        futures::join!(within("the end of create", builder.into_future()), async {
            let stream = tls.accept(server.tcp().await).await.expect("a handshake");
            let mut peer = Peer::upgrade(stream).await;
            peer.configuration().await;
            peer.raw(b"\xff\xff\xff\xff").await;
            peer
        });
    let error = error.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Protocol, "{}", shown(&error));
}
