//! The backend `gvisor`: each sandbox is a container of gVisor, with an agent as its first process.

mod bundle;
mod container;
pub(crate) mod runsc;
pub(crate) mod sandbox;
