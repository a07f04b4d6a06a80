//! [`Pairing`]: an error status and the `error` message after it become one fact.
//!
//! A v1 server says *that* something failed in one message and *why* in the next. Deployed clients
//! report the first alone. Here the status waits for its reason; the reason may also come in the
//! status itself, late, or not at all.

use super::{
    ExecId, ExecUpdate, Extra, Identity, OutputPiece, ServerMessage, Status, StatusUpdate,
    UnknownMessage,
};

/// What the server let the client know, reasons included.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Fact {
    /// A status, with its reason where there is one.
    Status(StatusFact),
    /// The sandbox that was created.
    Identity(Identity),
    /// A piece of output.
    Output(OutputPiece),
    /// Input was taken (v2).
    StdinAck {
        /// By which exec.
        exec: ExecId,
        /// How many bytes in all.
        offset: u64,
    },
    /// A reason that came too late for its status, or without any.
    LateReason(String),
    /// A message that this version does not know.
    Unknown(UnknownMessage),
}

/// A status and its reason.
#[derive(Clone, Debug, PartialEq)]
pub struct StatusFact {
    /// The status.
    pub status: Status,
    /// Why, in the server's own words.
    pub reason: Option<String>,
    /// Which exec it is about (v2).
    pub exec: Option<Box<ExecUpdate>>,
    /// Keys that this version does not know.
    pub extra: Extra,
}

/// Joins error statuses with their reasons. Holds no clock: its owner calls [`flush`](Self::flush)
/// when the reason does not come in time, and when the link ends.
#[derive(Debug, Default)]
pub struct Pairing {
    held: Option<StatusFact>,
    /// The status had its reason in itself; the separate `error` that may follow says it again.
    repeat_expected: bool,
}

impl Pairing {
    /// Takes the next message and gives the facts that are complete with it, in order: a status that
    /// waited no longer, and the message itself.
    pub fn accept(&mut self, message: ServerMessage) -> [Option<Fact>; 2] {
        match message {
            // Output answers nothing: a held status goes on waiting.
            ServerMessage::Output(piece) => [None, Some(Fact::Output(piece))],
            ServerMessage::Error(error) => {
                let fact = match self.held.take() {
                    Some(mut held) => {
                        held.reason = Some(error.message);
                        Some(Fact::Status(held))
                    }
                    None if std::mem::take(&mut self.repeat_expected) => None,
                    None => Some(Fact::LateReason(error.message)),
                };
                [None, fact]
            }
            ServerMessage::Status(update) => {
                let flushed = self.flush();
                let StatusUpdate {
                    status,
                    message,
                    exec,
                    extra,
                } = update;
                let fact = StatusFact {
                    status,
                    reason: message,
                    exec,
                    extra,
                };
                if fact.status.expects_reason() && fact.reason.is_none() {
                    self.held = Some(fact);
                    return [flushed, None];
                }
                self.repeat_expected = fact.reason.is_some();
                [flushed, Some(Fact::Status(fact))]
            }
            ServerMessage::Identity(identity) => [self.flush(), Some(Fact::Identity(identity))],
            ServerMessage::StdinAck { exec, offset } => {
                [None, Some(Fact::StdinAck { exec, offset })]
            }
            ServerMessage::Unknown(unknown) => [None, Some(Fact::Unknown(unknown))],
        }
    }

    /// Whether a status waits for its reason.
    pub fn is_waiting(&self) -> bool {
        self.held.is_some()
    }

    /// Gives up waiting: the held status as it is.
    pub fn flush(&mut self) -> Option<Fact> {
        self.repeat_expected = false;
        self.held.take().map(Fact::Status)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::StdStream;

    fn facts(messages: impl IntoIterator<Item = ServerMessage>) -> (Vec<Fact>, Pairing) {
        let mut pairing = Pairing::default();
        let mut facts = Vec::new();
        for message in messages {
            facts.extend(pairing.accept(message).into_iter().flatten());
        }
        (facts, pairing)
    }

    fn status(status: Status, reason: Option<&str>) -> Fact {
        Fact::Status(StatusFact {
            status,
            reason: reason.map(str::to_owned),
            exec: None,
            extra: Extra::default(),
        })
    }

    #[test]
    fn a_reason_in_the_next_message_joins_its_status() {
        let (facts, pairing) = facts([
            ServerMessage::status(Status::ExecutionUnsupportedLanguageError),
            ServerMessage::error("Unsupported language: 'ruby'."),
            ServerMessage::status(Status::ExecutionDone),
        ]);
        assert_eq!(
            facts,
            [
                status(
                    Status::ExecutionUnsupportedLanguageError,
                    Some("Unsupported language: 'ruby'.")
                ),
                status(Status::ExecutionDone, None),
            ]
        );
        assert!(!pairing.is_waiting());
    }

    #[test]
    fn output_between_a_status_and_its_reason_passes_by() {
        let (facts, _) = facts([
            ServerMessage::status(Status::ExecutionError),
            ServerMessage::output(StdStream::Stdout, "first"),
            ServerMessage::error("An execution is already in progress."),
        ]);
        assert_eq!(
            facts,
            [
                Fact::Output(OutputPiece {
                    stream: StdStream::Stdout,
                    data: "first".into(),
                    place: None,
                    extra: Extra::default()
                }),
                status(
                    Status::ExecutionError,
                    Some("An execution is already in progress.")
                ),
            ]
        );
    }

    #[test]
    fn a_reason_in_the_status_itself_counts_and_its_repetition_is_dropped() {
        let update = ServerMessage::Status(StatusUpdate {
            status: Status::SandboxError,
            message: Some("why".into()),
            exec: None,
            extra: Extra::default(),
        });
        let (facts, _) = facts([
            update,
            ServerMessage::error("why"),
            ServerMessage::error("another"),
        ]);
        assert_eq!(
            facts,
            [
                status(Status::SandboxError, Some("why")),
                Fact::LateReason("another".into())
            ]
        );
    }

    #[test]
    fn a_status_whose_reason_never_comes_is_not_lost() {
        let (facts, mut pairing) = facts([ServerMessage::status(Status::SandboxError)]);
        assert!(facts.is_empty() && pairing.is_waiting());
        assert_eq!(pairing.flush(), Some(status(Status::SandboxError, None)));

        let (facts, _) = self::facts([
            ServerMessage::status(Status::StdinError),
            ServerMessage::status(Status::SandboxRunning),
        ]);
        assert_eq!(
            facts,
            [
                status(Status::StdinError, None),
                status(Status::SandboxRunning, None)
            ]
        );
    }

    #[test]
    fn a_status_that_has_no_reason_does_not_wait() {
        let (facts, pairing) = facts([ServerMessage::status(Status::SandboxNotFound)]);
        assert_eq!(facts, [status(Status::SandboxNotFound, None)]);
        assert!(!pairing.is_waiting());
    }

    #[test]
    fn a_reason_after_its_status_was_given_up_is_late_not_lost() {
        let mut pairing = Pairing::default();
        let mut facts = Vec::new();
        let held = pairing.accept(ServerMessage::status(Status::SandboxError));
        facts.extend(held.into_iter().flatten());
        facts.extend(pairing.flush());
        let late = pairing.accept(ServerMessage::error("too late"));
        facts.extend(late.into_iter().flatten());
        assert_eq!(
            facts,
            [
                status(Status::SandboxError, None),
                Fact::LateReason("too late".into())
            ]
        );
    }
}
