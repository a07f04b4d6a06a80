//! [`Launcher`]: starts the processes of a sandbox on this machine, with markers in their
//! environment by which the [`Sweeper`] finds them.

use std::{
    ffi::{OsStr, OsString},
    fs,
    io::{self, Read, Write},
    os::unix::{
        fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt, fchown},
        process::ExitStatusExt,
    },
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use futures::future::BoxFuture;
use nix::{
    errno::Errno,
    sys::signal::{Signal, killpg},
    unistd::Pid,
};
use tokio::{
    net::unix::pipe,
    process::{Child, Command},
};

use super::{
    api::{Exit, Job, Language, Process, Started},
    remove::remove_tree,
    sweep::{
        EXEC_MARKER, ID_VARIABLE, PidNamespace, SANDBOX_MARKER, SERVER_MARKER, Sweeper, Target,
        Within,
    },
};
use super::{
    server_directory::{Abandoned, Root, roots},
    watchdog::Watchdog,
};
use crate::{
    protocol::{SandboxId, excerpt},
    server::{escaped::Escaped, sandbox::manager::random_hex, store::checkpoints::blocking},
};

/// Process groups of a sandbox that are remembered before those without a process are forgotten.
const MANY_GROUPS: usize = 256;

/// The search path if this process has no `PATH`.
const DEFAULT_PATH: &str = "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin";

/// The `PATH` of this process, or [`DEFAULT_PATH`] if it is not set.
pub(crate) fn search_path() -> OsString {
    std::env::var_os("PATH")
        .filter(|path| !path.is_empty())
        .unwrap_or_else(|| DEFAULT_PATH.into())
}

/// A random marker value. Code must not guess the marker of another sandbox: a process that carries
/// it is killed with that sandbox, and could keep the kill from finishing.
pub(super) fn mark() -> io::Result<String> {
    random_hex::<16>().map_err(io::Error::from)
}

/// State that all sandboxes of a server share.
pub(crate) struct Ground {
    /// The directory of this server, with one directory for each sandbox.
    pub(super) root: PathBuf,
    /// The state directory, if the server has one.
    pub(super) state: Option<PathBuf>,
    /// Marks the processes of this server.
    server: String,
    watchdog: Watchdog,
    sweeper: Sweeper,
    /// A lock on the directory, held until this is dropped.
    _owner: Option<fs::File>,
}

impl Ground {
    /// Starts the watchdog and the sweeper for sandboxes in `root`. Must be called on a tokio
    /// runtime.
    pub(super) fn start(
        root: Root,
        state: Option<PathBuf>,
        server: String,
    ) -> io::Result<Arc<Self>> {
        let watchdog = Watchdog::start(SERVER_MARKER, &server, &root.path)?;
        Ok(Arc::new(Self {
            root: root.path,
            _owner: root.owner,
            state,
            server,
            watchdog,
            sweeper: Sweeper::start(),
        }))
    }

    /// Removes, in the background, the processes and files of servers that were killed together
    /// with their watchdogs. If this hangs, it doesn't affect the server. It is cancelled with the
    /// runtime.
    pub(super) fn begin_to_clear_abandoned(self: &Arc<Self>) {
        let ground = Arc::downgrade(self);
        let parent = self.root.parent().unwrap_or(&self.root).to_owned();
        tokio::spawn(async move {
            let found = blocking(move || roots(&parent)).await;
            for path in found.unwrap_or_default() {
                let Some(ground) = ground.upgrade() else {
                    return;
                };
                let directory = Escaped(path.display().to_string());
                let found = blocking(move || Ok(Abandoned::find(path))).await;
                let Ok(Some(left)) = found else { continue };
                match ground.remove_abandoned(left).await {
                    Ok(()) => tracing::info!(%directory, "removed the files of a killed server"),
                    Err(reason) => {
                        tracing::warn!(
                            %directory,
                            reason = %Escaped(reason),
                            "cannot remove the files of a killed server"
                        );
                    }
                }
            }
        });
    }

