//! [`Connection`]: dials, supervises one link at a time, backs off and closes.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use super::{Backoff, LinkError, ReconnectPolicy, later};
use crate::protocol::Version;

/// The number of a link. Everything that a link delivers is tagged with its number, so that late
/// events of a dead link are ignored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Epoch(pub u64);

/// How a [`Connection`] behaves.
#[derive(Clone, Debug)]
pub struct ConnectionConfig {
    /// Whether to dial again after the loss of a link on which the sandbox ran.
    pub auto_reconnect: bool,
    /// The delays and limits of dialling again.
    pub policy: ReconnectPolicy,
    /// How long to retry the first dial while the server reports that it is busy.
    pub busy_timeout: Duration,
    /// How long to wait for the peer's answer to a close frame.
    pub close_timeout: Duration,
    /// The seed of the jitter.
    pub seed: u64,
}

/// The state of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConnectionState {
    /// The connection has not been started.
    Idle,
    /// A link is being dialled.
    Dialling(Epoch),
    /// The link is open.
    Open(Epoch),
    /// Waiting until the next attempt.
    BackingOff {
        /// When the next attempt is due.
        until: Instant,
    },
    /// The close handshake is in progress.
    Closing {
        /// The link being closed.
        epoch: Epoch,
        /// When to drop the link if the peer hasn't answered.
        until: Instant,
    },
    /// The connection is closed for good.
    Closed,
}

/// A command of a sandbox to its connection.
#[derive(Clone, Debug, PartialEq)]
pub enum LinkCommand {
    /// The sandbox runs on this link. From now on, a lost link is dialled again if
    /// [`auto_reconnect`](ConnectionConfig::auto_reconnect) is set.
    Confirm(Epoch),
    /// From now on, a loss is final. An attempt that is already scheduled is still made.
    DisableReconnect,
    /// The sandbox can't be used on this link yet: drop the link and dial again later.
    Refuse(Epoch, LinkError),
    /// Close the connection. An open link is closed with a handshake.
    Close,
}

/// A report of a connection to its sandbox.
#[derive(Clone, Debug, PartialEq)]
pub enum LinkFact {
    /// A link is open and speaks this version.
    Opened(Epoch, Version),
    /// The link was lost, and the connection dials again after the delay.
    Reconnecting {
        /// The number of the attempt, from 1.
        attempt: u32,
        /// The delay before the attempt.
        delay: Duration,
        /// Why the link was lost.
        cause: LinkError,
    },
    /// The link was lost, and the connection does not dial again.
    Lost {
        /// Why the last link was lost, or the last dial failed.
        cause: LinkError,
        /// The number of attempts to dial again.
        attempts: u32,
    },
    /// The connection was closed on request.
    Closed,
}

/// An action for the owner of a [`Connection`] to perform.
#[derive(Clone, Debug, PartialEq)]
pub enum ConnectionAction {
    /// Dial a link with this number.
    Dial(Epoch),
    /// Drop the dial or the link, at once.
    Drop(Epoch),
    /// Close the link with a handshake.
    Close(Epoch),
    /// Report this to the sandbox.
    Tell(LinkFact),
}

/// The state machine of a connection. Time is an argument.
#[derive(Debug)]
pub struct Connection {
    config: ConnectionConfig,
    state: ConnectionState,
    epoch: Epoch,
    /// Whether a lost link is dialled again. Set when the sandbox runs, cleared on request.
    reconnect: bool,
    /// Since when the sandbox runs on the current link.
    good_since: Option<Instant>,
    backoff: Backoff,
    /// Counts the attempts at the first link. `None` once a link was open.
    first: Option<Backoff>,
    actions: VecDeque<ConnectionAction>,
}

