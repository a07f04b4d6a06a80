//! Tests of sandboxes whose agent dies, and of readable directories with mounts of other users.

use std::fs;

use tokio::io::AsyncReadExt;

use super::*;
use crate::server::backend::{job::Language, server_directory::Root};

/// A backend with two sandboxes. `None` if namespaces don't work on this machine.
async fn sandboxes(
    folder: &Path,
    options: NamespaceOptions,
) -> Option<(NamespaceBackend, [NamespaceSandbox; 2])> {
    let root = Root::make(folder, "agent-test").unwrap();
    // The agent is the command `actix-sandbox`. cargo builds it for integration tests, so it may be
    // missing if only unit tests run.
    let context = ServerContext::start(root, None, None, "agent-test".to_owned()).unwrap();
    let backend = match NamespaceBackend::start(options, context).await {
        Ok(backend) => backend,
        Err(error) => {
            println!("not tried: {error}");
            return None;
        }
    };
    let one = backend.sandbox("one").await.unwrap();
    let two = backend.sandbox("two").await.unwrap();
    Some((backend, [one, two]))
}

async fn end(backend: NamespaceBackend, sandboxes: [NamespaceSandbox; 2]) {
    for sandbox in sandboxes {
        sandbox.delete().await.unwrap();
    }
    backend.shutdown().await;
}

/// Runs code, and returns its stdout and stderr.
async fn run(sandbox: &NamespaceSandbox, code: &str) -> Result<[String; 2], String> {
    let job = Job::new(Language::Bash, code.to_owned());
    let mut started = sandbox.start(job).await?;
    let (mut stdout, mut stderr) = (String::new(), String::new());
    started.stdout.read_to_string(&mut stdout).await.unwrap();
    started.stderr.read_to_string(&mut stderr).await.unwrap();
    Ok([stdout, stderr])
}

#[tokio::test]
async fn a_sandbox_whose_agent_died_says_so_and_others_go_on() {
    let folder = tempfile::tempdir().unwrap();
    let options = NamespaceOptions::default();
    let Some((backend, [one, two])) = sandboxes(folder.path(), options).await else {
        return;
    };
    let job = Job::new(Language::Bash, "echo started; sleep 1000".to_owned());
    let mut started = one.start(job).await.unwrap();
    let mut line = [0; 8];
    started.stdout.read_exact(&mut line).await.unwrap();
    one.agent().await.unwrap().kill();
    let error = started.process.wait().await.unwrap_err();
    assert!(error.to_string().contains("agent"), "{error}");
    started.process.kill().await.unwrap_err();
    let error = run(&one, "echo again").await.unwrap_err();
    assert!(error.contains("agent"), "{error}");
    assert_eq!(run(&two, "echo two").await.unwrap()[0], "two\n");
    drop(started);
    end(backend, [one, two]).await;
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
    let Some((backend, sandboxes)) = sandboxes(folder.path(), options).await else {
        panic!("namespaces don't work on this machine, or with these options")
    };
    let code = format!(
        "cat {0}/file; touch {0}/new; test -e {1} || echo ' hidden'",
        open.display(),
        private.display()
    );
    let [stdout, stderr] = run(&sandboxes[0], &code).await.unwrap();
    assert_eq!(stdout, "seen hidden\n");
    assert!(stderr.contains("Read-only file system"), "{stderr}");
    end(backend, sandboxes).await;
}
