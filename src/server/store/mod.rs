//! State that outlives a sandbox: snapshots, checkpoints and locks, in a directory or a bucket.

pub(crate) mod archive;
#[cfg(feature = "object-store")]
pub(crate) mod bucket;
pub(crate) mod checkpoints;
pub(crate) mod directory;
pub(crate) mod exec_record;
pub(crate) mod lock;
pub(crate) mod open;
pub(crate) mod place;
pub(crate) mod record;
pub(crate) mod storage;
pub(crate) mod tree;
pub(crate) mod turns;
