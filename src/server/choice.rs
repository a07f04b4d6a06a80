//! [`Backend`]: the option that selects what runs the code of sandboxes. No IO.

use std::{path::PathBuf, str::FromStr};

use super::{error::ServerError, setters::setters};

/// The backend, which runs the code of sandboxes.
///
/// ```
/// use actix_sandbox::server::{Backend, NamespaceOptions};
///
/// let namespace = NamespaceOptions::default().processes(64).network(true);
/// assert_ne!(Backend::Namespace(namespace), "namespace".parse().unwrap());
/// assert!("chroot".parse::<Backend>().is_err());
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Backend {
    /// The first of `gvisor`, `namespace` and `host` that works on this machine. The server logs
    /// which one, and why the others don't work: at the level `INFO`, or at `WARN` if it is `host`,
    /// which confines nothing.
    Auto,
    /// For untrusted code: `gvisor` if it works on this machine, else `namespace`. If neither
    /// works, the server doesn't start, and the error gives the reason for each.
    Confined,
    /// Runs the interpreters of this machine as the user of the server. **It confines nothing.**
    /// Works on any Unix.
    #[default]
    Host,
    /// Confines code with Linux namespaces. Each sandbox has its own processes, files and network.
    /// It can read the programs and libraries of this machine, and can write to none of the
    /// machine's files. Code runs without privileges, within limits and under a seccomp filter.
    ///
    /// Requires bubblewrap 0.8 or newer (`bwrap`, the package `bubblewrap`), a kernel that lets
    /// users create user namespaces, a processor of type x86_64, aarch64 or riscv64, and a program
    /// for the agents of sandboxes (see [`agent`](super::agent())). Doesn't require root.
    ///
    /// If the server runs as root, each sandbox has its own user of this machine. These users must
    /// be able to pass through [`ServerBuilder::directory`](super::ServerBuilder::directory) and
    /// every directory above it. Otherwise the server doesn't start, and the error names the
    /// directory.
    ///
    /// Sandboxes share the kernel of this machine: a vulnerability in it lets code escape.
    Namespace(NamespaceOptions),
    /// Confines code with gVisor. Each sandbox has its own kernel, the program `runsc`, which
    /// handles the system calls of the code. A checkpoint includes the memory of background
    /// processes, and the agent with its program. Requires Linux, root,
    /// [`runsc`](https://gvisor.dev) (Debian's package `runsc`) and a program for the agents of
    /// sandboxes (see [`agent`](super::agent())).
    Gvisor(GvisorOptions),
}

impl Backend {
    /// Checks the options of the backend.
    pub(super) fn check(&self) -> Result<(), ServerError> {
        match self {
            Self::Auto | Self::Confined | Self::Host => Ok(()),
            Self::Namespace(options) => options.check(),
            Self::Gvisor(options) => options.confines.check(),
        }
    }
}

impl FromStr for Backend {
    type Err = String;

    /// Parses `auto`, `confined`, `host`, `namespace` or `gvisor`. The backend has default options.
    fn from_str(name: &str) -> Result<Self, String> {
        match name {
            "auto" => Ok(Self::Auto),
            "confined" => Ok(Self::Confined),
            "host" => Ok(Self::Host),
            "namespace" => Ok(Self::Namespace(NamespaceOptions::default())),
            "gvisor" => Ok(Self::Gvisor(GvisorOptions::default())),
            other => Err(format!(
                "there is no backend `{other}`; expected auto, confined, host, namespace or gvisor"
            )),
        }
    }
}

/// What sandboxes may read and use on a backend that confines them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Confines {
    pub(super) readable: Vec<PathBuf>,
    pub(super) memory_bytes: u64,
    pub(super) processes: u64,
    pub(super) file_bytes: u64,
    pub(super) open_files: u64,
    pub(super) network: bool,
}

