//! [`Launcher`]: starts the processes of a sandbox on this machine, marked, so that each of them is found again.

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
    Exit, Job, Language, Process, Started,
    remove::remove_tree,
    sweep::{
        EXEC_MARKER, ID_VARIABLE, PidNamespace, SANDBOX_MARKER, SERVER_MARKER, Sweeper, Target,
        Within,
    },
};
use crate::{
    protocol::{SandboxId, excerpt},
    server::{
        escaped::Escaped,
        manager::random_hex,
        root::{Abandoned, Root, roots},
        store::blocking,
        watchdog::Watchdog,
    },
};

/// Process groups of a sandbox that are remembered before those without a process are forgotten.
const MANY_GROUPS: usize = 256;

/// Where programs are looked for when this process has no `PATH`.
const DEFAULT_PATH: &str = "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin";

/// The `PATH` of this process, or a usual one.
pub(in crate::server) fn search_path() -> OsString {
    std::env::var_os("PATH")
        .filter(|path| !path.is_empty())
        .unwrap_or_else(|| DEFAULT_PATH.into())
}

/// A name that cannot be guessed: processes that carry a mark of another sandbox would be killed with it, and code could
/// keep that kill from ending.
pub(super) fn mark() -> io::Result<String> {
    random_hex::<16>().map_err(io::Error::from)
}

/// What the sandboxes of a server have in common.
pub(super) struct Ground {
    /// The directory of this server, with one directory for each sandbox.
    pub(super) root: PathBuf,
    /// Where it keeps its state, if that is a directory.
    pub(super) state: Option<PathBuf>,
    /// Marks the processes of this server.
    server: String,
    watchdog: Watchdog,
    sweeper: Sweeper,
    /// Locked while this lives.
    _owner: Option<fs::File>,
}

impl Ground {
    /// For sandboxes in `root`. Must be called on a tokio runtime.
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

    /// Begins to end and to remove what servers have left beside this one that were killed together with their watchdogs.
    /// Nobody waits for it: what hangs there keeps this server from nothing. It goes with the runtime.
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
                    Ok(()) => tracing::info!(%directory, "removed what a server had left"),
                    Err(reason) => {
                        tracing::warn!(%directory, reason = %Escaped(reason), "what a server has left could not be removed");
                    }
                }
            }
        });
    }

    async fn remove_abandoned(&self, left: Abandoned) -> Result<(), String> {
        let target = Target::Server(left.server.clone());
        self.sweeper.sweep(target).await?;
        #[cfg(target_os = "linux")]
        super::gvisor::end_all(&left.path)
            .await
            .map_err(|error| error.to_string())?;
        // It stays locked until that is done, whoever waits for it.
        blocking(move || left.remove())
            .await
            .map_err(|error| format!("the files could not be removed: {error}"))
    }

    /// Ends what is left, and removes the directory.
    pub(super) async fn clear(self: &Arc<Self>) {
        // Sandboxes that could not be deleted get a last chance.
        let target = Target::Server(self.server.clone());
        if let Err(reason) = self.sweeper.sweep(target).await {
            tracing::warn!(reason = %Escaped(reason), "processes are left behind");
        }
        let ground = self.clone();
        let removed = tokio::task::spawn_blocking(move || {
            let removed = remove_tree(&ground.root);
            ground.watchdog.quit();
            removed
        })
        .await;
        if let Ok(Err(error)) = removed {
            tracing::warn!(%error, directory = %self.root.display(), "a directory could not be removed");
        }
    }
}

/// Starts the processes of one sandbox.
pub(super) struct Launcher {
    id: SandboxId,
    /// Marks the processes of this sandbox. The id cannot: clients know it, and another server of this machine may
    /// have restored the same sandbox.
    name: String,
    /// The directory of this sandbox.
    root: PathBuf,
    ground: Arc<Ground>,
    execs: AtomicU64,
    /// The process group of each exec: it may still hold background processes.
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

    /// What marks the processes of an exec, in their environment.
    pub(super) fn marks<'a>(&'a self, exec: &'a str) -> [(&'static str, &'a str); 4] {
        [
            (SERVER_MARKER, &self.ground.server),
            (ID_VARIABLE, self.id.as_str()),
            (SANDBOX_MARKER, &self.name),
            (EXEC_MARKER, exec),
        ]
    }

    /// Starts an exec, whose processes are marked. What it needs is kept as long as it lives. `namespace` is that of its
    /// processes, but for the first, if only they can be its own. `user` is whom code runs as, if that is another user.
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
        // Here the server closes the ends of the process.
        drop(command);
        let ended = || io::Error::other("the process has ended before it was watched");
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

    /// Ends every process of the sandbox. The error is the reason for the client.
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
            // The number of a group that ended may belong to another by now. Only where
            // there is no `/proc` to find that out is that risk taken.
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

/// The processes of one exec. What they need lives as long.
struct MarkedProcess {
    child: Child,
    /// The process group, while its leader is not waited for and the number cannot be given away.
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
                // The leader is not waited for: the number is still its own.
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

/// A file with code, removed when it is no longer needed.
pub(super) struct CodeFile(pub(super) PathBuf);

impl Drop for CodeFile {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

impl CodeFile {
    /// Where the code of an exec is put.
    pub(super) fn new(directory: &Path, language: Language, number: u64) -> Self {
        Self(directory.join(match language {
            Language::Python => format!("main-{number}.py"),
            Language::Bash => format!("main-{number}.sh"),
        }))
    }

    /// Writes the code to the file, which no other user can read, once these directories are there: the code of an
    /// exec before may have removed them.
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

/// The reason why a job cannot be run anywhere.
pub(super) fn check(job: &Job) -> Result<(), String> {
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
    check_size(job)
}

/// Most bytes of one argument, or of one environment variable with its name (`MAX_ARG_STRLEN`, execve(2)).
const MAX_WORD_BYTES: usize = 128 * 1024 - 1;

/// Most bytes of all of them: a quarter of the usual stack (execve(2)), less what the server adds.
const MAX_WORDS_BYTES: usize = 2 * 1024 * 1024 - 64 * 1024;

/// Fails if the kernel would not start a process with these arguments and variables.
fn check_size(job: &Job) -> Result<(), String> {
    // With the `=` and a NUL byte, and the pointer.
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
            "The arguments and environment variables are too large: {total} bytes, the largest {largest} bytes. \
             A process takes {MAX_WORDS_BYTES} bytes in all and {MAX_WORD_BYTES} bytes in each; \
             send more on its input or in a file."
        ));
    }
    Ok(())
}

/// The reason why a job cannot be run in this working directory.
pub(super) fn no_directory(cwd: &str) -> String {
    format!(
        "The working directory '{}' is not there, or is no directory.",
        excerpt(cwd.as_bytes())
    )
}

/// Makes a directory that no other user may enter, unless it is there.
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

/// The program of this name on the search path.
pub(super) fn find(name: &str, path: &OsStr) -> Option<PathBuf> {
    std::env::split_paths(path)
        .filter(|directory| directory.is_absolute())
        .map(|directory| directory.join(name))
        .find(|file| {
            fs::metadata(file)
                .is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
        })
}

/// Whether a program is a script for another program.
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
