//! [`Pairing`]: joins an error status and the `error` message after it.
//!
//! A v1 server reports *that* something failed in one message and *why* in the next. Deployed
//! clients report only the first. Here, the status waits for its reason. The reason may also be
//! part of the status, come late, or be missing.

use super::{ServerMessage, StatusUpdate};

/// Joins error statuses with their reasons. It has no clock: its owner calls [`flush`](Self::flush)
/// if the reason doesn't come in time, and when the link ends.
#[derive(Debug, Default)]
pub struct Pairing {
    held: Option<StatusUpdate>,
    /// Whether the last status contained its reason, so that a separate `error` after it is a
    /// repetition.
    repeat_expected: bool,
}

impl Pairing {
    /// Takes the next message, and returns the messages that are complete with it, in order.
    ///
    /// An error status among them has its reason as [`message`](StatusUpdate::message). An
    /// [`Error`](ServerMessage::Error) is a reason that came too late, or without a status.
    pub fn accept(&mut self, message: ServerMessage) -> [Option<ServerMessage>; 2] {
        match message {
            ServerMessage::Status(update) => {
                let before = self.flush();
                if update.status.expects_reason() && update.message.is_none() {
                    self.held = Some(update);
                    return [before, None];
                }
                self.repeat_expected = update.message.is_some();
                [before, Some(ServerMessage::Status(update))]
            }
            ServerMessage::Error(error) => match self.held.take() {
                Some(mut held) => {
                    held.message = Some(error.message);
                    [Some(ServerMessage::Status(held)), None]
                }
                None if std::mem::take(&mut self.repeat_expected) => [None, None],
                None => [Some(ServerMessage::Error(error)), None],
            },
            ServerMessage::Identity(_) => [self.flush(), Some(message)],
            // None of these answers a request: a held status keeps waiting.
            ServerMessage::Output(_)
            | ServerMessage::BinaryOutput(_)
            | ServerMessage::StdinAck { .. }
            | ServerMessage::Unknown(_) => [Some(message), None],
        }
    }

    /// Whether a status waits for its reason.
    pub fn is_waiting(&self) -> bool {
        self.held.is_some()
    }

    /// Returns the held status without a reason.
    pub fn flush(&mut self) -> Option<ServerMessage> {
        self.repeat_expected = false;
        self.held.take().map(ServerMessage::Status)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::{Status, StdStream};

    fn facts(messages: impl IntoIterator<Item = ServerMessage>) -> (Vec<ServerMessage>, Pairing) {
        let mut pairing = Pairing::default();
        let mut facts = Vec::new();
        for message in messages {
            facts.extend(pairing.accept(message).into_iter().flatten());
        }
        (facts, pairing)
    }

    fn status(status: Status, reason: Option<&str>) -> ServerMessage {
        ServerMessage::Status(StatusUpdate {
            status,
            message: reason.map(str::to_owned),
            features: None,
            exec: None,
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
                ServerMessage::output(StdStream::Stdout, "first"),
                status(
                    Status::ExecutionError,
                    Some("An execution is already in progress.")
                ),
            ]
        );
    }

    #[test]
    fn a_reason_in_the_status_wins_and_its_repetition_is_dropped() {
        let update = ServerMessage::Status(StatusUpdate {
            status: Status::SandboxError,
            message: Some("why".into()),
            features: None,
            exec: None,
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
                ServerMessage::error("another")
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
        assert_eq!(held, [None, None]);
        facts.extend(pairing.flush());
        facts.extend(
            pairing
                .accept(ServerMessage::error("too late"))
                .into_iter()
                .flatten(),
        );
        assert_eq!(
            facts,
            [
                status(Status::SandboxError, None),
                ServerMessage::error("too late")
            ]
        );
    }
}
