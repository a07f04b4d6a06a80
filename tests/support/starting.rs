//! [`Starting`]: a process that this one is starting, held between its fork and its exec.

use std::{
    io::{PipeReader, PipeWriter, Read, Write},
    os::unix::process::CommandExt,
    process::{Child, Command},
    thread::JoinHandle,
};

/// A process between its fork and its exec, so that it has copies of all descriptors of this
/// process. Dropping this lets it continue. Keep the time short: it also holds copies of the pipes
/// of other tests.
pub(crate) struct Starting {
    go_on: PipeWriter,
    started: Option<JoinHandle<Child>>,
}

impl Starting {
    /// Blocks until the process is forked.
    #[allow(unsafe_code, reason = "only `pre_exec` runs code before the exec")]
    pub(crate) fn begin() -> Self {
        let (mut is_forked, mut forked) = std::io::pipe().unwrap();
        let (mut waits, go_on): (PipeReader, _) = std::io::pipe().unwrap();
        let mut command = Command::new("true");
        // SAFETY: the closure only writes to one pipe and reads from the other.
        unsafe {
            command.pre_exec(move || {
                forked.write_all(b"f")?;
                waits.read_exact(&mut [0])
            });
        }
        let started = Some(std::thread::spawn(move || command.spawn().unwrap()));
        is_forked.read_exact(&mut [0]).unwrap();
        Self { go_on, started }
    }
}

impl Drop for Starting {
    fn drop(&mut self) {
        self.go_on.write_all(b"g").unwrap();
        let started = self.started.take().and_then(|it| it.join().ok());
        let status = started.map(|mut child| child.wait().unwrap());
        let is_over = status.is_some_and(|status| status.success());
        assert!(is_over || std::thread::panicking(), "{status:?}");
    }
}
