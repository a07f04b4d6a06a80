//! [`HostBackend`]: runs code with the `bash` and `python3` of this machine.
//!
//! Each sandbox has its own directory and processes, which are removed with it. Sandboxes are not
//! confined: code runs as the user of this process and can do everything that this user can.

use std::{
    ffi::{OsStr, OsString},
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use futures::future::BoxFuture;
use nix::unistd::{User, geteuid};
use tokio::{
    process::Command,
    sync::{OnceCell, OwnedSemaphorePermit},
};

#[cfg(target_os = "linux")]
use super::sweep::members;
use super::{
    api::{Backend, BackendSandbox},
    code_file::{CodeFile, make_private},
    context::ServerContext,
    job::{Job, Language, Program, UNBUFFERED, check, no_directory},
    launch::Launcher,
    programs::{find, is_script, search_path},
    remove::remove_sandbox,
    site,
};
#[cfg(target_os = "linux")]
use crate::{inside::usage::usage, protocol::ProcessUsage};
use crate::{
    inside::{here, process::Started, spawn},
    protocol::{SandboxId, SandboxLimits, excerpt},
    server::{
        blocking::blocking,
        store::archive::layout::{HOME, TEMPORARY, Tree, Trees},
    },
};

/// Runs code with the interpreters of this machine.
pub(crate) struct HostBackend {
    shared: Arc<Shared>,
}

struct Shared {
    context: Arc<ServerContext>,
    path: OsString,
    /// The name of the user that code runs as, if the user database has one.
    user: Option<String>,
    /// The directory that lets Python import from its working directory.
    site: String,
    python: OnceCell<PathBuf>,
}

impl HostBackend {
    /// Starts the backend. The error says why it does not work on this machine.
    pub(super) fn start(context: Arc<ServerContext>) -> Result<Self, String> {
        // The other backends need no session keyring, because their code can't use the kernel's
        // keys.
        #[cfg(target_os = "linux")]
        spawn::own_keyring()?;
        let site = site::write(&context.root).map_err(|error| error.to_string())?;
        Ok(Self {
            shared: Arc::new(Shared {
                context,
                path: search_path(),
                user: User::from_uid(geteuid())
                    .ok()
                    .flatten()
                    .map(|user| user.name),
                site: site.to_string_lossy().into_owned(),
                python: OnceCell::new(),
            }),
        })
    }
}

impl Backend for HostBackend {
    fn name(&self) -> &'static str {
        "host"
    }

    /// This backend applies no limits.
    fn create(
        &self,
        id: &SandboxId,
        _: SandboxLimits,
    ) -> BoxFuture<'_, io::Result<Box<dyn BackendSandbox>>> {
        let id = id.clone();
        Box::pin(async move {
            let context = &self.shared.context;
            let root = context.root.join(id.as_str());
            make_private(&root)?;
            let sandbox = HostSandbox {
                home: root.join(HOME),
                temporary: root.join(TEMPORARY),
                code: root.join("code"),
                launcher: Launcher::new(id, root.clone(), context.clone())?,
                root,
                shared: self.shared.clone(),
            };
            Ok(Box::new(sandbox) as Box<dyn BackendSandbox>)
        })
    }

    fn shutdown(&self) -> BoxFuture<'_, ()> {
        Box::pin(self.shared.context.clear())
    }
}

struct HostSandbox {
    /// The directory of this sandbox, which holds the others.
    root: PathBuf,
    /// Working directory and `HOME`.
    home: PathBuf,
    /// `TMPDIR`.
    temporary: PathBuf,
    /// Holds the code of each exec as a file.
    code: PathBuf,
    launcher: Launcher,
    shared: Arc<Shared>,
}

