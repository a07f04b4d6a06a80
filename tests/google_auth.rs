//! Google authentication with the official library, against a fake metadata server on loopback and
//! a service that accepts only fresh tokens for its own origin.
//!
//! ```text
//! cargo test --features google-auth --test google_auth
//! ```
//!
//! The library reads the address of the metadata server from the environment, so each client is a
//! separate process.
#![cfg(unix)]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod support;

use std::{
    io::{BufRead, BufReader, Write},
    net::SocketAddr,
    process::{Child, ChildStdin, Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use actix_sandbox::{ErrorKind, Language, LocalServer, ReconnectPolicy, Sandbox, SandboxEvent};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Value, json};
use support::{events, port::Port, within};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional},
    net::{TcpListener, TcpStream},
    sync::watch,
};

/// The variable that makes [`a_client_process_of_its_own`] a client of the service with this URL.
const SERVICE: &str = "ACTIX_SANDBOX_TEST_SERVICE";

/// The lifetime of tokens, in seconds. The library subtracts 10 s for clock skew. After that, it
/// requests a new token every 10 s.
const GOOD_FOR: u64 = 25;

fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_secs()
}

/// Not a test, but the client process: the tests below start this binary with [`SERVICE`] set.
#[actix::test]
async fn a_client_process_of_its_own() {
    let Ok(url) = std::env::var(SERVICE) else {
        return;
    };
    let say = |text: &str| {
        println!("\nclient: {text}");
        std::io::stdout().flush().unwrap();
    };
    let create = Sandbox::create(url)
        .use_google_auth(true)
        .enable_auto_reconnect(true)
        .reconnect_policy(ReconnectPolicy {
            // Gives the library time to store the token that it just received.
            initial: Duration::from_millis(500),
            jitter: 0.0,
            ..ReconnectPolicy::default()
        });
    let sandbox = match within("create", create).await {
        Ok(sandbox) => sandbox,
        Err(error) => return say(&format!("refused: {:?} {error}", error.kind())),
    };
    let mut events = events(&sandbox).await;
    let output = sandbox.run(Language::Bash, "echo first").await.unwrap();
    say(output.stdout_lossy().trim());
    while within("an event", events.recv()).await != Some(SandboxEvent::Reconnected) {}
    let output = sandbox.run(Language::Bash, "echo again").await.unwrap();
    say(output.stdout_lossy().trim());
}

struct ClientProcess {
    child: Child,
    lines: std::sync::mpsc::Receiver<String>,
    _stdin: ChildStdin,
}

impl ClientProcess {
    fn start(service: &str, metadata: SocketAddr) -> Self {
        let home = tempfile::tempdir().unwrap().keep();
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "a_client_process_of_its_own", "--nocapture"])
            .env(SERVICE, service)
            .env("GCE_METADATA_HOST", metadata.to_string())
            .env("HOME", home)
            .env_remove("GOOGLE_APPLICATION_CREDENTIALS")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let (sender, lines) = std::sync::mpsc::sync_channel(16);
        std::thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                if let Some(line) = line.strip_prefix("client: ") {
                    let _ = sender.send(line.to_owned());
                }
            }
        });
        let _stdin = child.stdin.take().unwrap();
        Self {
            child,
            lines,
            _stdin,
        }
    }

    async fn line(&mut self) -> String {
        let line = async {
            loop {
                match self.lines.try_recv() {
                    Ok(line) => return line,
                    Err(std::sync::mpsc::TryRecvError::Empty) => {
                        tokio::time::sleep(Duration::from_millis(5)).await;
                    }
                    Err(std::sync::mpsc::TryRecvError::Disconnected) => {
                        panic!("the client is gone")
                    }
                }
            }
        };
        within("the client says something", line).await
    }
}

impl Drop for ClientProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Reads the head of an HTTP request.
async fn head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => break,
        }
    }
    String::from_utf8(head).unwrap()
}

fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines().find_map(|line| {
        let (found, value) = line.split_once(": ")?;
        found.eq_ignore_ascii_case(name).then_some(value)
    })
}

/// Starts a metadata server that issues short-lived tokens for the requested audience. Returns its
/// address and the issued tokens.
async fn metadata_server() -> (SocketAddr, Arc<Mutex<Vec<String>>>) {
    metadata_server_with(None).await
}

/// Like [`metadata_server`], but answers 404 to the request with the number `failing`, from 0.
async fn metadata_server_with(failing: Option<u64>) -> (SocketAddr, Arc<Mutex<Vec<String>>>) {
    let asked = Arc::new(AtomicU64::new(0));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let given = Arc::new(Mutex::new(Vec::new()));
    let all = given.clone();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let (all, asked) = (all.clone(), asked.clone());
            tokio::spawn(async move {
                let head = head(&mut stream).await;
                let fails = Some(asked.fetch_add(1, Ordering::SeqCst)) == failing;
                let target = head.split(' ').nth(1).unwrap_or_default().to_owned();
                let asks = "/computeMetadata/v1/instance/service-accounts/default/identity?";
                let answer = match target.strip_prefix(asks) {
                    Some(query) if header(&head, "metadata-flavor") == Some("Google") && !fails => {
                        let audience = query
                            .split('&')
                            .find_map(|pair| pair.strip_prefix("audience="))
                            .unwrap();
                        let audience = percent_encoding::percent_decode_str(audience);
                        let claims = json!({
                            "aud": audience.decode_utf8().unwrap(),
                            "exp": now() + GOOD_FOR,
                            "number": all.lock().unwrap().len(),
                        });
                        let part = |json: Value| URL_SAFE_NO_PAD.encode(json.to_string());
                        let token =
                            format!("{}.{}.c2ln", part(json!({"alg": "RS256"})), part(claims));
                        all.lock().unwrap().push(token.clone());
                        format!(
                            "HTTP/1.1 200 OK\r\nMetadata-Flavor: Google\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{token}",
                            token.len()
                        )
                    }
                    _ => "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
                        .to_owned(),
                };
                let _ = stream.write_all(answer.as_bytes()).await;
            });
        }
    });
    (address, given)
}

