//! The command `actix-sandbox doctor`: what it reports of this machine and of a service, and what
//! it leaves behind when it ends early.

use std::{
    fs, io,
    os::unix::{fs::symlink, process::ExitStatusExt},
    path::Path,
    process::{Child, Command},
};

use actix_sandbox::{
    LocalServer, ProtocolVersion,
    server::{Backend, SystemCalls},
};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::{
    backend::{start_if_possible, without_bwrap},
    port::Port,
    program::{self, ended, run},
    scripted::Scripted,
    send_signal,
    server_process::{self, ServerProcess},
    within,
};

const TOKEN: &str = "a-token-for-these-tests-alone";

fn command(arguments: &[&str]) -> Command {
    checked(Command::new(env!("CARGO_BIN_EXE_actix-sandbox")), arguments)
}

fn checked(command: Command, arguments: &[&str]) -> Command {
    program::subcommand(command, "doctor", arguments)
}

/// Checks a service in both formats. Returns the exit code, the text and the JSON. The secret path
/// of the URL must occur nowhere.
async fn check(url: &str, token: Option<&str>) -> (Option<i32>, String, Value) {
    let with = |arguments: &[&str]| {
        let mut command = command(arguments);
        command.env("SANDBOX_URL", url);
        if let Some(token) = token {
            command.env("ACTIX_SANDBOX_TOKEN", token);
        }
        command
    };
    let (code, text, stderr) = run(with(&[])).await;
    let (same, json, also) = run(with(&["--output", "json"])).await;
    assert_eq!(code, same, "{text}{json}");
    assert_eq!((&*stderr, &*also), ("", ""));
    let (_, rest) = url.split_once("://").unwrap();
    let secrets = rest.split_once('/').map(|(_, path)| path);
    for secret in secrets.into_iter().chain(token).filter(|it| !it.is_empty()) {
        for output in [&text, &json] {
            assert!(!output.contains(secret), "{output}");
        }
    }
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["format"], 1);
    assert_eq!(json["works"], code == Some(0));
    (code, text, json["service"].clone())
}

/// The name of each step, and whether it succeeded.
fn steps(service: &Value) -> Vec<(&str, bool)> {
    let steps = service["steps"].as_array().unwrap().iter();
    let steps = steps.map(|it| (it["step"].as_str(), it["works"].as_bool()));
    steps
        .map(|(name, works)| (name.unwrap(), works.unwrap()))
        .collect()
}

/// The problem and the advice of the step that failed.
fn failure(service: &Value) -> (String, String) {
    let steps = service["steps"].as_array().unwrap();
    let last = steps.last().unwrap();
    let problem = last["problem"].as_str().unwrap().to_owned();
    (problem, last["advice"].to_string())
}

/// A directory for the `PATH` with only what the backend `host` needs. It has neither `runsc` nor
/// `bwrap`.
fn small_path() -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    for program in ["sh", "bash", "python3", "true"] {
        let found = std::env::split_paths("/usr/local/bin:/usr/bin:/bin")
            .map(|it| it.join(program))
            .find(|it| it.exists());
        if let Some(found) = found {
            symlink(found, directory.path().join(program)).unwrap();
        }
    }
    directory
}

