//! One exec: its task, its output and its input.

pub(crate) mod execution;
pub(crate) mod named_exec;
pub(crate) mod named_execs;
pub(crate) mod output_pump;
pub(crate) mod stdin_queue;
pub(crate) mod v1_exec;
