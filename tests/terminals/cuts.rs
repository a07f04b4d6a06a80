//! Terminals through broken links.

use actix_sandbox::{LocalServer, Sandbox, Terminal};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::{
    patient,
    proxy::{Chance, Plan},
    sandbox_behind, until_it_runs, within,
};

const CUTS: usize = 20;

/// Shows a page of control sequences for each key that it reads.
const PAGES: &str = r"
import random, sys, termios, tty
tty.setraw(0, termios.TCSANOW)
print('ready', end='', flush=True)
chance = random.Random(7)
for page in range(400):
    key = sys.stdin.buffer.raw.read(1)
    cells = ''.join(f'\x1b[{chance.randrange(24)};{chance.randrange(80)}H\x1b[3{chance.randrange(8)}m{chr(chance.randrange(33, 0x2fff))}'
        for _ in range(30))
    sys.stdout.write(f'{key}{cells}')
    sys.stdout.flush()
";

async fn screen(sandbox: &Sandbox) -> Vec<u8> {
    let terminal = sandbox.terminal().program("python3").args(["-c", PAGES]);
    let mut terminal: Terminal = terminal.open().await.unwrap();
    // From then on, no key has a meaning for the terminal itself.
    let mut ready = [0; 5];
    terminal.read_exact(&mut ready).await.unwrap();
    assert_eq!(&ready, b"ready");
    let (mut screen, mut keyboard) = tokio::io::split(terminal);
    let keys: Vec<u8> = (0..400_u32).map(|key| (key % 256) as u8).collect();
    let press = async {
        for key in keys.chunks(10) {
            keyboard.write_all(key).await.unwrap();
            // The program may end before the last flush.
            let _ = keyboard.flush().await;
        }
    };
    let mut shown = Vec::new();
    let (read, ()) = within(
        "the screen",
        futures::future::join(screen.read_to_end(&mut shown), press),
    )
    .await;
    read.unwrap();
    shown
}

#[actix::test]
async fn twenty_cuts_change_no_byte_of_the_screen() {
    let server = LocalServer::start().await.unwrap();
    let direct = patient(server.url()).await.unwrap();
    let expected = screen(&direct).await;
    assert!(expected.len() > 400 * 30 * 10, "{}", expected.len());
    let planner = |number| {
        let mut chance = Chance::new(2_200 + number as u64);
        match number {
            0 => Plan::default().cut_down(until_it_runs()[1] + 3_000),
            1..CUTS => Plan::default().cut_down(700 + chance.below(2_500)),
            _ => Plan::default(),
        }
    };
    let (proxy, sandbox) = sandbox_behind(&server, planner).await;
    let shown = screen(&sandbox).await;
    assert!(proxy.accepted() > CUTS, "{} links", proxy.accepted());
    assert!(
        shown == expected,
        "{} and {} bytes",
        shown.len(),
        expected.len()
    );
}
