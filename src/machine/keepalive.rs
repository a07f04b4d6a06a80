//! [`Keepalive`]: pings a quiet link to detect a half-open connection.

use std::time::{Duration, Instant};

use super::later;

/// When to send a ping, and when to treat a link as dead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeepaliveConfig {
    /// The time without a message after which a ping is sent. Default: 15 s.
    pub interval: Duration,
    /// How long to wait for any message after the ping. Default: 15 s.
    pub timeout: Duration,
}

impl Default for KeepaliveConfig {
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(15),
            timeout: Duration::from_secs(15),
        }
    }
}

/// An action for the owner of a [`Keepalive`] to perform.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeepaliveAction {
    /// Send a ping.
    Ping,
    /// The link is dead: nothing arrived for this long.
    Dead(Duration),
}

/// Watches one link. Reports a half-open link as dead `interval + timeout` after the last message.
#[derive(Debug)]
pub struct Keepalive {
    config: KeepaliveConfig,
    heard: Instant,
    pinged: Option<Instant>,
}

impl Keepalive {
    /// Starts to watch a link that has just opened.
    pub fn new(config: KeepaliveConfig, now: Instant) -> Self {
        Self {
            config,
            heard: now,
            pinged: None,
        }
    }

    /// A message arrived, or the link is read again after it was paused on purpose.
    pub fn handle_alive(&mut self, now: Instant) {
        self.heard = now;
        self.pinged = None;
    }

    /// When to call [`poll`](Self::poll) next.
    pub fn poll_timeout(&self) -> Instant {
        match self.pinged {
            Some(pinged) => later(pinged, self.config.timeout),
            None => later(self.heard, self.config.interval),
        }
    }

    /// The next action to perform, if one is due.
    pub fn poll(&mut self, now: Instant) -> Option<KeepaliveAction> {
        if now < self.poll_timeout() {
            return None;
        }
        Some(match self.pinged {
            Some(_) => KeepaliveAction::Dead(now - self.heard),
            None => {
                self.pinged = Some(now);
                KeepaliveAction::Ping
            }
        })
    }
}

#[cfg(test)]
#[allow(
    clippy::disallowed_methods,
    reason = "any instant will do as the origin of virtual time"
)]
mod tests {
    use super::*;

    #[test]
    fn a_quiet_link_is_pinged_and_a_silent_one_is_dead() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut keepalive = Keepalive::new(KeepaliveConfig::default(), start);
        assert_eq!(keepalive.poll(at(14)), None);
        assert_eq!(keepalive.poll(at(15)), Some(KeepaliveAction::Ping));
        assert_eq!(keepalive.poll(at(29)), None);
        keepalive.handle_alive(at(29));
        assert_eq!(keepalive.poll(at(43)), None);
        assert_eq!(keepalive.poll(at(44)), Some(KeepaliveAction::Ping));
        assert_eq!(
            keepalive.poll(at(59)),
            Some(KeepaliveAction::Dead(Duration::from_secs(30)))
        );
    }
}
