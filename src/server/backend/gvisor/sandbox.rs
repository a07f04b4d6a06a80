//! [`GvisorBackend`]: runs code in gVisor, with its program `runsc`.
//!
//! Each sandbox is a container, whose processes run on a separate kernel. Its first process is an
//! agent, which has three capabilities. Code has none. The directory of a sandbox holds:
//!
//! | directory | path in the sandbox |
//! | --- | --- |
//! | `root` | `/` |
//! | `home`, `tmp` | `/home/sandbox`, `/tmp` |
//! | `source` | `/run/source`, read-only: the program of the agent, and a Python module |
//! | `bundle`, `memory` | none: the configuration for `runsc`, and a checkpoint of the memory |
//!
//! The agent writes the code of each exec to a file in `/run/code`, a file system in memory. A
//! process may keep that file open after it was removed. gVisor can't store such a file in a
//! checkpoint if it is on the machine's disk.
//!
//! The memory of a sandbox includes that of the agent, which gVisor can restore only with the same
//! program file. So a checkpoint with memory also contains that file. A server of another release
//! restores the checkpoint with the agent that was running in it.

use std::{
    fs, io,
    os::unix::fs::{PermissionsExt, lchown},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread::available_parallelism,
};

use futures::future::BoxFuture;
use tokio::sync::{Mutex, OnceCell, Semaphore};

use super::{
    bundle::{self, MOUNT_POINTS, SOURCE, SOURCE_INSIDE, USER},
    container::Container,
    runsc::{self, Runsc, sandbox_memory},
};
use crate::{
    inside::{
        messages::{Place, Setup},
        process::Started,
    },
    protocol::{MetricsLimits, SandboxId, SandboxLimits},
    server::{
        agent::find_agent,
        backend::{
            api::{Backend, BackendSandbox, WarmSandbox},
            code_file::{make_private, write_private},
            confine::{
                AGENT, CODE_INSIDE, copy_agent, hidden, limits, make_directory, make_mount_point,
            },
            confined_start::{self, CodeDirectory},
            context::ServerContext,
            etc,
            job::Job,
            programs::{find, search_path},
            remove::{remove_sandbox, remove_tree},
            site,
        },
        blocking::blocking,
        choice::{Confines, GvisorOptions},
        confinement::{CodeUser, Confinement, SystemCalls},
        escaped::Escaped,
        identity::random_hex,
        store::archive::layout::{HOME, MEMORY, ROOT, TEMPORARY, Tree, Trees},
    },
};

const BUNDLE: &str = "bundle";

/// Runs code in gVisor.
pub(crate) struct GvisorBackend {
    shared: Arc<Shared>,
}

struct Shared {
    context: Arc<ServerContext>,
    confines: Confines,
    hidden: Vec<PathBuf>,
    runsc: Arc<Runsc>,
    /// The program of the agent, and the server's copy of it.
    program: PathBuf,
    agent: PathBuf,
    /// What sandboxes see as `/etc`, if that is readable.
    etc: PathBuf,
    /// Limits how many containers start concurrently. If all started at once, none would be ready
    /// in time.
    turns: Semaphore,
}

impl Shared {
    /// The limits of each sandbox.
    fn limits(&self) -> SandboxLimits {
        SandboxLimits {
            memory: Some(self.confines.memory_bytes),
            processes: Some(self.confines.processes),
            disk: None,
        }
    }
}