#[actix::test]
async fn the_report_of_this_machine_agrees_with_the_server() {
    let (code, stdout, stderr) = run(command(&["--output", "json"])).await;
    assert_eq!(stderr, "");
    let report: Value = serde_json::from_str(&stdout).unwrap();
    let backends = report["machine"]["backends"].as_array().unwrap();
    let names: Vec<_> = backends.iter().map(|it| &it["backend"]).collect();
    assert_eq!(names, ["gvisor", "namespace", "host"]);
    let mut confined = None;
    for checked in backends {
        let name = checked["backend"].as_str().unwrap();
        let backend: Backend = name.parse().unwrap();
        let program = backend.program();
        let found = checked["program"]["path"].as_str().map(Path::new);
        assert_eq!(found, program.as_deref());
        let server = start_if_possible(LocalServer::builder().backend(backend)).await;
        assert_eq!(checked["works"], server.is_some(), "{checked}");
        let Some(server) = server else {
            assert!(checked["problem"].is_string(), "{checked}");
            continue;
        };
        let confinement = server.confinement();
        let limits = &checked["limits"];
        assert_eq!(limits["memory_bytes"], json!(confinement.memory));
        assert_eq!(
            limits["sandbox_memory_bytes"],
            json!(confinement.sandbox_memory)
        );
        assert_eq!(limits["disk_bytes"], json!(confinement.disk));
        assert_eq!(limits["network"], confinement.network);
        let is_unfiltered = confinement.system_calls == SystemCalls::Unfiltered;
        assert_eq!(is_unfiltered, name == "host");
        assert!(checked["create_and_run_ms"].as_f64().unwrap() > 0.0);
        assert!(checked["bash"]["version"].is_string(), "{checked}");
        if name != "host" {
            assert!(checked["program"]["version"].is_string(), "{checked}");
            confined = confined.or(Some(name));
        }
        server.stop().await;
    }
    assert_eq!(report["machine"]["confined"], json!(confined));
    assert_eq!(report["machine"]["auto"], confined.unwrap_or("host"));
    assert_eq!(report["works"], confined.is_some());
    assert_eq!(code, Some(if confined.is_some() { 0 } else { 1 }));
    let files = &report["machine"]["open_files"];
    assert!(files["max_connections"].as_u64() < files["limit"].as_u64());
}

#[cfg(target_os = "linux")]
#[actix::test]
async fn without_programs_it_says_what_to_install() {
    let path = small_path();
    let hidden = without_bwrap(path.path());
    let (code, stdout, stderr) = run(checked(hidden, &[])).await;
    if code == Some(99) || stderr.contains("unshare") {
        println!("not tried: cannot hide bwrap: {stderr}");
        assert!(std::env::var_os("CI_BACKENDS").is_none(), "{stderr}");
        return;
    }
    assert_eq!(code, Some(1), "{stdout}{stderr}");
    assert_eq!(stderr, "");
    for text in [
        "gvisor     fails",
        "install gVisor: the package `runsc`",
        "namespace  fails",
        "install the package `bubblewrap`",
        "host       works",
        "`--backend confined` fails",
        "`--backend auto` selects host",
    ] {
        assert!(stdout.contains(text), "{text}: {stdout}");
    }
}

#[actix::test]
async fn a_service_with_v2_works_and_keeps_no_sandbox() {
    let server = LocalServer::start().await.unwrap();
    let (code, text, service) = check(server.url(), None).await;
    assert_eq!(code, Some(0), "{text}");
    assert_eq!(service["protocol"], "v2");
    assert_eq!(service["lift"], Value::Null);
    let names = ["tcp", "http", "create", "run", "kill"];
    assert_eq!(steps(&service), names.map(|name| (name, true)));
    let features = service["features"].as_array().unwrap();
    assert!(features.contains(&json!("terminals")), "{service}");
    assert!(text.contains("protocol v2"), "{text}");
    assert!(text.contains("terminals"), "{text}");
    assert!(text.contains(&server.address().to_string()), "{text}");
    assert_eq!(server.sandbox_count(), 0);
}

#[actix::test]
async fn a_service_with_v1_is_lifted() {
    let server = LocalServer::builder().max_protocol_version(ProtocolVersion::V1);
    let server = server.start().await.unwrap();
    let (code, text, service) = check(server.url(), None).await;
    assert_eq!(code, Some(0), "{text}");
    assert_eq!(service["protocol"], "v1");
    assert_eq!(service["features"], json!([]));
    assert_eq!(service["lift"], true, "{service}");
    assert!(text.contains("With `--lift`"), "{text}");
    assert_eq!(server.sandbox_count(), 0);
}

const SERVES: &str = "DOCTOR_TEST_SERVES";

/// Not a test: the server of the next test.
#[test]
fn a_server_process_of_its_own() {
    if std::env::var_os(SERVES).is_some() {
        let builder = LocalServer::builder().max_protocol_version(ProtocolVersion::V1);
        server_process::serve(builder.backend(Backend::Host));
    }
}