impl Connection {
    /// Creates a connection, which does nothing until [`start`](Self::start).
    pub fn new(config: ConnectionConfig) -> Self {
        let backoff = Backoff::new(config.policy.clone(), config.seed);
        let first = ReconnectPolicy {
            max_attempts: None,
            max_elapsed: Some(config.busy_timeout),
            ..config.policy
        };
        Self {
            first: Some(Backoff::new(first, config.seed)),
            config,
            state: ConnectionState::Idle,
            epoch: Epoch::default(),
            reconnect: false,
            good_since: None,
            backoff,
            actions: VecDeque::new(),
        }
    }

    /// The state of the connection.
    pub fn state(&self) -> &ConnectionState {
        &self.state
    }

    /// The number of the current or last link.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Dials the first link.
    pub fn start(&mut self) {
        if self.state == ConnectionState::Idle {
            self.dial();
        }
    }

    /// Handles a command of the sandbox.
    pub fn handle_command(&mut self, command: LinkCommand, now: Instant) {
        match command {
            LinkCommand::Confirm(epoch) if self.state == ConnectionState::Open(epoch) => {
                self.reconnect = self.config.auto_reconnect;
                self.good_since.get_or_insert(now);
            }
            LinkCommand::DisableReconnect => self.reconnect = false,
            LinkCommand::Refuse(epoch, cause) if self.state == ConnectionState::Open(epoch) => {
                self.actions.push_back(ConnectionAction::Drop(epoch));
                self.retry(cause, now);
            }
            LinkCommand::Confirm(_) | LinkCommand::Refuse(..) => {}
            LinkCommand::Close => self.close(now),
        }
    }

    fn close(&mut self, now: Instant) {
        self.reconnect = false;
        match self.state {
            ConnectionState::Open(epoch) => {
                self.actions.push_back(ConnectionAction::Close(epoch));
                self.state = ConnectionState::Closing {
                    epoch,
                    until: later(now, self.config.close_timeout),
                };
            }
            ConnectionState::Dialling(epoch) => {
                self.actions.push_back(ConnectionAction::Drop(epoch));
                self.finish();
            }
            ConnectionState::Idle | ConnectionState::BackingOff { .. } => self.finish(),
            ConnectionState::Closing { .. } | ConnectionState::Closed => {}
        }
    }

    /// The dial succeeded, and the link speaks this version.
    pub fn handle_opened(&mut self, epoch: Epoch, version: Version) {
        if self.state == ConnectionState::Dialling(epoch) {
            self.state = ConnectionState::Open(epoch);
            self.first = None;
            self.tell(LinkFact::Opened(epoch, version));
        } else {
            self.actions.push_back(ConnectionAction::Drop(epoch));
        }
    }

    /// The dial failed, or the link was lost.
    pub fn handle_lost(&mut self, epoch: Epoch, cause: LinkError, now: Instant) {
        match self.state {
            ConnectionState::Dialling(current) | ConnectionState::Open(current)
                if current == epoch =>
            {
                self.retry(cause, now);
            }
            ConnectionState::Closing { epoch: current, .. } if current == epoch => self.finish(),
            _ => {}
        }
    }

    /// Handles the passage of time.
    pub fn handle_timeout(&mut self, now: Instant) {
        match self.state {
            ConnectionState::BackingOff { until } if now >= until => self.dial(),
            ConnectionState::Closing { epoch, until } if now >= until => {
                self.actions.push_back(ConnectionAction::Drop(epoch));
                self.finish();
            }
            _ => {}
        }
    }

    /// When [`handle_timeout`](Self::handle_timeout) is due.
    pub fn poll_timeout(&self) -> Option<Instant> {
        match self.state {
            ConnectionState::BackingOff { until } | ConnectionState::Closing { until, .. } => {
                Some(until)
            }
            _ => None,
        }
    }

    /// The next action to perform.
    pub fn poll_action(&mut self) -> Option<ConnectionAction> {
        self.actions.pop_front()
    }

    fn tell(&mut self, fact: LinkFact) {
        self.actions.push_back(ConnectionAction::Tell(fact));
    }

    fn dial(&mut self) {
        self.epoch.0 += 1;
        self.good_since = None;
        self.state = ConnectionState::Dialling(self.epoch);
        self.actions.push_back(ConnectionAction::Dial(self.epoch));
    }

