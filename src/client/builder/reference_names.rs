//! Options under their names in the TypeScript and Python clients, for programs that are ported
//! from there.

use super::{NewSandbox, SandboxBuilder};

impl SandboxBuilder<NewSandbox> {
    /// The same as [`checkpoint`](Self::checkpoint).
    #[doc(alias = "checkpoint")]
    pub fn enable_sandbox_checkpoint(self, enable: bool) -> Self {
        self.checkpoint(enable)
    }

    /// The same as [`checkpoint_when_idle`](Self::checkpoint_when_idle).
    #[doc(alias = "checkpoint_when_idle")]
    pub fn enable_idle_timeout_auto_checkpoint(self, enable: bool) -> Self {
        self.checkpoint_when_idle(enable)
    }

    /// The same as [`handoff`](Self::handoff).
    #[doc(alias = "handoff")]
    pub fn enable_sandbox_handoff(self, enable: bool) -> Self {
        self.handoff(enable)
    }

    /// The same as [`snapshot`](Self::snapshot).
    #[doc(alias = "snapshot")]
    pub fn filesystem_snapshot_name(self, name: impl Into<String>) -> Self {
        self.snapshot(name)
    }
}

impl<S> SandboxBuilder<S> {
    /// The same as [`auto_reconnect`](Self::auto_reconnect).
    #[doc(alias = "auto_reconnect")]
    pub fn enable_auto_reconnect(self, enable: bool) -> Self {
        self.auto_reconnect(enable)
    }

    /// The same as [`debug`](Self::debug).
    #[doc(alias = "debug")]
    pub fn enable_debug(self, enable: bool) -> Self {
        self.debug(enable)
    }

    /// The same as [`google_auth`](Self::google_auth).
    #[cfg(feature = "google-auth")]
    #[cfg_attr(docsrs, doc(cfg(feature = "google-auth")))]
    #[doc(alias = "google_auth")]
    pub fn use_google_auth(self, enable: bool) -> Self {
        self.google_auth(enable)
    }
}
