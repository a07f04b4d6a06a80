use std::fs;

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::{
    super::{HOME, NamespaceBackend, NamespaceSandbox},
    *,
};
use crate::{
    protocol::SandboxId,
    server::{
        backend::{Backend, BackendSandbox, launch::Ground},
        choice::NamespaceOptions,
        root::Root,
    },
};

/// A backend and two of its sandboxes, where namespaces can be had.
async fn sandboxes(folder: &Path) -> Option<(NamespaceBackend, [NamespaceSandbox; 2])> {
    let root = Root::make(folder, "init-test").unwrap();
    let ground = Ground::start(root, None, "init-test".to_owned()).unwrap();
    let backend = match NamespaceBackend::start(NamespaceOptions::default(), ground).await {
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

/// Others, also the namespaces of another sandbox, would be opened at the numbers that those of the first had.
#[tokio::test]
async fn what_is_about_to_begin_in_a_sandbox_that_ends_begins_in_no_other() {
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

/// Its parent is not there yet to say so.
#[tokio::test]
async fn a_first_process_that_is_dead_is_replaced_though_its_parent_lives() {
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
