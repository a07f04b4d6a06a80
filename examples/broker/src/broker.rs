//! [`Broker`]: three streams of NATS JetStream. One is the queue of jobs, one holds the results,
//! and one remembers the sandbox of each job.

use std::time::Duration;

use async_nats::jetstream::{
    self, AckKind,
    consumer::{AckPolicy, PullConsumer, pull},
    context::{Context, PublishErrorKind},
    message::{PublishMessage, StreamMessage},
    stream::{Config, DeleteMessageErrorKind, LastRawMessageErrorKind, RetentionPolicy, Stream},
};
use futures::StreamExt;
use serde::{Deserialize, Serialize};

use crate::{
    Result,
    job::{Job, JobResult},
};

/// How long the broker waits for an acknowledgement, also one of progress, before it delivers a job
/// to another worker.
const ACK_WAIT: Duration = Duration::from_secs(10);

/// How long an idle worker waits for a job before it asks again.
const PULL: Duration = Duration::from_secs(3);

/// How a worker attaches to the sandbox of a job. The token is a secret.
#[derive(Serialize, Deserialize)]
pub struct Identity {
    pub id: String,
    pub token: String,
}

/// The connection to NATS.
pub struct Broker {
    jetstream: Context,
    jobs: PullConsumer,
    results: Stream,
    sandboxes: Stream,
}

impl Broker {
    /// Connects, and creates the streams if they don't exist.
    pub async fn connect(url: &str) -> Result<Self> {
        let client = async_nats::connect(url).await;
        let client = client.map_err(|error| format!("cannot connect to NATS at {url}: {error}"))?;
        let jetstream = jetstream::new(client);
        let jobs = Config {
            name: "jobs".to_owned(),
            subjects: vec!["jobs.*".to_owned()],
            retention: RetentionPolicy::WorkQueue,
            ..Config::default()
        };
        let jobs = jetstream.get_or_create_stream(jobs).await?;
        let workers = pull::Config {
            durable_name: Some("workers".to_owned()),
            ack_policy: AckPolicy::Explicit,
            ack_wait: ACK_WAIT,
            ..pull::Config::default()
        };
        let results = Config {
            name: "results".to_owned(),
            subjects: vec!["results.*".to_owned()],
            ..Config::default()
        };
        let sandboxes = Config {
            name: "sandboxes".to_owned(),
            subjects: vec!["sandboxes.*".to_owned()],
            // Removes the messages that a crash leaves behind.
            max_age: Duration::from_secs(24 * 60 * 60),
            ..Config::default()
        };
        Ok(Self {
            jobs: jobs.get_or_create_consumer("workers", workers).await?,
            results: jetstream.get_or_create_stream(results).await?,
            sandboxes: jetstream.get_or_create_stream(sandboxes).await?,
            jetstream,
        })
    }

    /// The stream of results.
    pub fn results(&self) -> &Stream {
        &self.results
    }

    /// Adds a job to the queue. Adding a job with the same id again has no effect within the
    /// deduplication window of the stream, by default 2 minutes.
    pub async fn submit(&self, job: &Job) -> Result<()> {
        let message = PublishMessage::build().message_id(&job.id);
        let message = message.payload(serde_json::to_vec(job)?.into());
        let subject = format!("jobs.{}", job.id);
        self.jetstream.send_publish(subject, message).await?.await?;
        Ok(())
    }

    /// Takes the next job from the queue. `None` if there is none for now.
    pub async fn next_job(&self) -> Result<Option<(Job, Delivery)>> {
        let pull = self.jobs.fetch().max_messages(1).expires(PULL);
        let Some(message) = pull.messages().await?.next().await else {
            return Ok(None);
        };
        let message = message?;
        match serde_json::from_slice::<Job>(&message.payload) {
            Ok(job) if job.has_valid_id() => Ok(Some((job, Delivery(message)))),
            _ => {
                // Another delivery would fail, too.
                message.ack_with(AckKind::Term).await?;
                Err(format!("dropped a message that is not a job: {}", message.subject).into())
            }
        }
    }

