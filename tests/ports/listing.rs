//! The list of ports, and waits for a port.

use std::time::Duration;

use actix_sandbox::{BuiltinErrorKind, ErrorKind, ListeningPort};

use super::program::Program;
use crate::support::{sandbox, within};

#[actix::test]
async fn ports_are_listed_while_programs_listen() {
    let (_server, sandbox) = sandbox().await;
    let code = "
everywhere = socket.create_server(('', 0))
print(everywhere.getsockname()[1], flush=True)
input()
everywhere.close()
print('closed', flush=True)
input()";
    let mut program = Program::listening(&sandbox, code).await;
    let everywhere: u16 = program.line().await.parse().unwrap();
    let everywhere = ListeningPort::new([0, 0, 0, 0].into(), everywhere);
    let local = ListeningPort::new([127, 0, 0, 1].into(), program.port);
    let ports = within("the ports", sandbox.ports()).await.unwrap();
    assert!(ports.is_sorted());
    assert!(ports.contains(&everywhere), "{ports:?}");
    assert!(ports.contains(&local), "{ports:?}");
    program.tell("close").await;
    assert_eq!(program.line().await, "closed");
    let ports = within("the ports", sandbox.ports()).await.unwrap();
    assert!(!ports.contains(&everywhere), "{ports:?}");
    assert!(ports.contains(&local), "{ports:?}");
}

#[actix::test]
async fn a_wait_for_a_port_ends_when_a_program_listens() {
    let (_server, sandbox) = sandbox().await;
    let code = "input(); listener.listen(); listener.accept(); input()";
    let program = Program::bound(&sandbox, code).await;
    let soon = Duration::from_millis(50);
    let error = within(
        "the wait",
        sandbox.wait_for_port(program.port).timeout(soon),
    )
    .await;
    let error = error.unwrap_err();
    let kind = ErrorKind::Builtin(BuiltinErrorKind::TimedOut);
    assert_eq!(error.kind(), kind, "{error}");

    let waiting = within("the wait", sandbox.wait_for_port(program.port));
    let (waited, ()) = futures::join!(waiting, program.tell("listen"));
    waited.unwrap();
    within("connect", sandbox.connect(program.port))
        .await
        .unwrap();
}

#[actix::test]
async fn waits_for_ports_hold_back_no_other_operation() {
    let (_server, sandbox) = sandbox().await;
    let program = Program::bound(&sandbox, "input(); listener.listen(); input()").await;
    let waits = (0..40).map(|_| {
        let waiting = sandbox.wait_for_port(program.port);
        within("the wait", waiting)
    });
    let other = async {
        within("a list", sandbox.files().list("")).await.unwrap();
        program.tell("listen").await;
    };
    let (waited, ()) = futures::join!(futures::future::try_join_all(waits), other);
    waited.unwrap();
}
