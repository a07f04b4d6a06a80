//! [`ExecOptions`]: the options of a named exec (v2).

use std::fmt;

use serde::{Serialize, Serializer};

use super::super::{TerminalSize, json::Object};

/// The options of a named exec (v2).
#[derive(Clone, Default, PartialEq, Eq)]
pub struct ExecOptions {
    /// The arguments of the code.
    pub args: Vec<String>,
    /// Variables that are added to the environment.
    pub env: Vec<(String, String)>,
    /// The working directory. A relative path starts at the home directory of the sandbox.
    pub cwd: Option<String>,
    /// The time limit in milliseconds, after which the server kills the exec.
    pub timeout_ms: Option<u64>,
    /// How long the server reads output after the main process has exited while another process
    /// holds it open, in milliseconds.
    pub output_grace_ms: Option<u64>,
    /// The number of bytes of output that may be unacknowledged.
    pub window: Option<u64>,
    /// Whether input and output are bytes rather than text. Then they travel in binary frames, and
    /// the server doesn't hold back incomplete code points.
    pub binary: bool,
    /// The size of the terminal that the program runs in. `None`: it runs without a terminal.
    pub terminal: Option<TerminalSize>,
}

impl fmt::Debug for ExecOptions {
    /// Doesn't show arguments and values of variables, because they may be secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lengths: Vec<_> = self.args.iter().map(String::len).collect();
        let env: Vec<_> = self
            .env
            .iter()
            .map(|(name, value)| (name, value.len()))
            .collect();
        f.debug_struct("ExecOptions")
            .field("arg_bytes", &lengths)
            .field("env_bytes", &env)
            .field("cwd", &self.cwd)
            .field("timeout_ms", &self.timeout_ms)
            .field("output_grace_ms", &self.output_grace_ms)
            .field("window", &self.window)
            .field("binary", &self.binary)
            .field("terminal", &self.terminal)
            .finish()
    }
}

impl ExecOptions {
    /// The maximum number of arguments and environment variables together.
    pub const MAX_VALUES: usize = 1_000;

    /// Adds the options to a message.
    pub(super) fn print(&self, message: Object) -> Object {
        let args = Some(&self.args).filter(|args| !args.is_empty());
        let env = Some(PrintedEnv(&self.env)).filter(|env| !env.0.is_empty());
        message
            .optional("args", args)
            .optional("env", env)
            .optional("cwd", self.cwd.as_deref())
            .optional("timeout_ms", self.timeout_ms)
            .optional("output_grace_ms", self.output_grace_ms)
            .optional("window", self.window)
            .optional("binary", self.binary.then_some(true))
            .optional("terminal", self.terminal)
    }
}

struct PrintedEnv<'a>(&'a [(String, String)]);

impl Serialize for PrintedEnv<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_map(self.0.iter().map(|(name, value)| (name, value)))
    }
}
