//! `actix-sandbox serve`: a server of sandboxes.

use std::{
    ffi::OsString,
    io::{ErrorKind, Write},
    net::ToSocketAddrs,
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};

use actix_sandbox::server::{Backend, LocalServer, ServerBuilder};
use bytesize::ByteSize;
use clap::{Args, ValueEnum};
use tracing_subscriber::EnvFilter;

use crate::shared::{
    self, SAME_WITHIN, Signals, TOKEN, backend, duration, not_started, positive, positive_u64,
    size, workers,
};

/// Headings of `--help`.
const CALLERS: &str = "Who may use it";
const HANDOFF: &str = "Handoff between servers";
const LIMITS: &str = "Limits";

#[derive(Args)]
pub(crate) struct Serve {
    /// Where to listen, as host:port; port 0 takes a free one, and the line that is printed says which.
    #[arg(long, env = "ACTIX_SANDBOX_ADDRESS", default_value = "127.0.0.1:8080")]
    address: String,

    /// What runs the code: gvisor or namespace, which confine it; host, which confines nothing;
    /// confined (the best that confines, or an error); auto (the same, or else host).
    #[arg(long, env = "ACTIX_SANDBOX_BACKEND", default_value = "auto", value_parser = backend)]
    backend: Backend,

    /// A file with the token that requests must carry as `Authorization: Bearer …`. Or the variable
    /// ACTIX_SANDBOX_TOKEN.
    #[arg(long, help_heading = CALLERS, value_name = "FILE")]
    token_file: Option<PathBuf>,

    /// A file with the secret in the URL, so that the URL stays the same after a restart. A missing
    /// file is created. It must belong to the user of the server and be closed to others [default:
    /// a new secret for each start, or with --state the one that is kept there].
    #[arg(long, help_heading = CALLERS, value_name = "FILE")]
    secret_file: Option<PathBuf>,

    /// Leaves the secret out of the URL: without an access token every user of this machine can run
    /// code here. On an address that other machines reach it needs an access token.
    #[arg(long, help_heading = CALLERS, conflicts_with = "secret_file")]
    no_secret: bool,

    /// Where the directories of sandboxes are put [default: the directory for temporary files].
    #[arg(long, value_name = "DIRECTORY")]
    directory: Option<PathBuf>,

    /// Where snapshots and checkpoints are kept: a directory, or with the feature object-store a bucket as s3://BUCKET/PREFIX or
    /// gs://BUCKET/PREFIX, with credentials in the environment [default: nowhere that outlives the server].
    #[arg(long, value_name = "PLACE", env = "ACTIX_SANDBOX_STATE")]
    state: Option<OsString>,

    /// Largest archive of a snapshot or a checkpoint, before it is compressed, for example 8GiB [default: 8GiB].
    #[arg(long, help_heading = LIMITS, value_name = "SIZE", value_parser = size)]
    max_archive_size: Option<ByteSize>,

    /// Most files, directories and links in an archive [default: 1000000].
    #[arg(long, help_heading = LIMITS, value_name = "NUMBER", value_parser = positive_u64)]
    max_archive_files: Option<u64>,

    /// Longest time that storing or restoring a sandbox may take, for example 2m [default: 5m].
    #[arg(long, help_heading = LIMITS, value_name = "TIME", value_parser = duration)]
    store_timeout: Option<Duration>,

    /// How long a sandbox belongs to a server that does not renew its claim, where several share a
    /// state [default: 10s].
    #[arg(long, help_heading = HANDOFF, value_name = "TIME", value_parser = duration)]
    handoff_lease: Option<Duration>,

    /// How long to wait for another server to release a sandbox [default: 60s].
    #[arg(long, help_heading = HANDOFF, value_name = "TIME", value_parser = duration)]
    handoff_timeout: Option<Duration>,

    /// Longest time that stopping may take, for example 30s. A second signal more than 2s after the first ends it at once.
    #[arg(long, default_value = "15s", value_parser = humantime::parse_duration)]
    grace: Duration,

    /// Most sandboxes at once [default: 1024].
    #[arg(long, help_heading = LIMITS, value_name = "NUMBER", value_parser = positive)]
    max_sandboxes: Option<usize>,

    /// Most sandboxes at once of the clients of one IP address; an IPv6 address counts by its first
    /// 64 bits [default: no limit].
    #[arg(long, help_heading = LIMITS, value_name = "NUMBER", value_parser = positive)]
    max_sandboxes_per_client: Option<usize>,

