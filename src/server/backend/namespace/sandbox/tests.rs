//! Tests of the first process of a sandbox: its end, its replacement, and mounts of other users.

use std::fs;

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::*;
use crate::server::backend::server_directory::Root;

/// A backend with two sandboxes. `None` if namespaces don't work on this machine.
async fn sandboxes(folder: &Path) -> Option<(NamespaceBackend, [NamespaceSandbox; 2])> {
    sandboxes_with(folder, NamespaceOptions::default()).await
}

async fn sandboxes_with(
    folder: &Path,
    options: NamespaceOptions,
) -> Option<(NamespaceBackend, [NamespaceSandbox; 2])> {
    let root = Root::make(folder, "init-test").unwrap();
    let context = ServerContext::start(root, None, "init-test".to_owned()).unwrap();
    let backend = match NamespaceBackend::start(options, context).await {
        Ok(backend) => backend,
        Err(error) => {
            println!("not tried: {error}");
            return None;
        }
    };
    let one = backend.sandbox(&SandboxId::new("one")).await.unwrap();
    let two = backend.sandbox(&SandboxId::new("two")).await.unwrap();
    Some((backend, [one, two]))
}

/// A pending start keeps the namespaces of its sandbox open. Otherwise their descriptor numbers
/// could be reused, even for the namespaces of another sandbox.
#[tokio::test]
async fn a_pending_start_ends_with_its_sandbox() {
    let folder = tempfile::tempdir().unwrap();
    let Some((backend, [one, two])) = sandboxes(folder.path()).await else {
        return;
    };
    fs::write(two.directory.join(HOME).join("file"), "of the other").unwrap();
    let (mut command, namespaces) = one.enter(None, None).await.unwrap();
    let seen = |namespaces: &Namespaces| -> Vec<_> {
        let paths = namespaces.enter();
        let link = |it: String| fs::read_link(it.split_once('=').unwrap().1).unwrap();
        paths.map(link).collect()
    };
    let before = seen(&namespaces);
    one.freeze().await.unwrap();
    assert_eq!(seen(&namespaces), before);
    assert_eq!(two.is_there("/").await, Ok(true));
    let output = command.args(["cat", "file"]).output().await.unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "");
    assert!(!output.status.success());
    for sandbox in [one, two] {
        sandbox.delete().await.unwrap();
    }
    backend.shutdown().await;
}

/// The parent, `unshare`, is stopped, so it can't report the death.
#[tokio::test]
async fn a_dead_first_process_is_replaced_while_its_parent_lives() {
    let folder = tempfile::tempdir().unwrap();
    let Some((backend, [one, two])) = sandboxes(folder.path()).await else {
        return;
    };
    assert_eq!(one.is_there("/").await, Ok(true));
    {
        let init = one.init.lock().await;
        let init = init.as_ref().unwrap();
        let unshare = Pid::from_raw(init.child.id().unwrap().cast_signed());
        let said = fs::read_to_string(format!("/proc/{unshare}/task/{unshare}/children")).unwrap();
        let first = Pid::from_raw(said.trim().parse().unwrap());
        assert!(init.is_alive());
        kill(unshare, Signal::SIGSTOP).unwrap();
        kill(first, Signal::SIGKILL).unwrap();
        while init.is_alive() {
            tokio::task::yield_now().await;
        }
    }
    assert_eq!(one.is_there("/").await, Ok(true));
    for sandbox in [one, two] {
        sandbox.delete().await.unwrap();
    }
    backend.shutdown().await;
}

/// A file system that is mounted until this is dropped.
struct Mounted<'a>(&'a Path);

impl<'a> Mounted<'a> {
    fn new(place: &'a Path) -> Option<Self> {
        let mut mount = std::process::Command::new("mount");
        let mount = mount.args(["-t", "tmpfs", "-o", "size=4k", "of-a-test"]);
        let mounted = mount.arg(place).output().ok()?;
        mounted.status.success().then_some(Self(place))
    }
}

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        let umount = std::process::Command::new("umount").arg(self.0).status();
        assert!(umount.unwrap().success());
    }
}

#[tokio::test]
async fn private_mounts_of_others_do_not_prevent_a_start() {
    use std::os::unix::fs::PermissionsExt;

    // Not below `/tmp`, because each sandbox has its own `/tmp`.
    let readable = tempfile::tempdir_in("/var/tmp").unwrap();
    fs::set_permissions(readable.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let [private, open] = ["private/mounted", "open"].map(|it| readable.path().join(it));
    fs::create_dir_all(&private).unwrap();
    fs::create_dir(&open).unwrap();
    let mode = fs::Permissions::from_mode(0o700);
    fs::set_permissions(private.parent().unwrap(), mode).unwrap();
    let (Some(_private), Some(_open)) = (Mounted::new(&private), Mounted::new(&open)) else {
        println!("not tried: this user may not mount anything");
        return;
    };
    fs::write(open.join("file"), "seen").unwrap();
    let folder = tempfile::tempdir().unwrap();
    let options = NamespaceOptions::default().readable(readable.path());
    let Some((backend, [one, two])) = sandboxes_with(folder.path(), options).await else {
        panic!("namespaces don't work on this machine, or with these options")
    };
    assert_eq!(one.is_there(open.to_str().unwrap()).await, Ok(true));
    assert_eq!(one.is_there(private.to_str().unwrap()).await, Ok(false));
    let (mut command, _namespaces) = one.enter(None, None).await.unwrap();
    let code = format!("cat {0}/file; touch {0}/new", open.display());
    let output = command.args(["bash", "-c", &code]).output().await.unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "seen");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("Read-only file system"), "{said}");
    for sandbox in [one, two] {
        sandbox.delete().await.unwrap();
    }
    backend.shutdown().await;
}