    async fn remove_abandoned(&self, left: Abandoned) -> Result<(), String> {
        let target = Target::Server(left.server.clone());
        self.sweeper.sweep(target).await?;
        #[cfg(target_os = "linux")]
        super::gvisor::sandbox::end_all(&left.path)
            .await
            .map_err(|error| error.to_string())?;
        // The directory stays locked until it is removed, even if this future is dropped.
        blocking(move || left.remove())
            .await
            .map_err(|error| format!("the files could not be removed: {error}"))
    }

    /// Kills the remaining processes of this server and removes its directory.
    pub(super) async fn clear(self: &Arc<Self>) {
        // Retries the kill for sandboxes that could not be deleted.
        let target = Target::Server(self.server.clone());
        if let Err(reason) = self.sweeper.sweep(target).await {
            tracing::warn!(reason = %Escaped(reason), "cannot kill all processes at shutdown");
        }
        let ground = self.clone();
        let removed = tokio::task::spawn_blocking(move || {
            let removed = remove_tree(&ground.root);
            ground.watchdog.quit();
            removed
        })
        .await;
        if let Ok(Err(error)) = removed {
            let directory = self.root.display();
            tracing::warn!(%error, %directory, "cannot remove a directory");
        }
    }
}

/// Starts the processes of one sandbox.
pub(super) struct Launcher {
    id: SandboxId,
    /// Marks the processes of this sandbox. The id can't serve as the marker: clients know it, and
    /// another server on this machine may have restored the same sandbox.
    name: String,
    /// The directory of this sandbox.
    root: PathBuf,
    ground: Arc<Ground>,
    execs: AtomicU64,
    /// The process group of each exec, which may still hold background processes.
    groups: Mutex<Vec<Pid>>,
}

impl Launcher {
    /// For a sandbox with this directory.
    pub(super) fn new(id: SandboxId, root: PathBuf, ground: Arc<Ground>) -> io::Result<Self> {
        Ok(Self {
            id,
            name: mark()?,
            root,
            ground,
            execs: AtomicU64::new(0),
            groups: Mutex::default(),
        })
    }

    /// The number of the next exec, from 1.
    pub(super) fn next(&self) -> u64 {
        self.execs.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// The name of the next exec.
    pub(super) fn exec(&self) -> io::Result<String> {
        Ok(format!("{}.{}", self.name, mark()?))
    }

    /// The environment variables that mark the processes of an exec.
    pub(super) fn marks<'a>(&'a self, exec: &'a str) -> [(&'static str, &'a str); 4] {
        [
            (SERVER_MARKER, &self.ground.server),
            (ID_VARIABLE, self.id.as_str()),
            (SANDBOX_MARKER, &self.name),
            (EXEC_MARKER, exec),
        ]
    }

    /// Starts an exec with marked processes. `needs` is dropped when the exec is dropped.
    /// `namespace` is the PID namespace of all processes but the first, if no other sandbox shares
    /// it. `user` is the user that code runs as, if it differs from the user of this process.
    pub(super) fn spawn(
        &self,
        mut command: Command,
        needs: impl Send + 'static,
        exec: String,
        namespace: Option<PidNamespace>,
        user: Option<u32>,
    ) -> io::Result<Started> {
        let (stdin, input) = pipe_of(user)?;
        let (output, stdout) = pipe_of(user)?;
        let (errors, stderr) = pipe_of(user)?;
        // Everything that can fail comes before the process starts: afterwards `MarkedProcess` kills its group.
        let stdin_sender = pipe::Sender::from_owned_fd(input.into())?;
        let stdout_receiver = pipe::Receiver::from_owned_fd(output.into())?;
        let stderr_receiver = pipe::Receiver::from_owned_fd(errors.into())?;
        let child = command.stdin(stdin).stdout(stdout).stderr(stderr).spawn()?;
        // Closes the process's ends of the pipes in the server.
        drop(command);
        let ended = || io::Error::other("the process ended before the watchdog knew of it");
        let pid = child.id().ok_or_else(ended)?;
        self.ground.watchdog.group_began(pid);
        let group = Pid::from_raw(pid.cast_signed());
        let mut groups = self.groups.lock().unwrap_or_else(PoisonError::into_inner);
        if groups.len() >= MANY_GROUPS {
            groups.retain(|&group| killpg(group, None) != Err(Errno::ESRCH));
        }
        groups.push(group);
        drop(groups);
        Ok(Started {
            stdin: Box::new(stdin_sender),
            stdout: Box::new(stdout_receiver),
            stderr: Box::new(stderr_receiver),
            process: Box::new(MarkedProcess {
                child,
                group: Some(group),
                exec,
                namespace,
                ground: self.ground.clone(),
                _needs: Box::new(needs),
            }),
        })
    }

