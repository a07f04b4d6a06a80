//! [`NamespaceBackend`]: runs code in Linux namespaces, with bubblewrap and an agent.
//!
//! Each sandbox has its own user, mount, PID, IPC and UTS namespaces, and its own network namespace
//! unless it may use the machine's network. If the server runs as root, each sandbox also has its
//! own user ID of the machine. The directory of a sandbox holds:
//!
//! | directory | path in the sandbox |
//! | --- | --- |
//! | `root` | `/` |
//! | `home`, `tmp` | `/home/sandbox`, `/tmp` |
//! | `code` | `/run/code`, read-only |
//! | `etc` | `passwd`, `group`, `hosts` and `resolv.conf` in `/etc`, read-only |
//!
//! The agent starts with the first exec, or earlier if the sandbox is warm. It ends with the
//! sandbox or before a checkpoint.

use std::{
    fs, io,
    os::unix::fs::{PermissionsExt, chown, lchown},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    thread::available_parallelism,
};

use futures::future::BoxFuture;
use nix::{errno::Errno, unistd::geteuid};
use tokio::sync::{Mutex, OnceCell, Semaphore};

use super::{
    bubblewrap::{AgentProcess, CODE, DIRECTORIES, Layout, USER_INSIDE},
    cgroup::{self, Cgroups},
    disk,
};
use crate::{
    inside::{
        filter,
        messages::{Place, Setup},
        process::Started,
    },
    protocol::{MetricsLimits, SandboxId, SandboxLimits},
    server::{
        agent::find_agent,
        backend::{
            api::{Backend, BackendSandbox, WarmSandbox},
            confine::{CODE_INSIDE, copy_agent, hidden, limits, make_directory, make_mount_point},
            confined_start::{self, CodeDirectory},
            context::ServerContext,
            etc::{self, ETC},
            job::Job,
            programs::{PATH, find},
            remove::remove_sandbox,
            site,
        },
        blocking::blocking,
        choice::{Confines, NamespaceOptions},
        confinement::{CodeUser, Confinement, SystemCalls},
        store::archive::layout::{HOME, ROOT, TEMPORARY, Tree, Trees},
    },
};

/// The program that sets up the namespaces, and the package that has it.
const BUBBLEWRAP: &str = "bwrap";
const PACKAGE: &str = "bubblewrap";

/// The first user ID of sandboxes, and the number of these IDs. Machines usually have no user or
/// service with an ID in this range.
const FIRST_USER: u32 = 0x6000_0000;
const USERS: u32 = 0x1000_0000;

/// Runs code in Linux namespaces.
pub(crate) struct NamespaceBackend {
    shared: Arc<Shared>,
}

struct Shared {
    context: Arc<ServerContext>,
    confines: Confines,
    denied_calls: Vec<String>,
    /// The most bytes that the trees of a sandbox may hold.
    disk_bytes: u64,
    /// Limits how many sandboxes are measured concurrently.
    measurements: Arc<Semaphore>,
    /// If no cgroup limits the sandboxes, the reason.
    cgroups: Result<Cgroups, String>,
    /// The number of cgroups that were created.
    groups: AtomicU64,
    hidden: Vec<PathBuf>,
    bubblewrap: PathBuf,
    /// The program of the agent, and the server's copy of it.
    program: PathBuf,
    agent: PathBuf,
    /// Limits how many sandboxes create their namespaces concurrently. If all did so at once, none
    /// would be ready in time.
    turns: Semaphore,
    /// The number from which the user ID of the next sandbox is computed. `None` if this process is
    /// not root.
    next_user: Option<AtomicU32>,
}

impl Shared {
    /// The limits of each sandbox.
    fn limits(&self) -> SandboxLimits {
        SandboxLimits {
            memory: Some(self.confines.memory_bytes),
            processes: Some(self.confines.processes),
            disk: Some(self.disk_bytes),
        }
    }
}

