//! [`Sweeper`]: finds the processes that left their process group, and kills them.
//!
//! On Linux every process that a backend starts carries markers in its environment, which its
//! children inherit. One pass over `/proc` serves everybody who waits for one, so that 500 kills at
//! once cost little more than one. Elsewhere there is no `/proc`, and the process group must do.

use std::{path::PathBuf, time::Duration};

use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, sleep},
};

/// Environment variable that names the server instance.
pub(super) const SERVER_MARKER: &str = "ACTIX_SANDBOX_SERVER";
/// Environment variable that names the sandbox.
pub(super) const SANDBOX_MARKER: &str = "ACTIX_SANDBOX_ID";
/// Environment variable that names the exec.
pub(super) const EXEC_MARKER: &str = "ACTIX_SANDBOX_EXEC";

/// Sweeps that may wait for the next pass.
const QUEUE: usize = 256;

/// Time after which a sweep gives up.
const GIVE_UP_AFTER: Duration = Duration::from_secs(10);

/// The pause between two passes: short at first, since most processes die at once.
const PAUSE: Duration = Duration::from_millis(1);
const MAX_PAUSE: Duration = Duration::from_millis(20);

/// Whose processes to kill.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Target {
    /// Those of one exec.
    Exec(String),
    /// Those of a whole server.
    Server(String),
    /// Those of one sandbox; also those that cleared their environment and stayed in its directory.
    Sandbox { id: String, directory: PathBuf },
}

struct Request {
    target: Target,
    since: Instant,
    done: oneshot::Sender<Result<(), String>>,
}

/// Handle of the task that sweeps.
#[derive(Clone, Debug)]
pub(super) struct Sweeper {
    requests: mpsc::Sender<Request>,
}

impl Sweeper {
    /// Starts the task, on the current runtime. It ends with its last handle.
    pub(super) fn start() -> Self {
        let (requests, receiver) = mpsc::channel(QUEUE);
        tokio::spawn(run(receiver));
        Self { requests }
    }

    /// Kills everything that belongs to `target`; resolves when a whole pass found nothing.
    pub(super) async fn sweep(&self, target: Target) -> Result<(), String> {
        if !cfg!(target_os = "linux") {
            return Ok(());
        }
        let (done, answer) = oneshot::channel();
        let request = Request {
            target,
            since: Instant::now(),
            done,
        };
        let gone = || "the server is shutting down".to_owned();
        self.requests.send(request).await.map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }
}

async fn run(mut receiver: mpsc::Receiver<Request>) {
    let mut waiting: Vec<Request> = Vec::new();
    let mut pause = PAUSE;
    loop {
        if waiting.is_empty() {
            match receiver.recv().await {
                Some(request) => waiting.push(request),
                None => return,
            }
        }
        while let Ok(request) = receiver.try_recv() {
            waiting.push(request);
        }
        let targets: Vec<_> = waiting
            .iter()
            .map(|request| request.target.clone())
            .collect();
        let found = tokio::task::spawn_blocking(move || pass(&targets))
            .await
            .unwrap_or_default();
        let mut again = Vec::new();
        for (index, request) in waiting.into_iter().enumerate() {
            match found.get(index).copied().unwrap_or(0) {
                0 => drop(request.done.send(Ok(()))),
                left if request.since.elapsed() > GIVE_UP_AFTER => drop(
                    request
                        .done
                        .send(Err(format!("{left} processes could not be killed"))),
                ),
                _ => again.push(request),
            }
        }
        waiting = again;
        if waiting.is_empty() {
            pause = PAUSE;
        } else {
            // They were sent SIGKILL; the kernel needs a moment to take them away.
            sleep(pause).await;
            pause = MAX_PAUSE.min(2 * pause);
        }
    }
}

