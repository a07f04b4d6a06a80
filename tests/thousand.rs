//! 1,000 sandboxes lose their links at once, and all reconnect. In a separate binary, because it
//! loads the machine.
#![cfg(target_os = "linux")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod support;

use std::time::Duration;

use actix_sandbox::{Language, ReconnectPolicy, SandboxEvent};
use futures::{StreamExt, future::join_all, stream};
use support::{allow_open_files, events, patient, proxy::Proxy, within};

const COUNT: usize = 1_000;
/// Limit on concurrent creations and execs. All sandboxes are still open at the same time.
const AT_ONCE: usize = 64;

#[actix::test]
async fn a_thousand_sandboxes_reconnect_after_a_common_outage() {
    // Both ends of the connections to the proxy, and of those from the proxy to the server.
    allow_open_files(4 * COUNT as u64 + 2_000);
    let server = support::backend::with_visible_processes().max_sandboxes(COUNT);
    let server = server.start().await.expect("a server");
    let proxy = Proxy::plain(&server).await;
    let url = &proxy.url();
    let policy = ReconnectPolicy {
        initial: Duration::from_millis(500),
        ..ReconnectPolicy::default()
    };
    let sandboxes: Vec<_> = stream::iter(0..COUNT)
        .map(|_| async {
            let create = patient(url)
                // In the namespace backend, a sandbox may wait minutes for its turn.
                .idle_timeout(Duration::from_secs(1_800))
                .enable_auto_reconnect(true)
                .reconnect_policy(policy.clone());
            let sandbox = within("create", create).await.expect("created");
            let events = events(&sandbox).await;
            (sandbox, events)
        })
        .buffer_unordered(AT_ONCE)
        .collect()
        .await;
    assert_eq!(proxy.accepted(), COUNT);

    proxy.cut();
    let back = sandboxes
        .into_iter()
        .map(|(sandbox, mut events)| async move {
            let mut first_delay = None;
            loop {
                match within("an event", events.recv()).await.expect("events") {
                    SandboxEvent::Reconnecting { delay, .. } => {
                        first_delay.get_or_insert(delay);
                    }
                    SandboxEvent::Reconnected => break,
                    SandboxEvent::Ended(end) => panic!("lost for good: {end}"),
                    _ => {}
                }
            }
            (sandbox, first_delay.expect("the link was lost"))
        });
    let back = join_all(back).await;

    // Jitter takes away up to half of the delay. The first dials must spread evenly over it.
    let (low, high) = (Duration::from_millis(250), Duration::from_millis(500));
    let mut slots = [0; 10];
    for (_, delay) in &back {
        assert!((low..=high).contains(delay), "{delay:?}");
        let slot = (*delay - low).as_micros() * 10 / (high - low).as_micros();
        slots[(slot as usize).min(9)] += 1;
    }
    println!("first dials in ten equal parts of {low:?}: {slots:?}");
    assert!(
        slots.iter().all(|&dials| (50..=160).contains(&dials)),
        "{slots:?}"
    );

    let outputs: Vec<String> = stream::iter(back.iter().enumerate())
        .map(|(i, (sandbox, _))| async move {
            let code = format!("echo {i}");
            let output = within("a script", sandbox.run(Language::Bash, code)).await;
            output.expect("ran").stdout_lossy().into_owned()
        })
        .buffered(AT_ONCE)
        .collect()
        .await;
    for (i, output) in outputs.iter().enumerate() {
        assert_eq!(*output, format!("{i}\n"));
    }
    assert_eq!(server.sandbox_count(), COUNT);
    server.stop().await;
}
