//! Terminals and signals by messages to the actors, without handles.

use actix_sandbox::{
    Builtin, BuiltinError, BuiltinErrorKind, Language, ProcessEnd, Sandbox, Signal, TerminalSize,
    actor::{Exec, ExecId, ExecProgram, StartedProcess, Wait, WriteStdin},
};
use futures::StreamExt;

use crate::support::{sandbox, within};

async fn start(sandbox: &Sandbox, exec: Exec) -> StartedProcess {
    let started = within("the start", sandbox.addr().send(exec)).await;
    started.unwrap().unwrap()
}

/// Runs an operation of the server.
async fn perform(sandbox: &Sandbox, builtin: Builtin) -> Result<String, BuiltinError> {
    let started = start(sandbox, Exec::builtin(builtin)).await;
    match within("the end", started.actor.send(Wait)).await.unwrap() {
        Ok(ProcessEnd::Completed(outcome)) => outcome.map_err(|error| *error),
        end => panic!("{end:?}"),
    }
}

fn signal(exec: impl Into<ExecId>, signal: i32) -> Builtin {
    Builtin::Signal {
        exec: exec.into(),
        signal,
        group: true,
    }
}

#[actix::test]
async fn messages_open_a_terminal_and_resize_it() {
    let (_server, sandbox) = sandbox().await;
    let mut terminal = Exec::of(ExecProgram::Argv(vec!["bash".into()]));
    terminal.options.binary = true;
    terminal.options.terminal = TerminalSize::new(90, 20);
    // If the end had to wait for this, the test would take too long.
    terminal.options.output_grace_ms = Some(3_600_000);
    terminal.options.env = vec![("TERM".into(), "dumb".into())];
    let terminal = start(&sandbox, terminal).await;
    let exec = terminal.exec.clone().unwrap();
    let mut screen = terminal.output.stdout();
    let mut shown = String::new();
    let mut show = async |text: &str| {
        while !shown.contains(text) {
            let piece = within(text, screen.next()).await.expect(text).unwrap();
            shown.push_str(std::str::from_utf8(&piece).unwrap());
        }
    };
    let write = async |text: &'static str| {
        let written = terminal.actor.send(WriteStdin(text.into())).await;
        written.unwrap().unwrap();
    };
    write("stty size\n").await;
    show("20 90\r\n").await;
    let size = TerminalSize::new(70, 10).unwrap();
    let resize = Builtin::Resize {
        exec: exec.clone(),
        size,
    };
    assert_eq!(perform(&sandbox, resize.clone()).await.unwrap(), "{}");
    write("stty size; exit 4\n").await;
    show("10 70\r\n").await;
    while let Some(piece) = within("the end of the screen", screen.next()).await {
        piece.unwrap();
    }
    assert!(!screen.is_cut());
    let end = within("the end", terminal.actor.send(Wait)).await;
    assert_eq!(end.unwrap().unwrap(), ProcessEnd::Exited(4));
    let error = perform(&sandbox, resize).await.unwrap_err();
    assert_eq!(error.kind, BuiltinErrorKind::NotFound, "{error}");
}

#[actix::test]
async fn messages_send_signals() {
    let (_server, sandbox) = sandbox().await;
    let started = start(&sandbox, Exec::new(Language::Bash, "sleep 1000")).await;
    let exec = started.exec.clone().unwrap();
    // Signals that do not exist.
    for number in [0, -1, 65, 99] {
        let error = perform(&sandbox, signal(exec.clone(), number))
            .await
            .unwrap_err();
        assert_eq!(error.kind, BuiltinErrorKind::InvalidInput, "{error}");
        assert!(error.message.contains(&number.to_string()), "{error}");
    }
    let unknown = perform(&sandbox, signal("no-such-exec", 15)).await;
    let error = unknown.unwrap_err();
    assert_eq!(error.kind, BuiltinErrorKind::NotFound, "{error}");
    let term = Signal::TERM.number();
    assert_eq!(perform(&sandbox, signal(exec, term)).await.unwrap(), "{}");
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
    let write = start(&sandbox, Exec::builtin(write)).await;
    let error = perform(&sandbox, signal(write.exec.unwrap(), 9))
        .await
        .unwrap_err();
    assert_eq!(error.kind, BuiltinErrorKind::InvalidInput, "{error}");
}
