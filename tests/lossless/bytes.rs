//! Every byte of stdin and of the output arrives unchanged.

use actix_sandbox::{Language, LocalServer, Sandbox};
use futures::future::try_join;

use super::{
    random, read,
    support::proxy::{Plan, Proxy},
    support::{self, sandbox, within, within_long},
};

const ECHO: &str = "import sys
while data := sys.stdin.buffer.read1():
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()";

/// Writes `data` to a program that echoes it, in pieces of this many bytes, and returns the echo.
async fn echoed(sandbox: &Sandbox, data: &[u8], piece: usize) -> Vec<u8> {
    let process = sandbox.exec(Language::Python, ECHO).await.expect("started");
    let write = async {
        for piece in data.chunks(piece) {
            process.write_to_stdin(piece.to_vec()).await?;
        }
        process.close_stdin().await
    };
    let echo = try_join(read(process.stdout()), write);
    within("the echo", echo).await.expect("echoed").0
}

#[actix::test]
async fn every_byte_value_comes_through_unchanged() {
    let (_server, sandbox) = sandbox().await;
    let every: Vec<u8> = (0..=255).collect();
    let twice: Vec<u8> = every.iter().chain(every.iter().rev()).copied().collect();
    for piece in [1, 7, 512] {
        assert_eq!(echoed(&sandbox, &twice, piece).await, twice);
    }
}

#[actix::test]
async fn a_code_point_cut_at_every_position_comes_through_unchanged() {
    let (_server, sandbox) = sandbox().await;
    let text = "aé€😀\u{10ffff}z".repeat(3);
    for piece in 1..text.len() {
        assert_eq!(
            echoed(&sandbox, text.as_bytes(), piece).await,
            text.as_bytes()
        );
    }
    // Here the program writes each byte on its own.
    let code = format!(
        "import sys, time\nfor byte in {:?}:\n  sys.stdout.buffer.write(bytes([byte])); sys.stdout.flush(); time.sleep(0.003)",
        text.as_bytes()
    );
    let process = sandbox.exec(Language::Python, code).await.expect("started");
    let output = within_long("the output", read(process.stdout())).await;
    assert_eq!(output.expect("whole"), text.as_bytes());
}

/// A sandbox behind a proxy that cuts its links, and the block of pseudo-random bytes in its file
/// `block`. A plan gets the number of bytes after which to cut. Each link carries more than the one
/// before, so that the process can finish.
async fn sandbox_with_block(
    server: &LocalServer,
    plan: fn(u64) -> Plan,
) -> (Proxy, Sandbox, Vec<u8>) {
    let planner = move |number| plan((5 + 10 * number as u64) << 20);
    let (proxy, sandbox) = support::sandbox_behind(server, planner).await;
    let block = random(1, 1 << 20);
    let stored = sandbox
        .command(Language::Bash, "cat > block")
        .stdin(block.clone())
        .run_to_end();
    within("the block", stored).await.expect("stored");
    (proxy, sandbox, block)
}

#[actix::test]
async fn random_bytes_survive_broken_links_unchanged() {
    const BYTES: usize = 100 << 20;
    let server = LocalServer::start().await.expect("a server");
    let plan = |at| Plan::default().cut_down(at);
    let (proxy, sandbox, block) = sandbox_with_block(&server, plan).await;
    let code = "import sys
block = open('block', 'rb').read()
for i in range(100):
    sys.stdout.buffer.write(bytes(i ^ 0x55 for _ in range(1)) + block[1:])";
    let process = sandbox.exec(Language::Python, code).await.expect("started");
    let output = within_long("the output", read(process.stdout())).await;
    let output = output.expect("whole");
    assert_eq!(output.len(), BYTES);
    for (i, got) in output.chunks(1 << 20).enumerate() {
        assert!(
            got[0] == i as u8 ^ 0x55 && got[1..] == block[1..],
            "mebibyte {i} is not what was printed"
        );
    }
    assert!(proxy.accepted() > 3, "{} dials", proxy.accepted());
    sandbox.kill().await.expect("killed");
}

#[actix::test]
async fn random_input_survives_broken_links_unchanged() {
    let server = LocalServer::start().await.expect("a server");
    let plan = |at| Plan::default().cut_up(at);
    let (proxy, sandbox, block) = sandbox_with_block(&server, plan).await;
    let code = "import sys
block = open('block', 'rb').read()
same = sum(sys.stdin.buffer.read(1 << 20) == bytes([i]) + block[1:] for i in range(100))
print(same, len(sys.stdin.buffer.read()))";
    let process = sandbox.exec(Language::Python, code).await.expect("started");
    let write = async {
        for number in 0..100 {
            let mut piece = block.clone();
            piece[0] = number;
            process.write_to_stdin(piece).await.expect("written");
        }
        process.close_stdin().await.expect("closed");
    };
    within_long("the input", write).await;
    let output = within_long("the output", read(process.stdout())).await;
    assert_eq!(output.expect("whole"), b"100 0\n");
    assert!(proxy.accepted() > 3, "{} dials", proxy.accepted());
    sandbox.kill().await.expect("killed");
}
