//! [`Sweeper`]: finds the processes that left their process group, and kills them.
//!
//! On Linux, every process that the backend `host` starts carries markers in its environment, and
//! its children inherit them. One pass over `/proc` serves all pending requests, so 500 concurrent
//! kills cost little more than one. Other systems have no `/proc`, and only the process group is
//! killed there.
//!
//! Code can read the markers of other sandboxes. A process that copies one is killed with that
//! sandbox, and can keep the kill from finishing. So markers protect only against mistakes. The
//! other backends need no sweeps: the agent of a sandbox finds the processes of the sandbox.

use std::{path::PathBuf, time::Duration};

use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, sleep},
};

#[cfg(target_os = "linux")]
use crate::inside::proc::{Observed, is_gone_or_foreign, is_in, kill_all, pids};

/// Environment variable that names the server instance.
pub(super) const SERVER_MARKER: &str = "ACTIX_SANDBOX_SERVER";
/// Environment variable with the id of the sandbox, for its code. Not a marker, because clients
/// know it.
pub(super) const ID_VARIABLE: &str = "ACTIX_SANDBOX_ID";
/// Environment variable with the name that the sandbox has on this server.
pub(super) const SANDBOX_MARKER: &str = "ACTIX_SANDBOX_NAME";
/// Environment variable that names the exec: the name of its sandbox, a dot, and a random value.
pub(super) const EXEC_MARKER: &str = "ACTIX_SANDBOX_EXEC";

/// Maximum number of sweeps that wait for the next pass.
const QUEUE: usize = 256;

/// How long a sweep tries before it fails.
const GIVE_UP_AFTER: Duration = Duration::from_secs(10);

/// Number of consecutive passes that must find nothing. A process shows no environment for a moment
/// during exec, so more passes are needed if one without an environment was seen.
const CLEAN_PASSES: u32 = 2;
const CLEAN_PASSES_IF_UNCERTAIN: u32 = 5;

/// The pause between two passes: short at first, since most processes die at once.
const PAUSE: Duration = Duration::from_millis(1);
const MAX_PAUSE: Duration = Duration::from_millis(20);

/// The reason if some processes can't be read.
const CANNOT_LIST: &str = "cannot list the processes of this machine";

/// The processes to kill.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Target {
    /// The processes of one exec.
    Exec(String),
    /// The processes of a whole server.
    Server(String),
    /// The processes of one sandbox.
    Sandbox {
        /// The name that marks them.
        name: String,
        /// Also kills processes without markers whose working directory is in here, if they are in
        /// one of the process groups or have no terminal. So the shell of a user who inspects the
        /// directory is not killed.
        directory: PathBuf,
        groups: Vec<i32>,
    },
}

struct Request {
    target: Target,
    since: Instant,
    clean_passes: u32,
    done: oneshot::Sender<Result<(), String>>,
}

/// A handle to the sweep task.
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

    /// Kills the processes of `target`. Resolves when none of them is left.
    pub(super) async fn sweep(&self, target: Target) -> Result<(), String> {
        if !cfg!(target_os = "linux") {
            return Ok(());
        }
        let (done, answer) = oneshot::channel();
        let request = Request {
            target,
            since: Instant::now(),
            clean_passes: 0,
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
        let seen = tokio::task::spawn_blocking(move || pass(&targets))
            .await
            .unwrap_or_else(|_panicked| Seen {
                blind: true,
                ..Seen::default()
            });
        let needed = if seen.uncertain {
            CLEAN_PASSES_IF_UNCERTAIN
        } else {
            CLEAN_PASSES
        };
        let mut again = Vec::new();
        for (index, mut request) in waiting.into_iter().enumerate() {
            let left = seen.found.get(index).copied().unwrap_or(0);
            request.clean_passes = if left == 0 && !seen.blind {
                request.clean_passes + 1
            } else {
                0
            };
            if request.clean_passes >= needed {
                let _ = request.done.send(Ok(()));
            } else if (left > 0 || seen.blind) && request.since.elapsed() > GIVE_UP_AFTER {
                let reason = if seen.blind {
                    CANNOT_LIST.to_owned()
                } else {
                    format!("{left} processes could not be killed")
                };
                let _ = request.done.send(Err(reason));
            } else {
                again.push(request);
            }
        }
        waiting = again;
        if waiting.is_empty() {
            pause = PAUSE;
        } else {
            // The kernel needs a moment to remove processes after SIGKILL.
            sleep(pause).await;
            pause = MAX_PAUSE.min(2 * pause);
        }
    }
}

