//! [`SandboxConfig`]: the first message on `/create`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{
    ParseError, SandboxLimits, Variables,
    client_message::Env,
    excerpt,
    json::{Raw, parse_object, print},
    labels, sandbox_limits, variables,
};

/// The options of a new sandbox. The message omits options that have their default value.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct SandboxConfig {
    /// The time in seconds without a running process after which the server deletes or checkpoints
    /// the sandbox. `None`: the server's default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idle_timeout: Option<u64>,
    /// Whether the sandbox may be checkpointed.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub enable_checkpoint: bool,
    /// Whether the server checkpoints an idle sandbox instead of deleting it. Requires
    /// `enable_checkpoint`.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub enable_idle_timeout_auto_checkpoint: bool,
    /// Whether another instance of the service may take over the sandbox. Requires
    /// `enable_checkpoint`.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub enable_sandbox_handoff: bool,
    /// The name of the filesystem snapshot to start from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub filesystem_snapshot_name: Option<String>,
    /// Names and values by which the server's list can be filtered (v2).
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Variables for every exec of the sandbox (v2).
    #[serde(skip_serializing_if = "Variables::is_empty")]
    pub env: Variables,
    /// The time in seconds after the creation at which the server ends the sandbox (v2). `None`: no
    /// limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_lifetime: Option<u64>,
    /// Limits below those of the server (v2).
    #[serde(skip_serializing_if = "SandboxLimits::is_empty")]
    pub limits: SandboxLimits,
}

/// Why a configuration is invalid.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The frame is not a JSON object.
    #[error(transparent)]
    Malformed(#[from] ParseError),
    /// The value of a key has the wrong type or is out of range.
    #[error("Invalid configuration: '{key}' must be {expected}, got {found}.")]
    WrongValue {
        /// The key.
        key: &'static str,
        /// The values that the key may have.
        expected: &'static str,
        /// The value in the message as JSON, at most 200 characters.
        found: String,
    },
    /// The value of a key exceeds a limit. Doesn't quote the value, which may be secret.
    #[error("Invalid configuration: '{key}' {problem}.")]
    NotAllowed {
        /// The key.
        key: &'static str,
        /// What is wrong with the value.
        problem: String,
    },
    /// Automatic checkpoints are enabled, but checkpoints are not.
    #[error("Idle timeout auto checkpoint requires checkpointing to be enabled.")]
    AutoCheckpointWithoutCheckpoint,
    /// Handoff is enabled, but checkpoints are not.
    #[error("Sandbox handoff requires checkpointing to be enabled.")]
    HandoffWithoutCheckpoint,
}