impl GvisorBackend {
    /// Starts the backend, and checks that a sandbox works. The error says why it does not.
    pub(crate) async fn start(
        options: GvisorOptions,
        context: Arc<ServerContext>,
    ) -> Result<Self, String> {
        let hidden = hidden(&options.confines, &context)?;
        if !nix::unistd::geteuid().is_root() {
            return Err("`runsc` needs the server to run as root".to_owned());
        }
        let binary = runsc(&options.binary).ok_or_else(|| {
            format!(
                "the program {} was not found: install gVisor's `runsc` (Debian's package \
                 `runsc`), or set its path",
                options.binary.display()
            )
        })?;
        let program = find_agent(context.agent.as_deref())?;
        let (source, root) = (program.clone(), context.root.clone());
        let copied = blocking(move || copy_agent(&source, &root)).await;
        let agent = copied.map_err(|error| error.to_string())?;
        let (root, network) = (context.root.clone(), options.confines.network);
        let etc = blocking(move || etc::copy(&root, USER, network)).await;
        let etc = etc.map_err(|error| format!("cannot copy /etc: {error}"))?;
        let processors = available_parallelism().map_or(1, usize::from);
        let records = context.root.join(runsc::RECORDS);
        make_private(&records).map_err(|error| format!("{}: {error}", records.display()))?;
        let backend = Self {
            shared: Arc::new(Shared {
                context,
                runsc: Arc::new(Runsc::new(binary, &options, &records)),
                confines: options.confines,
                hidden,
                program,
                agent,
                etc,
                turns: Semaphore::new(2 * processors),
            }),
        };
        backend.try_out().await?;
        Ok(backend)
    }

    /// Creates a sandbox, starts its agent, and deletes it.
    async fn try_out(&self) -> Result<(), String> {
        let sandbox = self
            .sandbox("sandbox-probe")
            .await
            .map_err(|error| error.to_string())?;
        let tried = sandbox.running().await.map(drop);
        let (runsc, program) = (self.shared.runsc.binary(), &self.shared.program);
        let tried = tried.map_err(|reason| match reason.contains("agent") {
            true => format!(
                "{reason} (`runsc` is {}, and the program of the agent is {})",
                runsc.display(),
                program.display()
            ),
            false => reason,
        });
        let deleted = sandbox.delete().await;
        tried.and(deleted)
    }

