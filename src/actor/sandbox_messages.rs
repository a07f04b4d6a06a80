//! The messages to a [`SandboxActor`](super::SandboxActor), with their answers.

use std::sync::atomic::{AtomicU64, Ordering};

use actix::{Addr, Message, Recipient};

use super::{Language, ProcessActor, ProcessOutput, ProcessPlace, StateReader};
use crate::{
    Error, SandboxEvent,
    machine::{OutputPolicy, ProcessId, SandboxState, Stdin},
    protocol::{ExecOptions, SandboxId, SandboxToken, Version},
};

/// To a [`SandboxActor`](super::SandboxActor): answer when the sandbox runs.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "Result<Opened, Error>")]
pub struct Open;

/// Answer to [`Open`]: the sandbox runs.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Opened {
    /// Its id.
    pub sandbox_id: SandboxId,
    /// Its token, with which another client can attach.
    pub sandbox_token: SandboxToken,
    /// Its state, for handles.
    pub(crate) state: StateReader,
}

/// To a [`SandboxActor`](super::SandboxActor): run code. Answers when the server reports that it
/// runs.
///
/// If the caller stops waiting before the answer, the process is killed.
#[derive(Clone, Message)]
#[rtype(result = "Result<StartedProcess, Error>")]
#[non_exhaustive]
pub struct Exec {
    /// The language. The server decides which it supports.
    pub language: Language,
    /// The code.
    pub code: String,
    /// Arguments, environment, working directory and time limit. Protocol v1 supports none of them
    /// without a wrapper. The window is that of the output policy; the value here is ignored.
    pub options: ExecOptions,
    /// Its input.
    pub stdin: Stdin,
    /// How much unread output to buffer. `None`: the policy of the sandbox.
    pub output: Option<OutputPolicy>,
    /// Whether to wrap the code on a server that speaks protocol v1: see
    /// [`Command::wrap_for_v1`](crate::Command::wrap_for_v1).
    pub wrap_for_v1: bool,
    /// Whether the caller reads no output.
    pub(crate) discards_output: bool,
}

impl Exec {
    /// Runs `code` with the sandbox's own output policy.
    pub fn new(language: impl Into<Language>, code: impl Into<String>) -> Self {
        Self {
            language: language.into(),
            code: code.into(),
            options: ExecOptions::default(),
            stdin: Stdin::Open,
            output: None,
            wrap_for_v1: false,
            discards_output: false,
        }
    }
}

impl std::fmt::Debug for Exec {
    /// Shows no code, because it may contain secrets.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Exec")
            .field("language", &self.language)
            .field("code_bytes", &self.code.len())
            .field("options", &self.options)
            .field("stdin", &self.stdin)
            .field("output", &self.output)
            .field("wrap_for_v1", &self.wrap_for_v1)
            .finish_non_exhaustive()
    }
}

/// [`Exec`] for a handle. Its caller can cancel it until it has received the answer, and must do so
/// when it stops waiting: see `cancel_in_background`.
#[derive(Message)]
#[rtype(result = "Result<StartedProcess, Error>")]
pub(crate) struct Start(pub(crate) Exec, pub(crate) StartKey);

/// The name of a [`Start`], by which its caller can cancel it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct StartKey(u64);

impl StartKey {
    /// Returns a key that no other call returns.
    pub(crate) fn unique() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

/// Answer to [`Exec`]: the process runs.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct StartedProcess {
    /// Its number in the sandbox.
    pub process: ProcessId,
    /// Its actor.
    pub actor: Addr<ProcessActor>,
    /// Its output.
    pub output: ProcessOutput,
}

/// To a [`SandboxActor`](super::SandboxActor): kill the sandbox. Answers when the server confirms
/// it.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "Result<(), Error>")]
pub struct KillSandbox;

/// To a [`SandboxActor`](super::SandboxActor): store the files of the sandbox under a name.
#[derive(Clone, Debug, Message)]
#[rtype(result = "Result<(), Error>")]
pub struct SnapshotFilesystem {
    /// The name.
    pub name: String,
}

/// To a [`SandboxActor`](super::SandboxActor): store the sandbox and end it. Servers that can also
/// store its memory.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "Result<(), Error>")]
pub struct Checkpoint;

/// To a [`SandboxActor`](super::SandboxActor): the state of the sandbox.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "SandboxState")]
pub struct GetState;

/// To a [`SandboxActor`](super::SandboxActor): the protocol version of its connection.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "Version")]
pub struct GetVersion;

/// To a [`SandboxActor`](super::SandboxActor): send every later [`SandboxEvent`] to the recipient.
///
/// A recipient whose mailbox is full misses events, and gets [`SandboxEvent::Lagged`] with their
/// number once there is room. The last event is [`SandboxEvent::Ended`], which is always delivered.
/// A recipient that subscribes after it gets it at once.
#[derive(Clone, Debug, Message)]
#[rtype(result = "()")]
pub struct Subscribe(pub Recipient<SandboxEvent>);

impl Message for SandboxEvent {
    type Result = ();
}

/// To a [`SandboxActor`](super::SandboxActor): resume a process that another client started, where
/// its readers stopped. Answers at once; ask the process how it ended. Needs protocol v2.
#[derive(Clone, Debug, Message)]
#[rtype(result = "Result<StartedProcess, Error>")]
pub struct AttachProcess {
    /// The process, and where its readers stopped.
    pub place: ProcessPlace,
}
