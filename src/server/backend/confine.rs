//! What the backends that confine have in common: what a sandbox sees, and where.

use std::{
    fs, io,
    os::unix::fs::{PermissionsExt, lchown},
    path::{Path, PathBuf},
};

use super::{
    code_file::CodeFile,
    context::ServerContext,
    job::Language,
    programs::{PATH, find, is_script},
};
use crate::server::{blocking::blocking, choice::Confines};

/// The name of the user that code runs as.
pub(super) const USER_NAME: &str = "sandbox";

/// Where the directories of a sandbox are in it.
pub(super) const HOME_INSIDE: &str = "/home/sandbox";
pub(super) const TEMPORARY_INSIDE: &str = "/tmp";
pub(super) const CODE_INSIDE: &str = "/run/code";

/// The environment of code, before what is asked for.
pub(super) const ENVIRONMENT: [(&str, &str); 7] = [
    ("PATH", PATH),
    ("LANG", "C.UTF-8"),
    ("USER", USER_NAME),
    ("LOGNAME", USER_NAME),
    ("HOME", HOME_INSIDE),
    ("TMPDIR", TEMPORARY_INSIDE),
    ("PYTHONUNBUFFERED", "1"),
];

/// What a sandbox does not share with the machine.
const OWN: [&str; 6] = [
    TEMPORARY_INSIDE,
    HOME_INSIDE,
    "/run",
    "/proc",
    "/dev",
    "/sys",
];

/// Where the directories of the server itself would be seen in those that sandboxes are to read, and which are to be empty
/// there. The error says what is wrong with those directories.
pub(super) fn hidden(confines: &Confines, context: &ServerContext) -> Result<Vec<PathBuf>, String> {
    if let Some(path) = confines.readable.iter().find(|path| !is_mountable(path)) {
        return Err(format!(
            "the directory {} cannot be made readable: expected an absolute path other than `/`, without `.` and `..`, and not where \
             sandboxes have their own ({})",
            path.display(),
            OWN.join(", ")
        ));
    }
    let mut hidden = Vec::new();
    for own in context.state.iter().chain([&context.root]) {
        let own = own
            .canonicalize()
            .map_err(|error| format!("{}: {error}", own.display()))?;
        for path in &confines.readable {
            // One that is not there is not seen either.
            let Ok(real) = path.canonicalize() else {
                continue;
            };
            if real.starts_with(&own) {
                return Err(format!(
                    "the directory {} cannot be made readable: it is one of the server's own, in {}; expected one that is not",
                    path.display(),
                    own.display()
                ));
            }
            hidden.extend(own.strip_prefix(&real).map(|below| path.join(below)));
        }
    }
    hidden.sort_unstable();
    hidden.dedup();
    Ok(hidden)
}

/// Whether a directory can be shown to sandboxes.
fn is_mountable(path: &Path) -> bool {
    use std::path::Component::{Normal, RootDir};
    path.is_absolute()
        && !OWN.iter().any(|own| path.starts_with(own))
        && path.components().count() > 1
        && path
            .components()
            .all(|it| matches!(it, RootDir | Normal(_)))
}

/// Makes a directory with exactly these permissions, whatever the umask. Fails if there is anything of this name, a
/// link included.
pub(super) fn make_directory(path: &Path, mode: u32) -> io::Result<()> {
    fs::create_dir(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
}

/// Makes a directory to mount on at this path of a tree in which nothing runs, and the directories that lead there. Code or an
/// archive may have filled the tree: links and files in the place of directories are replaced, never followed.
pub(super) fn make_mount_point(tree: &Path, inside: &Path, owner: u32) -> io::Result<()> {
    let mut at = tree.to_owned();
    for part in inside.iter().filter(|part| *part != "/") {
        at.push(part);
        match fs::symlink_metadata(&at) {
            Ok(meta) if meta.is_dir() => continue,
            Ok(_) => fs::remove_file(&at)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        make_directory(&at, 0o755)?;
        lchown(&at, Some(owner), Some(owner))?;
    }
    Ok(())
}

/// Writes a file that the user of a sandbox, or else that of this process, may read alone.
pub(super) async fn write_for(user: Option<u32>, file: &CodeFile, text: &str) -> io::Result<()> {
    file.write(text, &[]).await?;
    match user {
        Some(user) => {
            let file = file.0.clone();
            blocking(move || lchown(file, Some(user), Some(user))).await
        }
        None => Ok(()),
    }
}

/// Where the interpreter is, or the reason why there is none. A script that a version manager put in its place may
/// lead to where the sandbox cannot read.
pub(super) fn interpreter(language: Language) -> Result<PathBuf, String> {
    let name = language.program();
    let mut directories = PATH.split(':');
    let found = directories
        .find_map(|directory| find(name, directory.as_ref()).filter(|program| !is_script(program)));
    found.ok_or_else(|| format!("{name} is not installed in the sandbox ({PATH})."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_points_replace_links_and_files_in_their_way() {
        let outside = tempfile::tempdir().unwrap();
        let tree = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink(outside.path(), tree.path().join("run")).unwrap();
        fs::write(tree.path().join("proc"), "").unwrap();
        let me = nix::unistd::geteuid().as_raw();
        for inside in ["/run/source", "/proc", "/run/code"] {
            make_mount_point(tree.path(), Path::new(inside), me).unwrap();
            let made = tree.path().join(inside.trim_start_matches('/'));
            assert!(fs::symlink_metadata(made).unwrap().is_dir());
        }
        assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0);
    }
}
