//! Many sandboxes in one process. Each side runs in its own process and reads commands from stdin.
//! So the memory of a process belongs to one side, and each side has its own limit on file
//! descriptors.

use std::{
    cell::RefCell,
    collections::VecDeque,
    io::{BufRead, BufReader, Write},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    time::Duration,
};

use actix_sandbox::ProtocolVersion;
use futures::{StreamExt, stream};
use tokio::{io::AsyncBufReadExt, time::Instant};

use super::{
    Scale,
    clients::{Bare, Client, Ours},
    server::Server,
    table::{Pairs, Row, Target, short},
};

/// The first argument of a child process of this benchmark. The role follows it.
pub(crate) const ROLE: &str = "--role";
/// Number of sandboxes in the processes that serve as the baseline for growth.
const FEW: usize = 10;
/// Number of concurrent creations.
const CREATE_AT_ONCE: usize = 32;
/// Number of samples in which to create all sandboxes, and in which each runs a script.
const CHUNKS: usize = 50;
/// Number of concurrent execs, at most one for each sandbox.
const EXEC_AT_ONCE: usize = 10;

/// Runs a process in this role.
pub(crate) fn play(role: &[String]) {
    allow_open_files();
    let url = role.get(1).cloned().unwrap_or_default();
    let version = ProtocolVersion::V2;
    match role.first().map(String::as_str) {
        Some("serve") => {
            let server = Server::start();
            println!("{}", server.url());
            // Runs until the parent closes the pipe.
            let _ = std::io::stdin().lines().count();
        }
        Some("ours") => actix::System::new().block_on(obey(Ours { url, version })),
        Some("bare") => {
            actix::System::new().block_on(async { obey(Bare::new(&url, version)).await })
        }
        other => panic!("the role {other:?}: expected `serve`, `ours URL` or `bare URL`"),
    }
}

/// Executes the commands on stdin. After `open` and `exec`, prints the wall time and the CPU time
/// in nanoseconds. After `memory`, prints the resident memory in bytes.
async fn obey(client: impl Client) {
    let links = RefCell::new(VecDeque::new());
    let mut lines = tokio::io::BufReader::new(tokio::io::stdin()).lines();
    while let Some(line) = lines.next_line().await.expect("stdin") {
        let (what, count) = line.split_once(' ').unwrap_or((&line, "0"));
        let count: usize = count.parse().expect("a count");
        let (begin, used) = (Instant::now(), processor_time());
        let took = || {
            let used = processor_time() - used;
            println!("{} {}", begin.elapsed().as_nanos(), used.as_nanos());
        };
        match what {
            "open" => {
                stream::iter(0..count)
                    .map(|_| client.open())
                    .buffer_unordered(CREATE_AT_ONCE)
                    .for_each(async |link| links.borrow_mut().push_back(link))
                    .await;
                took();
            }
            "exec" => {
                let at_once = EXEC_AT_ONCE.min(links.borrow().len());
                stream::iter(0..count)
                    .map(async |_| {
                        let link = links.borrow_mut().pop_front();
                        let mut link = link.expect("at least as many sandboxes as execs at once");
                        client.exec(&mut link).await;
                        links.borrow_mut().push_back(link);
                    })
                    .buffer_unordered(at_once)
                    .collect::<()>()
                    .await;
                took();
            }
            "memory" => println!("{}", resident_memory()),
            _ => panic!("cannot {what}"),
        }
    }
}

/// Returns the resident memory of this process in bytes, or 0 without procfs.
fn resident_memory() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = statm.split_whitespace().nth(1);
    pages.and_then(|pages| pages.parse().ok()).unwrap_or(0) * 4096
}

/// Returns the CPU time that this process has used.
fn processor_time() -> Duration {
    use nix::sys::resource::{UsageWho, getrusage};
    let usage = getrusage(UsageWho::RUSAGE_SELF).expect("the usage");
    let microseconds = [usage.user_time(), usage.system_time()]
        .map(|time| time.tv_sec() * 1_000_000 + time.tv_usec());
    Duration::from_micros(microseconds.iter().sum::<i64>().cast_unsigned())
}