    /// Kills every process of the sandbox. The error is the reason to report to the client.
    pub(super) async fn end_processes(&self) -> Result<(), String> {
        if self.execs.load(Ordering::Relaxed) == 0 {
            return Ok(());
        }
        let groups = self
            .groups
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        if !cfg!(target_os = "linux") {
            // The number of a process group that ended may have been reused. This risk is taken
            // only where there is no `/proc` to check.
            for &group in &groups {
                let _ = killpg(group, Signal::SIGKILL);
            }
        }
        let sandbox = Target::Sandbox {
            name: self.name.clone(),
            directory: self.root.clone(),
            groups: groups.into_iter().map(Pid::as_raw).collect(),
        };
        self.ground.sweeper.sweep(sandbox).await
    }
}

/// The processes of one exec. Also holds the resources that they need.
struct MarkedProcess {
    child: Child,
    /// The process group. `None` once its leader has been reaped, because its number may be reused
    /// then.
    group: Option<Pid>,
    exec: String,
    namespace: Option<PidNamespace>,
    ground: Arc<Ground>,
    _needs: Box<dyn Send>,
}

impl Process for MarkedProcess {
    fn wait(&mut self) -> BoxFuture<'_, io::Result<Exit>> {
        Box::pin(async move {
            let status = self.child.wait().await?;
            if let Some(group) = self.group.take() {
                self.ground
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
                // On Linux, stop the group first and let the sweep kill it. The sweep finds a child
                // that left the group and has no marker by its parents, which must still exist.
                let signal = if cfg!(target_os = "linux") {
                    Signal::SIGSTOP
                } else {
                    Signal::SIGKILL
                };
                let _ = killpg(group, signal);
            }
            let swept = self
                .ground
                .sweeper
                .sweep(Target::Exec {
                    mark: self.exec.clone(),
                    within: self.namespace.map(|namespace| Within {
                        namespace,
                        leader: self.group.map(Pid::as_raw),
                    }),
                })
                .await;
            if let Some(group) = self.group {
                // The leader has not been reaped, so its number can't have been reused.
                let _ = killpg(group, Signal::SIGKILL);
            }
            swept?;
            let waited = self.wait().await;
            waited.map(drop).map_err(|error| error.to_string())
        })
    }
}

impl Drop for MarkedProcess {
    fn drop(&mut self) {
        if let Some(group) = self.group {
            let _ = killpg(group, Signal::SIGKILL);
        }
    }
}

/// A pipe that belongs to this user, if it is another one: only the owner of a pipe may open it
/// again, as `/dev/stdout`.
fn pipe_of(user: Option<u32>) -> io::Result<(io::PipeReader, io::PipeWriter)> {
    let (reader, writer) = io::pipe()?;
    // macOS refuses to change the owner of a pipe, even if nothing changes.
    if user.is_some() {
        fchown(&reader, user, None)?;
    }
    Ok((reader, writer))
}

/// A file with the code of an exec. Dropping it removes the file.
pub(super) struct CodeFile(pub(super) PathBuf);

impl Drop for CodeFile {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

impl CodeFile {
    /// The path for the code of an exec.
    pub(super) fn new(directory: &Path, language: Language, number: u64) -> Self {
        Self(directory.join(match language {
            Language::Python => format!("main-{number}.py"),
            Language::Bash => format!("main-{number}.sh"),
        }))
    }

