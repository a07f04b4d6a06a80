//! [`ExecOptions`]: the options of a named exec (v2).

use serde::{Serialize, Serializer};

/// The options of a named exec (v2).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ExecOptions {
    /// The arguments of the code.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<String>,
    /// Variables that are added to the environment.
    #[serde(skip_serializing_if = "Vec::is_empty", serialize_with = "print_env")]
    pub env: Vec<(String, String)>,
    /// The working directory. A relative path starts at the default directory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cwd: Option<String>,
    /// The time limit in milliseconds, after which the server kills the exec.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
    /// How long the server reads output after the main process has exited while another process
    /// holds it open, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output_grace_ms: Option<u64>,
    /// Bytes of output that may be unacknowledged.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub window: Option<u64>,
    /// Whether the input will end, which v1 can't express. Not part of the message: `eof` says it.
    #[serde(skip)]
    pub input_ends: bool,
}

impl ExecOptions {
    /// The maximum number of arguments and environment variables together.
    pub const MAX_VALUES: usize = 1_000;
}

fn print_env<S: Serializer>(env: &[(String, String)], to: S) -> Result<S::Ok, S::Error> {
    to.collect_map(env.iter().map(|(name, value)| (name, value)))
}