/// Raises the limit on open files as far as permitted, to at most 20,000. Returns the new limit.
fn allow_open_files() -> usize {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("a limit");
    // Some systems report an infinite limit, but accept only a finite one.
    let wanted = hard.min(20_000);
    match setrlimit(Resource::RLIMIT_NOFILE, wanted, hard) {
        Ok(()) => wanted as usize,
        Err(_) => soft as usize,
    }
}

/// The wall time and the CPU time of a command.
struct Took {
    time: Duration,
    processor: Duration,
}

/// A process in a role.
struct Actor {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Actor {
    fn start(role: &[&str]) -> Self {
        let program = std::env::current_exe().expect("this program");
        Self::of(Command::new(program), role)
    }

    fn of(mut command: Command, role: &[&str]) -> Self {
        let mut child = command
            .arg(ROLE)
            .args(role)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("a process");
        Self {
            input: child.stdin.take().expect("a pipe"),
            output: BufReader::new(child.stdout.take().expect("a pipe")),
            child,
        }
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).expect("a line");
        assert!(!line.is_empty(), "the process ended");
        line.trim_end().to_owned()
    }

    fn ask(&mut self, what: &str) -> String {
        writeln!(self.input, "{what}").expect("a process that listens");
        self.line()
    }

    fn took(&mut self, what: &str) -> Took {
        let answer = self.ask(what);
        let mut times = answer.split(' ').map(|it| {
            let nanoseconds = it.parse().expect("a number");
            Duration::from_nanos(nanoseconds)
        });
        Took {
            time: times.next().expect("a time"),
            processor: times.next().expect("a second time"),
        }
    }

    /// Closes the stdin of the process, and waits until it has ended.
    fn end(self) {
        let Self {
            mut child,
            input,
            output: _output,
        } = self;
        drop(input);
        child.wait().expect("its end");
    }
}

/// A client process and its server process.
struct Pair {
    client: Actor,
    server: Actor,
}

impl Pair {
    fn start(side: &str) -> Self {
        let mut server = Actor::start(&["serve"]);
        let url = server.line();
        let client = Actor::start(&[side, &url]);
        Self { client, server }
    }

    fn end(self) {
        self.client.end();
        self.server.end();
    }
}

