//! The command `actix-sandbox bench`: its reports, its errors, and the results of a run that ends
//! early.

use std::{
    fs,
    path::Path,
    process::{Child, Command, Output, Stdio},
    time::Duration,
};

use crate::support::{LONG, program, within};
use serde_json::Value;
use tempfile::TempDir;

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_actix-sandbox"));
    command
        .arg("bench")
        .args(arguments)
        .env_remove("ACTIX_SANDBOX_TOKEN")
        .env_remove("ACTIX_SANDBOX_URL")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

async fn ended(child: Child) -> Output {
    let ended = tokio::task::spawn_blocking(move || child.wait_with_output());
    within("the end of the program", ended)
        .await
        .unwrap()
        .unwrap()
}

async fn run(arguments: &[&str]) -> (Option<i32>, String, String) {
    let output = ended(command(arguments).spawn().unwrap()).await;
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (
        output.status.code(),
        text(output.stdout),
        text(output.stderr),
    )
}

fn json(path: &Path) -> Value {
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

fn sum(list: &Value) -> u64 {
    let list = list.as_array().unwrap().iter();
    list.map(|it| it.as_u64().unwrap()).sum()
}

fn phase<'a>(report: &'a Value, name: &str) -> &'a Value {
    let phases = report["phases"].as_array().unwrap();
    let mut named = phases.iter().filter(|it| it["phase"] == name);
    named.next().unwrap_or_else(|| panic!("no {name}"))
}

/// Returns a temporary directory, and the path of a file in it.
fn place(name: &str) -> (TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join(name).to_str().unwrap().to_owned();
    (folder, file)
}

#[actix::test]
async fn the_table_the_json_and_the_page_report_the_same_totals() {
    let (_folder, html) = place("page.html");
    let hostile = "echo '</pre><script>alert(1)</script>' & wait";
    let arguments = [
        "--backend",
        "host",
        "--sandboxes",
        "20",
        "--concurrency",
        "4",
        "--execs",
        "2",
        "--script",
        hostile,
        "--json",
        "-",
        "--html",
        &html,
    ];
    let (code, stdout, stderr) = run(&arguments).await;
    assert_eq!(code, Some(0), "{stderr}");
    let report: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(report["stopped"], "done");
    assert_eq!(report["sandboxes"]["completed"], 20);
    assert_eq!(report["execs"], 40);
    let line = "</pre><script>alert(1)</script>\n".len() as u64;
    assert_eq!(report["output_bytes"], 40 * line);
    assert_eq!(sum(&report["timeline"]["completed"]), 20);
    assert_eq!(sum(&report["timeline"]["execs"]), 40);
    assert_eq!(report["errors"], serde_json::json!([]));
    for (name, count) in [
        ("create", 20),
        ("exec_start", 40),
        ("first_output", 40),
        ("end", 40),
        ("kill", 20),
        ("whole", 20),
    ] {
        let phase = phase(&report, name);
        assert_eq!(phase["count"], count, "{name}");
        let names = ["min", "p50", "p90", "p95", "p99", "p99.9", "max"];
        let times = names.map(|it| phase[format!("{it}_ms")].as_f64().unwrap());
        assert!(times[0] > 0.0 && times.is_sorted(), "{name}: {times:?}");
    }
    // The JSON goes to stdout, so the table goes to stderr.
    assert!(stderr.contains("20 completed, 0 failed"), "{stderr}");
    assert!(stderr.contains("first output"), "{stderr}");

    let page = fs::read_to_string(&html).unwrap();
    assert!(page.contains("default-src 'none'"));
    assert!(!page.contains("<script"), "output is escaped");
    for reference in ["http://", "https://", "src=", "url(", "@import"] {
        assert!(!page.contains(reference), "{reference}");
    }
    assert_eq!(page.matches("<svg").count(), 3);
    for element in [
        "svg", "text", "figure", "table", "pre", "main", "html", "p", "div",
    ] {
        let opened = page.matches(&format!("<{element}>")).count()
            + page.matches(&format!("<{element} ")).count();
        assert_eq!(
            opened,
            page.matches(&format!("</{element}>")).count(),
            "{element}"
        );
    }
    assert!(!page.contains("NaN") && !page.contains("inf"), "numbers");
}

