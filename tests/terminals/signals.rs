//! Signals for processes.

use actix_sandbox::{
    BuiltinErrorKind, Error, ErrorKind, Language, ProcessEnd, ProtocolVersion, Signal,
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

/// A shell and its child print each signal that they get.
const FAMILY: &str = "
trap 'echo shell' USR1
(trap 'echo child' USR1; echo ready; while true; do sleep 0.01; done) &
while true; do wait; done
";

#[actix::test]
async fn only_a_signal_for_the_group_reaches_the_children() {
    let (_server, sandbox) = sandbox().await;
    let process = sandbox.exec(Language::Bash, FAMILY).await.unwrap();
    let mut lines = process.stdout().lines();
    let mut next = async || within("a line", lines.next()).await.unwrap().unwrap();
    assert_eq!(next().await, "ready");
    for _ in 0..5 {
        process.signal(Signal::USR1).await.unwrap();
        assert_eq!(next().await, "shell");
    }
    process.signal_group(Signal::USR1).await.unwrap();
    let mut both = [next().await, next().await];
    both.sort();
    assert_eq!(both, ["child", "shell"]);
    within("the kill", process.kill()).await.unwrap();
}

#[actix::test]
async fn a_stopped_process_stays_stopped_while_others_start_and_end() {
    let (_server, sandbox) = sandbox().await;
    let code = "echo $$; exec sleep 1000";
    let stopped = sandbox.exec(Language::Bash, code).await.unwrap();
    let pid = stopped.stdout().lines().next().await.unwrap().unwrap();
    stopped.signal(Signal::STOP).await.unwrap();
    let state = format!("cut -d ' ' -f 3 /proc/{pid}/stat");
    let state = async || {
        let output = sandbox.run(Language::Bash, &*state).await.unwrap();
        output.stdout_lossy().trim().to_owned()
    };
    let has = async |expected: &str| {
        while state().await != expected {}
    };
    within("the stop", has("T")).await;
    for _ in 0..5 {
        let other = sandbox.exec(Language::Bash, "sleep 1000").await.unwrap();
        within("the kill", other.kill()).await.unwrap();
        assert_eq!(state().await, "T");
    }
    stopped.signal(Signal::CONT).await.unwrap();
    within("the continuation", has("S")).await;
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
