//! Start and end of a server: it runs on any executor and leaves nothing behind.

use std::{
    io::{BufRead, BufReader, ErrorKind},
    os::unix::process::CommandExt,
    process::{Child, Command, Stdio},
    time::Duration,
};

use crate::support::{
    SuspendedWatchdog, backend,
    port::Port,
    raw_client::{
        Client, Identity, PATIENCE, assert_empty, entries, eventually, get, parts, processes_of,
        processes_with,
    },
    server_process,
    starting::Starting,
};
use actix_sandbox::server::{LocalServer, SandboxService};

/// A sandbox with processes in the foreground and in the background, and its client.
async fn busy(server: &LocalServer) -> (Client, Identity) {
    let (mut client, identity) = Client::create(server).await;
    client
        .exec("bash", "sleep 1000 & setsid sleep 1000 & echo busy; wait")
        .await;
    client.until("stdout: busy\n").await;
    // At least three: the backend may have started helper processes.
    eventually("all have begun", || processes_of(&identity).len() >= 3).await;
    (client, identity)
}

#[tokio::test]
async fn a_stopped_server_leaves_neither_process_nor_directory() {
    let directory = tempfile::tempdir().unwrap();
    let port = Port::reserve();
    let server = backend::with_visible_processes()
        .address(port.address())
        .directory(directory.path())
        .start()
        .await
        .unwrap();
    let mut clients = Vec::new();
    for _ in 0..5 {
        clients.push(busy(&server).await);
    }
    assert_eq!(entries(directory.path()).len(), 1);
    server.stop().await;
    let refused = std::net::TcpStream::connect(port.address()).map(drop);
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::ConnectionRefused);
    assert_empty(directory.path());
    for (mut client, identity) in clients {
        assert_eq!(processes_of(&identity), [0_u32; 0]);
        assert_eq!(
            client.until("close 1001").await,
            ["SANDBOX_DELETING", "SANDBOX_DELETED", "close 1001"]
        );
    }
}

#[tokio::test]
async fn a_dropped_server_leaves_neither_process_nor_directory() {
    let directory = tempfile::tempdir().unwrap();
    let server = backend::with_visible_processes()
        .directory(directory.path())
        .start()
        .await
        .unwrap();
    let (_client, identity) = busy(&server).await;
    drop(server);
    assert_eq!(processes_of(&identity), [0_u32; 0]);
    assert_empty(directory.path());
}

/// A suspended watchdog keeps the shutdown from finishing. Dropping a server can take 15 s.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn dropping_the_future_of_stop_does_not_block() {
    let directory = tempfile::tempdir().unwrap();
    let builder = LocalServer::builder().directory(directory.path());
    let server = builder.start().await.unwrap();
    let watchdog = SuspendedWatchdog::of(directory.path());
    let started = tokio::time::Instant::now();
    let stopped = tokio::time::timeout(Duration::from_millis(100), server.stop()).await;
    let took = started.elapsed();
    assert!(stopped.is_err());
    assert!(took < Duration::from_secs(8), "{took:?}");
    drop(watchdog);
    let is_removed = || entries(directory.path()).is_empty();
    eventually("the server stops in the background", is_removed).await;
}

/// A child process between fork and exec holds copies of all descriptors.
#[tokio::test]
async fn the_address_of_a_stopped_server_is_free_while_a_process_is_being_started() {
    let port = Port::reserve();
    let server = LocalServer::builder().address(port.address());
    let server = server.start().await.unwrap();
    let starting = Starting::begin();
    server.stop().await;
    let next = LocalServer::builder().address(port.address()).start().await;
    drop(starting);
    next.unwrap().stop().await;
}

#[tokio::test]
async fn a_server_stops_though_its_clients_neither_read_nor_close() {
    let server = backend::with_visible_processes().start().await.unwrap();
    let (mut deaf, identity) = Client::create(&server).await;
    deaf.exec("bash", "yes").await;
    eventually("it runs", || processes_of(&identity).len() >= 2).await;
    let (mut idle, _) = Client::create(&server).await;
    // The server gives up on a client after 10 s: it must stop before.
    tokio::time::timeout(Duration::from_secs(9), server.stop())
        .await
        .expect("an end");
    assert_eq!(processes_of(&identity), [0_u32; 0]);
    assert_eq!(idle.until("close 1001").await.len(), 3);
}

