//! Adds jobs to the queue.

use crate::{Result, broker::Broker, job::Job};

pub async fn submit(broker: &Broker, name: &str, count: u32, script: &str) -> Result<()> {
    for number in 1..=count {
        let job = Job {
            id: format!("{name}-{number}"),
            script: script.to_owned(),
        };
        if !job.has_valid_id() {
            return Err(format!(
                "'{}' is not a valid id: use at most 100 letters, digits and `-`",
                job.id
            )
            .into());
        }
        broker.submit(&job).await?;
    }
    Ok(())
}
