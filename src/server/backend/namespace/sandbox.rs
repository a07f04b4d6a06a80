//! [`NamespaceBackend`]: runs code in Linux namespaces, with the tools of util-linux.
//!
//! Each sandbox has its own user, mount, PID, IPC and UTS namespaces, and its own network namespace
//! unless it may use the machine's network. If the server runs as root, the code of each sandbox
//! also runs under its own user ID of the machine. The directory of a sandbox holds:
//!
//! | directory | path in the sandbox |
//! | --- | --- |
//! | `root` | `/` |
//! | `home`, `tmp` | `/home/sandbox`, `/tmp` |
//! | `code` | `/run/code`, read-only |
//! | `etc` | `passwd`, `group`, `hosts` and `resolv.conf` in `/etc`, read-only |

use std::{
    io,
    os::unix::fs::lchown,
    path::{Path, PathBuf},
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    thread::available_parallelism,
    time::Duration,
};

use futures::future::BoxFuture;
use rustix::process::Resource;
use tokio::{
    process::Command,
    sync::{Mutex, OnceCell, Semaphore},
    time::timeout,
};

use super::init_process::{Init, Namespaces, Tools};
use crate::{
    protocol::{SandboxId, excerpt},
    server::{
        backend::{
            api::{Backend, BackendSandbox, Started},
            code_file::CodeFile,
            confine::{
                CODE_INSIDE, ENVIRONMENT, HOME_INSIDE, hidden, interpreter, make_directory,
                write_for,
            },
            context::ServerContext,
            etc,
            job::{Job, check, no_directory},
            launch::Launcher,
            programs::{PATH, find},
            remove::remove_sandbox,
            site, spawn,
        },
        blocking::blocking,
        choice::{Confines, NamespaceOptions},
        store::archive::layout::{HOME, ROOT, TEMPORARY, Tree, Trees},
    },
};

const CODE: &str = "code";

/// The user ID of code in the sandbox. The user namespace maps no other user.
const USER_INSIDE: u32 = 0;

/// A Perl script that runs its arguments as a child process, and ends with the same exit code or
/// signal. The script itself stays outside of the sandbox's PID namespace. It closes stdin, stdout
/// and stderr, so that the server notices when the child closes them. `nsenter` could fork by
/// itself, but would keep them open.
const WAIT: &str = r#"
my $child = fork;
defined $child or die "cannot start a process: $!\n";
unless ($child) { exec { $ARGV[0] } @ARGV or die "$ARGV[0]: $!\n" }
close STDIN; close STDOUT; close STDERR;
waitpid $child, 0;
my ($code, $signal) = ($? >> 8, $? & 127);
if ($signal) { kill $signal, $$; sleep }
exit $code;
"#;

/// A Perl script that runs the program in its second argument. It reads environment variables for
/// the program from the file that the first argument names: on a command line, every user of the
/// machine could read them. The script runs after the privileges were dropped, because programs
/// with privileges must not get the variables.
const WITH_ENVIRONMENT: &str = r#"
my $file = shift;
open my $pairs, '<', $file or die "$file: $!\n";
local $/;
for (split /\0/, <$pairs>) { my ($name, $value) = split /=/, $_, 2; $ENV{$name} = $value }
close $pairs;
exec { $ARGV[0] } @ARGV or die "$ARGV[0]: $!\n";
"#;

/// How long the check whether a directory exists may take.
const LOOKED_WITHIN: Duration = Duration::from_secs(5);

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
    hidden: Vec<PathBuf>,
    tools: Tools,
    /// Limits how many sandboxes create their namespaces concurrently. If all did so at once, none
    /// would be ready in time.
    turns: Semaphore,
    /// The number from which the user ID of the next sandbox is computed. `None` if this process is
    /// not root.
    next_user: Option<AtomicU32>,
}

impl NamespaceBackend {
    /// Starts the backend, and checks that it can run a sandbox. The error is the reason why it
    /// can't.
    pub(crate) async fn start(
        options: NamespaceOptions,
        context: Arc<ServerContext>,
    ) -> Result<Self, String> {
        let hidden = hidden(&options.confines, &context)?;
        let tool = |name: &str| {
            find(name, PATH.as_ref()).ok_or_else(|| {
                format!(
                    "`{name}` is not installed, or not on {PATH} \
                     (the backend needs util-linux and perl)"
                )
            })
        };
        for name in ["mount", "umount", "pivot_root", "bash"] {
            tool(name)?;
        }
        let tools = Tools {
            unshare: tool("unshare")?,
            nsenter: tool("nsenter")?,
            setpriv: tool("setpriv")?,
            setsid: tool("setsid")?,
            prlimit: tool("prlimit")?,
            env: tool("env")?,
            perl: tool("perl")?,
            path: PATH,
        };
        let is_root = nix::unistd::geteuid().is_root();
        let mut random = [0; 4];
        getrandom::fill(&mut random).map_err(|error| error.to_string())?;
        let first = u32::from_le_bytes(random);
        let backend = Self {
            shared: Arc::new(Shared {
                context,
                confines: options.confines,
                hidden,
                tools,
                turns: Semaphore::new(2 * available_parallelism().map_or(1, usize::from)),
                next_user: is_root.then(|| AtomicU32::new(first)),
            }),
        };
        backend.try_out().await?;
        Ok(backend)
    }