impl Default for Confines {
    fn default() -> Self {
        let readable = [
            "/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/etc",
        ];
        Self {
            readable: readable.map(PathBuf::from).to_vec(),
            memory_bytes: 2 << 30,
            processes: 512,
            file_bytes: 4 << 30,
            open_files: 1_024,
            network: false,
        }
    }
}

impl Confines {
    /// Fails if a limit is so small that programs couldn't start.
    pub(super) fn check(&self) -> Result<(), ServerError> {
        check(&[
            ("memory", self.memory_bytes, LEAST_MEMORY, " bytes"),
            ("processes", self.processes, LEAST_PROCESSES, ""),
            ("file_size", self.file_bytes, 4 << 10, " bytes"),
            ("open_files", self.open_files, 16, ""),
        ])
    }
}

/// The least memory in which a program starts.
pub(super) const LEAST_MEMORY: u64 = 32 << 20;

/// The least number of processes.
pub(super) const LEAST_PROCESSES: u64 = 8;

/// The least disk, in bytes.
pub(super) const LEAST_DISK: u64 = 1 << 20;

/// Fails if a limit, given as option, value, least value and unit, is too small.
fn check(limits: &[(&'static str, u64, u64, &'static str)]) -> Result<(), ServerError> {
    match limits.iter().find(|(_, given, least, _)| given < least) {
        None => Ok(()),
        Some(&(option, given, least, unit)) => Err(ServerError::Limit {
            option,
            given,
            least,
            unit,
        }),
    }
}

/// Declares the setters of [`Confines`] on an options type.
macro_rules! confining {
    ($options:ident) => {
        setters! {
            $options

            /// The maximum memory of a process, in bytes. Default: 2 GiB; at least 32 MiB.
            ///
            /// In a namespace, only private writable memory counts, and an allocation beyond the
            /// limit fails. In gVisor, resident memory counts. A process that exceeds the limit is
            /// killed by SIGKILL within about a second. A `brk` beyond the limit fails.
            ///
            /// In gVisor, this option also limits the memory of the whole sandbox, including files
            /// in memory: to twice the value, rounded up to a whole GiB. No file can be larger than
            /// that. If the sandbox has no memory left, the process that needs more ends with
            /// SIGSEGV. If that process is the agent, the sandbox ends.
            memory(bytes: u64): confines.memory_bytes = bytes;

            /// The maximum number of processes and threads in a sandbox. In a namespace, the agent
            /// also counts, and so does one supervising process (the reaper) for each exec. If the
            /// server doesn't run as root, the limit on processes of its user applies, too. In
            /// gVisor, only the processes of code count. Default: 512; at least 8.
            processes(processes: u64): confines.processes = processes;

            /// The maximum size of a file, in bytes. In gVisor, [`memory`](Self::memory) also
            /// limits it. Default: 4 GiB; at least 4 KiB.
            file_size(bytes: u64): confines.file_bytes = bytes;

            /// The maximum number of files that a process may have open. Default: 1,024; at least
            /// 16.
            open_files(files: u64): confines.open_files = files;

            /// Whether sandboxes share the network of this machine, including its loopback
            /// interface and, in a namespace, its abstract Unix sockets. Default: `false`, so
            /// sandboxes have no network.
            network(network: bool): confines.network = network;
        }

        impl $options {
            /// Lets sandboxes read another directory of this machine, with everything that is
            /// mounted below it. The path must be absolute, and not in `/tmp`, `/home/sandbox`,
            /// `/run`, `/proc`, `/dev` or `/sys`. Sandboxes can always read `/usr`, `/bin`,
            /// `/sbin`, `/lib`, `/lib32`, `/lib64`, `/libx32` and `/etc`, if the machine has
            /// them. They see no other files of the machine, and can write to none of these.
            ///
            /// Code can read the files that every user may read. If the server doesn't run as root,
            /// code can also read the files that the user of the server may read. Code sees the
            /// server's own directories for sandboxes and state as empty. Keep the directories of
            /// other servers outside of readable directories, because code can see into those. Code
            /// doesn't see a mount that the user of the sandbox can't reach.
            ///
            /// **In a namespace, code can connect to a Unix socket below a readable directory**, if
            /// the permissions of the socket allow it. By default there is none, because sockets
            /// are in `/run` and `/tmp`.
            pub fn readable(mut self, directory: impl Into<PathBuf>) -> Self {
                self.confines.readable.push(directory.into());
                self
            }
        }
    };
}