/// Looks at every process once and kills those of the targets; how many of each were found.
#[cfg(target_os = "linux")]
fn pass(targets: &[Target]) -> Vec<usize> {
    use std::collections::HashMap;

    use nix::{
        sys::signal::{Signal, kill},
        unistd::Pid,
    };

    let mut by_marker = HashMap::new();
    let mut by_directory = Vec::new();
    for (index, target) in targets.iter().enumerate() {
        match target {
            Target::Exec(exec) => {
                by_marker.insert((EXEC_MARKER, exec.as_bytes()), index);
            }
            Target::Sandbox { id, directory } => {
                by_marker.insert((SANDBOX_MARKER, id.as_bytes()), index);
                by_directory.push((directory, index));
            }
            Target::Server(server) => {
                by_marker.insert((SERVER_MARKER, server.as_bytes()), index);
            }
        }
    }

    let mut processes = HashMap::new();
    for pid in pids() {
        let Some(process) = Observed::read(pid, !by_directory.is_empty()) else {
            continue;
        };
        let markers: Vec<_> = process.markers().collect();
        let is_marked = !markers.is_empty();
        let mut own: Vec<usize> = markers
            .iter()
            .filter_map(|marker| by_marker.get(marker).copied())
            .collect();
        if let Some(cwd) = &process.directory {
            own.extend(
                by_directory
                    .iter()
                    .filter(|(directory, _)| cwd.starts_with(directory))
                    .map(|(_, index)| index),
            );
        }
        own.dedup();
        processes.insert(pid, (process.parent, is_marked, own));
    }

    let mut found = vec![0; targets.len()];
    let me = std::process::id().cast_signed();
    for &pid in processes.keys() {
        // A process without a marker of its own belongs to whom its parent belongs.
        let mut ancestor = pid;
        let mut owners: &[usize] = &[];
        // The list was not made in one instant, so it may hold a circle.
        for _ in 0..processes.len() {
            match processes.get(&ancestor) {
                Some((parent, false, own)) if own.is_empty() && ancestor != me => {
                    ancestor = *parent;
                }
                Some((_, _, own)) => {
                    owners = own;
                    break;
                }
                None => break,
            }
        }
        if owners.is_empty() || pid == me {
            continue;
        }
        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        for &owner in owners {
            found[owner] += 1;
        }
    }
    found
}

#[cfg(not(target_os = "linux"))]
fn pass(targets: &[Target]) -> Vec<usize> {
    vec![0; targets.len()]
}

#[cfg(target_os = "linux")]
fn pids() -> impl Iterator<Item = i32> {
    std::fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
}

/// A process as `/proc` shows it. A zombie has neither environment nor directory.
#[cfg(target_os = "linux")]
struct Observed {
    parent: i32,
    environment: Vec<u8>,
    directory: Option<PathBuf>,
}

#[cfg(target_os = "linux")]
impl Observed {
    fn read(pid: i32, with_directory: bool) -> Option<Self> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name of the program, in parentheses, may hold anything.
        let mut fields = stat[stat.rfind(')')? + 1..].split_ascii_whitespace();
        let state = fields.next()?;
        let parent = fields.next()?.parse().ok()?;
        if state == "Z" || state == "X" {
            return None;
        }
        Some(Self {
            parent,
            // Those of other users cannot be read, and cannot be ours.
            environment: std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default(),
            directory: with_directory
                .then(|| std::fs::read_link(format!("/proc/{pid}/cwd")).ok())
                .flatten(),
        })
    }

    /// The markers of the process: which variable, and its value.
    fn markers(&self) -> impl Iterator<Item = (&'static str, &[u8])> {
        self.environment
            .split(|&byte| byte == 0)
            .filter_map(|entry| {
                [SERVER_MARKER, SANDBOX_MARKER, EXEC_MARKER]
                    .into_iter()
                    .find_map(|name| {
                        let value = entry.strip_prefix(name.as_bytes())?.strip_prefix(b"=")?;
                        Some((name, value))
                    })
            })
    }
}
