//! Only callers that know the secret in the URL may call `actix-sandbox serve`.

use std::{fs, os::unix::fs::PermissionsExt, path::Path};

use actix_sandbox::{ErrorKind, Language, Sandbox};

use super::{TOKEN, ask, source};
use crate::support::{
    program::{Program, refused},
    within,
};

/// Checks that code runs through the URL that the server printed.
async fn works(program: &Program) {
    let sandbox = within("a sandbox", Sandbox::create(&program.url)).await;
    let output = sandbox.unwrap().run(Language::Bash, "echo in").await;
    assert_eq!(output.unwrap().stdout, "in\n");
}

#[actix::test]
async fn only_the_printed_url_contains_the_secret() {
    let first = Program::start(&[]);
    let second = Program::start(&[]);
    assert!(first.secret().len() > 32, "{}", first.url);
    assert_ne!(first.secret(), second.secret());
    works(&first).await;
    let without = Sandbox::create(format!("http://{}", first.address()));
    let error = within("a refusal", without).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::UpgradeRefused, "{error}");
    let secret = first.secret()[1..].to_owned();
    #[cfg(target_os = "linux")]
    assert_eq!(
        crate::support::processes_with(&secret),
        Vec::<String>::new()
    );
    let log = first.log_at_the_end().await;
    assert!(log.contains("listening"), "{log}");
    assert!(!log.contains(&secret), "{log}");
    assert!(!log.contains("WARN"), "{log}");
}

#[actix::test]
async fn a_secret_file_keeps_the_url_across_restarts() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("secret");
    let arguments = ["--secret-file", file.to_str().unwrap()];
    let mut first = Program::start(&arguments);
    let secret = first.secret().to_owned();
    assert_eq!(
        fs::metadata(&file).unwrap().permissions().mode() & 0o7777,
        0o600
    );
    assert!(first.ended_by("TERM").await.success());
    let second = Program::start(&arguments);
    assert_eq!(second.secret(), secret);
    works(&second).await;
}

#[actix::test]
async fn servers_of_one_state_have_one_secret() {
    let state = tempfile::tempdir().unwrap();
    let arguments = ["--state", state.path().to_str().unwrap()];
    let mut first = Program::start(&arguments);
    let second = Program::start(&arguments);
    assert!(!first.secret().is_empty());
    assert_eq!(first.secret(), second.secret());
    let secret = first.secret().to_owned();
    assert!(first.ended_by("TERM").await.success());
    drop(second);
    assert_eq!(Program::start(&arguments).secret(), secret);
}

#[test]
fn unsafe_secret_files_are_refused_with_the_reason() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str, mode: u32| {
        let path = folder.path().join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let good = "0123456789abcdef0123456789abcdef";
    let open = file("open", good, 0o644);
    let short = file("short", "short", 0o600);
    let private = file("private", good, 0o600);
    let link = folder.path().join("link");
    std::os::unix::fs::symlink(&private, &link).unwrap();
    let link = link.to_str().unwrap();
    for (path, says) in [
        (&*open, "mode 0644"),
        (&short, "expected 22 to 128"),
        (link, "is a symbolic link"),
        ("/no/such/directory/secret", "No such file"),
    ] {
        let (status, said) = refused(&["--secret-file", path]);
        assert_eq!(status.code(), Some(1), "{said}");
        assert!(said.contains(path) && said.contains(says), "{said}");
        assert!(!said.contains(good), "{said}");
    }
    let (status, said) = refused(&["--secret-file", &private, "--no-secret"]);
    assert_eq!(status.code(), Some(2), "{said}");
}

#[actix::test]
async fn without_a_secret_it_warns_that_every_user_may_run_code() {
    let program = Program::start(&["--no-secret"]);
    assert_eq!(program.secret(), "");
    works(&program).await;
    let log = program.log_at_the_end().await;
    assert!(log.contains("WARN") && log.contains("every user"), "{log}");
    // With a token, only its holders may run code, so there is no warning.
    let variables = [("ACTIX_SANDBOX_TOKEN", TOKEN)];
    let program = Program::start_with(&["--no-secret"], &variables);
    let sandbox = Sandbox::create(&program.url).bearer_token_source(source(TOKEN));
    sandbox.await.unwrap();
    assert!(!program.log_at_the_end().await.contains("WARN"));
}

#[actix::test]
async fn on_all_interfaces_a_warning_asks_for_tls() {
    let program = Program::start(&["--address", "0.0.0.0:0"]);
    works(&program).await;
    let log = program.log_at_the_end().await;
    assert!(log.contains("WARN") && log.contains("TLS"), "{log}");
}

/// An attack by another user of the machine, who knows only the port. It searches for texts that
/// look like a secret, and tries them all.
const OTHER_USER: &str = include_str!("../../support/call_server.py");

#[cfg(target_os = "linux")]
#[actix::test]
async fn another_user_of_the_machine_cannot_use_it() {
    let state = tempfile::tempdir().unwrap();
    let file = state.path().join("secret");
    let guarded = Program::start(&["--secret-file", file.to_str().unwrap()]);
    let shared = Program::start(&["--state", state.path().to_str().unwrap()]);
    let open = Program::start(&["--no-secret"]);
    for (program, is_open) in [(guarded, false), (shared, false), (open, true)] {
        let said = as_another_user(&program, state.path()).await;
        let expected = if is_open { "done" } else { "stopped" };
        assert!(said.starts_with("reached\n"), "{said}");
        assert!(said.contains(expected), "{said}");
        let (status, rest) = ask(&program, "POST /execute?language=bash").await;
        assert_eq!(
            status.ends_with("404 Not Found"),
            !is_open,
            "{status} {rest}"
        );
    }
}

/// Runs the attack as another user, and returns its output. It also searches the server's
/// directories.
#[cfg(target_os = "linux")]
async fn as_another_user(program: &Program, state: &Path) -> String {
    let (_, port) = program.address().rsplit_once(':').unwrap();
    let mut command = tokio::process::Command::new("setpriv");
    command
        .args(["--reuid", "65534", "--regid", "65534", "--clear-groups"])
        .args(["python3", "-c", OTHER_USER, port])
        .arg(state)
        .arg(program.directory.path())
        // Programs on the PATH of these tests may be executable only for their user.
        .env("PATH", "/usr/local/bin:/usr/bin:/bin")
        .current_dir("/");
    let output = within("the attack", command.output()).await.unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{said}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    said
}
