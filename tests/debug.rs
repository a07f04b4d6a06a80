//! Searches the TRACE logs of a whole session for each of its secrets: client, server, and the
//! crates below them. The test needs its own binary, because it sets the global subscriber.
#![cfg(unix)]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod support;

use std::{
    fmt,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use actix_sandbox::{
    BearerToken, ErrorKind, Language, LocalServer, ReconnectPolicy, Sandbox, SandboxEvent,
};
use base64::{Engine, engine::general_purpose::STANDARD};
use support::{events, proxy::Proxy, within};
use tracing::{
    Metadata, Subscriber,
    field::{Field, Visit},
    span,
};
use tracing_subscriber::{
    layer::{Context, Layer, SubscriberExt},
    registry::LookupSpan,
};

const BEARER: &str = "bearer-8c1e7f00d5";
const HEADER: &str = "header-3a9b66cafe";
const OUTPUT: &str = "output-77ad01beef";
const INPUT: &str = "input-90ce44dead";
const VARIABLE: &str = "variable-51d2aafeed";

/// A line for each event and span, with all their fields.
static LOG: Mutex<Vec<String>> = Mutex::new(Vec::new());

struct Collect;

struct Text<'a>(&'a mut String);

impl Visit for Text<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.0.push_str(&format!(" {field}={value:?}"));
    }
}

fn note(metadata: &Metadata<'_>, record: impl FnOnce(&mut Text<'_>)) {
    let mut line = format!("{} {}", metadata.target(), metadata.name());
    record(&mut Text(&mut line));
    LOG.lock()
        .unwrap_or_else(PoisonError::into_inner)
        .push(line);
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Collect {
    fn on_new_span(&self, attributes: &span::Attributes<'_>, _: &span::Id, _: Context<'_, S>) {
        note(attributes.metadata(), |text| attributes.record(text));
    }

    fn on_record(&self, id: &span::Id, values: &span::Record<'_>, context: Context<'_, S>) {
        if let Some(span) = context.span(id) {
            note(span.metadata(), |text| values.record(text));
        }
    }

    fn on_event(&self, event: &tracing::Event<'_>, context: Context<'_, S>) {
        note(event.metadata(), |text| {
            if let Some(span) = context.event_span(event) {
                text.0.push_str(&format!(" in {}", span.name()));
            }
            event.record(text);
        });
    }
}

/// Collects the logs of crates that use `log`.
impl log::Log for Collect {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        let line = format!("{} {}", record.target(), record.args());
        LOG.lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(line);
    }

    fn flush(&self) {}
}

fn take_log() -> Vec<String> {
    std::mem::take(&mut LOG.lock().unwrap_or_else(PoisonError::into_inner))
}

/// Returns the forms in which a log may show a secret: verbatim, percent-encoded, as hexadecimal or
/// decimal bytes, and in base64 at each of the three alignments.
fn forms(secret: &str) -> Vec<String> {
    let escaped: String = secret.bytes().map(|byte| format!("%{byte:02X}")).collect();
    let hex: String = secret.bytes().map(|byte| format!("{byte:02x}")).collect();
    let bytes = format!("{:?}", secret.as_bytes());
    let mut forms = vec![
        secret.to_owned(),
        escaped,
        hex,
        bytes.trim_matches(['[', ']']).to_owned(),
    ];
    for shift in 0..3 {
        let encoded = STANDARD.encode(format!("{}{secret}", &"xx"[..shift.min(2)]));
        // Remove both ends, which depend on the neighbouring bytes.
        forms.push(encoded[4..encoded.len() - 4].to_owned());
    }
    forms
}

