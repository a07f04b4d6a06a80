//! [`Runsc`]: calls the program `runsc`.

use std::{
    ffi::OsString,
    io::{Read, Seek, SeekFrom},
    path::{Path, PathBuf},
    process::Stdio,
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

use super::super::confine::PATH;
use crate::{protocol::excerpt, server::choice::GvisorOptions};

/// Longest time that one call may take. The longest is a checkpoint, of much memory to a slow disk.
const ENDS_WITHIN: Duration = Duration::from_secs(60);

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
        let mut command = Command::new(&self.binary);
        command
            .args(&self.flags)
            .arg(subcommand)
            .env_clear()
            .env("PATH", PATH)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        command
    }

    /// Makes a call that is to succeed. The error names it, and what it said.
    pub(super) async fn call(&self, command: &mut Command) -> Result<(), String> {
        let before = std::fs::metadata(&self.log).map_or(0, |meta| meta.len());
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

    /// Removes a container with all that runs in it. One that is gone is no error.
    pub(super) async fn delete(&self, container: &str) -> Result<(), String> {
        // One that ends in this very moment may be neither running nor gone.
        for _ in 0..3 {
            let mut command = self.command("delete");
            if self
                .call(command.args(["--force", container]))
                .await
                .is_ok()
            {
                return Ok(());
            }
            sleep(Duration::from_millis(50)).await;
        }
        self.call(self.command("delete").args(["--force", container]))
            .await
    }

    /// Kills what is left of all containers.
    pub(super) fn kill_all(&self) {
        let Some(root) = self.flags.get(1) else {
            return;
        };
        // So its processes call themselves; their environment is empty.
        let root = [b"--root=", root.as_encoded_bytes()].concat();
        let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
        for process in processes {
            let pid = process
                .file_name()
                .to_str()
                .and_then(|pid| pid.parse().ok());
            let line = std::fs::read(process.path().join("cmdline")).unwrap_or_default();
            if let Some(pid) = pid
                && line.split(|&byte| byte == 0).any(|word| word == root)
            {
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
        }
    }

    /// The last line that it wrote to its log beyond this place.
    fn said(&self, before: u64) -> String {
        let read = || {
            let mut file = std::fs::File::open(&self.log)?;
            let end = file.metadata()?.len();
            file.seek(SeekFrom::Start(
                before.max(end.saturating_sub(MAX_SAID_BYTES)),
            ))?;
            let mut said = Vec::new();
            file.take(MAX_SAID_BYTES).read_to_end(&mut said)?;
            std::io::Result::Ok(String::from_utf8_lossy(&said).into_owned())
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
