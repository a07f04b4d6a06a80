//! What a user sees when a service is lifted, and when it can't be.

use actix_sandbox::{
    ErrorKind, Language, LocalServer, ProcessEnd, ProtocolVersion, Sandbox, server::Backend,
};

use super::support::{
    lifted, patient,
    server_process::{self, ServerProcess},
    within,
};

#[actix::test]
async fn a_service_of_v1_gets_exit_codes_and_concurrent_processes() {
    let server = LocalServer::builder().max_protocol_version(ProtocolVersion::V1);
    let server = server.start().await.expect("a server");
    let sandbox = Sandbox::create(server.url()).lift(true);
    let sandbox = within("the create", sandbox).await.expect("a sandbox");
    let version = sandbox.protocol_version();
    assert_eq!(version, ProtocolVersion::Lifted);
    assert_eq!(version.to_string(), "v1, lifted");

    let first = sandbox.exec(Language::Python, "print(input()); exit(3)");
    let first = first.await.expect("started");
    let second = within(
        "the second",
        sandbox.run(Language::Bash, "echo two; exit 4"),
    )
    .await;
    let second = second.expect("ran");
    assert_eq!(second.stdout, "two\n");
    assert_eq!(second.end, ProcessEnd::Exited(4));
    first.write_to_stdin("one\n").await.expect("written");
    let stdout = within("the output", first.stdout().read_all()).await;
    assert_eq!(stdout.expect("whole"), "one\n");
    let end = within("the end", first.wait()).await;
    assert_eq!(end.expect("an end"), ProcessEnd::Exited(3));
    within("the kill", sandbox.kill()).await.expect("killed");
    assert_eq!(server.sandbox_count(), 0);
}

#[actix::test]
async fn a_service_of_v2_needs_no_lift() {
    let server = LocalServer::start().await.expect("a server");
    let sandbox = patient(server.url())
        .max_protocol_version(ProtocolVersion::V2)
        .lift(true);
    let sandbox = sandbox.await.expect("a sandbox");
    assert_eq!(sandbox.protocol_version(), ProtocolVersion::V2);
}

const SERVES: &str = "LIFT_TEST_SERVES";

/// Not a test: the server of the next test.
#[test]
fn a_server_process_of_its_own() {
    if std::env::var_os(SERVES).is_some() {
        server_process::serve(LocalServer::builder().backend(Backend::Host));
    }
}

#[actix::test]
async fn a_sandbox_without_python_is_refused_with_the_reason() {
    let path = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink("/bin/sh", path.path().join("sh")).unwrap();
    let mut command = server_process::command("start::a_server_process_of_its_own");
    let command = command.env(SERVES, "1").env("PATH", path.path());
    let server = ServerProcess::start(command);
    let error = within("the create", lifted(server.url())).await;
    let error = error.expect_err("an error");
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    let text = error.to_string();
    assert!(text.contains("python3 is not installed"), "{text}");
}

#[actix::test]
async fn an_option_that_only_the_service_could_apply_is_refused() {
    let server = LocalServer::start().await.expect("a server");
    let error = lifted(server.url()).label("job", "17").await;
    let error = error.expect_err("an error");
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.to_string().contains("label"), "{error}");
    assert_eq!(server.sandbox_count(), 0);
}
