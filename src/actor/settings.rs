//! [`Settings`]: the checked options of a builder, for the actors.

use std::{any::Any, sync::Arc};

use tracing::Span;

use crate::{
    machine::{ConnectionConfig, KeepaliveConfig, Mode, OutputPolicy, ProcessConfig, Timeouts},
    transport::{DialConfig, Endpoint, Recorder},
};

/// The options of a sandbox, checked.
#[derive(Clone)]
pub(crate) struct Settings {
    pub(crate) mode: Mode,
    pub(crate) dial: DialConfig,
    pub(crate) connection: ConnectionConfig,
    pub(crate) keepalive: KeepaliveConfig,
    pub(crate) timeouts: Timeouts,
    pub(crate) process: ProcessConfig,
    pub(crate) output: OutputPolicy,
    /// Where the session's frames are written.
    pub(crate) recorder: Option<Recorder>,
    /// The prefix of the ids of this client's execs.
    pub(crate) exec_prefix: String,
    /// Dropped with the last actor of the sandbox: its place in a runtime.
    pub(crate) kept: Option<Arc<dyn Any + Send + Sync>>,
    /// The debug label; `None` when debugging is off.
    pub(crate) debug: Option<Arc<str>>,
}

impl Settings {
    pub(crate) fn endpoint(&self) -> &Endpoint {
        &self.dial.endpoint
    }

    /// The span that all debug events of the sandbox are under; disabled when debugging is off.
    pub(crate) fn span(&self) -> Span {
        let Some(label) = &self.debug else {
            return Span::none();
        };
        let span = tracing::debug_span!(
            "sandbox",
            label = %label,
            service = self.endpoint().authority(),
            id = tracing::field::Empty,
            epoch = tracing::field::Empty,
        );
        if let Mode::Attach(id, _) = &self.mode {
            span.record("id", id.as_str());
        }
        span
    }
}
