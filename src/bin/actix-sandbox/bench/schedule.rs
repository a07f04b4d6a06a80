//! [`Schedule`]: when the next sandbox begins, and whether it is measured.

use std::time::Duration;

use tokio::time::Instant;

use super::plan::Plan;

/// When sandboxes begin.
pub(super) struct Schedule {
    start: Instant,
    /// Of an open loop.
    rate: Option<f64>,
    measured_from: Instant,
    /// Nothing begins any more.
    until: Option<Instant>,
    /// How many are measured at most.
    most: Option<u64>,
    begun: u64,
    measured: u64,
}

/// A sandbox that is to begin.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Arrival {
    /// When it was to begin; in a closed loop, when it does.
    pub(super) due: Instant,
    /// Whether it counts.
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

    /// The next one, as of now. `None`: none begins any more.
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

    /// It has begun.
    pub(super) fn begin(&mut self, arrival: Arrival) {
        self.begun += 1;
        self.measured += u64::from(arrival.measured);
    }

    /// Those of an open loop that were due and for which there was no place until the end.
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

    /// When measuring begins.
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

/// Some time later; a hundred years where that cannot be said.
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

    /// When each begins that there is a place for from a time on, in seconds.
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
    fn arrivals_of_an_open_loop_do_not_wait_for_anybody() {
        let mut schedule = schedule(Some(2.0), None, None, 0);
        assert_eq!(begins(&mut schedule, 0), [(0.0, true)]);
        // The server was slow: each counts from when it was to begin.
        let expected = [(0.5, true), (1.0, true), (1.5, true), (2.0, true)];
        assert_eq!(begins(&mut schedule, 2), expected);
    }

    #[test]
    fn what_begins_before_the_measuring_is_not_counted() {
        let mut schedule = schedule(Some(1.0), Some(2), None, 2);
        let expected = [(0.0, false), (1.0, false), (2.0, true), (3.0, true)];
        assert_eq!(begins(&mut schedule, 9), expected);
        assert_eq!(begins(&mut schedule, 99), []);
    }

    #[test]
    fn arrivals_for_which_there_was_no_place_are_counted() {
        let mut schedule = schedule(Some(2.0), None, Some(10), 0);
        assert_eq!(begins(&mut schedule, 1).len(), 3);
        let end = schedule.start + 11 * SECOND;
        assert_eq!(schedule.next(end), None);
        assert_eq!(schedule.never_begun(end), 17);
    }

    #[test]
    fn a_closed_loop_begins_when_there_is_a_place() {
        let mut schedule = schedule(None, None, Some(3), 1);
        assert_eq!(begins(&mut schedule, 0).first(), Some(&(0.0, false)));
        assert_eq!(begins(&mut schedule, 2).first(), Some(&(2.0, true)));
        assert_eq!(begins(&mut schedule, 4), []);
        assert_eq!(schedule.never_begun(schedule.start + 9 * SECOND), 0);
    }
}
