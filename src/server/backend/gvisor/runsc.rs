//! [`Runsc`]: calls the program `runsc`.

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
    protocol::excerpt,
    server::{
        backend::{proc::pids, programs::PATH, spawn},
        blocking::blocking,
        choice::GvisorOptions,
    },
};

/// Longest time that one call may take. The longest is a checkpoint, of much memory to a slow disk.
const ENDS_WITHIN: Duration = Duration::from_secs(60);

/// Longest time that its processes may take to be gone once they are killed, and how often they are looked for.
const GONE_WITHIN: Duration = Duration::from_secs(10);
const LOOKED_AT_EVERY: Duration = Duration::from_millis(2);

/// Most bytes of what it said that are looked at.
const MAX_SAID_BYTES: u64 = 4_096;

/// The program, with the flags that every call has.
pub(super) struct Runsc {
    binary: PathBuf,
    flags: Vec<OsString>,
    /// Where it says what went wrong: the containers must not have pipes that end with a call.
    log: PathBuf,
}

impl Runsc {
    /// For the containers of one server, with their records in `directory`.
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
            // What is written is to be found in the directories of the sandbox.
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

    /// A call of a subcommand, whose arguments are to be added.
    pub(super) fn command(&self, subcommand: &str) -> Command {
        let mut command = spawn::command(&self.binary);
        command.args(&self.flags).arg(subcommand).env("PATH", PATH);
        command
    }

    /// Makes a call that is to succeed. The error names it, and what it said.
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
                "`{}` was not over within {ENDS_WITHIN:?}",
                shown(command)
            )),
        }
    }

    /// Ends a container, its bundle in this directory, with all that runs in it. One that is gone is no error.
    ///
    /// `runsc delete --force` does the same, but takes more than a second to look whether its processes are gone.
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

    /// Where it keeps its records.
    fn records(&self) -> &Path {
        self.log.parent().unwrap_or(Path::new("/"))
    }

    /// The last line that it wrote to its log beyond this place.
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
        let last = said.lines().last().unwrap_or("it said nothing");
        // Errors are written in the form that other programs read.
        match serde_json::from_str::<Line>(last) {
            Ok(line) => line.msg,
            Err(_) => last.trim().to_owned(),
        }
    }
}

/// Where `runsc` keeps its records, in the directory of a server.
pub(super) const RECORDS: &str = "runsc";

/// Kills what runs of all containers of the server that has this directory.
pub(crate) async fn end_all(root: &Path) -> io::Result<()> {
    end_processes(&root.join(RECORDS), None).await
}

/// Kills the processes of containers with these records, or of the one that has these words on its command lines, until there is
/// none.
async fn end_processes(records: &Path, words: Option<[Vec<u8>; 2]>) -> io::Result<()> {
    // So they call themselves; their environment is empty.
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
        .unwrap_or_else(|_| Err(io::Error::other("processes of gVisor do not end")))
}

/// Kills each process of this user that has `root` on its command line, and one of these words; gives how many there were.
fn kill_once(root: &[u8], words: Option<&[Vec<u8>; 2]>) -> io::Result<usize> {
    let mut found = 0;
    for pid in pids()? {
        // One that is gone has none.
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let line: Vec<_> = line.split(|&byte| byte == 0).collect();
        let has = |word: &[u8]| line.contains(&word);
        if has(root) && words.is_none_or(|words| words.iter().any(|word| has(word))) {
            // One that is somebody else's only looks like those.
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

/// A call as it may be told.
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
