//! What `namespace` and `gvisor` share: the files that a sandbox sees and their paths, the limits,
//! and the server's copy of the agent.

use std::{
    fs, io,
    os::unix::fs::{PermissionsExt, lchown},
    path::{Path, PathBuf},
    process::Stdio,
};

use super::{
    code_file::{CodeFile, write_private},
    context::ServerContext,
    job::{Language, UNBUFFERED},
    programs::{PATH, find, is_script},
};
use crate::{
    inside::{messages::Limits, spawn},
    protocol::{SandboxLimits, excerpt},
    server::{blocking::blocking, choice::Confines},
};

/// The name of the user that code runs as.
pub(super) const USER_NAME: &str = "sandbox";

/// The paths of a sandbox's directories, as code sees them.
pub(super) const HOME_INSIDE: &str = "/home/sandbox";
pub(super) const TEMPORARY_INSIDE: &str = "/tmp";
pub(super) const CODE_INSIDE: &str = "/run/code";

/// The file name of the server's copy of the agent.
pub(super) const AGENT: &str = "agent";

/// The default environment of code. A job can add variables and replace these.
pub(super) const ENVIRONMENT: [(&str, &str); 7] = [
    ("PATH", PATH),
    ("LANG", "C.UTF-8"),
    ("USER", USER_NAME),
    ("LOGNAME", USER_NAME),
    ("HOME", HOME_INSIDE),
    ("TMPDIR", TEMPORARY_INSIDE),
    (UNBUFFERED, "1"),
];

/// The directories of which each sandbox has its own.
const OWN: [&str; 6] = [
    TEMPORARY_INSIDE,
    HOME_INSIDE,
    "/run",
    "/proc",
    "/dev",
    "/sys",
];

/// The paths below readable directories at which sandboxes would see the server's own directories.
/// Sandboxes must see empty directories there. The error says why a readable directory is refused.
pub(super) fn hidden(confines: &Confines, context: &ServerContext) -> Result<Vec<PathBuf>, String> {
    if let Some(path) = confines.readable.iter().find(|path| !is_mountable(path)) {
        return Err(format!(
            "the directory {} cannot be made readable: expected an absolute path other than `/`, \
             without `.` and `..`, and outside of the directories of which each sandbox has its \
             own ({})",
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
            // Sandboxes don't see a directory that doesn't exist.
            let Ok(real) = path.canonicalize() else {
                continue;
            };
            if real.starts_with(&own) {
                return Err(format!(
                    "the directory {} cannot be made readable: it is in the server's own directory \
                     {}; choose another directory",
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

/// Whether a directory at this path can be made readable.
fn is_mountable(path: &Path) -> bool {
    use std::path::Component::{Normal, RootDir};
    path.is_absolute()
        && !OWN.iter().any(|own| path.starts_with(own))
        && path.components().count() > 1
        && path
            .components()
            .all(|it| matches!(it, RootDir | Normal(_)))
}

/// Creates a directory with exactly these permissions, regardless of the umask. Fails if the path
/// exists, even as a symbolic link.
pub(super) fn make_directory(path: &Path, mode: u32) -> io::Result<()> {
    fs::create_dir(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
}

/// Creates a mount point at this path of a tree, with its parents. No code may run in the tree now.
///
/// Code or an archive may have filled the tree. So links and files on the path are replaced by
/// directories, and links are never followed. `user` gets the directories. `None` means the user of
/// this process.
pub(super) fn make_mount_point(tree: &Path, inside: &Path, user: Option<u32>) -> io::Result<()> {
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
        lchown(&at, user, user)?;
    }
    Ok(())
}

/// Copies the program of the agent into the server's directory, unless the copy exists. Every
/// sandbox can execute the copy. Only root or the user of the server can read it.
///
/// Another process writes the copy. Otherwise a process that this one forks at the same time could
/// inherit the descriptor, and the kernel executes no file that is open for writing (`ETXTBSY`).
pub(super) fn copy_agent(program: &Path, root: &Path) -> io::Result<PathBuf> {
    let copy = root.join(AGENT);
    if copy.exists() {
        return Ok(copy);
    }
    let copied = || {
        let mut cp = spawn::blocking_command(find("cp", PATH.as_ref()).unwrap_or("cp".into()));
        // Open the program here: the path may be `/proc/self/exe`, which in `cp` is `cp` itself.
        let cp = cp.stdin(fs::File::open(program)?).stderr(Stdio::piped());
        let output = cp.arg("/dev/stdin").arg(&copy).output()?;
        match output.status.success() {
            true => fs::set_permissions(&copy, fs::Permissions::from_mode(0o711)),
            false => Err(io::Error::other(excerpt(output.stderr.trim_ascii_end()))),
        }
    };
    copied().map_err(|error| {
        let _ = fs::remove_file(&copy);
        io::Error::new(
            error.kind(),
            format!(
                "the program of the agent, {}, could not be copied to {}: {error}",
                program.display(),
                copy.display()
            ),
        )
    })?;
    Ok(copy)
}

/// The limits of each process of a sandbox with these limits.
pub(super) fn limits(confines: &Confines, sandbox: &SandboxLimits) -> Limits {
    Limits {
        data: sandbox.memory.unwrap_or(confines.memory_bytes),
        processes: sandbox.processes.unwrap_or(confines.processes),
        file_size: confines.file_bytes,
        open_files: confines.open_files,
    }
}

/// Writes a file that only `user` may read. `None` means the user of this process.
pub(super) async fn write_for(user: Option<u32>, file: &CodeFile, text: String) -> io::Result<()> {
    let file = file.0.clone();
    blocking(move || {
        write_private(&file, text.as_bytes())?;
        lchown(file, user, user)
    })
    .await
}

/// The path of the interpreter, or the reason why there is none. Ignores scripts of version
/// managers, because they may start a program in a directory that the sandbox can't read.
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
        for inside in ["/run/source", "/proc", "/run/code"] {
            make_mount_point(tree.path(), Path::new(inside), None).unwrap();
            let made = tree.path().join(inside.trim_start_matches('/'));
            assert!(fs::symlink_metadata(made).unwrap().is_dir());
        }
        assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0);
    }
}
