//! The backends, which run the code of sandboxes, and the traits that they implement.

#[cfg(target_os = "linux")]
pub(crate) mod agent_errors;
pub(crate) mod api;
pub(crate) mod code_file;
#[cfg(target_os = "linux")]
pub(crate) mod confine;
#[cfg(target_os = "linux")]
pub(crate) mod confined_start;
pub(crate) mod context;
#[cfg(target_os = "linux")]
pub(crate) mod etc;
#[cfg(target_os = "linux")]
pub(crate) mod gvisor;
pub(crate) mod host;
pub(crate) mod job;
pub(crate) mod launch;
#[cfg(target_os = "linux")]
pub(crate) mod namespace;
pub(crate) mod programs;
pub(crate) mod remove;
pub(crate) mod server_directory;
pub(crate) mod site;
pub(crate) mod start;
pub(crate) mod sweep;
pub(crate) mod warm;
pub(crate) mod watchdog;
