//! Runs operations by the messages of the actors, without the handle
//! [`Files`](actix_sandbox::Files).

use actix_sandbox::{
    BuiltinError, FilePath, Language, ProcessEnd, Sandbox,
    actor::{Builtin, Exec, Stdin, Wait},
};
use futures::StreamExt;
use serde_json::Value;

use crate::support::within;

/// Runs an operation with this input. Returns its result and its output.
pub(crate) async fn perform(
    sandbox: &Sandbox,
    builtin: Builtin,
    input: &[u8],
) -> Result<(Value, Vec<u8>), BuiltinError> {
    let op = builtin.op();
    match end(sandbox, builtin, input).await {
        (ProcessEnd::Completed(Ok(result)), output) => {
            Ok((serde_json::from_str(&result).unwrap(), output))
        }
        (ProcessEnd::Completed(Err(error)), _) => Err(*error),
        (other, _) => panic!("{op}: {other}"),
    }
}

/// Runs an operation with this input. Returns its end and its output.
pub(crate) async fn end(
    sandbox: &Sandbox,
    builtin: Builtin,
    input: &[u8],
) -> (ProcessEnd, Vec<u8>) {
    let op = builtin.op();
    let mut exec = Exec::builtin(builtin);
    exec.stdin = Stdin::Bytes(input.to_vec().into());
    let started = within(op, sandbox.addr().send(exec)).await.unwrap();
    let started = started.unwrap_or_else(|error| panic!("{op}: {error}"));
    let mut stdout = started.output.stdout();
    let mut output = Vec::new();
    while let Some(piece) = within(op, stdout.next()).await {
        output.extend_from_slice(&piece.unwrap());
    }
    let end = within(op, started.actor.send(Wait)).await.unwrap();
    (end.unwrap_or_else(|error| panic!("{op}: {error}")), output)
}

/// The names in the home of the sandbox, at any depth.
pub(crate) async fn names(sandbox: &Sandbox) -> Vec<String> {
    let code = "find . -mindepth 1 2> /dev/null | LC_ALL=C sort";
    let output = within("the names", sandbox.run(Language::Bash, code)).await;
    let output = output.unwrap().stdout_lossy().into_owned();
    output.lines().map(|line| line[2..].to_owned()).collect()
}

/// Runs code that must succeed.
pub(crate) async fn python(sandbox: &Sandbox, code: &str) -> String {
    let output = within("the code", sandbox.run(Language::Python, code)).await;
    let output = output.unwrap().error_for_status().unwrap();
    output.stdout_lossy().into_owned()
}

/// Asserts that the sandbox still runs code.
pub(crate) async fn assert_goes_on(sandbox: &Sandbox) {
    let output = within("`true`", sandbox.run(Language::Bash, "true")).await;
    assert_eq!(output.unwrap().end, ProcessEnd::Exited(0));
}

pub(crate) fn read(path: impl Into<FilePath>) -> Builtin {
    Builtin::Read {
        path: path.into(),
        offset: 0,
        length: None,
    }
}

pub(crate) fn write(path: impl Into<FilePath>, mode: actix_sandbox::WriteMode) -> Builtin {
    Builtin::Write {
        path: path.into(),
        mode,
        permissions: None,
    }
}

pub(crate) fn list(path: impl Into<FilePath>, depth: u32) -> Builtin {
    Builtin::List {
        path: path.into(),
        depth,
        pattern: None,
    }
}

pub(crate) fn remove(path: impl Into<FilePath>, recursive: bool) -> Builtin {
    Builtin::Remove {
        path: path.into(),
        recursive,
    }
}

pub(crate) fn link(
    path: impl Into<FilePath>,
    target: impl Into<FilePath>,
    symbolic: bool,
) -> Builtin {
    Builtin::Link {
        path: path.into(),
        target: target.into(),
        symbolic,
    }
}
