//! A proxy cuts links at random bytes while a script prints: 200 seeded runs (fewer in gVisor)
//! against the local server.
//!
//! Under protocol v1, a cut loses what is in flight. This test checks that it loses nothing else.
//! The proxy records what the server writes to each connection, also after the cut. Together, these
//! records must be the whole output, once and in order. The output that the client received must be
//! a prefix of the first record, followed by a prefix of the second, and so on.

use std::time::Duration;

use crate::support::{
    backend, eager,
    proxy::{Chance, Plan, Proxy, all_over},
};
use actix_sandbox::{Language, LocalServer, ProcessEnd, ProtocolVersion, Sandbox};
use futures::{StreamExt, stream};

/// The number of runs, and how many run concurrently. There are fewer in gVisor, where each sandbox
/// starts a kernel.
fn amount() -> (u64, usize) {
    match backend::is("gvisor") {
        true => (20, 2),
        false => (200, 8),
    }
}

const LINES: usize = 20_000;

/// The timeout of a run. A run takes far less.
const LONG: Duration = Duration::from_secs(120);

/// The counts of a run.
#[derive(Debug, Default)]
struct Seen {
    dials: usize,
    lost: usize,
}

#[actix::test]
async fn what_a_cut_loses_is_only_what_was_handed_to_the_dead_link() {
    let server = LocalServer::start().await.unwrap();
    let (count, at_once) = amount();
    let runs = stream::iter(0..count).map(|seed| {
        let server = &server;
        async move {
            match tokio::time::timeout(LONG, run(server, seed)).await {
                Ok(Ok(seen)) => seen,
                Ok(Err(problem)) => panic!("seed {seed}: {problem}"),
                Err(_) => panic!("seed {seed}: it hangs"),
            }
        }
    });
    let seen: Vec<Seen> = runs.buffer_unordered(at_once).collect().await;
    let dials: usize = seen.iter().map(|seen| seen.dials).sum();
    let lost: usize = seen.iter().map(|seen| seen.lost).sum();
    let whole = seen.iter().filter(|seen| seen.lost == 0).count();
    let printed = seen.len() * LINES * 8;
    println!(
        "{} runs, {dials} dials: {lost} of {printed} bytes were in flight and lost; {whole} runs lost nothing",
        seen.len()
    );
    assert_eq!(seen.len() as u64, count);
    assert!(
        dials as u64 > 3 * count,
        "the links were hardly cut: {dials}"
    );
}

async fn run(server: &LocalServer, seed: u64) -> Result<Seen, String> {
    let mut chance = Chance::new(seed);
    let mut plans = Vec::new();
    for number in 0..2 + chance.below(5) {
        let mut plan = Plan {
            reset: chance.below(3) == 0,
            piece: (chance.below(4) == 0).then(|| 1 + chance.below(700) as usize),
            ..Plan::default()
        };
        if number == 0 {
            // The first link lasts until the script runs.
            plan.cut_down = Some(1_500 + chance.below(60_000));
        } else if chance.below(8) == 0 {
            plan.cut_up = Some(1 + chance.below(300));
        } else if chance.below(4) == 0 {
            // During a reconnect.
            plan.cut_down = Some(1 + chance.below(400));
        } else {
            plan.cut_down = Some(1 + chance.below(60_000));
        }
        plans.push(plan);
    }
    let proxy = Proxy::start(server, move |number| {
        plans.get(number).cloned().unwrap_or_default()
    })
    .await;

    let sandbox = Sandbox::create(proxy.url())
        .max_protocol_version(ProtocolVersion::V1)
        .enable_auto_reconnect(true)
        .reconnect_policy(eager())
        .await
        .map_err(|error| format!("create: {error}"))?;
    // Most scripts print at once, so that a cut finds output in flight. Every fourth one pauses, so
    // that often nothing is in flight.
    let pause = ["", "; i % 500 or time.sleep(0.005)"][usize::from(!seed.is_multiple_of(4))];
    let code = format!("import time\nfor i in range({LINES}): print('%07d' % i){pause}");
    let process = sandbox
        .exec(Language::Python, code)
        .await
        .map_err(|error| format!("exec: {error}"))?;
    let received = process.stdout().read_all().await;
    let received = received.map_err(|error| format!("read: {error}"))?;
    let end = process
        .wait()
        .await
        .map_err(|error| format!("wait: {error}"))?;
    if end != ProcessEnd::Unknown {
        return Err(format!("it ended: {end}"));
    }
    let _ = sandbox.kill().await;
    drop((process, sandbox));
    all_over(&proxy).await;
    check(&proxy, &String::from_utf8_lossy(&received))
}