impl SandboxConfig {
    /// Reads a configuration. Ignores unknown keys. [`check`](Self::check) tells whether the
    /// options are consistent.
    ///
    /// # Errors
    ///
    /// Fails if the frame is not a JSON object, if a key occurs twice, or if a value has the wrong
    /// type or is out of range.
    pub fn parse(frame: &[u8]) -> Result<Self, ConfigError> {
        #[derive(Deserialize)]
        #[serde(bound(deserialize = "'de: 'a"))]
        struct Keys<'a> {
            idle_timeout: Option<Raw<'a>>,
            enable_checkpoint: Option<Raw<'a>>,
            enable_idle_timeout_auto_checkpoint: Option<Raw<'a>>,
            enable_sandbox_handoff: Option<Raw<'a>>,
            filesystem_snapshot_name: Option<Raw<'a>>,
            labels: Option<Raw<'a>>,
            env: Option<Raw<'a>>,
            max_lifetime: Option<Raw<'a>>,
            limits: Option<Raw<'a>>,
        }
        let keys: Keys<'_> = parse_object(frame)?;
        let seconds = |value: Raw<'_>| value.number().filter(|&seconds: &u64| seconds > 0);
        let seconds = |key, value: Option<Raw<'_>>| {
            let expected = "a whole number of seconds, at least 1";
            let read = |value| seconds(value).ok_or_else(|| wrong(key, expected, value));
            value.map(read).transpose()
        };
        let flag = |key, value: Option<Raw<'_>>| match value {
            None => Ok(false),
            Some(value) => value
                .flag()
                .ok_or_else(|| wrong(key, "true or false", value)),
        };
        let name = keys.filesystem_snapshot_name.map(|value| {
            let name = value.text().map(Into::into);
            name.ok_or_else(|| wrong("filesystem_snapshot_name", "text", value))
        });
        Ok(Self {
            idle_timeout: seconds("idle_timeout", keys.idle_timeout)?,
            enable_checkpoint: flag("enable_checkpoint", keys.enable_checkpoint)?,
            enable_idle_timeout_auto_checkpoint: flag(
                "enable_idle_timeout_auto_checkpoint",
                keys.enable_idle_timeout_auto_checkpoint,
            )?,
            enable_sandbox_handoff: flag("enable_sandbox_handoff", keys.enable_sandbox_handoff)?,
            filesystem_snapshot_name: name.transpose()?,
            labels: texts("labels", keys.labels)?.into_iter().collect(),
            env: Variables::new(texts("env", keys.env)?),
            max_lifetime: seconds("max_lifetime", keys.max_lifetime)?,
            limits: limits(keys.limits)?,
        })
    }

    /// Whether a server needs the feature `lifetime` for this configuration. Returns the first
    /// option that needs it.
    pub fn needs_lifetime(&self) -> Option<&'static str> {
        let needed = [
            (!self.labels.is_empty(), "label"),
            (!self.env.is_empty(), "env"),
            (self.max_lifetime.is_some(), "max_lifetime"),
            (!self.limits.is_empty(), "limits"),
        ];
        let mut needed = needed.into_iter();
        needed.find_map(|(is_set, option)| is_set.then_some(option))
    }

    /// Checks whether the options are consistent and within their limits. The texts of the errors
    /// about checkpoints are those of deployed servers.
    ///
    /// # Errors
    ///
    /// Fails if automatic checkpoints or handoff are enabled without checkpoints, or if the labels,
    /// the variables or the lifetime exceed a limit.
    pub fn check(&self) -> Result<(), ConfigError> {
        if self.enable_sandbox_handoff && !self.enable_checkpoint {
            return Err(ConfigError::HandoffWithoutCheckpoint);
        }
        if self.enable_idle_timeout_auto_checkpoint && !self.enable_checkpoint {
            return Err(ConfigError::AutoCheckpointWithoutCheckpoint);
        }
        labels::check(&self.labels).map_err(not_allowed("labels"))?;
        variables::check(&self.env).map_err(not_allowed("env"))?;
        sandbox_limits::check(&self.limits).map_err(not_allowed("limits"))?;
        if self.max_lifetime.is_some_and(|it| it > MAX_SECONDS) {
            let problem = format!("is longer than {MAX_SECONDS} seconds");
            return Err(not_allowed("max_lifetime")(problem));
        }
        Ok(())
    }

    /// The configuration as the text of a frame.
    pub fn encode(&self) -> String {
        print(self)
    }
}

/// Longest lifetime, in seconds: about 136 years. Adding it to an instant doesn't overflow.
pub const MAX_SECONDS: u64 = u32::MAX as u64;

/// Reads an object of text. Doesn't quote the value in an error, because it may be secret.
fn texts(key: &'static str, value: Option<Raw<'_>>) -> Result<Vec<(String, String)>, ConfigError> {
    match value.map(Raw::read) {
        None => Ok(Vec::new()),
        Some(Some(Env(texts))) => Ok(texts),
        Some(None) => Err(not_allowed(key)("must be an object of text".to_owned())),
    }
}

/// Reads limits. A limit that this version doesn't know is an error, because it would not apply.
fn limits(value: Option<Raw<'_>>) -> Result<SandboxLimits, ConfigError> {
    let expected = "an object with the numbers `memory`, `processes` and `disk`";
    let read = |value: Raw<'_>| {
        let limits = value.read().filter(|_| value.json().starts_with('{'));
        limits.ok_or_else(|| wrong("limits", expected, value))
    };
    value.map_or(Ok(SandboxLimits::default()), read)
}

fn not_allowed(key: &'static str) -> impl Fn(String) -> ConfigError {
    move |problem| ConfigError::NotAllowed { key, problem }
}

