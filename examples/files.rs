//! Moves files in and out of a sandbox, runs a program on them, and watches what it changes.
//!
//! ```text
//! cargo run --example files
//! ```

mod shared;

use std::{
    error::Error,
    fs,
    io::{Write, stdout},
    process::ExitCode,
};

use actix_sandbox::{FileEvent, Sandbox};
use futures::StreamExt;

#[actix::main]
async fn main() -> ExitCode {
    // `namespace` and `gvisor` start this program again, as the agent of each sandbox.
    actix_sandbox::server::agent();
    shared::exit_code(run().await)
}

async fn run() -> Result<(), Box<dyn Error>> {
    let (url, _server) = shared::server().await?;
    let local = tempfile::tempdir()?;
    let project = local.path().join("project");
    fs::create_dir_all(project.join("cache"))?;
    fs::write(project.join("words.txt"), "pear\napple\nfig\n")?;
    fs::write(project.join("cache/old"), "not needed")?;

    let sandbox = Sandbox::create(&url).await?;
    let files = sandbox.files();
    let sent = files.upload(&project, "project").ignore(["cache/"]).await?;
    writeln!(stdout(), "uploaded {} bytes", sent.bytes)?;
    files.write("project/more.txt", "kiwi\n").await?;

    let mut changes = files.watch("project", false).await?;
    let sorted = ["-o", "sorted.txt", "words.txt", "more.txt"];
    let sort = sandbox.program("sort").args(sorted).cwd("project");
    sort.output().await?.error_for_status()?;
    while let Some(change) = changes.next().await {
        if let FileEvent::Created { path } = change? {
            writeln!(stdout(), "the program created {path}")?;
            break;
        }
    }
    for entry in files.list("project").await? {
        writeln!(stdout(), "{:>4} {}", entry.metadata.size, entry.path)?;
    }
    let result = local.path().join("sorted.txt");
    files.download("project/sorted.txt", &result).await?;
    write!(stdout(), "{}", fs::read_to_string(result)?)?;
    if let Err(error) = files.read("project/missing").await {
        writeln!(stdout(), "{error}")?;
    }
    sandbox.kill().await?;
    Ok(())
}
