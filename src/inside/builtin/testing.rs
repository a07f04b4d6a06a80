//! Helpers for the tests of the builtins: a home directory, and streams with their other ends.

use std::{
    fs,
    io::{self, PipeReader, PipeWriter, Read, Write},
    net::SocketAddr,
    path::PathBuf,
    thread,
};

use serde_json::Value;
use socket2::{Domain, Socket, Type};

use super::{Streams, run};
use crate::protocol::{Builtin, BuiltinError};

/// Reserves a port of `127.0.0.1`. It refuses connections until the caller listens on the socket.
pub(super) fn closed_port() -> (Socket, u16) {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    socket.bind(&any.into()).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    (socket, address.port())
}

/// A home directory, which is removed when this is dropped.
pub(super) struct Home(pub(super) tempfile::TempDir);

impl Home {
    pub(super) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub(super) fn path(&self, path: &str) -> PathBuf {
        self.0.path().join(path)
    }

    pub(super) fn put(&self, path: &str, content: impl AsRef<[u8]>) {
        fs::write(self.path(path), content).unwrap();
    }

    pub(super) fn get(&self, path: &str) -> Vec<u8> {
        fs::read(self.path(path)).unwrap()
    }

    /// The sorted names in a directory.
    pub(super) fn names(&self, path: &str) -> Vec<String> {
        let entries = fs::read_dir(self.path(path)).unwrap();
        let mut names: Vec<_> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    /// Runs a builtin with this input. Returns its result and its output.
    pub(super) fn run(
        &self,
        builtin: &Builtin,
        input: &[u8],
    ) -> (Result<Value, BuiltinError>, Vec<u8>) {
        let (mut streams, mut ends) = ends();
        let mut stdin = ends.stdin.take().unwrap();
        thread::scope(|scope| {
            let reading = scope.spawn(move || {
                let mut output = Vec::new();
                ends.stdout.read_to_end(&mut output).unwrap();
                output
            });
            scope.spawn(move || {
                // A builtin that fails doesn't read its input.
                let _ = stdin.write_all(input);
            });
            let result = run(builtin, self.0.path(), &mut streams);
            drop(streams);
            (result, reading.join().unwrap())
        })
    }

    /// Runs a builtin, given as JSON, without input. Returns its result.
    pub(super) fn call(&self, builtin: &Value) -> Result<Value, BuiltinError> {
        self.run(&parse(builtin), b"").0
    }
}

/// Calls a builtin as a user without privileges. Returns `None` if the test can't change its user.
#[cfg(target_os = "linux")]
pub(super) fn call_as_user(
    home: &Home,
    builtin: &Value,
) -> Option<(Result<Value, BuiltinError>, Vec<u8>)> {
    use std::os::unix::fs::PermissionsExt;

    fs::set_permissions(home.0.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let user = rustix::process::Uid::from_raw(65_534);
    thread::scope(|scope| {
        let calling = scope.spawn(|| {
            // This changes only the user of this thread.
            rustix::thread::set_thread_res_uid(user, user, user).ok()?;
            Some(home.run(&parse(builtin), b""))
        });
        calling.join().unwrap()
    })
}

pub(super) fn parse(builtin: &Value) -> Builtin {
    serde_json::from_value(builtin.clone()).unwrap()
}

/// The other ends of [`Streams`]. The builtin is stopped when `stopper` is dropped.
pub(super) struct Ends {
    pub(super) stdin: Option<PipeWriter>,
    pub(super) stdout: PipeReader,
    pub(super) stopper: Option<PipeWriter>,
}

impl Ends {
    /// Requests a stop before the builtin starts. Returns once the request is visible.
    pub(super) fn stop(&mut self, streams: &Streams) {
        self.stopper.take();
        // A process that another test is starting may still hold a copy of the pipe.
        while !streams.is_stopped() {
            thread::yield_now();
        }
    }
}

pub(super) fn ends() -> (Streams, Ends) {
    let (stdin, input) = io::pipe().unwrap();
    let (output, stdout) = io::pipe().unwrap();
    let (stop, stopper) = io::pipe().unwrap();
    let streams = Streams::new(stdin.into(), stdout.into(), stop.into()).unwrap();
    let ends = Ends {
        stdin: Some(input),
        stdout: output,
        stopper: Some(stopper),
    };
    (streams, ends)
}