impl NamespaceBackend {
    /// Starts the backend, and checks that it can run a sandbox. The error is the reason why it
    /// can't.
    pub(crate) async fn start(
        options: NamespaceOptions,
        context: Arc<ServerContext>,
    ) -> Result<Self, String> {
        // Fails early if the name of a denied system call is unknown.
        filter::program(&options.denied_calls)?;
        let hidden = hidden(&options.confines, &context)?;
        let bubblewrap = bubblewrap().ok_or_else(|| {
            format!(
                "`{BUBBLEWRAP}` is not installed, or not on {PATH}; install the package \
                 `{PACKAGE}` of your distribution"
            )
        })?;
        let program = find_agent(context.agent.as_deref())?;
        let copied = program.clone();
        let root = context.root.clone();
        let prepared = blocking(move || {
            let has_users = geteuid().is_root() && has_users(&root)?;
            if has_users {
                open_to_sandboxes(&root)?;
            }
            Ok((has_users, copy_agent(&copied, &root)?))
        });
        let (has_users, agent) = prepared.await.map_err(|error| error.to_string())?;
        let mut random = [0; 4];
        getrandom::fill(&mut random).map_err(|error| error.to_string())?;
        let first = u32::from_le_bytes(random);
        let processors = available_parallelism().map_or(1, usize::from);
        let with = |cgroups| Self {
            shared: Arc::new(Shared {
                context: context.clone(),
                confines: options.confines.clone(),
                denied_calls: options.denied_calls.clone(),
                disk_bytes: options.disk_bytes,
                measurements: Arc::new(Semaphore::new(processors.div_ceil(2))),
                cgroups,
                groups: AtomicU64::new(0),
                hidden: hidden.clone(),
                bubblewrap: bubblewrap.clone(),
                program: program.clone(),
                agent: agent.clone(),
                turns: Semaphore::new(2 * processors),
                next_user: has_users.then(|| AtomicU32::new(first)),
            }),
        };
        let disk = format!("{} MiB", options.disk_bytes >> 20);
        let no_cgroup = match find_cgroups(&options).await {
            Ok(cgroups) => {
                let place = cgroups.parent.display().to_string();
                let sandbox = cgroups.describe();
                let backend = with(Ok(cgroups));
                match backend.try_out().await {
                    Ok(()) => {
                        tracing::info!(
                            disk,
                            sandbox,
                            cgroup = place,
                            "the disk of each sandbox is limited, and a cgroup limits its processes"
                        );
                        return Ok(backend);
                    }
                    Err(reason) => reason,
                }
            }
            Err(reason) => reason,
        };
        if let Some(option) = options.needs_cgroup() {
            let flag = option.replace('_', "-");
            return Err(format!(
                "the option `{option}` (`--{flag}`) needs a cgroup v2 that this server may write \
                 to: {no_cgroup}; {}, or leave the option out",
                cgroup::ADVICE
            ));
        }
        let backend = with(Err(no_cgroup.clone()));
        backend.try_out().await?;
        tracing::info!(
            disk,
            no_cgroup,
            "the disk of each sandbox is limited, and its memory and CPU by the limits of each \
             process only"
        );
        Ok(backend)
    }

    /// Creates a sandbox, starts its agent, and deletes it.
    async fn try_out(&self) -> Result<(), String> {
        let sandbox = self
            .sandbox("sandbox-probe")
            .await
            .map_err(|error| error.to_string())?;
        let tried = sandbox.agent().await.map(drop);
        let program = &self.shared.program;
        let tried = tried.map_err(|reason| match reason.starts_with(BUBBLEWRAP) {
            true => reason,
            false => format!(
                "{reason} (the program of the agent is {})",
                program.display()
            ),
        });
        let deleted = sandbox.delete().await;
        tried.and(deleted)
    }

