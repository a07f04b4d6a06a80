//! A panic in each actor: every waiting caller gets an error.
//!
//! These tests aren't in `tests/`, because only the crate itself can force a panic.

#![cfg(all(unix, feature = "server"))]

use std::{future::IntoFuture, time::Duration};

use actix::{Context, Handler, Message};
use futures::{StreamExt, future::join_all};

use super::{
    Exec, KillSandbox, Open, ProcessActor, SandboxActor, Wait, WriteStdin,
    connection::ConnectionActor,
};
use crate::{
    ErrorKind, Language, LocalServer, Process, ProcessEnd, Sandbox, SandboxEnd, SandboxState,
    machine::LinkError,
};

#[derive(Message)]
#[rtype(result = "()")]
struct Panic;

/// Makes the connection of a sandbox panic.
#[derive(Message)]
#[rtype(result = "()")]
struct PanicInConnection;

impl Handler<Panic> for ProcessActor {
    type Result = ();
    fn handle(&mut self, _: Panic, _: &mut Context<Self>) {
        panic!("forced by a test");
    }
}

impl Handler<Panic> for ConnectionActor {
    type Result = ();
    fn handle(&mut self, _: Panic, _: &mut Context<Self>) {
        panic!("forced by a test");
    }
}

impl Handler<Panic> for SandboxActor {
    type Result = ();
    fn handle(&mut self, _: Panic, _: &mut Context<Self>) {
        panic!("forced by a test");
    }
}

impl Handler<PanicInConnection> for SandboxActor {
    type Result = ();
    fn handle(&mut self, _: PanicInConnection, _: &mut Context<Self>) {
        self.connection().expect("started").do_send(Panic);
    }
}

/// "within a second of virtual or real time"; on a busy machine bash alone takes longer.
async fn soon<T>(what: &str, future: impl IntoFuture<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(60), future)
        .await
        .unwrap_or_else(|_| panic!("{what} hangs"))
}

async fn running() -> (LocalServer, Sandbox, Process) {
    let server = LocalServer::start().await.expect("a server");
    let sandbox = Sandbox::create(server.url()).await.expect("a sandbox");
    let process = sandbox
        .exec(Language::Bash, "echo begun; sleep 1000")
        .await
        .expect("started");
    let begun = process
        .stdout()
        .next()
        .await
        .expect("some")
        .expect("output");
    assert_eq!(begun, "begun\n");
    (server, sandbox, process)
}

#[actix::test]
async fn a_panic_in_the_process_actor_fails_only_its_callers() {
    let (_server, sandbox, process) = running().await;
    let waits = join_all((0..3).map(|_| process.wait()));
    let kill_of_another_kind = process.addr().send(Panic);
    let mut stdout = process.stdout();
    let (waits, _, item) = soon("the callers", async {
        futures::future::join3(waits, kill_of_another_kind, stdout.next()).await
    })
    .await;
    for wait in waits {
        assert_eq!(wait.expect_err("an error").kind(), ErrorKind::ActorGone);
    }
    assert_eq!(
        item.expect("an item").expect_err("an error").kind(),
        ErrorKind::ActorGone
    );
    assert!(soon("the end", stdout.next()).await.is_none());
    assert_eq!(
        soon("kill", process.kill()).await.expect_err("gone").kind(),
        ErrorKind::ActorGone
    );
    assert_eq!(
        soon("write", process.write_to_stdin("x"))
            .await
            .expect_err("gone")
            .kind(),
        ErrorKind::ActorGone
    );

    // A process without its actor is killed, so the sandbox can run the next one.
    let output = soon("the next", async {
        loop {
            match sandbox.run(Language::Bash, "echo next").await {
                Err(error) if error.kind() == ErrorKind::ProcessRunning => {
                    tokio::task::yield_now().await
                }
                other => return other,
            }
        }
    })
    .await;
    assert_eq!(output.expect("ran").stdout, "next\n");
}

