//! Signals for processes.

use actix_sandbox::{
    BuiltinErrorKind, Error, ErrorKind, Language, ProcessEnd, ProtocolVersion, Signal,
    actor::{Builtin, Exec, Wait},
};
use futures::StreamExt;

use crate::support::{sandbox, sandbox_of, within};

/// Prints each signal that it gets, and ends at SIGTERM.
const LISTENER: &str = "
import signal, sys
def tell(number, frame):
    print(number, flush=True)
    if number == 15: sys.exit(7)
for number in (1, 2, 10, 12, 15, 40): signal.signal(number, tell)
print('ready', flush=True)
while True: signal.pause()
";

fn kind(error: &Error) -> Option<BuiltinErrorKind> {
    error.builtin().map(|error| error.kind)
}

#[actix::test]
async fn each_signal_reaches_the_main_process_once() {
    let (_server, sandbox) = sandbox().await;
    let process = sandbox.exec(Language::Python, LISTENER).await.unwrap();
    let mut lines = process.stdout().lines();
    let mut next = async || within("a line", lines.next()).await.unwrap().unwrap();
    assert_eq!(next().await, "ready");
    for number in [10, 1, 2, 12, 40] {
        let signal = Signal::from_number(number).unwrap();
        within("the signal", process.signal(signal)).await.unwrap();
        assert_eq!(next().await, number.to_string());
    }
    process.signal(Signal::TERM).await.unwrap();
    assert_eq!(next().await, "15");
    let end = within("the end", process.wait()).await.unwrap();
    assert_eq!(end, ProcessEnd::Exited(7));
    // The process has ended.
    let error = process.signal(Signal::TERM).await.unwrap_err();
    assert_eq!(kind(&error), Some(BuiltinErrorKind::NotFound), "{error}");
    assert!(error.to_string().contains("it has ended"), "{error}");
}

#[actix::test]
async fn a_signal_for_the_group_reaches_the_children() {
    let (_server, sandbox) = sandbox().await;
    // The shell ignores the signal, and reports how its child ended.
    let code =
        "trap : USR1; (trap - USR1; echo ready; exec sleep 1000) & wait $!; wait $!; echo $?";
    for (is_group, printed) in [(true, "138"), (false, "137")] {
        let process = sandbox.exec(Language::Bash, code).await.unwrap();
        let mut lines = process.stdout().lines();
        assert_eq!(lines.next().await.unwrap().unwrap(), "ready");
        match is_group {
            true => process.signal_group(Signal::USR1).await.unwrap(),
            false => {
                // Only the shell gets it, so the child must be ended in another way.
                process.signal(Signal::USR1).await.unwrap();
                let kill = "pkill -KILL -x sleep";
                let killed = sandbox.run(Language::Bash, kill).await.unwrap();
                assert!(killed.end.success(), "{killed:?}");
            }
        }
        let line = within("the end of the child", lines.next()).await;
        assert_eq!(line.unwrap().unwrap(), printed);
        assert!(process.wait().await.unwrap().success());
    }
}

#[actix::test]
async fn messages_send_signals() {
    let (_server, sandbox) = sandbox().await;
    let program = Exec::new(Language::Bash, "sleep 1000");
    let started = sandbox.addr().send(program).await.unwrap().unwrap();
    let signal = async |exec, signal| {
        let builtin = Builtin::Signal {
            exec,
            signal,
            group: true,
        };
        let started = sandbox.addr().send(Exec::builtin(builtin)).await;
        let end = started.unwrap().unwrap().actor.send(Wait).await;
        match within("the end", async { end.unwrap().unwrap() }).await {
            ProcessEnd::Completed(outcome) => outcome.map_err(|error| *error),
            end => panic!("{end:?}"),
        }
    };
    let exec = started.exec.unwrap();
    // Signals that do not exist.
    for number in [0, -1, 65, 99] {
        let error = signal(exec.clone(), number).await.unwrap_err();
        assert_eq!(error.kind, BuiltinErrorKind::InvalidInput, "{error}");
        assert!(error.message.contains(&number.to_string()), "{error}");
    }
    let error = signal("no-such-exec".into(), 15).await.unwrap_err();
    assert_eq!(error.kind, BuiltinErrorKind::NotFound, "{error}");
    assert_eq!(signal(exec, 15).await.unwrap(), "{}");
    let end = within("the end", started.actor.send(Wait)).await;
    assert_eq!(end.unwrap().unwrap(), ProcessEnd::Signaled(15));
}

#[actix::test]
async fn an_operation_of_the_server_takes_no_signal() {
    let (_server, sandbox) = sandbox().await;
    let write = Builtin::Write {
        path: "file".into(),
        mode: Default::default(),
        permissions: None,
    };
    let write = sandbox.addr().send(Exec::builtin(write)).await;
    let exec = write.unwrap().unwrap().exec.unwrap();
    let builtin = Builtin::Signal {
        exec,
        signal: 9,
        group: false,
    };
    let started = sandbox.addr().send(Exec::builtin(builtin)).await;
    let end = started.unwrap().unwrap().actor.send(Wait).await;
    let ProcessEnd::Completed(Err(error)) = end.unwrap().unwrap() else {
        panic!("the signal was sent");
    };
    assert_eq!(error.kind, BuiltinErrorKind::InvalidInput, "{error}");
}

#[actix::test]
async fn v1_has_neither_signals_nor_terminals() {
    let (_server, sandbox) = sandbox_of(ProtocolVersion::V1).await;
    let process = sandbox.exec(Language::Bash, "sleep 1000").await.unwrap();
    let error = process.signal(Signal::TERM).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    let error = process.resize(80, 24).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    within("the kill", process.kill()).await.unwrap();
    let error = sandbox.terminal().open().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
}
