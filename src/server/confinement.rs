//! [`Confinement`]: what a backend enforces on each sandbox. No IO.

/// What the backend of a running server enforces on each sandbox, as
/// [`LocalServer::confinement`](super::LocalServer::confinement) reports it.
///
/// The limits have the names of the options of
/// [`NamespaceOptions`](super::NamespaceOptions). `None` means that the backend doesn't limit the
/// resource.
///
/// ```
/// use actix_sandbox::server::{Backend, LocalServer};
///
/// # futures::executor::block_on(async {
/// let server = LocalServer::builder().backend(Backend::Host).start().await?;
/// let confinement = server.confinement();
/// assert_eq!(confinement.memory, None);
/// assert!(confinement.network);
/// # server.stop().await;
/// # Ok::<_, actix_sandbox::server::ServerError>(())
/// # }).unwrap();
/// ```
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Confinement {
    /// The maximum memory of each process, in bytes.
    pub memory: Option<u64>,
    /// The maximum memory of all processes of a sandbox together, in bytes.
    pub sandbox_memory: Option<u64>,
    /// The maximum processor time of a sandbox, as a number of processors.
    pub cpus: Option<f64>,
    /// The maximum number of processes and threads of a sandbox.
    pub processes: Option<u64>,
    /// The maximum bytes on the disk that the files of a sandbox take.
    pub disk: Option<u64>,
    /// The maximum size of a file, in bytes.
    pub file_size: Option<u64>,
    /// The maximum number of files that a process may have open.
    pub open_files: Option<u64>,
    /// Whether code can use the network of this machine.
    pub network: bool,
    /// The user ID under which code runs on this machine.
    pub user: CodeUser,
    /// What handles the system calls of code.
    pub system_calls: SystemCalls,
    /// Why no cgroup limits the sandboxes, and what to do. `None` if cgroups limit them, or if the
    /// backend doesn't use cgroups.
    pub no_cgroup: Option<String>,
}

impl Confinement {
    /// No limits: code can do what the user of the server can do.
    pub(super) fn none() -> Self {
        Self {
            memory: None,
            sandbox_memory: None,
            cpus: None,
            processes: None,
            disk: None,
            file_size: None,
            open_files: None,
            network: true,
            user: CodeUser::Server,
            system_calls: SystemCalls::Unfiltered,
            no_cgroup: None,
        }
    }
}

/// The user ID of this machine that the code of a sandbox runs as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CodeUser {
    /// The user of the server.
    Server,
    /// A user without privileges, which all sandboxes share.
    Shared,
    /// A different user for each sandbox.
    Own,
}

/// What handles the system calls of code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SystemCalls {
    /// The kernel of this machine, without a filter.
    Unfiltered,
    /// The kernel of this machine, behind a seccomp filter.
    Filtered,
    /// The kernel of gVisor, which is separate for each sandbox.
    OwnKernel,
}
