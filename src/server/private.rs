//! Directories and files that no other user can read, write or replace.
//!
//! The rules for the path of a directory are those of OpenSSH's `StrictModes`: the directory and
//! each of its parents belong to this user or to root, and no other user may write to them.
//!
//! Two kinds of parents may be writable by others:
//!
//! - A sticky directory such as `/tmp`, because others can't replace this user's files in it.
//! - On Linux, a directory that only the private group of this user may write to. Systems with a
//!   group for each user set the umask 002, so most directories of a user have this mode. Debian's
//!   OpenSSH has the same rule.

use std::{
    fs::{self, DirBuilder, File, Permissions},
    io,
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use nix::{
    libc,
    unistd::{Gid, Group, User, geteuid},
};
use tempfile::NamedTempFile;

/// Permission bits that let users other than the owner write.
const WRITABLE_BY_OTHERS: u32 = 0o022;

/// The permission bit that lets the group write.
const WRITABLE_BY_GROUP: u32 = 0o020;

const STICKY: u32 = 0o1000;

/// Checks that only this server's user can write to a directory. Creates it with mode 0700 if it is
/// missing. An existing directory keeps its mode, so other users may be able to read it. Returns
/// the path without links.
pub(super) fn own(path: &Path) -> io::Result<PathBuf> {
    // Remove a slash at the end, which would make the check follow a symbolic link.
    let path: PathBuf = path.components().collect();
    match fs::symlink_metadata(&path) {
        Ok(meta) if meta.is_symlink() => {
            return Err(refused(
                "it is a symbolic link: name the directory it leads to".to_owned(),
            ));
        }
        Ok(meta) if !meta.is_dir() => return Err(io::ErrorKind::NotADirectory.into()),
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => create_all(&path, 0o700)?,
        Err(error) => return Err(error),
    }
    let path = path.canonicalize()?;
    check_own(&path)?;
    path.ancestors().skip(1).try_for_each(check_above)?;
    Ok(path)
}

/// Checks a directory in which private directories are created, such as `/tmp`. Creates it with
/// mode 0755 if it is missing. Returns its path without links.
pub(super) fn shared(path: &Path) -> io::Result<PathBuf> {
    if fs::metadata(path).is_err() {
        create_all(path, 0o755)?;
    }
    let path = path.canonicalize()?;
    path.ancestors().try_for_each(check_above)?;
    Ok(path)
}

/// Fails if another user can replace the file at this path. Its directory must exist.
pub(super) fn check_place(file: &Path) -> io::Result<()> {
    let directory = directory_of(file).canonicalize()?;
    directory.ancestors().try_for_each(check_above)
}

/// Returns the directory that contains a file.
pub(super) fn directory_of(file: &Path) -> &Path {
    match file.parent() {
        Some(directory) if !directory.as_os_str().is_empty() => directory,
        _ => Path::new("."),
    }
}

/// Creates a directory with mode 0700, whatever the umask. Fails if the name exists.
pub(super) fn create(path: &Path) -> io::Result<()> {
    create_with(path, 0o700)
}

/// Creates a directory with mode 0700 inside a private one. If it exists, it must be a directory of
/// this user; its mode is set to 0700.
pub(super) fn ensure(path: &Path) -> io::Result<()> {
    match create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        created => return created,
    }
    let meta = fs::symlink_metadata(path)?;
    let wrong = |what: String| refused(format!("{}: {what}", path.display()));
    if !meta.is_dir() {
        let what = "expected a directory, found a link or a file: remove it";
        return Err(wrong(what.to_owned()));
    }
    check_owner(path, &meta)?;
    match meta.mode() & 0o7777 {
        0o700 => Ok(()),
        _ => fs::set_permissions(path, Permissions::from_mode(0o700)),
    }
}

/// Creates a temporary file with mode 0600, whatever the umask. Dropping it removes the file.
pub(super) fn unfinished(directory: &Path, prefix: &str) -> io::Result<NamedTempFile> {
    let file = tempfile::Builder::new()
        .prefix(prefix)
        .tempfile_in(directory)?;
    file.as_file()
        .set_permissions(Permissions::from_mode(0o600))?;
    Ok(file)
}

/// Opens a regular file for reading. Doesn't follow symbolic links or block on pipes.
pub(super) fn open(path: &Path) -> io::Result<File> {
    let file = File::options()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(path);
    let file = file.map_err(|error| match error.raw_os_error() {
        Some(libc::ELOOP) => refused(format!("{} is a symbolic link", path.display())),
        _ => error,
    })?;
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(refused(format!("{} is not a file", path.display()))),
    }
}