/// Checks that the server wrote the whole output once and in order, and that the client received a
/// prefix of each connection's part.
fn check(proxy: &Proxy, received: &str) -> Result<Seen, String> {
    let records = proxy.records();
    let given: Vec<String> = records
        .iter()
        .map(|record| stdout_in(&record.from_server))
        .collect();
    let printed: String = (0..LINES).map(|i| format!("{i:07}\n")).collect();
    if given.concat() != printed {
        let lengths: Vec<_> = given.iter().map(String::len).collect();
        return Err(format!("the server wrote {lengths:?} of {}", printed.len()));
    }
    if !is_made_of_beginnings(received.as_bytes(), &given) {
        return Err("the client received output out of order or twice".to_owned());
    }
    Ok(Seen {
        dials: records.len(),
        lost: printed.len() - received.len(),
    })
}

/// Returns the data of the stdout messages in the bytes that a server sent, which start with the
/// answer to the upgrade. Ignores an incomplete frame at the end.
fn stdout_in(sent: &[u8]) -> String {
    let head = sent.windows(4).position(|four| four == b"\r\n\r\n");
    let mut rest = head.map_or(&[][..], |head| &sent[head + 4..]);
    let mut text = String::new();
    while let [first, second, ..] = *rest {
        let (header, length) = match second & 0x7f {
            126 => (
                4,
                rest.get(2..4).map(|two| {
                    two.iter()
                        .fold(0, |sum, &byte| sum << 8 | usize::from(byte))
                }),
            ),
            127 => (
                10,
                rest.get(2..10).map(|eight| {
                    eight
                        .iter()
                        .fold(0, |sum, &byte| sum << 8 | usize::from(byte))
                }),
            ),
            short => (2, Some(usize::from(short))),
        };
        let Some(payload) = length.and_then(|length| rest.get(header..header + length)) else {
            break;
        };
        if first & 0x0f == 1 {
            let message: serde_json::Value = serde_json::from_slice(payload).expect("JSON");
            if message["event"] == "stdout" {
                text += message["data"].as_str().expect("text");
            }
        }
        rest = &rest[header + payload.len()..];
    }
    text
}

/// Whether `received` is a prefix of the first of `given`, then a prefix of the second, and so on.
fn is_made_of_beginnings(received: &[u8], given: &[String]) -> bool {
    let Some((first, others)) = given.split_first() else {
        return received.is_empty();
    };
    let common = received
        .iter()
        .zip(first.as_bytes())
        .take_while(|(received, given)| received == given)
        .count();
    // The longest common prefix may be too long: the next part can start with the same digits. So
    // try shorter prefixes, too.
    (0..=common)
        .rev()
        .take(16)
        .any(|length| is_made_of_beginnings(&received[length..], others))
}

#[test]
fn the_check_notices_what_is_wrong() {
    let given = ["0000000\n0000001\n", "0000002\n0000003\n"].map(str::to_owned);
    for right in [
        "0000000\n0000001\n0000002\n0000003\n",
        "00000000000002\n0000003\n",
        "0000002\n0000003\n",
    ] {
        assert!(is_made_of_beginnings(right.as_bytes(), &given), "{right:?}");
    }
    for wrong in [
        "0000000\n0000000\n0000001\n0000002\n0000003\n",
        "0000002\n0000003\n0000000\n",
        "0000001\n0000002\n0000003\n",
        "0000000\n0000001\n0000003\n",
    ] {
        assert!(
            !is_made_of_beginnings(wrong.as_bytes(), &given),
            "{wrong:?}"
        );
    }
}