#[actix::test]
async fn a_panic_in_the_sandbox_actor_fails_every_caller() {
    let (_server, sandbox, process) = running().await;
    let addr = sandbox.addr();
    let mut stdout = process.stdout();
    let pending = async {
        futures::join!(
            process.wait(),
            process.kill(),
            stdout.next(),
            addr.send(Panic),
            sandbox.kill(),
            sandbox.exec(Language::Bash, "echo"),
        )
    };
    let (wait, kill, item, _, sandbox_kill, exec) = soon("the callers", pending).await;
    // The actor of the process still runs and reports the end.
    let end = wait.expect("an end");
    let gone = SandboxEnd::LinkLost {
        cause: LinkError::ActorGone,
        attempts: 0,
    };
    assert_eq!(end, ProcessEnd::SandboxLost { end: gone.clone() });
    assert_eq!(kill.expect_err("an error").kind(), ErrorKind::ActorGone);
    assert_eq!(
        item.expect("an item").expect_err("an error").kind(),
        ErrorKind::ActorGone
    );
    assert_eq!(
        sandbox_kill.expect_err("an error").kind(),
        ErrorKind::ActorGone
    );
    assert_eq!(exec.expect_err("an error").kind(), ErrorKind::ActorGone);
    assert_eq!(sandbox.state(), SandboxState::Ended(gone));
}

#[actix::test]
async fn a_panic_in_the_connection_actor_fails_every_caller() {
    let (_server, sandbox, process) = running().await;
    let mut stdout = process.stdout();
    let pending = async {
        futures::join!(
            process.wait(),
            process.kill(),
            stdout.next(),
            sandbox.kill(),
            sandbox.addr().send(PanicInConnection),
        )
    };
    let (wait, kill, item, sandbox_kill, _) = soon("the callers", pending).await;
    assert!(matches!(
        wait.expect("an end"),
        ProcessEnd::SandboxLost { .. }
    ));
    assert_eq!(kill.expect_err("an error").kind(), ErrorKind::ActorGone);
    assert_eq!(
        item.expect("an item").expect_err("an error").kind(),
        ErrorKind::ActorGone
    );
    assert_eq!(
        sandbox_kill.expect_err("an error").kind(),
        ErrorKind::ActorGone
    );
    let state = sandbox.state();
    assert!(matches!(
        state,
        SandboxState::Ended(SandboxEnd::LinkLost {
            cause: LinkError::ActorGone,
            ..
        })
    ));
    assert_eq!(
        soon("exec", sandbox.exec(Language::Bash, ""))
            .await
            .expect_err("over")
            .kind(),
        ErrorKind::WrongState
    );
}

#[actix::test]
async fn a_panic_while_the_sandbox_is_opened_fails_the_opening() {
    use actix::Actor;
    // The listener never answers, so opening stays pending.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("ws://{}", listener.local_addr().expect("bound"));
    for in_connection in [false, true] {
        let addr = Sandbox::create(&url).into_actor().expect("options").start();
        let (opened, _) = soon("the opening", async {
            let forced = async {
                if in_connection {
                    addr.send(PanicInConnection).await
                } else {
                    addr.send(Panic).await
                }
            };
            futures::join!(addr.send(Open), forced)
        })
        .await;
        match (in_connection, opened) {
            (false, Err(actix::MailboxError::Closed)) => {}
            (true, Ok(Err(error))) => assert_eq!(error.kind(), ErrorKind::ActorGone),
            (_, other) => panic!("{other:?}"),
        }
    }
}

/// Everything that handles do also works with messages alone.
#[actix::test]
async fn messages_can_do_everything_that_handles_do() {
    use actix::Actor;
    let server = LocalServer::start().await.expect("a server");
    let addr = Sandbox::create(server.url())
        .into_actor()
        .expect("options")
        .start();
    let opened = addr.send(Open).await.expect("alive").expect("opened");
    assert!(opened.sandbox_id.as_str().starts_with("sandbox-"));
    let started = addr
        .send(Exec::new(Language::Bash, "read x; echo $x"))
        .await
        .expect("alive")
        .expect("started");
    started
        .actor
        .send(WriteStdin("hi\n".into()))
        .await
        .expect("alive")
        .expect("written");
    let piece = started
        .output
        .stdout()
        .next()
        .await
        .expect("some")
        .expect("output");
    assert_eq!(piece, "hi\n");
    assert_eq!(
        started
            .actor
            .send(Wait)
            .await
            .expect("alive")
            .expect("ended"),
        ProcessEnd::Exited(0)
    );
    addr.send(KillSandbox)
        .await
        .expect("alive")
        .expect("killed");
}
