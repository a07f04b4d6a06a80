//! Checks the backends of this machine: starts a server with each, and runs a program in a sandbox.

use std::{io, path::PathBuf, process::Stdio, time::Duration};

use actix_sandbox::{
    Error, Language, LocalServer, Output, Sandbox,
    server::{Backend, Confinement, ServerError},
};
use nix::sys::resource::{Resource, getrlimit};
use tokio::{
    process::Command,
    time::{Instant, timeout},
};

use super::{
    LIMIT, advice,
    printer::Printer,
    report::{BackendReport, Interpreter, Limits, MachineReport, OpenFiles, Program, millis},
};
use crate::cli::{failure::Failure, shared, signals::Signals};

/// The backends, the strongest first.
const BACKENDS: [&str; 3] = ["gvisor", "namespace", HOST];

/// The backend that confines nothing.
const HOST: &str = "host";

/// How long a program may take to print its version.
const VERSION_WITHIN: Duration = Duration::from_secs(10);

/// Checks all backends, one after the other.
pub(super) async fn check(
    signals: &mut Signals,
    printer: &mut Printer,
) -> Result<MachineReport, Failure> {
    let mut backends = Vec::new();
    let mut max_connections = None;
    for name in BACKENDS {
        let (report, connections) = check_backend(name, signals).await?;
        max_connections = max_connections.or(connections);
        printer.backend(&report)?;
        backends.push(report);
    }
    let auto = selected(signals).await?;
    let auto = auto.filter(|name| backends.iter().any(|it| it.works && it.backend == *name));
    let (_, limit) = getrlimit(Resource::RLIMIT_NOFILE).unwrap_or_default();
    Ok(MachineReport {
        backends,
        confined: auto.clone().filter(|name| name != HOST),
        auto,
        open_files: OpenFiles {
            limit,
            max_connections,
        },
    })
}

/// Checks a backend. Also returns how many connections its server accepts.
async fn check_backend(
    name: &'static str,
    signals: &mut Signals,
) -> Result<(BackendReport, Option<usize>), Failure> {
    let backend: Backend = name.parse().map_err(Failure::from)?;
    let program = signals.or_interrupted(program(&backend)).await?;
    let mut report = BackendReport {
        backend: name,
        works: false,
        confines: name != HOST,
        program,
        start_ms: None,
        create_and_run_ms: None,
        problem: None,
        advice: Vec::new(),
        limits: None,
        bash: None,
        python3: None,
    };
    let begin = Instant::now();
    let checked = match start(backend, signals).await? {
        Ok(server) => {
            report.start_ms = Some(millis(begin.elapsed()));
            let tried = timeout(LIMIT, try_out(&server));
            let tried = signals.or_interrupted(tried).await;
            let (confinement, connections) = (server.confinement(), server.max_connections());
            server.stop().await;
            let tried = tried?.unwrap_or_else(|_| {
                Err(format!("a new sandbox did not run `true` within {LIMIT:?}"))
            });
            tried.map(|tried| (tried, confinement, connections))
        }
        Err(reason) => {
            report.advice = advice::for_backend(name, report.program.as_ref());
            Err(reason)
        }
    };
    match checked {
        Ok((tried, confinement, connections)) => {
            report.works = true;
            report.create_and_run_ms = Some(millis(tried.create_and_run));
            report.limits = Some(limits(confinement));
            report.bash = Some(tried.bash);
            report.python3 = Some(tried.python3);
            Ok((report, Some(connections)))
        }
        Err(reason) => {
            report.problem = Some(reason);
            Ok((report, None))
        }
    }
}

