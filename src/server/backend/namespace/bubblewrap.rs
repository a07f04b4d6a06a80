//! [`AgentProcess`]: the agent of a sandbox, in the namespaces and the file system that bubblewrap
//! sets up for it.

use std::{
    ffi::OsString,
    fs,
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
    process::Stdio,
    sync::Arc,
    time::Duration,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal},
};
use tokio::{
    process::{Child, ChildStderr},
    sync::Mutex,
    task::JoinHandle,
    time::timeout,
};

use super::cgroup::Group;
use crate::{
    inside::{messages::Setup, remote::Remote, spawn},
    server::{
        agent,
        backend::{
            agent_errors,
            confine::{CODE_INSIDE, HOME_INSIDE, TEMPORARY_INSIDE},
            etc::{self, ETC, EtcFile},
        },
        escaped::Escaped,
        store::archive::layout::{HOME, ROOT, TEMPORARY},
    },
};

/// The directory with the code of each exec, in the directory of a sandbox.
pub(super) const CODE: &str = "code";

/// The path of the agent in the sandbox.
const AGENT_INSIDE: &str = "/run/agent";

/// The user ID of code in the sandbox. The user namespace maps no other user.
pub(super) const USER_INSIDE: u32 = 1000;

/// How long the processes of a sandbox may take to end after a kill.
const GONE_WITHIN: Duration = Duration::from_secs(10);

/// The directories of each sandbox at which bubblewrap mounts something, or that programs expect.
pub(super) const DIRECTORIES: [&str; 7] = [
    "/proc",
    "/dev",
    "/run",
    "/sys",
    "/var/tmp",
    TEMPORARY_INSIDE,
    HOME_INSIDE,
];

/// The programs, paths and options from which bubblewrap sets up a sandbox.
pub(super) struct Layout<'a> {
    pub(super) bubblewrap: &'a Path,
    pub(super) agent: &'a Path,
    /// The directory of the sandbox.
    pub(super) directory: &'a Path,
    /// The user that code runs as, if it differs from the user of this process.
    pub(super) user: Option<u32>,
    pub(super) network: bool,
    /// The directories of this machine that the sandbox can read.
    pub(super) readable: &'a [PathBuf],
    /// The paths below `readable` that must look empty in the sandbox.
    pub(super) hidden: &'a [PathBuf],
}

impl Layout<'_> {
    /// The arguments of bubblewrap. Later mounts cover earlier ones.
    ///
    /// bubblewrap follows symbolic links in the paths at which it mounts. The caller has replaced
    /// links in these paths by directories, and no code runs before the last mount.
    fn arguments(&self) -> Vec<OsString> {
        let mut arguments = Arguments(Vec::new());
        let inner = |name: &str| self.directory.join(name);
        arguments.add(&[
            "--unshare-user",
            "--unshare-pid",
            "--unshare-ipc",
            "--unshare-uts",
        ]);
        arguments.add(&["--unshare-cgroup-try", "--disable-userns", "--as-pid-1"]);
        if !self.network {
            arguments.add(&["--unshare-net"]);
        }
        let user = USER_INSIDE.to_string();
        arguments.add(&["--uid", &user, "--gid", &user, "--hostname", "sandbox"]);
        // The agent needs these capabilities to mount file systems that bubblewrap can't limit and
        // to empty its bounding set. Then it drops them.
        arguments.add(&["--cap-add", "CAP_SYS_ADMIN", "--cap-add", "CAP_SETPCAP"]);
        arguments.add(&["--chdir", "/"]);
        arguments.bind("--bind", &inner(ROOT), "/".as_ref());
        for path in self.readable.iter().filter(|path| path.is_dir()) {
            arguments.bind("--ro-bind", path, path);
        }
        for path in self.hidden {
            arguments.add(&["--perms", "0555", "--size", "4096", "--tmpfs"]);
            arguments.0.push(path.into());
            arguments.add(&["--remount-ro"]);
            arguments.0.push(path.into());
        }
        arguments.add(&["--proc", "/proc", "--dev", "/dev"]);
        // These files list the keys of the whole machine.
        for keys in ["/proc/keys", "/proc/key-users"] {
            if Path::new(keys).exists() {
                arguments.add(&["--ro-bind", "/dev/null", keys]);
            }
        }
        arguments.add(&["--perms", "0755", "--size", "1048576", "--tmpfs", "/run"]);
        for EtcFile { name, inside } in etc::files(self.readable) {
            arguments.bind("--ro-bind", &inner(ETC).join(name), &inside);
        }
        arguments.bind("--bind", &inner(HOME), HOME_INSIDE.as_ref());
        arguments.bind("--bind", &inner(TEMPORARY), TEMPORARY_INSIDE.as_ref());
        arguments.bind("--ro-bind", &inner(CODE), CODE_INSIDE.as_ref());
        arguments.bind("--ro-bind", self.agent, AGENT_INSIDE.as_ref());
        // Otherwise code could use up memory with files there.
        arguments.add(&["--remount-ro", "/run", "--remount-ro", "/dev"]);
        arguments.add(&["--", AGENT_INSIDE]);
        arguments.add(&agent::ARGUMENTS);
        arguments.0
    }
}

struct Arguments(Vec<OsString>);

impl Arguments {
    fn add(&mut self, arguments: &[&str]) {
        self.0.extend(arguments.iter().map(OsString::from));
    }

    fn bind(&mut self, how: &str, source: &Path, inside: &Path) {
        self.0.extend([how.into(), source.into(), inside.into()]);
    }
}