fn create_with(path: &Path, mode: u32) -> io::Result<()> {
    DirBuilder::new().mode(mode).create(path)?;
    // The umask may have cleared some of these bits.
    fs::set_permissions(path, Permissions::from_mode(mode))
}

/// Creates a directory and its missing parents.
fn create_all(path: &Path, mode: u32) -> io::Result<()> {
    if let Some(parent) = path.parent()
        && !parent.as_os_str().is_empty()
        && fs::metadata(parent).is_err()
    {
        create_all(parent, mode)?;
    }
    match create_with(path, mode) {
        // Another server has created it in the meantime. The caller checks the directory.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        created => created,
    }
}

fn check_own(path: &Path) -> io::Result<()> {
    let meta = fs::symlink_metadata(path)?;
    check_owner(path, &meta)?;
    match meta.mode() & WRITABLE_BY_OTHERS {
        0 => Ok(()),
        _ => Err(refused(format!(
            "other users may write to it (mode {:04o}): run `chmod 700 {}`",
            meta.mode() & 0o7777,
            path.display()
        ))),
    }
}

fn check_owner(path: &Path, meta: &fs::Metadata) -> io::Result<()> {
    let me = geteuid().as_raw();
    match meta.uid() == me {
        true => Ok(()),
        false => Err(refused(format!(
            "{0} belongs to the user {1}, but the server runs as the user {me}: \
             run `chown {me} {0}`, or name another directory",
            path.display(),
            meta.uid()
        ))),
    }
}

/// Fails if another user can replace entries of this directory.
fn check_above(path: &Path) -> io::Result<()> {
    let meta = fs::symlink_metadata(path)?;
    let owner = meta.uid();
    if !is_trusted(owner) {
        return Err(refused(format!(
            "the user {owner} owns {0} and can replace its files: name a directory that only \
             root and this user may write to, or run `chown root {0}`",
            path.display()
        )));
    }
    let is_writable = match meta.mode() & WRITABLE_BY_OTHERS {
        0 => false,
        WRITABLE_BY_GROUP => !is_group_private(meta.gid()) || has_acl(path),
        _ => true,
    };
    if is_writable && meta.mode() & STICKY == 0 {
        return Err(refused(format!(
            "other users can replace files in {0} (mode {1:04o}): run `chmod go-w {0}`, or name \
             another directory",
            path.display(),
            meta.mode() & 0o7777
        )));
    }
    Ok(())
}

/// Whether a group is the private group of this user. Always false for root, whose group often has
/// other members.
fn is_group_private(group: u32) -> bool {
    let me = geteuid();
    let (Ok(Some(user)), Ok(Some(group))) =
        (User::from_uid(me), Group::from_gid(Gid::from_raw(group)))
    else {
        return false;
    };
    !me.is_root()
        && user.gid == group.gid
        && has_one_member(&user.name, &group.name, &group.mem)
        && fs::read_to_string("/etc/passwd")
            .is_ok_and(|passwd| is_primary_of_one(&passwd, &user.name, group.gid.as_raw()))
}

/// Whether a group has the name of the user and lists no other member. The name is checked because
/// a primary group that many users share, such as `users`, may list no members.
fn has_one_member(user: &str, group: &str, members: &[String]) -> bool {
    group == user && members.iter().all(|member| member == user)
}

/// Whether `/etc/passwd` has no other user with this primary group.
fn is_primary_of_one(passwd: &str, user: &str, group: u32) -> bool {
    passwd.lines().all(|line| {
        let mut fields = line.split(':');
        let (name, gid) = (fields.next(), fields.nth(2));
        name == Some(user) || gid.and_then(|gid| gid.parse().ok()) != Some(group)
    })
}

/// Whether an access control list may give access to other users. If there is a list, the
/// permission bits of the group are its mask.
#[cfg(target_os = "linux")]
fn has_acl(path: &Path) -> bool {
    use rustix::{fs::lgetxattr_query, io::Errno};

    let list = lgetxattr_query(path, "system.posix_acl_access");
    !matches!(list, Err(Errno::NODATA | Errno::OPNOTSUPP))
}

/// Access control lists are not checked on this system, so there may be one.
#[cfg(not(target_os = "linux"))]
fn has_acl(_: &Path) -> bool {
    true
}

