//! The messages to a [`ProcessActor`](super::ProcessActor), with their answers.

use actix::Message;
use bytes::Bytes;
use futures::channel::oneshot;

use crate::{Error, machine::ProcessEnd, protocol::ExecId};

/// To a [`ProcessActor`](super::ProcessActor): answer how the process ended, once it has. Any
/// number of callers may ask. [`ProcessOutput::process_end`](super::ProcessOutput::process_end)
/// returns it without a message.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "Result<ProcessEnd, Error>")]
pub struct Wait;

/// To a [`ProcessActor`](super::ProcessActor): kill the process. Answers when the server confirms
/// its end. Any number of callers may ask.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "Result<(), Error>")]
pub struct Kill;

/// To a [`ProcessActor`](super::ProcessActor): send bytes to stdin, after all bytes before them.
/// Answers when they are accepted into the stdin budget. Protocol v1 carries UTF-8 only.
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

/// To a [`ProcessActor`](super::ProcessActor): answer when everything that was accepted before is
/// sent: under protocol v2 to the pipe of the process, under v1 to the connection.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "Result<(), Error>")]
pub struct FlushStdin;

/// To a [`ProcessActor`](super::ProcessActor): close stdin after everything that was written
/// before. Needs protocol v2.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "Result<(), Error>")]
pub struct CloseStdin;

/// To a [`ProcessActor`](super::ProcessActor): the position up to which its output was read, for
/// another program that resumes it. Needs protocol v2.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "Result<ProcessPlace, Error>")]
pub struct GetPlace;

/// Answer to [`GetPlace`], and where [`AttachProcess`](super::AttachProcess) starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProcessPlace {
    /// The id of the exec in its sandbox.
    pub exec: ExecId,
    /// How many bytes of stdout and of stderr were read.
    pub offsets: [u64; 2],
    /// How many bytes of output the server sends before it needs an acknowledgement.
    pub window: u64,
}