/// A proxy in front of a local server that admits only requests with a valid token for its
/// audience.
struct Service {
    url: String,
    /// The tokens of the admitted requests.
    let_in: Arc<Mutex<Vec<String>>>,
    /// Tokens before this one are stale.
    oldest: Arc<AtomicU64>,
    cut: watch::Sender<()>,
    _server: LocalServer,
}

async fn service(audience: Option<&str>) -> Service {
    let server = LocalServer::start().await.unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let audience = audience.map_or_else(|| format!("https://{address}"), str::to_owned);
    let let_in = Arc::new(Mutex::new(Vec::new()));
    let (cut, is_cut) = watch::channel(());
    let oldest = Arc::new(AtomicU64::new(0));
    let url = server
        .url()
        .replace(&server.address().to_string(), &address.to_string());
    let (target, tokens, number) = (server.address(), let_in.clone(), oldest.clone());
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let (audience, tokens, mut is_cut) = (audience.clone(), tokens.clone(), is_cut.clone());
            is_cut.mark_unchanged();
            let oldest = number.load(Ordering::SeqCst);
            tokio::spawn(async move {
                let head = head(&mut client).await;
                let token =
                    header(&head, "authorization").and_then(|value| value.strip_prefix("Bearer "));
                let claims: Option<Value> = token.and_then(|token| {
                    let claims = URL_SAFE_NO_PAD.decode(token.split('.').nth(1)?).ok()?;
                    serde_json::from_slice(&claims).ok()
                });
                let good = claims.is_some_and(|claims| {
                    claims["aud"] == *audience
                        && claims["exp"].as_u64().is_some_and(|exp| exp > now())
                        && claims["number"]
                            .as_u64()
                            .is_some_and(|number| number >= oldest)
                });
                if !good {
                    let refusal = b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
                    let _ = client.write_all(refusal).await;
                    return;
                }
                tokens.lock().unwrap().push(token.unwrap().to_owned());
                let mut server = TcpStream::connect(target).await.unwrap();
                // The local server checks the `Host` header against its own address.
                let host = header(&head, "host").unwrap();
                let head = head.replace(host, &target.to_string());
                server.write_all(head.as_bytes()).await.unwrap();
                tokio::select! {
                    _ = copy_bidirectional(&mut client, &mut server) => {}
                    _ = is_cut.changed() => {}
                }
            });
        }
    });
    Service {
        url,
        let_in,
        oldest,
        cut,
        _server: server,
    }
}

#[tokio::test]
async fn a_reconnect_dials_with_a_fresh_token() {
    let (metadata, given) = metadata_server().await;
    let service = service(None).await;
    let url = service.url.clone();
    let mut client = ClientProcess::start(&url, metadata);
    assert_eq!(client.line().await, "first");
    // The library requests the next token before the first expires.
    let asked_again = async {
        while given.lock().unwrap().len() < 2 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    within("another token", asked_again).await;
    service.oldest.store(1, Ordering::SeqCst);
    service.cut.send_replace(());
    assert_eq!(client.line().await, "again");
    assert_eq!(*service.let_in.lock().unwrap(), given.lock().unwrap()[..2]);
}

/// After an error that the library considers permanent, it doesn't retry by itself.
#[tokio::test]
async fn a_failure_of_the_metadata_server_passes() {
    let (metadata, given) = metadata_server_with(Some(1)).await;
    let service = service(None).await;
    let url = service.url.clone();
    let mut client = ClientProcess::start(&url, metadata);
    assert_eq!(client.line().await, "first");
    // The library returns the first token until it expires.
    let over = now() + GOOD_FOR;
    while now() <= over {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    service.cut.send_replace(());
    assert_eq!(client.line().await, "again");
    assert_eq!(*service.let_in.lock().unwrap(), *given.lock().unwrap());
}

#[tokio::test]
async fn a_token_for_another_service_is_refused_with_the_hint() {
    let (metadata, _) = metadata_server().await;
    let service = service(Some("https://other.example")).await;
    let url = service.url.clone();
    let line = ClientProcess::start(&url, metadata).line().await;
    assert!(line.starts_with("refused: UpgradeRefused"), "{line}");
    assert!(
        line.contains("401") && line.contains("roles/run.invoker"),
        "{line}"
    );
}

#[tokio::test]
async fn without_credentials_no_token_is_the_error() {
    let service = service(None).await;
    let url = service.url.clone();
    // No metadata server listens there.
    let port = Port::reserve();
    let line = ClientProcess::start(&url, port.address()).line().await;
    assert!(line.starts_with("refused: NoToken"), "{line}");
}

#[actix::test]
async fn a_token_is_not_sent_in_the_clear() {
    let error = Sandbox::create("ws://sandbox.example")
        .use_google_auth(true)
        .await;
    let error = error.expect_err("refused");
    assert_eq!(error.kind(), ErrorKind::InvalidOption);
    assert!(error.to_string().contains("https://"), "{error}");
}
