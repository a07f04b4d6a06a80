//! [`SandboxConfig`]: the first message on `/create`.

use serde_json::{Map, Value};

use super::{
    ParseError, excerpt,
    json::{Picked, Wanted},
    names,
};

struct Keys;

impl Wanted for Keys {
    const KEYS: &'static [&'static str] = &[
        names::CONFIG_IDLE_TIMEOUT,
        names::CONFIG_ENABLE_CHECKPOINT,
        names::CONFIG_ENABLE_IDLE_TIMEOUT_AUTO_CHECKPOINT,
        names::CONFIG_ENABLE_SANDBOX_HANDOFF,
        names::CONFIG_FILESYSTEM_SNAPSHOT_NAME,
    ];
}

/// What a client asks of a new sandbox.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SandboxConfig {
    /// Idle time in seconds after which the sandbox is deleted, or checkpointed. `None`: the server's default.
    pub idle_timeout: Option<u64>,
    /// The sandbox may be checkpointed.
    pub enable_checkpoint: bool,
    /// Checkpoint instead of delete when idle; needs `enable_checkpoint`.
    pub enable_idle_timeout_auto_checkpoint: bool,
    /// Another instance may take the sandbox over; needs `enable_checkpoint`.
    pub enable_sandbox_handoff: bool,
    /// Start from this filesystem snapshot.
    pub filesystem_snapshot_name: Option<String>,
}

/// Why a configuration is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The frame is no JSON object.
    #[error(transparent)]
    Malformed(#[from] ParseError),
    /// A key holds a value of another type or out of range.
    #[error("Invalid configuration: '{key}' must be {expected}, got {found}.")]
    WrongValue {
        /// The key.
        key: &'static str,
        /// What it may hold.
        expected: &'static str,
        /// What it holds, as JSON, at most 200 characters.
        found: String,
    },
    /// Idle auto-checkpoint was asked for without checkpointing.
    #[error("Idle timeout auto checkpoint requires checkpointing to be enabled.")]
    AutoCheckpointWithoutCheckpoint,
    /// Handoff was asked for without checkpointing.
    #[error("Sandbox handoff requires checkpointing to be enabled.")]
    HandoffWithoutCheckpoint,
}

impl SandboxConfig {
    /// Reads a configuration. Unknown keys are ignored; whether the options fit together is for [`check`](Self::check).
    ///
    /// # Errors
    ///
    /// A frame that is no JSON object, or a key whose value is of another type or out of range.
    pub fn parse(frame: &[u8]) -> Result<Self, ConfigError> {
        let map = Picked::<Keys>::parse(frame)?.map;
        Ok(Self {
            idle_timeout: read(
                &map,
                names::CONFIG_IDLE_TIMEOUT,
                "a whole number of seconds, at least 1",
                |value| value.as_u64().filter(|&seconds| seconds > 0),
            )?,
            enable_checkpoint: flag(&map, names::CONFIG_ENABLE_CHECKPOINT)?,
            enable_idle_timeout_auto_checkpoint: flag(
                &map,
                names::CONFIG_ENABLE_IDLE_TIMEOUT_AUTO_CHECKPOINT,
            )?,
            enable_sandbox_handoff: flag(&map, names::CONFIG_ENABLE_SANDBOX_HANDOFF)?,
            filesystem_snapshot_name: read(
                &map,
                names::CONFIG_FILESYSTEM_SNAPSHOT_NAME,
                "text",
                |value| value.as_str().map(str::to_owned),
            )?,
        })
    }

    /// Whether the options fit together, in the words of deployed servers.
    ///
    /// # Errors
    ///
    /// Auto-checkpoint or handoff without checkpoint.
    pub fn check(&self) -> Result<(), ConfigError> {
        if self.enable_sandbox_handoff && !self.enable_checkpoint {
            return Err(ConfigError::HandoffWithoutCheckpoint);
        }
        if self.enable_idle_timeout_auto_checkpoint && !self.enable_checkpoint {
            return Err(ConfigError::AutoCheckpointWithoutCheckpoint);
        }
        Ok(())
    }

    /// The configuration as the text of a frame: only what differs from the default is named.
    pub fn encode(&self) -> String {
        let mut map = Map::new();
        if let Some(seconds) = self.idle_timeout {
            map.insert(names::CONFIG_IDLE_TIMEOUT.to_owned(), seconds.into());
        }
        for (key, enabled) in [
            (names::CONFIG_ENABLE_CHECKPOINT, self.enable_checkpoint),
            (
                names::CONFIG_ENABLE_IDLE_TIMEOUT_AUTO_CHECKPOINT,
                self.enable_idle_timeout_auto_checkpoint,
            ),
            (
                names::CONFIG_ENABLE_SANDBOX_HANDOFF,
                self.enable_sandbox_handoff,
            ),
        ] {
            if enabled {
                map.insert(key.to_owned(), true.into());
            }
        }
        if let Some(name) = &self.filesystem_snapshot_name {
            map.insert(
                names::CONFIG_FILESYSTEM_SNAPSHOT_NAME.to_owned(),
                name.as_str().into(),
            );
        }
        Value::Object(map).to_string()
    }
}

/// The value of a key, `None` where it is absent or null.
fn read<T>(
    map: &Map<String, Value>,
    key: &'static str,
    expected: &'static str,
    convert: impl FnOnce(&Value) -> Option<T>,
) -> Result<Option<T>, ConfigError> {
    match map.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => match convert(value) {
            Some(converted) => Ok(Some(converted)),
            None => Err(ConfigError::WrongValue {
                key,
                expected,
                found: excerpt(value.to_string().as_bytes()),
            }),
        },
    }
}

fn flag(map: &Map<String, Value>, key: &'static str) -> Result<bool, ConfigError> {
    Ok(read(map, key, "true or false", Value::as_bool)?.unwrap_or(false))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_encoded_is_parsed_back() {
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
    fn wrong_values_are_refused_by_name() {
        for (frame, part) in [
            (
                r#"{"idle_timeout":-1}"#,
                "'idle_timeout' must be a whole number of seconds",
            ),
            (r#"{"idle_timeout":0}"#, "at least 1, got 0"),
            (r#"{"idle_timeout":1e400}"#, "not JSON"),
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