/// Whether a user may own a parent of a private directory: root, this user, or, in a user
/// namespace, the overflow user, which stands for all users outside of the namespace.
fn is_trusted(user: u32) -> bool {
    user == 0 || user == geteuid().as_raw() || Some(user) == unmapped_user()
}

/// The overflow user ID of this user namespace. `None` in the initial namespace, where every user
/// is mapped.
fn unmapped_user() -> Option<u32> {
    let read = |file| fs::read_to_string(file).ok();
    let map = read("/proc/self/uid_map")?;
    let mut whole = map.split_whitespace();
    if whole.next() == Some("0") && whole.next() == Some("0") && whole.next() == Some("4294967295")
    {
        return None;
    }
    read("/proc/sys/kernel/overflowuid")?.trim().parse().ok()
}

fn refused(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::PermissionDenied, what)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{chown, symlink};

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::symlink_metadata(path).unwrap().mode() & 0o7777
    }

    fn set_mode(path: &Path, mode: u32) {
        fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn missing_directories_are_made_and_closed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a/b");
        assert_eq!(own(&path).unwrap(), path.canonicalize().unwrap());
        assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o700, 0o700));
        set_mode(&path, 0o755);
        own(&path).unwrap();
        assert_eq!(
            mode(&path),
            0o755,
            "`own` keeps the mode that the owner chose"
        );
        ensure(&path).unwrap();
        assert_eq!(mode(&path), 0o700);
    }

    #[test]
    fn a_directory_that_others_may_write_to_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state");
        for open in [0o770, 0o702, 0o1777] {
            own(&path).unwrap();
            set_mode(&path, open);
            let error = own(&path).unwrap_err().to_string();
            assert!(error.contains("`chmod 700 "), "{error}");
            set_mode(&path, 0o700);
        }
        set_mode(folder.path(), 0o777);
        for refused in [own(&path), shared(&path)] {
            let error = refused.unwrap_err().to_string();
            assert!(error.contains("`chmod go-w "), "{error}");
        }
        set_mode(folder.path(), 0o1777);
        own(&path).unwrap();
        shared(&path).unwrap();
    }

    #[test]
    fn a_group_is_private_only_without_other_members() {
        let members = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
        let with = |group, names| has_one_member("eve", group, &members(names) as &Vec<String>);
        assert!(with("eve", &[]) && with("eve", &["eve"]));
        assert!(!with("users", &[]) && !with("eve", &["eve", "bob"]) && !with("eve", &["bob"]));

        let passwd = "root:x:0:0::/root:/bin/sh\neve:x:1000:1000:::\nbob:x:1001:1001:::\n";
        assert!(is_primary_of_one(passwd, "eve", 1000));
        let shared = format!("{passwd}mallory:x:1002:1000:::\n");
        assert!(!is_primary_of_one(&shared, "eve", 1000));
    }

    #[test]
    fn a_symlink_is_refused_at_the_end_of_a_path_only() {
        let folder = tempfile::tempdir().unwrap();
        let (real, link) = (folder.path().join("real"), folder.path().join("link"));
        own(&real).unwrap();
        symlink(&real, &link).unwrap();
        for named in [link.clone(), link.join(""), link.join(".")] {
            let error = own(&named).unwrap_err().to_string();
            assert!(error.contains("symbolic link"), "{error}");
        }
        assert_eq!(
            own(&link.join("below")).unwrap(),
            real.canonicalize().unwrap().join("below")
        );
        assert!(ensure(&link).unwrap_err().to_string().contains("a link"));
        assert!(open(&link).is_err());
        fs::write(real.join("file"), "text").unwrap();
        symlink(real.join("file"), folder.path().join("file")).unwrap();
        let error = open(&folder.path().join("file")).unwrap_err().to_string();
        assert!(error.contains("symbolic link"), "{error}");
        open(&real.join("file")).unwrap();
    }

    /// Only root can give a directory to another user.
    #[test]
    fn a_directory_of_another_user_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state/below");
        own(&path).unwrap();
        if chown(&path, Some(4711), None).is_err() {
            return;
        }
        let error = own(&path).unwrap_err().to_string();
        assert!(
            error.contains("4711") && error.contains("`chown "),
            "{error}"
        );
        assert!(ensure(&path).is_err());
        chown(&path, Some(geteuid().as_raw()), None).unwrap();
        chown(path.parent().unwrap(), Some(4711), None).unwrap();
        let error = own(&path).unwrap_err().to_string();
        assert!(error.contains("the user 4711 owns"), "{error}");
        assert!(shared(&path).is_err());
    }
}
