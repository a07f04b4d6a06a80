//! On systems where each user has a private group and the umask 002, directories of a user are
//! writable by that group. The server accepts them.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, chown},
    path::Path,
};

use crate::support::program::{Program, User, refused_as};

/// A user with a private group. If the machine has none, or this process can't become that user,
/// prints that and returns `None`. With `CI_BACKENDS` set, panics instead.
fn user() -> Option<User> {
    let groups = fs::read_to_string("/etc/group").unwrap();
    let passwd = fs::read_to_string("/etc/passwd").unwrap();
    let user = passwd.lines().find_map(|line| {
        let fields: Vec<_> = line.split(':').collect();
        let (name, uid, gid) = (fields[0], fields[2], fields[3]);
        let group = format!("{name}:x:{gid}:");
        let (uid, gid) = (uid.parse().ok()?, gid.parse().ok()?);
        let is_private = uid != 0 && groups.lines().any(|line| line == group);
        is_private.then_some(User { uid, gid })
    });
    let folder = tempfile::tempdir().unwrap();
    let user = user.filter(|user| chown(folder.path(), Some(user.uid), Some(user.gid)).is_ok());
    if user.is_none() {
        println!("not tried: needs root, and a user with a private group in /etc/passwd");
        assert!(std::env::var_os("CI_BACKENDS").is_none());
    }
    user
}

fn give(directory: &Path, user: u32, group: u32) {
    chown(directory, Some(user), Some(group)).unwrap();
    fs::set_permissions(directory, fs::Permissions::from_mode(0o775)).unwrap();
}

#[actix::test]
async fn a_state_below_a_directory_of_its_private_group_is_accepted() {
    let Some(user) = user() else { return };
    let folder = tempfile::tempdir().unwrap();
    give(folder.path(), user.uid, user.gid);
    let state = folder.path().join("project/state");
    let state = state.to_str().unwrap();
    let mut program = Program::start_as(&user, folder, &["--backend", "host", "--state", state]);
    assert!(program.ended_by("TERM").await.success());
}

#[test]
fn a_state_below_a_directory_writable_by_others_is_refused() {
    let Some(user) = user() else { return };
    let folder = tempfile::tempdir().unwrap();
    give(folder.path(), user.uid, user.gid + 1);
    for option in ["--state", "--directory"] {
        let below = folder.path().join("below");
        let arguments = ["--backend", "host", option, below.to_str().unwrap()];
        let (status, said) = refused_as(&user, folder.path(), &arguments);
        assert_eq!(status.code(), Some(1), "{said}");
        assert!(said.contains("`chmod go-w "), "{said}");
    }
}
