//! [`HostBackend`]: runs code with the `bash` and `python3` of this machine.
//!
//! It keeps sandboxes apart and tidies up after them; it does not confine them. Code runs as the
//! user of this process and can do what that user can.

use std::{
    ffi::{OsStr, OsString},
    fs,
    io::{self, Read, Write},
    os::unix::{
        fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
        process::ExitStatusExt,
    },
    path::{Path, PathBuf},
    process::Stdio,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use futures::future::BoxFuture;
use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};
use tokio::{
    process::{Child, Command},
    sync::OnceCell,
};

use super::{
    Backend, BackendSandbox, Exit, Job, Language, Process, Started,
    remove::remove_tree,
    sweep::{EXEC_MARKER, SANDBOX_MARKER, SERVER_MARKER, Sweeper, Target},
};
use crate::{
    protocol::{SandboxId, excerpt},
    server::{
        store::{
            archive::{Packer, Unpacker},
            blocking,
        },
        watchdog::Watchdog,
    },
};

/// Where programs are looked for when this process has no `PATH`.
const DEFAULT_PATH: &str = "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin";

/// The directories of a sandbox whose files are its own, also in an archive.
const HOME: &str = "home";
const TEMPORARY: &str = "tmp";

/// The `PATH` of this process, or a usual one.
pub(in crate::server) fn search_path() -> OsString {
    std::env::var_os("PATH")
        .filter(|path| !path.is_empty())
        .unwrap_or_else(|| DEFAULT_PATH.into())
}

/// Runs code with the interpreters of this machine.
pub(in crate::server) struct HostBackend {
    shared: Arc<Shared>,
}

struct Shared {
    /// The directory of this server, with one directory for each sandbox.
    root: PathBuf,
    /// Marks the processes of this server.
    server: String,
    path: OsString,
    watchdog: Watchdog,
    sweeper: Sweeper,
    python: OnceCell<PathBuf>,
}

impl HostBackend {
    /// A backend that keeps its sandboxes in `root`. Must be called on a tokio runtime.
    pub(in crate::server) fn start(root: PathBuf, server: String) -> io::Result<Self> {
        let watchdog = Watchdog::start(SERVER_MARKER, &server, &root)?;
        Ok(Self {
            shared: Arc::new(Shared {
                root,
                server,
                path: search_path(),
                watchdog,
                sweeper: Sweeper::start(),
                python: OnceCell::new(),
            }),
        })
    }
}

impl Backend for HostBackend {
    fn create(&self, id: &SandboxId) -> BoxFuture<'_, io::Result<Box<dyn BackendSandbox>>> {
        let id = id.clone();
        Box::pin(async move {
            let root = self.shared.root.join(id.as_str());
            let sandbox = HostSandbox {
                home: root.join(HOME),
                temporary: root.join(TEMPORARY),
                code: root.join("code"),
                root,
                id,
                shared: self.shared.clone(),
                execs: AtomicU64::new(0),
                groups: Mutex::default(),
            };
            make_private(&sandbox.root)?;
            Ok(Box::new(sandbox) as Box<dyn BackendSandbox>)
        })
    }

    fn shutdown(&self) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            let shared = self.shared.clone();
            // Sandboxes that could not be deleted get a last chance.
            let target = Target::Server(shared.server.clone());
            if let Err(reason) = shared.sweeper.sweep(target).await {
                tracing::warn!(reason, "processes are left behind");
            }
            let removed = tokio::task::spawn_blocking(move || {
                let removed = remove_tree(&shared.root);
                shared.watchdog.quit();
                removed
            })
            .await;
            if let Ok(Err(error)) = removed {
                tracing::warn!(%error, directory = %self.shared.root.display(), "a directory could not be removed");
            }
        })
    }
}

struct HostSandbox {
    id: SandboxId,
    /// The directory of this sandbox, which holds the others.
    root: PathBuf,
    /// Working directory and `HOME`.
    home: PathBuf,
    /// `TMPDIR`.
    temporary: PathBuf,
    /// The code of each exec, as a file.
    code: PathBuf,
    shared: Arc<Shared>,
    execs: AtomicU64,
    /// The process group of each exec: it may still hold background processes.
    groups: Mutex<Vec<Pid>>,
}

