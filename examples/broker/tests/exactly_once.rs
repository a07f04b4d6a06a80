//! Each job has exactly one result: 1,000 jobs, 20 workers killed with SIGKILL at random moments,
//! one restart of the broker; and scripts that remove their output or can't be run. The variable
//! `SEED` selects other moments.

mod support;

use std::{collections::BTreeSet, time::Duration};

use actix_sandbox::{LocalServer, Sandbox, server::Backend};
use support::{Broker, Chance, Worker, within};

const JOBS: u64 = 1_000;
const KILLS: usize = 20;

/// Notes that it ran, works for 10 to 40 ms, and prints something.
const SCRIPT: &str = r#"echo "$JOB" >> RUNS; sleep "0.0$((RANDOM % 4 + 1))"; echo "did $JOB""#;

#[tokio::test]
async fn killed_workers_and_a_restarted_broker_lose_and_repeat_nothing() {
    if !support::has_nats_server() {
        return;
    }
    let directory = tempfile::tempdir().expect("a directory");
    let (runs, log) = (directory.path().join("runs"), directory.path().join("log"));
    let mut broker = Broker::start(&directory.path().join("broker")).await;
    // The service outlives the workers. It is a thread of this process.
    let service = LocalServer::builder().backend(Backend::Host).start().await;
    let service = service.expect("a service");
    let script = SCRIPT.replace("RUNS", runs.to_str().expect("a path"));
    broker
        .jobs(&["submit", "job", &JOBS.to_string(), &script])
        .await;

    let seed = std::env::var("SEED").map_or(1, |seed| seed.parse().expect("a number"));
    let mut chance = Chance(seed);
    let mut kills: Vec<u64> = (0..KILLS).map(|_| chance.below(JOBS * 19 / 20)).collect();
    kills.sort_unstable();
    let mut worker = Worker::start(&broker, service.url(), &log);
    for (number, results) in kills.into_iter().enumerate() {
        broker.wait_for_results(results, &mut worker).await;
        tokio::time::sleep(Duration::from_millis(chance.below(60))).await;
        worker.kill().await;
        worker = Worker::start(&broker, service.url(), &log);
        if number == KILLS / 2 {
            broker.wait_for_results(results + 1, &mut worker).await;
            broker.restart().await;
        }
    }
    broker.wait_for_results(JOBS, &mut worker).await;
    // Jobs whose result is stored may still be in the queue.
    broker.wait_for_empty_queue(&mut worker).await;
    worker.kill().await;

    let printed = broker.jobs(&["results"]).await;
    let results: Vec<serde_json::Value> = printed
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    let log = std::fs::read_to_string(log).expect("the log");
    let count = |what: &str| log.lines().filter(|line| line.contains(what)).count();
    let left = within("the list", async { Sandbox::list(service.url()).await }).await;
    println!(
        "seed {seed}: {} results, {KILLS} kills, {} jobs resumed in their sandbox, {} attempts \
         given back, {} messages of {} were redeliveries, {} sandboxes left to their idle timeout",
        results.len(),
        count(": resumed in "),
        count(": failed for now"),
        broker.redeliveries().await,
        broker.deliveries().await,
        left.expect("a list").len(),
    );
    let ids: BTreeSet<String> = (1..=JOBS).map(|number| format!("job-{number}")).collect();
    let id = |result: &serde_json::Value| result["id"].as_str().expect("an id").to_owned();
    assert_eq!(results.len() as u64, JOBS, "no result twice");
    assert_eq!(
        results.iter().map(id).collect::<BTreeSet<_>>(),
        ids,
        "none lost"
    );
    for result in &results {
        assert_eq!(result["end"], "exited with code 0");
        assert_eq!(result["output"], format!("did {}\n", id(result)));
    }
    let runs = std::fs::read_to_string(runs).expect("the runs");
    assert_eq!(runs.lines().count() as u64, JOBS, "no script ran twice");
    assert_eq!(
        runs.lines().map(str::to_owned).collect::<BTreeSet<_>>(),
        ids
    );
    assert!(count(": resumed in ") > 0, "the kills interrupted jobs");
    assert_eq!(count("starts over"), 0, "no sandbox was lost");
}

#[tokio::test]
async fn jobs_without_output_or_a_sandbox_get_a_result_too() {
    if !support::has_nats_server() {
        return;
    }
    let directory = tempfile::tempdir().expect("a directory");
    let mut broker = Broker::start(&directory.path().join("broker")).await;
    let service = |sandboxes| {
        let builder = LocalServer::builder().backend(Backend::Host);
        builder.max_sandboxes(sandboxes).start()
    };
    let (works, full) = (
        service(1).await.expect("one"),
        service(0).await.expect("two"),
    );
    let cases = [
        ("tidy", works.url(), "exited with code 0"),
        ("unlucky", full.url(), "gave up after 4 attempts"),
    ];
    let mut expected = String::new();
    for (number, (name, service, end)) in (1..).zip(cases) {
        broker.jobs(&["submit", name, "1", "rm output"]).await;
        let mut worker = Worker::start(&broker, service, &directory.path().join("log"));
        broker.wait_for_results(number, &mut worker).await;
        broker.wait_for_empty_queue(&mut worker).await;
        worker.kill().await;
        expected += &format!("{{\"id\":\"{name}-1\",\"end\":\"{end}\",\"output\":\"\"}}\n");
    }
    assert_eq!(broker.jobs(&["results"]).await, expected);
}
