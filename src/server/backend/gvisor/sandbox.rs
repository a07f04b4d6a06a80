//! [`GvisorBackend`]: runs code in gVisor, with its program `runsc`.
//!
//! Each sandbox is a container without privileges, whose processes run on a separate kernel. The
//! directory of a sandbox holds:
//!
//! | directory | path in the sandbox |
//! | --- | --- |
//! | `root` | `/` |
//! | `home`, `tmp` | `/home/sandbox`, `/tmp` |
//! | `source` | `/run/source`, read-only; code is copied from there to `/run/code`, in memory |
//! | `exit` | `/run/exit`, see `scripts` |
//! | `bundle`, `memory` | none: the configuration for `runsc`, and a checkpoint of the memory |

use std::{
    fs, io,
    os::unix::fs::{PermissionsExt, lchown},
    path::{Path, PathBuf},
    sync::Arc,
};

use futures::future::BoxFuture;
use tokio::sync::{Mutex, OnceCell};

use super::{
    bundle::{self, EXIT, MOUNT_POINTS, SOURCE, USER},
    container::Container,
    process::GvisorProcess,
    runsc::{self, Runsc},
    scripts::{self, FREEZE, RUN, SOURCE_INSIDE},
};
use crate::{
    inside::process::Started,
    protocol::SandboxId,
    server::{
        backend::{
            api::{Backend, BackendSandbox},
            code_file::{CodeFile, make_private, write_private},
            confine::{
                CODE_INSIDE, HOME_INSIDE, hidden, interpreter, make_directory, make_mount_point,
                write_for,
            },
            context::ServerContext,
            etc,
            job::{Job, check, no_directory},
            launch::{Launcher, mark},
            programs::{PATH, find, search_path},
            remove::{remove_sandbox, remove_tree},
            site,
        },
        blocking::blocking,
        choice::{Confines, GvisorOptions},
        escaped::Escaped,
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
        if find("perl", PATH.as_ref()).is_none() {
            return Err(format!("`perl` is not installed, or not on {PATH}"));
        }
        let binary = binary(&options.binary)?;
        let records = context.root.join(runsc::RECORDS);
        make_private(&records).map_err(|error| format!("{}: {error}", records.display()))?;
        let backend = Self {
            shared: Arc::new(Shared {
                context,
                runsc: Arc::new(Runsc::new(binary, &options, &records)),
                confines: options.confines,
                hidden,
            }),
        };
        backend.try_out().await?;
        Ok(backend)
    }

    /// Creates a sandbox, runs `true` in it, and deletes it.
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
        let context = &self.shared.context;
        let directory = context.root.join(id.as_str());
        let sandbox = GvisorSandbox {
            launcher: Launcher::new(id.clone(), directory.clone(), context.clone())?,
            directory,
            shared: self.shared.clone(),
            trusted: OnceCell::new(),
            container: Mutex::new(None),
        };
        let directory = sandbox.directory.clone();
        match blocking(move || prepare(&directory)).await {
            Ok(()) => Ok(sandbox),
            Err(error) => {
                let _ = remove_sandbox(&sandbox.directory).await;
                Err(error)
            }
        }
    }
}

/// The path of `runsc`.
fn binary(named: &Path) -> Result<PathBuf, String> {
    let found = match named.components().count() {
        1 => find(&named.to_string_lossy(), &search_path()),
        _ => named.canonicalize().ok().filter(|file| file.is_file()),
    };
    found.ok_or_else(|| {
        format!(
            "the program {} was not found: install gVisor's `runsc` (Debian's package `runsc`), or \
             set its path",
            named.display()
        )
    })
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

/// Writes the files for `runsc` and the scripts, beside the trees. Code can't write to them.
fn write_trusted(directory: &Path, confines: &Confines, hidden: &[PathBuf]) -> io::Result<()> {
    make_directory(&directory.join(SOURCE), 0o755)?;
    make_directory(&directory.join(BUNDLE), 0o700)?;
    make_for_user(&directory.join(EXIT), 0o700)?;
    etc::write(directory, USER, confines.network)?;
    site::write(&directory.join(SOURCE))?;
    for script in scripts::ALL {
        let file = directory.join(SOURCE).join(script.name);
        write_private(&file, script.text.as_bytes())?;
        fs::set_permissions(&file, fs::Permissions::from_mode(0o644))?;
    }
    let config = bundle::config(directory, confines, hidden).to_string();
    write_private(
        &directory.join(BUNDLE).join("config.json"),
        config.as_bytes(),
    )
}

/// Creates the mount points in the root of a sandbox.
fn make_mount_points(root: &Path, confines: &Confines) -> io::Result<()> {
    let own = MOUNT_POINTS.iter().map(Path::new);
    let mut points = own.chain(bundle::readable(confines));
    points.try_for_each(|point| make_mount_point(root, point, USER))
}

fn make_for_user(path: &Path, mode: u32) -> io::Result<()> {
    make_directory(path, mode)?;
    lchown(path, Some(USER), Some(USER))
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
            // Retry the end of sandboxes that could not be deleted.
            if let Err(error) = runsc::end_all(&self.shared.context.root).await {
                tracing::warn!(error = %Escaped(error), "cannot end all sandboxes at shutdown");
            }
            self.shared.context.clear().await;
        })
    }
}

