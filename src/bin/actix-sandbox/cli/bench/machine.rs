//! [`Machine`]: the machine that runs a benchmark.

use std::{fmt, fs};

use serde::Serialize;

/// The machine that runs the benchmark.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Machine {
    /// The model of the processor. `None` if the system doesn't report it.
    pub(super) cpu: Option<String>,
    /// The number of processors that this process may use.
    pub(super) cores: usize,
    /// The name of the operating system. `None` if it has no `/etc/os-release`.
    pub(super) os: Option<String>,
    pub(super) kernel: String,
}

impl Machine {
    pub(super) fn here() -> Self {
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        Self {
            cpu: value(&read("/proc/cpuinfo"), "model name", ':'),
            cores: std::thread::available_parallelism().map_or(1, |it| it.get()),
            os: value(&read("/etc/os-release"), "PRETTY_NAME", '='),
            kernel: kernel(),
        }
    }
}

fn kernel() -> String {
    let Ok(uname) = nix::sys::utsname::uname() else {
        return std::env::consts::OS.to_owned();
    };
    let parts = [uname.sysname(), uname.release(), uname.machine()];
    parts.map(|it| it.to_string_lossy()).join(" ")
}

/// Returns the value of the first line with this key, without quotes.
fn value(text: &str, key: &str, separator: char) -> Option<String> {
    let pairs = text.lines().filter_map(|line| line.split_once(separator));
    let (_, value) = pairs.into_iter().find(|(name, _)| name.trim() == key)?;
    let value = value.trim().trim_matches('"');
    (!value.is_empty()).then(|| value.to_owned())
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cpu = self.cpu.as_deref().unwrap_or("unknown processor");
        let cores = match self.cores {
            1 => "1 core".to_owned(),
            cores => format!("{cores} cores"),
        };
        write!(f, "{cpu}, {cores}")?;
        if let Some(os) = &self.os {
            write!(f, ", {os}")?;
        }
        write!(f, ", {}", self.kernel)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_found_by_their_key() {
        let info = "processor\t: 0\nmodel name\t: CPU @ 2.1GHz: fast\n\nmodel name\t: other\n";
        let cpu = value(info, "model name", ':');
        assert_eq!(cpu.as_deref(), Some("CPU @ 2.1GHz: fast"));
        let os = value(
            "NAME=\"D\"\nPRETTY_NAME=\"Debian 12\"\n",
            "PRETTY_NAME",
            '=',
        );
        assert_eq!(os.as_deref(), Some("Debian 12"));
        assert_eq!(value("PRETTY_NAME=\n", "PRETTY_NAME", '='), None);
    }
}
