//! The messages to a [`SandboxActor`](super::SandboxActor), with their answers.

use std::{
    borrow::Cow,
    sync::atomic::{AtomicU64, Ordering},
};

use actix::{Addr, Message, Recipient};

use super::{Language, ProcessActor, ProcessOutput, ProcessPlace, StateReader};
use crate::{
    Error, SandboxEvent,
    machine::{OutputPolicy, ProcessId, SandboxState, Stdin},
    protocol::{
        Builtin, ExecId, ExecOptions, ExecRequest, Program, SandboxId, SandboxToken, Version,
    },
};

/// Asks a [`SandboxActor`](super::SandboxActor) to answer when the sandbox runs.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "Result<Opened, Error>")]
pub struct Open;

/// The answer to [`Open`]: the sandbox runs.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Opened {
    /// The id of the sandbox.
    pub sandbox_id: SandboxId,
    /// The secret that another client needs to attach to the sandbox.
    pub sandbox_token: SandboxToken,
    /// The state of the sandbox, for handles.
    pub(crate) state: StateReader,
}

/// What an [`Exec`] runs.
#[derive(Clone)]
#[non_exhaustive]
pub enum ExecProgram {
    /// Code.
    Code {
        /// The language. The server decides which it supports.
        language: Language,
        /// The code.
        code: String,
    },
    /// A program of the sandbox and its arguments, without a shell. The first is its path, or its
    /// name in `PATH`. Needs protocol v2.
    Argv(Vec<String>),
    /// An operation on the files of the sandbox. Needs protocol v2.
    Builtin(Builtin),
}

impl ExecProgram {
    pub(super) fn borrow(&self) -> Program<'_> {
        match self {
            Self::Code { language, code } => {
                Program::Code(ExecRequest::new(language.as_str(), code.as_str()))
            }
            Self::Argv(argv) => Program::Argv(argv.into()),
            Self::Builtin(builtin) => Program::Builtin(Cow::Borrowed(builtin)),
        }
    }
}

impl std::fmt::Debug for ExecProgram {
    /// Doesn't show the code and the arguments, because they may contain secrets.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Code { language, code } => f
                .debug_struct("Code")
                .field("language", language)
                .field("code_bytes", &code.len())
                .finish(),
            Self::Argv(argv) => f.debug_tuple("Argv").field(&argv.first()).finish(),
            Self::Builtin(builtin) => f.debug_tuple("Builtin").field(builtin).finish(),
        }
    }
}

/// Tells a [`SandboxActor`](super::SandboxActor) to run a program. Answered when the server reports
/// that the program runs.
///
/// If the caller stops waiting before the answer, the process is killed.
#[derive(Clone, Message)]
#[rtype(result = "Result<StartedProcess, Error>")]
#[non_exhaustive]
pub struct Exec {
    /// The id of the exec, of 1 to [`ExecId::MAX_BYTES`] bytes: see
    /// [`Command::exec_id`](crate::Command::exec_id). Needs protocol v2. `None`: the actor chooses
    /// an id that is new.
    pub id: Option<ExecId>,
    /// The program.
    pub program: ExecProgram,
    /// Arguments, environment, working directory and time limit. Protocol v1 supports none of
    /// them. `window` is ignored: the actor derives it from the output policy.
    pub options: ExecOptions,
    /// The input.
    pub stdin: Stdin,
    /// How much unread output to buffer. `None`: the policy of the sandbox.
    pub output: Option<OutputPolicy>,
    /// Whether the caller reads no output.
    pub(crate) discards_output: bool,
}

impl Exec {
    /// Creates a request to run code, without options: stdin stays open, and the output policy is
    /// that of the sandbox.
    pub fn new(language: impl Into<Language>, code: impl Into<String>) -> Self {
        Self::of(ExecProgram::Code {
            language: language.into(),
            code: code.into(),
        })
    }

    /// Creates a request to run a builtin, whose input and output are bytes. Its end is
    /// [`ProcessEnd::Completed`](crate::ProcessEnd::Completed).
    pub fn builtin(builtin: Builtin) -> Self {
        let mut exec = Self::of(ExecProgram::Builtin(builtin));
        exec.options.binary = true;
        exec
    }

