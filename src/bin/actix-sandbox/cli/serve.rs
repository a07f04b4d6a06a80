//! `actix-sandbox serve`: a sandbox server.

use std::{
    ffi::OsString,
    io::{ErrorKind, Write},
    net::ToSocketAddrs,
    path::PathBuf,
    pin::pin,
    process::ExitCode,
    time::Duration,
};

use actix_sandbox::server::{Backend, LocalServer, ServerBuilder};
use bytesize::ByteSize;
use clap::Args;

use crate::cli::{
    failure::Failure,
    logging::{self, LogFormat},
    shared::{
        self, TOKEN, backend, duration, not_started, positive, positive_u64, size, warm, workers,
    },
    signals::{SAME_WITHIN, Signals},
};

/// Headings of `--help`.
const CALLERS: &str = "Access control";
const HANDOFF: &str = "Handoff between servers";
const LIMITS: &str = "Limits";

#[derive(Args)]
pub(crate) struct Serve {
    /// Address to listen on, as host:port. Port 0 selects a free port; the server prints its URL.
    #[arg(long, env = "ACTIX_SANDBOX_ADDRESS", default_value = "127.0.0.1:8080")]
    address: String,

    /// Backend that runs the code. gvisor and namespace confine the code, host confines nothing.
    /// confined selects the best backend that confines code and works on this machine. auto does
    /// the same, but falls back to host if none works.
    #[arg(long, env = "ACTIX_SANDBOX_BACKEND", default_value = "auto", value_parser = backend)]
    backend: Backend,

    /// File with the access token that clients must send as `Authorization: Bearer …`, at least 16
    /// ASCII characters [default: the token in the variable ACTIX_SANDBOX_TOKEN, or no token].
    #[arg(long, help_heading = CALLERS, value_name = "FILE")]
    token_file: Option<PathBuf>,

    /// File with the secret part of the URL, so that the URL stays the same after a restart. The
    /// server creates the file if it is missing. Only the user of the server may have access to it
    /// (mode 0600) [default: the secret in --state, or a new secret at each start].
    #[arg(long, help_heading = CALLERS, value_name = "FILE")]
    secret_file: Option<PathBuf>,

    /// Leaves the secret out of the URL. Without an access token, every user of this machine can
    /// then run code here. If other machines can reach the address, an access token is required.
    #[arg(long, help_heading = CALLERS, conflicts_with = "secret_file")]
    no_secret: bool,

    /// Directory for the files of running sandboxes [default: the directory for temporary files].
    #[arg(long, value_name = "DIRECTORY")]
    directory: Option<PathBuf>,

    /// Where to keep snapshots and checkpoints: a directory, or, with the feature object-store, a
    /// bucket as s3://BUCKET/PREFIX or gs://BUCKET/PREFIX with credentials in the environment
    /// [default: a directory that is removed when the server stops].
    #[arg(long, value_name = "PLACE", env = "ACTIX_SANDBOX_STATE")]
    state: Option<OsString>,

    /// Maximum size of a snapshot or checkpoint before compression [default: 8GiB].
    #[arg(long, help_heading = LIMITS, value_name = "SIZE", value_parser = size)]
    max_archive_size: Option<ByteSize>,

    /// Maximum number of files, directories and links in a snapshot or checkpoint [default:
    /// 1000000].
    #[arg(long, help_heading = LIMITS, value_name = "NUMBER", value_parser = positive_u64)]
    max_archive_files: Option<u64>,

    /// Time limit for storing or restoring a sandbox, for example 2m [default: 5m].
    #[arg(long, help_heading = LIMITS, value_name = "TIME", value_parser = duration)]
    store_timeout: Option<Duration>,

    /// Duration of the lease on a sandbox with handoff. If the server of the sandbox dies, another
    /// server with the same --state can take over the sandbox after this time [default: 10s].
    #[arg(long, help_heading = HANDOFF, value_name = "TIME", value_parser = duration)]
    handoff_lease: Option<Duration>,

    /// How long to wait for another server to release a sandbox [default: 60s].
    #[arg(long, help_heading = HANDOFF, value_name = "TIME", value_parser = duration)]
    handoff_timeout: Option<Duration>,

    /// Time limit for a graceful shutdown, for example 30s. Checkpoints get 5s less, but at least
    /// 10s. A second signal, more than 2s after the first, ends the server at once.
    #[arg(long, default_value = "15s", value_parser = humantime::parse_duration)]
    grace: Duration,

    /// Maximum number of sandboxes [default: 1024].
    #[arg(long, help_heading = LIMITS, value_name = "NUMBER", value_parser = positive)]
    max_sandboxes: Option<usize>,

