//! Reads processes from `/proc`, and kills them. Linux only.

use std::{
    io::{self, Read},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

/// Whether the working directory of a process really is `directory`. `/proc` shows only a path,
/// which may be another directory in the mount namespace of the process.
pub(crate) fn is_in(pid: i32, directory: &Path) -> bool {
    let of = |path: &Path| {
        let meta = std::fs::metadata(path).ok()?;
        Some((meta.dev(), meta.ino()))
    };
    let process = Path::new("/proc").join(pid.to_string());
    let is_same = |one: Option<_>, other| one.is_some() && one == other;
    // In the server's mount namespace the path is right, even if the directory has been removed.
    is_same(
        of(&process.join("ns/mnt")),
        of("/proc/self/ns/mnt".as_ref()),
    ) || is_same(of(&process.join("cwd")), of(directory))
}

pub(crate) fn pids() -> io::Result<Vec<i32>> {
    let mut pids = Vec::new();
    for entry in std::fs::read_dir("/proc")? {
        let name = entry?.file_name();
        pids.extend(name.to_str().and_then(|name| name.parse::<i32>().ok()));
    }
    Ok(pids)
}

/// Whether a read failed because the process has ended or belongs to another user.
pub(crate) fn is_gone_or_foreign(error: &io::Error) -> bool {
    use io::ErrorKind::{NotFound, PermissionDenied};

    matches!(error.kind(), NotFound | PermissionDenied)
        || error.raw_os_error() == Some(nix::errno::Errno::ESRCH as i32)
}

/// Returns the parent, also of a dead process that has not been reaped.
pub(crate) fn parse_parent(stat: &[u8]) -> Option<i32> {
    let mut fields = fields(stat)?;
    fields.nth(1)?.parse().ok()
}

/// Returns the state of a process: one letter, as in proc_pid_stat(5).
#[cfg(target_os = "linux")]
pub(crate) fn parse_state(stat: &[u8]) -> Option<&str> {
    fields(stat)?.next()
}

/// The fields after the name of the program. The name is in parentheses and may hold any bytes,
/// including invalid UTF-8.
fn fields(stat: &[u8]) -> Option<std::str::SplitAsciiWhitespace<'_>> {
    let end_of_name = stat.iter().rposition(|&byte| byte == b')')?;
    let rest = std::str::from_utf8(&stat[end_of_name + 1..]).ok()?;
    Some(rest.split_ascii_whitespace())
}

/// What a process has used.
pub(crate) struct Used {
    /// The CPU time of the process, and of the children that it has waited for, in clock ticks.
    pub(crate) ticks: u64,
    /// The resident memory, in pages.
    pub(crate) pages: u64,
    /// Whether the process has ended and its parent has not waited for it.
    pub(crate) is_dead: bool,
}

/// Returns what a process has used.
#[cfg(target_os = "linux")]
pub(crate) fn parse_usage(stat: &[u8]) -> Option<Used> {
    let fields: Vec<&str> = fields(stat)?.take(22).collect();
    let number = |at: usize| fields.get(at)?.parse::<i64>().ok();
    let mut ticks = 0_u64;
    // The fields `utime`, `stime`, `cutime` and `cstime` of proc_pid_stat(5).
    for at in 11..15 {
        ticks = ticks.saturating_add(u64::try_from(number(at)?).unwrap_or(0));
    }
    Some(Used {
        ticks,
        pages: u64::try_from(number(21)?).unwrap_or(0),
        is_dead: matches!(*fields.first()?, "Z" | "X"),
    })
}

/// Returns the parent, the process group and whether there is a terminal. `None` if the process is
/// dead.
pub(crate) fn parse_stat(stat: &[u8]) -> Option<(i32, i32, bool)> {
    let mut fields = fields(stat)?;
    let state = fields.next()?;
    if state == "Z" || state == "X" {
        return None;
    }
    let parent = fields.next()?.parse().ok()?;
    let group = fields.next()?.parse().ok()?;
    let has_terminal = fields.nth(1)? != "0";
    Some((parent, group, has_terminal))
}

/// A process as `/proc` shows it. A zombie has neither environment nor directory.
pub(crate) struct Observed {
    pub(crate) parent: i32,
    pub(crate) group: i32,
    pub(crate) has_terminal: bool,
    pub(crate) shows_nothing: bool,
    pub(crate) environment: Vec<u8>,
    pub(crate) directory: Option<PathBuf>,
}

/// Maximum bytes to read of an environment, because code can make the environment of many processes
/// very large. A process whose markers lie beyond this is found by its parents.
const MAX_ENVIRONMENT_BYTES: u64 = 64 * 1024;

fn read_start(file: &str) -> io::Result<Vec<u8>> {
    let mut start = Vec::new();
    let file = std::fs::File::open(file)?;
    file.take(MAX_ENVIRONMENT_BYTES).read_to_end(&mut start)?;
    Ok(start)
}

impl Observed {
    /// Reads a process from `/proc`. `None` if the process is dead.
    pub(crate) fn read(pid: i32, with_directory: bool) -> io::Result<Option<Self>> {
        let stat = std::fs::read(format!("/proc/{pid}/stat"))?;
        let Some((parent, group, has_terminal)) = parse_stat(&stat) else {
            return Ok(None);
        };
        // The environments of other users' processes can't be read. Those processes carry no
        // markers.
        let environment = match read_start(&format!("/proc/{pid}/environ")) {
            Err(error) if !is_gone_or_foreign(&error) => return Err(error),
            read => read,
        };
        Ok(Some(Self {
            parent,
            group,
            has_terminal,
            shows_nothing: environment.as_ref().is_ok_and(Vec::is_empty)
                // Kernel threads have no program.
                && std::fs::read_link(format!("/proc/{pid}/exe")).is_ok(),
            environment: environment.unwrap_or_default(),
            directory: with_directory
                .then(|| std::fs::read_link(format!("/proc/{pid}/cwd")).ok())
                .flatten(),
        }))
    }
}

/// Kills processes. `pids` lists parents before their children.
pub(crate) fn kill_all(pids: &[Pid]) {
    // First stop all of them, so that none can react to the death of another. Then kill children
    // before their parents. Otherwise a process group could become orphaned: the kernel then sends
    // SIGHUP and SIGCONT to its stopped processes, and a shell among them would continue.
    for &pid in pids {
        let _ = kill(pid, Signal::SIGSTOP);
    }
    for &pid in pids.iter().rev() {
        let _ = kill(pid, Signal::SIGKILL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_is_parsed_whatever_the_program_name() {
        assert_eq!(
            parse_stat(b"7 (a) S 1 (\xc3) S 5 6 7 0 -1"),
            Some((5, 6, false))
        );
        assert_eq!(parse_stat(b"7 (sh) T 5 6 7 34816 -1"), Some((5, 6, true)));
        assert_eq!(parse_stat(b"7 (sh) Z 5 6 7 0 -1"), None);
    }

    #[test]
    fn a_gone_process_is_not_an_error_but_emfile_is() {
        assert!(is_gone_or_foreign(&io::Error::from_raw_os_error(
            nix::errno::Errno::ESRCH as i32
        )));
        assert!(!is_gone_or_foreign(&io::Error::from_raw_os_error(
            nix::errno::Errno::EMFILE as i32
        )));
    }
}
