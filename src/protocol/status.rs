//! [`Status`]: the statuses of both versions, and unknown statuses by their names.

use std::fmt;

use super::names::status_table;

/// The effect of a status on the session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Severity {
    /// Something began or was done. The session continues.
    Progress,
    /// A request failed. A reason follows, and the session continues.
    Refused,
    /// The session ends, and the client doesn't reconnect. A reason follows.
    Fatal,
    /// The session ends. No reason follows.
    FatalWithoutReason,
    /// The sandbox ended normally, and the client doesn't reconnect.
    End,
}

macro_rules! define_status {
    ($($variant:ident = $wire:literal, $severity:ident, $doc:literal;)*) => {
        /// A status of a sandbox or an exec, as the server names it.
        ///
        /// A name that this version does not know is kept as [`Status::Unknown`], never refused.
        #[derive(Clone, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum Status {
            $(#[doc = $doc] $variant,)*
            /// A status that this version does not know, with its name on the wire.
            Unknown(Box<str>),
        }

        impl Status {
            /// Every status that this version knows, in the order of the table.
            pub const KNOWN: &'static [Self] = &[$(Self::$variant,)*];

            /// The status with this name on the wire.
            pub(crate) fn from_wire(name: &str) -> Self {
                match name {
                    $($wire => Self::$variant,)*
                    other => Self::Unknown(other.into()),
                }
            }

            /// The name on the wire.
            pub fn as_str(&self) -> &str {
                match self {
                    $(Self::$variant => $wire,)*
                    Self::Unknown(name) => name,
                }
            }

            /// What the status means for the session. An unknown status is progress.
            pub(crate) fn severity(&self) -> Severity {
                match self {
                    $(Self::$variant => Severity::$severity,)*
                    Self::Unknown(_) => Severity::Progress,
                }
            }
        }
    };
}
status_table!(define_status);

impl Status {
    /// Whether the status reports a failure.
    pub fn is_error(&self) -> bool {
        matches!(
            self.severity(),
            Severity::Refused | Severity::Fatal | Severity::FatalWithoutReason
        )
    }

    /// Whether the session ends after this status, with or without an error.
    #[cfg(test)]
    pub(crate) fn ends_session(&self) -> bool {
        matches!(
            self.severity(),
            Severity::Fatal | Severity::FatalWithoutReason | Severity::End
        )
    }

    /// Whether a v1 server sends an `error` message with the reason after this status.
    pub(crate) fn expects_reason(&self) -> bool {
        matches!(self.severity(), Severity::Refused | Severity::Fatal)
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Frozen: names may be added, but none may change.
    const FROZEN: &str = "\
SANDBOX_CREATING SANDBOX_RUNNING SANDBOX_CREATION_ERROR SANDBOX_NOT_FOUND SANDBOX_IN_USE \
SANDBOX_PERMISSION_DENIAL_ERROR SANDBOX_RESTORING SANDBOX_RESTORE_ERROR SANDBOX_EXECUTION_RUNNING \
SANDBOX_EXECUTION_DONE SANDBOX_EXECUTION_ERROR SANDBOX_EXECUTION_UNSUPPORTED_LANGUAGE_ERROR \
SANDBOX_EXECUTION_FORCE_KILLED SANDBOX_EXECUTION_FORCE_KILL_ERROR SANDBOX_EXECUTION_IN_PROGRESS_ERROR \
SANDBOX_STDIN_ERROR SANDBOX_CHECKPOINTING SANDBOX_CHECKPOINTED SANDBOX_CHECKPOINT_ERROR \
SANDBOX_FILESYSTEM_SNAPSHOT_CREATING SANDBOX_FILESYSTEM_SNAPSHOT_CREATED \
SANDBOX_FILESYSTEM_SNAPSHOT_ERROR SANDBOX_KILLING SANDBOX_KILLED SANDBOX_KILL_ERROR SANDBOX_DELETING \
SANDBOX_DELETED SANDBOX_LOCK_ACQUIRING SANDBOX_LOCK_ACQUIRED SANDBOX_LOCK_RELEASE_REQUESTED \
SANDBOX_LOCK_RELEASING SANDBOX_LOCK_RELEASED SANDBOX_LOCK_RENEWAL_ERROR SANDBOX_ERROR \
SANDBOX_EXECUTION_EXITED SANDBOX_LIFETIME_ENDED";

    #[test]
    fn wire_names_are_frozen() {
        let known: Vec<_> = Status::KNOWN.iter().map(Status::as_str).collect();
        assert_eq!(known, FROZEN.split_whitespace().collect::<Vec<_>>());
    }

    #[test]
    fn every_status_survives_the_wire() {
        for status in Status::KNOWN {
            assert_eq!(&Status::from_wire(status.as_str()), status);
        }
    }

    #[test]
    fn unknown_status_is_kept_and_not_fatal() {
        let status = Status::from_wire("SANDBOX_LEVITATING");
        assert_eq!(status.as_str(), "SANDBOX_LEVITATING");
        assert!(!status.is_error() && !status.ends_session());
    }
}
