//! Lets Python import from its working directory, by a `sitecustomize.py` in a separate directory.

use std::{
    fs, io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

/// The name of the directory.
pub(super) const SITE: &str = "site";

const SITECUSTOMIZE: &str = include_str!("../../lift/program/sitecustomize.py");

/// Creates the directory in `directory`, readable by every user. Returns its path.
pub(super) fn write(directory: &Path) -> io::Result<PathBuf> {
    let site = directory.join(SITE);
    fs::create_dir(&site)?;
    fs::set_permissions(&site, fs::Permissions::from_mode(0o755))?;
    let file = site.join("sitecustomize.py");
    fs::write(&file, SITECUSTOMIZE)?;
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644))?;
    Ok(site)
}
