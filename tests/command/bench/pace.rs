//! When the sandboxes of a run start: `--mode` and `--ramp`.

use super::*;

async fn report(arguments: &[&str]) -> Value {
    let run = ["--backend", "host", "--json", "-"];
    let (code, stdout, stderr) = run_in(&run, arguments).await;
    assert_eq!(code, Some(0), "{arguments:?}: {stderr}");
    assert!(stderr.contains("Time to interactive: median "), "{stderr}");
    serde_json::from_str(&stdout).unwrap()
}

async fn run_in(first: &[&str], more: &[&str]) -> (Option<i32>, String, String) {
    run(&[first, more].concat()).await
}

/// Script that fails if another one runs at the same time, in a directory.
fn alone(directory: &str) -> String {
    format!("mkdir {directory} && echo hello && rmdir {directory}")
}

#[actix::test]
async fn a_sequential_run_has_one_sandbox_at_a_time() {
    let (_folder, directory) = place("one");
    let script = alone(&directory);
    let report = report(&[
        "--mode",
        "sequential",
        "--sandboxes",
        "4",
        "--script",
        &script,
    ])
    .await;
    assert_eq!(report["plan"]["mode"], "sequential");
    assert_eq!(report["plan"]["concurrency"], 1);
    assert_eq!(phase(&report, "interactive")["count"], 4);
    assert_eq!(phase(&report, "interactive")["success_rate"], 1.0);
}

#[actix::test]
async fn a_staggered_run_starts_sandboxes_at_an_interval() {
    let arguments = ["--mode", "staggered", "--stagger", "10ms", "--sandboxes"];
    let report = report(&[&arguments[..], &["6"]].concat()).await;
    assert_eq!(report["plan"]["rate"], 100.0);
    assert_eq!(phase(&report, "interactive")["count"], 6);
    assert_eq!(report["sandboxes"]["never_begun"], 0);
    // The last sandbox was due after five intervals.
    assert!(report["measured_seconds"].as_f64().unwrap() >= 0.05);
}

#[actix::test]
async fn a_burst_runs_every_sandbox_at_once() {
    // Each script waits until all of them run.
    let (_folder, marks) = place("marks");
    let script =
        format!("echo x >> {marks}; until (( $(wc -l < {marks}) == 12 )); do sleep 0.01; done");
    let arguments = ["--mode", "burst", "--sandboxes", "12", "--script"];
    let script = format!("echo hello; {script}");
    let report = report(&[&arguments[..], &[&*script]].concat()).await;
    assert_eq!(report["sandboxes"]["completed"], 12);
    assert_eq!(report["plan"]["rate"], Value::Null);
    // Every latency counts from the start of the run.
    let interactive = phase(&report, "interactive")["max_ms"].as_f64().unwrap();
    assert!(interactive <= report["measured_seconds"].as_f64().unwrap() * 1000.0);
}

#[actix::test]
async fn a_ramp_grows_the_rate_or_the_concurrency() {
    let arguments = ["--sandboxes", "10", "--rate", "20", "--ramp", "500ms"];
    let open = report(&arguments).await;
    assert_eq!(open["plan"]["ramp_seconds"], 0.5);
    // Without the ramp, the tenth sandbox would be due after 0.45 s.
    assert!(open["measured_seconds"].as_f64().unwrap() >= 0.7);

    // The ramp is longer than the run, so the second sandbox never runs beside the first.
    let (_folder, directory) = place("one");
    let script = alone(&directory);
    let arguments = ["--sandboxes", "3", "--concurrency", "2", "--ramp", "1h"];
    let closed = report(&[&arguments[..], &["--script", &script]].concat()).await;
    assert_eq!(closed["sandboxes"]["completed"], 3);
}
