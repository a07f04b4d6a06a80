//! The operations that measure a sandbox: `metrics` and `processes`.

use std::sync::Arc;

use tokio::{sync::OwnedSemaphorePermit, time::Instant};

use super::task::Sandbox;
use crate::{
    protocol::{
        Builtin, BuiltinError, MAX_RESULT_BYTES, Metrics, ProcessUsage, RunningExec, RunningExecs,
    },
    server::exec::{builtin::ask, execution::Operation},
};

impl Sandbox {
    /// Measures the processes and the files of the sandbox, when there is a turn.
    pub(super) fn metrics(&self) -> Operation {
        let backend = self.backend.clone();
        let started = self.state.started;
        let turn = self.state.turns.of(&Builtin::Metrics);
        Box::pin(async move {
            let turn = Arc::new(turn.await.map_err(|error| failed(&error))?);
            let usage = match backend.usage(turn.clone()) {
                Some(usage) => usage.await.map_err(|reason| failed(&reason))?,
                None => {
                    let usage = ask(&*backend, Builtin::Metrics).await?;
                    serde_json::from_str::<ProcessUsage>(&usage).map_err(|error| failed(&error))?
                }
            };
            let trees = backend.trees();
            let trees = trees.trees.iter().map(|it| trees.directory.join(it.name));
            let uptime = started.elapsed().as_millis();
            let metrics = Metrics {
                usage,
                disk_bytes: disk_bytes(trees.collect(), turn).await?,
                uptime_ms: u64::try_from(uptime).unwrap_or(u64::MAX),
                limits: backend.limits(),
            };
            serde_json::to_string(&metrics).map_err(|error| failed(&error))
        })
    }

    /// Lists the named execs that run a program.
    pub(super) fn processes(&self) -> Operation {
        let now = Instant::now();
        let mut execs = Vec::new();
        for (id, entry) in &self.state.execs.entries {
            let Some(control) = entry.control.as_ref().filter(|it| it.runs_program()) else {
                continue;
            };
            let (window, [stdout, stderr]) = entry.exec.look(|it| (it.window(), it.acked()));
            let running = now.saturating_duration_since(control.started).as_millis();
            execs.push(RunningExec {
                exec: id.clone(),
                program: control.program.clone(),
                running_ms: u64::try_from(running).unwrap_or(u64::MAX),
                stdout,
                stderr,
                window,
            });
        }
        execs.sort_by_key(|exec| std::cmp::Reverse(exec.running_ms));
        Box::pin(std::future::ready(listed(execs)))
    }
}

/// The list as JSON. Halves the list until it fits into a result; the oldest execs stay.
fn listed(execs: Vec<RunningExec>) -> Result<String, BuiltinError> {
    let mut list = RunningExecs { execs, omitted: 0 };
    loop {
        let json = serde_json::to_string(&list).map_err(|error| failed(&error))?;
        if json.len() <= MAX_RESULT_BYTES || list.execs.is_empty() {
            return Ok(json);
        }
        let kept = list.execs.len() / 2;
        list.omitted += (list.execs.len() - kept) as u64;
        list.execs.truncate(kept);
    }
}

/// The bytes that the files of a sandbox take on the disk. The walk keeps the turn until it ends,
/// which is soon after this future is dropped.
#[cfg(target_os = "linux")]
async fn disk_bytes(
    trees: Vec<std::path::PathBuf>,
    turn: Arc<OwnedSemaphorePermit>,
) -> Result<u64, BuiltinError> {
    use crate::server::blocking::blocking;

    let stop = walk::StopOnDrop::default();
    let is_stopped = stop.flag();
    let measured = blocking(move || {
        let _turn = turn;
        walk::disk_bytes(trees, walk::MAX_NAMES, &is_stopped)
    });
    measured.await.map_err(|error| failed(&error))
}

#[cfg(not(target_os = "linux"))]
async fn disk_bytes(
    _: Vec<std::path::PathBuf>,
    _: Arc<OwnedSemaphorePermit>,
) -> Result<u64, BuiltinError> {
    Err(failed(&"the server does not run on Linux"))
}

/// The walk over the files of a sandbox.
#[cfg(target_os = "linux")]
mod walk {
    use std::{
        io,
        path::PathBuf,
        sync::{
            Arc,
            atomic::{AtomicBool, Ordering},
        },
    };

    use crate::server::backend::namespace::disk::measure_checked;

    /// The most names of files that are counted. Bounds the time of a walk.
    pub(super) const MAX_NAMES: u64 = 1_000_000;

    /// Stops a walk when it is dropped.
    #[derive(Default)]
    pub(super) struct StopOnDrop(Arc<AtomicBool>);

    impl StopOnDrop {
        pub(super) fn flag(&self) -> Arc<AtomicBool> {
            self.0.clone()
        }
    }

    impl Drop for StopOnDrop {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }

    /// Measures trees that have at most this many names. A tree that doesn't exist counts nothing.
    pub(super) fn disk_bytes(
        trees: Vec<PathBuf>,
        most: u64,
        is_stopped: &AtomicBool,
    ) -> io::Result<u64> {
        let (mut bytes, mut names) = (0_u64, 0);
        let mut check = || {
            names += 1;
            if names > most {
                let reason = format!(
                    "it has more than {most} files, which would take too long; remove files"
                );
                return Err(io::Error::other(reason));
            }
            match is_stopped.load(Ordering::Relaxed) {
                true => Err(io::Error::other("the operation was stopped")),
                false => Ok(()),
            }
        };
        for tree in trees {
            match measure_checked(&[tree], u64::MAX, &mut check) {
                Ok(tree) => bytes = bytes.saturating_add(tree),
                // The sandbox has no such tree yet.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(bytes)
    }

    #[cfg(test)]
    mod tests {
        use std::fs;

        use super::*;

        #[test]
        fn too_many_names_and_a_stop_end_the_walk() {
            let tree = tempfile::tempdir().unwrap();
            for name in ["a", "b", "c"] {
                fs::create_dir(tree.path().join(name)).unwrap();
            }
            let missing = tree.path().join("missing");
            let trees = || vec![missing.clone(), tree.path().to_owned()];
            let stop = StopOnDrop::default();
            let flag = stop.flag();
            assert!(disk_bytes(trees(), 3, &flag).unwrap() >= 3 * 4_096);
            let error = disk_bytes(trees(), 2, &flag).unwrap_err();
            assert!(error.to_string().contains("more than 2 files"), "{error}");
            drop(stop);
            let error = disk_bytes(trees(), 3, &flag).unwrap_err();
            assert!(error.to_string().contains("stopped"), "{error}");
        }
    }
}

fn failed(reason: &impl std::fmt::Display) -> BuiltinError {
    BuiltinError::other(format!("cannot measure the sandbox: {reason}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_that_is_too_long_tells_how_many_are_missing() {
        let exec = |number: u32| RunningExec {
            exec: format!("{number:0128}").into(),
            program: "x".repeat(200),
            running_ms: 1,
            stdout: 0,
            stderr: 0,
            window: 1,
        };
        let json = listed((0..500).map(exec).collect()).unwrap();
        assert!(json.len() <= MAX_RESULT_BYTES);
        let list: RunningExecs = serde_json::from_str(&json).unwrap();
        assert_eq!(list.execs.len() as u64 + list.omitted, 500);
        assert!(
            list.omitted > 0 && list.execs.len() > 100,
            "{}",
            list.omitted
        );
        let json = listed(vec![exec(1)]).unwrap();
        let list: RunningExecs = serde_json::from_str(&json).unwrap();
        assert_eq!(list.omitted, 0);
    }
}