    /// Creates a sandbox in a directory of this name. The name is its id, unless it is warm.
    async fn sandbox(&self, name: &str) -> io::Result<GvisorSandbox> {
        let context = &self.shared.context;
        let directory = context.root.join(name);
        let sandbox = GvisorSandbox {
            id: SandboxId::new(name),
            directory,
            limits: self.shared.limits(),
            shared: self.shared.clone(),
            trusted: OnceCell::new(),
            container: Mutex::new(None),
            execs: AtomicU64::new(0),
        };
        let directory = sandbox.directory.clone();
        match blocking(move || prepare(&directory)).await {
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

/// The path of `runsc`, if it is installed. `named` is the option.
pub(crate) fn runsc(named: &Path) -> Option<PathBuf> {
    match named.components().count() {
        1 => find(&named.to_string_lossy(), &search_path()),
        _ => named.canonicalize().ok().filter(|file| file.is_file()),
    }
}

/// Creates the directory of a sandbox, and its trees.
fn prepare(directory: &Path) -> io::Result<()> {
    // On this machine, the container's processes run as an unprivileged user (65534), and the
    // processes that serve its files run as root. So only root has to enter this directory.
    make_directory(directory, 0o700)?;
    for (tree, mode) in [(ROOT, 0o755), (HOME, 0o700), (TEMPORARY, 0o700)] {
        make_for_user(&directory.join(tree), mode)?;
    }
    Ok(())
}

/// Writes the files of the server, beside the trees. Code can't write to them.
fn write_trusted(directory: &Path, shared: &Shared, limits: &SandboxLimits) -> io::Result<()> {
    let (source, bundle) = (directory.join(SOURCE), directory.join(BUNDLE));
    // An earlier try may have failed halfway, for example because the disk was full.
    for own in [&source, &bundle] {
        remove_tree(own)?;
    }
    make_directory(&source, 0o755)?;
    make_directory(&bundle, 0o700)?;
    site::write(&source)?;
    let mut confines = shared.confines.clone();
    confines.processes = limits.processes.unwrap_or(confines.processes);
    let config = bundle::config(directory, &confines, &shared.etc, &shared.hidden);
    let config = config.to_string();
    write_private(&bundle.join("config.json"), config.as_bytes())?;
    // A checkpoint with memory contains its own agent. This is the last step, because a rename
    // can't be repeated.
    let agent = source.join(AGENT);
    let stored = directory.join(MEMORY).join(AGENT);
    match fs::set_permissions(&stored, fs::Permissions::from_mode(0o711)) {
        Ok(()) => fs::rename(stored, agent),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            fs::hard_link(&shared.agent, agent)
        }
        Err(error) => Err(error),
    }
}

/// Creates the mount points in the root of a sandbox.
fn make_mount_points(root: &Path, confines: &Confines) -> io::Result<()> {
    let own = MOUNT_POINTS.iter().map(Path::new);
    let mut points = own.chain(bundle::readable(confines));
    points.try_for_each(|point| make_mount_point(root, point, Some(USER)))
}

fn make_for_user(path: &Path, mode: u32) -> io::Result<()> {
    make_directory(path, mode)?;
    lchown(path, Some(USER), Some(USER))
}

impl Backend for GvisorBackend {
    fn name(&self) -> &'static str {
        "gvisor"
    }

    fn limits(&self) -> SandboxLimits {
        self.shared.limits()
    }

    fn confinement(&self) -> Confinement {
        let confines = &self.shared.confines;
        let memory = sandbox_memory(confines.memory_bytes);
        Confinement {
            memory: Some(confines.memory_bytes),
            sandbox_memory: Some(memory),
            processes: Some(confines.processes),
            // No file can be larger than the memory of the sandbox.
            file_size: Some(confines.file_bytes.min(memory)),
            open_files: Some(confines.open_files),
            network: confines.network,
            user: CodeUser::Shared,
            system_calls: SystemCalls::OwnKernel,
            ..Confinement::none()
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
        Box::pin(async {
            // Retry the end of sandboxes that could not be deleted.
            if let Err(error) = runsc::end_all(&self.shared.context.root).await {
                tracing::warn!(error = %Escaped(error), "cannot end all sandboxes at shutdown");
            }
            self.shared.context.clear().await;
        })
    }
}

struct GvisorSandbox {
    /// A warm sandbox gets its id when a create takes it from the pool.
    id: SandboxId,
    directory: PathBuf,
    limits: SandboxLimits,
    shared: Arc<Shared>,
    /// Set once [`write_trusted`] has run, before the first container starts.
    trusted: OnceCell<()>,
    /// Started by the first [`running`](Self::running), ended by
    /// [`freeze`](BackendSandbox::freeze). If the agent has ended, the sandbox is lost.
    container: Mutex<Option<Arc<Container>>>,
    /// The number of execs.
    execs: AtomicU64,
}

impl BackendSandbox for GvisorSandbox {
    fn start(&self, job: Job) -> BoxFuture<'_, Result<Started, String>> {
        Box::pin(async move {
            let container = self.running().await?;
            let number = self.execs.fetch_add(1, Ordering::Relaxed) + 1;
            let directory = CodeDirectory {
                inside: CODE_INSIDE,
                mounted: None,
                site: format!("{SOURCE_INSIDE}/{}", site::SITE),
            };
            confined_start::start(&container.remote, &directory, &self.id, number, job).await
        })
    }

    fn freeze(&self) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(async move {
            let mut container = self.container.lock().await;
            let Some(running) = container.clone() else {
                return Ok(());
            };
            let suspended = running.remote.suspend().await;
            if running.remote.has_ended() {
                // The processes are lost, so a checkpoint would not be what it says.
                return Err(suspended.err().unwrap_or_default());
            }
            *container = None;
            let stored = match suspended {
                Ok(true) => self.store(&running).await,
                Ok(false) => Ok(()),
                Err(reason) => Err(reason),
            };
            if stored.is_err() {
                let _ = self.forget().await;
            }
            running.end().await?;
            stored
        })
    }