    /// Writes the code to the file, which no other user can read. Creates these directories first
    /// if they are missing, because an earlier exec may have removed them.
    pub(super) async fn write(&self, code: &str, directories: &[&Path]) -> io::Result<()> {
        let (file, code) = (self.0.clone(), code.to_owned());
        let directories: Vec<_> = directories.iter().map(|it| it.to_path_buf()).collect();
        let write = move || {
            directories
                .iter()
                .try_for_each(|directory| make_private(directory))?;
            write_private(&file, code.as_bytes())
        };
        blocking(write).await
    }
}

/// Fails with the reason if no backend can run this job.
pub(super) fn check(job: &Job) -> Result<(), String> {
    let is_name = |name: &str| !name.is_empty() && !name.contains(['=', '\0']);
    if let Some((name, _)) = job.env.iter().find(|(name, _)| !is_name(name)) {
        return Err(format!(
            "'{}' is not a valid name for an environment variable.",
            excerpt(name.as_bytes())
        ));
    }
    let values = job.env.iter().map(|(_, value)| value).chain(&job.args);
    if values.chain(&job.cwd).any(|text| text.contains('\0')) {
        return Err(
            "An argument, an environment variable or the working directory contains a NUL byte."
                .to_owned(),
        );
    }
    check_size(job)
}

/// Maximum bytes of one argument, or of one environment variable with its name (`MAX_ARG_STRLEN` in
/// execve(2)).
const MAX_WORD_BYTES: usize = 128 * 1024 - 1;

/// Maximum bytes of all arguments and variables: a quarter of the usual stack (execve(2)), less
/// what the server adds.
const MAX_WORDS_BYTES: usize = 2 * 1024 * 1024 - 64 * 1024;

/// Fails if the kernel would not start a process with these arguments and variables.
fn check_size(job: &Job) -> Result<(), String> {
    // A variable also takes a `=`; every word also takes a NUL byte and a pointer.
    let variables = job
        .env
        .iter()
        .map(|(name, value)| name.len() + 1 + value.len());
    let words: Vec<usize> = job.args.iter().map(String::len).chain(variables).collect();
    let largest = words.iter().copied().max().unwrap_or(0);
    let total: usize = words
        .iter()
        .map(|bytes| bytes + 1 + size_of::<usize>())
        .sum();
    if largest > MAX_WORD_BYTES || total > MAX_WORDS_BYTES {
        return Err(format!(
            "The arguments and environment variables are too large: {total} bytes in all, \
             {largest} bytes in the largest. \
             A process takes at most {MAX_WORDS_BYTES} bytes in all and {MAX_WORD_BYTES} in each; \
             pass more data in its input or in a file."
        ));
    }
    Ok(())
}

/// The error for a job whose working directory can't be used.
pub(super) fn no_directory(cwd: &str) -> String {
    format!(
        "The working directory '{}' does not exist or is not a directory.",
        excerpt(cwd.as_bytes())
    )
}

/// Creates a directory that no other user may enter, unless it exists.
pub(super) fn make_private(directory: &Path) -> io::Result<()> {
    fs::DirBuilder::new()
        .mode(0o700)
        .recursive(true)
        .create(directory)
}

/// Writes a new file that no other user may read.
pub(super) fn write_private(file: &Path, text: &[u8]) -> io::Result<()> {
    fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(file)?
        .write_all(text)
}

/// Finds a program on the search path.
pub(super) fn find(name: &str, path: &OsStr) -> Option<PathBuf> {
    std::env::split_paths(path)
        .filter(|directory| directory.is_absolute())
        .map(|directory| directory.join(name))
        .find(|file| {
            fs::metadata(file)
                .is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
        })
}

/// Whether a program is a script with an interpreter line (`#!`).
pub(super) fn is_script(file: &Path) -> bool {
    let mut start = [0; 2];
    fs::File::open(file)
        .and_then(|mut file| file.read_exact(&mut start))
        .is_ok()
        && start == *b"#!"
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
        assert!(is_script(&program));
        assert_eq!(find("program", OsStr::new("/nowhere:relative")), None);
    }
}