impl BackendSandbox for HostSandbox {
    fn start(&self, job: Job) -> BoxFuture<'_, Result<Started, String>> {
        Box::pin(async move {
            let interpreter = self.interpreter(job.language).await?;
            let number = self.execs.fetch_add(1, Ordering::Relaxed) + 1;
            let file = self.code.join(match job.language {
                Language::Python => format!("main-{number}.py"),
                Language::Bash => format!("main-{number}.sh"),
            });
            let code_file = CodeFile(file);
            self.store(&code_file, &job.code)
                .await
                .map_err(|error| format!("Failed to store the code: {error}"))?;
            let cwd = self.working_directory(job.cwd.as_deref()).await?;
            let command = self.command(&interpreter, &code_file, &job, &cwd)?;
            self.spawn(command, code_file, number)
                .map_err(|error| format!("Failed to start {}: {error}", interpreter.display()))
        })
    }

    fn end_processes(&self) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(async move {
            if self.execs.load(Ordering::Relaxed) == 0 {
                return Ok(());
            }
            let groups = self
                .groups
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .clone();
            if !cfg!(target_os = "linux") {
                // The number of a group that ended may belong to another by now. Only where
                // there is no `/proc` to find that out is that risk taken.
                for &group in &groups {
                    let _ = killpg(group, Signal::SIGKILL);
                }
            }
            let sandbox = Target::Sandbox {
                id: self.id.as_str().to_owned(),
                directory: self.root.clone(),
                groups: groups.into_iter().map(Pid::as_raw).collect(),
            };
            self.shared.sweeper.sweep(sandbox).await
        })
    }

    fn pack(&self, mut packer: Packer) -> BoxFuture<'_, io::Result<Packer>> {
        let trees = [
            (HOME, self.home.clone()),
            (TEMPORARY, self.temporary.clone()),
        ];
        let pack = move || {
            for (name, tree) in trees {
                packer.add_tree(name, &tree)?;
            }
            Ok(packer)
        };
        Box::pin(async { blocking(pack).await })
    }

    fn unpack(&self, unpacker: Unpacker) -> BoxFuture<'_, io::Result<()>> {
        let root = self.root.clone();
        Box::pin(async { blocking(move || unpacker.unpack_into(&root)).await })
    }

    fn delete(&self) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(async move {
            self.end_processes().await?;
            let root = self.root.clone();
            blocking(move || remove_tree(&root))
                .await
                .map_err(|error| format!("the files could not be removed: {error}"))
        })
    }
}

impl HostSandbox {
    /// Where the interpreter is, or the reason why it cannot be used.
    async fn interpreter(&self, language: Language) -> Result<PathBuf, String> {
        let name = match language {
            Language::Python => "python3",
            Language::Bash => "bash",
        };
        let missing = || {
            format!(
                "{name} is not installed on the machine that the server runs on, or not on its PATH."
            )
        };
        let found = find(name, &self.shared.path).ok_or_else(missing)?;
        if language != Language::Python || !is_script(&found) {
            return Ok(found);
        }
        // A version manager put a script in front of python3. It costs more than python3 itself, so
        // it is asked once what it stands for.
        let python = self
            .shared
            .python
            .get_or_init(|| async { ask_for_python(&found).await.unwrap_or(found) })
            .await;
        Ok(python.clone())
    }

    /// Writes the code to a file that no other user can read. Makes the directories of the sandbox;
    /// the code of an exec before may have removed them.
    async fn store(&self, file: &CodeFile, code: &str) -> io::Result<()> {
        let (file, code) = (file.0.clone(), code.to_owned());
        let directories = [&self.home, &self.temporary, &self.code].map(Clone::clone);
        let write = move || {
            directories
                .iter()
                .try_for_each(|directory| make_private(directory))?;
            fs::OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(file)?
                .write_all(code.as_bytes())
        };
        blocking(write).await
    }

    /// Where the code is to run, or the reason why it cannot.
    async fn working_directory(&self, cwd: Option<&str>) -> Result<PathBuf, String> {
        let Some(cwd) = cwd else {
            return Ok(self.home.clone());
        };
        let directory = self.home.join(cwd);
        let looked_at = directory.clone();
        let is_there = blocking(move || Ok(fs::metadata(looked_at)?.is_dir())).await;
        match is_there {
            Ok(true) => Ok(directory),
            _ => Err(format!(
                "The working directory '{}' is not there, or is no directory.",
                excerpt(cwd.as_bytes())
            )),
        }
    }

    /// How to run a job, or the reason why it cannot be run.
    fn command(
        &self,
        interpreter: &Path,
        code: &CodeFile,
        job: &Job,
        cwd: &Path,
    ) -> Result<Command, String> {
        let is_name = |name: &str| !name.is_empty() && !name.contains(['=', '\0']);
        if let Some((name, _)) = job.env.iter().find(|(name, _)| !is_name(name)) {
            return Err(format!(
                "'{}' is no name for an environment variable.",
                excerpt(name.as_bytes())
            ));
        }
        let values = job.env.iter().map(|(_, value)| value).chain(&job.args);
        if values.chain(&job.cwd).any(|text| text.contains('\0')) {
            return Err(
                "An argument, a value of an environment variable or the working directory holds a NUL byte."
                    .to_owned(),
            );
        }
        let mut command = Command::new(interpreter);
        command
            .arg(&code.0)
            .args(&job.args)
            .env_clear()
            .env("PATH", &self.shared.path)
            .env("LANG", "C.UTF-8")
            .env("HOME", &self.home)
            .env("TMPDIR", &self.temporary)
            .env("PYTHONUNBUFFERED", "1")
            .envs(job.env.iter().map(|(name, value)| (name, value)))
            .current_dir(cwd);
        Ok(command)
    }

