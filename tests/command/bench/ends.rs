//! How a run ends: signals, servers that die, and places that take no results.

use super::*;
use crate::support::{port::Port, send_signal};

/// Waits until `count` scripts have appended a line to the file.
async fn marks(file: &str, count: usize) {
    let marked = async {
        while fs::read_to_string(file).unwrap_or_default().lines().count() < count {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let waited = tokio::time::timeout(LONG, marked).await;
    assert!(waited.is_ok(), "the scripts do not run");
}

/// A run that something else ends: three scripts at once for ten minutes.
fn long_run(url: &str, script: &str, file: &str) -> Command {
    let mut command = command(&["--url", url, "--duration", "10m", "--concurrency", "3"]);
    command.args(["--script", script, "--json", file]);
    command
}

/// The reader of the output exits early, as in `actix-sandbox bench 2>&1 | head -1`.
#[actix::test]
async fn a_closed_pipe_ends_the_command_quietly() {
    let (_folder, file) = place("report.json");
    for arguments in [
        &["--json", &*file][..],
        &["--script", "exit 1"],
        &["--json", "-"],
    ] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut command = command(&["--backend", "host", "--sandboxes", "2"]);
        command.args(arguments).stdout(writer);
        let ended = ended(command.spawn().unwrap()).await;
        // A panic would exit with 101.
        assert_eq!(ended.status.code(), Some(141), "{arguments:?}");
        let stderr = String::from_utf8(ended.stderr).unwrap();
        assert!(!stderr.contains("actix-sandbox:"), "{stderr}");
    }
    assert_eq!(json(Path::new(&file))["sandboxes"]["completed"], 2);
}

#[cfg(target_os = "linux")]
#[actix::test]
async fn a_full_disk_is_reported_in_one_sentence() {
    let full = || fs::OpenOptions::new().write(true).open("/dev/full");
    let run = ["--backend", "host", "--sandboxes", "1"];
    for (arguments, is_stdout_full, place) in [
        (&[][..], true, "standard output"),
        (&["--json", "-"], true, "standard output"),
        (&["--json", "/dev/full"], false, "/dev/full"),
        (&["--html", "/dev/full"], false, "/dev/full"),
    ] {
        let mut command = command(&run);
        command.args(arguments);
        if is_stdout_full {
            command.stdout(full().unwrap());
        }
        let output = ended(command.spawn().unwrap()).await;
        assert_eq!(output.status.code(), Some(1), "{arguments:?}");
        let stderr = String::from_utf8(output.stderr).unwrap();
        let expected = format!("actix-sandbox: cannot write to {place}: No space left on device");
        assert!(stderr.contains(&expected), "{arguments:?}: {stderr}");
    }
}

#[actix::test]
async fn results_replace_a_file_in_one_step() {
    let (folder, file) = place("report.json");
    let link = folder.path().join("link");
    fs::write(&file, "of another run").unwrap();
    std::os::unix::fs::symlink(&file, &link).unwrap();
    let old = fs::File::open(&file).unwrap();
    let run = ["--backend", "host", "--sandboxes", "1", "--json"];
    let child = command(&[&run[..], &[link.to_str().unwrap()]].concat()).spawn();
    assert!(ended(child.unwrap()).await.status.success());
    // A reader that opened the file before still has the old contents.
    assert_eq!(std::io::read_to_string(old).unwrap(), "of another run");
    assert_eq!(json(Path::new(&file))["stopped"], "done");
    assert!(link.is_symlink());
    // Only the file and the link: no temporary file is left.
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
}

#[actix::test]
async fn an_absent_server_is_reported_once() {
    let (_folder, file) = place("report.json");
    let port = Port::reserve();
    let url = format!("http://{}", port.address());
    let arguments = ["--url", &url, "--sandboxes", "100000", "--json", &file];
    let (code, stdout, stderr) = run(&arguments).await;
    assert_eq!(code, Some(1));
    assert_eq!(stdout, "");
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    assert!(stderr.contains("no sandbox could be created"), "{stderr}");
    assert!(stderr.contains("is the server running"), "{stderr}");
    let report = json(Path::new(&file));
    assert_eq!(report["stopped"], "unreachable");
    assert_eq!(report["sandboxes"]["completed"], 0);

    fs::write(&file, "of another run").unwrap();
    let (code, _, stderr) = run(&arguments).await;
    assert_eq!(code, Some(1));
    assert!(stderr.contains("is unchanged"), "{stderr}");
    assert_eq!(fs::read_to_string(&file).unwrap(), "of another run");
}

#[cfg(target_os = "linux")]
#[actix::test]
async fn a_server_that_dies_ends_the_run_with_partial_results() {
    let (folder, file) = place("report.json");
    let marked = folder.path().join("marks");
    let marked = marked.to_str().unwrap();
    let server = program::Program::start(&["--backend", "host"]);
    let script = format!("echo x >> {marked}");
    let bench = long_run(&server.url, &script, &file).spawn().unwrap();
    marks(marked, 10).await;
    server.killed();
    let output = ended(bench).await;
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("the server is gone"), "{stderr}");
    assert!(String::from_utf8(output.stdout).unwrap().contains("errors"));
    let report = json(Path::new(&file));
    assert_eq!(report["stopped"], "server_lost");
    assert!(report["sandboxes"]["completed"].as_u64().unwrap() >= 7);
    assert!(phase(&report, "create")["count"].as_u64().unwrap() >= 10);
}

#[actix::test]
async fn a_signal_ends_the_run_with_partial_results_and_no_sandbox() {
    for (signal, status) in [("INT", 130), ("TERM", 143)] {
        ends_with_partial_results(signal, status).await;
    }
}

async fn ends_with_partial_results(signal: &str, status: i32) {
    let (folder, file) = place("report.json");
    let marked = folder.path().join("marks");
    let marked = marked.to_str().unwrap();
    let server = actix_sandbox::LocalServer::builder()
        .backend(actix_sandbox::server::Backend::Host)
        .start()
        .await
        .unwrap();
    // The scripts from the tenth on don't end.
    let script = format!("echo x >> {marked}; (( $(wc -l < {marked}) < 10 )) || sleep 1000");
    let bench = long_run(server.url(), &script, &file).spawn().unwrap();
    marks(marked, 10).await;
    send_signal(bench.id(), signal);
    let output = ended(bench).await;
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(status), "{stderr}");
    assert!(stderr.contains("interrupted"), "{stderr}");
    let report = json(Path::new(&file));
    assert_eq!(report["stopped"], "interrupted");
    assert!(report["sandboxes"]["cancelled"].as_u64().unwrap() >= 1);
    assert!(report["sandboxes"]["completed"].as_u64().unwrap() >= 7);
    assert_eq!(server.sandbox_count(), 0);
    server.stop().await;
}