    /// Size of the warm pool: sandboxes that are started and ready for clients, at most 1000. They
    /// don't count toward --max-sandboxes. Each takes as much memory as an idle sandbox. Needs a
    /// backend that confines code [default: 0].
    #[arg(long, help_heading = LIMITS, value_name = "NUMBER", value_parser = warm)]
    warm: Option<usize>,

    /// Maximum number of sandboxes for each client IP address. IPv6 addresses with the same first
    /// 64 bits count as one [default: no limit].
    #[arg(long, help_heading = LIMITS, value_name = "NUMBER", value_parser = positive)]
    max_sandboxes_per_client: Option<usize>,

    /// Maximum number of connections of authenticated clients, at most 3/8 of the limit on open
    /// files [default: 50000].
    #[arg(long, help_heading = LIMITS, value_name = "NUMBER", value_parser = positive)]
    max_connections: Option<usize>,

    /// Number of threads that serve connections [default: 2].
    #[arg(long, help_heading = LIMITS, value_name = "NUMBER", value_parser = workers)]
    workers: Option<usize>,

    /// Maximum number of execs that run concurrently in one sandbox [default: 64].
    #[arg(long, help_heading = LIMITS, value_name = "NUMBER", value_parser = positive)]
    max_execs: Option<usize>,

    /// Maximum run time of an exec without a terminal [default: 1h].
    #[arg(long, help_heading = LIMITS, value_name = "TIME", value_parser = duration)]
    max_run_time: Option<Duration>,

    /// Idle timeout of sandboxes whose client doesn't request one [default: 5m].
    #[arg(long, help_heading = LIMITS, value_name = "TIME", value_parser = duration)]
    default_idle_timeout: Option<Duration>,

    /// Maximum idle timeout that a client can request [default: 24h].
    #[arg(long, help_heading = LIMITS, value_name = "TIME", value_parser = duration)]
    max_idle_timeout: Option<Duration>,

    /// Maximum size of a message from a client [default: 16MiB].
    #[arg(long, help_heading = LIMITS, value_name = "SIZE", value_parser = size)]
    max_message_size: Option<ByteSize>,

    /// Size of the buffer for output that the client hasn't received yet. A process pauses while
    /// its buffer is full [default: 1MiB].
    #[arg(long, help_heading = LIMITS, value_name = "SIZE", value_parser = size)]
    output_buffer: Option<ByteSize>,

    /// Time limit for a client to send code or a configuration [default: 30s].
    #[arg(long, help_heading = LIMITS, value_name = "TIME", value_parser = duration)]
    request_timeout: Option<Duration>,

    /// Allows requests from web pages of this origin, for example `https://example.com`. May be
    /// given more than once.
    #[arg(long, help_heading = CALLERS, value_name = "ORIGIN")]
    allowed_origin: Vec<String>,

    /// Accepts requests with this host name in the `Host` header, for example behind a proxy. May
    /// be given more than once.
    #[arg(long, help_heading = CALLERS, value_name = "NAME")]
    allowed_host: Vec<String>,

    /// Format of the log, which goes to stderr. RUST_LOG sets its levels, for example `debug` or
    /// `actix_sandbox=debug,info`.
    #[arg(long, value_enum, default_value = "text")]
    log_format: LogFormat,

    // Must come last: its heading also applies to the fields after it.
    #[command(flatten)]
    confines: Confines,
}

/// Options of the backends `namespace` and `gvisor`.
#[derive(Args)]
#[command(next_help_heading = "Confinement (needs --backend namespace or gvisor)")]
struct Confines {
    /// Maximum memory of each process, at least 32MiB. With the backend gvisor, a sandbox gets
    /// twice as much, rounded up to a whole GiB [default: 2GiB].
    #[arg(long, value_name = "SIZE")]
    memory: Option<ByteSize>,

    /// Maximum number of processes and threads in one sandbox, at least 8 [default: 512].
    #[arg(long, value_name = "NUMBER")]
    processes: Option<u64>,

    /// Maximum size of a file, at least 4KiB [default: 4GiB].
    #[arg(long, value_name = "SIZE")]
    file_size: Option<ByteSize>,

    /// Maximum number of open files of each process, at least 16 [default: 1024].
    #[arg(long, value_name = "NUMBER")]
    open_files: Option<u64>,

    /// Maximum space on the disk for the files of one sandbox, at least 1MiB. Each file counts at
    /// least 4KiB. Checked about every second. Only with the backend namespace [default: 4GiB].
    #[arg(long, value_name = "SIZE")]
    disk: Option<ByteSize>,

    /// Maximum memory of one sandbox, at least 32MiB. Needs a cgroup v2 that is delegated to the
    /// server. Only with the backend namespace [default: twice the memory of a process, or none
    /// without a cgroup].
    #[arg(long, value_name = "SIZE")]
    sandbox_memory: Option<ByteSize>,