    /// Creates a request to run a program, without options.
    pub fn of(program: ExecProgram) -> Self {
        Self {
            id: None,
            program,
            options: ExecOptions::default(),
            stdin: Stdin::Open,
            output: None,
            discards_output: false,
        }
    }
}

impl std::fmt::Debug for Exec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Exec")
            .field("id", &self.id)
            .field("program", &self.program)
            .field("options", &self.options)
            .field("stdin", &self.stdin)
            .field("output", &self.output)
            .finish_non_exhaustive()
    }
}

/// [`Exec`] for a handle. The caller can cancel it until the answer arrives, and must do so when it
/// stops waiting: see `cancel_in_background`.
#[derive(Message)]
#[rtype(result = "Result<StartedProcess, Error>")]
pub(crate) struct Start(pub(crate) Exec, pub(crate) StartKey);

/// Identifies a [`Start`], so that its caller can cancel it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct StartKey(u64);

impl StartKey {
    /// Returns a key that no other call returns.
    pub(crate) fn unique() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

/// The answer to [`Exec`]: the process runs.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct StartedProcess {
    /// The number of the process in its sandbox.
    pub process: ProcessId,
    /// The id of the exec in its sandbox, by which builtins such as
    /// [`Builtin::Signal`](crate::Builtin::Signal) name it. `None` under protocol v1.
    pub exec: Option<ExecId>,
    /// The actor of the process.
    pub actor: Addr<ProcessActor>,
    /// The output of the process.
    pub output: ProcessOutput,
}

/// Tells a [`SandboxActor`](super::SandboxActor) to kill the sandbox. Answered when the server
/// confirms the kill. See [`Sandbox::kill`](crate::Sandbox::kill).
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "Result<(), Error>")]
pub struct KillSandbox;

/// Tells a [`SandboxActor`](super::SandboxActor) to store a snapshot of the sandbox's files.
/// Answered when the snapshot is stored.
#[derive(Clone, Debug, Message)]
#[rtype(result = "Result<(), Error>")]
pub struct SnapshotFilesystem {
    /// The name of the snapshot.
    pub name: String,
}

/// Tells a [`SandboxActor`](super::SandboxActor) to checkpoint the sandbox and end the session.
/// Some servers store the memory of the sandbox, too. See
/// [`Sandbox::checkpoint`](crate::Sandbox::checkpoint).
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "Result<(), Error>")]
pub struct Checkpoint;

/// Asks a [`SandboxActor`](super::SandboxActor) for the state of the sandbox.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "SandboxState")]
pub struct GetState;

/// Asks a [`SandboxActor`](super::SandboxActor) for the protocol version of its connection.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "Version")]
pub struct GetVersion;

/// Asks a [`SandboxActor`](super::SandboxActor) for the features that the server lists. See
/// [`Sandbox::features`](crate::Sandbox::features).
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "Vec<String>")]
pub struct GetFeatures;

/// Tells a [`SandboxActor`](super::SandboxActor) to send every [`SandboxEvent`] from now on to this
/// recipient.
///
/// If the recipient's mailbox is full, events are dropped, and a [`SandboxEvent::Lagged`] reports
/// how many once there is room. The last event is [`SandboxEvent::Ended`], which is always
/// delivered. If the sandbox has already ended, it is delivered at once.
#[derive(Clone, Debug, Message)]
#[rtype(result = "()")]
pub struct Subscribe(pub Recipient<SandboxEvent>);

impl Message for SandboxEvent {
    type Result = ();
}

/// Tells a [`SandboxActor`](super::SandboxActor) to resume a process that another client started,
/// at the position where its readers stopped. Answered at once, before the server knows:
/// [`Wait`](super::Wait) tells whether the process was lost. Requires protocol v2.
#[derive(Clone, Debug, Message)]
#[rtype(result = "Result<StartedProcess, Error>")]
pub struct AttachProcess {
    /// The process, and the position where its readers stopped.
    pub place: ProcessPlace,
}
