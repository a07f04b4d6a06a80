//! The messages in the control frames between the server and the agent of a sandbox. Pure.

use serde::{Deserialize, Serialize};

use crate::protocol::{Builtin, TerminalSize};

/// The version of this protocol. Server and agent must have the same version.
pub(crate) const PROTOCOL: u32 = 4;

/// A message of the server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(crate) enum Request {
    /// The first message: how the agent confines itself and every process that it starts.
    Setup(Setup),
    /// Starts a program.
    Start(Start),
    /// Kills every process of an exec.
    Kill {
        /// The number of the exec.
        exec: u32,
    },
    /// Sends a signal to the main process of an exec.
    Signal {
        /// The number of the exec.
        exec: u32,
        /// The number of the signal.
        signal: i32,
        /// Whether to send it to the process group of the main process.
        group: bool,
    },
    /// Changes the size of the terminal of an exec.
    Resize {
        /// The number of the exec.
        exec: u32,
        size: TerminalSize,
    },
    /// The server no longer reads a stream of an exec. The agent closes its pipe.
    Close {
        /// The number of the exec.
        exec: u32,
        /// Whether the stream is stderr. Otherwise it is stdout.
        stderr: bool,
    },
    /// Asks the agent to prepare for a checkpoint of memory. The agent kills the execs that have
    /// not ended, answers with [`Reply::Suspended`], and sends nothing more. From then on it drops
    /// the output of background processes.
    Suspend,
    /// The first message of a server that has restored the memory. The agent sends [`Reply::Hello`]
    /// again, and the server a setup.
    ///
    /// This message and [`Reply::Hello`] are the same in every version of the protocol, because the
    /// agent may come from another release than the server.
    Resume,
}

/// How an agent confines itself and the processes that it starts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Setup {
    pub(crate) place: Place,
    /// The limits of each process.
    pub(crate) limits: Limits,
}

/// Where an agent runs. It decides how the agent confines code and finds the processes of an exec.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Place {
    /// In namespaces of the machine's kernel, as the same user as code. A filter limits the system
    /// calls of code, and each exec has a reaper.
    Namespace {
        /// System calls to deny, in addition to those that the agent always denies.
        denied_calls: Vec<String>,
    },
    /// In gVisor, as root, with only the privileges that it needs to start and to kill processes of
    /// this user. A supplementary group marks the processes of each exec, and code can't leave it.
    Gvisor {
        /// The user ID and group ID of code.
        user: u32,
    },
}

impl Default for Place {
    fn default() -> Self {
        Self::Namespace {
            denied_calls: Vec::new(),
        }
    }
}

/// The resource limits of each process that runs code. See setrlimit(2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Limits {
    /// The memory of a process, in bytes. The agent sets it as `RLIMIT_DATA`. gVisor applies that
    /// limit only to the heap that brk(2) allocates, so there the agent also measures the memory.
    pub(crate) data: u64,
    /// `RLIMIT_NPROC`.
    pub(crate) processes: u64,
    /// `RLIMIT_FSIZE`, in bytes.
    pub(crate) file_size: u64,
    /// `RLIMIT_NOFILE`.
    pub(crate) open_files: u64,
}

impl Limits {
    /// The limits as setrlimit(2) takes them.
    #[cfg(target_os = "linux")]
    pub(crate) fn of_processes(self) -> [(rustix::process::Resource, u64); 4] {
        use rustix::process::Resource;
        [
            (Resource::Data, self.data),
            (Resource::Nproc, self.processes),
            (Resource::Fsize, self.file_size),
            (Resource::Nofile, self.open_files),
        ]
    }
}

/// A program to start.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Start {
    /// The number of the exec. The server uses each number once.
    pub(crate) exec: u32,
    pub(crate) program: Program,
    /// The whole environment.
    pub(crate) env: Vec<(String, String)>,
    /// The working directory.
    pub(crate) cwd: String,
    /// The size of the terminal to run the program in. `None`: it runs without a terminal.
    pub(crate) terminal: Option<TerminalSize>,
    /// A file that the agent writes before it starts the program, and removes when the main process
    /// has ended.
    pub(crate) file: Option<File>,
}

/// What to start.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Program {
    File {
        /// The path of the program, or its name in `PATH`.
        path: String,
        /// The arguments, without the name of the program.
        args: Vec<String>,
    },
    /// An operation on files, which a fork of the agent runs. Relative paths start at the working
    /// directory. The outcome is written to stderr.
    Builtin(Builtin),
}

/// A file for the agent to write. Every user in the sandbox can read it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct File {
    /// The path, which must not exist.
    pub(crate) path: String,
    pub(crate) text: String,
}

/// A message of the agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(crate) enum Reply {
    /// The first message.
    Hello {
        /// [`PROTOCOL`] of the agent.
        protocol: u32,
    },
    /// The answer to [`Request::Setup`]: the sandbox is confined.
    Ready,
    /// The answer to [`Request::Setup`] or [`Request::Start`] if it failed.
    Failed {
        /// The number of the exec; `None` for the setup.
        exec: Option<u32>,
        /// What failed.
        failure: Failure,
        /// Why it failed.
        reason: String,
    },
    /// The answer to [`Request::Start`].
    Started {
        /// The number of the exec.
        exec: u32,
    },
    /// The main process of an exec has ended.
    Exited {
        /// The number of the exec.
        exec: u32,
        /// The exit code, if it exited.
        code: Option<i32>,
        /// The signal, if one ended it.
        signal: Option<i32>,
    },
    /// The answer to [`Request::Kill`]: no process of the exec is left.
    Killed {
        /// The number of the exec.
        exec: u32,
    },
    /// The answer to [`Request::Signal`] and [`Request::Resize`].
    Steered {
        /// The number of the exec.
        exec: u32,
        /// The error number, if the request failed.
        error: Option<i32>,
    },
    /// The answer to [`Request::Suspend`].
    Suspended {
        /// Whether the sandbox has processes besides the agent.
        has_processes: bool,
    },
}

/// What failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Failure {
    /// The agent could not confine itself.
    Setup,
    /// The working directory of the exec does not exist or is not a directory.
    Directory,
    /// The agent may not enter the working directory of the exec.
    DirectoryDenied,
    /// The program could not be started.
    Program,
}
