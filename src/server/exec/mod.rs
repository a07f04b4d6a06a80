//! One exec: its task, its output and its input; and the table of the execs of a sandbox.

pub(crate) mod builtin;
mod ending;
pub(crate) mod exec_table;
pub(crate) mod execution;
pub(crate) mod output_pump;
pub(crate) mod shared_exec;
pub(crate) mod steering;
pub(crate) mod v1_adapter;
