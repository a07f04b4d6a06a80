//! The arguments of a run, and the URL of the service.

use super::*;

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
        (&["--duration", "5"], 2, "for example 30s"),
        (
            &["--backend", "docker"],
            2,
            "expected auto, confined, host, namespace or gvisor",
        ),
        (
            &["--url", "ws://127.0.0.1:1", "--backend", "host"],
            2,
            "cannot be used with",
        ),
        (
            &["--script", "x", "--script-file", "y"],
            2,
            "cannot be used with",
        ),
        (&["--token-file", "x"], 1, "needs a service"),
        (&["--warm", "1001"], 2, "from 0 to 1000"),
        (
            &["--url", "ws://127.0.0.1:1", "--warm", "1"],
            2,
            "cannot be used with",
        ),
        (&["--stagger", "1s"], 1, "needs `--mode staggered`"),
        (&["--mode", "fast"], 2, "sequential, staggered, burst"),
        (
            &["--mode", "burst", "--rate", "1"],
            1,
            "`--rate` cannot be used",
        ),
        (
            &["--mode", "sequential", "--concurrency", "1"],
            1,
            "`--concurrency` cannot be used",
        ),
        (
            &["--mode", "staggered", "--duration", "1s"],
            1,
            "`--duration` cannot be used",
        ),
        (
            &["--mode", "burst", "--execs", "0"],
            1,
            "must be at least 1",
        ),
        (
            &["--mode", "burst", "--sandboxes", "100001"],
            1,
            "at most 100000",
        ),
        (
            &["--ramp", "5s", "--concurrency", "1"],
            1,
            "nothing to grow",
        ),
        (
            &["--ramp", "5s", "--rate", "2", "--duration", "2s"],
            1,
            "longer than the run",
        ),
        (
            &["--ramp", "30s", "--rate", "10"],
            1,
            "raise `--sandboxes` above 150",
        ),
        (
            &["--fail-if", "p99(create)"],
            2,
            "for example p99(create)>500ms",
        ),
        (
            &["--fail-if", "p98(create)>1s"],
            2,
            "`p98` is not a statistic",
        ),
        (
            &["--url", "ws://ann:s3cret@localhost", "--json", &file],
            1,
            "contains a user name or password",
        ),
        (
            &["--url", "ws://ann:s3cret@local host", "--html", &file],
            1,
            "is not a URL",
        ),
        (
            &["--url", "ftp://localhost", "--json", &file],
            1,
            "expected ws://",
        ),
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
    let arguments = ["--url", &*url, "--sandboxes", "1"];
    let (code, _, stderr) = tokio::select! {
        ended = run(&arguments) => ended,
        () = service => unreachable!(),
    };
    assert_eq!(code, Some(1));
    assert!(stderr.contains("`--token-file`"), "{stderr}");
    assert!(!stderr.contains("google_auth"), "{stderr}");
}

#[actix::test]
async fn no_report_contains_the_path_of_the_url() {
    let server = actix_sandbox::LocalServer::start().await.unwrap();
    let (_, secret) = server.url().rsplit_once('/').unwrap();
    let (_folder, page) = place("report.html");
    let mut command = command(&["--sandboxes", "1", "--html", &page]);
    command.env("SANDBOX_URL", server.url());
    let output = ended(command.spawn().unwrap()).await;
    let shown = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (stdout, stderr) = (shown(&output.stdout), shown(&output.stderr));
    assert!(output.status.success(), "{stderr}");
    let (code, json, _) = run(&["--url", server.url(), "--sandboxes", "1", "--json", "-"]).await;
    assert_eq!(code, Some(0));
    let page = fs::read_to_string(page).unwrap();
    let address = server.address().to_string();
    for text in [&stdout, &json, &page] {
        assert!(text.contains(&address), "{text}");
        assert!(!text.contains(secret), "{text}");
    }
    assert!(!stderr.contains(secret), "{stderr}");
    let (_, help, _) = run(&["--help"]).await;
    assert!(help.contains("SANDBOX_URL"), "{help}");
    server.stop().await;
}

#[actix::test]
async fn an_explicit_local_server_wins_over_the_variable() {
    let nothing = "http://127.0.0.1:1";
    let run = async |arguments: &[&str]| {
        let mut command = command(arguments);
        command.env("SANDBOX_URL", nothing);
        ended(command.spawn().unwrap()).await.status.code()
    };
    assert_eq!(
        run(&["--sandboxes", "1", "--backend", "host"]).await,
        Some(0)
    );
    assert_eq!(run(&["--sandboxes", "1"]).await, Some(1));
}
