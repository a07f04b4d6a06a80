//! Each operation, by messages to the actors.

use actix_sandbox::{
    ConnectEvent, ListeningPort, OutputStream, ProcessEnd, Sandbox,
    actor::{Builtin, CloseStdin, Exec, Kill, StartedProcess, Wait, WriteStdin},
};
use futures::StreamExt;

use super::program::{ECHO, Program};
use crate::support::{sandbox, within};

pub(crate) async fn start(sandbox: &Sandbox, builtin: Builtin) -> StartedProcess {
    let started = within("the start", sandbox.addr().send(Exec::builtin(builtin))).await;
    started.unwrap().unwrap()
}

pub(crate) async fn end(started: &StartedProcess) -> ProcessEnd {
    let end = within("the end", started.actor.send(Wait)).await;
    end.unwrap().unwrap()
}

/// Reads a stream up to a number of bytes.
async fn read(stream: &mut OutputStream, bytes: usize) -> Vec<u8> {
    let mut read = Vec::new();
    while read.len() < bytes {
        let piece = within("output", stream.next()).await.unwrap();
        read.extend_from_slice(&piece.unwrap());
    }
    read
}

fn done() -> ProcessEnd {
    ProcessEnd::Completed(Ok("{}".to_owned()))
}

#[actix::test]
async fn messages_connect_and_end_both_directions() {
    let (_server, sandbox) = sandbox().await;
    let echo = Program::listening(&sandbox, ECHO).await;
    let started = start(&sandbox, Builtin::Connect { port: echo.port }).await;
    let mut stdout = started.output.stdout();
    let mut connected = serde_json::to_vec(&ConnectEvent::Connected).unwrap();
    connected.push(b'\n');
    assert_eq!(read(&mut stdout, connected.len()).await, connected);
    let write = WriteStdin("ping".into());
    started.actor.send(write).await.unwrap().unwrap();
    assert_eq!(read(&mut stdout, 4).await, b"ping");
    started.actor.send(CloseStdin).await.unwrap().unwrap();
    assert!(within("the end of stdout", stdout.next()).await.is_none());
    assert_eq!(end(&started).await, done());
}

#[actix::test]
async fn messages_list_ports_and_wait_for_one() {
    let (_server, sandbox) = sandbox().await;
    let code = "input(); listener.listen(); input()";
    let program = Program::bound(&sandbox, code).await;
    let wait = Builtin::WaitForPort {
        port: program.port,
        timeout_ms: None,
    };
    let wait = start(&sandbox, wait).await;
    program.tell("listen").await;
    assert_eq!(end(&wait).await, done());

    let list = start(&sandbox, Builtin::Ports).await;
    let lines = within("the list", list.output.stdout().read_all()).await;
    let lines = String::from_utf8(lines.unwrap().to_vec()).unwrap();
    let mut ports = lines
        .lines()
        .map(|line| serde_json::from_str::<ListeningPort>(line).unwrap());
    let port = ListeningPort::new([127, 0, 0, 1].into(), program.port);
    assert!(ports.any(|it| it == port), "{lines}");
    assert_eq!(end(&list).await, done());
}

#[actix::test]
async fn a_message_kills_a_connection_and_a_wait() {
    let (_server, sandbox) = sandbox().await;
    let echo = Program::listening(&sandbox, ECHO).await;
    let free = Program::bound(&sandbox, "input()").await;
    for builtin in [
        Builtin::Connect { port: echo.port },
        Builtin::WaitForPort {
            port: free.port,
            timeout_ms: None,
        },
    ] {
        let started = start(&sandbox, builtin).await;
        within("the kill", started.actor.send(Kill))
            .await
            .unwrap()
            .unwrap();
        assert_eq!(end(&started).await, ProcessEnd::Killed);
    }
}
