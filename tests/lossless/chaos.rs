//! A thousand seeded runs through faulty links. The proxy cuts, resets and stalls links, and splits
//! writes: during output, stdin, exec, the end of a process and a reconnect. Every byte arrives
//! exactly once and in order.
//!
//! `RUNS=n` sets the number of runs. `SEED=n` repeats one run and logs it.

use std::time::Duration;

use actix_sandbox::{
    Error, ErrorKind, Language, LocalServer, OutputPolicy, Overflow, Process, ProcessEnd, Sandbox,
};
use futures::{
    StreamExt,
    future::{try_join, try_join_all},
    stream,
};

use super::{
    random, read,
    support::proxy::{Chance, Plan, Proxy},
    support::{self, LONG, eager},
};

/// The number of runs with one process and with eight, and how many run concurrently. The confined
/// backends get fewer, because they take longer to start a sandbox.
struct Amount {
    runs: u64,
    of_eight: u64,
    at_once: usize,
}

fn amount() -> Amount {
    let is = support::backend::is;
    let (runs, of_eight, at_once) = match (is("namespace"), is("gvisor")) {
        _ if support::is_lifted() => (300, 24, 4),
        (true, _) => (100, 6, 2),
        (_, true) => (24, 2, 2),
        _ => (1_000, 125, 8),
    };
    Amount {
        runs,
        of_eight,
        at_once,
    }
}

/// Totals over all runs.
#[derive(Debug, Default)]
struct Seen {
    dials: usize,
    bytes: usize,
}

#[actix::test]
async fn a_thousand_runs_through_broken_links_change_no_byte() {
    run_all(amount().runs, 1).await;
}

#[actix::test]
async fn eight_processes_at_once_through_broken_links_change_no_byte() {
    run_all(amount().of_eight, 8).await;
}

async fn run_all(runs: u64, processes: usize) {
    let asked = std::env::var("RUNS").ok();
    let runs = asked.map_or(runs, |runs| runs.parse().expect("RUNS is a number"));
    let server = LocalServer::start().await.unwrap();
    // Each run has its own seed. `SEED` selects one.
    let only = std::env::var("SEED").ok();
    let only = only.map(|seed| seed.parse::<u64>().expect("SEED is a number"));
    if only.is_some() {
        // A single run is for debugging.
        let _ = tracing_subscriber::fmt()
            .with_max_level(tracing_subscriber::filter::LevelFilter::DEBUG)
            .try_init();
    }
    let seeds = match only {
        Some(seed) => seed..seed + 1,
        None => 0..runs,
    };
    let all = stream::iter(seeds).map(|seed| {
        let server = &server;
        async move {
            match tokio::time::timeout(5 * LONG, run(server, seed, processes)).await {
                Ok(Ok(seen)) => seen,
                Ok(Err(problem)) => panic!("SEED={seed}: {problem}"),
                Err(_) => panic!("SEED={seed}: it hangs"),
            }
        }
    });
    let seen =
        all.buffer_unordered(amount().at_once)
            .fold(Seen::default(), |all, one: Seen| async move {
                Seen {
                    dials: all.dials + one.dials,
                    bytes: all.bytes + one.bytes,
                }
            });
    let seen = seen.await;
    println!(
        "{} dials, {} bytes, each exactly once and in order",
        seen.dials, seen.bytes
    );
    assert!(
        only.is_some() || seen.dials as u64 > 3 * runs,
        "the links were hardly cut: {seen:?}"
    );
    assert_eq!(server.sandbox_count(), 0, "all were killed");
    server.stop().await;
}

/// The faults of the first connections of a run. Later connections have none.
fn plans(chance: &mut Chance) -> Vec<Plan> {
    let mut plans = Vec::new();
    for number in 0..3 + chance.below(5) {
        let mut plan = Plan {
            stall: chance.below(16) == 0,
            reset: chance.below(3) == 0,
            piece: (chance.below(4) == 0).then(|| 1 + chance.below(700) as usize),
            ..Plan::default()
        };
        let [least_up, least_down] = match number {
            0 => support::until_it_runs(),
            _ => [1; 2],
        };
        match chance.below(8) {
            0..2 => plan.cut_up = Some(least_up + chance.below(40_000)),
            // During a reconnect or an exec.
            2 => plan.cut_down = Some(least_down + chance.below(600)),
            3 => plan.cut_up = Some(least_up + chance.below(900)),
            _ => plan.cut_down = Some(least_down + chance.below(40_000)),
        }
        plans.push(plan);
    }
    plans
}

