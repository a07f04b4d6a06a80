//! A local sandbox server that runs real code, for first steps, tests and benchmarks.
//!
//! [`LocalServer`] is a complete server. [`SandboxService`] is a set of routes that an actix-web
//! application can mount. Unix only. The server does not need the feature `client`.
//!
//! # Backends
//!
//! [`Backend`] selects how the server runs code:
//!
//! - `host`, the default, gives each sandbox its own directory and cleans up after it, but confines
//!   nothing. Code runs as the user of the server and can do whatever that user can.
//! - `namespace` confines code with Linux namespaces, a filter of system calls and limits. Linux
//!   only. It needs the program bubblewrap.
//! - `gvisor` confines code with a gVisor kernel for each sandbox. Its checkpoints include memory.
//!   Linux only. It needs root and the program `runsc`.
//!
//! With `namespace` and `gvisor`, the first process of each sandbox is an agent: call
//! [`agent`](agent()) first in `main`, or install the command `actix-sandbox`.
//!
//! On every backend the server checks [who may call](#who-may-call) before code runs.
//!
//! The table lists attacks, most of them by code in a sandbox, and whether each backend stops them.
//! A test runs every attack, except those marked "not tried", which would harm the machine on the
//! `host` backend. The server and the other sandboxes keep running in every case.
//! `cargo test --test confined attacks -- --nocapture` prints the table.
//!
//! | | host | namespace | gvisor |
//! | --- | --- | --- | --- |
//! | use a descriptor that the server was started with | stopped | stopped | stopped |
//! | read a key of the session that the server was started in | stopped | stopped | stopped |
//! | fork bomb | not stopped; not tried | stopped | stopped |
//! | 100,000 processes | not stopped; not tried | stopped | stopped |
//! | 10 GiB of memory | not stopped; not tried | stopped | stopped |
//! | a file of 8 GiB | not stopped | stopped | stopped |
//! | write to `/etc/passwd` | not stopped; not tried | stopped | stopped |
//! | read another sandbox's files, by its path or `..` | not stopped | stopped | stopped |
//! | read the server's state, and a file of its user | not stopped | stopped | stopped |
//! | read the environment of the server | not stopped | stopped | stopped |
//! | `kill -9 -1` | not stopped; not tried | stopped | stopped |
//! | ptrace of the server | not stopped; not tried | stopped | stopped |
//! | raw sockets | not stopped; not tried | stopped | stopped |
//! | a connection to a service of this machine | not stopped | stopped | stopped |
//! | mounting, also in namespaces of its own | not stopped; not tried | stopped | stopped |
//! | stall a kill in another sandbox by copying its markers | not stopped; not tried | stopped | stopped |
//! | fill the disk, in more than ten seconds | not stopped | stopped | not stopped |
//! | a million files, or as many as the disk holds, in more than ten seconds | not stopped | stopped | not stopped |
//! | an archive in the state with files that the server trusts | stopped | stopped | stopped |
//! | an archive that unpacks to more than `max_archive_size` | stopped | stopped | stopped |
//! | delay other snapshots with four endless ones | stopped | stopped | stopped |
//! | another user of this machine: replace the state of the server | stopped | stopped | stopped |
//! | slow bodies of `/execute` without end | stopped | stopped | stopped |
//! | take every place for sandboxes, with `max_sandboxes_per_client` | stopped | stopped | stopped |
//! | forge lines of the server's log | stopped | stopped | stopped |
//! | with a network: call the server that runs the sandbox | not stopped; not tried | stopped | stopped |
//! | another user of this machine: use the server | stopped | stopped | stopped |
//! | open twice as many idle connections as the server may open files | stopped | stopped | stopped |
//!
//! No backend limits these, or only in part:
//!
//! - **The disk.** With `namespace`, [`NamespaceOptions::disk`] limits what a sandbox holds, but
//!   the server checks that only about every second, and code can hide files from the check. The
//!   other backends have no limit. While the disk is full, running processes keep running, but
//!   execs, snapshots and checkpoints that need space fail with that reason and leave no partial
//!   files. Killing the sandbox that filled the disk frees the space. Put
//!   [`ServerBuilder::directory`] on a separate disk.
//! - **The processor.** Code can use all of it, unless [`NamespaceOptions::cpus`] is set.
//! - **The memory of a whole sandbox.** `gvisor` limits it to twice [`GvisorOptions::memory`].
//!   `namespace` limits it to [`NamespaceOptions::sandbox_memory`] if the server has a cgroup.
//!   Otherwise, `namespace` limits only the memory that each process allocates, and **not memory
//!   that processes share** (`memfd`, shared mappings). Files in memory (`/dev/shm`) are limited to
//!   64 MiB, and with `namespace` also to 16,384 files.
//! - **Kernel vulnerabilities.** `host` and `namespace` share the kernel of this machine, so a
//!   vulnerability in it lets code escape.
//!
//! With `namespace` and `gvisor`, the working directory is `/home/sandbox` and temporary files are
//! in `/tmp`. Of this machine's files, a sandbox sees only `/usr`, `/bin`, `/sbin`, `/lib*` and
//! `/etc`, read-only; [`NamespaceOptions::readable`] adds directories. If the server doesn't run as
//! root, code reads them with the permissions of the server's user, so keep secrets of this user
//! elsewhere. Snapshots and checkpoints hold every file that the sandbox wrote, except those in
//! `/run` and `/dev/shm`. `namespace` and `gvisor` can restore each other's archives; `host` can
//! restore neither. Only `gvisor` can restore an archive with memory.
//!
//! Differences with `namespace`:
//!
//! - `/run` and `/dev` are read-only, except `/dev/shm`.
//! - A seccomp filter allows the system calls that Docker allows to a container without
//!   capabilities, and fewer kinds of sockets. Any other call fails with `ENOSYS`, as on a kernel
//!   without it. [`NamespaceOptions::deny_syscall`] blocks more calls.
//! - 32-bit programs don't run: the filter kills a process that makes a 32-bit system call.
//! - `prlimit` can change only the limits of the process that calls it, and only with 0 as the
//!   process ID. A change with any other process ID fails, even with the caller's own. Reading
//!   limits is not restricted.
//!
//! Differences with `gvisor`:
//!
//! - A process that uses more memory than [`GvisorOptions::memory`] is killed by SIGKILL. If the
//!   sandbox has no memory left, the process that needs more ends with SIGSEGV. If that process is
//!   the agent, the sandbox ends.
//! - Programs don't see the limit on memory. Start Java with `-Xmx`.
//! - After a program in a terminal has ended, a read of the other side of the terminal blocks
//!   (`runsc` 20221219). So `pty.spawn` of Python doesn't return. `pty.openpty` works.
//! - The processes of an exec have a supplementary group, whose ID is 1073741824 or greater. Each
//!   exec has a different one. The agent finds the processes of an exec by this group.
//! - `runsc` 20221219, the release in Debian 12, fails the system calls that Debian's `ls` and
//!   `stat` make (`Invalid argument`). Later releases support them.
//!
//! The threat model, `docs/threats.md` in the repository, lists who is trusted with what, the
//! attacks on the agent of a sandbox, and what the server doesn't defend against.
//!
//! # What code starts with
//!
//! Code and the server's helper processes always start from the same state. It doesn't matter
//! whether the server was started by a shell with open files, under `nohup`, in a terminal, by
//! systemd or inside another program.
//!
//! | | host | namespace | gvisor |
//! | --- | --- | --- | --- |
//! | user | the user of the server | 1000 (`sandbox`) inside; on the machine, a separate user for each sandbox if the server is root, else the user of the server | 1879048192 (`sandbox`) |
//! | file descriptors | 0, 1 and 2, each a pipe | the same | the same |
//! | signals | every disposition at its default, none blocked | the same | the same |
//! | terminal | none, in a session of its own | the same | the same |
//! | keys of the kernel | a session keyring of the server's, empty at first; the user's other keyrings | none: the calls fail | none: the calls fail |
//! | umask | 022 | the same | the same |
//! | limits | see below | the same, then those of [`NamespaceOptions`] | those of [`GvisorOptions`] |
//! | supplementary groups | none if the server is root, else those of its user | the same | one, which marks the exec |
//! | ambient and inheritable capabilities | none | none | none |
//! | scheduling | normal policy, I/O priority and timer slack; niceness and out-of-memory score not below 0 | the same | gVisor's own |
//! | address randomisation (personality) | on | on | gVisor's own |
//! | environment | the variables below | the same | the same |
//!
//! - The limits are: no core dumps, an 8 MiB stack, 1,024 open files (hard limit 524,288), 8 MiB of
//!   locked memory, 819,200 bytes of message queues and no raised priority. Everything else is
//!   unlimited. If the server has a lower hard limit, that limit applies. If the kernel refuses to
//!   change a limit, as gVisor does for some, a lower limit stays and a higher one is an error: no
//!   process starts.
//! - Code inherits some restrictions of the server on purpose: a positive niceness or out-of-memory
//!   score, the idle and batch scheduling policies, CPU affinity, and the cgroup.
//! - The environment holds `PATH`, `LANG`, `HOME`, `USER`, `LOGNAME`, `TMPDIR`, `PYTHONUNBUFFERED`
//!   and `ACTIX_SANDBOX_ID`, the id of the sandbox. `PATH` is the server's own on `host`, and fixed
//!   on the other backends.
//! - With `host`, the server finds the processes of a sandbox by three more variables,
//!   `ACTIX_SANDBOX_SERVER`, `ACTIX_SANDBOX_NAME` and `ACTIX_SANDBOX_EXEC`. Code can read the
//!   values of other sandboxes from `/proc`. A process that copies these values is killed together
//!   with the processes of the other sandbox. With the other backends, code has none of these
//!   variables.
//!
//! # Who may call
//!
//! By default a server listens on the loopback interface. Other users of this machine can reach
//! that interface, and so can code in a sandbox with a network. So the first path segment of a
//! [`LocalServer`]'s URL is a secret: `http://127.0.0.1:8080/0c5f…`. Clients append their paths to
//! the URL and need no other option.
//!
//! - The server answers every request without the secret with 404 and an empty body. Only the
//!   health checks `GET /healthz` and `GET /readyz` need no secret. About the sandboxes, `/readyz`
//!   reports only their number, the maximum number, and the counts of the [warm
//!   pool](ServerBuilder::warm).
//! - By default the secret is new at each start. [`ServerBuilder::secret_file`] keeps it in a file.
//!   Servers on one [state directory](ServerBuilder::state_directory) or
//!   [bucket](ServerBuilder::state_url) share the secret that is stored there, so the path in the
//!   URL stays valid after a handoff. Anyone who can read the state can read the secret.
//! - [`ServerBuilder::no_secret`] opens the server to every caller that reaches its address.
//! - The secret is not a sandbox token. The secret lets a caller create sandboxes; each sandbox
//!   also has its own token.
//! - [`Sandbox::list`](crate::Sandbox::list) shows the ids, labels and times of all sandboxes to
//!   every caller with the secret or the access token. A server with neither refuses the list.
//! - Treat the URL like a password. The server and this crate's client never log the path of a URL.
//!   Don't pass the URL as a program argument: every user of the machine can see it.
//! - The server speaks plain HTTP, so the secret and the [access
//!   token](ServerBuilder::access_token) travel in clear text. Put a TLS proxy in front of an
//!   address that other machines can reach.
//! - The secret doesn't keep out code on the `host` backend: that code runs as the user of the
//!   server and can read its memory.
//!
//! After the secret, the server checks the `Origin` ([allowed
//! origins](ServerBuilder::allowed_origin)), the `Host` ([allowed
//! hosts](ServerBuilder::allowed_host)) and the access token. It refuses a request that fails one
//! of these checks and states the reason.
//!
//! # Limits on each caller
//!
//! - **Connections.** The connection limits derive from the limit on open files (`ulimit -n`) at
//!   start. Half of the files are reserved for the sandboxes. When connections run short, the
//!   server closes connections that have not yet sent the secret, the oldest first, so idle
//!   connections block neither new clients nor health checks. Connections with the secret stay
//!   open; a request beyond their limit is answered 503. `actix-sandbox serve` raises its soft
//!   limit on open files to the hard limit; a [`LocalServer`] doesn't change the limit of its
//!   process.
//! - **Slow uploads.** The code for `/execute` and the configuration of a new sandbox must arrive
//!   within [`ServerBuilder::request_timeout`].
//! - **Sandboxes.** [`ServerBuilder::max_sandboxes`] limits all sandboxes,
//!   [`ServerBuilder::max_sandboxes_per_client`] the sandboxes of one IP address.
//! - **The log.** The log escapes text that comes from clients or code.
//!
//! # How a sandbox runs
//!
//! - Code runs with the `python3` and `bash` of this machine. Each exec has its own process group.
//! - Each sandbox has its own directory. The working directory is `HOME`. Files and background
//!   processes live as long as the sandbox.
//! - With `namespace` and `gvisor`, the first process of a sandbox is its agent. The server starts
//!   the agent for the first exec, or earlier if the sandbox is [warm](ServerBuilder::warm). If the
//!   agent ends or breaks the protocol with the server, every process of the sandbox ends. Pending
//!   calls and later execs fail with the reason. If the server is killed, its agents end, and with
//!   them every process of its sandboxes.
//! - The server confirms a kill of an exec when it finds no process of the exec any more. With
//!   `namespace` and `gvisor`, it finds every process that descends from the main process, even if
//!   that process started its own session, cleared its environment and lost its parent. With
//!   `host`, a process that did all three survives until its sandbox ends.
//! - The server sends output as it is written, and batches writes within about a millisecond into
//!   one message. Under v1, bytes that are not UTF-8 arrive as U+FFFD; [v2](crate::protocol_v2)
//!   carries every byte.
//! - An exec is done when its main process has exited and no process holds its output open. If a
//!   background process still holds it open, the server stops reading after a grace period. It is
//!   30 s under v1, and 2 s or the time that the client requests under v2, but never longer than
//!   [`ServerBuilder::max_run_time`]. Under v2 the client learns that output was cut off.
//!   Background processes keep running, and the server drops their later output. It keeps the last
//!   32 such pipes of a sandbox open. A process that writes to an older one gets SIGPIPE or EPIPE,
//!   so let daemons write to a file.
//! - If a client doesn't read, the pipes of its process fill up and the process blocks. Other
//!   processes are not affected.
//! - Python imports from its working directory, as with `python3 -c`. Programs that it starts
//!   don't.
//! - The server installs a SIGCHLD handler when it starts. A program that ignores that signal
//!   afterwards (`SIG_IGN`) loses the exit statuses of processes.
//! - A [v2](crate::protocol_v2) client runs up to [`ServerBuilder::max_execs`] execs at once. The
//!   server keeps the end and the output of an exec until the client acknowledges them, for the
//!   last 64 such execs of each sandbox.
//! - After a lost connection, a sandbox lives until its idle timeout. The server buffers output up
//!   to [`ServerBuilder::output_buffer`].
//!
//! # What is stored
//!
//! Filesystem snapshots and checkpoints are compressed archives. In a [state
//! directory](ServerBuilder::state_directory) only the user of the server can read them. In a
//! [bucket](ServerBuilder::state_url) the permissions of the bucket apply.
//!
//! - Both kinds hold the files in `HOME` and `TMPDIR`; with `host`, they hold no other files.
//!   Symbolic links, permissions, timestamps and holes are preserved. Set-user-id, set-group-id and
//!   sticky bits are not. Each hard link becomes a separate file. Sockets, pipes and devices are
//!   skipped.
//! - If the server may not read a file (mode 000, unless the server runs as root), the whole
//!   archive fails with the name of that file.
//! - The sandbox and its processes keep running while a snapshot is taken, so a file may be stored
//!   half-written. Each sandbox takes one snapshot at a time.
//! - Up to 64 snapshots, checkpoints and restores take turns. Four work at the same time; after
//!   about 100 ms each yields to the one that has waited longest. So a small one among the 64
//!   doesn't wait for a large one to end. Further ones wait until one of the 64 ends, and may reach
//!   [`ServerBuilder::store_timeout`] while they wait.
//! - [`ServerBuilder::max_archive_size`], [`ServerBuilder::max_archive_files`] and
//!   [`ServerBuilder::store_timeout`] limit storing and restoring. If an operation exceeds a limit,
//!   it fails with a reason that names the limit, and leaves nothing on the disk.
//! - The server does not trust an archive. It unpacks only the directories of the sandbox, and
//!   refuses an archive with any other entry. But an archive defines what a restored sandbox
//!   contains: a party that can write to the storage controls the files in restored sandboxes and,
//!   with `gvisor`, the memory of their processes and the program of their agent. gVisor confines
//!   both as usual.
//! - A checkpoint also holds the settings of the sandbox, the SHA-256 of its token, and the ends
//!   and output that v2 clients have not acknowledged. With `gvisor`, it includes background
//!   processes, which resume after a restore. The restore needs the same release of `runsc`. The
//!   memory also holds the agent, so the checkpoint contains the agent's program, which takes some
//!   megabytes. A server of another release of this crate restores the checkpoint with that agent.
//!   It refuses the restore if it can't talk to that agent. The other backends store **no memory**,
//!   so a checkpoint kills background processes.
//! - Archives are written atomically: the old archive stays until the new one is complete. If a
//!   checkpoint fails, the sandbox keeps running with its files. An automatic checkpoint of an idle
//!   sandbox is retried after the next idle timeout.
//! - A restore keeps the checkpoint, so that a crash loses only what happened after the checkpoint.
//!   The next checkpoint replaces it. The server removes the checkpoint when the sandbox is killed,
//!   or deleted after its idle timeout, or when its lifetime ends while it runs. If the lifetime
//!   ends while the sandbox doesn't run, the next attach removes the checkpoint.
//! - A damaged checkpoint can't be restored. The server keeps it for inspection.
//!
//! # How the server works
//!
//! ```text
//! socket ─ Session (actor: writes) ◄─ Link (queue) ◄─ Sandbox (task) ◄─ Execution (task) ─ process
//!   └──── Conversation (task: reads) ── commands ──────► │                  ▲
//!                                                        └── kill, stdin ───┘
//! ```
//!
//! All sandboxes run on one dedicated thread. Sessions run on the workers of the HTTP server. A
//! sandbox never waits for a client or for a process that doesn't read.

mod agent;
mod backend;
mod blocking;
mod builder;
mod choice;
mod confinement;
mod error;
mod escaped;
mod exec;
mod http;
mod identity;
mod local;
mod private;
mod sandbox;
mod session;
mod setters;
mod store;
mod thread;

pub use agent::agent;
pub use builder::ServerBuilder;
pub use choice::{Backend, GvisorOptions, NamespaceOptions};
pub use confinement::{CodeUser, Confinement, SystemCalls};
pub use error::ServerError;
pub use http::service::SandboxService;
pub use local::LocalServer;
