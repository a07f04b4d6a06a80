//! The messages to a [`ProcessActor`](super::ProcessActor), with their answers.

use actix::Message;
use bytes::Bytes;
use futures::channel::oneshot;

use crate::{Error, machine::ProcessEnd, protocol::ExecId};

/// Asks a [`ProcessActor`](super::ProcessActor) how the process ended. Answered when it has ended.
/// Any number of callers may ask. [`ProcessOutput::process_end`](super::ProcessOutput::process_end)
/// returns the end without a message.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "Result<ProcessEnd, Error>")]
pub struct Wait;

/// Tells a [`ProcessActor`](super::ProcessActor) to kill the process. Answered when the server
/// confirms the kill. Any number of callers may ask. See [`Process::kill`](crate::Process::kill).
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "Result<(), Error>")]
pub struct Kill;

/// Tells a [`ProcessActor`](super::ProcessActor) to send bytes to stdin, after all earlier writes.
/// Answered when they are accepted into the stdin budget. Protocol v1 carries only UTF-8.
#[derive(Clone, Message)]
#[rtype(result = "Result<(), Error>")]
pub struct WriteStdin(pub Bytes);

impl std::fmt::Debug for WriteStdin {
    /// Hides the input, because it may be secret.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WriteStdin")
            .field("bytes", &self.0.len())
            .finish()
    }
}

/// [`WriteStdin`] for a [`ProcessStdin`](crate::ProcessStdin): writes the bytes even if the caller
/// doesn't wait for the answer.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct WriteTaken(
    pub(crate) Bytes,
    pub(crate) oneshot::Sender<Result<(), Error>>,
);

/// Asks a [`ProcessActor`](super::ProcessActor) to flush stdin. Answered when everything that was
/// accepted before is written: under protocol v2 to the pipe of the process, under v1 to the
/// connection.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "Result<(), Error>")]
pub struct FlushStdin;

/// Tells a [`ProcessActor`](super::ProcessActor) to close stdin after all earlier writes. Requires
/// protocol v2.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "Result<(), Error>")]
pub struct CloseStdin;

/// Asks a [`ProcessActor`](super::ProcessActor) for the position up to which its output was read,
/// so that another program can resume the process. Requires protocol v2. See
/// [`Process::to_ref`](crate::Process::to_ref).
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "Result<ProcessPlace, Error>")]
pub struct GetPlace;

/// The answer to [`GetPlace`], and the position at which [`AttachProcess`](super::AttachProcess)
/// resumes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProcessPlace {
    /// The id of the exec in its sandbox.
    pub exec: ExecId,
    /// The offsets in stdout and stderr up to which output was read or dropped.
    pub offsets: [u64; 2],
    /// How many unacknowledged bytes of output the server may send.
    pub window: u64,
}