/// Options of [`Backend::Namespace`].
///
/// The limits on a whole sandbox, [`sandbox_memory`](Self::sandbox_memory) and
/// [`cpus`](Self::cpus), need a cgroup v2 in which the server may create groups: run the server as
/// a systemd service with `Delegate=yes` and `DelegateSubgroup=server`. Then a cgroup also limits
/// the number of processes of each sandbox. Without such a cgroup, only the limits on each process
/// apply. The server logs at start, at the level `INFO`, which of the two is the case.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub struct NamespaceOptions {
    pub(super) confines: Confines,
    pub(super) disk_bytes: u64,
    pub(super) sandbox_memory_bytes: Option<u64>,
    pub(super) cpu_thousandths: Option<u64>,
    pub(super) denied_calls: Vec<String>,
}

impl Default for NamespaceOptions {
    fn default() -> Self {
        Self {
            confines: Confines::default(),
            disk_bytes: 4 << 30,
            sandbox_memory_bytes: None,
            cpu_thousandths: None,
            denied_calls: Vec::new(),
        }
    }
}

confining!(NamespaceOptions);

setters! {
    NamespaceOptions

    /// The maximum bytes on the disk that the files of a sandbox take. Each file, directory and
    /// link counts at least 4 KiB, so the limit also bounds their number. Holes in files don't
    /// count. Default: 4 GiB, which also means a million files; at least 1 MiB.
    ///
    /// If a sandbox exceeds the limit, the server kills its processes and runs no more code in it.
    /// Its files can still be stored in a snapshot.
    ///
    /// **The server checks the limit about every second**, and less often if there are so many
    /// files that a check takes longer than 50 ms: a check takes at most 5 % of the time. So a
    /// sandbox can exceed the limit for a moment. Files that were deleted but are still open don't
    /// count. Code can hide files from a check if it moves them at the right moment, or, if the
    /// server doesn't run as root, in directories that it makes unreadable. Put the directory of
    /// the server on a separate disk.
    disk(bytes: u64): disk_bytes = bytes;

    /// The maximum memory of all processes of a sandbox together, in bytes, including memory that
    /// they share, files in memory, and the kernel's memory for them. If a sandbox exceeds the
    /// limit, the kernel kills the process with the most memory. Default: twice
    /// [`memory`](Self::memory), so that one process can reach its own limit beside others, or no
    /// limit if the server has no cgroup; at least 32 MiB. If this is set, the server fails to
    /// start without a cgroup.
    sandbox_memory(bytes: u64): sandbox_memory_bytes = Some(bytes);

    /// How much processor time a sandbox gets, as a number of processors: with 0.5, its processes
    /// together run for half of the time. Default: no limit; at least 0.01. If this is set, the
    /// server fails to start without a cgroup.
    cpus(processors: f64): cpu_thousandths = Some((processors * 1_000.0).round() as u64);
}

impl NamespaceOptions {
    /// Blocks a further system call. `name` is its name as strace prints it, such as `ptrace`. May
    /// be called more than once. Code always runs under a seccomp filter that is based on what
    /// Docker allows to a container without capabilities. A blocked call fails with `ENOSYS`, as on
    /// a kernel without it.
    ///
    /// The server doesn't start if the name is unknown. The agent of a sandbox is denied the call,
    /// too. Neither the server nor the agent checks whether programs can work without it.
    pub fn deny_syscall(mut self, name: impl Into<String>) -> Self {
        self.denied_calls.push(name.into());
        self
    }