    fn retry(&mut self, cause: LinkError, now: Instant) {
        if let Some(since) = self.good_since.take() {
            self.backoff
                .link_lasted(now.saturating_duration_since(since));
        }
        let asked = cause.retry_after().unwrap_or_default();
        let backoff = match &mut self.first {
            // Gives up at once if the server asks for a longer delay than the caller allows.
            Some(first) if cause.is_busy() => Some((first, asked)),
            _ if self.reconnect && cause.is_retryable() => {
                // If the server asks for more time than is left, make a last attempt earlier,
                // because otherwise the sandbox would be lost.
                let left = self.backoff.time_left(now).unwrap_or(asked);
                Some((&mut self.backoff, asked.min(left)))
            }
            _ => None,
        };
        let next = backoff.and_then(|(it, asked)| Some((it.next(asked, now)?, it.attempts())));
        if let Some((delay, attempt)) = next {
            let until = later(now, delay);
            self.state = ConnectionState::BackingOff { until };
            self.tell(LinkFact::Reconnecting {
                attempt,
                delay,
                cause,
            });
        } else {
            self.state = ConnectionState::Closed;
            let attempts = self.first.as_ref().unwrap_or(&self.backoff).attempts();
            self.tell(LinkFact::Lost { cause, attempts });
        }
    }

    fn finish(&mut self) {
        self.state = ConnectionState::Closed;
        self.tell(LinkFact::Closed);
    }
}

#[cfg(test)]
#[allow(
    clippy::disallowed_methods,
    reason = "any instant will do as the origin of virtual time"
)]
mod tests {
    use super::*;
    use crate::machine::UpgradeRefusal;
    use ConnectionAction::Tell;

    fn connection(auto_reconnect: bool) -> Connection {
        Connection::new(ConnectionConfig {
            auto_reconnect,
            policy: ReconnectPolicy {
                jitter: 0.0,
                max_attempts: Some(3),
                ..ReconnectPolicy::default()
            },
            busy_timeout: Duration::from_secs(60),
            close_timeout: Duration::from_secs(2),
            seed: 1,
        })
    }

    fn actions(connection: &mut Connection) -> Vec<ConnectionAction> {
        std::iter::from_fn(|| connection.poll_action()).collect()
    }

    fn dropped() -> LinkError {
        LinkError::Dropped {
            detail: "cut".into(),
        }
    }

    fn open(connection: &mut Connection, now: Instant) {
        connection.start();
        connection.handle_opened(Epoch(1), Version::V2);
        connection.handle_command(LinkCommand::Confirm(Epoch(1)), now);
        assert_eq!(
            actions(connection),
            [
                ConnectionAction::Dial(Epoch(1)),
                Tell(LinkFact::Opened(Epoch(1), Version::V2))
            ]
        );
    }

    #[test]
    fn a_first_dial_that_fails_is_final() {
        let now = Instant::now();
        let mut connection = connection(true);
        connection.start();
        connection.handle_lost(Epoch(1), dropped(), now);
        assert_eq!(
            actions(&mut connection),
            [
                ConnectionAction::Dial(Epoch(1)),
                Tell(LinkFact::Lost {
                    cause: dropped(),
                    attempts: 0
                })
            ]
        );
        assert_eq!(connection.poll_timeout(), None);
    }

    fn busy(status: u16, retry_after: Option<u64>) -> LinkError {
        LinkError::UpgradeRefused(Box::new(UpgradeRefusal {
            address: "h:1".into(),
            status,
            reason: None,
            location: None,
            retry_after: retry_after.map(Duration::from_secs),
        }))
    }

