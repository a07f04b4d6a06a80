//! [`Backend`]: what runs the code of sandboxes, as the user of a server chooses it. No IO.

use std::{path::PathBuf, str::FromStr};

use super::error::ServerError;

/// What runs the code of sandboxes.
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
    /// The first of `gvisor`, `namespace` and `host` that works here; a line of `tracing` says which, and why not those before: at the
    /// level `INFO`, and at `WARN` where it is `host`, which confines nothing.
    Auto,
    /// For untrusted code: `gvisor` if it works here, else `namespace`. If neither works, the server does not start,
    /// and the error says what each of them lacks.
    Confined,
    /// The interpreters of this machine, as the user of the server. **It confines nothing.** Any Unix.
    #[default]
    Host,
    /// Linux namespaces: each sandbox has processes, files and a network of its own, reads programs and libraries of
    /// this machine and writes none of its files. Code runs without privileges and within limits. It needs no root, but the
    /// tools of util-linux, and a kernel that lets users have user namespaces.
    ///
    /// It shares the kernel with everybody else: a hole in that is a way out.
    Namespace(NamespaceOptions),
    /// gVisor: each sandbox has a kernel of its own, a program called `runsc`, which serves the system calls of the code. A checkpoint
    /// holds the memory of what runs in the background. Linux, as root, with [`runsc`](https://gvisor.dev) installed (Debian's
    /// package `runsc`) and perl.
    Gvisor(GvisorOptions),
}

impl Backend {
    /// Whether its options can be used.
    pub(super) fn check(&self) -> Result<(), ServerError> {
        match self {
            Self::Auto | Self::Confined | Self::Host => Ok(()),
            Self::Namespace(options) => options.confines.check(),
            Self::Gvisor(options) => options.confines.check(),
        }
    }
}

impl FromStr for Backend {
    type Err = String;

    /// `auto`, `confined`, `host`, `namespace` or `gvisor`, with its default options.
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

/// What the sandboxes of a confining backend may see and use.
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
            "/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/etc", "/opt",
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
    /// Whether programs can start within these limits.
    pub(super) fn check(&self) -> Result<(), ServerError> {
        let limits = [
            ("memory", self.memory_bytes, 32 << 20, " bytes"),
            ("processes", self.processes, 8, ""),
            ("file_size", self.file_bytes, 4 << 10, " bytes"),
            ("open_files", self.open_files, 16, ""),
        ];
        match limits
            .into_iter()
            .find(|(_, given, least, _)| given < least)
        {
            None => Ok(()),
            Some((option, given, least, unit)) => Err(ServerError::Limit {
                option,
                given,
                least,
                unit,
            }),
        }
    }
}

/// The methods by which options set their `confines`.
macro_rules! confining {
    ($options:ident) => {
        impl $options {
            /// Lets sandboxes read another directory of this machine, at the same place, with what is mounted below it: an
            /// absolute path, not in `/tmp`, `/home/sandbox`, `/run`, `/proc`, `/dev` or `/sys`. Always there, where the machine has
            /// them: `/usr`, `/bin`, `/sbin`, `/lib`, `/lib32`, `/lib64`, `/libx32`, `/etc` and `/opt`. Nothing else of the machine's
            /// files is seen, and none of them can be written.
            ///
            /// Code reads there what everybody may, and where the server does not run as root, what its user may. The server's own
            /// directories, for sandboxes and state, are empty there; those of other servers are not, so keep them where nothing is
            /// readable. What is mounted where the sandbox's user does not come is not shown. **Whoever listens on a Unix socket
            /// below a readable directory can be talked to** in a namespace, by its permissions; there is none by default, for those
            /// are in `/run` and `/tmp`.
            pub fn readable(mut self, directory: impl Into<PathBuf>) -> Self {
                self.confines.readable.push(directory.into());
                self
            }

            /// Most bytes that one process may write to memory of its own; in gVisor, that it may
            /// map. Default: 2 GiB; at least 32 MiB.
            pub fn memory(mut self, bytes: u64) -> Self {
                self.confines.memory_bytes = bytes;
                self
            }

            /// Most processes and threads at once in a sandbox. In a namespace, where the server does not run as root, its user's limit
            /// on processes counts as well. Default: 512; at least 8.
            pub fn processes(mut self, processes: u64) -> Self {
                self.confines.processes = processes;
                self
            }

            /// Most bytes in one file. Default: 4 GiB; at least 4 KiB.
            pub fn file_size(mut self, bytes: u64) -> Self {
                self.confines.file_bytes = bytes;
                self
            }

            /// Most files that one process may have open. Default: 1,024; at least 16.
            pub fn open_files(mut self, files: u64) -> Self {
                self.confines.open_files = files;
                self
            }

            /// Whether sandboxes share the network of this machine, its loopback interface and, in a namespace, its abstract Unix
            /// sockets included. Default: they have none.
            pub fn network(mut self, network: bool) -> Self {
                self.confines.network = network;
                self
            }
        }
    };
}

/// Options of [`Backend::Namespace`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[must_use]
pub struct NamespaceOptions {
    pub(super) confines: Confines,
}

confining!(NamespaceOptions);

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

impl GvisorOptions {
    /// The program `runsc`: a path, or a name that is looked for on the `PATH`. Default: `runsc`.
    pub fn binary(mut self, binary: impl Into<PathBuf>) -> Self {
        self.binary = binary.into();
        self
    }

    /// How system calls are caught, as `runsc --platform` names it: `ptrace` works anywhere, `systrap` is faster where `runsc` has it,
    /// `kvm` needs `/dev/kvm`. Default: what `runsc` takes by itself.
    pub fn platform(mut self, platform: impl Into<String>) -> Self {
        self.platform = Some(platform.into());
        self
    }
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
        let least = options().memory(32 << 20).processes(8);
        check(least.file_size(4096).open_files(16)).expect("enough");
        check(options()).expect("the defaults");
    }
}
