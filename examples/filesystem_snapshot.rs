//! Prepares a sandbox once, stores its files under a name, and starts others from them.
//!
//! ```text
//! cargo run --example filesystem_snapshot
//! ```

use actix_sandbox::{Language, LocalServer, Sandbox};

#[actix::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (url, _server) = match std::env::var("SANDBOX_URL") {
        Ok(url) => (url, None),
        Err(_) => {
            let server = LocalServer::start().await?;
            (server.url().to_owned(), Some(server))
        }
    };
    // What takes long is done once.
    let prepared = Sandbox::create(&url).await?;
    let prepare = "mkdir data && seq 1 1000 > data/numbers && echo ready";
    let output = prepared.run(Language::Bash, prepare).await?;
    print!("the first sandbox is {}", output.stdout);
    prepared.snapshot_filesystem("prepared").await?;
    println!("its files are stored as `prepared`");

    // Each starts from the same files, and changes only its own.
    for _ in 0..2 {
        let sandbox = Sandbox::create(&url)
            .filesystem_snapshot_name("prepared")
            .await?;
        let sum = "print(sum(map(int, open('data/numbers'))))";
        let output = sandbox.run(Language::Python, sum).await?;
        print!("another sandbox adds them up: {}", output.stdout);
        sandbox.run(Language::Bash, "rm -r data").await?;
        sandbox.kill().await?;
    }

    let missing = Sandbox::create(&url).filesystem_snapshot_name("misspelt");
    match missing.await {
        Ok(_) => println!("there is a snapshot `misspelt`, against all expectation"),
        Err(error) => println!("a name that nobody gave: {error}"),
    }
    prepared.kill().await?;
    Ok(())
}