struct GvisorSandbox {
    launcher: Launcher,
    directory: PathBuf,
    shared: Arc<Shared>,
    /// Set once [`write_trusted`] has run, before the first container starts.
    trusted: OnceCell<()>,
    /// Started for the first exec.
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
            let environment = CodeFile(code.0.with_extension("env"));
            let exec = self.launcher.exec().map_err(|error| error.to_string())?;
            let marks = self.launcher.marks(&exec);
            let site = format!("{SOURCE_INSIDE}/{}", site::SITE);
            for (file, text) in [(&code, &job.code), (&environment, &job.pairs(&site, marks))] {
                write_for(Some(USER), file, text)
                    .await
                    .map_err(|error| format!("Failed to store the code: {error}"))?;
            }
            let below = |directory: &str, file: &CodeFile| {
                let name = file.0.file_name().unwrap_or_default().to_string_lossy();
                format!("{directory}/{name}")
            };
            let number = number.to_string();
            let run = RUN.inside();
            let source = below(SOURCE_INSIDE, &code);
            let variables = below(SOURCE_INSIDE, &environment);
            let inside = below(CODE_INSIDE, &code);
            let mut args = vec!["perl", &run, &number, &source, &variables, &inside];
            args.push(&interpreter);
            args.extend(job.args.iter().map(String::as_str));
            let (mut command, description) =
                container.exec(&bundle::process(&args, &marks, &cwd))?;
            command.envs(marks);
            let needs = (code, environment, description);
            let started = self
                .launcher
                .spawn(command, needs, exec.clone())
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
                Ok(_) => Err("its background processes could not be ended".to_owned()),
                // The container is gone, so there is nothing to store.
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
            if let Some(container) = self.container.lock().await.take() {
                container.end().await?;
            }
            self.launcher.end_processes().await?;
            remove_sandbox(&self.directory).await
        })
    }
}

impl GvisorSandbox {
    fn memory(&self) -> PathBuf {
        self.directory.join(MEMORY)
    }

    /// Prepares the start of a container. The trees are filled by now, and may hold any files.
    async fn prepare_container(&self) -> Result<(), String> {
        let (directory, shared) = (self.directory.clone(), self.shared.clone());
        let write = || async {
            blocking(move || write_trusted(&directory, &shared.confines, &shared.hidden)).await
        };
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

    /// Removes the stored memory.
    async fn forget(&self) -> io::Result<()> {
        let memory = self.memory();
        blocking(move || remove_tree(&memory)).await
    }

    /// The running container. If there is none, starts one from the stored memory, if any.
    async fn running(&self) -> Result<Arc<Container>, String> {
        let mut container = self.container.lock().await;
        if let Some(running) = &*container {
            if !running.is_gone().await {
                return Ok(running.clone());
            }
            running.end().await?;
            *container = None;
        }
        self.prepare_container().await?;
        let memory = self.memory();
        let image = memory.exists().then_some(&*memory);
        let marked = || Ok((mark()?, self.launcher.exec()?));
        let (name, exec) = marked().map_err(|error: io::Error| error.to_string())?;
        let marks = self.launcher.marks(&exec);
        let started = Container::start(
            self.shared.runsc.clone(),
            name,
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

/// The absolute path of a working directory. Fails if the sandbox doesn't have the directory.
async fn working_directory(container: &Container, cwd: &str) -> Result<String, String> {
    let path = Path::new(HOME_INSIDE).join(cwd);
    let path = path.to_string_lossy().into_owned();
    match container.program(&["test", "-d", &path]).await? {
        0 => Ok(path),
        _ => Err(no_directory(cwd)),
    }
}
