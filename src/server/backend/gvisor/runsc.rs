//! [`Runsc`]: runs the program `runsc`.

use std::{
    ffi::OsString,
    fs,
    io::{self, Read, Seek, SeekFrom},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde::Deserialize;
use tokio::{
    process::Command,
    time::{sleep, timeout},
};

use crate::{
    inside::{proc::pids, spawn},
    protocol::excerpt,
    server::{backend::programs::PATH, blocking::blocking, choice::GvisorOptions},
};

/// Time limit of one call. The slowest is a checkpoint of much memory to a slow disk.
const ENDS_WITHIN: Duration = Duration::from_secs(60);

/// How long to wait until killed processes are gone, and how often to look for them.
const GONE_WITHIN: Duration = Duration::from_secs(10);
const LOOKED_AT_EVERY: Duration = Duration::from_millis(2);

const GIB: u64 = 1 << 30;

/// Maximum bytes to read from the end of the log.
const MAX_SAID_BYTES: u64 = 4_096;

/// The most memory of a sandbox, in bytes. `process_bytes` is the limit of a process.
pub(super) fn sandbox_memory(process_bytes: u64) -> u64 {
    // At least twice the limit of a process, so one process can reach its limit beside others.
    process_bytes.div_ceil(GIB / 2).saturating_mul(GIB)
}

/// The program, with the flags of every call.
pub(super) struct Runsc {
    binary: PathBuf,
    flags: Vec<OsString>,
    /// The file to which `runsc` logs its errors. It can't use stderr, which belongs to the agent.
    log: PathBuf,
}

impl Runsc {
    /// `directory` holds the records of the containers of this server.
    pub(super) fn new(binary: PathBuf, options: &GvisorOptions, directory: &Path) -> Self {
        let log = directory.join("log");
        let network = if options.confines.network {
            "host"
        } else {
            "none"
        };
        let mut flags = vec![
            OsString::from("--root"),
            directory.into(),
            "--log".into(),
            log.clone().into(),
            "--log-format=text".into(),
            // Without an overlay, writes go to the directories of the sandbox.
            "--overlay2=none".into(),
            "--ignore-cgroups".into(),
            format!("--network={network}").into(),
        ];
        flags.extend(
            options
                .platform
                .as_ref()
                .map(|it| format!("--platform={it}").into()),
        );
        Self { binary, flags, log }
    }

    pub(super) fn binary(&self) -> &Path {
        &self.binary
    }

    /// Limits the memory of the container that a command starts. `process_bytes` is the limit of a
    /// process.
    ///
    /// gVisor keeps the memory of a sandbox in one file, which grows in steps of 1 GiB. If the file
    /// can't grow, the process that needs memory is killed by SIGSEGV. The limit applies to every
    /// file that the sandbox writes.
    pub(super) fn limit_memory(&self, command: &mut Command, process_bytes: u64) {
        spawn::limit_files(command, sandbox_memory(process_bytes));
    }

    /// A command that calls a subcommand. The caller adds the arguments.
    pub(super) fn command(&self, subcommand: &str) -> Command {
        let mut command = spawn::command(&self.binary);
        command.args(&self.flags).arg(subcommand).env("PATH", PATH);
        command
    }

    /// Runs a command until it succeeds or fails. The error holds the command line, and the last
    /// error in the log.
    pub(super) async fn call(&self, command: &mut Command) -> Result<(), String> {
        let before = fs::metadata(&self.log).map_or(0, |meta| meta.len());
        let mut child = command
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| format!("cannot run {}: {error}", self.binary.display()))?;
        match timeout(ENDS_WITHIN, child.wait()).await {
            Ok(Ok(status)) if status.success() => Ok(()),
            Ok(Ok(status)) => Err(format!(
                "`{}` ended with {status}: {}",
                shown(command),
                excerpt(self.said(before).as_bytes())
            )),
            Ok(Err(error)) => Err(format!("`{}`: {error}", shown(command))),
            Err(_) => Err(format!(
                "`{}` did not end within {ENDS_WITHIN:?}",
                shown(command)
            )),
        }
    }

    /// Kills all processes of a container, and removes its records. `bundle` is the directory of
    /// its bundle. Succeeds if the container is already gone.
    ///
    /// `runsc delete --force` does the same, but takes more than a second to notice that the
    /// processes are gone.
    pub(super) async fn end(&self, container: &str, bundle: &Path) -> io::Result<()> {
        let words = [container.into(), bytes(bundle).to_owned()];
        end_processes(self.records(), Some(words)).await?;
        for record in fs::read_dir(self.records())? {
            let record = record?;
            if record.file_name().to_string_lossy().starts_with(container) {
                fs::remove_file(record.path())?;
            }
        }
        Ok(())
    }

    /// The directory of the records of containers.
    fn records(&self) -> &Path {
        self.log.parent().unwrap_or(Path::new("/"))
    }

    /// The last message in the log after this offset.
    fn said(&self, before: u64) -> String {
        let read = || {
            let mut file = fs::File::open(&self.log)?;
            let end = file.metadata()?.len();
            file.seek(SeekFrom::Start(
                before.max(end.saturating_sub(MAX_SAID_BYTES)),
            ))?;
            let mut said = Vec::new();
            file.take(MAX_SAID_BYTES).read_to_end(&mut said)?;
            io::Result::Ok(String::from_utf8_lossy(&said).into_owned())
        };
        let said = read().unwrap_or_default();
        let last = said.lines().last().unwrap_or("no error in its log");
        // Errors are logged as JSON.
        match serde_json::from_str::<Line>(last) {
            Ok(line) => line.msg,
            Err(_) => last.trim().to_owned(),
        }
    }
}

