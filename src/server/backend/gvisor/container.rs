//! [`Container`]: a container of gVisor that runs.

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

/// Longest time that what is run beside code may take.
const ENDS_WITHIN: Duration = Duration::from_secs(20);

pub(super) struct Container {
    runsc: Arc<Runsc>,
    /// Random, and unknown to code: the processes of the container are found by it (`Runsc::end`).
    name: String,
    bundle: PathBuf,
    suspected: AtomicBool,
}

impl Container {
    /// Starts a container, or restores it from this image.
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

    /// How to run a process inside, and the file that describes it, to be kept until it has ended.
    ///
    /// That is in memory: processes are also to be killed when the disk is full.
    pub(super) fn exec(&self, process: &Value) -> Result<(Command, fs::File), String> {
        let described = || {
            let file = memfd_create("process.json", MemfdFlags::CLOEXEC)?;
            let mut file = fs::File::from(file);
            file.write_all(process.to_string().as_bytes())?;
            Ok(file)
        };
        let file = described().map_err(|error: io::Error| {
            format!("the process to be run cannot be described: {error}")
        })?;
        let path = format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd());
        let mut command = self.runsc.command("exec");
        command.args(["--process", &path]).arg(&self.name);
        Ok((command, file))
    }

    /// Runs a script inside, beside the code, and gives its exit code. It may look at all processes and kill them, also where
    /// the code may not have another one.
    pub(super) async fn script(&self, script: Script, args: &[&str]) -> Result<i32, String> {
        let file = script.inside();
        let mut words = vec!["perl", &file];
        words.extend(args);
        self.run(&bundle::overseer(&words)).await
    }

    /// Runs a program inside as the code would, and gives its exit code.
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
            _ => Err(format!(
                "`runsc exec` of {} did not end well",
                process["args"]
            )),
        }
    }

    /// It may be gone.
    pub(super) fn suspect(&self) {
        self.suspected.store(true, Ordering::Relaxed);
    }

    /// Whether it is known to be gone. Looks only where there was a sign.
    pub(super) async fn is_gone(&self) -> bool {
        self.suspected.load(Ordering::Relaxed) && !self.is_there().await
    }

    /// Whether it is there.
    pub(super) async fn is_there(&self) -> bool {
        matches!(self.run(&bundle::overseer(&["true"])).await, Ok(0))
    }

    /// Stores memory and processes in this directory, and ends them.
    pub(super) async fn store(&self, image: &Path) -> Result<(), String> {
        fs::create_dir_all(image).map_err(|error| error.to_string())?;
        let mut command = self.runsc.command("checkpoint");
        self.runsc
            .call(command.arg("--image-path").arg(image).arg(&self.name))
            .await
    }

    /// Ends it and all that runs in it.
    pub(super) async fn end(&self) -> Result<(), String> {
        self.runsc
            .end(&self.name, &self.bundle)
            .await
            .map_err(|error| format!("the sandbox could not be ended: {error}"))
    }
}
