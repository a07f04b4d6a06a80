//! `--fail-if`: conditions under which a run fails.

use super::*;

const RUN: [&str; 4] = ["--backend", "host", "--sandboxes", "2"];

#[actix::test]
async fn conditions_that_hold_fail_the_run_after_its_reports() {
    let (_folder, file) = place("report.json");
    let arguments = [
        "--json",
        &file,
        "--fail-if",
        "p50(create)>1us",
        "--fail-if",
        "p99(whole)>1h",
        "--fail-if",
        "count(end)<3",
        "--fail-if",
        "rate < 0.000001",
    ];
    let (code, stdout, stderr) = run(&[&RUN[..], &arguments].concat()).await;
    assert_eq!(code, Some(1), "{stderr}");
    assert!(stdout.contains("2 completed, 0 failed"), "{stdout}");
    let lines: Vec<_> = stderr.lines().collect();
    assert_eq!(lines.len(), 2, "{stderr}");
    assert!(lines[0].contains("`--fail-if p50(create)>1us` holds: p50(create) is "));
    assert!(lines[1].contains("`--fail-if count(end)<3` holds: count(end) is 2"));
    let report = json(Path::new(&file));
    let verdicts = report["fail_if"].as_array().unwrap();
    let failed = verdicts.iter().map(|it| it["failed"].as_bool().unwrap());
    assert_eq!(failed.collect::<Vec<_>>(), [true, false, true, false]);
    assert!(verdicts[0]["measured"].as_f64().unwrap() > 0.0);
}

#[actix::test]
async fn a_condition_without_samples_fails_the_run() {
    let arguments = ["--execs", "0", "--fail-if", "p50(end)>1h"];
    let (code, _, stderr) = run(&[&RUN[..], &arguments].concat()).await;
    assert_eq!(code, Some(1));
    assert!(stderr.contains("cannot be checked: nothing was measured for p50(end)"));
}

#[actix::test]
async fn a_condition_on_failures_replaces_the_default() {
    for (condition, code) in [("failures>2", 0), ("failures>1", 1), ("rate>1000000", 1)] {
        let arguments = ["--script", "exit 1", "--fail-if", condition];
        let (ended, _, stderr) = run(&[&RUN[..], &arguments].concat()).await;
        assert_eq!(ended, Some(code), "{condition}: {stderr}");
    }
}