    #[test]
    fn a_busy_server_is_redialled_after_retry_after() {
        let now = Instant::now();
        for status in [429, 503] {
            for (retry_after, delay) in [(Some(7), 7_000), (Some(0), 200), (None, 200)] {
                let mut connection = connection(false);
                connection.start();
                connection.handle_lost(Epoch(1), busy(status, retry_after), now);
                let delay = Duration::from_millis(delay);
                assert_eq!(
                    actions(&mut connection).pop(),
                    Some(Tell(LinkFact::Reconnecting {
                        attempt: 1,
                        delay,
                        cause: busy(status, retry_after)
                    }))
                );
                connection.handle_timeout(now + delay);
                assert_eq!(actions(&mut connection), [ConnectionAction::Dial(Epoch(2))]);
            }
        }
    }

    #[test]
    fn a_busy_server_is_given_up_within_the_timeout() {
        let mut now = Instant::now();
        let begin = now;
        let mut connection = connection(false);
        connection.start();
        let mut epoch = 1;
        let attempts = loop {
            connection.handle_lost(Epoch(epoch), busy(503, Some(9)), now);
            match actions(&mut connection).pop() {
                Some(Tell(LinkFact::Reconnecting { delay, .. })) => now += delay,
                Some(Tell(LinkFact::Lost { attempts, .. })) => break attempts,
                other => panic!("{other:?}"),
            }
            connection.handle_timeout(now);
            epoch += 1;
        };
        assert!(now - begin <= Duration::from_secs(60));
        assert_eq!(attempts, 6);
        // The connection doesn't begin a wait that is too long.
        let mut connection = self::connection(false);
        connection.start();
        connection.handle_lost(Epoch(1), busy(429, Some(61)), now);
        assert!(matches!(
            actions(&mut connection).pop(),
            Some(Tell(LinkFact::Lost { attempts: 0, .. }))
        ));
        assert_eq!(connection.poll_timeout(), None);
    }

    /// The delays before the next attempts if the server answers with these waits, in seconds. The
    /// first answer arrives 2 seconds after the loss.
    fn redials(policy: ReconnectPolicy, asked: &[u64]) -> Vec<Option<Duration>> {
        let mut now = Instant::now();
        let mut connection = connection(true);
        connection.backoff = Backoff::new(policy, 1);
        open(&mut connection, now);
        connection.handle_lost(Epoch(1), dropped(), now);
        let mut wait = Duration::from_secs(2);
        let redial = |(epoch, asked): (u64, &u64)| {
            actions(&mut connection);
            now += wait;
            connection.handle_timeout(now);
            connection.handle_lost(Epoch(epoch), busy(503, Some(*asked)), now);
            match actions(&mut connection).pop() {
                Some(Tell(LinkFact::Reconnecting { delay, .. })) => {
                    wait = delay;
                    Some(delay)
                }
                Some(Tell(LinkFact::Lost { attempts, .. })) => {
                    assert_eq!(u64::from(attempts), epoch - 1);
                    None
                }
                other => panic!("{other:?}"),
            }
        };
        (2..).zip(asked).map(redial).collect()
    }

    #[test]
    fn a_dial_under_the_reconnect_policy_honours_retry_after() {
        let policy = ReconnectPolicy {
            jitter: 0.0,
            ..ReconnectPolicy::default()
        };
        let seconds = |wait| Some(Duration::from_secs(wait));
        assert_eq!(
            redials(policy.clone(), &[30, 60]),
            [seconds(30), seconds(60)]
        );
        let endless = ReconnectPolicy {
            max_elapsed: None,
            ..policy
        };
        assert_eq!(
            redials(endless, &[30, 1_000_000_000]),
            [seconds(30), seconds(300)],
            "at most 5 minutes"
        );
    }

    #[test]
    fn a_long_retry_after_leaves_time_for_a_last_attempt() {
        for asked in [299, 300, 3600] {
            let policy = ReconnectPolicy {
                jitter: 0.0,
                ..ReconnectPolicy::default()
            };
            let last = Some(Duration::from_secs(298));
            assert_eq!(redials(policy, &[asked, asked]), [last, None], "{asked}");
        }
    }