/// Starts a server. The inner error is the reason why the backend doesn't work.
async fn start(
    backend: Backend,
    signals: &mut Signals,
) -> Result<Result<LocalServer, String>, Failure> {
    let server = Box::pin(LocalServer::builder().backend(backend).start());
    match signals.while_creating(timeout(LIMIT, server)).await {
        Ok(Ok(Ok(server))) => Ok(Ok(server)),
        Ok(Ok(Err(ServerError::Backend { reason, .. }))) => Ok(Err(reason)),
        Ok(Ok(Err(error))) => Ok(Err(shared::not_started(&error))),
        Ok(Err(_)) => Ok(Err(format!("the server did not start within {LIMIT:?}"))),
        Err((stop, created)) => {
            if let Some(Ok(Ok(server))) = created {
                server.stop().await;
            }
            Err(stop)
        }
    }
}

/// The results of running programs in a sandbox.
struct Tried {
    /// From the request to create the sandbox to the end of `true` in it.
    create_and_run: Duration,
    bash: Interpreter,
    python3: Interpreter,
}

/// Creates a sandbox, and runs `true` and the interpreters in it. The error is the reason why that
/// doesn't work.
async fn try_out(server: &LocalServer) -> Result<Tried, String> {
    let begin = Instant::now();
    let failed = |error: Error| error.to_string();
    let sandbox = Sandbox::create(server.url()).await.map_err(failed)?;
    let ran = sandbox.program("true").output().await;
    ran.and_then(Output::error_for_status).map_err(failed)?;
    let create_and_run = begin.elapsed();
    let bash = "echo \"${BASH_VERSION%%(*}\"; echo \"$BASH\"";
    let python = "import platform, sys; print(platform.python_version()); print(sys.executable)";
    let tried = Tried {
        create_and_run,
        bash: interpreter(&sandbox, Language::Bash, bash).await,
        python3: interpreter(&sandbox, Language::Python, python).await,
    };
    sandbox.kill().await.map_err(failed)?;
    Ok(tried)
}

/// Runs code that prints the version and the path of its interpreter.
async fn interpreter(sandbox: &Sandbox, language: Language, code: &str) -> Interpreter {
    let ran = sandbox.run(language, code).await;
    match ran.and_then(Output::error_for_status) {
        Ok(output) => {
            let stdout = output.stdout_lossy();
            let mut lines = stdout.lines().map(str::to_owned);
            Interpreter {
                version: lines.next(),
                path: lines.next(),
                problem: None,
            }
        }
        Err(error) => Interpreter {
            version: None,
            path: None,
            problem: Some(error.to_string()),
        },
    }
}

/// The backend that `auto` selects. `None` if the server doesn't start.
async fn selected(signals: &mut Signals) -> Result<Option<String>, Failure> {
    let Ok(server) = start(Backend::Auto, signals).await? else {
        return Ok(None);
    };
    let name = server.backend().to_owned();
    server.stop().await;
    Ok(Some(name))
}

/// The program of a backend, if it is installed.
async fn program(backend: &Backend) -> Option<Program> {
    let path = backend.program()?;
    let version = timeout(VERSION_WITHIN, version(&path)).await;
    Some(Program {
        version: version.ok().and_then(Result::ok).flatten(),
        path,
    })
}

/// The version that a program prints: the last word of the first line.
async fn version(program: &PathBuf) -> io::Result<Option<String>> {
    let output = Command::new(program)
        .arg("--version")
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await?;
    let stdout = String::from_utf8_lossy(&output.stdout);
    let first = stdout.lines().next().unwrap_or_default();
    Ok(first.split_whitespace().last().map(str::to_owned))
}

fn limits(confinement: Confinement) -> Limits {
    Limits {
        memory_bytes: confinement.memory,
        sandbox_memory_bytes: confinement.sandbox_memory,
        cpus: confinement.cpus,
        processes: confinement.processes,
        disk_bytes: confinement.disk,
        file_size_bytes: confinement.file_size,
        open_files: confinement.open_files,
        user: confinement.user.into(),
        system_calls: confinement.system_calls.into(),
        network: confinement.network,
        no_cgroup: confinement.no_cgroup,
    }
}
