//! Options of a new sandbox that the server doesn't support. A server ignores options that it
//! doesn't know, so the client checks that it applies them.

use std::time::Instant;

use super::{Mode, Sandbox};
use crate::{
    machine::{SandboxEnd, SandboxState},
    protocol::{SandboxConfig as Configuration, Version, names::FEATURE_LIFETIME},
};

/// The option that a server of this version can't support. If there is one, the sandbox must not be
/// created.
pub(super) fn unsupported_before(
    configuration: &Configuration,
    version: Version,
) -> Option<&'static str> {
    let needed = configuration.needs_lifetime();
    needed.filter(|_| version != Version::V2)
}

impl Sandbox {
    /// The end of a sandbox, whose reason may be that the client had to kill it.
    pub(super) fn end_of_unsupported(&self, end: SandboxEnd) -> SandboxEnd {
        match self.life.unsupported {
            Some(option) => SandboxEnd::Unsupported {
                option,
                gone: !end.may_live(),
            },
            None => end,
        }
    }

    /// Kills the new sandbox if the server has ignored one of its options. Returns whether it did.
    pub(super) fn refuse_ignored_options(&mut self, now: Instant) -> bool {
        let (SandboxState::Creating, Mode::Create(configuration)) =
            (&self.life.state, &self.config.mode)
        else {
            return false;
        };
        let missing = self.life.missing_feature(&[FEATURE_LIFETIME]);
        let option = configuration.needs_lifetime().filter(|_| missing.is_some());
        self.life.unsupported = option;
        if option.is_some() {
            self.kill.abandoned = true;
            self.kill_abandoned(now);
        }
        option.is_some()
    }
}
