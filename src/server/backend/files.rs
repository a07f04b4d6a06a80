//! What backends do alike with the directory of a sandbox: pack its trees, remove it.

use std::{io, path::Path};

use super::remove::remove_tree;
use crate::server::store::{archive::Packer, blocking};

/// Adds trees of a sandbox to an archive, by their names in its directory. One that is not there is left out.
pub(super) async fn pack(
    directory: &Path,
    trees: &'static [&'static str],
    mut packer: Packer,
) -> io::Result<Packer> {
    let directory = directory.to_owned();
    blocking(move || {
        for name in trees {
            packer.add_tree(name, &directory.join(name))?;
        }
        Ok(packer)
    })
    .await
}

/// Removes the directory of a sandbox. The error is the reason for the client.
pub(super) async fn remove(directory: &Path) -> Result<(), String> {
    let directory = directory.to_owned();
    blocking(move || remove_tree(&directory))
        .await
        .map_err(|error| format!("the files could not be removed: {error}"))
}
