//! The worker: takes jobs from the queue and runs several of them at a time.

use std::{convert::Infallible, time::Duration};

use futures::future::join_all;

use crate::{
    Result,
    broker::{Broker, Delivery},
    job::{Job, JobResult},
    sandboxes::Sandboxes,
};

/// How many jobs a worker runs at a time.
const CONCURRENCY: usize = 8;

/// The delay before a worker retries after the broker failed.
const PAUSE: Duration = Duration::from_secs(1);

/// Runs jobs until the program is stopped. It may be killed at any moment.
///
/// After `attempts` deliveries, the result of a job says that it failed.
pub async fn work(broker: &str, service: String, attempts: i64) -> Result<()> {
    // The broker may be restarting.
    let broker = loop {
        match Broker::connect(broker).await {
            Ok(broker) => break broker,
            Err(error) => eprintln!("{error}"),
        }
        tokio::time::sleep(PAUSE).await;
    };
    eprintln!("waiting for jobs");
    let sandboxes = Sandboxes::new(service);
    join_all((0..CONCURRENCY).map(|_| take_jobs(&broker, &sandboxes, attempts))).await;
    Ok(())
}

async fn take_jobs(broker: &Broker, sandboxes: &Sandboxes, attempts: i64) -> Infallible {
    loop {
        match broker.next_job().await {
            Ok(None) => {}
            Ok(Some((job, delivery))) => {
                let handled = tokio::select! {
                    handled = handle(broker, sandboxes, &job, &delivery, attempts) => handled,
                    failed = delivery.keep() => failed,
                };
                if let Err(error) = handled {
                    eprintln!("{}: failed for now: {error}", job.id);
                    // If this fails, too, the broker delivers the job again after a while.
                    let _ = delivery.give_back().await;
                }
            }
            Err(error) => {
                eprintln!("cannot take a job: {error}");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

/// Handles a job, from the beginning or from where an earlier worker stopped. Each step has no
/// further effect if it is repeated.
async fn handle(
    broker: &Broker,
    sandboxes: &Sandboxes,
    job: &Job,
    delivery: &Delivery,
    attempts: i64,
) -> Result<()> {
    if delivery.attempt()? > attempts {
        let result = JobResult {
            id: job.id.clone(),
            end: format!("gave up after {attempts} attempts"),
            output: String::new(),
        };
        broker.publish(&result).await?;
        sandboxes.discard(broker, job).await?;
        return delivery.acknowledge().await;
    }
    let opened = sandboxes.open(broker, job).await?;
    // Look after `open`, not before. Otherwise another worker could publish the result and remove
    // its sandbox in between, and this worker would run the script again in a new sandbox.
    if !broker.has_result(&job.id).await? {
        let result = sandboxes.run(broker, job, &opened).await?;
        broker.publish(&result).await?;
    }
    delivery.acknowledge().await?;
    // From now on, no worker gets the job, so no worker needs the sandbox. After a crash, the
    // sandbox ends by its idle timeout.
    opened.sandbox.kill().await?;
    broker.forget_sandbox(opened.message).await
}
