//! Runs jobs from a queue of NATS JetStream in sandboxes: see `README.md`.
//!
//! ```text
//! jobs submit NAME COUNT SCRIPT    add COUNT jobs, NAME-1 and so on, that run this bash script
//! jobs worker                      run jobs until the program is stopped
//! jobs results                     print the results, a line of JSON for each
//! ```
//!
//! `NATS_URL` is the address of the broker. `SANDBOX_URL` is the sandbox service, which must
//! outlive the worker. `JOB_ATTEMPTS` is how many attempts a job gets, by default 20.

mod broker;
mod job;
mod results;
mod sandboxes;
mod submit;
mod worker;

use std::{env, process::ExitCode};

use broker::Broker;

type Result<T> = std::result::Result<T, async_nats::Error>;

const USAGE: &str = "usage: jobs submit NAME COUNT SCRIPT | jobs worker | jobs results";

#[tokio::main]
async fn main() -> ExitCode {
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run() -> Result<()> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let broker = env::var("NATS_URL").unwrap_or_else(|_| "nats://127.0.0.1:4222".to_owned());
    match arguments[..] {
        ["submit", name, count, script] => {
            let number = count.parse();
            let number =
                number.map_err(|_| format!("COUNT is {count:?}, which is not a number"))?;
            let broker = Broker::connect(&broker).await?;
            submit::submit(&broker, name, number, script).await
        }
        ["worker"] => {
            let service = env::var("SANDBOX_URL").map_err(|_| "SANDBOX_URL is not set")?;
            let attempts = env::var("JOB_ATTEMPTS").unwrap_or_else(|_| "20".to_owned());
            let attempts = attempts
                .parse()
                .map_err(|_| "JOB_ATTEMPTS is not a number")?;
            worker::work(&broker, service, attempts).await
        }
        ["results"] => results::print(&Broker::connect(&broker).await?).await,
        _ => Err(USAGE.into()),
    }
}