#[actix::test]
async fn a_service_with_v1_and_without_python_works_without_the_lift() {
    let path = small_path();
    fs::remove_file(path.path().join("python3")).unwrap();
    let mut command = server_process::command("doctor::a_server_process_of_its_own");
    let server = ServerProcess::start(command.env(SERVES, "1").env("PATH", path.path()));
    let (code, text, service) = check(server.url(), None).await;
    assert_eq!(code, Some(0), "{text}");
    assert_eq!(service["lift"], false);
    assert_eq!(steps(&service).last(), Some(&("lift", false)));
    let (problem, _) = failure(&service);
    assert!(problem.contains("python3 is not installed"), "{problem}");
    assert!(text.contains("The lift does not work"), "{text}");
}

#[actix::test]
async fn a_refused_token_is_reported_with_advice() {
    let server = LocalServer::builder().access_token(TOKEN).start().await;
    let server = server.unwrap();
    let wrong = "another-token-than-the-right-one";
    for token in [None, Some(wrong)] {
        let (code, text, service) = check(server.url(), token).await;
        assert_eq!(code, Some(1), "{text}");
        assert_eq!(steps(&service).last(), Some(&("create", false)));
        let (problem, advice) = failure(&service);
        assert!(problem.contains("HTTP status 401"), "{problem}");
        assert!(advice.contains("--token-file"), "{advice}");
    }
    let (code, text, _) = check(server.url(), Some(TOKEN)).await;
    assert_eq!(code, Some(0), "{text}");
    assert_eq!(server.sandbox_count(), 0);
}

#[actix::test]
async fn a_wrong_path_is_reported_with_advice() {
    let server = LocalServer::start().await.unwrap();
    let url = format!("http://{}/another-path-4f2a", server.address());
    let (code, text, service) = check(&url, None).await;
    assert_eq!(code, Some(1), "{text}");
    let (problem, _) = failure(&service);
    assert!(problem.contains("includes a secret path"), "{problem}");
}

#[actix::test]
async fn a_port_where_nothing_listens_is_reported() {
    let port = Port::reserve();
    let address = port.address();
    let (code, text, service) = check(&format!("http://{address}/path-4f2a"), None).await;
    assert_eq!(code, Some(1), "{text}");
    assert_eq!(steps(&service), [("tcp", false)]);
    let (problem, advice) = failure(&service);
    assert!(problem.contains(&address.to_string()), "{problem}");
    assert!(advice.contains("nothing listens there"), "{advice}");
}

#[actix::test]
async fn a_host_that_does_not_resolve_is_reported() {
    let (code, text, service) = check("https://no-such-host.invalid/", None).await;
    assert_eq!(code, Some(1), "{text}");
    assert_eq!(steps(&service), [("dns", false)]);
    let (problem, _) = failure(&service);
    assert!(problem.contains("no-such-host.invalid"), "{problem}");
}

/// Answers each connection with these bytes.
async fn answering(answer: &'static [u8]) -> String {
    let server = Scripted::bind().await;
    let address = server.address();
    actix::spawn(async move {
        loop {
            server.try_answer(answer).await;
        }
    });
    address
}

#[actix::test]
async fn a_server_that_is_no_sandbox_server_is_reported() {
    let page = b"HTTP/1.1 200 OK\r\nContent-Length: 13\r\n\r\n<html></html>";
    let address = answering(page).await;
    let (code, text, service) = check(&format!("http://{address}/path-4f2a"), None).await;
    assert_eq!(code, Some(1), "{text}");
    let expected = [("tcp", true), ("http", true), ("create", false)];
    assert_eq!(steps(&service), expected, "{service}");
    let (_, advice) = failure(&service);
    assert!(advice.contains("another program answers"), "{advice}");

    let address = answering(b"SSH-2.0-OpenSSH_9.2p1\r\n").await;
    let (code, text, service) = check(&format!("http://{address}"), None).await;
    assert_eq!(code, Some(1), "{text}");
    assert_eq!(steps(&service), [("tcp", true), ("http", false)]);
    let (_, advice) = failure(&service);
    assert!(advice.contains("another program answers"), "{advice}");
}

#[actix::test]
async fn a_failed_tls_handshake_is_reported() {
    let server = LocalServer::start().await.unwrap();
    let url = server.url().replacen("http", "https", 1);
    let (code, text, service) = check(&url, None).await;
    assert_eq!(code, Some(1), "{text}");
    assert_eq!(steps(&service), [("tcp", true), ("tls", false)]);
}