    /// Maximum processor time of one sandbox, as a number of processors, at least 0.01. Needs a
    /// cgroup v2 that is delegated to the server. Only with the backend namespace [default: none].
    #[arg(long, value_name = "NUMBER")]
    cpus: Option<f64>,

    /// Lets sandboxes use the network of this machine.
    #[arg(long)]
    network: bool,

    /// Lets sandboxes read this directory. May be given more than once.
    #[arg(long, value_name = "DIRECTORY")]
    readable: Vec<PathBuf>,

    /// gVisor's program, as a name or a path. Only with --backend gvisor [default: runsc].
    #[arg(long, value_name = "PROGRAM")]
    runsc: Option<PathBuf>,

    /// gVisor's platform, which intercepts system calls: ptrace, systrap or kvm. Only with
    /// --backend gvisor.
    #[arg(long, value_name = "NAME")]
    platform: Option<String>,
}

impl Confines {
    /// Applies these options to the backend. Fails if an option doesn't apply to it.
    fn with(self, backend: Backend) -> Result<Backend, String> {
        /// Sets the options that were given.
        macro_rules! confine {
            ($options:expr) => {{
                let mut options = $options.network(self.network);
                if let Some(size) = self.memory {
                    options = options.memory(size.as_u64());
                }
                if let Some(number) = self.processes {
                    options = options.processes(number);
                }
                if let Some(size) = self.file_size {
                    options = options.file_size(size.as_u64());
                }
                if let Some(number) = self.open_files {
                    options = options.open_files(number);
                }
                for directory in self.readable {
                    options = options.readable(directory);
                }
                options
            }};
        }
        let of_gvisor = [
            ("--runsc", self.runsc.is_some()),
            ("--platform", self.platform.is_some()),
        ];
        let of_namespace = [
            ("--disk", self.disk.is_some()),
            ("--sandbox-memory", self.sandbox_memory.is_some()),
            ("--cpus", self.cpus.is_some()),
        ];
        let of_both = [
            ("--memory", self.memory.is_some()),
            ("--processes", self.processes.is_some()),
            ("--file-size", self.file_size.is_some()),
            ("--open-files", self.open_files.is_some()),
            ("--network", self.network),
            ("--readable", !self.readable.is_empty()),
        ];
        let given = |options: &[(&'static str, bool)]| {
            let given = options.iter().find(|(_, is_given)| *is_given);
            given.map(|(option, _)| *option)
        };
        match backend {
            Backend::Namespace(options) => {
                if let Some(option) = given(&of_gvisor) {
                    return Err(format!("`{option}` needs `--backend gvisor`"));
                }
                let mut options = confine!(options);
                if let Some(size) = self.disk {
                    options = options.disk(size.as_u64());
                }
                if let Some(size) = self.sandbox_memory {
                    options = options.sandbox_memory(size.as_u64());
                }
                if let Some(number) = self.cpus {
                    options = options.cpus(number);
                }
                Ok(Backend::Namespace(options))
            }
            Backend::Gvisor(options) => {
                if let Some(option) = given(&of_namespace) {
                    return Err(format!("`{option}` needs `--backend namespace`"));
                }
                let mut options = confine!(options);
                if let Some(program) = self.runsc {
                    options = options.binary(program);
                }
                if let Some(platform) = self.platform {
                    options = options.platform(platform);
                }
                Ok(Backend::Gvisor(options))
            }
            other => {
                let needs = if let Some(option) = given(&of_gvisor) {
                    format!("`{option}` needs `--backend gvisor`")
                } else if let Some(option) = given(&of_namespace) {
                    format!("`{option}` needs `--backend namespace`")
                } else if let Some(option) = given(&of_both) {
                    format!("`{option}` needs `--backend namespace` or `--backend gvisor`")
                } else {
                    return Ok(other);
                };
                Err(needs)
            }
        }
    }
}

impl Serve {
    pub(crate) fn run(self) -> Result<ExitCode, Failure> {
        logging::init(self.log_format)?;
        let token = shared::server_token(self.token_file.as_deref())?;
        self.check_address(token.is_some())?;
        shared::raise_open_files();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| format!("cannot start: {error}"))?;
        Ok(runtime.block_on(self.serve(token))?)
    }