#[tokio::test]
async fn a_server_on_all_interfaces_prints_a_dialable_address() {
    let server = LocalServer::builder()
        .address("0.0.0.0:0")
        .start()
        .await
        .unwrap();
    let port = server.address().port();
    let url = format!("http://127.0.0.1:{port}/");
    assert!(server.url().starts_with(&url), "{}", server.url());
    assert_eq!(
        get(&server, "/status", &[("Host", "192.168.7.7")]).await.0,
        200
    );
    assert_eq!(
        get(&server, "/status", &[("Host", "evil.example")]).await.0,
        403
    );
    server.stop().await;
}

#[test]
fn a_server_starts_on_threads_and_in_actix_systems() {
    futures::executor::block_on(async {
        let server = LocalServer::start().await.unwrap();
        assert!(server.url().starts_with("http://127.0.0.1:"));
        server.stop().await;
    });
    actix_web::rt::System::new().block_on(async {
        let server = LocalServer::start().await.unwrap();
        assert_eq!(get(&server, "/status", &[]).await.0, 200);
        server.stop().await;
    });
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        let server = LocalServer::start().await.unwrap();
        let server = tokio::spawn(async move {
            let (mut client, _) = Client::create(&server).await;
            assert_eq!(client.bash("echo hello").await, "hello\n");
            server
        })
        .await
        .unwrap();
        server.stop().await;
    });
}

#[tokio::test]
async fn unusable_addresses_and_directories_are_named() {
    let server = LocalServer::start().await.unwrap();
    let taken = server.address();
    let error = LocalServer::builder()
        .address(taken)
        .start()
        .await
        .unwrap_err();
    assert!(error.to_string().contains(&taken.to_string()), "{error}");
    assert!(std::error::Error::source(&error).is_some());
    let error = LocalServer::builder()
        .address("no port")
        .start()
        .await
        .unwrap_err();
    assert!(error.to_string().contains("no port"), "{error}");
    let file = tempfile::NamedTempFile::new().unwrap();
    let error = LocalServer::builder()
        .directory(file.path())
        .start()
        .await
        .unwrap_err();
    assert!(
        error.to_string().contains(file.path().to_str().unwrap()),
        "{error}"
    );
    server.stop().await;
}

#[actix_web::test]
async fn the_service_is_mounted_into_an_application() {
    use actix_web::{App, HttpServer, web};

    let directory = tempfile::tempdir().unwrap();
    let service = SandboxService::builder()
        .directory(directory.path())
        .service()
        .await
        .unwrap();
    let mounted = service.clone();
    let server = HttpServer::new(move || {
        App::new()
            .route("/mine", web::get().to(|| async { "mine" }))
            .service(web::scope("/sandboxes").configure(mounted.configure()))
    })
    .workers(1)
    .disable_signals()
    .bind("127.0.0.1:0")
    .unwrap();
    let address = server.addrs()[0];
    let server = server.run();
    let handle = server.handle();
    let running = actix_web::rt::spawn(server);

    let request = format!("ws://{address}/sandboxes/create");
    let (mut client, _) = tokio_tungstenite::client_async(
        request,
        tokio::net::TcpStream::connect(address).await.unwrap(),
    )
    .await
    .unwrap();
    use futures::{SinkExt, StreamExt};
    client.send("{}".into()).await.unwrap();
    for expected in ["SANDBOX_CREATING", "sandbox_id", "SANDBOX_RUNNING"] {
        let message = client.next().await.unwrap().unwrap();
        assert!(message.to_text().unwrap().contains(expected), "{message}");
    }
    service.stop().await;
    assert_empty(directory.path());
    handle.stop(false).await;
    running.await.unwrap().unwrap();
}

/// The variable that makes [`a_server_process_of_its_own`] a server.
const BE_A_SERVER_IN: &str = "ACTIX_SANDBOX_TEST_BE_A_SERVER_IN";

/// Not a test: tests start this binary again, and this function is the server in the new process.
/// It prints its URL and serves until stdin ends.
#[test]
fn a_server_process_of_its_own() {
    let Some(directory) = std::env::var_os(BE_A_SERVER_IN) else {
        return;
    };
    server_process::serve(backend::with_visible_processes().directory(directory));
}

