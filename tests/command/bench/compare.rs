//! `bench compare`: the results of two runs side by side.

use super::*;

async fn results(folder: &TempDir, name: &str, more: &[&str]) -> String {
    let file = folder.path().join(name).to_str().unwrap().to_owned();
    let arguments = ["--backend", "host", "--sandboxes", "2", "--json", &file];
    let (code, _, stderr) = run(&[&arguments[..], more].concat()).await;
    assert_eq!(code, Some(0), "{stderr}");
    file
}

/// Returns the words of the row with this beginning.
fn row<'a>(table: &'a str, start: &str) -> Vec<&'a str> {
    let row = table.lines().find(|it| it.starts_with(start));
    let row = row.unwrap_or_else(|| panic!("no {start}: {table}"));
    row[start.len()..].split_whitespace().collect()
}

#[actix::test]
async fn two_runs_are_compared_step_by_step() {
    let folder = tempfile::tempdir().unwrap();
    let a = results(&folder, "a.json", &[]).await;
    let b = results(&folder, "b.json", &["--mode", "burst"]).await;
    let (code, same, stderr) = run(&["compare", &a, &a]).await;
    assert_eq!((code, &*stderr), (Some(0), ""));
    assert!(!same.contains("Warning: different"), "{same}");
    for step in [
        "create",
        "exec start",
        "first output",
        "interactive",
        "end",
        "kill",
        "whole",
    ] {
        for statistic in ["p50", "p95", "p99"] {
            let row = row(&same, &format!("{step:<14}{statistic}"));
            assert_eq!(row[4..6], ["1.00", "+0.00"], "{same}");
            assert_eq!(row[..2], row[2..4], "{same}");
        }
    }
    assert_eq!(row(&same, "failures")[..2], ["0", "0"]);
    let (code, different, _) = run(&["compare", &a, &b]).await;
    assert_eq!(code, Some(0));
    let expected = "Warning: different mode: null in A, \"burst\" in B";
    assert!(different.contains(expected), "{different}");
}

#[actix::test]
async fn a_ratio_over_its_limit_fails_the_comparison() {
    let folder = tempfile::tempdir().unwrap();
    let a = results(&folder, "a.json", &[]).await;
    for (condition, status, part) in [
        ("ratio(p99(create))>1.2", 0, ""),
        (
            "ratio(p99(create)) < 1.2",
            1,
            "the ratio of p99(create) is 1.000",
        ),
        // Equal, also if both are 0.
        ("ratio(failures)>1", 0, ""),
        ("p99(create)>1.2", 2, "for example ratio(p99(create))>1.2"),
        ("ratio(p99(creat))>1.2", 2, "`creat` is not a step"),
    ] {
        let (code, _, stderr) = run(&["compare", &a, &a, "--fail-if", condition]).await;
        assert_eq!(code, Some(status), "{condition}: {stderr}");
        assert!(stderr.contains(part), "{condition}: {stderr}");
    }
}

#[actix::test]
async fn files_that_are_no_results_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let a = results(&folder, "a.json", &[]).await;
    let newer = json(Path::new(&a)).to_string();
    let newer = newer.replace("\"format_version\":1", "\"format_version\":2");
    for (contents, part) in [
        (None, "cannot read the results in"),
        (Some(""), "is not JSON"),
        (Some("a,b"), "is not JSON"),
        (Some("[]"), "is not a result of `bench`"),
        (
            Some("{\"format\": \"other\"}"),
            "is not a result of `bench`",
        ),
        (Some(&*newer), "has the format version 2"),
        (
            Some("{\"format\": \"actix-sandbox bench\", \"format_version\": 1}"),
            "is not a complete result",
        ),
    ] {
        let other = folder.path().join("other");
        if let Some(contents) = contents {
            fs::write(&other, contents).unwrap();
        }
        let other = other.to_str().unwrap();
        for files in [[&*a, other], [other, &*a]] {
            let (code, stdout, stderr) = run(&[&["compare"][..], &files].concat()).await;
            assert_eq!((code, &*stdout), (Some(1), ""), "{stderr}");
            assert!(stderr.contains(part) && stderr.contains(other), "{stderr}");
        }
    }
}
