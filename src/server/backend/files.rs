//! What backends do alike with the directory of a sandbox.

use std::path::Path;

use super::remove::remove_tree;
use crate::server::store::checkpoints::blocking;

/// Removes the directory of a sandbox. The error is the reason for the client.
pub(super) async fn remove(directory: &Path) -> Result<(), String> {
    let directory = directory.to_owned();
    blocking(move || remove_tree(&directory))
        .await
        .map_err(|error| format!("the files could not be removed: {error}"))
}
