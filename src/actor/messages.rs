//! The messages that users send to the actors, with their answers.

use std::sync::atomic::{AtomicU64, Ordering};

use actix::{Addr, Message, Recipient};
use bytes::Bytes;

use super::{ProcessActor, ProcessOutput, Unclaimed};
use crate::{
    Error, Language, SandboxEvent,
    machine::{OutputPolicy, ProcessEnd, ProcessId, SandboxState, Stdin},
    protocol::{ExecId, ExecOptions, SandboxId, SandboxToken, Version},
};

/// To a [`SandboxActor`](super::SandboxActor): answer when the sandbox runs.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "Result<Opened, Error>")]
pub struct Open;

/// Answer to [`Open`]: the sandbox runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opened {
    /// Its id.
    pub sandbox_id: SandboxId,
    /// Its token, which opens it to another client.
    pub sandbox_token: SandboxToken,
}

/// To a [`SandboxActor`](super::SandboxActor): run code. Answers when the server says that it runs.
///
/// When nobody takes the answer, because the caller stopped waiting, the process is killed.
#[derive(Clone, Debug, Message)]
#[rtype(result = "Result<StartedProcess, Error>")]
pub struct Exec {
    /// The language; the server decides which it runs.
    pub language: Language,
    /// The code.
    pub code: String,
    /// Arguments, environment, working directory and timeout. Protocol v1 has none of them by itself. The window is that
    /// of the output policy, whatever it says here.
    pub options: ExecOptions,
    /// Its input.
    pub stdin: Stdin,
    /// How much output is kept; `None` for the sandbox's own policy.
    pub output: Option<OutputPolicy>,
    /// Whether to wrap the code on a server that speaks protocol v1: see
    /// [`Command::wrap_for_v1`](crate::Command::wrap_for_v1).
    pub wrap_for_v1: bool,
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
        }
    }
}

/// The same for a handle: an answer that gets lost on its way kills the process, too.
#[derive(Message)]
#[rtype(result = "Result<Unclaimed, Error>")]
pub(crate) struct Start(pub(crate) Exec, pub(crate) StartKey);

/// Names a [`Start`] for whoever asked, who has no other name for it until the answer is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct StartKey(u64);

impl StartKey {
    /// A key that this program uses once.
    pub(crate) fn unique() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

/// Answer to [`Exec`]: the process runs.
#[derive(Clone, Debug)]
pub struct StartedProcess {
    /// Its number in the sandbox.
    pub process: ProcessId,
    /// Its actor.
    pub actor: Addr<ProcessActor>,
    /// Its output.
    pub output: ProcessOutput,
}

/// To a [`SandboxActor`](super::SandboxActor): kill the sandbox. Answers when the server confirmed it.
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

/// To a [`SandboxActor`](super::SandboxActor): store the sandbox, memory included where the server can, and end it.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "Result<(), Error>")]
pub struct Checkpoint;

/// To a [`SandboxActor`](super::SandboxActor): where the sandbox stands.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "SandboxState")]
pub struct GetState;

/// To a [`SandboxActor`](super::SandboxActor): which version of the protocol its server speaks.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "Version")]
pub struct GetVersion;

/// To a [`SandboxActor`](super::SandboxActor): send every [`SandboxEvent`] from now on to the recipient.
///
/// A recipient that is slow gets [`SandboxEvent::Lagged`] with the number of events that it missed.
/// One that is gone is forgotten.
#[derive(Clone, Debug, Message)]
#[rtype(result = "()")]
pub struct Subscribe(pub Recipient<SandboxEvent>);

impl Message for SandboxEvent {
    type Result = ();
}

/// To a [`ProcessActor`]: answer when the process has ended, with how. Any number may ask.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "Result<ProcessEnd, Error>")]
pub struct Wait;

/// To a [`ProcessActor`]: kill the process. Answers when the server confirmed its end. Any number may ask.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "Result<(), Error>")]
pub struct Kill;

/// To a [`ProcessActor`]: send bytes to stdin, after all bytes before them. Answers when they are
/// accepted into the stdin budget. Protocol v1 carries UTF-8 only.
#[derive(Clone, Message)]
#[rtype(result = "Result<(), Error>")]
pub struct WriteStdin(pub Bytes);

impl std::fmt::Debug for WriteStdin {
    /// Shows no input: it may hold anything.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WriteStdin")
            .field("bytes", &self.0.len())
            .finish()
    }
}

/// To a [`ProcessActor`]: answer when all stdin accepted so far was taken: by the process's pipe in protocol v2,
/// by the connection in v1.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "Result<(), Error>")]
pub struct FlushStdin;

/// To a [`ProcessActor`]: close stdin after all that was written before. Protocol v2.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "Result<(), Error>")]
pub struct CloseStdin;

/// To a [`ProcessActor`]: where its output stands, for another program that is to go on with it. Protocol v2.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "Result<ProcessPlace, Error>")]
pub struct GetPlace;

/// Answer to [`GetPlace`], and what [`AttachProcess`] begins with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProcessPlace {
    /// The id of the exec in its sandbox.
    pub exec: ExecId,
    /// Bytes of stdout and stderr that readers have taken.
    pub offsets: [u64; 2],
    /// Bytes of output that the server sends unacknowledged.
    pub window: u64,
}

/// To a [`SandboxActor`](super::SandboxActor): take over a process that another client started, where its readers
/// stopped. Answers at once; what became of the process is said by it. Protocol v2.
#[derive(Clone, Debug, Message)]
#[rtype(result = "Result<StartedProcess, Error>")]
pub struct AttachProcess {
    /// Which, and where.
    pub place: ProcessPlace,
    /// What happens to output over the window; `None` for the sandbox's own policy.
    pub output: Option<OutputPolicy>,
}
