//! [`Settings`]: what the client chose for its sandbox, and may change later.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use super::entry::Entry;
use crate::{
    protocol::{
        ConfigError, Extended, MAX_SECONDS, SandboxConfig, listing::to_millis,
        names::CONFIG_IDLE_TIMEOUT,
    },
    server::builder::Options,
};

/// The settings of a sandbox. A checkpoint stores the configuration and the times of the entry.
pub(crate) struct Settings {
    pub(super) config: SandboxConfig,
    pub(super) idle_timeout: Duration,
    /// The sandbox in the list, with the end of its lifetime.
    pub(super) entry: Arc<Entry>,
}

impl Settings {
    /// The settings of a sandbox with this configuration. `ends_at` is the end of its lifetime. The
    /// error is the reason for the client.
    pub(super) fn new(
        config: SandboxConfig,
        created: SystemTime,
        ends_at: Option<SystemTime>,
        options: &Options,
    ) -> Result<Self, String> {
        Ok(Self {
            idle_timeout: idle_timeout(config.idle_timeout, options)?,
            entry: Arc::new(Entry::new(config.labels.clone(), created, ends_at)),
            config,
        })
    }

    /// Changes the idle timeout. Returns the result for the client, or the reason of the refusal.
    pub(super) fn set_idle_timeout(
        &mut self,
        seconds: u64,
        options: &Options,
    ) -> Result<String, String> {
        if seconds == 0 {
            return Err("the idle timeout must be at least 1 second".to_owned());
        }
        self.idle_timeout = idle_timeout(Some(seconds), options)?;
        self.config.idle_timeout = Some(seconds);
        Ok("{}".to_owned())
    }

    /// Moves the end of the lifetime. Returns the result for the client, or the reason of the
    /// refusal.
    pub(super) fn extend(&self, seconds: u64) -> Result<String, String> {
        if seconds == 0 {
            return Err("the lifetime can be extended by 1 second or more, not by 0".to_owned());
        }
        let ends_at = self.entry.extend(Duration::from_secs(seconds))?;
        let ends_at_ms = to_millis(ends_at);
        serde_json::to_string(&Extended { ends_at_ms }).map_err(|error| error.to_string())
    }
}

/// Returns the idle timeout of a sandbox: the value that its client requests, at most the limit of
/// the server.
fn idle_timeout(requested: Option<u64>, options: &Options) -> Result<Duration, String> {
    let limit = options
        .max_idle_timeout
        .min(Duration::from_secs(MAX_SECONDS));
    let Some(seconds) = requested else {
        return Ok(options.default_idle_timeout.min(limit));
    };
    if seconds > MAX_SECONDS {
        return Err(ConfigError::WrongValue {
            key: CONFIG_IDLE_TIMEOUT,
            expected: "at most 4294967295 seconds",
            found: seconds.to_string(),
        }
        .to_string());
    }
    Ok(Duration::from_secs(seconds).min(limit))
}
