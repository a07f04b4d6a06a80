//! The messages: [`Job`] and [`JobResult`].

use serde::{Deserialize, Serialize};

/// A script to run in a sandbox.
#[derive(Debug, Serialize, Deserialize)]
pub struct Job {
    /// Names the job everywhere: in the subjects of its messages, and as the id of the process in
    /// its sandbox. Letters, digits and `-`.
    pub id: String,
    /// The bash script. Its environment variable `JOB` is the id.
    pub script: String,
}

impl Job {
    pub fn has_valid_id(&self) -> bool {
        let is_valid = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
        (1..=100).contains(&self.id.len()) && self.id.bytes().all(is_valid)
    }
}

/// How a job ended.
#[derive(Debug, Serialize, Deserialize)]
pub struct JobResult {
    /// The id of the job.
    pub id: String,
    /// How its script ended, for example `exited with code 0`.
    pub end: String,
    /// The first 128 KiB of what the script wrote to stdout and stderr.
    pub output: String,
}