impl BackendSandbox for HostSandbox {
    fn start(&self, job: Job) -> BoxFuture<'_, Result<Started, String>> {
        Box::pin(async move {
            check(&job)?;
            let mut written = None;
            let mut command = match &job.program {
                Program::Code {
                    language,
                    code,
                    args,
                } => {
                    let interpreter = self.interpreter(*language).await?;
                    let number = self.launcher.next();
                    let file = CodeFile(CodeFile::path(&self.code, *language, number));
                    let file = written.insert(file);
                    file.write(code, &[&self.home, &self.temporary, &self.code])
                        .await
                        .map_err(|error| format!("Failed to store the code: {error}"))?;
                    let mut command = spawn::command(interpreter);
                    command.arg(&file.0).args(args);
                    command
                }
                Program::File { path, args } => {
                    self.make_directories().await?;
                    let mut command = spawn::command(path);
                    command.args(args);
                    command
                }
                Program::Builtin(builtin) => {
                    self.make_directories().await?;
                    return here::start(builtin.clone(), self.home.clone())
                        .map_err(|error| format!("Failed to start {}: {error}", builtin.op()));
                }
            };
            let cwd = self.working_directory(job.cwd.as_deref()).await?;
            self.set_environment(&mut command, &job, &cwd);
            let exec = self.launcher.exec().map_err(|error| error.to_string())?;
            command.envs(self.launcher.marks(&exec));
            let program = command.as_std().get_program().to_string_lossy();
            let program = excerpt(program.as_bytes());
            self.launcher
                .spawn(command, job.terminal, written, exec.clone())
                .map_err(|error| format!("Failed to start {program}: {error}"))
        })
    }

    fn freeze(&self) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(self.launcher.end_processes())
    }

    #[cfg(target_os = "linux")]
    fn usage(
        &self,
        turn: Arc<OwnedSemaphorePermit>,
    ) -> Option<BoxFuture<'static, Result<ProcessUsage, String>>> {
        let target = self.launcher.target();
        let measured = blocking(move || {
            let _turn = turn;
            usage(members(target)?)
        });
        Some(Box::pin(async move {
            measured.await.map_err(|error| error.to_string())
        }))
    }

    fn trees(&self) -> Trees {
        Trees {
            directory: self.root.clone(),
            trees: [HOME, TEMPORARY].map(|name| Tree::new(name, None)).to_vec(),
        }
    }

    fn delete(&self) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(async move {
            self.freeze().await?;
            remove_sandbox(&self.root).await
        })
    }
}

impl HostSandbox {
    /// The path of the interpreter, or the reason why there is none.
    async fn interpreter(&self, language: Language) -> Result<PathBuf, String> {
        let name = language.program();
        let missing = || {
            format!(
                "{name} is not installed on the machine that the server runs on, or not on the \
                 server's PATH."
            )
        };
        let found = find(name, &self.shared.path).ok_or_else(missing)?;
        if language != Language::Python || !is_script(&found) {
            return Ok(found);
        }
        // `python3` is the script of a version manager. It takes longer than Python itself, so ask
        // it once for the path of the interpreter.
        let python = self
            .shared
            .python
            .get_or_init(|| async {
                let asked = ask_for_python(&found, &self.shared.path).await;
                asked.unwrap_or(found)
            })
            .await;
        Ok(python.clone())
    }

    /// Creates the directories of the sandbox that are missing, because code may have removed them.
    async fn make_directories(&self) -> Result<(), String> {
        let directories = [&self.home, &self.temporary].map(PathBuf::clone);
        blocking(move || directories.iter().try_for_each(|it| make_private(it)))
            .await
            .map_err(|error| format!("Failed to create the directories of the sandbox: {error}"))
    }

    /// The working directory of the code, or the reason why it can't be used.
    async fn working_directory(&self, cwd: Option<&str>) -> Result<PathBuf, String> {
        let Some(cwd) = cwd else {
            return Ok(self.home.clone());
        };
        let directory = self.home.join(cwd);
        let looked_at = directory.clone();
        let is_there = blocking(move || Ok(fs::metadata(looked_at)?.is_dir())).await;
        match is_there {
            Ok(true) => Ok(directory),
            _ => Err(no_directory(cwd)),
        }
    }

    /// Sets the environment and the working directory of a job.
    fn set_environment(&self, command: &mut Command, job: &Job, cwd: &Path) {
        command
            .env("PATH", &self.shared.path)
            .env("LANG", "C.UTF-8")
            .env("HOME", &self.home)
            .env("TMPDIR", &self.temporary)
            .envs(job.terminal.is_none().then_some((UNBUFFERED, "1")))
            .envs(
                self.shared
                    .user
                    .iter()
                    .flat_map(|user| [("USER", user), ("LOGNAME", user)]),
            )
            .envs(
                job.variables(&self.shared.site)
                    .iter()
                    .map(|(name, value)| (name, &**value)),
            )
            .current_dir(cwd);
    }
}

/// The path of the Python interpreter that the script of a version manager starts. The script gets
/// `PATH` and the home directory from the user database.
async fn ask_for_python(script: &Path, path: &OsStr) -> Option<PathBuf> {
    let user = blocking(|| Ok(User::from_uid(geteuid())?)).await;
    let home = user.ok().flatten().map(|user| user.dir);
    let output = spawn::command(script)
        .args(["-c", "import sys; print(sys.executable)"])
        .env("PATH", path)
        .envs(home.map(|home| ("HOME", home)))
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(std::time::Duration::from_secs(10), output)
        .await
        .ok()?
        .ok()?;
    let python = PathBuf::from(String::from_utf8(output.stdout).ok()?.trim_end());
    (output.status.success() && python.is_absolute() && python.exists()).then_some(python)
}
