//! The command `actix-sandbox serve` as users run it: its arguments and its output, how it reacts
//! to signals, and what it leaves behind.

#[cfg(target_os = "linux")]
mod init;
#[cfg(target_os = "linux")]
mod inside_gvisor;
#[cfg(target_os = "linux")]
mod killed;
#[cfg(target_os = "linux")]
mod mounts;
#[cfg(target_os = "linux")]
mod private_group;
mod secret;
#[cfg(target_os = "linux")]
mod starvation;

use std::{ffi::OsStr, fs, os::unix::ffi::OsStrExt, path::Path, time::Duration};

use crate::support::{
    SuspendedWatchdog,
    backend::start_if_possible,
    program::{Program, refused, refused_with},
    within,
};
use actix_sandbox::{
    BearerToken, ErrorKind, Language, ProcessEnd, Sandbox, SandboxState, TokenError,
    server::LocalServer,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const TOKEN: &str = "a-token-for-these-tests-alone";

/// A token source that always returns this token.
fn source(token: &'static str) -> impl actix_sandbox::TokenSource {
    move || async move { Ok::<_, TokenError>(BearerToken::new(token)) }
}

/// Sends a request. Returns the status line and the rest of the answer.
async fn ask(program: &Program, request: &str) -> (String, String) {
    let address = program.address();
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let request = format!("{request} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    within("an answer", stream.read_to_string(&mut answer))
        .await
        .unwrap();
    let (line, rest) = answer.split_once("\r\n").unwrap();
    (line.to_owned(), rest.to_owned())
}

#[actix::test]
async fn code_runs_and_a_signal_shuts_the_server_down_gracefully() {
    for signal in ["TERM", "INT"] {
        let mut program = Program::start(&[]);
        assert_eq!(ask(&program, "GET /healthz").await.0, "HTTP/1.1 200 OK");
        assert_eq!(ask(&program, "GET /readyz").await.0, "HTTP/1.1 200 OK");
        let sandbox = Sandbox::create(&program.url).await.unwrap();
        let output = sandbox.run(Language::Python, "print(6 * 7)").await.unwrap();
        assert_eq!(output.stdout, "42\n");
        let directory = program.directory.path().to_owned();
        assert_eq!(fs::read_dir(&directory).unwrap().count(), 1);
        assert!(program.ended_by(signal).await.success());
        assert_eq!(fs::read_dir(&directory).unwrap().count(), 0, "{signal}");
    }
}

/// As `nohup` ignores it.
#[actix::test]
async fn a_closed_terminal_stops_the_server_unless_sighup_is_ignored() {
    let mut program = Program::start(&[]);
    assert!(program.ended_by("HUP").await.success());
    let mut program = Program::start_ignoring("SIGHUP", &[]);
    program.signal("HUP");
    assert_eq!(ask(&program, "GET /healthz").await.0, "HTTP/1.1 200 OK");
    assert!(program.ended_by("TERM").await.success());
}

/// Runs on each backend that works on this machine.
#[actix::test]
async fn exit_codes_are_reported_with_sigchld_ignored() {
    for backend in ["host", "namespace", "gvisor"] {
        let builder = LocalServer::builder().backend(backend.parse().unwrap());
        let Some(server) = start_if_possible(builder).await else {
            continue;
        };
        server.stop().await;
        let mut program = Program::start_ignoring("SIGCHLD", &["--backend", backend]);
        let sandbox = Sandbox::create(&program.url).await.unwrap();
        let process = sandbox.exec(Language::Bash, "exit 3").await.unwrap();
        let end = within("the end of the process", process.wait()).await;
        assert_eq!(end.unwrap(), ProcessEnd::Exited(3), "{backend}");
        assert!(program.ended_by("TERM").await.success(), "{backend}");
    }
}

/// `timeout` and cargo send two signals at once.
#[actix::test]
async fn two_signals_at_once_still_shut_down_gracefully() {
    let mut program = Program::start(&[]);
    let sandbox = Sandbox::create(&program.url).await.unwrap();
    let _process = sandbox.exec(Language::Bash, "sleep 1000").await.unwrap();
    let directory = program.directory.path().to_owned();
    program.signal("INT");
    program.signal("TERM");
    let status = program.ended_by("TERM").await;
    assert!(status.success(), "{status}");
    assert_eq!(fs::read_dir(&directory).unwrap().count(), 0);
}

/// Longer than a busy machine takes to end a process, and shorter than the 15 s that dropping a
/// server can take.
#[cfg(target_os = "linux")]
const AT_ONCE: Duration = Duration::from_secs(8);

#[cfg(target_os = "linux")]
#[actix::test]
async fn a_later_second_signal_ends_the_server_at_once() {
    let mut program = Program::start(&[]);
    let watchdog = SuspendedWatchdog::of(program.directory.path());
    program.signal("TERM");
    // The server takes signals within 2 s for one.
    let ended = async {
        while !program.is_over() {
            program.signal("TERM");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let ended = tokio::time::timeout(Duration::from_secs(2) + AT_ONCE, ended).await;
    assert!(ended.is_ok(), "it still runs");
    drop(watchdog);
    let (status, said) = program.end().await;
    assert_eq!(status.code(), Some(1), "{said}");
    assert!(said.contains("ended at once by a second signal"), "{said}");
}

#[cfg(target_os = "linux")]
#[actix::test]
async fn the_end_of_the_grace_ends_the_server_at_once() {
    let mut program = Program::start(&["--grace", "1s"]);
    let watchdog = SuspendedWatchdog::of(program.directory.path());
    program.signal("TERM");
    let ended = tokio::time::timeout(Duration::from_secs(1) + AT_ONCE, program.end()).await;
    drop(watchdog);
    let (status, said) = ended.expect("it still runs");
    assert_eq!(status.code(), Some(1), "{said}");
    assert!(said.contains("took longer than 1s"), "{said}");
}

#[cfg(target_os = "linux")]
#[actix::test]
async fn after_the_grace_the_server_ends_and_the_watchdog_cleans_up() {
    let mut program = Program::start(&["--grace", "0s"]);
    let sandbox = Sandbox::create(&program.url).await.unwrap();
    let _process = sandbox.exec(Language::Bash, "sleep 1000").await.unwrap();
    program.signal("TERM");
    let (status, said) = program.end().await;
    assert_eq!(status.code(), Some(1), "{said}");
    assert!(said.contains("took longer than 0ns"), "{said}");
    killed::nothing_is_left_in(program.directory.path()).await;
}

#[actix::test]
async fn only_holders_of_the_access_token_get_in() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    fs::write(&file, format!("{TOKEN}\n")).unwrap();
    let file = file.to_str().unwrap();
    let by_file = Program::start(&["--token-file", file]);
    let by_variable = Program::start_with(&[], &[("ACTIX_SANDBOX_TOKEN", TOKEN)]);
    for program in [by_file, by_variable] {
        let sandbox = Sandbox::create(&program.url).bearer_token_source(source(TOKEN));
        let output = sandbox.await.unwrap().run(Language::Bash, "echo in").await;
        assert_eq!(output.unwrap().stdout, "in\n");
        let without = Sandbox::create(&program.url).await.unwrap_err();
        let wrong = source("another-token-of-some-length");
        let wrong = Sandbox::create(&program.url).bearer_token_source(wrong);
        for error in [without, wrong.await.unwrap_err()] {
            assert_eq!(error.kind(), ErrorKind::UpgradeRefused, "{error}");
            assert!(!error.to_string().contains(TOKEN));
        }
        let (status, rest) = ask(&program, &format!("POST {}/execute", program.secret())).await;
        assert_eq!(status, "HTTP/1.1 401 Unauthorized");
        assert!(rest.to_lowercase().contains("www-authenticate: bearer"));
        // Health checks need no token. They only show that the server is up.
        assert_eq!(ask(&program, "GET /healthz").await.0, "HTTP/1.1 200 OK");
        #[cfg(target_os = "linux")]
        assert_eq!(crate::support::processes_with(TOKEN), Vec::<String>::new());
        let log = program.log_at_the_end().await;
        assert!(log.contains("listening") || !log.is_empty(), "{log}");
        assert!(!log.contains(TOKEN), "{log}");
    }
}

#[test]
fn wrong_arguments_are_named_with_what_was_expected() {
    let folder = tempfile::tempdir().unwrap();
    let short = folder.path().join("short");
    fs::write(&short, "short").unwrap();
    let (short, missing) = (short.to_str().unwrap(), "/no/such/file");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    for (arguments, code, says) in [
        (
            vec!["--address", "0.0.0.0:0", "--no-secret"],
            1,
            vec!["0.0.0.0", "`--no-secret`", "--token-file", "127.0.0.1"],
        ),
        (
            vec!["--address", "nowhere"],
            1,
            vec!["`nowhere`", "host:port"],
        ),
        (vec!["--address", &taken], 1, vec![&*taken, "`--address`"]),
        (
            vec!["--directory", "/proc/no"],
            1,
            vec!["/proc/no", "`--directory`"],
        ),
        (
            vec!["--state", "/proc/no"],
            1,
            vec!["/proc/no", "`--state`"],
        ),
        (
            vec!["--backend", "namespace", "--memory", "2"],
            1,
            vec!["`--memory`: 2 bytes is too little; at least 33554432"],
        ),
        (
            vec!["--backend", "namespace", "--disk", "1KiB"],
            1,
            vec!["`--disk`: 1024 bytes is too little; at least 1048576"],
        ),
        (
            vec!["--backend", "namespace", "--sandbox-memory", "1MiB"],
            1,
            vec!["`--sandbox-memory`: 1048576 bytes is too little"],
        ),
        (
            vec!["--backend", "namespace", "--cpus", "0.001"],
            1,
            vec!["`--cpus`: 1 thousandths of a processor is too little; at least 10"],
        ),
        (
            vec!["--backend", "gvisor", "--disk", "1GiB"],
            1,
            vec!["`--disk` needs `--backend namespace`"],
        ),
        (
            vec!["--backend", "host", "--cpus", "1"],
            1,
            vec!["`--cpus` needs `--backend namespace`"],
        ),
        (
            vec!["--backend", "gvisor", "--processes", "1"],
            1,
            vec!["`--processes`: 1 is too little; at least 8"],
        ),
        (
            vec!["--backend", "namespace", "--open-files", "3"],
            1,
            vec!["`--open-files`: 3 is too little; at least 16"],
        ),
        (
            vec!["--backend", "gvisor", "--file-size", "1"],
            1,
            vec!["`--file-size`: 1 bytes is too little; at least 4096"],
        ),
        (
            vec!["--backend", "gvisor", "--runsc", "/no/such/runsc"],
            1,
            vec!["/no/such/runsc", "`--backend host`"],
        ),
        (vec!["--token-file", short], 1, vec![short, "at least 16"]),
        (
            vec!["--token-file", missing],
            1,
            vec![missing, "No such file"],
        ),
        (
            vec!["--backend", "chroot"],
            2,
            vec!["`chroot`", "gvisor", "--backend"],
        ),
        (vec!["--grace", "soon"], 2, vec!["soon", "--grace"]),
        (
            vec!["--max-message-size", "big"],
            2,
            vec!["big", "--max-message-size"],
        ),
        (
            vec!["--backend", "host", "--memory", "1GiB"],
            1,
            vec!["`--memory`", "namespace"],
        ),
        (
            vec!["--backend", "namespace", "--runsc", "x"],
            1,
            vec!["`--runsc`", "gvisor"],
        ),
        (
            vec!["--warm", "1001"],
            2,
            vec!["1001", "--warm", "from 0 to 1000"],
        ),
        (vec!["--warm", "some"], 2, vec!["some", "--warm"]),
        (
            vec!["--backend", "host", "--warm", "1"],
            1,
            vec!["`--warm`", "`--backend confined`"],
        ),
        (vec!["--fast"], 2, vec!["--fast"]),
    ] {
        let (status, said) = refused(&arguments);
        assert_eq!(status.code(), Some(code), "{arguments:?}: {said}");
        for word in says {
            assert!(
                said.contains(word),
                "{arguments:?} does not say {word}: {said}"
            );
        }
        for method in ["Backend::", "builder()", "`."] {
            assert!(
                !said.contains(method),
                "{arguments:?} names a method: {said}"
            );
        }
    }
}

#[test]
fn wrong_log_levels_are_named_with_what_was_expected() {
    for (value, reason) in [
        (&b"actix_sandbox=loud"[..], "`actix_sandbox=loud`: "),
        (b"debgu", "`debgu` is not a level"),
        (b"actix_sandbox=debug, inof", "`inof` is not a level"),
        (b"actix_sandbox = debug", "`actix_sandbox = debug`: "),
        (b"debug\xff", "not valid UTF-8"),
    ] {
        let value = OsStr::from_bytes(value);
        let (status, said) = refused_with("RUST_LOG", value);
        assert_eq!(status.code(), Some(1), "{value:?}: {said}");
        for word in ["RUST_LOG", reason, "expected for example `debug`"] {
            assert!(said.contains(word), "{value:?} does not say {word}: {said}");
        }
    }
}

#[actix::test]
async fn log_levels_apply_with_spaces_and_empty_parts() {
    for (value, logs_info, logs_debug) in [
        ("", true, false),
        (" , ", true, false),
        ("info,", true, false),
        ("debug,", true, true),
        (",actix_sandbox=debug, off", true, true),
        ("WARN", false, false),
    ] {
        let program = Program::start_with(&[], &[("RUST_LOG", value)]);
        let log = program.log_at_the_end().await;
        assert_eq!(log.contains(" INFO "), logs_info, "{value}: {log}");
        assert_eq!(log.contains("DEBUG "), logs_debug, "{value}: {log}");
    }
}

/// Neither `gvisor` nor `namespace` works: there is no `runsc` on the `PATH`, and no agent.
#[actix::test]
async fn auto_that_falls_back_to_the_host_keeps_nothing_warm() {
    let path = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink("/bin/sh", path.path().join("sh")).unwrap();
    let variables = [
        ("PATH", path.path().to_str().unwrap()),
        ("ACTIX_SANDBOX_AGENT", "/no/such/agent"),
        ("RUST_LOG", "info"),
    ];
    let program = Program::start_with(&["--backend", "auto", "--warm", "2"], &variables);
    let (status, said) = ask(&program, "GET /readyz").await;
    assert_eq!(status, "HTTP/1.1 200 OK");
    assert!(!said.contains("warm"), "{said}");
    let log = program.log_at_the_end().await;
    let line = log.lines().find(|line| line.contains("has no warm pool"));
    let line = line.expect(&log);
    assert!(line.contains("WARN") && line.contains("host"), "{line}");
}

#[test]
fn help_groups_the_options_and_shows_the_default_of_each_limit() {
    let help = std::process::Command::new(env!("CARGO_BIN_EXE_actix-sandbox"))
        .args(["serve", "--help"])
        .output()
        .unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    // The options of a group, without the line breaks of a narrow terminal.
    let group = |heading: &str| {
        let (_, after) = help.split_once(&format!("\n{heading}:\n")).unwrap();
        let group = after.split("\n\n").next().unwrap();
        let options = format!("\n{group}");
        let options = options.split("\n      --").skip(1);
        let one_line = |it: &str| it.split_whitespace().collect::<Vec<_>>().join(" ");
        options.map(one_line).collect::<Vec<_>>()
    };
    let limits = group("Limits");
    assert!(limits.len() > 10, "{help}");
    for option in &limits {
        assert!(option.contains("[default: "), "{option}");
    }
    let confines = group("Confinement (needs --backend namespace or gvisor)");
    for option in [
        "memory ",
        "processes ",
        "file-size ",
        "open-files ",
        "disk ",
        "sandbox-memory ",
        "cpus ",
    ] {
        let text = confines.iter().find(|text| text.starts_with(option));
        assert!(text.unwrap().contains("[default: "), "{text:?}");
    }
    for other in ["token-file", "state", "grace", "max-", "allowed"] {
        let found = confines.iter().find(|text| text.starts_with(other));
        assert_eq!(found, None);
    }
}

/// As in `actix-sandbox serve | head -0`.
#[test]
fn it_ends_quietly_if_stdout_is_closed() {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_actix-sandbox"))
        .args(["serve", "--address", "127.0.0.1:0", "--backend", "host"])
        .env_remove("ACTIX_SANDBOX_TOKEN")
        .stdout(writer)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert!(!said.contains("panicked"), "{said}");
}

/// As in `actix-sandbox serve 2>&1 | head -1`.
#[actix::test]
async fn it_keeps_serving_if_stderr_is_closed() {
    let program = Program::start_with(&["--log-format", "json"], &[("RUST_LOG", "trace")]);
    let mut program = program.without_its_log();
    let sandbox = Sandbox::create(&program.url).await.unwrap();
    let output = sandbox.run(Language::Bash, "echo on").await.unwrap();
    assert_eq!(output.stdout, "on\n");
    assert!(program.ended_by("TERM").await.success());
}

#[test]
fn an_unknown_backend_in_the_variable_is_named() {
    let run = |name: &str| {
        std::process::Command::new(env!("CARGO_BIN_EXE_actix-sandbox"))
            .args(["serve", "--address", "nowhere"])
            .env("ACTIX_SANDBOX_BACKEND", name)
            .output()
            .unwrap()
    };
    let unknown = run("docker");
    assert_eq!(unknown.status.code(), Some(2));
    let said = String::from_utf8_lossy(&unknown.stderr);
    assert!(
        said.contains("`docker`") && said.contains("--backend"),
        "{said}"
    );
    // An empty variable counts as unset, so the address is the error.
    let empty = run("");
    let said = String::from_utf8_lossy(&empty.stderr);
    assert!(said.contains("`nowhere`"), "{said}");
}

#[actix::test]
async fn a_graceful_shutdown_checkpoints_for_the_next_server() {
    let state = tempfile::tempdir().unwrap();
    let state = state.path().to_str().unwrap();
    let mut program = Program::start(&["--state", state]);
    let kept = Sandbox::create(&program.url)
        .enable_sandbox_checkpoint(true)
        .enable_idle_timeout_auto_checkpoint(true)
        .await
        .unwrap();
    let other = Sandbox::create(&program.url).await.unwrap();
    for sandbox in [&kept, &other] {
        sandbox
            .run(Language::Bash, "echo mine > file")
            .await
            .unwrap();
    }
    let names = |sandbox: &Sandbox| {
        (
            sandbox.sandbox_id().clone(),
            sandbox.sandbox_token().clone(),
        )
    };
    let (kept, other) = (names(&kept), names(&other));
    assert!(program.ended_by("TERM").await.success());
    assert_eq!(files(&Path::new(state).join("checkpoints")), 1);

    let program = Program::start(&["--state", state]);
    let again = Sandbox::attach(&program.url, kept.0, kept.1).await.unwrap();
    assert_eq!(again.state(), SandboxState::Running);
    let output = again.run(Language::Bash, "cat file").await.unwrap();
    assert_eq!(output.stdout, "mine\n");
    let gone = Sandbox::attach(&program.url, other.0, other.1)
        .await
        .unwrap_err();
    assert_eq!(gone.kind(), ErrorKind::NotFound, "{gone}");
}

/// Other users can't read the server's files, whatever the umask of the process is.
#[actix::test]
async fn with_any_umask_others_cannot_read_the_servers_files() {
    use std::os::unix::fs::PermissionsExt;

    for umask in ["0", "0277"] {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path().join("a/state");
        let arguments = ["--state", state.to_str().unwrap()];
        let mut program = Program::start_after(&format!("umask {umask}"), &arguments);
        let sandbox = Sandbox::create(&program.url)
            .enable_sandbox_checkpoint(true)
            .enable_sandbox_handoff(true)
            .await
            .unwrap();
        sandbox.snapshot_filesystem("small").await.unwrap();
        let mut todo = vec![state.clone(), state.parent().unwrap().to_owned()];
        todo.extend(
            fs::read_dir(program.directory.path())
                .unwrap()
                .map(|it| it.unwrap().path()),
        );
        let mut files = 0;
        while let Some(path) = todo.pop() {
            let meta = fs::symlink_metadata(&path).unwrap();
            let mut expected = if meta.is_dir() { 0o700 } else { 0o600 };
            if path.starts_with(program.directory.path())
                && crate::support::backend::is("namespace")
            {
                // The users of sandboxes pass through.
                expected |= 0o011;
            }
            let mode = meta.permissions().mode() & 0o7777;
            assert_eq!(mode, expected, "umask {umask}: {}", path.display());
            files += usize::from(meta.is_file());
            if path.starts_with(&state) && meta.is_dir() {
                todo.extend(fs::read_dir(&path).unwrap().map(|it| it.unwrap().path()));
            }
        }
        assert!(files >= 2, "a snapshot and a lock");
        sandbox.kill().await.unwrap();
        assert!(program.ended_by("TERM").await.success());
    }
}

#[test]
fn a_state_directory_that_others_may_write_to_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o777);
    fs::set_permissions(folder.path(), open).unwrap();
    let (status, said) = refused(&["--state", folder.path().to_str().unwrap()]);
    assert_eq!(status.code(), Some(1), "{said}");
    assert!(
        said.contains("`--state`") && said.contains("`chmod 700 "),
        "{said}"
    );
}

fn files(directory: &Path) -> usize {
    fs::read_dir(directory).unwrap().count()
}