#[actix::test]
async fn an_open_loop_measures_from_the_scheduled_start() {
    let arguments = [
        "--backend",
        "host",
        "--sandboxes",
        "12",
        "--concurrency",
        "1",
        "--rate",
        "1000",
        "--script",
        "sleep 0.05",
        "--json",
        "-",
    ];
    let (code, stdout, stderr) = run(&arguments).await;
    assert_eq!(code, Some(0), "{stderr}");
    let report: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(report["plan"]["loop"], "open");
    assert_eq!(report["times_too_good"], false);
    // The sandboxes run in sequence and were all due within 12 ms, so the last one waited for
    // eleven scripts.
    let least = 11.0 * 50.0 - 12.0;
    assert!(report["sandboxes"]["longest_wait_ms"].as_f64().unwrap() > least);
    assert!(phase(&report, "create")["max_ms"].as_f64().unwrap() > least);
    assert!(phase(&report, "end")["count"] == 12);
}

#[actix::test]
async fn latencies_without_unstarted_sandboxes_are_marked() {
    let (_folder, html) = place("page.html");
    let arguments = [
        "--backend",
        "host",
        "--duration",
        "1s",
        "--concurrency",
        "1",
        "--rate",
        "1000",
        "--script",
        "sleep 0.05",
        "--json",
        "-",
        "--html",
        &html,
    ];
    let (code, stdout, stderr) = run(&arguments).await;
    assert_eq!(code, Some(0), "{stderr}");
    let report: Value = serde_json::from_str(&stdout).unwrap();
    assert!(report["sandboxes"]["never_begun"].as_u64().unwrap() > 0);
    assert_eq!(report["times_too_good"], true);
    assert!(stderr.contains("The latencies are too low"), "{stderr}");
    let page = fs::read_to_string(&html).unwrap();
    assert!(page.contains("The latencies are too low"));
}

#[actix::test]
async fn bad_arguments_are_refused_before_code_runs() {
    let (folder, file) = place("report");
    fs::write(&file, "of another run").unwrap();
    let nowhere = folder.path().join("missing/report");
    let nowhere = nowhere.to_str().unwrap();
    for (arguments, code, part) in [
        (&["--rate", "0"][..], 2, "a number above 0"),
        (&["--rate", "fast"], 2, "a number above 0"),
        (&["--concurrency", "0"], 2, "1..=100000"),
        (&["--sandboxes", "0"], 2, "--sandboxes"),
        (&["--execs", "10001"], 2, "0..=10000"),
        (&["--duration", "0s"], 2, "longer than 0"),
        (&["--duration", "5"], 2, "time unit needed"),
        (
            &["--backend", "docker"],
            2,
            "expected auto, confined, host, namespace or gvisor",
        ),
        (
            &["ws://127.0.0.1:1", "--backend", "host"],
            2,
            "cannot be used with",
        ),
        (
            &["--script", "x", "--script-file", "y"],
            2,
            "cannot be used with",
        ),
        (&["--token-file", "x"], 2, "required"),
        (
            &["ws://ann:s3cret@localhost", "--json", &file],
            1,
            "contains a user name or password",
        ),
        (
            &["ws://ann:s3cret@local host", "--html", &file],
            1,
            "is not a URL",
        ),
        (&["ftp://localhost", "--json", &file], 1, "expected ws://"),
        (&["--script-file", nowhere], 1, "cannot read the script"),
        (&["--json", nowhere], 1, "cannot write to"),
        (&["--html", nowhere], 1, "cannot write to"),
        (&["--json", &file, "--html", &file], 1, "the same file"),
    ] {
        let (ended, stdout, stderr) = run(arguments).await;
        assert_eq!(ended, Some(code), "{arguments:?}: {stderr}");
        assert!(stderr.contains(part), "{arguments:?}: {stderr}");
        assert_eq!(stdout, "", "{arguments:?}");
        assert!(!stderr.contains("s3cret"), "{stderr}");
    }
    assert_eq!(fs::read_to_string(&file).unwrap(), "of another run");
}

#[actix::test]
async fn a_failed_script_is_reported_with_the_last_line_of_stderr() {
    let script = "import sys; print('x' * 5000, file=sys.stderr); raise ValueError('b\x1boom')";
    let arguments = [
        "--backend",
        "host",
        "--sandboxes",
        "2",
        "--language",
        "python",
    ];
    let (code, stdout, _) = run(&[&arguments[..], &["--script", script]].concat()).await;
    assert_eq!(code, Some(1));
    assert!(
        stdout
            .contains("exited with code 1; the last line of its stderr: ValueError: b\u{fffd}oom"),
        "{stdout}"
    );
    assert!(!stdout.contains("xxx"), "{stdout}");
}

#[actix::test]
async fn a_refusal_without_a_token_names_the_flag() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let service = async {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let answer = b"HTTP/1.1 401 Unauthorized\r\ncontent-length: 0\r\n\r\n";
            let _ = tokio::io::AsyncWriteExt::write_all(&mut stream, answer).await;
            // Read to the end: closing with unread requests would reset the connection.
            let _ = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await;
        }
    };
    let arguments = [&*url, "--sandboxes", "1"];
    let (code, _, stderr) = tokio::select! {
        ended = run(&arguments) => ended,
        () = service => unreachable!(),
    };
    assert_eq!(code, Some(1));
    assert!(stderr.contains("`--token-file`"), "{stderr}");
    assert!(!stderr.contains("google_auth"), "{stderr}");
}