/// The result of one pass.
#[derive(Default)]
struct Seen {
    /// How many processes of each target were found.
    found: Vec<usize>,
    /// A process showed no environment.
    uncertain: bool,
    /// The processes of all targets. Parents come before their children.
    #[cfg(target_os = "linux")]
    processes: Vec<nix::unistd::Pid>,
    /// Some processes could not be read, for example because this process has no file descriptors
    /// left. So targets that were not found may still have processes.
    blind: bool,
}

/// The processes of a target. May miss a process that starts or ends meanwhile. Fails if some
/// processes could not be read, because they may belong to the target.
#[cfg(target_os = "linux")]
pub(super) fn members(target: Target) -> std::io::Result<Vec<i32>> {
    let seen = look(&[target]);
    if seen.blind {
        return Err(std::io::Error::other(CANNOT_LIST));
    }
    Ok(seen.processes.into_iter().map(|pid| pid.as_raw()).collect())
}

/// Checks every process once and kills those of the targets.
#[cfg(target_os = "linux")]
fn pass(targets: &[Target]) -> Seen {
    let seen = look(targets);
    kill_all(&seen.processes);
    seen
}

/// Checks every process once.
#[cfg(target_os = "linux")]
fn look(targets: &[Target]) -> Seen {
    use std::collections::HashMap;

    use nix::unistd::Pid;

    let mut by_marker = HashMap::new();
    let mut by_directory = Vec::new();
    for (index, target) in targets.iter().enumerate() {
        let (marker, value) = match target {
            Target::Exec(mark) => (EXEC_MARKER, mark),
            Target::Sandbox {
                name,
                directory,
                groups,
            } => {
                by_directory.push((directory, groups, index));
                (SANDBOX_MARKER, name)
            }
            Target::Server(server) => (SERVER_MARKER, server),
        };
        by_marker.insert((marker, value.as_bytes()), index);
    }

    let mut uncertain = false;
    let mut processes = HashMap::new();
    let (pids, mut blind) = match pids() {
        Ok(pids) => (pids, false),
        Err(_) => (Vec::new(), true),
    };
    for pid in pids {
        let process = match Observed::read(pid, !by_directory.is_empty()) {
            Ok(Some(process)) => process,
            Ok(None) => continue,
            Err(error) => {
                blind |= !is_gone_or_foreign(&error);
                continue;
            }
        };
        uncertain |= process.shows_nothing;
        let mut markers: Vec<_> = markers(&process).collect();
        let is_marked = !markers.is_empty();
        let exec = markers.iter().find(|(name, _)| *name == EXEC_MARKER);
        let sandbox = exec.and_then(|(_, exec)| exec.split(|&byte| byte == b'.').next());
        markers.extend(sandbox.map(|name| (SANDBOX_MARKER, name)));
        let mut own: Vec<usize> = markers
            .iter()
            .filter_map(|marker| by_marker.get(marker).copied())
            .collect();
        if let Some(cwd) = &process.directory {
            own.extend(
                by_directory
                    .iter()
                    .filter(|(directory, groups, _)| {
                        cwd.starts_with(directory)
                            && (!process.has_terminal || groups.contains(&process.group))
                            && is_in(pid, cwd)
                    })
                    .map(|&(_, _, index)| index),
            );
        }
        own.sort_unstable();
        own.dedup();
        processes.insert(pid, (process.parent, is_marked, own));
    }

    let mut found = vec![0; targets.len()];
    let mut owned = Vec::new();
    let me = std::process::id().cast_signed();
    for &pid in processes.keys() {
        // A process without a marker belongs to the same targets as its parent.
        let mut ancestor = pid;
        let mut owners: &[usize] = &[];
        // The list is not an atomic snapshot, so the parents may form a cycle.
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
        owned.push(Pid::from_raw(pid));
        for &owner in owners {
            found[owner] += 1;
        }
    }
    // Parents come before their children.
    owned.sort_by_cached_key(|pid| {
        let parent = |pid: &i32| processes.get(pid).map(|&(parent, ..)| parent);
        let ancestors = std::iter::successors(parent(&pid.as_raw()), parent);
        ancestors.take(processes.len()).count()
    });
    Seen {
        found,
        uncertain,
        processes: owned,
        blind,
    }
}

#[cfg(not(target_os = "linux"))]
fn pass(targets: &[Target]) -> Seen {
    Seen {
        found: vec![0; targets.len()],
        uncertain: false,
        blind: false,
    }
}

/// The markers of the process, as pairs of variable and value.
#[cfg(target_os = "linux")]
fn markers(process: &Observed) -> impl Iterator<Item = (&'static str, &[u8])> {
    process
        .environment
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