    /// Most connections at once of clients that may call [default: as the limit on open files
    /// permits].
    #[arg(long, help_heading = LIMITS, value_name = "NUMBER", value_parser = positive)]
    max_connections: Option<usize>,

    /// Threads that serve connections [default: 2].
    #[arg(long, help_heading = LIMITS, value_name = "NUMBER", value_parser = workers)]
    workers: Option<usize>,

    /// Most execs at once in one sandbox [default: 64].
    #[arg(long, help_heading = LIMITS, value_name = "NUMBER", value_parser = positive)]
    max_execs: Option<usize>,

    /// Longest time that an exec may run [default: 1h].
    #[arg(long, help_heading = LIMITS, value_name = "TIME", value_parser = duration)]
    max_run_time: Option<Duration>,

    /// Idle time after which a sandbox is deleted whose client names none [default: 5m].
    #[arg(long, help_heading = LIMITS, value_name = "TIME", value_parser = duration)]
    default_idle_timeout: Option<Duration>,

    /// Longest idle time that a client gets [default: 24h].
    #[arg(long, help_heading = LIMITS, value_name = "TIME", value_parser = duration)]
    max_idle_timeout: Option<Duration>,

    /// Largest message of a client [default: 16MiB].
    #[arg(long, help_heading = LIMITS, value_name = "SIZE", value_parser = size)]
    max_message_size: Option<ByteSize>,

    /// Output of a process that waits for its client [default: 1MiB].
    #[arg(long, help_heading = LIMITS, value_name = "SIZE", value_parser = size)]
    output_buffer: Option<ByteSize>,

    /// Longest time that a client may take to send code or a configuration [default: 30s].
    #[arg(long, help_heading = LIMITS, value_name = "TIME", value_parser = duration)]
    request_timeout: Option<Duration>,

    /// Lets web pages of this origin in; may be given more than once.
    #[arg(long, help_heading = CALLERS, value_name = "ORIGIN")]
    allowed_origin: Vec<String>,

    /// Accepts this host name in requests; may be given more than once.
    #[arg(long, help_heading = CALLERS, value_name = "NAME")]
    allowed_host: Vec<String>,

    /// How the log is written, to the standard error; RUST_LOG says how much of it.
    #[arg(long, value_enum, default_value = "text")]
    log_format: LogFormat,

    // The last: its heading also holds for what follows it.
    #[command(flatten)]
    confines: Confines,
}

/// What the backends `namespace` and `gvisor` let a sandbox see and use.
#[derive(Args)]
#[command(next_help_heading = "With --backend namespace or gvisor")]
struct Confines {
    /// Most memory of one process, at least 32MiB [default: 2GiB].
    #[arg(long, value_name = "SIZE")]
    memory: Option<ByteSize>,

    /// Most processes and threads at once in one sandbox, at least 8 [default: 512].
    #[arg(long, value_name = "NUMBER")]
    processes: Option<u64>,

    /// Largest file, at least 4KiB [default: 4GiB].
    #[arg(long, value_name = "SIZE")]
    file_size: Option<ByteSize>,

    /// Most files that one process may have open, at least 16 [default: 1024].
    #[arg(long, value_name = "NUMBER")]
    open_files: Option<u64>,

    /// Lets sandboxes use the network of this machine.
    #[arg(long)]
    network: bool,

    /// Lets sandboxes read this directory; may be given more than once.
    #[arg(long, value_name = "DIRECTORY")]
    readable: Vec<PathBuf>,

    /// The program of gVisor, with --backend gvisor alone [default: runsc].
    #[arg(long, value_name = "PROGRAM")]
    runsc: Option<PathBuf>,

    /// How gVisor catches system calls, with --backend gvisor alone: ptrace, systrap or kvm.
    #[arg(long, value_name = "NAME")]
    platform: Option<String>,
}

impl Confines {
    /// The backend with these options; an option that it does not have is an error.
    fn with(self, backend: Backend) -> Result<Backend, String> {
        /// Sets what was asked for.
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
            Backend::Namespace(options) => match given(&of_gvisor) {
                Some(option) => Err(format!("`{option}` needs `--backend gvisor`")),
                None => Ok(Backend::Namespace(confine!(options))),
            },
            Backend::Gvisor(options) => {
                let mut options = confine!(options);
                if let Some(program) = self.runsc {
                    options = options.binary(program);
                }
                if let Some(platform) = self.platform {
                    options = options.platform(platform);
                }
                Ok(Backend::Gvisor(options))
            }
            other => match given(&of_gvisor).or_else(|| given(&of_both)) {
                Some(option) => Err(format!(
                    "`{option}` needs `--backend gvisor` or, but for --runsc and --platform, `--backend namespace`"
                )),
                None => Ok(other),
            },
        }
    }
}

