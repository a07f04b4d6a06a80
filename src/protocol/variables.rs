//! [`Variables`]: the environment variables of a sandbox, and their limits.

use std::{collections::BTreeMap, fmt};

use serde::Serialize;

use super::{ExecOptions, excerpt};

/// Maximum size of all names and values together, in bytes: 64 KiB.
pub const MAX_BYTES: usize = 64 * 1024;

/// Environment variables for every exec of a sandbox.
#[derive(Clone, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Variables(BTreeMap<String, String>);

impl Variables {
    /// Collects variables. The last value of a name counts.
    pub fn new(variables: impl IntoIterator<Item = (String, String)>) -> Self {
        Self(variables.into_iter().collect())
    }

    /// Adds a variable, or replaces its value.
    pub fn set(&mut self, name: String, value: String) {
        self.0.insert(name, value);
    }

    /// Whether there is no variable.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The names and values.
    pub fn iter(&self) -> impl Iterator<Item = (&String, &String)> {
        self.0.iter()
    }
}

impl fmt::Debug for Variables {
    /// Shows the length of each value, because the values may be secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lengths = self.0.iter().map(|(name, value)| (name, value.len()));
        f.debug_map().entries(lengths).finish()
    }
}

/// Checks variables. The error says what is wrong with them, after the name of the option. It
/// quotes no value.
pub(super) fn check(variables: &Variables) -> Result<(), String> {
    let (count, most) = (variables.0.len(), ExecOptions::MAX_VALUES);
    if count > most {
        return Err(format!("contains more than {most} variables, the maximum"));
    }
    for (name, value) in variables.iter() {
        if name.is_empty() {
            return Err("contains an empty name".to_owned());
        }
        if name.contains(['=', '\0']) {
            let name = excerpt(name.as_bytes());
            return Err(format!(
                "contains the name {name:?}, which contains '=' or a zero byte"
            ));
        }
        if value.contains('\0') {
            let name = excerpt(name.as_bytes());
            return Err(format!("contains a value with a zero byte, of {name:?}"));
        }
    }
    let bytes = variables
        .iter()
        .map(|(name, value)| name.len() + value.len());
    let bytes: usize = bytes.sum();
    if bytes > MAX_BYTES {
        return Err(format!(
            "contains {bytes} bytes; at most {MAX_BYTES} bytes are allowed"
        ));
    }
    Ok(())
}
