//! The life of processes and sandboxes: kill a process, run another, kill the sandbox.
//!
//! ```text
//! cargo run --example lifecycle
//! ```

use actix_sandbox::{Error, Language, LocalServer, OutputExt, Sandbox};
use futures::StreamExt;

#[actix::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (url, _server) = match std::env::var("SANDBOX_URL") {
        Ok(url) => (url, None),
        Err(_) => {
            let server = LocalServer::start().await?;
            (server.url().to_owned(), Some(server))
        }
    };
    let sandbox = Sandbox::create(url).await?;
    println!("the sandbox is {}", sandbox.state().await?);

    // A process that would run forever, and is killed with its children.
    let process = sandbox
        .exec(Language::Bash, "sleep 1000 & echo started; wait")
        .await?;
    let first_line = process.stdout().lines().next().await;
    println!("the first process printed {first_line:?}");

    // A server that speaks protocol v1 runs one at a time, and refuses.
    match sandbox.run(Language::Bash, "echo me too").await {
        Ok(second) => print!("a second one at the same time printed {}", second.stdout),
        Err(error) => println!("a second one at the same time: {error}"),
    }

    process.kill().await?;
    println!("the first process was {}", process.wait().await?);

    // The sandbox goes on.
    let output = sandbox.run(Language::Python, "print(6 * 7)").await?;
    print!("the next process printed {}", output.stdout);

    let refused = sandbox.exec("cobol", "DISPLAY 'HI'.").await;
    println!("a language that it does not have: {}", reason(refused));

    sandbox.kill().await?;
    println!("the sandbox is {}", sandbox.state().await?);
    let refused = sandbox.exec(Language::Bash, "echo too late").await;
    println!("after that: {}", reason(refused));
    Ok(())
}

/// What the error of something refused says.
fn reason<T>(refused: Result<T, Error>) -> String {
    match refused {
        Ok(_) => "was granted, against all expectation".to_owned(),
        Err(error) => error.to_string(),
    }
}
