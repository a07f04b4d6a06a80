//! [`Backoff`]: the delays between attempts. Exponential with a cap and jitter, bounded in number
//! and time.

use std::time::{Duration, Instant};

/// When a lost connection is dialled again, and when the client gives up.
///
/// The delay before attempt *n* is `initial * factor^(n-1)`, at most `max`. Then it is reduced at
/// random, by up to the fraction `jitter`, so that clients that lose a server at the same time
/// don't all reconnect at the same time.
///
/// ```
/// use std::time::Duration;
/// use actix_sandbox::ReconnectPolicy;
///
/// let patient = ReconnectPolicy { max_elapsed: None, ..ReconnectPolicy::default() };
/// assert_eq!(patient.initial, Duration::from_millis(200));
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct ReconnectPolicy {
    /// The delay before the first attempt, before jitter. Must be longer than zero. Default: 200
    /// ms.
    pub initial: Duration,
    /// The maximum delay, before jitter. Must be longer than zero. If the server asks for a longer
    /// delay (`Retry-After`), the client waits that long, at most 5 minutes and at most what is
    /// left of `max_elapsed`. Default: 10 s.
    pub max: Duration,
    /// The factor by which the delay grows from one attempt to the next. Less than 1 counts as 1.
    /// Default: 2.
    pub factor: f64,
    /// The maximum fraction, from 0 to 1, by which a delay is reduced at random. Default: 0.5.
    pub jitter: f64,
    /// The maximum number of attempts. Default: no limit.
    pub max_attempts: Option<u32>,
    /// The maximum time from the loss of the connection to the last attempt. `None`: no limit.
    /// Default: 5 minutes.
    pub max_elapsed: Option<Duration>,
    /// How long a connection must last before its loss resets the count of attempts and the elapsed
    /// time. Default: 10 s.
    pub stable_after: Duration,
}

impl Default for ReconnectPolicy {
    fn default() -> Self {
        Self {
            initial: Duration::from_millis(200),
            max: Duration::from_secs(10),
            factor: 2.0,
            jitter: 0.5,
            max_attempts: None,
            max_elapsed: Some(Duration::from_secs(300)),
            stable_after: Duration::from_secs(10),
        }
    }
}

impl ReconnectPolicy {
    /// The delay before attempt `attempt` (the first is 1), where `chance` is from 0 to 1.
    fn delay(&self, attempt: u32, chance: f64) -> Duration {
        let factor = if self.factor.is_finite() {
            self.factor.max(1.0)
        } else {
            1.0
        };
        let exponent = i32::try_from(attempt.saturating_sub(1)).unwrap_or(i32::MAX);
        let grown = self.initial.as_secs_f64() * factor.powi(exponent);
        let capped = grown.min(self.max.as_secs_f64());
        let jitter = if self.jitter.is_nan() {
            0.0
        } else {
            self.jitter.clamp(0.0, 1.0)
        };
        Duration::try_from_secs_f64(capped * (1.0 - jitter * chance)).unwrap_or(self.max)
    }
}

/// The maximum delay that a server can ask for: a `Retry-After` of years is a mistake or an attack.
const MAX_ASKED: Duration = Duration::from_secs(300);

/// Counts attempts under a [`ReconnectPolicy`]. Time and the seed of the jitter are arguments.
#[derive(Debug)]
pub struct Backoff {
    policy: ReconnectPolicy,
    random: u64,
    attempts: u32,
    since: Option<Instant>,
}

impl Backoff {
    /// Creates a counter without attempts. The same seed gives the same delays.
    pub fn new(policy: ReconnectPolicy, seed: u64) -> Self {
        Self {
            policy,
            random: seed,
            attempts: 0,
            since: None,
        }
    }

    /// The number of attempts since the last reset.
    pub fn attempts(&self) -> u32 {
        self.attempts
    }

    /// The time left for attempts, or `None` if the policy sets no limit.
    pub fn time_left(&self, now: Instant) -> Option<Duration> {
        let elapsed = self
            .since
            .map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
        let longest = self.policy.max_elapsed?;
        Some(longest.saturating_sub(elapsed))
    }

    /// Returns the delay before the next attempt, or `None` if the policy gives up.
    ///
    /// `asked` is the delay that the server asks for. The returned delay is at least that long, or
    /// at least 5 minutes if the server asks for more.
    pub fn next(&mut self, asked: Duration, now: Instant) -> Option<Duration> {
        self.since.get_or_insert(now);
        let attempt = self.attempts.saturating_add(1);
        if self.policy.max_attempts.is_some_and(|most| attempt > most) {
            return None;
        }
        let chance = self.chance();
        let delay = self.policy.delay(attempt, chance);
        let delay = delay.max(asked.min(MAX_ASKED));
        if self.time_left(now).is_some_and(|left| delay > left) {
            return None;
        }
        self.attempts = attempt;
        Some(delay)
    }