/// The agent of a sandbox, which is its first process. Dropping this kills every process of the
/// sandbox.
pub(super) struct AgentProcess {
    pub(super) remote: Remote,
    /// bubblewrap, which waits for the end of the agent.
    bubblewrap: Mutex<Child>,
    /// The agent. When it ends, the kernel kills all other processes of the sandbox.
    first: Arc<OwnedFd>,
    /// Removes the cgroup of the sandbox when the agent has ended.
    group: Mutex<Option<JoinHandle<()>>>,
}

impl AgentProcess {
    /// Starts the agent, and waits until it has confined itself. It is in `group`, if there is one,
    /// before any code runs.
    pub(super) async fn start(
        layout: Layout<'_>,
        setup: Setup,
        group: Option<Group>,
    ) -> Result<Self, String> {
        let started = Self::start_in(&layout, setup, group.as_ref()).await;
        let Some(group) = group else { return started };
        match started {
            Ok(mut started) => {
                let ended = started.remote.ended();
                started.group = Mutex::new(Some(tokio::spawn(async move {
                    ended.await;
                    group.remove().await;
                })));
                Ok(started)
            }
            Err(reason) => {
                group.remove().await;
                Err(reason)
            }
        }
    }

    async fn start_in(
        layout: &Layout<'_>,
        setup: Setup,
        group: Option<&Group>,
    ) -> Result<Self, String> {
        let mut command = spawn::command(layout.bubblewrap);
        command
            .args(layout.arguments())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        if let Some(user) = layout.user {
            spawn::run_as(&mut command, user);
        }
        let mut child = command
            .spawn()
            .map_err(|error| format!("cannot run {}: {error}", layout.bubblewrap.display()))?;
        let pipes = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let (Some(input), Some(output), Some(errors)) = pipes else {
            return Err("bubblewrap has no pipes".to_owned());
        };
        let remote = match Remote::connect(output, input, setup).await {
            Ok(remote) => remote,
            Err(reason) => {
                // A program that is not an agent may ignore the end of its input, so kill it.
                if let Ok((_, first)) = processes(&child) {
                    kill(first);
                }
                let _ = child.start_kill();
                return Err(with_errors(reason, errors).await);
            }
        };
        let (pids, first) = processes(&child)?;
        let first = Arc::new(first);
        if let Some(group) = group {
            // If this fails, the drop of `remote` closes the input of the agent, which ends it.
            group.add(pids).await?;
        }
        let (ended, killed) = (remote.ended(), first.clone());
        tokio::spawn(async move {
            // If the agent broke the protocol, code may control it, so kill it.
            let reason = ended.await;
            tracing::debug!(reason = %Escaped(reason), "the agent of a sandbox has ended");
            kill(&*killed);
        });
        tokio::spawn(agent_errors::log(errors));
        Ok(Self {
            remote,
            bubblewrap: Mutex::new(child),
            first,
            group: Mutex::new(None),
        })
    }

    /// Whether the agent has ended or broken the protocol.
    pub(super) fn has_ended(&self) -> bool {
        // Also look at the process itself: it may have ended although `remote` has not read the end
        // of its output yet.
        let mut first = [PollFd::new(&self.first, PollFlags::IN)];
        let polled = poll(&mut first, Some(&Timespec::default()));
        self.remote.has_ended() || polled != Ok(0)
    }

    /// Kills the agent, and with it every process of the sandbox.
    pub(super) fn kill(&self) {
        kill(&*self.first);
    }

    /// Ends every process of the sandbox. Can be retried after an error.
    pub(super) async fn end(&self) -> Result<(), String> {
        self.kill();
        let mut bubblewrap = self.bubblewrap.lock().await;
        match timeout(GONE_WITHIN, bubblewrap.wait()).await {
            Ok(Ok(_)) => {
                let mut group = self.group.lock().await;
                if let Some(removed) = &mut *group {
                    let _ = timeout(GONE_WITHIN, removed).await;
                    *group = None;
                }
                Ok(())
            }
            Ok(Err(error)) => Err(format!(
                "the processes of the sandbox could not be ended: {error}"
            )),
            Err(_) => Err(format!(
                "the processes of the sandbox did not end within {GONE_WITHIN:?} of the kill"
            )),
        }
    }
}

impl Drop for AgentProcess {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Kills the first process of a sandbox, unless it has ended.
fn kill(first: impl AsFd) {
    let _ = pidfd_send_signal(first, Signal::KILL);
}

/// The PIDs of bubblewrap and of the agent, which is its only child, and the agent. bubblewrap has
/// not been reaped, and reaps its child only when it ends, so neither PID has been reused.
fn processes(bubblewrap: &Child) -> Result<(Vec<u32>, OwnedFd), String> {
    let opened = || {
        let parent = bubblewrap.id()?;
        let children = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children"));
        let child: u32 = children.ok()?.trim().parse().ok()?;
        let first = Pid::from_raw(child.cast_signed())?;
        let first = pidfd_open(first, PidfdFlags::empty()).ok()?;
        Some((vec![parent, child], first))
    };
    opened().ok_or_else(|| "the first process of the sandbox was not found".to_owned())
}

/// Adds to a reason what bubblewrap or the agent printed.
async fn with_errors(reason: String, errors: ChildStderr) -> String {
    let said = agent_errors::lines(errors).await;
    match said.is_empty() {
        true => reason,
        // What bubblewrap prints starts with its name. Then there was no agent yet.
        false if said.starts_with("bwrap:") => said,
        false => format!("{reason}: {said}"),
    }
}
