//! Test programs that use this crate, without a service and with reproducible faults (feature
//! `test-util`).
//!
//! | | |
//! | --- | --- |
//! | [`Recording`] | the messages of a session, written by [`record_to`](crate::SandboxBuilder::record_to) or by hand |
//! | [`Player`] | a server that replays a recording to your program, and reports where the program deviates |
//! | [`Proxy`], [`Plan`] | a TCP proxy in front of a server that cuts, resets, stalls, splits and refuses connections |
//!
//! Players and proxies listen on `127.0.0.1` at a free port. They need a tokio runtime, such as
//! that of actix. Nothing here panics; failures are errors.
//!
//! ```
//! # #[actix::main]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use actix_sandbox::{
//!     Language, Sandbox,
//!     test_util::{Player, Recording},
//! };
//!
//! /// The program under test.
//! async fn greet(url: &str) -> Result<String, actix_sandbox::Error> {
//!     let sandbox = Sandbox::create(url).await?;
//!     let output = sandbox.run(Language::Bash, "echo hello").await?;
//!     sandbox.kill().await?;
//!     Ok(output.stdout_lossy().into_owned())
//! }
//!
//! let recording = Recording::parse("greeting", r#"
//! {"t":0,"conn":"A","dir":"connect","path":"/create"}
//! {"t":1,"conn":"A","dir":"send","frame":"{\"idle_timeout\":60}"}
//! {"t":2,"conn":"A","dir":"recv","frame":"{\"event\":\"sandbox_id\",\"sandbox_id\":\"sandbox-1\",\"sandbox_token\":\"recorded-token\"}"}
//! {"t":2,"conn":"A","dir":"recv","frame":"{\"event\":\"status_update\",\"status\":\"SANDBOX_RUNNING\"}"}
//! {"t":3,"conn":"A","dir":"send","frame":"{\"language\":\"bash\",\"code\":\"echo hello\"}"}
//! {"t":4,"conn":"A","dir":"recv","frame":"{\"event\":\"status_update\",\"status\":\"SANDBOX_EXECUTION_RUNNING\"}"}
//! {"t":9,"conn":"A","dir":"recv","frame":"{\"event\":\"stdout\",\"data\":\"hello\\n\"}"}
//! {"t":9,"conn":"A","dir":"recv","frame":"{\"event\":\"status_update\",\"status\":\"SANDBOX_EXECUTION_DONE\"}"}
//! {"t":9,"conn":"A","dir":"send","frame":"{\"action\":\"kill_sandbox\"}"}
//! {"t":12,"conn":"A","dir":"recv","frame":"{\"event\":\"status_update\",\"status\":\"SANDBOX_KILLED\"}"}
//! {"t":12,"conn":"A","dir":"close","code":1000}
//! "#)?;
//! let player = Player::start(recording).await?;
//! assert_eq!(greet(&player.url()).await?, "hello\n");
//! player.finish().await?;
//! # Ok(())
//! # }
//! ```

mod deviation;
mod execs;
mod peer;
mod plan;
mod player;
mod player_builder;
mod proxy;
mod recording;
mod script;
mod upgrade;

pub use deviation::Deviation;
pub use plan::Plan;
pub use player::Player;
pub use player_builder::PlayerBuilder;
pub use proxy::{Proxy, ProxyBuilder, Record};
pub use recording::{Event, Line, Recording, RecordingError, Side};
