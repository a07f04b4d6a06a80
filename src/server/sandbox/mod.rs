//! The task of each sandbox, and the registry of all sandboxes.

pub(crate) mod attach;
pub(crate) mod entry;
pub(crate) mod execs;
pub(crate) mod handle;
pub(crate) mod leases;
pub(crate) mod limits;
pub(crate) mod manager;
mod measuring;
pub(crate) mod operations;
pub(crate) mod registry;
pub(crate) mod requests;
pub(crate) mod settings;
pub(crate) mod state;
pub(crate) mod storing;
pub(crate) mod task;
pub(crate) mod v1_exec;