    /// Creates a sandbox in a directory of this name. The name is its id, unless it is warm.
    async fn sandbox(&self, name: &str) -> io::Result<NamespaceSandbox> {
        let context = &self.shared.context;
        let directory = context.root.join(name);
        let user = self.shared.next_user.as_ref().map(|next| {
            let number = next.fetch_add(1, Ordering::Relaxed);
            FIRST_USER + number % USERS
        });
        let sandbox = NamespaceSandbox {
            id: SandboxId::new(name),
            directory,
            limits: self.shared.limits(),
            user,
            shared: self.shared.clone(),
            trusted: OnceCell::new(),
            agent: Mutex::new(None),
            execs: AtomicU64::new(0),
        };
        let directory = sandbox.directory.clone();
        match blocking(move || prepare(&directory, user)).await {
            Ok(()) => Ok(sandbox),
            Err(error) => {
                // Don't remove a directory that already existed.
                if error.kind() != io::ErrorKind::AlreadyExists {
                    let _ = remove_sandbox(&sandbox.directory).await;
                }
                Err(error)
            }
        }
    }
}

/// The path of bubblewrap, if it is installed.
pub(crate) fn bubblewrap() -> Option<PathBuf> {
    find(BUBBLEWRAP, PATH.as_ref())
}

/// The cgroup for the groups of the sandboxes. The error is the reason why there is none.
async fn find_cgroups(options: &NamespaceOptions) -> Result<Cgroups, String> {
    let limits = cgroup::Limits {
        memory_bytes: options.sandbox_memory_bytes(),
        processes: options.confines.processes,
        cpus: options.cpu_thousandths,
    };
    let process_memory = options.confines.memory_bytes;
    let found = blocking(move || Ok(Cgroups::find(limits, process_memory))).await;
    found.map_err(|error| error.to_string())?
}