    fn check(&self) -> Result<(), ServerError> {
        self.confines.check()?;
        let memory = self.sandbox_memory_bytes();
        let cpus = self.cpu_thousandths.unwrap_or(u64::MAX);
        check(&[
            ("disk", self.disk_bytes, LEAST_DISK, " bytes"),
            ("sandbox_memory", memory, LEAST_MEMORY, " bytes"),
            ("cpus", cpus, 10, " thousandths of a processor"),
        ])
    }

    /// The option that was set and needs a cgroup.
    #[cfg(target_os = "linux")]
    pub(super) fn needs_cgroup(&self) -> Option<&'static str> {
        let memory = self.sandbox_memory_bytes.map(|_| "sandbox_memory");
        memory.or_else(|| self.cpu_thousandths.map(|_| "cpus"))
    }

    pub(super) fn sandbox_memory_bytes(&self) -> u64 {
        let default = self.confines.memory_bytes.saturating_mul(2);
        self.sandbox_memory_bytes.unwrap_or(default)
    }
}

/// Options of [`Backend::Gvisor`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub struct GvisorOptions {
    pub(super) binary: PathBuf,
    pub(super) platform: Option<String>,
    pub(super) confines: Confines,
}

impl Default for GvisorOptions {
    fn default() -> Self {
        Self {
            binary: PathBuf::from("runsc"),
            platform: None,
            confines: Confines::default(),
        }
    }
}

confining!(GvisorOptions);

setters! {
    GvisorOptions

    /// The program `runsc`: a path, or a name that is looked up on the `PATH`. Default: `runsc`.
    binary(binary: impl Into<PathBuf>): binary = binary.into();

    /// The platform that intercepts system calls, as in `runsc --platform`. `ptrace` works on every
    /// machine, `systrap` is faster but not in every release of `runsc`, and `kvm` needs
    /// `/dev/kvm`. Default: the default of `runsc`.
    platform(platform: impl Into<String>): platform = Some(platform.into());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_in_which_nothing_could_start_are_refused() {
        let check = |options: NamespaceOptions| {
            let checked = Backend::Namespace(options.clone()).check();
            let gvisor = GvisorOptions {
                confines: options.confines,
                ..GvisorOptions::default()
            };
            let same = Backend::Gvisor(gvisor).check();
            let text = |it: Result<(), ServerError>| it.map_err(|error| error.to_string());
            let checked = text(checked);
            assert_eq!(text(same), checked);
            checked
        };
        let options = NamespaceOptions::default;
        for (too_little, says) in [
            (options().memory(2), "`memory` is 2 bytes"),
            (options().processes(0), "`processes` is 0,"),
            (options().file_size(0), "`file_size` is 0 bytes"),
            (options().open_files(15), "`open_files` is 15,"),
        ] {
            let error = check(too_little).expect_err(says);
            assert!(
                error.contains(says) && error.contains("at least"),
                "{error}"
            );
        }
        for (too_little, says) in [
            (options().disk(0), "`disk` is 0 bytes"),
            (options().sandbox_memory(1), "`sandbox_memory` is 1 bytes"),
            (options().cpus(0.009), "`cpus` is 9 thousandths"),
            (options().cpus(-1.0), "`cpus` is 0 thousandths"),
            (options().cpus(f64::NAN), "`cpus` is 0 thousandths"),
        ] {
            let error = Backend::Namespace(too_little).check().expect_err(says);
            let error = error.to_string();
            assert!(
                error.contains(says) && error.contains("at least"),
                "{error}"
            );
        }
        let least = options().disk(1 << 20).sandbox_memory(32 << 20).cpus(0.01);
        Backend::Namespace(least).check().expect("enough");
        let least = options().memory(32 << 20).processes(8);
        check(least.file_size(4096).open_files(16)).expect("enough");
        check(options()).expect("the defaults");
    }
}