/// Runs a session with a reconnect, stdin, output and refusals. Returns its secrets.
async fn session(debug: bool) -> Vec<String> {
    let server = LocalServer::start().await.expect("a local server");
    let proxy = Proxy::plain(&server).await;
    let sandbox = Sandbox::create(proxy.url())
        .enable_debug(debug)
        .debug_label("my-label")
        .bearer_token_source(|| async { Ok(BearerToken::new(BEARER)) })
        .header("X-Api-Key", HEADER)
        .env("KEY", VARIABLE)
        .enable_auto_reconnect(true)
        .reconnect_policy(ReconnectPolicy {
            initial: Duration::from_millis(2),
            ..ReconnectPolicy::default()
        })
        .await
        .expect("a sandbox");
    let token = sandbox.sandbox_token().expose_secret().to_owned();
    let mut events = events(&sandbox).await;
    let code = format!("echo {OUTPUT}; echo {OUTPUT} >&2; read line; echo $line");
    let process = sandbox.exec(Language::Bash, code).await.expect("started");
    proxy.cut();
    while within("an event", events.recv()).await != Some(SandboxEvent::Reconnected) {}
    let input = format!("{INPUT}\n");
    process.write_to_stdin(input).await.expect("written");
    within("the end", process.wait()).await.expect("ended");

    // Refused requests that contain the token.
    let id = sandbox.sandbox_id().clone();
    let attach = |url: String, token: &str| {
        Sandbox::attach(url, id.clone(), token)
            .enable_debug(debug)
            .header("X-Api-Key", HEADER)
    };
    let wrong = format!("{token}-wrong");
    let error = attach(proxy.url(), &wrong).await.expect_err("refused");
    assert_eq!(error.kind(), ErrorKind::PermissionDenied);
    let error = attach(proxy.url(), &token).await.expect_err("refused");
    assert_eq!(error.kind(), ErrorKind::InUse);
    let nowhere = "ws://127.0.0.1:1".to_owned();
    let error = attach(nowhere, &token).await.expect_err("refused");
    assert_eq!(error.kind(), ErrorKind::Connect);

    // Requests without a WebSocket, and a refused option.
    let list = |url: &str| Sandbox::list(url).header("X-Api-Key", HEADER);
    let list = |url| list(url).bearer_token_source(|| async { Ok(BearerToken::new(BEARER)) });
    let listed = list(server.url()).await.expect("listed");
    assert_eq!(listed[0].id, id);
    list(&format!("{}-wrong", server.url())).await.unwrap_err();
    let create = Sandbox::create(server.url()).env("A=B", VARIABLE);
    create.enable_debug(debug).await.expect_err("refused");

    // The path of a URL is the server's secret.
    let (_, secret) = server.url().rsplit_once('/').expect("a secret");
    let secret = secret.to_owned();
    let (base, _) = server.url().rsplit_once('/').expect("a secret");
    let elsewhere = "/a-5ecret-0f-another-5erver";
    let error = Sandbox::create(format!("{base}{elsewhere}"))
        .enable_debug(debug)
        .await;
    assert_eq!(
        error.expect_err("refused").kind(),
        ErrorKind::UpgradeRefused
    );

    sandbox.kill().await.expect("killed");
    server.stop().await;
    vec![
        secret,
        elsewhere.to_owned(),
        token,
        BEARER.to_owned(),
        HEADER.to_owned(),
        OUTPUT.to_owned(),
        INPUT.to_owned(),
        VARIABLE.to_owned(),
    ]
}

#[actix::test]
async fn nothing_that_is_logged_holds_a_secret() {
    tracing::subscriber::set_global_default(tracing_subscriber::registry().with(Collect)).unwrap();
    log::set_logger(&Collect).unwrap();
    log::set_max_level(log::LevelFilter::Trace);
    let secrets = session(true).await;
    let log = take_log();
    // The log contains the lines of the crates below, too.
    for target in ["actix", "tokio", "mio"] {
        println!(
            "{target}: {} lines",
            log.iter().filter(|line| line.starts_with(target)).count()
        );
    }
    assert!(
        log.iter().any(|line| !line.starts_with("actix_sandbox")),
        "{log:#?}"
    );
    for secret in &secrets {
        for form in forms(secret) {
            let found: Vec<_> = log.iter().filter(|line| line.contains(&form)).collect();
            assert!(found.is_empty(), "{form} is in {found:#?}");
        }
    }

    // The log shows each step of the session, in a span with label, id and epoch.
    let ours: Vec<_> = log
        .iter()
        .filter(|line| line.starts_with("actix_sandbox::"))
        .collect();
    let has = |part: &str| ours.iter().any(|line| line.contains(part));
    for part in [
        "label=my-label",
        "id=\"sandbox-",
        "epoch=1",
        "epoch=2",
        "dialling",
        "link open",
        "link lost, reconnecting",
        "SandboxRunning",
        "ExecutionRunning",
        "SandboxKilled",
    ] {
        assert!(has(part), "{part} is not in {ours:#?}");
    }
    // Addresses are logged: they are not secrets.
    assert!(has("127.0.0.1"));

    // With debugging off, the client logs nothing.
    session(false).await;
    let log = take_log();
    let of_client = |line: &&String| {
        line.starts_with("actix_sandbox::") && !line.starts_with("actix_sandbox::server")
    };
    let said: Vec<_> = log.iter().filter(of_client).collect();
    assert!(said.is_empty(), "{said:#?}");
}