/// Opens many sandboxes, and runs a script in each. Measures the cost of a sandbox, and how much
/// the cost grows with their number.
pub(crate) fn many(scale: Scale) -> Vec<Row> {
    let count = scale.many().min(allow_open_files().saturating_sub(100));
    let step = (count / CHUNKS).max(1);
    let [mut ours, mut bare] = ["ours", "bare"].map(Pair::start);
    let [mut few_ours, mut few_bare] = ["ours", "bare"].map(Pair::start);
    for pair in [&mut ours, &mut bare, &mut few_ours, &mut few_bare] {
        pair.client.ask(&format!("open {FEW}"));
    }

    let first = memory(&mut ours, &mut bare);
    let mut created = Vec::new();
    let open = format!("open {step}");
    for _ in 0..count / step {
        created.push((ours.client.took(&open), bare.client.took(&open)));
    }
    let count = count / step * step;
    let idle = memory(&mut ours, &mut bare);

    let mut execs = Vec::new();
    let exec = format!("exec {step}");
    for _ in 0..2 * count / step {
        execs.push((ours.client.took(&exec), bare.client.took(&exec)));
    }
    let used = memory(&mut ours, &mut bare);

    let mut growth = [Vec::new(), Vec::new()];
    for _ in 0..scale.samples() {
        growth[0].push((few_ours.client.took(&exec), ours.client.took(&exec)));
        growth[1].push((few_bare.client.took(&exec), bare.client.took(&exec)));
    }
    for pair in [ours, bare, few_ours, few_bare] {
        pair.end();
    }

    let each = |now: [u64; 2]| {
        [0, 1].map(|side| now[side].saturating_sub(first[side]) as f64 / count as f64 / 1024.0)
    };
    let [idle, used] = [idle, used].map(each);
    let kib = |kib: f64| format!("{kib:.2} KiB");
    let memory = |what: String, each: [f64; 2]| {
        Row::new(what, kib(each[0]), kib(each[1])).target(each[0], Target::AtMost(8.0))
    };
    let (begin, end) = created.split_at(created.len() / 2);
    let step = step as f64;
    // The time with many sandboxes divided by the time with few.
    let [growth, bare_growth] = growth.map(|it| Pairs::new(&processor(&it), step).ratio);
    let [begin, end] = [begin, end].map(|half| Pairs::new(&processor(half), step));
    let times = |growth: f64| format!("{growth:.2} times");
    vec![
        Pairs::new(&time(&created), step).row(&format!("creation up to {count} open"), "/s", 0.7),
        Pairs::new(&time(&execs), step).row(
            &format!("{count} sandboxes, each runs a script"),
            "/s",
            0.7,
        ),
        memory(format!("memory of an idle sandbox, of {count}"), idle),
        memory("the same, after each ran a script".to_owned(), used),
        Row::new(
            format!("growth of the processor time of a creation, first half of {count} to second"),
            times(begin.ours / end.ours),
            times(begin.beside / end.beside),
        )
        .ratio(begin.ratio / end.ratio, Target::AtMost(1.2)),
        Row::new(
            format!("growth of the processor time of an exec, from {FEW} sandboxes to {count}"),
            times(growth),
            times(bare_growth),
        )
        .ratio(growth / bare_growth, Target::AtMost(1.2)),
    ]
}

fn time(took: &[(Took, Took)]) -> Vec<(Duration, Duration)> {
    took.iter().map(|(a, b)| (a.time, b.time)).collect()
}

fn processor(took: &[(Took, Took)]) -> Vec<(Duration, Duration)> {
    took.iter()
        .map(|(a, b)| (a.processor, b.processor))
        .collect()
}

fn memory(ours: &mut Pair, bare: &mut Pair) -> [u64; 2] {
    [ours, bare].map(|pair| pair.client.ask("memory").parse().expect("a number"))
}

/// The number of instructions of a client for each exec, counted by callgrind as the difference
/// between a run with few execs and one with many.
pub(crate) fn instructions(scale: Scale) -> Row {
    let few = scale.of(200);
    let many = 5 * few;
    let what = "instructions of an exec round trip";
    let server = Server::start();
    let each = |side: &str| {
        let [few_cost, many_cost] = [few, many].map(|execs| callgrind(side, server.url(), execs));
        Some((many_cost? - few_cost?) as f64 / (many - few) as f64)
    };
    match (each("ours"), each("bare")) {
        (Some(ours), Some(bare)) => {
            // The target prevents regressions: the first version needed 71,000 instructions.
            Row::new(what, short(ours), short(bare))
                .ratio(ours / bare, Target::None)
                .target(ours, Target::AtMost(45e3))
        }
        _ => Row::new(what, "not measured: valgrind doesn't run here", ""),
    }
}

fn callgrind(side: &str, url: &str, execs: usize) -> Option<u64> {
    let directory = tempfile::tempdir().expect("a directory");
    let log = directory.path().join("log");
    let mut valgrind = Command::new("valgrind");
    valgrind
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(format!("--log-file={}", log.display()))
        .arg(std::env::current_exe().expect("this program"));
    let there = Command::new("valgrind")
        .arg("--version")
        .stdout(Stdio::null())
        .status();
    there.ok().filter(|status| status.success())?;
    let mut client = Actor::of(valgrind, &[side, url]);
    client.ask("open 1");
    client.ask(&format!("exec {execs}"));
    client.end();
    let log = std::fs::read_to_string(log).ok()?;
    let counted = log.lines().find_map(|line| line.split_once("Collected : "));
    counted?.1.trim().parse().ok()
}