    /// Records how long a lost link had lasted. If it was long enough, the count is reset.
    pub fn link_lasted(&mut self, lasted: Duration) {
        if lasted >= self.policy.stable_after {
            self.attempts = 0;
            self.since = None;
        }
    }

    /// Returns the next pseudo-random number from 0 to 1 (SplitMix64, Steele et al. 2014).
    fn chance(&mut self) -> f64 {
        self.random = self.random.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^= z >> 31;
        (z >> 11) as f64 / (1u64 << 53) as f64
    }
}

#[cfg(test)]
#[allow(
    clippy::disallowed_methods,
    reason = "any instant will do as the origin of virtual time"
)]
mod tests {
    use super::*;

    fn policy() -> ReconnectPolicy {
        ReconnectPolicy {
            initial: Duration::from_millis(100),
            max: Duration::from_secs(1),
            jitter: 0.0,
            max_elapsed: None,
            ..ReconnectPolicy::default()
        }
    }

    #[test]
    fn delays_grow_to_the_cap() {
        let now = Instant::now();
        let mut backoff = Backoff::new(policy(), 1);
        let delays: Vec<_> = (0..6)
            .filter_map(|_| backoff.next(Duration::ZERO, now))
            .map(|d| d.as_millis())
            .collect();
        assert_eq!(delays, [100, 200, 400, 800, 1000, 1000]);
    }

    #[test]
    fn jitter_spreads_the_delays_within_its_fraction() {
        let now = Instant::now();
        let policy = ReconnectPolicy {
            jitter: 0.5,
            factor: 1.0,
            ..policy()
        };
        let delays: Vec<_> = (0..1000)
            .filter_map(|seed| Backoff::new(policy.clone(), seed).next(Duration::ZERO, now))
            .map(|delay| delay.as_secs_f64() * 1e3)
            .collect();
        assert!(delays.iter().all(|&delay| (50.0..=100.0).contains(&delay)));
        let quarters = [62.5, 75.0, 87.5, 100.1].map(|top| {
            delays
                .iter()
                .filter(|&&d| d < top && d >= top - 12.6)
                .count()
        });
        assert!(quarters.iter().all(|&count| count > 150), "{quarters:?}");
    }

    #[test]
    fn attempts_and_time_are_bounded() {
        let start = Instant::now();
        let mut backoff = Backoff::new(
            ReconnectPolicy {
                max_attempts: Some(3),
                ..policy()
            },
            1,
        );
        assert_eq!(
            (0..10)
                .filter_map(|_| backoff.next(Duration::ZERO, start))
                .count(),
            3
        );

        let mut backoff = Backoff::new(
            ReconnectPolicy {
                max_elapsed: Some(Duration::from_secs(60)),
                ..policy()
            },
            1,
        );
        let mut now = start;
        while let Some(delay) = backoff.next(Duration::ZERO, now) {
            now += delay;
        }
        assert!(now - start <= Duration::from_secs(60) && now - start > Duration::from_secs(58));
    }

    #[test]
    fn the_count_starts_anew_only_after_a_stable_link() {
        let now = Instant::now();
        let mut backoff = Backoff::new(policy(), 1);
        backoff.next(Duration::ZERO, now);
        backoff.next(Duration::ZERO, now);
        backoff.link_lasted(Duration::from_secs(9));
        assert_eq!(backoff.attempts(), 2);
        backoff.link_lasted(Duration::from_secs(10));
        assert_eq!(backoff.attempts(), 0);
        assert_eq!(
            backoff.next(Duration::ZERO, now),
            Some(Duration::from_millis(100))
        );
    }

    #[test]
    fn absurd_policies_do_not_exceed_the_maximum() {
        let now = Instant::now();
        for factor in [f64::NAN, f64::INFINITY, -3.0, 0.0, 1e300] {
            for jitter in [f64::NAN, -1.0, 7.0] {
                for max in [Duration::MAX, Duration::from_secs(10)] {
                    let policy = ReconnectPolicy {
                        factor,
                        jitter,
                        max,
                        ..policy()
                    };
                    let mut backoff = Backoff::new(policy, u64::MAX);
                    for _ in 0..100 {
                        let delay = backoff.next(Duration::ZERO, now);
                        assert!(delay.is_none_or(|delay| delay <= max), "{delay:?}");
                    }
                }
            }
        }
    }
}
