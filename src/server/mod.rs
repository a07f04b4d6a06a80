//! A server that speaks the same protocol and really runs code, for newcomers, tests and benchmarks.
//!
//! [`LocalServer`] is a whole server; [`SandboxService`] is to be mounted into an actix-web
//! application. Unix only. It uses [`protocol`](crate::protocol), and neither actors nor clients of
//! this crate.
//!
//! # Backends
//!
//! [`Backend`] chooses what runs the code. The default, `host`, keeps sandboxes apart and cleans up after them, but it confines
//! nothing: code runs as the user of the server and can do what that user can. `namespace` confines, on Linux; `gvisor` does so with
//! a kernel for each sandbox, and its checkpoints hold memory. Who may call the server is decided
//! [before code runs](#who-may-call), on every backend.
//!
//! What code in a sandbox may try, and whether the backend stops it. Each row was tried, but on the host where it would
//! harm the machine; the server and the other sandboxes went on in every case. `cargo test --test attacks -- --nocapture`
//! prints the table.
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
//! | keep a process of another sandbox from being killed, by its marks | not stopped; not tried | stopped | stopped |
//! | fill the disk | not stopped | not stopped | not stopped |
//! | a million files, or as many as the disk holds | not stopped | not stopped | not stopped |
//! | an archive in the state with files that the server trusts | stopped | stopped | stopped |
//! | an archive that unpacks to more than `max_archive_size` | stopped | stopped | stopped |
//! | delay the snapshots of others by four without end | stopped | stopped | stopped |
//! | with a network: use the server that runs it | not stopped; not tried | stopped | stopped |
//! | another user of this machine: use the server | stopped | stopped | stopped |
//! | twice as many idle connections as the server may open files | stopped | stopped | stopped |
//!
//! What none of them stops: filling the disk, and taking all of the processor. No sandbox has a share of the disk of its own. While
//! it is full what runs goes on; code that cannot be put there does not start, and what does not fit is not stored, each with that
//! reason and nothing half left over; and whoever kills the sandbox that filled it has it free again. Put
//! [`ServerBuilder::directory`] on a disk of its own. The limit on memory is one on each
//! process, not on the sandbox, and in a namespace on what a process allocates: **not on memory that it shares** (`memfd`, shared
//! mappings). Files in memory (`/dev/shm`) are bounded, by 64 MiB, and in a
//! namespace by 16,384 names. Host and namespace share the kernel of this machine: a hole in it is a
//! way out.
//!
//! With `namespace` and `gvisor` the working directory is `/home/sandbox`, temporary files are in `/tmp`, and of this machine's
//! files programs and libraries are seen ([`NamespaceOptions::readable`]), read-only. Of what else is written anywhere, a snapshot and a
//! checkpoint hold all but `/run` and `/dev/shm`. An archive of one of them goes to the other, but neither to `host`; one with
//! memory goes to `gvisor` alone.
//!
//! What is different with `gvisor`: input that a process has closed is refused only when it ends; the release of `runsc` that Debian 12
//! has (20221219) does not serve the calls of its own `ls` and `stat` (`Invalid argument`), later ones do; and
//! later ones (20240729 was tried) end at a restore what was started by an exec.
//!
//! # What code starts with
//!
//! Code starts from the same state, however the server was started: by a shell with open files, under `nohup`, in a
//! terminal, by systemd, or inside another program. The helper processes of the server start from it, too.
//!
//! | | host | namespace | gvisor |
//! | --- | --- | --- | --- |
//! | file descriptors | 0, 1 and 2, each a pipe | the same | the same |
//! | signals | every disposition at its default, none blocked | the same | the same |
//! | terminal | none, in a session of its own | the same | none |
//! | keys of the kernel | a session keyring of the server's, empty at first; the user's other keyrings | none: the calls fail | none: the calls fail |
//! | umask | 022 | the same | the same |
//! | limits | see below | the same, then those of [`NamespaceOptions`] | those of [`GvisorOptions`] |
//! | supplementary groups | none if the server is root, else those of its user | the same | none |
//! | ambient and inheritable capabilities | none | none | none |
//! | scheduling | normal policy, I/O priority and timer slack; niceness and out-of-memory score not below 0 | the same | gVisor's own |
//! | address randomisation (personality) | on | on | gVisor's own |
//! | environment | the variables below | the same | the same |
//!
//! - The limits are: no core dumps, a stack of 8 MiB, 1,024 open files (hard limit 524,288), 8 MiB of locked memory,
//!   819,200 bytes of message queues, no raised priority, everything else unlimited. A lower hard limit of the server holds.
//!   Where the kernel refuses to change a limit (gVisor does for some), a lower one stays, and a
//!   higher one is an error: no process starts.
//! - Some bounds of the server stay in force on purpose: a positive niceness or out-of-memory score, the idle and batch
//!   policies, CPU affinity, and its cgroup.
//! - The environment has `LANG`, `HOME`, `TMPDIR`, `PYTHONUNBUFFERED`, and `PATH`, which is that of the server on the host and
//!   fixed elsewhere. `ACTIX_SANDBOX_ID` is the id of the sandbox.
//! - The server finds the processes of a sandbox by `ACTIX_SANDBOX_SERVER`, `ACTIX_SANDBOX_NAME` and `ACTIX_SANDBOX_EXEC`. The
//!   values are random, so that code cannot guess those of another sandbox. In a namespace, kills look only at the processes of
//!   that sandbox. On the host, code can read the values of other sandboxes from `/proc`, and a process that carries them is
//!   killed with those.
//!
//! # Who may call
//!
//! A server listens on the loopback interface unless told otherwise. The other users of this
//! machine, and code in a sandbox with a network, reach that too. So the URL of a [`LocalServer`]
//! holds a secret as its first segment: `http://127.0.0.1:8080/0c5f…`. Clients append their paths
//! to the URL and need no option for it.
//!
//! - A request without the secret is answered 404, with an empty body, whatever it asks for. Only
//!   `GET /healthz` and `GET /readyz` need none: they tell how many sandboxes there are, and
//!   nothing about them.
//! - By default the secret is new at each start. [`ServerBuilder::secret_file`] keeps it in a file.
//!   Servers on one [state directory](ServerBuilder::state_directory) or
//!   [bucket](ServerBuilder::state_url) share the secret that is kept there, so a client that is
//!   handed over finds the same path on each of them. Every reader of the state can read the
//!   secret.
//! - [`ServerBuilder::no_secret`] opens the server to everyone who reaches its address.
//! - The secret is no sandbox's token: it lets its owner create sandboxes, and each sandbox still
//!   has a token of its own.
//! - Treat the URL as a password: the server and this crate's client log no path of a URL. An
//!   argument of a program is shown to every user of the machine.
//! - On an address that other machines reach, secret and [access
//!   token](ServerBuilder::access_token) travel in clear text. Put a proxy that speaks TLS in
//!   front.
//! - Code on the host backend runs as the user of the server and can read its memory: no secret
//!   keeps it out.
//!
//! Then requests with an `Origin` that is not [allowed](ServerBuilder::allowed_origin), requests
//! for another [host](ServerBuilder::allowed_host) and requests without the access token are
//! refused, with a reason.
//!
//! # What one caller can take from others
//!
//! - **Connections.** The limits follow from the files that the process may open (`ulimit -n`) when
//!   the server starts. Half of them is left to the sandboxes. Connections that have not shown the
//!   secret are closed when there are many, the oldest first, so idle ones keep out neither new
//!   clients nor health checks. Clients with the secret keep their connections; at their limit one
//!   more is answered 503. `actix-sandbox serve` raises its soft limit on open files to the hard
//!   one; a [`LocalServer`] leaves the limit of its process alone.
//! - **Slow uploads.** The code for `/execute` and the configuration of a new sandbox must come
//!   within [`ServerBuilder::request_timeout`].
//! - **Sandboxes.** [`ServerBuilder::max_sandboxes`] limits them all,
//!   [`ServerBuilder::max_sandboxes_per_client`] those of one address.
//! - **The log.** Text of clients and of code is escaped.
//!
//! # How a sandbox runs
//!
//! - `python` and `bash` run with the `python3` and `bash` of this machine, each exec in a process group of its own.
//! - Each sandbox has a directory of its own; the working directory is `HOME`. Files, and processes in
//!   the background, live as long as the sandbox.
//! - Output comes as it is written; pieces within about a millisecond leave as one message. What is
//!   not UTF-8 comes as U+FFFD.
//! - An exec ends when its main process has ended and no process holds its output any more, or
//!   after a grace: under v1 after 30 s, under [v2](crate::protocol::v2) after 2 s or what the
//!   client asks for, and then the client is told that output was cut off; neither is longer than
//!   [`ServerBuilder::max_run_time`]. Processes in the background live on after that, and what they
//!   write to its output is dropped. The server keeps the last 32 such pipes of a sandbox open. A
//!   process that writes to an older one gets SIGPIPE or EPIPE, so let daemons write to a file.
//! - A client that does not read stops its process, by full pipes, and nothing else.
//! - The server installs a handler for SIGCHLD when it starts, which stays. A program that ignores
//!   that signal afterwards (`SIG_IGN`) loses the exit statuses of processes.
//! - Clients that speak [v2](crate::protocol::v2) run up to [`ServerBuilder::max_execs`] at once. Of each that ended and that its
//!   client has not acknowledged the end and the output are kept, of the last 64 in each sandbox.
//! - When its link is lost a sandbox lives on until its idle timeout, and output is kept up to
//!   [`ServerBuilder::output_buffer`].
//!
//! # What is stored
//!
//! Filesystem snapshots and checkpoints are compressed archives in the
//! [state directory](ServerBuilder::state_directory), readable by the user of the server alone, or in a
//! [bucket](ServerBuilder::state_url), readable by whom the bucket lets in.
//!
//! - Both hold the files in `HOME` and `TMPDIR`, and on the host nothing outside of them. Symbolic links are kept as
//!   links; permissions, times and holes are kept; set-user-id, set-group-id and sticky bits are not. A
//!   file with several names becomes several files. Sockets, pipes and devices are left out.
//! - A file that the server may not read (mode 000, unless it runs as root) fails the whole, by its name.
//! - A snapshot is taken while the sandbox goes on, processes included: a file may be caught half-written.
//!   One at a time for each sandbox.
//! - Up to 64 snapshots, checkpoints and restores take turns. Four work at the same time; after about
//!   100 ms of work each gives its turn to the one that has waited longest. A small one among the 64
//!   does not wait for a large one to end. Further ones wait until one of the 64 ends, and may reach
//!   [`ServerBuilder::store_timeout`] while they wait.
//! - Storing and restoring are limited: [`ServerBuilder::max_archive_size`],
//!   [`ServerBuilder::max_archive_files`], [`ServerBuilder::store_timeout`]. What exceeds a limit is refused with a
//!   reason that names it, and nothing of it is left on the disk.
//! - The server does not trust an archive. It unpacks the directories of the sandbox and nothing else; an
//!   archive with anything more is refused by the name of the entry. But it holds what the sandbox will see: who
//!   can write to the storage decides about the files in restored sandboxes and, with `gvisor`, about the memory of
//!   their processes, which gVisor's kernel reads, confined as always.
//! - A checkpoint also holds the settings of the sandbox, the SHA-256 of its token, and the ends and output that clients of v2
//!   have not acknowledged. With `gvisor` processes in the background are part of it and go on when it is restored, by the same
//!   release of `runsc`; the other backends store **no memory**: there they are ended by it.
//! - An archive is whole or absent, and an older one stays until then. A sandbox whose checkpoint fails
//!   lives on with its files; one that was to be checkpointed for being idle is tried again after the next
//!   idle timeout.
//! - A checkpoint stays when it is restored, so that a crash loses no more than what came after it. It is
//!   replaced by the next one, and removed when the sandbox is killed, or deleted for being idle.
//! - A damaged checkpoint cannot be restored, and stays to be looked at.
//!
//! # Inside
//!
//! ```text
//!  socket ── Session (actor: writes) ◄── Link (queue) ◄── Sandbox (task) ◄── Execution (task) ── process
//!     └───── Conversation (task: reads) ── commands ───────► │                    ▲
//!                                                            └── kill, stdin ─────┘
//! ```
//!
//! Sandboxes live on one thread of their own, sessions on the workers of the HTTP server. A sandbox
//! waits for nobody: not for a client that does not read, not for a process that does not.

mod attach;
mod backend;
mod choice;
mod client;
mod config;
mod connections;
mod error;
mod escaped;
mod execute;
mod execution;
mod handoff;
mod incoming;
mod link;
mod listener;
mod local;
mod manager;
mod named;
mod output;
mod private;
mod root;
mod routes;
mod sandbox;
mod secret;
mod service;
mod session;
mod stdin;
mod store;
mod token;
mod watchdog;

pub use choice::{Backend, GvisorOptions, NamespaceOptions};
pub use config::ServerBuilder;
pub use error::ServerError;
pub use local::LocalServer;
pub use service::SandboxService;
