//! `actix-sandbox serve` inside gVisor, as in containers of GKE Sandbox and Cloud Run.

use std::process::{Command, Stdio};

use crate::support::within;

/// Starts the program `$1` on the directory `$2`, runs code through it, and stops it.
const SCRIPT: &str = r#"
set -e
mkfifo "$2/out"
"$1" serve --backend host --no-secret --address 127.0.0.1:0 --directory "$2" >"$2/out" &
read -r _ _ url <"$2/out"
python3 - "$url" <<'END'
import sys, urllib.request
url = sys.argv[1] + "/execute?language=bash"
print(urllib.request.urlopen(url, b"ulimit -c; echo m$((1 + 1))", 100).read())
END
kill %1
wait %1
echo stopped"#;

#[actix::test]
async fn inside_gvisor_the_host_backend_starts_and_runs_code() {
    if !nix::unistd::geteuid().is_root() {
        println!("not run: `runsc do` needs root");
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let records = tempfile::tempdir().unwrap();
    let mut command = Command::new("timeout");
    command.args(["-k", "1", "110", "runsc"]);
    command.arg("--root").arg(records.path());
    command.args(["--network=none", "--platform=ptrace", "--ignore-cgroups"]);
    command.args(["do", "bash", "-c", SCRIPT, "bash"]);
    command.arg(env!("CARGO_BIN_EXE_actix-sandbox"));
    command.arg(directory.path()).stdin(Stdio::null());
    let output = tokio::task::spawn_blocking(move || command.output());
    let output = within("gVisor", output).await.unwrap().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let log = String::from_utf8_lossy(&output.stderr);
    if output.status.code() == Some(127) && std::env::var_os("CI_BACKENDS").is_none() {
        println!("not run: runsc is not installed: {log}");
        return;
    }
    assert_eq!(said, "b'0\\nm2\\n'\nstopped\n", "{}: {log}", output.status);
}
