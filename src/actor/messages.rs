//! The messages that users send to the actors, with their answers.

use std::sync::atomic::{AtomicU64, Ordering};

use actix::{Addr, Message, Recipient};

use super::{ProcessActor, ProcessOutput, Unclaimed};
use crate::{
    Error, Language, SandboxEvent,
    machine::{OutputPolicy, ProcessEnd, ProcessId, SandboxState},
    protocol::{SandboxId, SandboxToken},
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
    /// How much output is kept; `None` for the sandbox's own policy.
    pub output: Option<OutputPolicy>,
}

impl Exec {
    /// Runs `code` with the sandbox's own output policy.
    pub fn new(language: impl Into<Language>, code: impl Into<String>) -> Self {
        Self {
            language: language.into(),
            code: code.into(),
            output: None,
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

/// To a [`ProcessActor`]: send text to stdin, after all text before it. Answers when the text is
/// accepted into the stdin budget.
#[derive(Clone, Debug, Message)]
#[rtype(result = "Result<(), Error>")]
pub struct WriteStdin(pub String);

/// To a [`ProcessActor`]: answer when the connection has taken all stdin accepted so far.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "Result<(), Error>")]
pub struct FlushStdin;
