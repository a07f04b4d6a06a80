//! Runs code in Linux namespaces, with the tools of util-linux.

pub(crate) mod init_process;
pub(crate) mod sandbox;
