//! Runs code in Linux namespaces, which bubblewrap sets up.

pub(crate) mod bubblewrap;
pub(crate) mod cgroup;
pub(crate) mod disk;
pub(crate) mod sandbox;