/// Starts the server process. Returns it with its URL.
fn server_process(directory: &std::path::Path, path: Option<&std::path::Path>) -> (Child, String) {
    let mut command = server_process::command("lifetime::a_server_process_of_its_own");
    command
        .env(BE_A_SERVER_IN, directory)
        .stderr(Stdio::null())
        .process_group(0);
    if let Some(path) = path {
        // The other backends ignore this `PATH`.
        command
            .env("PATH", path)
            .env("ACTIX_SANDBOX_BACKEND", "host");
    }
    let mut child = command.spawn().unwrap();
    let stdout = BufReader::new(child.stdout.take().unwrap());
    let url = stdout
        .lines()
        .map_while(Result::ok)
        .find_map(|line| Some(line.strip_prefix("listening on ")?.to_owned()))
        .expect("a URL");
    (child, url)
}

async fn exec(url: &str, code: serde_json::Value, until: &str) -> Vec<String> {
    use futures::{SinkExt, StreamExt};

    let socket = tokio::net::TcpStream::connect(parts(url).0).await.unwrap();
    let create = format!("{}/create", url.replace("http://", "ws://"));
    let (mut client, _) = tokio_tungstenite::client_async(create, socket)
        .await
        .unwrap();
    client.send("{}".into()).await.unwrap();
    client.send(code.to_string().into()).await.unwrap();
    let mut messages = Vec::new();
    while let Some(Ok(message)) = client.next().await {
        messages.push(message.to_text().unwrap().to_owned());
        if messages.last().unwrap().contains(until) {
            break;
        }
    }
    // Keep the socket open until the server ends.
    std::mem::forget(client);
    messages
}

async fn nothing_is_left_after(signal: &str) {
    let directory = tempfile::tempdir().unwrap();
    let (mut server, url) = server_process(directory.path(), None);
    let code = serde_json::json!({
        "language": "bash",
        "code": "sleep 1000 & setsid sleep 1000 & echo id $ACTIX_SANDBOX_ID; wait"
    });
    let messages = exec(&url, code, "id sandbox-").await;
    let (_, id) = messages.last().unwrap().split_once("id ").unwrap();
    let id = id.split('\\').next().unwrap();
    let variable = format!("ACTIX_SANDBOX_ID={id}");
    eventually("all have begun", || processes_with(&variable).len() >= 3).await;
    let watchdogs = || {
        std::fs::read_dir("/proc")
            .unwrap()
            .filter_map(|process| std::fs::read(process.ok()?.path().join("cmdline")).ok())
            .filter(|line| {
                let line = String::from_utf8_lossy(line);
                line.contains("actix-sandbox-watchdog")
                    && line.contains(directory.path().to_str().unwrap())
            })
            .count()
    };
    assert_eq!(watchdogs(), 1);

    // Signal the whole process group, as a terminal does.
    let group = format!("-{}", server.id());
    let sent = Command::new("kill")
        .args(["-s", signal, "--", &group])
        .status()
        .unwrap();
    assert!(sent.success());
    server.wait().unwrap();
    eventually("no process is left", || {
        processes_with(&variable).is_empty()
    })
    .await;
    eventually("no directory is left", || {
        entries(directory.path()).is_empty()
    })
    .await;
    eventually("the watchdog is gone", || watchdogs() == 0).await;
}

#[tokio::test]
async fn nothing_is_left_when_the_server_process_is_killed() {
    nothing_is_left_after("KILL").await;
}

#[tokio::test]
async fn ctrl_c_at_the_terminal_leaves_nothing_behind() {
    nothing_is_left_after("INT").await;
}

#[tokio::test]
async fn a_missing_interpreter_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let path = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink("/bin/sh", path.path().join("sh")).unwrap();
    let (mut server, url) = server_process(directory.path(), Some(path.path()));
    for (language, program) in [("python", "python3"), ("bash", "bash")] {
        let code = serde_json::json!({"language": language, "code": ""});
        let messages = exec(&url, code, "SANDBOX_EXECUTION_DONE").await;
        let messages = &messages[messages.len() - 3..];
        assert!(
            messages[0].contains("SANDBOX_EXECUTION_ERROR"),
            "{messages:?}"
        );
        assert!(
            messages[1].contains(&format!("{program} is not installed")),
            "{messages:?}"
        );
    }
    drop(server.stdin.take());
    tokio::time::timeout(PATIENCE, async {
        while server.try_wait().unwrap().is_none() {
            tokio::task::yield_now().await;
        }
    })
    .await
    .expect("the server stops");
    assert_empty(directory.path());
}