    /// Creates a sandbox, checks that it has a root directory, and deletes it.
    async fn try_out(&self) -> Result<(), String> {
        let sandbox = self
            .sandbox(&SandboxId::new("sandbox-probe"))
            .await
            .map_err(|error| error.to_string())?;
        let tried = sandbox.is_there("/").await;
        let deleted = sandbox.delete().await;
        match tried {
            Ok(true) => deleted,
            Ok(false) => Err("a sandbox has no root directory".to_owned()),
            Err(reason) => Err(reason),
        }
    }

    async fn sandbox(&self, id: &SandboxId) -> io::Result<NamespaceSandbox> {
        let context = &self.shared.context;
        let directory = context.root.join(id.as_str());
        let user = self.shared.next_user.as_ref().map(|next| {
            let number = next.fetch_add(1, Ordering::Relaxed);
            FIRST_USER + number % USERS
        });
        let sandbox = NamespaceSandbox {
            launcher: Launcher::new(id.clone(), directory.clone(), context.clone())?,
            directory,
            user,
            shared: self.shared.clone(),
            trusted: OnceCell::new(),
            init: Mutex::new(None),
        };
        let directory = sandbox.directory.clone();
        match blocking(move || prepare(&directory, user)).await {
            Ok(()) => Ok(sandbox),
            Err(error) => {
                let _ = remove_sandbox(&sandbox.directory).await;
                Err(error)
            }
        }
    }
}

/// Creates the directory of a sandbox, and in it the trees, which belong to `user`.
fn prepare(directory: &Path, user: Option<u32>) -> io::Result<()> {
    let make = |path: &Path, mode| {
        make_directory(path, mode)?;
        match user {
            Some(user) => lchown(path, Some(user), Some(user)),
            None => Ok(()),
        }
    };
    // The user of the sandbox must be able to enter this directory. Other users can't reach it,
    // because they can't enter its parent.
    make_directory(directory, 0o711)?;
    make(&directory.join(ROOT), 0o755)?;
    make(&directory.join(HOME), 0o700)?;
    make(&directory.join(TEMPORARY), 0o700)
}

/// Creates the directories that only the server writes to: `code` and `etc`. Call this after the
/// trees were filled from an archive.
fn prepare_trusted(directory: &Path, network: bool) -> io::Result<()> {
    let code = directory.join(CODE);
    make_directory(&code, 0o711)?;
    site::write(&code)?;
    etc::write(directory, USER_INSIDE, network)
}

impl Backend for NamespaceBackend {
    fn name(&self) -> &'static str {
        "namespace"
    }

    fn create(&self, id: &SandboxId) -> BoxFuture<'_, io::Result<Box<dyn BackendSandbox>>> {
        let id = id.clone();
        Box::pin(async move {
            let sandbox = self.sandbox(&id).await?;
            Ok(Box::new(sandbox) as Box<dyn BackendSandbox>)
        })
    }

    fn shutdown(&self) -> BoxFuture<'_, ()> {
        Box::pin(self.shared.context.clear())
    }
}

struct NamespaceSandbox {
    launcher: Launcher,
    directory: PathBuf,
    /// The user ID under which code runs. `None` if this process is not root: then code runs under
    /// the user ID of this process.
    user: Option<u32>,
    shared: Arc<Shared>,
    /// Set once [`prepare_trusted`] has run, before the first exec.
    trusted: OnceCell<()>,
    /// The first process of the sandbox. Started by the first [`enter`](Self::enter), ended by
    /// [`freeze`](BackendSandbox::freeze).
    init: Mutex<Option<Init>>,
}

impl BackendSandbox for NamespaceSandbox {
    fn start(&self, job: Job) -> BoxFuture<'_, Result<Started, String>> {
        Box::pin(async move {
            check(&job)?;
            let interpreter = interpreter(job.language)?;
            if let Some(cwd) = &job.cwd
                && !self.is_there(cwd).await?
            {
                return Err(no_directory(cwd));
            }
            self.trusted().await?;
            let number = self.launcher.next();
            let code = CodeFile::new(&self.directory.join(CODE), job.language, number);
            let environment = CodeFile(code.0.with_extension("env"));
            let exec = self.launcher.exec().map_err(|error| error.to_string())?;
            let marks = self.launcher.marks(&exec);
            let site = format!("{CODE_INSIDE}/{}", site::SITE);
            for (file, text) in [(&code, &job.code), (&environment, &job.pairs(&site, marks))] {
                write_for(self.user, file, text)
                    .await
                    .map_err(|error| format!("Failed to store the code: {error}"))?;
            }
            let inside = |file: &CodeFile| {
                let name = file.0.file_name().unwrap_or_default().to_string_lossy();
                format!("{CODE_INSIDE}/{name}")
            };
            let (mut command, namespaces) = self
                .enter(job.cwd.as_deref(), Some(&inside(&environment)))
                .await?;
            command
                .arg(&interpreter)
                .arg(inside(&code))
                .args(&job.args)
                .envs(marks);
            let pid_namespace = namespaces.pid().map_err(|error| error.to_string())?;
            let needs = (code, environment, namespaces);
            self.launcher
                .spawn(command, needs, exec.clone(), Some(pid_namespace), self.user)
                .map_err(|error| format!("Failed to start {}: {error}", interpreter.display()))
        })
    }

    fn freeze(&self) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(async move {
            let mut init = self.init.lock().await;
            if let Some(init) = &mut *init {
                init.end().await?;
            }
            *init = None;
            Ok(())
        })
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

