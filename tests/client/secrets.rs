//! No error, `Debug` output, event or log contains the token or a header.

use std::{
    io,
    sync::{Arc, Mutex, PoisonError},
};

use actix_sandbox::{Language, Sandbox, SandboxBuilder};
use futures::future::join;
use serde_json::json;
use tokio_tungstenite::tungstenite::Message;
use tracing_subscriber::{
    filter::{LevelFilter, Targets},
    layer::SubscriberExt as _,
};

use crate::support::scripted::{Scripted, TOKEN, Watched, assert_no_secret, frame, shown, within};

const HEADER: &str = "Bearer 5e1f0c7a9b-header";

fn builder(server: &Scripted) -> SandboxBuilder {
    Sandbox::create(server.url()).header("Authorization", HEADER)
}

/// Returns invalid messages that contain the token, as a server may send them before the sandbox
/// runs.
fn sayings() -> Vec<Message> {
    let identity = json!({"event": "sandbox_id", "sandbox_id": "a", "sandbox_token": TOKEN});
    let whole = identity.to_string();
    let mut sayings = vec![
        Message::text(&whole[..whole.len() - 1]),
        Message::text(format!("[{whole}]")),
        Message::text(format!("{whole}!")),
        Message::text(json!({"event": "sandbox_id", "sandbox_token": TOKEN}).to_string()),
        Message::text(json!({"event": "status_update", "sandbox_token": TOKEN}).to_string()),
        Message::text(
            json!({"event": "sandbox_id", "sandbox_id": {"a": 1}, "sandbox_token": TOKEN})
                .to_string(),
        ),
        Message::binary(whole.clone().into_bytes()),
    ];
    sayings.push(Message::text(whole.replace("\"a\"", "a")));
    sayings
}

/// Invariant 4: an error that quotes a frame of the server shows no secret.
#[actix::test]
async fn a_quoted_frame_never_shows_the_token() {
    for saying in sayings() {
        let server = Scripted::bind().await;
        let mut watched = Watched::start(builder(&server)).await;
        let (opened, ()) = join(watched.open(), async {
            let mut peer = server.peer().await;
            peer.configuration().await;
            peer.try_send(saying.clone()).await;
            peer.rest().await;
        })
        .await;
        let error = opened.expect_err("no sandbox");
        assert_no_secret(&shown(&error));
        assert_no_secret(&format!("{:?}", watched.rest().await));
    }
}

/// Invariant 4: once the client knows the token, it redacts the token under every key.
#[actix::test]
async fn a_known_token_is_never_shown_wherever_the_server_repeats_it() {
    let status = |status: &str| json!({"event": "status_update", "status": status, "message": format!("bad {TOKEN}!")});
    for said in [
        frame(0x81, format!("not JSON: {TOKEN}").as_bytes()),
        frame(0x82, format!("binary: {TOKEN}").as_bytes()),
        frame(
            0x81,
            json!({"event": "stdout", "token": TOKEN})
                .to_string()
                .as_bytes(),
        ),
        frame(
            0x81,
            json!({"event": "sandbox_id", "sandbox_id": TOKEN, "sandbox_token": TOKEN})
                .to_string()
                .as_bytes(),
        ),
        frame(0x81, status("SANDBOX_ERROR").to_string().as_bytes()),
        frame(
            0x81,
            json!({"event": "error", "message": TOKEN})
                .to_string()
                .as_bytes(),
        ),
        frame(0x81, json!({"event": TOKEN}).to_string().as_bytes()),
        frame(
            0x81,
            json!({"event": "status_update", "status": TOKEN})
                .to_string()
                .as_bytes(),
        ),
        frame(0x88, format!("\x0f\x30 {TOKEN}").as_bytes()),
    ] {
        let server = Scripted::bind().await;
        let mut watched = Watched::start(builder(&server)).await;
        let (opened, mut peer) = join(watched.open(), server.running()).await;
        let opened = opened.expect("a sandbox");
        assert_no_secret(&format!("{opened:?} {opened:#?}"));
        peer.raw(&said).await;
        peer.close(4000, "end").await;
        assert_no_secret(&format!("{:?}", watched.rest().await));
        let error = watched.open().await.expect_err("over");
        assert_no_secret(&shown(&error));
    }
}

/// Invariant 4: `Debug` of every type that holds a secret and that users have.
#[actix::test]
async fn debug_of_handles_never_shows_the_token_or_a_header() {
    let server = Scripted::bind().await;
    let builder = builder(&server);
    assert_no_secret(&format!("{builder:?} {builder:#?}"));
    let (sandbox, mut peer) = join(
        within("the sandbox", builder.into_future()),
        server.running(),
    )
    .await;
    let sandbox = sandbox.unwrap();
    assert_eq!(sandbox.sandbox_token().expose_secret(), TOKEN);
    assert_no_secret(&format!(
        "{sandbox:?} {sandbox:#?} {:?}",
        sandbox.sandbox_token()
    ));
    let exec = sandbox.exec(Language::Bash, "true");
    let (process, ()) = join(within("the process", exec), async {
        peer.heard().await;
        peer.status("SANDBOX_EXECUTION_RUNNING").await;
    })
    .await;
    let process = process.unwrap();
    assert_no_secret(&format!("{process:?} {process:#?} {:?}", sandbox.state()));
}

