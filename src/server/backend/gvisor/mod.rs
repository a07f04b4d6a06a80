//! [`GvisorBackend`]: runs code in gVisor, by its program `runsc`.
//!
//! Each sandbox is a container without privileges, whose processes run on a kernel of its own. What is in its directory:
//!
//! | | in the sandbox |
//! | --- | --- |
//! | `root` | `/` |
//! | `home`, `tmp` | `/home/sandbox`, `/tmp` |
//! | `source` | `/run/source`, which it cannot write to; code is copied from there to `/run/code`, in its memory |
//! | `exit` | `/run/exit`, see `scripts` |
//! | `bundle`, `memory` | not there: what `runsc` is told, and a checkpoint of its memory |

mod bundle;
mod container;
mod process;
mod runsc;
mod scripts;

use std::{
    fs, io,
    os::unix::fs::{PermissionsExt, lchown},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use futures::future::BoxFuture;
use tokio::sync::Mutex;

use self::{
    bundle::{EXIT, MOUNT_POINTS, SOURCE, SOURCE_INSIDE, USER},
    container::Container,
    process::GvisorProcess,
    runsc::Runsc,
    scripts::{FREEZE, RUN},
};
use super::{
    Backend, BackendSandbox, HOME, Job, MEMORY, ROOT, Started, TEMPORARY,
    confine::{
        CODE_INSIDE, HOME_INSIDE, PATH, give, hidden, interpreter, make_directory, write_for,
    },
    files,
    launch::{
        CodeFile, Ground, Launcher, check, find, make_private, no_directory, search_path,
        write_private,
    },
    remove::remove_tree,
};
use crate::{
    protocol::SandboxId,
    server::{
        choice::{Confines, GvisorOptions},
        escaped::Escaped,
        store::{
            archive::{Packer, Unpacker},
            blocking,
        },
    },
};

const BUNDLE: &str = "bundle";

/// Where `runsc` keeps its records, in the directory of a server.
const RECORDS: &str = "runsc";

/// Kills what runs of all containers of the server that has this directory.
pub(super) async fn end_all(root: &Path) -> io::Result<()> {
    runsc::end_all(&root.join(RECORDS)).await
}

/// Runs code in gVisor.
pub(super) struct GvisorBackend {
    shared: Arc<Shared>,
}

struct Shared {
    ground: Arc<Ground>,
    confines: Confines,
    hidden: Vec<PathBuf>,
    runsc: Arc<Runsc>,
    /// How many containers there were.
    containers: AtomicU64,
}

impl GvisorBackend {
    /// A backend on this ground, once a sandbox was seen to work. The error says what is in the way.
    pub(super) async fn start(options: GvisorOptions, ground: Arc<Ground>) -> Result<Self, String> {
        let hidden = hidden(&options.confines, &ground)?;
        if !nix::unistd::geteuid().is_root() {
            return Err("`runsc` needs the server to run as root".to_owned());
        }
        if find("perl", PATH.as_ref()).is_none() {
            return Err(format!("`perl` is not installed, or not on {PATH}"));
        }
        let binary = binary(&options.binary)?;
        let records = ground.root.join(RECORDS);
        make_private(&records).map_err(|error| format!("{}: {error}", records.display()))?;
        let backend = Self {
            shared: Arc::new(Shared {
                ground,
                runsc: Arc::new(Runsc::new(binary, &options, &records)),
                confines: options.confines,
                hidden,
                containers: AtomicU64::new(0),
            }),
        };
        backend.try_out().await?;
        Ok(backend)
    }

    /// Whether a sandbox works here.
    async fn try_out(&self) -> Result<(), String> {
        let sandbox = self
            .sandbox(&SandboxId::new("sandbox-probe"))
            .await
            .map_err(|error| error.to_string())?;
        let tried = match sandbox.running().await {
            Ok(container) => container.program(&["true"]).await.map(drop),
            Err(reason) => Err(reason),
        };
        let deleted = sandbox.delete().await;
        tried.and(deleted)
    }

    async fn sandbox(&self, id: &SandboxId) -> io::Result<GvisorSandbox> {
        let ground = &self.shared.ground;
        let directory = ground.root.join(id.as_str());
        let sandbox = GvisorSandbox {
            launcher: Launcher::new(id.clone(), directory.clone(), ground.clone()),
            directory,
            shared: self.shared.clone(),
            container: Mutex::new(None),
        };
        let (directory, shared) = (sandbox.directory.clone(), self.shared.clone());
        blocking(move || prepare(&directory, &shared.confines, &shared.hidden)).await?;
        Ok(sandbox)
    }
}

/// Where the program is.
fn binary(named: &Path) -> Result<PathBuf, String> {
    let found = match named.components().count() {
        1 => find(&named.to_string_lossy(), &search_path()),
        _ => named.canonicalize().ok().filter(|file| file.is_file()),
    };
    found.ok_or_else(|| {
        format!(
            "there is no program {} (expected gVisor's `runsc`: install Debian's package `runsc`, or say where it is)",
            named.display()
        )
    })
}

/// Makes the directories of a sandbox.
fn prepare(directory: &Path, confines: &Confines, hidden: &[PathBuf]) -> io::Result<()> {
    // Its processes are nobody on this machine: those that serve its files are root.
    make_directory(directory, 0o700)?;
    make_directory(&directory.join(SOURCE), 0o755)?;
    make_directory(&directory.join(BUNDLE), 0o700)?;
    let root = directory.join(ROOT);
    for (tree, mode) in [
        (ROOT, 0o755),
        (HOME, 0o700),
        (TEMPORARY, 0o700),
        (EXIT, 0o700),
    ] {
        let tree = directory.join(tree);
        make_directory(&tree, mode)?;
        lchown(tree, Some(USER), Some(USER))?;
    }
    let own = MOUNT_POINTS.iter().map(Path::new);
    for path in own.chain(bundle::readable(confines)) {
        make_directory(&root.join(path.strip_prefix("/").unwrap_or(path)), 0o755)?;
    }
    give(&root, USER)?;
    for script in scripts::ALL {
        let file = directory.join(SOURCE).join(script.name);
        fs::write(&file, script.text)?;
        fs::set_permissions(&file, fs::Permissions::from_mode(0o644))?;
    }
    let config = bundle::config(directory, confines, hidden).to_string();
    write_private(
        &directory.join(BUNDLE).join("config.json"),
        config.as_bytes(),
    )
}

impl Backend for GvisorBackend {
    fn name(&self) -> &'static str {
        "gvisor"
    }

    fn create(&self, id: &SandboxId) -> BoxFuture<'_, io::Result<Box<dyn BackendSandbox>>> {
        let id = id.clone();
        Box::pin(async move {
            let sandbox = self.sandbox(&id).await?;
            Ok(Box::new(sandbox) as Box<dyn BackendSandbox>)
        })
    }

    fn shutdown(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {
            // A last chance for those that could not be deleted.
            if let Err(error) = end_all(&self.shared.ground.root).await {
                tracing::warn!(error = %Escaped(error), "sandboxes are left behind");
            }
            self.shared.ground.clear().await;
        })
    }
}