    #[test]
    fn a_lost_link_is_dialled_again_after_the_delay_only() {
        let now = Instant::now();
        let mut connection = connection(true);
        open(&mut connection, now);
        connection.handle_lost(Epoch(1), dropped(), now);
        let delay = Duration::from_millis(200);
        assert_eq!(
            actions(&mut connection),
            [Tell(LinkFact::Reconnecting {
                attempt: 1,
                delay,
                cause: dropped()
            })]
        );
        connection.handle_timeout(now + delay / 2);
        assert_eq!(actions(&mut connection), []);
        connection.handle_timeout(now + delay);
        assert_eq!(actions(&mut connection), [ConnectionAction::Dial(Epoch(2))]);
    }

    #[test]
    fn late_events_of_a_dead_link_are_ignored() {
        let now = Instant::now();
        let mut connection = connection(true);
        open(&mut connection, now);
        connection.handle_lost(Epoch(1), dropped(), now);
        connection.handle_timeout(now + Duration::from_secs(1));
        connection.handle_opened(Epoch(2), Version::V2);
        actions(&mut connection);
        connection.handle_lost(Epoch(1), dropped(), now);
        connection.handle_command(LinkCommand::Refuse(Epoch(1), LinkError::InUse), now);
        connection.handle_command(LinkCommand::Confirm(Epoch(1)), now);
        assert_eq!(actions(&mut connection), []);
        assert_eq!(*connection.state(), ConnectionState::Open(Epoch(2)));
    }

    #[test]
    fn a_refused_link_counts_as_an_attempt_and_the_policy_gives_up() {
        let mut now = Instant::now();
        let mut connection = connection(true);
        open(&mut connection, now);
        connection.handle_lost(Epoch(1), dropped(), now);
        for epoch in 2..=4 {
            now += Duration::from_secs(1);
            connection.handle_timeout(now);
            connection.handle_opened(Epoch(epoch), Version::V2);
            connection.handle_command(LinkCommand::Refuse(Epoch(epoch), LinkError::InUse), now);
        }
        let last = actions(&mut connection).pop();
        assert_eq!(
            last,
            Some(Tell(LinkFact::Lost {
                cause: LinkError::InUse,
                attempts: 3
            }))
        );
    }

    #[test]
    fn a_loss_is_final_when_reconnects_are_off() {
        let now = Instant::now();
        for disable in [true, false] {
            let mut connection = connection(disable);
            open(&mut connection, now);
            if disable {
                connection.handle_command(LinkCommand::DisableReconnect, now);
            }
            connection.handle_lost(Epoch(1), dropped(), now);
            assert_eq!(
                actions(&mut connection),
                [Tell(LinkFact::Lost {
                    cause: dropped(),
                    attempts: 0
                })]
            );
        }
    }

    #[test]
    fn close_works_in_every_state() {
        let now = Instant::now();
        let mut idle = connection(true);
        idle.close(now);
        assert_eq!(actions(&mut idle), [Tell(LinkFact::Closed)]);

        let mut dialling = connection(true);
        dialling.start();
        dialling.close(now);
        dialling.handle_opened(Epoch(1), Version::V2);
        let drop = ConnectionAction::Drop(Epoch(1));
        assert_eq!(
            actions(&mut dialling)[1..],
            [drop.clone(), Tell(LinkFact::Closed), drop.clone()]
        );

        let mut backing_off = connection(true);
        open(&mut backing_off, now);
        backing_off.handle_lost(Epoch(1), dropped(), now);
        backing_off.close(now);
        assert_eq!(
            actions(&mut backing_off).pop(),
            Some(Tell(LinkFact::Closed))
        );
        assert_eq!(backing_off.poll_timeout(), None);

        let mut open_one = connection(true);
        open(&mut open_one, now);
        open_one.close(now);
        assert_eq!(actions(&mut open_one), [ConnectionAction::Close(Epoch(1))]);
        open_one.handle_timeout(now + Duration::from_secs(2));
        assert_eq!(actions(&mut open_one), [drop, Tell(LinkFact::Closed)]);
    }
}
