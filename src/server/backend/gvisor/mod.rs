//! Runs code in gVisor, with its program `runsc`.

pub(crate) mod bundle;
pub(crate) mod container;
pub(crate) mod process;
pub(crate) mod runsc;
pub(crate) mod sandbox;
pub(crate) mod scripts;
