//! Writes to a disk that is full. Only root can mount the small disk; other users skip the test.
#![cfg(target_os = "linux")]

use std::{path::Path, process::Command};

use actix_sandbox::{BuiltinErrorKind, LocalServer};

use super::by_message::{assert_goes_on, names, python};
use crate::support::{backend::is, patient, within};

/// A small disk in memory. It is unmounted when it is dropped.
struct Disk(tempfile::TempDir);

impl Disk {
    /// `None` if this user can't mount it.
    fn mount(bytes: u64) -> Option<Self> {
        let disk = Self(tempfile::tempdir().unwrap());
        let options = format!("size={bytes},mode=0755");
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &options, "tmpfs"]);
        let status = mount.arg(disk.path()).status();
        status.is_ok_and(|it| it.success()).then_some(disk)
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Fails if the mount has failed.
        let mut unmount = Command::new("umount");
        let _ = unmount.arg("--lazy").arg(self.path()).status();
    }
}

#[actix::test]
async fn a_write_to_a_full_disk_fails_and_keeps_the_old_file() {
    // The server of a confined backend copies its agent to the disk.
    let agent = match is("namespace") || is("gvisor") {
        true => std::fs::metadata(env!("CARGO_BIN_EXE_actix-sandbox")).map_or(0, |it| it.len()),
        false => 0,
    };
    let Some(disk) = Disk::mount(agent + (16 << 20)) else {
        println!("not tried: only root can mount a disk");
        return;
    };
    let server = LocalServer::builder().directory(disk.path()).start().await;
    let server = server.unwrap();
    let sandbox = patient(server.url()).await.unwrap();
    let files = sandbox.files();
    files.write("old", "old").await.unwrap();
    let fill = "
import errno
with open('filler', 'wb', 0) as filler:
    try:
        while True: filler.write(bytes(64 << 10))
    except OSError as error: assert error.errno == errno.ENOSPC
    # Room for a part of a write.
    filler.truncate(filler.tell() - (512 << 10))";
    python(&sandbox, fill).await;

    let large = vec![1; 2 << 20];
    for (what, result) in [
        (
            "old",
            within("a write", files.write("old", large.clone())).await,
        ),
        (
            "d/new",
            within("a write", files.write("d/new", large.clone())).await,
        ),
        (
            "copy",
            within("a copy", files.copy("filler", "copy"))
                .await
                .map(drop),
        ),
    ] {
        let error = result.unwrap_err();
        let kind = error.builtin().map(|error| error.kind);
        assert_eq!(kind, Some(BuiltinErrorKind::NoSpace), "{error}");
        assert!(error.to_string().contains(what), "{error}");
    }
    assert_eq!(names(&sandbox).await, ["filler", "old"]);
    assert_eq!(files.read("old").await.unwrap(), "old");

    let error = files.append("old", large).await.unwrap_err();
    let kind = error.builtin().map(|error| error.kind);
    assert_eq!(kind, Some(BuiltinErrorKind::NoSpace), "{error}");
    let written = files.metadata("old").await.unwrap().size - 3;
    let said = format!("{written} bytes were written");
    assert!(error.to_string().contains(&said), "{error}");
    files.remove("filler").await.unwrap();
    files.write("old", "new").await.unwrap();
    assert_eq!(files.read("old").await.unwrap(), "new");
    assert_goes_on(&sandbox).await;
    server.stop().await;
}