#[derive(Clone, Copy, ValueEnum)]
enum LogFormat {
    Text,
    Json,
}

impl Serve {
    pub(crate) fn run(self) -> Result<ExitCode, String> {
        self.log();
        let token = shared::token(self.token_file.as_deref())?;
        self.check_address(token.is_some())?;
        shared::raise_open_files();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| format!("cannot start: {error}"))?;
        runtime.block_on(self.serve(token))
    }

    async fn serve(self, token: Option<String>) -> Result<ExitCode, String> {
        let grace = self.grace;
        // From now on, so that a signal while it starts ends it in good order as well.
        let mut signals = Signals::new().map_err(|error| format!("cannot start: {error}"))?;
        let server = tokio::select! {
            server = self.builder(token)?.start() => server.map_err(|error| not_started(&error))?,
            () = signals.next() => return Ok(ExitCode::SUCCESS),
        };
        let line = format!("listening on {}\n", server.url());
        // A server that nobody can find ends. One whose address was read goes on, also when the
        // reader then closes its end.
        if let Err(error) = std::io::stdout().write_all(line.as_bytes()) {
            server.stop().await;
            return match error.kind() {
                ErrorKind::BrokenPipe => Ok(ExitCode::SUCCESS),
                _ => Err(format!("cannot write to the standard output: {error}")),
            };
        }
        signals.next().await;
        tracing::info!(
            ?grace,
            "stopping; a second signal, after {SAME_WITHIN:?}, ends it at once"
        );
        let impatient = async {
            tokio::time::sleep(SAME_WITHIN).await;
            signals.forget();
            signals.next().await;
        };
        tokio::select! {
            stopped = tokio::time::timeout(grace, server.stop()) => match stopped {
                Ok(()) => Ok(ExitCode::SUCCESS),
                Err(_) => end_at_once(&format!("it was not over within {grace:?}")),
            },
            () = impatient => end_at_once("ended at once by a second signal"),
        }
    }

    fn log(&self) {
        let filter = EnvFilter::try_from_default_env()
            .unwrap_or_else(|_| EnvFilter::new("info,actix_server=warn"));
        let log = tracing_subscriber::fmt()
            .with_env_filter(filter)
            // It would say with a panic that the reader of the log is gone.
            .log_internal_errors(false)
            .with_writer(std::io::stderr);
        match self.log_format {
            LogFormat::Text => log.with_ansi(false).init(),
            LogFormat::Json => log.json().init(),
        }
    }

    /// An address that other machines reach needs a token or a secret. Warns if only the secret
    /// keeps them out.
    fn check_address(&self, has_token: bool) -> Result<(), String> {
        let address = &self.address;
        let found = address.to_socket_addrs().map_err(|error| {
            format!("`{address}` is no address to listen on (expected host:port, for example 127.0.0.1:8080): {error}")
        })?;
        let Some(ip) = found.map(|it| it.ip()).find(|ip| !ip.is_loopback()) else {
            return Ok(());
        };
        if self.no_secret && !has_token {
            return Err(format!(
                "other machines reach {ip}, and with `--no-secret` every caller could run code here: leave out `--no-secret`, \
                 set an access token in a file (`--token-file`) or the variable {TOKEN}, or listen on 127.0.0.1"
            ));
        }
        tracing::warn!(
            "other machines reach {ip}, and what lets callers in travels in clear text: put a proxy that speaks TLS in front"
        );
        Ok(())
    }

    fn builder(self, token: Option<String>) -> Result<ServerBuilder, String> {
        let bytes = |size: ByteSize| usize::try_from(size.as_u64()).unwrap_or(usize::MAX);
        let mut builder = LocalServer::builder()
            .address(self.address)
            .backend(self.confines.with(self.backend)?);
        /// Sets what was asked for.
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

/// Ends this process without waiting for the server, as its drop would. What is left is cleaned up by the watchdog.
fn end_at_once(reason: &str) -> ! {
    shared::say(reason);
    std::process::exit(1)
}
