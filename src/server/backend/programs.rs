//! Finds programs on the search path of this machine or of a confined sandbox.

use std::{
    ffi::{OsStr, OsString},
    fs,
    io::{self, Read},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

/// The search path inside a confined sandbox.
#[cfg(target_os = "linux")]
pub(super) const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The search path if this process has no `PATH`.
const DEFAULT_PATH: &str = "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin";

/// The `PATH` of this process, or [`DEFAULT_PATH`] if it is not set.
pub(crate) fn search_path() -> OsString {
    std::env::var_os("PATH")
        .filter(|path| !path.is_empty())
        .unwrap_or_else(|| DEFAULT_PATH.into())
}

/// Finds a program on the search path.
pub(crate) fn find(name: &str, path: &OsStr) -> Option<PathBuf> {
    std::env::split_paths(path)
        .filter(|directory| directory.is_absolute())
        .map(|directory| directory.join(name))
        .find(|file| is_program(file).is_ok_and(|is_program| is_program))
}

/// Whether a file can be executed.
pub(crate) fn is_program(file: &Path) -> io::Result<bool> {
    let meta = fs::metadata(file)?;
    Ok(meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

/// Whether a program is a script with an interpreter line (`#!`).
pub(super) fn is_script(file: &Path) -> bool {
    let mut start = [0; 2];
    fs::File::open(file)
        .and_then(|mut file| file.read_exact(&mut start))
        .is_ok()
        && start == *b"#!"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_found_on_the_path_and_nowhere_else() {
        let directory = tempfile::tempdir().unwrap();
        let program = directory.path().join("program");
        fs::write(&program, "#!/bin/sh\n").unwrap();
        assert_eq!(find("program", directory.path().as_os_str()), None);
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(
            find("program", directory.path().as_os_str()),
            Some(program.clone())
        );
        assert!(is_script(&program));
        assert_eq!(find("program", OsStr::new("/nowhere:relative")), None);
    }
}
