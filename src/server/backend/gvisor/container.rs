//! [`Container`]: a running container of gVisor.

use std::{
    fs,
    io::{self, Write},
    os::fd::AsRawFd,
    path::{Path, PathBuf},
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use rustix::fs::{MemfdFlags, memfd_create};
use serde_json::Value;
use tokio::{process::Command, time::timeout};

use super::{bundle, runsc::Runsc, scripts::Script};
use crate::server::backend::confine::HOME_INSIDE;

/// Time limit for scripts and programs that run beside code.
const ENDS_WITHIN: Duration = Duration::from_secs(20);

pub(super) struct Container {
    runsc: Arc<Runsc>,
    /// Random, so that code can't guess it. [`Runsc::end`] finds the processes of the container by
    /// it.
    name: String,
    bundle: PathBuf,
    suspected: AtomicBool,
}

impl Container {
    /// Starts a container, or restores it from `image`.
    pub(super) async fn start(
        runsc: Arc<Runsc>,
        name: String,
        bundle: &Path,
        image: Option<&Path>,
        marks: &[(&str, &str)],
    ) -> Result<Self, String> {
        let mut command = runsc.command(if image.is_some() { "restore" } else { "run" });
        command.envs(marks.iter().copied());
        command.args(["--detach", "--bundle"]).arg(bundle);
        if let Some(image) = image {
            command.arg("--image-path").arg(image);
        }
        let container = Self {
            bundle: bundle.to_owned(),
            suspected: AtomicBool::new(false),
            name,
            runsc,
        };
        match container.runsc.call(command.arg(&container.name)).await {
            Ok(()) => Ok(container),
            Err(reason) => {
                let _ = container.end().await;
                Err(reason)
            }
        }
    }

    /// The command that runs a process in the sandbox, and the file that describes the process.
    /// Keep the file until the command has ended.
    ///
    /// The file is in memory, because processes must be killed even if the disk is full.
    pub(super) fn exec(&self, process: &Value) -> Result<(Command, fs::File), String> {
        let described = || {
            let file = memfd_create("process.json", MemfdFlags::CLOEXEC)?;
            let mut file = fs::File::from(file);
            file.write_all(process.to_string().as_bytes())?;
            Ok(file)
        };
        let file = described().map_err(|error: io::Error| {
            format!("cannot write the description of the process: {error}")
        })?;
        let path = format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd());
        let mut command = self.runsc.command("exec");
        command.args(["--process", &path]).arg(&self.name);
        Ok((command, file))
    }

    /// Runs a script in the sandbox, beside the code, and returns its exit code. The script may
    /// inspect and kill all processes. It runs even if the code has reached its limit of processes.
    pub(super) async fn script(&self, script: Script, args: &[&str]) -> Result<i32, String> {
        let file = script.inside();
        let mut words = vec!["perl", &file];
        words.extend(args);
        self.run(&bundle::overseer(&words)).await
    }

    /// Runs a program in the sandbox with the rights of code, and returns its exit code.
    pub(super) async fn program(&self, args: &[&str]) -> Result<i32, String> {
        self.run(&bundle::process(args, &[], HOME_INSIDE)).await
    }

    async fn run(&self, process: &Value) -> Result<i32, String> {
        let (mut command, _file) = self.exec(process)?;
        let mut child = command
            .kill_on_drop(true)
            .stderr(Stdio::null())
            .spawn()
            .map_err(|error| format!("cannot run {}: {error}", self.runsc.binary().display()))?;
        let ended = timeout(ENDS_WITHIN, child.wait()).await;
        let code = ended.ok().and_then(Result::ok).and_then(|it| it.code());
        match code {
            Some(code) if code < 128 => Ok(code),
            _ => Err(format!("`runsc exec` of {} failed", process["args"])),
        }
    }

    /// Notes a sign that the container may be gone. [`is_gone`](Self::is_gone) then checks.
    pub(super) fn suspect(&self) {
        self.suspected.store(true, Ordering::Relaxed);
    }

    /// Whether the container is gone. Checks only after [`suspect`](Self::suspect) was called.
    pub(super) async fn is_gone(&self) -> bool {
        self.suspected.load(Ordering::Relaxed) && !self.is_there().await
    }

    /// Whether the container runs. Starts a process in it to find out.
    pub(super) async fn is_there(&self) -> bool {
        matches!(self.run(&bundle::overseer(&["true"])).await, Ok(0))
    }

    /// Stores the memory and the processes in this directory, and ends the processes.
    pub(super) async fn store(&self, image: &Path) -> Result<(), String> {
        fs::create_dir_all(image).map_err(|error| error.to_string())?;
        let mut command = self.runsc.command("checkpoint");
        self.runsc
            .call(command.arg("--image-path").arg(image).arg(&self.name))
            .await
    }

    /// Ends the container with all its processes.
    pub(super) async fn end(&self) -> Result<(), String> {
        self.runsc
            .end(&self.name, &self.bundle)
            .await
            .map_err(|error| format!("the sandbox could not be ended: {error}"))
    }
}
