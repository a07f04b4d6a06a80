//! [`Record`]: the settings of a sandbox, which its checkpoint stores beside the files.

use std::{io, time::SystemTime};

use serde::{Deserialize, Serialize};

use crate::{
    protocol::{
        SandboxConfig, SandboxId,
        listing::{from_millis, to_millis},
    },
    server::identity::TokenHash,
};

/// The settings of a checkpointed sandbox.
#[derive(Clone)]
pub(crate) struct Record {
    pub(crate) token: TokenHash,
    pub(crate) config: SandboxConfig,
    /// When the sandbox was created. If an older checkpoint doesn't say it, when the checkpoint was
    /// read.
    pub(crate) created: SystemTime,
    /// The end of its lifetime, if it has one.
    pub(crate) ends_at: Option<SystemTime>,
}

/// The JSON form of a [`Record`].
#[derive(Serialize, Deserialize)]
struct Written {
    version: u32,
    sandbox_id: String,
    token_sha256: String,
    config: serde_json::Value,
    /// Older checkpoints lack it.
    #[serde(default)]
    created_ms: Option<u64>,
    #[serde(default)]
    ends_at_ms: Option<u64>,
}

/// The version of a record without the options that [`SandboxConfig::needs_lifetime`] names.
const PLAIN: u32 = 1;

/// The version of a record with one of these options. Servers that know only version 1 refuse such
/// a record. Otherwise they would restore the sandbox without its variables, its limits and its
/// end.
const WITH_OPTIONS: u32 = 2;

impl Record {
    pub(super) fn write(&self, id: &SandboxId) -> io::Result<Vec<u8>> {
        let version = match self.config.needs_lifetime() {
            None => PLAIN,
            Some(_) => WITH_OPTIONS,
        };
        Ok(serde_json::to_vec(&Written {
            version,
            sandbox_id: id.as_str().to_owned(),
            token_sha256: self.token.to_hex(),
            config: serde_json::from_str(&self.config.encode())?,
            created_ms: Some(to_millis(self.created)),
            ends_at_ms: self.ends_at.map(to_millis),
        })?)
    }

    pub(super) fn read(text: &[u8], id: &SandboxId) -> io::Result<Self> {
        let damaged = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what);
        let written: Written = serde_json::from_slice(text)?;
        if ![PLAIN, WITH_OPTIONS].contains(&written.version) {
            return Err(damaged("its record has another version"));
        }
        if written.sandbox_id != id.as_str() {
            return Err(damaged("it belongs to another sandbox"));
        }
        let config = SandboxConfig::parse(written.config.to_string().as_bytes());
        let config = config.and_then(|config| config.check().map(|()| config));
        let config = config.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        let token = TokenHash::from_hex(&written.token_sha256)
            .ok_or_else(|| damaged("its record has no valid token hash"))?;
        Ok(Self {
            token,
            config,
            created: written.created_ms.map_or_else(SystemTime::now, from_millis),
            ends_at: written.ends_at_ms.map(from_millis),
        })
    }
}