/// Whether the users of sandboxes exist for this process, which is root. In a user namespace, such
/// as that of a container without root, they don't. Code then runs under the user of this process,
/// which is root only in that namespace.
fn has_users(root: &Path) -> io::Result<bool> {
    let probe = root.join("owned");
    fs::create_dir(&probe)?;
    let owned = lchown(&probe, Some(FIRST_USER), Some(FIRST_USER));
    fs::remove_dir(&probe)?;
    match owned {
        Ok(()) => Ok(true),
        Err(error) if error.raw_os_error() == Some(Errno::EINVAL as i32) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Lets the users of sandboxes pass through the server's directory, to the directory of their own
/// sandbox. They can't list it. Fails if they can't reach it.
fn open_to_sandboxes(root: &Path) -> io::Result<()> {
    const PASS: u32 = 0o001;
    fs::set_permissions(root, fs::Permissions::from_mode(0o711))?;
    for directory in root.ancestors() {
        if fs::metadata(directory)?.permissions().mode() & PASS == 0 {
            return Err(io::Error::new(
                io::ErrorKind::PermissionDenied,
                format!(
                    "sandboxes run as users of their own, which can't pass through {}; choose \
                     another directory for the server, or `chmod o+x` this one",
                    directory.display()
                ),
            ));
        }
    }
    Ok(())
}

/// Creates the directory of a sandbox, and in it the trees, which belong to `user`.
fn prepare(directory: &Path, user: Option<u32>) -> io::Result<()> {
    let make = |path: &Path, mode| {
        make_directory(path, mode)?;
        lchown(path, user, user)
    };
    // Only the user of this sandbox may pass.
    make_directory(directory, 0o710)?;
    chown(directory, None, user)?;
    make(&directory.join(ROOT), 0o755)?;
    make(&directory.join(HOME), 0o700)?;
    make(&directory.join(TEMPORARY), 0o700)
}

/// Creates the directories that only the server writes to: `code` and `etc`. Call this after the
/// trees were filled from an archive.
fn prepare_trusted(directory: &Path, network: bool) -> io::Result<()> {
    let code = directory.join(CODE);
    // An earlier try may have failed halfway, for example because the disk was full.
    for own in [&code, &directory.join(ETC)] {
        match fs::remove_dir_all(own) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    make_directory(&code, 0o711)?;
    site::write(&code)?;
    etc::write(directory, USER_INSIDE, network)
}

impl Backend for NamespaceBackend {
    fn name(&self) -> &'static str {
        "namespace"
    }

    fn limits(&self) -> SandboxLimits {
        self.shared.limits()
    }

    fn confinement(&self) -> Confinement {
        let Shared {
            confines, cgroups, ..
        } = &*self.shared;
        let group = cgroups.as_ref().ok().map(Cgroups::limits);
        Confinement {
            memory: Some(confines.memory_bytes),
            sandbox_memory: group.map(|it| it.memory_bytes),
            cpus: group.and_then(|it| it.cpus).map(|it| it as f64 / 1_000.0),
            processes: Some(confines.processes),
            disk: Some(self.shared.disk_bytes),
            file_size: Some(confines.file_bytes),
            open_files: Some(confines.open_files),
            network: confines.network,
            user: match self.shared.next_user {
                Some(_) => CodeUser::Own,
                None => CodeUser::Server,
            },
            system_calls: SystemCalls::Filtered,
            no_cgroup: cgroups
                .as_ref()
                .err()
                .map(|reason| format!("{reason}; {}", cgroup::ADVICE)),
        }
    }

    fn create(
        &self,
        id: &SandboxId,
        limits: SandboxLimits,
    ) -> BoxFuture<'_, io::Result<Box<dyn BackendSandbox>>> {
        let id = id.clone();
        Box::pin(async move {
            let mut sandbox = self.sandbox(id.as_str()).await?;
            sandbox.limits = self.limits().lowered(limits);
            Ok(Box::new(sandbox) as Box<dyn BackendSandbox>)
        })
    }

    fn create_warm(
        &self,
        directory: &str,
    ) -> Option<BoxFuture<'_, io::Result<Box<dyn WarmSandbox>>>> {
        let directory = directory.to_owned();
        Some(Box::pin(async move {
            let sandbox = self.sandbox(&directory).await?;
            Ok(Box::new(sandbox) as Box<dyn WarmSandbox>)
        }))
    }

    fn shutdown(&self) -> BoxFuture<'_, ()> {
        Box::pin(self.shared.context.clear())
    }
}

struct NamespaceSandbox {
    /// A warm sandbox gets its id when a create takes it from the pool.
    id: SandboxId,
    directory: PathBuf,
    limits: SandboxLimits,
    /// The user ID under which code runs. `None` if this process is not root: then code runs under
    /// the user ID of this process.
    user: Option<u32>,
    shared: Arc<Shared>,
    /// Set once [`prepare_trusted`] has run, before the first exec.
    trusted: OnceCell<()>,
    /// Started by the first [`agent`](Self::agent), ended by [`freeze`](BackendSandbox::freeze).
    agent: Mutex<Option<Arc<AgentProcess>>>,
    /// The number of execs.
    execs: AtomicU64,
}

impl BackendSandbox for NamespaceSandbox {
    fn start(&self, job: Job) -> BoxFuture<'_, Result<Started, String>> {
        Box::pin(async move {
            let agent = self.agent().await?;
            let number = self.execs.fetch_add(1, Ordering::Relaxed) + 1;
            let directory = CodeDirectory {
                inside: CODE_INSIDE,
                mounted: Some((self.directory.join(CODE), self.user)),
                site: format!("{CODE_INSIDE}/{}", site::SITE),
            };
            confined_start::start(&agent.remote, &directory, &self.id, number, job).await
        })
    }

    fn freeze(&self) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(async move {
            let mut agent = self.agent.lock().await;
            if let Some(agent) = &*agent {
                agent.end().await?;
            }
            *agent = None;
            Ok(())
        })
    }

    fn limits(&self) -> MetricsLimits {
        let cgroups = self.shared.cgroups.as_ref().ok();
        MetricsLimits {
            memory_bytes: cgroups.map(|it| it.limits_of(&self.limits).memory_bytes),
            ..self.limits.into()
        }
    }

    fn trees(&self) -> Trees {
        let tree = |name| Tree::new(name, self.user);
        Trees {
            directory: self.directory.clone(),
            trees: [HOME, TEMPORARY, ROOT].map(tree).to_vec(),
        }
    }

    fn delete(&self) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(async move {
            let frozen = self.freeze().await;
            let removed = remove_sandbox(&self.directory).await;
            frozen.and(removed)
        })
    }
}

