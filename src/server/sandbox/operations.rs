//! The builtins that the server performs itself, because they concern other execs or the sandbox as
//! a whole. The other builtins run inside the sandbox.

use std::io;

use nix::errno::Errno;

use super::task::Sandbox;
use crate::{
    protocol::{Builtin, BuiltinError, BuiltinErrorKind, ExecId, Signal, TerminalSize, excerpt},
    server::exec::{execution::Operation, steering::Action},
};

/// The JSON result of an operation that returns no value.
const DONE: &str = "{}";

impl Sandbox {
    /// Returns the work of a builtin that the server performs. `None`: the builtin runs inside the
    /// sandbox.
    pub(super) fn operation(&mut self, builtin: &Builtin) -> Option<Operation> {
        match builtin {
            Builtin::Signal {
                exec,
                signal,
                group,
            } => Some(self.signal(exec, *signal, *group)),
            Builtin::Resize { exec, size } => Some(self.resize(exec, *size)),
            Builtin::Metrics => Some(self.metrics()),
            Builtin::Processes => Some(self.processes()),
            Builtin::SetIdleTimeout { seconds } => Some(answer(
                self.settings.set_idle_timeout(*seconds, &self.options),
            )),
            Builtin::Extend { seconds } => Some(answer(self.settings.extend(*seconds))),
            _ => None,
        }
    }

    fn signal(&self, exec: &ExecId, signal: i32, group: bool) -> Operation {
        let what = format!("send signal {signal} to");
        match Signal::from_number(signal) {
            Some(_) => self.act(exec, what, Action::Signal { signal, group }),
            None => fail(
                BuiltinErrorKind::InvalidInput,
                format!(
                    "{signal} is not the number of a signal: use 1 to {}",
                    Signal::MAX
                ),
            ),
        }
    }

    fn resize(&self, exec: &ExecId, size: TerminalSize) -> Operation {
        match size.is_valid() {
            true => self.act(
                exec,
                "resize the terminal of".to_owned(),
                Action::Resize(size),
            ),
            false => fail(
                BuiltinErrorKind::InvalidInput,
                format!(
                    "a terminal can't have {} columns and {} rows: use 1 to {}",
                    size.columns(),
                    size.rows(),
                    TerminalSize::MAX
                ),
            ),
        }
    }

    /// Performs an action on the main process of an exec. `what` names the action in errors.
    fn act(&self, exec: &ExecId, what: String, action: Action) -> Operation {
        let shown = excerpt(exec.as_str().as_bytes());
        let what = format!("cannot {what} the process '{shown}'");
        let Some(entry) = self.state.execs.entries.get(exec) else {
            return fail(
                BuiltinErrorKind::NotFound,
                format!("{what}: the sandbox has no process with this id"),
            );
        };
        if entry.is_builtin() {
            return fail(
                BuiltinErrorKind::InvalidInput,
                format!("{what}: it runs a builtin, not a program; kill it instead"),
            );
        }
        let steering = entry.control.as_ref().and_then(|it| it.steering());
        let Some(steering) = steering.cloned() else {
            return fail(BuiltinErrorKind::NotFound, format!("{what}: it has ended"));
        };
        Box::pin(async move {
            let done = steering.act(action).await;
            done.map(|()| DONE.to_owned())
                .map_err(|error| failure(&what, &error))
        })
    }
}

/// The operation of a request that is already carried out. The error is the reason for the client.
fn answer(done: Result<String, String>) -> Operation {
    match done {
        Ok(result) => Box::pin(std::future::ready(Ok(result))),
        Err(why) => fail(BuiltinErrorKind::InvalidInput, why),
    }
}

fn fail(kind: BuiltinErrorKind, message: String) -> Operation {
    let error = BuiltinError {
        kind,
        path: None,
        message,
    };
    Box::pin(std::future::ready(Err(error)))
}

fn failure(what: &str, error: &io::Error) -> BuiltinError {
    let number = error.raw_os_error().map(Errno::from_raw);
    let (kind, why) = match number {
        Some(Errno::ESRCH) => (BuiltinErrorKind::NotFound, "it has ended".to_owned()),
        Some(Errno::ENOTTY) => (
            BuiltinErrorKind::InvalidInput,
            "it has no terminal".to_owned(),
        ),
        Some(Errno::EPERM) => (
            BuiltinErrorKind::PermissionDenied,
            "it runs as another user".to_owned(),
        ),
        Some(number) => (BuiltinErrorKind::Other, number.desc().to_owned()),
        None => (BuiltinErrorKind::Other, error.to_string()),
    };
    BuiltinError {
        kind,
        path: None,
        message: format!("{what}: {why}"),
    }
}