    /// Whether the result of a job is stored.
    pub async fn has_result(&self, job: &str) -> Result<bool> {
        let result = last(&self.results, format!("results.{job}")).await?;
        Ok(result.is_some())
    }

    /// Publishes a result. Returns when it is stored. If the job has a result, this has no effect.
    pub async fn publish(&self, result: &JobResult) -> Result<()> {
        let subject = format!("results.{}", result.id);
        self.publish_first(subject, result).await.map(drop)
    }

    /// Returns the sandbox that a worker stored for a job, and the number of its message.
    pub async fn stored_sandbox(&self, job: &str) -> Result<Option<(Identity, u64)>> {
        let Some(message) = last(&self.sandboxes, format!("sandboxes.{job}")).await? else {
            return Ok(None);
        };
        Ok(Some((
            serde_json::from_slice(&message.payload)?,
            message.sequence,
        )))
    }

    /// Stores the sandbox of a job, and returns the number of its message. `None` if another worker
    /// has stored one.
    pub async fn store_sandbox(&self, job: &str, sandbox: &Identity) -> Result<Option<u64>> {
        self.publish_first(format!("sandboxes.{job}"), sandbox)
            .await
    }

    /// Removes a stored sandbox. Has no effect on one that another worker has stored since.
    pub async fn forget_sandbox(&self, message: u64) -> Result<()> {
        match self.sandboxes.delete_message(message).await {
            // Another worker has removed it.
            Err(error) if matches!(error.kind(), DeleteMessageErrorKind::JetStream(_)) => Ok(()),
            deleted => Ok(deleted.map(drop)?),
        }
    }

    /// Publishes the first message of a subject, and returns its number. `None` if the subject has
    /// one.
    ///
    /// Unlike the header `Nats-Msg-Id`, this refuses a second message however late it comes.
    async fn publish_first(
        &self,
        subject: String,
        message: &impl Serialize,
    ) -> Result<Option<u64>> {
        let json = serde_json::to_vec(message)?;
        let message = PublishMessage::build().expected_last_subject_sequence(0);
        let message = message.payload(json.into());
        match self.jetstream.send_publish(subject, message).await?.await {
            Ok(stored) => Ok(Some(stored.sequence)),
            Err(error) if error.kind() == PublishErrorKind::WrongLastSequence => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

/// The last message of a subject, if there is one.
async fn last(stream: &Stream, subject: String) -> Result<Option<StreamMessage>> {
    match stream.get_last_raw_message_by_subject(&subject).await {
        Ok(message) => Ok(Some(message)),
        Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// A job that was delivered to this worker, and that the broker keeps until it is acknowledged.
pub struct Delivery(jetstream::Message);

impl Delivery {
    /// How many times the broker has delivered this job, from 1.
    pub fn attempt(&self) -> Result<i64> {
        Ok(self.0.info()?.delivered)
    }

    /// Acknowledges the job. Returns when the broker has removed it from the queue.
    pub async fn acknowledge(&self) -> Result<()> {
        self.0.double_ack().await
    }

    /// Negatively acknowledges the job. The broker delivers it again after 1 s, and after longer
    /// delays at later attempts, at most a minute.
    pub async fn give_back(&self) -> Result<()> {
        let attempt = u64::try_from(self.attempt()?).unwrap_or(1);
        let delay = Duration::from_secs(attempt.saturating_pow(2).clamp(1, 60));
        self.0.ack_with(AckKind::Nak(Some(delay))).await
    }

    /// Sends in-progress acknowledgements. Returns only if one fails.
    pub async fn keep(&self) -> Result<()> {
        loop {
            tokio::time::sleep(ACK_WAIT / 3).await;
            self.0.ack_with(AckKind::Progress).await?;
        }
    }
}