    async fn serve(self, token: Option<String>) -> Result<ExitCode, String> {
        let grace = self.grace;
        // Registered before the start, so that a signal during the start also shuts down
        // gracefully.
        let mut signals = Signals::new().map_err(|error| format!("cannot start: {error}"))?;
        let server = tokio::select! {
            server = self.builder(token)?.start() => server.map_err(|error| not_started(&error))?,
            _ = signals.next() => return Ok(ExitCode::SUCCESS),
        };
        let line = format!("listening on {}\n", server.url());
        // Stop if the URL can't be written, because no client could find the server. Once the URL
        // is written, the server keeps running, even if the reader closes the pipe.
        if let Err(error) = std::io::stdout().write_all(line.as_bytes()) {
            server.stop().await;
            return match error.kind() {
                ErrorKind::BrokenPipe => Ok(ExitCode::SUCCESS),
                _ => Err(format!(
                    "cannot write the URL of the server to stdout: {error}"
                )),
            };
        }
        signals.next().await;
        tracing::info!(
            ?grace,
            "shutting down; a second signal, more than {SAME_WITHIN:?} later, ends it at once"
        );
        // Pinned outside of `select!`, which drops its futures before it runs a handler. So the
        // server still exists when `end_at_once` runs.
        let mut stopped = pin!(tokio::time::timeout(grace, server.stop()));
        tokio::select! {
            stopped = &mut stopped => match stopped {
                Ok(()) => Ok(ExitCode::SUCCESS),
                Err(_) => end_at_once(&format!(
                    "the shutdown took longer than {grace:?} (`--grace`)"
                )),
            },
            _ = signals.another() => end_at_once("ended at once by a second signal"),
        }
    }

    /// Fails if other machines can reach the address and the server has neither token nor secret.
    /// Warns that the credentials travel in clear text if other machines can reach the address.
    fn check_address(&self, has_token: bool) -> Result<(), String> {
        let address = &self.address;
        let found = address.to_socket_addrs().map_err(|error| {
            format!(
                "cannot listen on `{address}` (expected host:port, for example 127.0.0.1:8080): \
                 {error}"
            )
        })?;
        let Some(ip) = found.map(|it| it.ip()).find(|ip| !ip.is_loopback()) else {
            return Ok(());
        };
        if self.no_secret && !has_token {
            return Err(format!(
                "other machines can reach {ip}, and with `--no-secret` they could run code here: \
                 leave out `--no-secret`, set an access token (`--token-file` or the variable \
                 {TOKEN}), or listen on 127.0.0.1"
            ));
        }
        tracing::warn!(
            "other machines can reach {ip}, and the secret and the access token travel in clear \
             text: put a TLS proxy in front of the server"
        );
        Ok(())
    }

    fn builder(self, token: Option<String>) -> Result<ServerBuilder, String> {
        let bytes = |size: ByteSize| usize::try_from(size.as_u64()).unwrap_or(usize::MAX);
        let mut builder = LocalServer::builder()
            .address(self.address)
            .backend(self.confines.with(self.backend)?)
            .shutdown_timeout(for_sandboxes(self.grace));
        /// Sets the options that were given.
        macro_rules! set {
            ($($option:ident: $value:expr),* $(,)?) => {
                $(if let Some(value) = $value {
                    builder = builder.$option(value);
                })*
            };
        }
        set! {
            access_token: token,
            directory: self.directory,
            max_archive_size: self.max_archive_size.map(|size| size.as_u64()),
            max_archive_files: self.max_archive_files,
            store_timeout: self.store_timeout,
            handoff_lease: self.handoff_lease,
            handoff_timeout: self.handoff_timeout,
            secret_file: self.secret_file,
            max_sandboxes: self.max_sandboxes,
            warm: self.warm,
            max_sandboxes_per_client: self.max_sandboxes_per_client,
            request_timeout: self.request_timeout,
            max_connections: self.max_connections,
            workers: self.workers,
            max_execs: self.max_execs,
            max_run_time: self.max_run_time,
            default_idle_timeout: self.default_idle_timeout,
            max_idle_timeout: self.max_idle_timeout,
            max_message_size: self.max_message_size.map(bytes),
            output_buffer: self.output_buffer.map(bytes),
        }
        if self.no_secret {
            builder = builder.no_secret();
        }
        builder = match self.state {
            None => builder,
            Some(place) => match place.to_str().filter(|place| place.contains("://")) {
                Some(url) => builder.state_url(url),
                None => builder.state_directory(place),
            },
        };
        for origin in self.allowed_origin {
            builder = builder.allowed_origin(origin);
        }
        for host in self.allowed_host {
            builder = builder.allowed_host(host);
        }
        Ok(builder)
    }
}

/// Exits at once, without dropping the server. The watchdog cleans up the rest.
fn end_at_once(reason: &str) -> ! {
    shared::say(reason);
    std::process::exit(1)
}

/// The part of `--grace` for checkpointing and deleting sandboxes. The remainder is for stopping
/// the backend and the listener.
fn for_sandboxes(grace: Duration) -> Duration {
    let share = grace.saturating_sub(Duration::from_secs(5));
    share.max(Duration::from_secs(10))
}
