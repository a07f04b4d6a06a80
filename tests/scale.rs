//! One client has 500 sandboxes open at once. In a separate binary, because it loads the machine.
#![cfg(target_os = "linux")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod support;

use actix_sandbox::{Language, Sandbox};
use futures::{StreamExt, stream};
use support::{allow_open_files, patient, processes_with, within};

const COUNT: usize = 500;
/// Limit on concurrent creations and execs. All sandboxes are still open at the same time.
const AT_ONCE: usize = 64;

#[actix::test]
async fn five_hundred_sandboxes_run_scripts_and_are_killed() {
    // Both ends of every connection are in this process.
    allow_open_files(8192);
    let directory = tempfile::tempdir().expect("a directory");
    let server = support::backend::with_visible_processes()
        .max_sandboxes(COUNT)
        .directory(directory.path())
        .start()
        .await
        .expect("a server");
    let url = server.url();

    let sandboxes: Vec<Sandbox> = stream::iter(0..COUNT)
        .map(|_| async move {
            // In the namespace backend, a sandbox may wait minutes for its turn.
            let create = patient(url).idle_timeout(std::time::Duration::from_secs(1_800));
            within("create", create).await.expect("created")
        })
        .buffer_unordered(AT_ONCE)
        .collect()
        .await;
    let refused = Sandbox::create(url).await.expect_err("over the limit");
    assert!(
        refused
            .server_reason()
            .is_some_and(|reason| reason.contains("500")),
        "{refused}"
    );

    let marker = format!("actix-sandbox-scale-{}", std::process::id());
    let outputs: Vec<String> = stream::iter(&sandboxes)
        .map(|sandbox| {
            let code = format!(
                "echo {}; (exec -a {marker} sleep 1000) > /dev/null 2>&1 & disown",
                sandbox.sandbox_id()
            );
            async move {
                let output = within("run", sandbox.run(Language::Bash, code))
                    .await
                    .expect("ran");
                assert_eq!(output.stdout, format!("{}\n", sandbox.sandbox_id()));
                output.stdout_lossy().into_owned()
            }
        })
        .buffer_unordered(AT_ONCE)
        .collect()
        .await;
    let distinct: std::collections::HashSet<_> = outputs.iter().collect();
    assert_eq!(distinct.len(), COUNT, "each sandbox answered for itself");
    // A script may end before its background process has executed `sleep`.
    let left = async {
        while processes_with(&marker).len() < COUNT {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    };
    within("each leaves a process in the background", left).await;

    let kills: Vec<_> = stream::iter(&sandboxes)
        .map(|sandbox| within("kill", sandbox.kill()))
        .buffer_unordered(COUNT)
        .collect()
        .await;
    assert!(kills.iter().all(Result::is_ok), "{kills:?}");
    assert_eq!(
        processes_with(&marker),
        Vec::<String>::new(),
        "no process is left"
    );
    let again = Sandbox::create(url).await.expect("there is room again");
    again.kill().await.expect("killed");
    within("stop", server.stop()).await;
    let left = std::fs::read_dir(directory.path())
        .expect("the directory")
        .count();
    assert_eq!(left, 0, "no file is left");
}
