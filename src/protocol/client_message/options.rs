//! [`ExecOptions`]: the options of a named exec (v2).

use std::fmt;

use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{IgnoredAny, MapAccess, Visitor},
};

use super::{
    super::json::Raw,
    read::{Keys, wrong},
};

/// The options of a named exec (v2).
#[derive(Clone, Default, PartialEq, Eq, Serialize)]
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

impl fmt::Debug for ExecOptions {
    /// Shows no values of arguments and variables: they may hold secrets.
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
            .field("input_ends", &self.input_ends)
            .finish()
    }
}

impl ExecOptions {
    /// The maximum number of arguments and environment variables together.
    pub const MAX_VALUES: usize = 1_000;

    /// Reads the options of an exec request, or says why they can't be read.
    pub(super) fn read(keys: &Keys<'_>) -> Result<Self, String> {
        let number = |key, value: Option<Raw<'_>>| {
            let number = value.map(|value| value.number().ok_or(value)).transpose();
            number.map_err(|_| wrong(key, "a whole number, not negative"))
        };
        let args = match keys.args {
            None => Vec::new(),
            Some(args) => {
                // These elements take no memory, however many there are.
                let count = args.read::<Vec<IgnoredAny>>().map_or(0, |args| args.len());
                Self::check_count(count)?;
                args.read().ok_or_else(|| wrong("args", "a list of text"))?
            }
        };
        let env = match keys.env {
            None => Vec::new(),
            Some(env) => match env.read() {
                Some(Env(env)) => env,
                None => return Err(wrong("env", "an object of text")),
            },
        };
        Self::check_count(args.len() + env.len())?;
        let cwd = match keys.cwd {
            None => None,
            Some(cwd) => Some(cwd.text().ok_or_else(|| wrong("cwd", "text"))?),
        };
        Ok(Self {
            args,
            env,
            cwd: cwd.map(Into::into),
            timeout_ms: number("timeout_ms", keys.timeout_ms)?,
            output_grace_ms: number("output_grace_ms", keys.output_grace_ms)?,
            window: number("window", keys.window)?,
            input_ends: false,
        })
    }

    fn check_count(count: usize) -> Result<(), String> {
        match count > Self::MAX_VALUES {
            true => Err(format!(
                "There are more than {} arguments and environment variables.",
                Self::MAX_VALUES
            )),
            false => Ok(()),
        }
    }
}

fn print_env<S: Serializer>(env: &[(String, String)], to: S) -> Result<S::Ok, S::Error> {
    to.collect_map(env.iter().map(|(name, value)| (name, value)))
}

/// The environment, in order. Beyond the limit, it holds one variable more.
struct Env(Vec<(String, String)>);

impl<'de> Deserialize<'de> for Env {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct EnvVisitor;

        impl<'de> Visitor<'de> for EnvVisitor {
            type Value = Env;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of text")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Env, A::Error> {
                let mut env = Vec::new();
                while env.len() <= ExecOptions::MAX_VALUES {
                    match map.next_entry()? {
                        Some(variable) => env.push(variable),
                        None => return Ok(Env(env)),
                    }
                }
                while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                Ok(Env(env))
            }
        }
        from.deserialize_map(EnvVisitor)
    }
}