    fn thaw(&self) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(async move {
            match self.memory().exists() {
                true => self.running().await.map(drop),
                false => Ok(()),
            }
        })
    }

    fn limits(&self) -> MetricsLimits {
        MetricsLimits {
            memory_bytes: self.limits.memory.map(sandbox_memory),
            ..self.limits.into()
        }
    }

    fn trees(&self) -> Trees {
        let mut trees = [HOME, TEMPORARY, ROOT]
            .map(|name| Tree::new(name, Some(USER)))
            .to_vec();
        trees.push(Tree {
            name: MEMORY,
            owner: None,
            files_only: true,
        });
        Trees {
            directory: self.directory.clone(),
            trees,
        }
    }

    fn unpacked(&self) -> BoxFuture<'_, Result<(), String>> {
        self.thaw()
    }

    fn delete(&self) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(async move {
            let ended = match self.container.lock().await.take() {
                Some(container) => container.end().await,
                None => Ok(()),
            };
            let removed = remove_sandbox(&self.directory).await;
            ended.and(removed)
        })
    }
}

impl WarmSandbox for GvisorSandbox {
    fn start_agent(&self) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(async { self.running().await.map(drop) })
    }

    fn is_alive(&mut self) -> bool {
        let container = self.container.get_mut().as_ref();
        container.is_some_and(|container| !container.remote.has_ended())
    }

    fn adopt(mut self: Box<Self>, id: &SandboxId) -> Arc<dyn BackendSandbox> {
        self.id = id.clone();
        Arc::<Self>::from(self)
    }
}

impl GvisorSandbox {
    fn memory(&self) -> PathBuf {
        self.directory.join(MEMORY)
    }

    /// Prepares the start of a container. The trees are filled by now, and may hold any files.
    async fn prepare_container(&self) -> Result<(), String> {
        let (directory, shared) = (self.directory.clone(), self.shared.clone());
        let limits = self.limits;
        let write =
            || async { blocking(move || write_trusted(&directory, &shared, &limits)).await };
        let (root, shared) = (self.directory.join(ROOT), self.shared.clone());
        let prepared = async {
            self.trusted.get_or_try_init(write).await?;
            // Code may have replaced the mount points since the last container was started.
            blocking(move || make_mount_points(&root, &shared.confines)).await
        };
        let prepared: io::Result<()> = prepared.await;
        prepared
            .map_err(|error| format!("the directories of the sandbox could not be made: {error}"))
    }

    /// Stores the memory of a suspended container, and the program of its agent.
    async fn store(&self, container: &Container) -> Result<(), String> {
        // A restore may have failed to remove it.
        self.forget().await.map_err(|error| error.to_string())?;
        let memory = self.memory();
        container.store(&memory).await?;
        let agent = self.directory.join(SOURCE).join(AGENT);
        blocking(move || fs::hard_link(agent, memory.join(AGENT)))
            .await
            .map_err(|error| format!("the program of the agent could not be stored: {error}"))
    }

    /// Removes the stored memory.
    async fn forget(&self) -> io::Result<()> {
        let memory = self.memory();
        blocking(move || remove_tree(&memory)).await
    }

    /// Returns the container. Starts it first if it is not running, from the stored memory if any.
    async fn running(&self) -> Result<Arc<Container>, String> {
        let mut container = self.container.lock().await;
        if let Some(running) = &*container {
            return Ok(running.clone());
        }
        let memory = self.memory();
        let image = memory.exists().then_some(&*memory);
        if image.is_some() && !self.trusted.initialized() && !memory.join(AGENT).exists() {
            return Err(
                "the checkpoint has memory, but lacks the program of its agent: it \
                 was changed, or an older release made it"
                    .to_owned(),
            );
        }
        self.prepare_container().await?;
        let turn = self.shared.turns.acquire().await;
        let _turn = turn.map_err(|error| error.to_string())?;
        let setup = Setup {
            place: Place::Gvisor { user: USER },
            limits: limits(&self.shared.confines, &self.limits),
        };
        let name = random_hex::<16>().map_err(|error| error.to_string())?;
        let started = Container::start(
            self.shared.runsc.clone(),
            name,
            &self.directory.join(BUNDLE),
            image,
            setup,
        )
        .await?;
        let started = Arc::new(started);
        *container = Some(started.clone());
        self.forget().await.map_err(|error| error.to_string())?;
        Ok(started)
    }
}
