//! What the reports of a run contain.

use super::*;

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
    assert_eq!(report["timeline"]["width_seconds"], 1);
    assert_eq!(sum(&report["timeline"]["started"]), 20);
    assert_eq!(sum(&report["timeline"]["completed"]), 20);
    assert_eq!(sum(&report["timeline"]["execs"]), 40);
    assert_eq!(report["errors"], serde_json::json!([]));
    for (name, count) in [
        ("create", 20),
        ("exec_start", 40),
        ("first_output", 40),
        ("interactive", 20),
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
    assert_eq!(page.matches("<svg").count(), 4);
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

#[actix::test]
async fn every_report_names_the_machine_and_the_build() {
    let (_folder, html) = place("page.html");
    let arguments = ["--sandboxes", "1", "--json", "-", "--html", &html];
    let (_, local, text) = run(&[&["--backend", "host"][..], &arguments].concat()).await;
    let local: Value = serde_json::from_str(&local).unwrap();
    assert_eq!(local["format"], "actix-sandbox bench");
    assert_eq!(local["format_version"], 1);
    let environment = &local["environment"];
    assert_eq!(environment["local_server"]["backend"], "host");
    assert_eq!(environment["local_server"]["warm"], 0);
    let kernel = environment["machine"]["kernel"].as_str().unwrap();
    assert!(environment["machine"]["cores"].as_u64().unwrap() >= 1);
    let page = fs::read_to_string(&html).unwrap();
    for shown in [&text, &page] {
        assert!(shown.contains(kernel), "{shown}");
        assert!(shown.contains("backend host, warm pool of 0"), "{shown}");
        let is_debug = cfg!(debug_assertions);
        assert_eq!(shown.contains("This is a debug build"), is_debug, "{shown}");
    }

    // The benchmark can't know the machine of a service with a URL.
    let server = actix_sandbox::LocalServer::start().await.unwrap();
    let arguments = ["--url", server.url(), "--sandboxes", "1", "--json", "-"];
    let (_, remote, text) = run(&arguments).await;
    let remote: Value = serde_json::from_str(&remote).unwrap();
    assert_eq!(remote["environment"]["local_server"], Value::Null);
    assert_eq!(remote["environment"]["machine"]["kernel"], kernel);
    assert!(text.contains("Client: "), "{text}");
    server.stop().await;
}

#[actix::test]
async fn a_sandbox_whose_script_fails_is_not_interactive() {
    // Every second script fails, after its output.
    let (_folder, mark) = place("mark");
    let script = format!("echo hello; rm {mark} 2> /dev/null || {{ touch {mark}; exit 1; }}");
    let arguments = ["--backend", "host", "--mode", "sequential", "--sandboxes"];
    let more = ["4", "--script", &script, "--json", "-"];
    let (code, stdout, stderr) = run(&[&arguments[..], &more].concat()).await;
    assert_eq!(code, Some(1), "{stderr}");
    let report: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(phase(&report, "first_output")["count"], 4);
    assert_eq!(phase(&report, "interactive")["count"], 2);
    assert_eq!(phase(&report, "interactive")["success_rate"], 0.5);
    assert!(stderr.contains("success rate 50.0 % of 4"), "{stderr}");
}

#[cfg(target_os = "linux")]
#[actix::test]
async fn a_run_starts_with_a_full_warm_pool() {
    let probe = actix_sandbox::LocalServer::builder()
        .backend("namespace".parse().unwrap())
        .start();
    match probe.await {
        Ok(server) => server.stop().await,
        Err(_) => return,
    }
    let arguments = ["--backend", "namespace", "--warm", "2", "--sandboxes", "2"];
    let (code, stdout, stderr) = run(&[&arguments[..], &["--json", "-"]].concat()).await;
    assert_eq!(code, Some(0), "{stderr}");
    let report: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(report["environment"]["local_server"]["warm"], 2);
    let (code, _, stderr) = run(&["--backend", "host", "--warm", "2"]).await;
    assert_eq!(code, Some(1));
    assert!(stderr.contains("a backend that confines code"), "{stderr}");
}
