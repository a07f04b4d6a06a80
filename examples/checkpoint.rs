//! Stores a whole sandbox, ends it, and takes it up again later.
//!
//! ```text
//! cargo run --example checkpoint
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
    let sandbox = Sandbox::create(&url)
        .enable_sandbox_checkpoint(true)
        .await?;

    let diary = "echo 'day one' > diary";
    sandbox.run(Language::Bash, diary).await?;

    // A process that runs stands in the way.
    let process = sandbox.exec(Language::Bash, "read line").await?;
    if let Err(error) = sandbox.checkpoint().await {
        println!("not now: {error}");
    }
    process.write_to_stdin("\n").await?;
    process.wait().await?;

    sandbox.checkpoint().await?;
    println!("the sandbox is {}", sandbox.state().await?);

    // Id and token are all that is needed, from any program and at any time.
    let (id, token) = (
        sandbox.sandbox_id().clone(),
        sandbox.sandbox_token().clone(),
    );
    drop(sandbox);
    let again = Sandbox::attach(&url, id, token).await?;
    println!("the sandbox is {} again", again.state().await?);
    let diary = "echo 'day two' >> diary; cat diary";
    print!("{}", again.run(Language::Bash, diary).await?.stdout);

    // A kill ends it for good, its checkpoint included.
    again.kill().await?;
    println!("the sandbox is {}", again.state().await?);
    Ok(())
}