/// Invariant 4: the path of a URL may be a server's secret.
#[actix::test]
async fn errors_and_debug_never_show_the_path_of_a_url() {
    let refusals = [
        "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n".to_owned(),
        format!("HTTP/1.1 404 Not Found\r\nConnection: close\r\n\r\nCannot GET /{TOKEN}/create"),
        format!(
            "HTTP/1.1 404 Not Found\r\nContent-Length: {}\r\n\r\nCannot GET /{TOKEN}/create",
            "Cannot GET //create".len() + TOKEN.len()
        ),
        format!(
            "HTTP/1.1 301 Moved\r\nLocation: https://h.example/{TOKEN}/create\r\n\
             Content-Length: 0\r\n\r\n"
        ),
        "not HTTP at all\r\n\r\n".to_owned(),
        String::new(),
    ];
    let server = Scripted::bind().await;
    let secret = |scheme: &str, address: &str| format!("{scheme}://{address}/{TOKEN}");
    for refusal in refusals {
        let builder = Sandbox::create(secret("http", &server.address()));
        assert_no_secret(&format!("{builder:?} {builder:#?}"));
        let (error, stream) = join(within("the refusal", builder.into_future()), async {
            drop(server.answer(refusal.as_bytes()).await)
        })
        .await;
        let () = stream;
        assert_no_secret(&shown(&error.expect_err("refused")));
    }
    for url in [
        secret("ftp", "h"),
        secret("http", "h:99999"),
        secret("http", "127.0.0.1:1"),
        secret("https", "127.0.0.1:1"),
        secret("http", "no-such-host.invalid"),
        format!("{}?x=1", secret("http", "h")),
        format!("127.0.0.1:8080/{TOKEN}"),
    ] {
        let builder = Sandbox::create(&url);
        assert_no_secret(&format!("{builder:?} {builder:#?}"));
        let error = within("the refusal", builder.into_future()).await;
        assert_no_secret(&shown(&error.expect_err("refused")));
    }

    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("recording");
    let builder = Sandbox::create(secret("http", &server.address())).record_to(&file);
    let (sandbox, peer) = join(
        within("the sandbox", builder.into_future()),
        server.running(),
    )
    .await;
    assert_eq!(peer.path, format!("/{TOKEN}/create"));
    let sandbox = sandbox.unwrap();
    assert_no_secret(&format!("{sandbox:?} {sandbox:#?}"));
    drop((sandbox, peer));
    let recorded = || std::fs::read_to_string(&file).unwrap();
    let written = async {
        while !recorded().contains("SANDBOX_RUNNING") {
            tokio::task::yield_now().await;
        }
    };
    within("the recording", written).await;
    assert_no_secret(&recorded());
}

/// Invariant 4: the path is also redacted in the reason of a close frame.
#[actix::test]
async fn a_close_reason_never_shows_the_path_of_a_url() {
    const PATH: &str = "9f3c2b1a7d-path";
    let server = Scripted::bind().await;
    let mut watched = Watched::start(Sandbox::create(format!("{}/{PATH}", server.url()))).await;
    let (opened, peer) = join(watched.open(), server.running()).await;
    opened.expect("a sandbox");
    peer.close(4000, &format!("no route /{PATH}/create")).await;
    let events = format!("{:?}", watched.rest().await);
    let error = shown(&watched.open().await.expect_err("over"));
    assert!(error.contains("no route /…/create"), "{error}");
    assert!(
        !error.contains("9f3c2b1a7d") && !events.contains("9f3c2b1a7d"),
        "{events}"
    );
}

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Log {
    fn text(&self) -> String {
        let bytes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

/// With debug logging on, the span has the label. The log never contains output, tokens or headers.
#[actix::test]
async fn the_debug_log_holds_no_token_header_or_output() {
    let text = logged(true).await;
    assert_no_secret(&text);
    assert!(!text.contains("the-output"), "{text}");
    assert!(
        text.contains("my-label") && text.contains("link open"),
        "{text}"
    );
}

#[actix::test]
async fn without_debug_nothing_is_logged() {
    assert_eq!(logged(false).await, "");
}

/// Returns what this crate logs in a session that ends with a protocol error.
async fn logged(debug: bool) -> String {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(LevelFilter::TRACE)
        .with_writer(move || writer.clone())
        .finish()
        .with(Targets::new().with_target("actix_sandbox", LevelFilter::TRACE));
    // The subscriber is thread-local: the whole session runs on this thread.
    let _guard = tracing::subscriber::set_default(subscriber);
    let server = Scripted::bind().await;
    let builder = builder(&server).enable_debug(debug).debug_label("my-label");
    let (sandbox, mut peer) = join(
        within("the sandbox", builder.into_future()),
        server.running(),
    )
    .await;
    let sandbox = sandbox.unwrap();
    let run = sandbox.run(Language::Bash, "echo hi");
    let (output, ()) = join(within("the output", run), async {
        peer.heard().await;
        peer.status("SANDBOX_EXECUTION_RUNNING").await;
        peer.stdout("the-output").await;
        peer.status("SANDBOX_EXECUTION_DONE").await;
    })
    .await;
    output.unwrap();
    peer.json(json!({"event": "weather", "sandbox_token": TOKEN}))
        .await;
    peer.text(format!("garbage {{\"sandbox_token\":\"{TOKEN}\""))
        .await;
    peer.rest().await;
    drop(sandbox);
    log.text()
}