/// The reader of the output exits early, as in `actix-sandbox bench 2>&1 | head -1`.
#[actix::test]
async fn a_closed_pipe_is_not_a_failure() {
    for (arguments, code) in [
        (&[][..], 0),
        (&["--script", "exit 1"], 1),
        (&["--json", "-"], 0),
    ] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut command = command(&["--backend", "host", "--sandboxes", "2"]);
        command.args(arguments);
        command.stdout(writer.try_clone().unwrap()).stderr(writer);
        let ended = ended(command.spawn().unwrap()).await;
        // A panic would exit with 101.
        assert_eq!(ended.status.code(), Some(code), "{arguments:?}");
    }
}

#[actix::test]
async fn no_report_contains_the_path_of_the_url() {
    let server = actix_sandbox::LocalServer::start().await.unwrap();
    let (_, secret) = server.url().rsplit_once('/').unwrap();
    let (_folder, page) = place("report.html");
    let mut command = command(&["--sandboxes", "1", "--html", &page]);
    command.env("ACTIX_SANDBOX_URL", server.url());
    let output = ended(command.spawn().unwrap()).await;
    let shown = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (stdout, stderr) = (shown(&output.stdout), shown(&output.stderr));
    assert!(output.status.success(), "{stderr}");
    let (code, json, _) = run(&[server.url(), "--sandboxes", "1", "--json", "-"]).await;
    assert_eq!(code, Some(0));
    let page = fs::read_to_string(page).unwrap();
    let address = server.address().to_string();
    for text in [&stdout, &json, &page] {
        assert!(text.contains(&address), "{text}");
        assert!(!text.contains(secret), "{text}");
    }
    assert!(!stderr.contains(secret), "{stderr}");
    let (_, help, _) = run(&["--help"]).await;
    assert!(help.contains("ACTIX_SANDBOX_URL"), "{help}");
    server.stop().await;
}

#[actix::test]
async fn an_absent_server_is_reported_once() {
    let (_folder, file) = place("report.json");
    // A port without a listener.
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", free.local_addr().unwrap());
    drop(free);
    let arguments = [&url, "--sandboxes", "100000", "--json", &file];
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

#[actix::test]
async fn failed_scripts_are_counted_by_kind() {
    let (_folder, file) = place("report.json");
    let arguments = [
        "--backend",
        "host",
        "--sandboxes",
        "3",
        "--script",
        "exit 3",
        "--json",
        &file,
    ];
    let (code, stdout, stderr) = run(&arguments).await;
    assert_eq!(code, Some(1));
    assert!(stdout.contains("3 × process failed in end"), "{stdout}");
    assert!(stderr.contains("3 steps failed"), "{stderr}");
    let report = json(Path::new(&file));
    assert_eq!(report["sandboxes"]["failed"], 3);
    assert_eq!(report["errors"][0]["count"], 3);
    assert_eq!(report["errors"][0]["kind"], "process failed");
}

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

#[cfg(target_os = "linux")]
#[actix::test]
async fn a_server_that_dies_ends_the_run_with_partial_results() {
    let (folder, file) = place("report.json");
    let marked = folder.path().join("marks");
    let marked = marked.to_str().unwrap();
    let server = program::Program::start(&["--backend", "host"]);
    let script = format!("echo x >> {marked}");
    let arguments = [
        &server.url,
        "--duration",
        "10m",
        "--concurrency",
        "3",
        "--script",
        &script,
        "--json",
        &file,
    ];
    let bench = command(&arguments).spawn().unwrap();
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
    let arguments = [
        server.url(),
        "--duration",
        "10m",
        "--concurrency",
        "3",
        "--script",
        &script,
        "--json",
        &file,
    ];
    let bench = command(&arguments).spawn().unwrap();
    marks(marked, 11).await;
    let sent = Command::new("kill")
        .args(["-s", "INT", &bench.id().to_string()])
        .status();
    assert!(sent.unwrap().success());
    let output = ended(bench).await;
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(130), "{stderr}");
    assert!(stderr.contains("interrupted"), "{stderr}");
    let report = json(Path::new(&file));
    assert_eq!(report["stopped"], "interrupted");
    assert!(report["sandboxes"]["cancelled"].as_u64().unwrap() >= 1);
    assert!(report["sandboxes"]["completed"].as_u64().unwrap() >= 7);
    assert_eq!(server.sandbox_count(), 0);
    server.stop().await;
}
