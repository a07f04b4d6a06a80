//! [`SandboxConfig`]: the first message on `/create`.

use serde::{Deserialize, Serialize};

use super::{
    ParseError, excerpt,
    json::{Raw, parse_object, print},
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
        }
        let keys: Keys<'_> = parse_object(frame)?;
        let seconds = |value: Raw<'_>| value.number().filter(|&seconds: &u64| seconds > 0);
        let idle_timeout = keys.idle_timeout.map(|value| {
            let expected = "a whole number of seconds, at least 1";
            seconds(value).ok_or_else(|| wrong("idle_timeout", expected, value))
        });
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
            idle_timeout: idle_timeout.transpose()?,
            enable_checkpoint: flag("enable_checkpoint", keys.enable_checkpoint)?,
            enable_idle_timeout_auto_checkpoint: flag(
                "enable_idle_timeout_auto_checkpoint",
                keys.enable_idle_timeout_auto_checkpoint,
            )?,
            enable_sandbox_handoff: flag("enable_sandbox_handoff", keys.enable_sandbox_handoff)?,
            filesystem_snapshot_name: name.transpose()?,
        })
    }

    /// Checks whether the options are consistent. The texts of the errors are those of deployed
    /// servers.
    ///
    /// # Errors
    ///
    /// Fails if automatic checkpoints or handoff are enabled without checkpoints.
    pub fn check(&self) -> Result<(), ConfigError> {
        if self.enable_sandbox_handoff && !self.enable_checkpoint {
            return Err(ConfigError::HandoffWithoutCheckpoint);
        }
        if self.enable_idle_timeout_auto_checkpoint && !self.enable_checkpoint {
            return Err(ConfigError::AutoCheckpointWithoutCheckpoint);
        }
        Ok(())
    }

    /// The configuration as the text of a frame.
    pub fn encode(&self) -> String {
        print(self)
    }
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
            ..SandboxConfig::default()
        };
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
