//! Runs code in Linux namespaces, by the tools of util-linux.

pub(crate) mod init_process;
pub(crate) mod sandbox;
