//! [`Sandboxes`]: runs each job in a sandbox of its own, which the next worker finds after a crash.

use std::time::Duration;

use actix_sandbox::{ErrorKind, Language, ProcessEnd, Sandbox};

use crate::{
    Result,
    broker::{Broker, Identity},
    job::{Job, JobResult},
};

/// How long a sandbox in which nothing runs waits for a worker. This is also the time in which a
/// worker must publish the result of a script that has ended.
const IDLE_TIMEOUT: Duration = Duration::from_secs(120);

/// The maximum number of bytes of output in a result. By default, NATS accepts messages of at most
/// 1 MiB, and JSON can escape one byte as six.
const MAX_OUTPUT: u64 = 128 * 1024;

pub struct Sandboxes {
    /// The URL of the service.
    service: String,
}

/// The sandbox of a job, and the number of the message with which the broker stores it.
pub struct JobSandbox {
    pub sandbox: Sandbox,
    pub message: u64,
}

impl Sandboxes {
    pub fn new(service: String) -> Self {
        Self { service }
    }

    /// Returns the sandbox of a job: the one that an earlier worker stored, or a new one.
    pub async fn open(&self, broker: &Broker, job: &Job) -> Result<JobSandbox> {
        if let Some((Identity { id, token }, message)) = broker.stored_sandbox(&job.id).await? {
            let attach = Sandbox::attach(&self.service, id, token).auto_reconnect(true);
            match attach.await {
                Ok(sandbox) => {
                    eprintln!("{}: resumed in {}", job.id, sandbox.sandbox_id());
                    return Ok(JobSandbox { sandbox, message });
                }
                // The service, or its machine, has failed. Start over.
                Err(error) if error.kind() == ErrorKind::NotFound => {
                    eprintln!("{}: starts over, because {error}", job.id);
                    broker.forget_sandbox(message).await?;
                }
                // For example, another worker is attached. The broker delivers the job again.
                Err(error) => return Err(error.into()),
            }
        }
        let create = Sandbox::create(&self.service).auto_reconnect(true);
        let sandbox = create.idle_timeout(IDLE_TIMEOUT).await?;
        let identity = Identity {
            id: sandbox.sandbox_id().as_str().to_owned(),
            token: sandbox.sandbox_token().expose_secret().to_owned(),
        };
        // Store the sandbox before the script starts. Otherwise, after a crash, no worker could
        // find the running script.
        let Some(message) = broker.store_sandbox(&job.id, &identity).await? else {
            sandbox.kill().await?;
            return Err("another worker has started it".into());
        };
        Ok(JobSandbox { sandbox, message })
    }

    /// Kills the stored sandbox of a job, if there is one.
    pub async fn discard(&self, broker: &Broker, job: &Job) -> Result<()> {
        if let Some((Identity { id, token }, message)) = broker.stored_sandbox(&job.id).await? {
            // This fails if the sandbox is lost.
            if let Ok(sandbox) = Sandbox::attach(&self.service, id, token).await {
                sandbox.kill().await?;
            }
            broker.forget_sandbox(message).await?;
        }
        Ok(())
    }

    /// Runs the script of a job, or waits for the end of the script that an earlier worker started.
    pub async fn run(&self, broker: &Broker, job: &Job, opened: &JobSandbox) -> Result<JobResult> {
        let sandbox = &opened.sandbox;
        // A file keeps the output for the next worker. Output that this worker has read would be
        // lost in a crash.
        let script = format!("exec >output 2>&1\n{}", job.script);
        let command = sandbox.command(Language::Bash, script);
        // With the id, the service runs the script once, however often a worker starts it.
        let command = command.env("JOB", &job.id).stdin("").exec_id(&job.id);
        match command.spawn().await?.wait().await? {
            end @ (ProcessEnd::Exited(_) | ProcessEnd::Signaled(_) | ProcessEnd::TimedOut) => {
                // The script may have removed the file, or replaced it.
                let output = match sandbox
                    .files()
                    .read_range("output", 0, Some(MAX_OUTPUT))
                    .await
                {
                    Err(error) if !matches!(error.kind(), ErrorKind::Builtin(_)) => {
                        return Err(error.into());
                    }
                    output => output.unwrap_or_default(),
                };
                Ok(JobResult {
                    id: job.id.clone(),
                    end: end.to_string(),
                    output: String::from_utf8_lossy(&output).into_owned(),
                })
            }
            end => {
                // If only the connection is lost, the kill fails, and the next attempt attaches.
                // Otherwise the next attempt starts over in a new sandbox.
                sandbox.kill().await?;
                broker.forget_sandbox(opened.message).await?;
                Err(format!("the script did not end by itself: {end}").into())
            }
        }
    }
}