async fn run(server: &LocalServer, seed: u64, processes: usize) -> Result<Seen, String> {
    let mut chance = Chance::new(seed);
    let plans = plans(&mut chance);
    let proxy = Proxy::start(server, move |number| {
        plans.get(number).cloned().unwrap_or_default()
    })
    .await;
    // Windows from the smallest to one that never fills.
    let budget = [1_024, 5_000, 64 << 10, 4 << 20][chance.below(4) as usize];
    let sandbox = support::create(&proxy.url())
        .enable_debug(true)
        .debug_label(format!("seed {seed}"))
        .enable_auto_reconnect(true)
        .reconnect_policy(eager())
        // Short enough to detect a half-open link soon. Long enough that a busy machine doesn't
        // fail the create, which the client doesn't retry.
        .keepalive(Duration::from_millis(100), Duration::from_secs(3))
        .output_policy(OutputPolicy {
            budget,
            overflow: Overflow::default(),
        })
        .await
        .map_err(|error| format!("create: {error}"))?;

    let all = (0..processes).map(|number| {
        let seed = seed * 8 + number as u64;
        one(&sandbox, seed)
    });
    let bytes = try_join_all(all).await?.iter().sum();

    // Each exec writes one line when it starts: none started twice.
    let starts = sandbox.run(Language::Bash, "cat starts-*").await;
    let starts = starts.map_err(|error| format!("count: {error}"))?;
    let starts = starts.stdout_lossy();
    if starts.lines().count() != 3 * processes {
        return Err(format!("{} starts of {}", starts.len(), 3 * processes));
    }
    end(server, sandbox).await?;
    Ok(Seen {
        dials: proxy.accepted(),
        bytes,
    })
}

/// Kills the sandbox. The client doesn't resend a kill on a new link, so if the link broke, this
/// attaches without the proxy and kills the sandbox again.
async fn end(server: &LocalServer, sandbox: Sandbox) -> Result<(), String> {
    let Err(error) = sandbox.kill().await else {
        return Ok(());
    };
    if error.kind() != ErrorKind::LinkLost {
        return Err(format!("kill: {error}"));
    }
    let (id, token) = (
        sandbox.sandbox_id().clone(),
        sandbox.sandbox_token().clone(),
    );
    drop(sandbox);
    loop {
        let attach = support::attach(server.url(), &id, &token).await;
        match attach.map_err(|error| (error.kind(), error)) {
            Ok(sandbox) => {
                let killed = sandbox.kill().await;
                return killed.map_err(|error| format!("kill once more: {error}"));
            }
            Err((ErrorKind::NotFound, _)) => return Ok(()),
            Err((ErrorKind::InUse, _)) => tokio::task::yield_now().await,
            Err((_, error)) => return Err(format!("attach to kill: {error}")),
        }
    }
}

/// Runs three processes: one stores stdin in a file, one prints the file on both streams, and one
/// echoes stdin. Returns the number of bytes transferred.
async fn one(sandbox: &Sandbox, seed: u64) -> Result<usize, String> {
    let mut chance = Chance::new(seed ^ 0x0ec0);
    let data = random(seed, 1 + chance.below(60_000) as usize);
    let file = format!("data-{seed}");
    let noted = |code: &str| format!("echo x >> starts-{seed}; {code}");

    let end = sandbox
        .command(Language::Bash, noted(r#"cat > "$1""#))
        .arg(&file)
        .stdin(data.clone())
        .run_to_end()
        .await
        .map_err(|error| format!("input: {error}"))?;
    if end != ProcessEnd::Exited(0) {
        return Err(format!("input: {end}"));
    }

    let code = chance.below(256) as i32;
    let process = sandbox
        .command(
            Language::Bash,
            noted(r#"cat "$1"; cat "$1" >&2; exit "$2""#),
        )
        .arg(&file)
        .arg(code.to_string())
        .spawn()
        .await
        .map_err(|error| format!("output: {error}"))?;
    let (stdout, stderr) = both(&process).await.map_err(|e| format!("output: {e}"))?;
    let end = process.wait().await.map_err(|e| format!("wait: {e}"))?;
    if stdout != data || stderr != data {
        return Err(format!(
            "output of {} bytes is {} and {} bytes, or others",
            data.len(),
            stdout.len(),
            stderr.len()
        ));
    }
    if end != ProcessEnd::Exited(code) {
        return Err(format!("exit code {code}, and it ended: {end}"));
    }

    let process = sandbox
        .exec(Language::Bash, noted("cat; kill -USR1 $$"))
        .await
        .map_err(|error| format!("echo: {error}"))?;
    let write = async {
        let size = 1 + chance.below(9_000) as usize;
        for piece in data.chunks(size.max(data.len() / 1_000)) {
            process.write_to_stdin(piece.to_vec()).await?;
        }
        process.close_stdin().await
    };
    let (echo, ()) = try_join(read(process.stdout()), write)
        .await
        .map_err(|error| format!("echo: {error}"))?;
    if echo != data {
        return Err(format!("echo of {} of {} bytes", echo.len(), data.len()));
    }
    let end = process.wait().await.map_err(|e| format!("wait: {e}"))?;
    if end != ProcessEnd::Signaled(10) {
        return Err(format!("it killed itself, and ended: {end}"));
    }
    Ok(5 * data.len())
}

async fn both(process: &Process) -> Result<(Vec<u8>, Vec<u8>), Error> {
    try_join(read(process.stdout()), read(process.stderr())).await
}