fn wrong(key: &'static str, expected: &'static str, found: Raw<'_>) -> ConfigError {
    ConfigError::WrongValue {
        key,
        expected,
        found: excerpt(found.json().as_bytes()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_encoded_configuration_parses_back() {
        let config = SandboxConfig {
            idle_timeout: Some(60),
            enable_checkpoint: true,
            enable_sandbox_handoff: true,
            filesystem_snapshot_name: Some("snap".into()),
            labels: [("team".into(), "a=\"b\"".into())].into(),
            env: Variables::new([("KEY".into(), "a secret".into())]),
            max_lifetime: Some(3_600),
            limits: SandboxLimits {
                processes: Some(8),
                ..SandboxLimits::default()
            },
            ..SandboxConfig::default()
        };
        assert_eq!(config.check(), Ok(()));
        assert!(!format!("{config:?}").contains("a secret"));
        assert_eq!(SandboxConfig::parse(config.encode().as_bytes()), Ok(config));
        assert_eq!(SandboxConfig::default().encode(), "{}");
    }

    #[test]
    fn a_wrong_value_is_refused_with_its_key() {
        for (frame, part) in [
            (
                r#"{"idle_timeout":-1}"#,
                "'idle_timeout' must be a whole number of seconds",
            ),
            (r#"{"idle_timeout":0}"#, "at least 1, got 0"),
            (r#"{"idle_timeout":1e400}"#, "got 1e400"),
            (r#"{"idle_timeout":[[1],{"a":2}]}"#, "got [[1],{\"a\":2}]"),
            (r#"{"idle_timeout":1.5}"#, "got 1.5"),
            (r#"{"idle_timeout":"60"}"#, "got \"60\""),
            (
                r#"{"enable_checkpoint":1}"#,
                "'enable_checkpoint' must be true or false",
            ),
            (
                r#"{"filesystem_snapshot_name":[]}"#,
                "'filesystem_snapshot_name' must be text",
            ),
            (r#"{"labels":["a"]}"#, "'labels' must be an object of text"),
            (
                r#"{"labels":{"a":1}}"#,
                "'labels' must be an object of text",
            ),
            (r#"{"env":"K=V"}"#, "'env' must be an object of text"),
            (
                r#"{"max_lifetime":0}"#,
                "'max_lifetime' must be a whole number",
            ),
            (r#"{"limits":{"memory":-1}}"#, "'limits' must be an object"),
            (r#"{"limits":{"cpus":1}}"#, "got {\"cpus\":1}"),
            (r#"{"limits":[1,2,3]}"#, "got [1,2,3]"),
            ("[]", "not a JSON object"),
            ("nonsense", "not JSON"),
        ] {
            let error = SandboxConfig::parse(frame.as_bytes())
                .expect_err(frame)
                .to_string();
            assert!(error.contains(part), "{frame}: {error}");
        }
    }

    #[test]
    fn labels_variables_and_lifetimes_have_limits() {
        let labels = |labels: Vec<(String, String)>| SandboxConfig {
            labels: labels.into_iter().collect(),
            ..SandboxConfig::default()
        };
        let label = |key: &str, value: &str| labels(vec![(key.to_owned(), value.to_owned())]);
        let many = |most| labels((0..most).map(|i| (i.to_string(), String::new())).collect());
        let env = |name: &str, value: String| SandboxConfig {
            env: Variables::new([(name.to_owned(), value)]),
            ..SandboxConfig::default()
        };
        let lifetime = |seconds| SandboxConfig {
            max_lifetime: Some(seconds),
            ..SandboxConfig::default()
        };
        for config in [
            many(64),
            label(&"k".repeat(63), &"v".repeat(255)),
            env("K", "v".repeat(variables::MAX_BYTES - 1)),
            env("K", "a=b\n".into()),
            lifetime(MAX_SECONDS),
        ] {
            assert_eq!(config.check(), Ok(()));
            assert!(config.needs_lifetime().is_some());
        }
        for (config, part) in [
            (many(65), "'labels' contains 65 labels; at most 64"),
            (label("", "v"), "'labels' contains an empty key"),
            (label(&"k".repeat(64), "v"), "a key of 64 bytes; at most 63"),
            (
                label("k", &"v".repeat(256)),
                "a value of 256 bytes; at most 255",
            ),
            (label("a=b", "v"), "the key \"a=b\", which contains '='"),
            (label("a\n", "v"), "the key \"a\\n\", which contains"),
            (env("", "v".into()), "'env' contains an empty name"),
            (
                env("A=B", "v".into()),
                "the name \"A=B\", which contains '='",
            ),
            (env("A\0", "v".into()), "which contains '=' or a zero byte"),
            (env("A", "v\0".into()), "a value with a zero byte"),
            (env("K", "v".repeat(variables::MAX_BYTES)), "at most 65536"),
            (
                SandboxConfig {
                    limits: SandboxLimits {
                        disk: Some(0),
                        ..SandboxLimits::default()
                    },
                    ..SandboxConfig::default()
                },
                "'limits' contains 0 for `disk`",
            ),
            (lifetime(MAX_SECONDS + 1), "'max_lifetime' is longer than"),
        ] {
            let error = config.check().unwrap_err().to_string();
            assert!(error.contains(part), "{part}: {error}");
        }
    }

    #[test]
    fn options_that_need_checkpoint_are_refused_without_it() {
        let handoff = SandboxConfig {
            enable_sandbox_handoff: true,
            ..Default::default()
        };
        assert_eq!(handoff.check(), Err(ConfigError::HandoffWithoutCheckpoint));
        let auto = SandboxConfig {
            enable_idle_timeout_auto_checkpoint: true,
            ..Default::default()
        };
        assert_eq!(
            auto.check(),
            Err(ConfigError::AutoCheckpointWithoutCheckpoint)
        );
        assert_eq!(
            SandboxConfig {
                enable_checkpoint: true,
                ..handoff
            }
            .check(),
            Ok(())
        );
    }
}
