//! Machines with mounts below the directories that sandboxes can read, as in a container.

use std::{fs, os::unix::fs::PermissionsExt};

use actix_sandbox::{Language, Sandbox};

use crate::support::{program::Program, within};

/// The backends that confine code. If this process can't create a mount namespace for the server,
/// prints that and returns `None`.
fn backends() -> Option<[&'static str; 2]> {
    let tried = std::process::Command::new("unshare")
        .args(["--mount", "true"])
        .output();
    let works = tried.is_ok_and(|it| it.status.success());
    if !works {
        println!("not tried: `unshare --mount` does not work here");
        assert!(std::env::var_os("CI_BACKENDS").is_none());
    }
    works.then_some(["namespace", "gvisor"])
}

async fn bash(program: &Program, code: &str) -> String {
    let sandbox = Sandbox::create(&program.url).await.unwrap();
    let output = within("the code", sandbox.run(Language::Bash, code)).await;
    let output = output.unwrap();
    format!("{}{}", output.stdout_lossy(), output.stderr_lossy())
}

/// In a container, files in `/etc` are mounts.
#[actix::test]
async fn mounts_below_a_readable_directory_are_read_only() {
    let Some(backends) = backends() else { return };
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, "of the container\n").unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o666)).unwrap();
    let mounts = format!(
        "mount --bind {} /etc/host.conf; mount -t tmpfs x /usr/games; mkdir '/usr/games/a mount'; mount -t tmpfs -o mode=777,noexec x '/usr/games/a mount';
         echo in the mount > '/usr/games/a mount/file'",
        file.display()
    );
    let code = "cat /etc/host.conf '/usr/games/a mount/file'
        for file in /etc/host.conf '/usr/games/a mount/file' '/usr/games/a mount/more'; do (echo x > \"$file\") 2> /dev/null || echo closed; done";
    for backend in backends {
        let program = Program::start_where(&mounts, &["--backend", backend]);
        let said = bash(&program, code).await;
        let expected = "of the container\nin the mount\nclosed\nclosed\nclosed\n";
        assert_eq!(said, expected, "{backend}");
    }
    assert_eq!(fs::read_to_string(file).unwrap(), "of the container\n");
}

/// On Ubuntu and Fedora, `/etc/resolv.conf` is a symlink into `/run`.
#[actix::test]
async fn names_resolve_where_the_resolvers_file_is_a_link() {
    let Some(backends) = backends() else { return };
    let mounts = "mount -t tmpfs x /mnt; cp -a /etc /mnt/etc; mount --bind /mnt/etc /etc;
        mount -t tmpfs x /run; mkdir -p /run/resolver; echo nameserver 192.0.2.7 > /run/resolver/stub;
        rm /etc/resolv.conf; ln -s ../run/resolver/stub /etc/resolv.conf;
        echo 192.0.2.8 of-the-machine >> /etc/hosts";
    let code = "cat /etc/resolv.conf; getent hosts of-the-machine | tr -s ' '";
    for backend in backends {
        let program = Program::start_where(mounts, &["--backend", backend, "--network"]);
        let said = bash(&program, code).await;
        let expected = "nameserver 192.0.2.7\n192.0.2.8 of-the-machine\n";
        assert_eq!(said, expected, "{backend}");
    }
}

/// `/dev/null` is mounted over `runsc` and `bwrap`, so neither backend can start.
#[test]
fn confined_says_what_each_backend_lacks() {
    if backends().is_none() {
        return;
    }
    let script = "mount --bind /dev/null $(command -v runsc || echo /bin/false) \
        && mount --bind /dev/null $(command -v bwrap) && exec \"$@\"";
    let output = std::process::Command::new("unshare")
        .args(["--mount", "--", "bash", "-c", script, "bash"])
        .arg(env!("CARGO_BIN_EXE_actix-sandbox"))
        .args(["serve", "--backend", "confined", "--address", "127.0.0.1:0"])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    for part in [
        "no backend that confines",
        "`gvisor`: ",
        "`namespace`: ",
        "`--backend host`",
    ] {
        assert!(said.contains(part), "{said}");
    }
}