struct GvisorSandbox {
    launcher: Launcher,
    directory: PathBuf,
    shared: Arc<Shared>,
    /// Made for the first exec.
    container: Mutex<Option<Arc<Container>>>,
}

impl BackendSandbox for GvisorSandbox {
    fn start(&self, job: Job) -> BoxFuture<'_, Result<Started, String>> {
        Box::pin(async move {
            check(&job)?;
            let interpreter = interpreter(job.language)?;
            let interpreter = interpreter.to_string_lossy();
            let container = self.running().await?;
            let cwd = match job.cwd.as_deref().filter(|cwd| !cwd.is_empty()) {
                None => HOME_INSIDE.to_owned(),
                Some(cwd) => working_directory(&container, cwd).await?,
            };
            let number = self.launcher.next();
            let code = CodeFile::new(&self.directory.join(SOURCE), job.language, number);
            write_for(Some(USER), &code, &job.code)
                .await
                .map_err(|error| format!("Failed to store the code: {error}"))?;
            let name = code.0.file_name().unwrap_or_default().to_string_lossy();
            let (source, inside) = (
                format!("{SOURCE_INSIDE}/{name}"),
                format!("{CODE_INSIDE}/{name}"),
            );
            let exec = self.launcher.exec(number);
            let marks = self.launcher.marks(&exec);
            let env = job.env.iter().map(|(name, value)| (&**name, &**value));
            let env: Vec<_> = env.chain(marks).collect();
            let number = number.to_string();
            let run = RUN.inside();
            let mut args = vec!["perl", &run, &number, &source, &inside];
            args.push(&interpreter);
            args.extend(job.args.iter().map(String::as_str));
            let (mut command, description) = container.exec(&bundle::process(&args, &env, &cwd))?;
            command.envs(marks);
            let started = self
                .launcher
                .spawn(command, (code, description), exec.clone())
                .map_err(|error| format!("Failed to start {interpreter}: {error}"))?;
            Ok(Started {
                process: Box::new(GvisorProcess {
                    outer: started.process,
                    container,
                    exec,
                    exit: self.directory.join(EXIT).join(number),
                }),
                ..started
            })
        })
    }

    fn freeze(&self) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(async move {
            let mut container = self.container.lock().await;
            let Some(running) = container.take() else {
                return Ok(());
            };
            let stored = match running.script(FREEZE, &[]).await {
                Ok(3) => running.store(&self.memory()).await,
                Ok(0) => Ok(()),
                Ok(_) => Err("its background processes do not end".to_owned()),
                // There is nothing left to be stored.
                Err(_) if !running.is_there().await => Ok(()),
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

    fn pack(&self, packer: Packer) -> BoxFuture<'_, io::Result<Packer>> {
        Box::pin(files::pack(
            &self.directory,
            &[HOME, TEMPORARY, ROOT, MEMORY],
            packer,
        ))
    }

    fn unpack(&self, unpacker: Unpacker) -> BoxFuture<'_, io::Result<()>> {
        let directory = self.directory.clone();
        let unpack = move || {
            unpacker.unpack_into(&directory)?;
            [HOME, TEMPORARY, ROOT]
                .iter()
                .try_for_each(|tree| give(&directory.join(tree), USER))
        };
        Box::pin(async move {
            blocking(unpack).await?;
            self.thaw().await.map_err(io::Error::other)
        })
    }

    fn delete(&self) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(async move {
            if let Some(container) = self.container.lock().await.take() {
                container.end().await?;
            }
            self.launcher.end_processes().await?;
            files::remove(&self.directory).await
        })
    }
}