/// The directory in which `runsc` keeps its records, in the directory of a server.
pub(super) const RECORDS: &str = "runsc";

/// Kills the processes of all containers of the server with this directory.
pub(crate) async fn end_all(root: &Path) -> io::Result<()> {
    end_processes(&root.join(RECORDS), None).await
}

/// Kills gVisor's processes of the containers with these records, until none is left. With `words`,
/// kills only those with one of the words on their command line: the processes of one container.
async fn end_processes(records: &Path, words: Option<[Vec<u8>; 2]>) -> io::Result<()> {
    // Each of them has this word on its command line. Their environments, in which markers could
    // be, are empty.
    let root = [b"--root=", bytes(records)].concat();
    let wanted = Arc::new((root, words));
    let until_gone = async {
        loop {
            let wanted = wanted.clone();
            if blocking(move || kill_once(&wanted.0, wanted.1.as_ref())).await? == 0 {
                return Ok(());
            }
            sleep(LOOKED_AT_EVERY).await;
        }
    };
    timeout(GONE_WITHIN, until_gone)
        .await
        .unwrap_or_else(|_| Err(io::Error::other("killed processes of gVisor did not end")))
}

/// Kills each process that has `root` and one of the words on its command line. Returns how many
/// were found.
fn kill_once(root: &[u8], words: Option<&[Vec<u8>; 2]>) -> io::Result<usize> {
    let mut found = 0;
    for pid in pids()? {
        // A process that is gone has no command line.
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let line: Vec<_> = line.split(|&byte| byte == 0).collect();
        let has = |word: &[u8]| line.contains(&word);
        if has(root) && words.is_none_or(|words| words.iter().any(|word| has(word))) {
            // Don't count a process that can't be killed: it belongs to another user, and only
            // looks like one of gVisor.
            found += usize::from(kill(Pid::from_raw(pid), Signal::SIGKILL).is_ok());
        }
    }
    Ok(found)
}

fn bytes(path: &Path) -> &[u8] {
    path.as_os_str().as_encoded_bytes()
}

/// A line of the log.
#[derive(Deserialize)]
struct Line {
    msg: String,
}

/// The command line, for error messages.
fn shown(command: &Command) -> String {
    let command = command.as_std();
    let mut words = vec![command.get_program().to_string_lossy().into_owned()];
    words.extend(
        command
            .get_args()
            .map(|word| word.to_string_lossy().into_owned()),
    );
    words.join(" ")
}