#[actix::test]
async fn the_help_documents_the_exit_status() {
    let (code, stdout, _) = run(command(&["--help"])).await;
    assert_eq!(code, Some(0));
    assert!(stdout.contains("The exit status is 0 if"), "{stdout}");
}

#[actix::test]
async fn an_invalid_url_is_refused_before_any_check() {
    let (code, stdout, stderr) = run(command(&["--url", "ftp://host/path-4f2a"])).await;
    assert_eq!((code, &*stdout), (Some(1), ""));
    assert!(stderr.contains("expected ws://"), "{stderr}");
    assert!(!stderr.contains("path-4f2a"), "{stderr}");
}

fn signal(child: &Child, signal: &str) {
    send_signal(child.id(), signal);
}

/// The backend `host` runs `true` from the `PATH`. Here, it tells the test that it runs, and then
/// doesn't end.
#[cfg(target_os = "linux")]
#[actix::test]
async fn a_signal_during_a_check_leaves_nothing_behind() {
    use std::os::unix::fs::PermissionsExt;

    use crate::support::processes_with;

    for (name, status, said) in [
        ("INT", 130, "interrupted"),
        ("TERM", 143, "ended by SIGTERM"),
    ] {
        let (programs, temporary) = (small_path(), tempfile::tempdir().unwrap());
        let (program, began) = (programs.path().join("true"), programs.path().join("began"));
        let made = Command::new("mkfifo").arg(&began).status();
        assert!(made.unwrap().success());
        fs::remove_file(&program).unwrap();
        let script = format!(
            "#!/bin/bash\necho > {}\nread -t 1000 <> <(:)\n",
            began.display()
        );
        // `cp` writes the program. If this process did, a child that another test forks could hold
        // a copy of the descriptor, and the exec would fail with ETXTBSY.
        let source = programs.path().join("source");
        fs::write(&source, script).unwrap();
        let copied = Command::new("cp").args([&source, &program]).status();
        assert!(copied.unwrap().success());
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        // Users of sandboxes must be able to pass through it.
        fs::set_permissions(temporary.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let mut command = command(&[]);
        let command = command
            .env("PATH", programs.path())
            .env("TMPDIR", temporary.path());
        let child = command.spawn().unwrap();
        let runs = tokio::task::spawn_blocking(move || fs::read(began));
        within("the start of `true`", runs).await.unwrap().unwrap();
        signal(&child, name);
        let output = ended(child).await;
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(status), "{stderr}");
        assert!(stderr.contains(said), "{stderr}");
        assert_eq!(stderr.lines().count(), 1, "{stderr}");
        assert_eq!(fs::read_dir(temporary.path()).unwrap().count(), 0);
        for directory in [&programs, &temporary] {
            let left = processes_with(directory.path().to_str().unwrap());
            assert_eq!(left, Vec::<String>::new());
        }
    }
}

#[actix::test]
async fn a_signal_ends_the_check_of_a_service_that_does_not_answer() {
    let server = Scripted::bind().await;
    let mut command = command(&[]);
    let command = command.env("SANDBOX_URL", format!("{}/path-4f2a", server.url()));
    let child = command.spawn().unwrap();
    // The connections of the steps `tcp` and `http`.
    let _open = [server.tcp().await, server.tcp().await];
    signal(&child, "INT");
    let output = ended(child).await;
    assert_eq!(output.status.code(), Some(130));
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.contains("interrupted"), "{stderr}");
    assert!(!stderr.contains("path-4f2a"), "{stderr}");
}

#[actix::test]
async fn a_closed_pipe_ends_it_quietly() {
    let server = LocalServer::start().await.unwrap();
    for arguments in [&[][..], &["--output", "json"]] {
        let (reader, writer) = io::pipe().unwrap();
        drop(reader);
        let mut command = command(arguments);
        let command = command.env("SANDBOX_URL", server.url()).stdout(writer);
        let child = command.spawn().unwrap();
        let output = ended(child).await;
        assert_eq!(output.status.code(), Some(141), "{:?}", output.status);
        assert_eq!(output.status.signal(), None);
        assert_eq!(output.stderr, b"");
    }
    assert_eq!(server.sandbox_count(), 0);
}