impl NamespaceSandbox {
    /// Returns a command that runs a program in the sandbox, without privileges and within the
    /// limits. The caller adds the program and its arguments.
    ///
    /// `environment` is the path, in the sandbox, of a file with additional environment variables.
    /// Keep the returned namespaces until the command has ended.
    async fn enter(
        &self,
        cwd: Option<&str>,
        environment: Option<&str>,
    ) -> Result<(Command, Arc<Namespaces>), String> {
        let mut init = self.init.lock().await;
        let namespaces = match &*init {
            Some(alive) if alive.is_alive() => alive.namespaces(),
            _ => init.insert(self.init().await?).namespaces(),
        };
        drop(init);
        let tools = &self.shared.tools;
        let confines = &self.shared.confines;
        let mut command = match self.user {
            Some(_) => {
                let mut command = spawn::command(&tools.setpriv);
                command.args(["--clear-groups", "--"]).arg(&tools.nsenter);
                command
            }
            None => {
                let mut command = spawn::command(&tools.nsenter);
                command.arg("--preserve-credentials");
                command
            }
        };
        command.args(namespaces.enter());
        command
            .args(["--no-fork", "--"])
            .arg(&tools.prlimit)
            .arg(limit("data", Resource::Data, confines.memory_bytes))
            .arg(limit("nproc", Resource::Nproc, confines.processes))
            .arg(limit("fsize", Resource::Fsize, confines.file_bytes))
            .arg(limit("nofile", Resource::Nofile, confines.open_files))
            .args(["--core=0", "--"])
            .arg(&tools.perl)
            .args(["-e", WAIT, "--"])
            .arg(&tools.setsid)
            .arg(&tools.setpriv)
            .args([
                "--bounding-set=-all",
                "--inh-caps=-all",
                "--no-new-privs",
                "--",
            ])
            .arg(&tools.env)
            .args(["--chdir", HOME_INSIDE]);
        if let Some(cwd) = cwd.filter(|cwd| !cwd.is_empty()) {
            command.arg(&tools.env).args(["--chdir", cwd]);
        }
        if let Some(environment) = environment {
            command
                .arg(&tools.perl)
                .args(["-e", WITH_ENVIRONMENT, "--", environment]);
        }
        command.envs(ENVIRONMENT);
        spawn::deny_keys(&mut command);
        Ok((command, namespaces))
    }

    async fn trusted(&self) -> Result<(), String> {
        let (directory, network) = (self.directory.clone(), self.shared.confines.network);
        let prepare = || async { blocking(move || prepare_trusted(&directory, network)).await };
        let made = self.trusted.get_or_try_init(prepare).await;
        made.copied()
            .map_err(|error| format!("The directory for the code could not be created: {error}"))
    }

    async fn init(&self) -> Result<Init, String> {
        self.trusted().await?;
        let turn = self.shared.turns.acquire().await;
        let _turn = turn.map_err(|error| error.to_string())?;
        let confines = &self.shared.confines;
        Init::start(
            &self.shared.tools,
            &self.directory,
            self.user,
            confines.network,
            [&confines.readable, &self.shared.hidden],
        )
        .await
    }

    /// Whether this directory exists in the sandbox.
    async fn is_there(&self, directory: &str) -> Result<bool, String> {
        let (mut command, _namespaces) = self.enter(None, None).await?;
        let test = command
            .args(["test", "-d"])
            .arg(if directory.is_empty() { "." } else { directory })
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .output();
        // The time limit is needed because code can stop any process in the sandbox.
        let status = timeout(LOOKED_WITHIN, test)
            .await
            .map_err(|_| format!("`nsenter … test -d` did not end within {LOOKED_WITHIN:?}"))?
            .map_err(|error| format!("cannot run `nsenter`: {error}"))?;
        match status.status.code() {
            Some(0) => Ok(true),
            Some(1) if status.stderr.is_empty() => Ok(false),
            _ => Err(format!(
                "`nsenter … test -d` failed: {}",
                excerpt(String::from_utf8_lossy(&status.stderr).trim().as_bytes())
            )),
        }
    }
}

/// Returns an argument of `prlimit`. It sets the limit to `wanted`, or to the hard limit of this
/// process if that is lower, because `prlimit` can't raise a hard limit.
fn limit(name: &str, resource: Resource, wanted: u64) -> String {
    let most = spawn::hard_limit(resource).map_or(wanted, |hard| wanted.min(hard));
    format!("--{name}={most}")
}

#[cfg(test)]
mod tests;