impl GvisorSandbox {
    fn memory(&self) -> PathBuf {
        self.directory.join(MEMORY)
    }

    /// Removes what was stored of the memory.
    async fn forget(&self) -> io::Result<()> {
        let memory = self.memory();
        blocking(move || remove_tree(&memory)).await
    }

    /// The container, which is started if there is none. What was stored of its memory goes on.
    async fn running(&self) -> Result<Arc<Container>, String> {
        let mut container = self.container.lock().await;
        if let Some(running) = &*container {
            if !running.is_gone().await {
                return Ok(running.clone());
            }
            running.end().await?;
            *container = None;
        }
        let memory = self.memory();
        let image = memory.exists().then_some(&*memory);
        let number = self.shared.containers.fetch_add(1, Ordering::Relaxed);
        let exec = self.launcher.exec(0);
        let marks = self.launcher.marks(&exec);
        let [server, ..] = marks;
        let started = Container::start(
            self.shared.runsc.clone(),
            // No other on this machine is called like that, of whichever server; nor begins like that, which would do for `runsc`.
            format!("{}.{number:016x}", server.1),
            &self.directory.join(BUNDLE),
            image,
            &marks,
        )
        .await?;
        let started = Arc::new(started);
        *container = Some(started.clone());
        drop(container);
        self.forget().await.map_err(|error| error.to_string())?;
        Ok(started)
    }
}

/// A working directory as a path from the root, if the sandbox has it.
async fn working_directory(container: &Container, cwd: &str) -> Result<String, String> {
    let path = Path::new(HOME_INSIDE).join(cwd);
    let path = path.to_string_lossy().into_owned();
    match container.program(&["test", "-d", &path]).await? {
        0 => Ok(path),
        _ => Err(no_directory(cwd)),
    }
}
