//! [`ProcessRef`]: another program can resume a process where the first left off.

use actix_sandbox::{
    ErrorKind, Language, LocalServer, OutputPolicy, Overflow, Process, ProcessEnd, ProcessRef,
    Sandbox, SandboxEnd,
};
use futures::StreamExt;
use tokio::io::AsyncReadExt;

use super::{
    read,
    support::{self, attach_when_free, patient, sandbox, within},
};

async fn attach(server: &LocalServer, old: Sandbox) -> Sandbox {
    let (id, token) = (old.sandbox_id().clone(), old.sandbox_token().clone());
    drop(old);
    attach_when_free(support::attach(server.url(), &id, &token)).await
}

#[actix::test]
async fn another_program_reads_on_where_the_first_stopped() {
    let (server, sandbox) = sandbox().await;
    let process = sandbox
        .exec(
            Language::Bash,
            "for i in {1..50000}; do echo $i; done; read x; echo got $x; exit 9",
        )
        .await
        .expect("started");
    let mut read_here = Vec::new();
    let mut stdout = process.stdout();
    while read_here.len() < 30_000 {
        let piece = within("output", stdout.next()).await.expect("some");
        read_here.extend_from_slice(&piece.expect("no gap"));
    }
    // The first client has buffered the rest, but hasn't read it. So the server delivers it again.
    within("the output", async {
        while read_here.len() + process.buffered_output() < 288_894 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    process.write_to_stdin("th").await.expect("written");
    within("the flush", process.flush_stdin())
        .await
        .expect("taken");
    let reference = serde_json::to_string(&process.to_ref().await.expect("a name"));
    let reference = reference.expect("JSON");
    let token = sandbox.sandbox_token().expose_secret().to_owned();
    assert!(!reference.contains(&token), "it holds no secret");
    drop((stdout, process));

    let sandbox = attach(&server, sandbox).await;
    let reference: ProcessRef = serde_json::from_str(&reference).expect("a reference");
    let process = sandbox.attach_process(&reference).await.expect("attached");
    process.write_to_stdin("is\n").await.expect("written");
    let rest = within("the rest", read(process.stdout())).await;
    let mut expected: String = (1..=50_000).map(|i| format!("{i}\n")).collect();
    expected += "got this\n";
    assert_eq!(
        String::from_utf8([read_here, rest.expect("whole")].concat()).expect("text"),
        expected
    );
    let end = within("the end", process.wait()).await;
    assert_eq!(end.expect("an end"), ProcessEnd::Exited(9));

    let twice = sandbox.attach_process(&reference).await;
    drop(twice);
    sandbox.kill().await.expect("killed");
}

/// Starts a process that prints this many bytes, and waits until the client has them.
async fn printed(sandbox: &Sandbox, bytes: usize) -> Process {
    let code = format!("head -c {bytes} /dev/zero; read; exit 9");
    let process = sandbox.exec(Language::Bash, code).await.expect("started");
    within("the output", async {
        while process.buffered_output() < bytes {
            tokio::task::yield_now().await;
        }
    })
    .await;
    process
}

#[actix::test]
async fn a_reference_is_exact_after_the_sandbox_is_lost() {
    let server = LocalServer::start().await.expect("a server");
    let sandbox = patient(server.url()).auto_reconnect(false);
    let sandbox = sandbox.await.expect("a sandbox");
    let process = printed(&sandbox, 3_000).await;
    let mut stdout = process.stdout();
    stdout.read_exact(&mut [0; 1_000]).await.expect("read");
    drop(server);
    within("the end", process.wait()).await.expect("lost");
    stdout.read_exact(&mut [0; 1_000]).await.expect("read");
    let reference = within("a name", process.to_ref()).await.expect("a name");
    assert_eq!(reference.stdout_offset(), 2_000);
}

#[actix::test]
async fn a_wait_keeps_output_after_a_reference_was_made() {
    let (server, sandbox) = sandbox().await;
    let policy = OutputPolicy {
        budget: 10_000,
        ..OutputPolicy::default()
    };
    let code = "head -c 1000000 /dev/zero";
    let command = sandbox.command(Language::Bash, code).output_policy(policy);
    let process = command.spawn().await.expect("started");
    within("the output", async {
        while process.buffered_output() < 10_000 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let reference = process.to_ref().await.expect("a name");
    let mut wait = Box::pin(process.wait());
    assert!(futures::poll!(&mut wait).is_pending());
    // When the actor answers the flush, it has already handled the `wait`.
    within("the flush", process.flush_stdin())
        .await
        .expect("none");
    drop(wait);
    drop(process);

    let sandbox = attach(&server, sandbox).await;
    let process = sandbox.attach_process(&reference).await.expect("attached");
    let all = within("the output", process.stdout().read_all()).await;
    assert_eq!(all.expect("no gap").len(), 1_000_000);
}

#[actix::test]
async fn a_process_whose_output_may_be_lost_has_no_reference() {
    let (_server, sandbox) = sandbox().await;
    for overflow in [Overflow::DropOldest, Overflow::Fail] {
        let policy = OutputPolicy {
            overflow,
            ..OutputPolicy::default()
        };
        let command = sandbox
            .command(Language::Bash, "read")
            .output_policy(policy);
        let process = command.spawn().await.expect("started");
        let error = process.to_ref().await.expect_err("refused");
        assert_eq!(error.kind(), ErrorKind::InvalidOption);
        assert!(error.to_string().contains("Overflow::Pause"), "{error}");
    }
}

#[actix::test]
async fn a_reference_that_cannot_be_resumed_gives_the_reason() {
    let (server, sandbox) = sandbox().await;
    let process = sandbox.exec(Language::Bash, "sleep 1000").await;
    let process = process.expect("started");
    let reference = process.to_ref().await.expect("a name");

    let twice = sandbox.attach_process(&reference).await;
    assert_eq!(twice.expect_err("twice").kind(), ErrorKind::WrongState);

    let other = support::create(server.url()).await.expect("another");
    let error = other
        .attach_process(&reference)
        .await
        .expect_err("another's");
    assert_eq!(error.kind(), ErrorKind::InvalidOption);
    assert!(
        error.to_string().contains(sandbox.sandbox_id().as_str()),
        "{error}"
    );

    // If the server doesn't know the exec, the process is lost, with the reason.
    let mut json = serde_json::to_value(&reference).expect("JSON");
    json["exec"] = "no such exec".into();
    let unknown: ProcessRef = serde_json::from_value(json).expect("a reference");
    let unknown = sandbox.attach_process(&unknown).await.expect("a handle");
    let end = within("the end", unknown.wait()).await.expect("an end");
    let ProcessEnd::SandboxLost {
        end: SandboxEnd::ProcessLost { reason: Some(_) },
    } = end
    else {
        panic!("{end:?}");
    };
    let output = within("its output", read(unknown.stdout())).await;
    assert!(output.is_err(), "the process may have had output");

    // The running process is undisturbed.
    within("the kill", process.kill()).await.expect("killed");
    sandbox.kill().await.expect("killed");
}