impl WarmSandbox for NamespaceSandbox {
    fn start_agent(&self) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(async { self.agent().await.map(drop) })
    }

    fn is_alive(&mut self) -> bool {
        let agent = self.agent.get_mut().as_ref();
        agent.is_some_and(|agent| !agent.has_ended())
    }

    fn adopt(mut self: Box<Self>, id: &SandboxId) -> Arc<dyn BackendSandbox> {
        self.id = id.clone();
        Arc::<Self>::from(self)
    }
}

impl NamespaceSandbox {
    /// Returns the agent, and starts it if it is not running.
    async fn agent(&self) -> Result<Arc<AgentProcess>, String> {
        let mut agent = self.agent.lock().await;
        if let Some(agent) = &*agent {
            return Ok(agent.clone());
        }
        self.prepare_mounts()
            .await
            .map_err(|error| format!("The sandbox could not be set up: {error}"))?;
        let turn = self.shared.turns.acquire().await;
        let _turn = turn.map_err(|error| error.to_string())?;
        let confines = &self.shared.confines;
        let layout = Layout {
            bubblewrap: &self.shared.bubblewrap,
            agent: &self.shared.agent,
            directory: &self.directory,
            user: self.user,
            network: confines.network,
            readable: &confines.readable,
            hidden: &self.shared.hidden,
        };
        let setup = Setup {
            place: Place::Namespace {
                denied_calls: self.shared.denied_calls.clone(),
            },
            limits: limits(confines, &self.limits),
        };
        let group = match &self.shared.cgroups {
            Ok(cgroups) => Some(cgroups.create(&self.group_name(), &self.limits).await?),
            Err(_) => None,
        };
        let started = Arc::new(AgentProcess::start(layout, setup, group).await?);
        let trees = [ROOT, HOME, TEMPORARY].map(|tree| self.directory.join(tree));
        let limit = self.limits.disk.unwrap_or(self.shared.disk_bytes);
        let turns = self.shared.measurements.clone();
        let exceeded = disk::watch(trees.to_vec(), limit, turns);
        started.remote.end_when(exceeded);
        *agent = Some(started.clone());
        Ok(started)
    }

    /// A new name for the cgroup of this sandbox. The group of an agent that has just ended may
    /// still exist.
    fn group_name(&self) -> String {
        let number = self.shared.groups.fetch_add(1, Ordering::Relaxed);
        format!("sandbox-{}-{number}", self.shared.context.server)
    }

    /// Creates the server's files, once, and the directories at which something is mounted. Code
    /// may have left anything in the tree, so the latter happens before each start.
    async fn prepare_mounts(&self) -> io::Result<()> {
        let (directory, network) = (self.directory.clone(), self.shared.confines.network);
        let prepare = || async { blocking(move || prepare_trusted(&directory, network)).await };
        self.trusted.get_or_try_init(prepare).await?;
        let root = self.directory.join(ROOT);
        let user = self.user;
        let readable = self.shared.confines.readable.clone();
        blocking(move || {
            let readable = readable.iter().map(PathBuf::as_path);
            let readable = readable.filter(|path| path.is_dir());
            readable
                .chain(DIRECTORIES.map(Path::new))
                .try_for_each(|inside| make_mount_point(&root, inside, user))
        })
        .await
    }
}

#[cfg(test)]
mod tests;
