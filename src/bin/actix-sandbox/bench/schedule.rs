//! [`Schedule`]: decides when the next sandbox starts, and whether it is measured.

use std::time::Duration;

use tokio::time::Instant;

use super::plan::Plan;

/// The schedule of a run.
pub(super) struct Schedule {
    start: Instant,
    /// Arrivals per second of an open loop. `None` for a closed loop.
    rate: Option<f64>,
    measured_from: Instant,
    /// When the run stops starting sandboxes.
    until: Option<Instant>,
    /// Maximum number of sandboxes to measure.
    most: Option<u64>,
    begun: u64,
    measured: u64,
}

/// The planned start of a sandbox.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Arrival {
    /// When the sandbox is due. In a closed loop, when it starts.
    pub(super) due: Instant,
    /// `false` during the warm-up.
    pub(super) measured: bool,
}

impl Schedule {
    pub(super) fn new(plan: &Plan, start: Instant) -> Self {
        let measured_from = later(start, plan.warm_up);
        Self {
            start,
            rate: plan.rate,
            measured_from,
            until: plan.duration.map(|time| later(measured_from, time)),
            most: plan.sandboxes,
            begun: 0,
            measured: 0,
        }
    }

    /// Returns the next arrival, as of `now`. `None` if the run starts no more sandboxes.
    pub(super) fn next(&self, now: Instant) -> Option<Arrival> {
        let due = match self.rate {
            Some(rate) => self.arrival(rate),
            None => now,
        };
        let is_over = self.until.is_some_and(|until| due.max(now) >= until)
            || self.most.is_some_and(|most| self.measured >= most);
        (!is_over).then(|| Arrival {
            due,
            measured: due >= self.measured_from,
        })
    }

    /// Records that a sandbox has started.
    pub(super) fn begin(&mut self, arrival: Arrival) {
        self.begun += 1;
        self.measured += u64::from(arrival.measured);
    }

    /// Returns how many sandboxes of an open loop were due but never started.
    pub(super) fn never_begun(&self, now: Instant) -> u64 {
        let Some(rate) = self.rate else {
            return 0;
        };
        let until = self.until.map_or(now, |until| until.min(now));
        let ran = until.saturating_duration_since(self.start);
        let due = (ran.as_secs_f64() * rate).ceil() as u64;
        let missed = due.saturating_sub(self.begun);
        let left = self.most.map(|most| most - self.measured.min(most));
        missed.min(left.unwrap_or(u64::MAX))
    }

    /// When measuring starts.
    pub(super) fn measured_from(&self) -> Instant {
        self.measured_from
    }

    fn arrival(&self, rate: f64) -> Instant {
        let after = self.begun as f64 / rate;
        later(
            self.start,
            Duration::try_from_secs_f64(after).unwrap_or(Duration::MAX),
        )
    }
}

/// Adds `time` to `start`. Caps `time` at a hundred years, so that the sum can't overflow.
fn later(start: Instant, time: Duration) -> Instant {
    const FOR_EVER: Duration = Duration::from_secs(100 * 365 * 24 * 3600);
    start + time.min(FOR_EVER)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn schedule(
        rate: Option<f64>,
        most: Option<u64>,
        until: Option<u64>,
        warm_up: u64,
    ) -> Schedule {
        #[allow(clippy::disallowed_methods, reason = "any instant will do")]
        let start = Instant::now();
        Schedule {
            start,
            rate,
            measured_from: start + SECOND * warm_up as u32,
            until: until.map(|until| start + SECOND * (warm_up + until) as u32),
            most,
            begun: 0,
            measured: 0,
        }
    }

    /// Starts the sandboxes that are due at `now`, at most five. Returns when each was due, in
    /// seconds, and whether it is measured.
    fn begins(schedule: &mut Schedule, now: u64) -> Vec<(f64, bool)> {
        let now = schedule.start + SECOND * now as u32;
        let start = schedule.start;
        std::iter::from_fn(|| {
            let next = schedule.next(now).filter(|next| next.due <= now)?;
            schedule.begin(next);
            Some(((next.due - start).as_secs_f64(), next.measured))
        })
        .take(5)
        .collect()
    }

    #[test]
    fn arrivals_of_an_open_loop_do_not_wait() {
        let mut schedule = schedule(Some(2.0), None, None, 0);
        assert_eq!(begins(&mut schedule, 0), [(0.0, true)]);
        // The server was slow. Each sandbox still counts from when it was due.
        let expected = [(0.5, true), (1.0, true), (1.5, true), (2.0, true)];
        assert_eq!(begins(&mut schedule, 2), expected);
    }

    #[test]
    fn sandboxes_of_the_warm_up_do_not_count() {
        let mut schedule = schedule(Some(1.0), Some(2), None, 2);
        let expected = [(0.0, false), (1.0, false), (2.0, true), (3.0, true)];
        assert_eq!(begins(&mut schedule, 9), expected);
        assert_eq!(begins(&mut schedule, 99), []);
    }

    #[test]
    fn arrivals_that_never_started_are_counted() {
        let mut schedule = schedule(Some(2.0), None, Some(10), 0);
        assert_eq!(begins(&mut schedule, 1).len(), 3);
        let end = schedule.start + 11 * SECOND;
        assert_eq!(schedule.next(end), None);
        assert_eq!(schedule.never_begun(end), 17);
    }

    #[test]
    fn a_closed_loop_starts_a_sandbox_when_a_slot_is_free() {
        let mut schedule = schedule(None, None, Some(3), 1);
        assert_eq!(begins(&mut schedule, 0).first(), Some(&(0.0, false)));
        assert_eq!(begins(&mut schedule, 2).first(), Some(&(2.0, true)));
        assert_eq!(begins(&mut schedule, 4), []);
        assert_eq!(schedule.never_begun(schedule.start + 9 * SECOND), 0);
    }
}