    fn spawn(&self, mut command: Command, code: CodeFile, number: u64) -> io::Result<Started> {
        let exec = format!("{}.{number}", self.id);
        let mut child = command
            .env(SERVER_MARKER, &self.shared.server)
            .env(SANDBOX_MARKER, self.id.as_str())
            .env(EXEC_MARKER, &exec)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()?;
        let (Some(stdin), Some(stdout), Some(stderr), Some(pid)) = (
            child.stdin.take(),
            child.stdout.take(),
            child.stderr.take(),
            child.id(),
        ) else {
            return Err(io::Error::other("the process has no pipes"));
        };
        self.shared.watchdog.group_began(pid);
        let group = Pid::from_raw(pid.cast_signed());
        self.groups
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(group);
        Ok(Started {
            stdin: Box::new(stdin),
            stdout: Box::new(stdout),
            stderr: Box::new(stderr),
            process: Box::new(HostProcess {
                child,
                group: Some(group),
                exec,
                shared: self.shared.clone(),
                _code: code,
            }),
        })
    }
}

/// The processes of one exec. The code file lives as long.
struct HostProcess {
    child: Child,
    /// The process group, while its leader is not waited for and the number cannot be given away.
    group: Option<Pid>,
    exec: String,
    shared: Arc<Shared>,
    _code: CodeFile,
}

impl Process for HostProcess {
    fn wait(&mut self) -> BoxFuture<'_, io::Result<Exit>> {
        Box::pin(async move {
            let status = self.child.wait().await?;
            if let Some(group) = self.group.take() {
                self.shared
                    .watchdog
                    .group_ended(group.as_raw().cast_unsigned());
            }
            Ok(Exit {
                code: status.code(),
                signal: status.signal(),
            })
        })
    }

    fn kill(&mut self) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(async move {
            if let Some(group) = self.group {
                // Where processes are looked for, they only stand still at first: a child that left
                // the group and has no marker is found by its parents, while they are there.
                let signal = if cfg!(target_os = "linux") {
                    Signal::SIGSTOP
                } else {
                    Signal::SIGKILL
                };
                let _ = killpg(group, signal);
            }
            let swept = self
                .shared
                .sweeper
                .sweep(Target::Exec(self.exec.clone()))
                .await;
            if let Some(group) = self.group {
                // The leader is not waited for: the number is still its own.
                let _ = killpg(group, Signal::SIGKILL);
            }
            swept?;
            let waited = self.wait().await;
            waited.map(drop).map_err(|error| error.to_string())
        })
    }
}

impl Drop for HostProcess {
    fn drop(&mut self) {
        if let Some(group) = self.group {
            let _ = killpg(group, Signal::SIGKILL);
        }
    }
}

/// A file with code, removed when it is no longer needed.
struct CodeFile(PathBuf);

impl Drop for CodeFile {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// Makes a directory that no other user may enter, unless it is there.
fn make_private(directory: &Path) -> io::Result<()> {
    fs::DirBuilder::new()
        .mode(0o700)
        .recursive(true)
        .create(directory)
}

/// The program of this name on the search path.
fn find(name: &str, path: &OsStr) -> Option<PathBuf> {
    std::env::split_paths(path)
        .filter(|directory| directory.is_absolute())
        .map(|directory| directory.join(name))
        .find(|file| {
            fs::metadata(file)
                .is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
        })
}

/// Whether a program is a script for another program.
fn is_script(file: &Path) -> bool {
    let mut start = [0; 2];
    fs::File::open(file)
        .and_then(|mut file| file.read_exact(&mut start))
        .is_ok()
        && start == *b"#!"
}

/// The python that a script stands for.
async fn ask_for_python(script: &Path) -> Option<PathBuf> {
    let output = Command::new(script)
        .args(["-c", "import sys; print(sys.executable)"])
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(std::time::Duration::from_secs(10), output)
        .await
        .ok()?
        .ok()?;
    let python = PathBuf::from(String::from_utf8(output.stdout).ok()?.trim_end());
    (output.status.success() && python.is_absolute() && python.exists()).then_some(python)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_found_on_the_path_and_nowhere_else() {
        let directory = tempfile::tempdir().unwrap();
        let program = directory.path().join("program");
        fs::write(&program, "#!/bin/sh\n").unwrap();
        assert_eq!(find("program", directory.path().as_os_str()), None);
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(
            find("program", directory.path().as_os_str()),
            Some(program.clone())
        );
        assert_eq!(find("program", OsStr::new("/nowhere:relative")), None);
        assert!(is_script(&program));
    }
}
