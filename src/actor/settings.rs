//! [`Settings`]: the validated options of a builder, for the actors.

use std::{any::Any, sync::Arc};

use tracing::Span;

use crate::{
    machine::{ConnectionConfig, KeepaliveConfig, Mode, OutputPolicy, ProcessConfig, Timeouts},
    transport::{DialConfig, Endpoint, Recorder},
};

/// The validated options of a sandbox.
#[derive(Clone)]
pub(crate) struct Settings {
    pub(crate) mode: Mode,
    pub(crate) dial: DialConfig,
    pub(crate) connection: ConnectionConfig,
    /// The name of the links to the lift's program. `None` if v1 services aren't lifted.
    pub(crate) lift: Option<String>,
    pub(crate) keepalive: KeepaliveConfig,
    pub(crate) timeouts: Timeouts,
    pub(crate) process: ProcessConfig,
    pub(crate) output: OutputPolicy,
    /// Records the session, if enabled.
    pub(crate) recorder: Option<Recorder>,
    /// The prefix of the ids of this client's execs.
    pub(crate) exec_prefix: String,
    /// The place of the sandbox in a runtime. Dropped with the last actor of the sandbox.
    pub(crate) kept: Option<Arc<dyn Any + Send + Sync>>,
    /// The debug label; `None` when debugging is off.
    pub(crate) debug: Option<Arc<str>>,
}

impl Settings {
    pub(crate) fn endpoint(&self) -> &Endpoint {
        &self.dial.endpoint
    }

    /// Returns the span of the sandbox's debug events. It is disabled if debugging is off.
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
