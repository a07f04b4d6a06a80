//! [`Schedule`]: decides when the next sandbox starts, and whether it is measured.

use std::time::Duration;

use tokio::time::Instant;

use super::pace::Pace;

/// The schedule of a run.
pub(super) struct Schedule {
    start: Instant,
    pace: Pace,
    measured_from: Instant,
    /// When the run stops starting sandboxes.
    until: Option<Instant>,
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
    pub(super) fn new(pace: Pace, start: Instant) -> Self {
        let measured_from = later(start, pace.warm_up);
        Self {
            start,
            pace,
            measured_from,
            until: pace.duration.map(|time| later(measured_from, time)),
            begun: 0,
            measured: 0,
        }
    }

    /// Returns the next arrival, as of `now`, while `running` sandboxes run. `None` if
    /// `concurrency` is reached, or if the run starts no more sandboxes.
    pub(super) fn next(&self, now: Instant, running: usize) -> Option<Arrival> {
        if running >= self.pace.concurrency {
            return None;
        }
        let due = match self.pace.rate {
            Some(rate) => self.after(self.pace.arrival(rate, self.begun)),
            None => self.free_at(running).max(now),
        };
        let is_over = self.until.is_some_and(|until| due.max(now) >= until)
            || self.left().is_some_and(|left| left == 0);
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
        let until = self.until.map_or(now, |until| until.min(now));
        let ran = until.saturating_duration_since(self.start);
        let due = self.pace.arrivals(ran).ceil() as u64;
        let missed = due.saturating_sub(self.begun);
        missed.min(self.left().unwrap_or(u64::MAX))
    }

    /// When measuring starts.
    pub(super) fn measured_from(&self) -> Instant {
        self.measured_from
    }

    /// Returns how many more sandboxes to measure. `None` if there is no limit.
    fn left(&self) -> Option<u64> {
        let most = self.pace.sandboxes?;
        Some(most.saturating_sub(self.measured))
    }

    /// Returns when the ramp of a closed loop allows one more sandbox beside `running` others.
    fn free_at(&self, running: usize) -> Instant {
        let ramp = self.pace.ramp.unwrap_or_default().as_secs_f64();
        let steps = (self.pace.concurrency - 1).max(1);
        self.after(ramp * running as f64 / steps as f64)
    }

    fn after(&self, seconds: f64) -> Instant {
        let time = Duration::try_from_secs_f64(seconds);
        later(self.start, time.unwrap_or(Duration::MAX))
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

    /// A schedule with at most five sandboxes at once.
    fn schedule(
        rate: Option<f64>,
        most: Option<u64>,
        until: Option<u64>,
        warm_up: u64,
    ) -> Schedule {
        let pace = Pace {
            mode: None,
            sandboxes: most,
            duration: until.map(Duration::from_secs),
            concurrency: 5,
            rate,
            ramp: None,
            warm_up: Duration::from_secs(warm_up),
        };
        starting_now(pace)
    }

    fn starting_now(pace: Pace) -> Schedule {
        #[allow(clippy::disallowed_methods, reason = "any instant will do")]
        let start = Instant::now();
        Schedule::new(pace, start)
    }

    /// Starts the sandboxes that are due at `now`, at most five. Returns when each was due, in
    /// seconds, and whether it is measured.
    fn begins(schedule: &mut Schedule, now: u64) -> Vec<(f64, bool)> {
        let now = schedule.start + SECOND * now as u32;
        let start = schedule.start;
        let begin = |running| {
            let next = schedule.next(now, running);
            let next = next.filter(|next| next.due <= now)?;
            schedule.begin(next);
            Some(((next.due - start).as_secs_f64(), next.measured))
        };
        (0..5).map_while(begin).collect()
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
        assert_eq!(schedule.next(end, 0), None);
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

    #[test]
    fn the_rate_of_a_ramp_grows_linearly() {
        let mut schedule = schedule(Some(2.0), None, Some(10), 0);
        schedule.pace.ramp = Some(4 * SECOND);
        // Half as many sandboxes as without the ramp arrive in its four seconds.
        let due: Vec<_> = (0..8)
            .map(|index| schedule.pace.arrival(2.0, index))
            .collect();
        assert_eq!(due[..2], [0.0, 2.0]);
        assert!(due[3] < 4.0 && due[4..] == [4.0, 4.5, 5.0, 5.5], "{due:?}");
        for (index, due) in due.into_iter().enumerate() {
            let arrivals = schedule.pace.arrivals(Duration::from_secs_f64(due));
            assert!(
                (arrivals - index as f64).abs() < 1e-6,
                "{index}: {arrivals}"
            );
        }
        assert_eq!(begins(&mut schedule, 4).len(), 5);
        let end = schedule.start + 10 * SECOND;
        assert_eq!(schedule.never_begun(end), 11);
    }

    #[test]
    fn the_concurrency_of_a_ramp_grows_linearly() {
        let mut schedule = schedule(None, None, None, 0);
        schedule.pace.ramp = Some(8 * SECOND);
        assert_eq!(begins(&mut schedule, 0).len(), 1);
        assert_eq!(begins(&mut schedule, 3).len(), 2);
        assert_eq!(begins(&mut schedule, 8).len(), 5);
        let next = schedule.next(schedule.start, 3).map(|next| next.due);
        assert_eq!(next, Some(schedule.start + 6 * SECOND));
        assert_eq!(schedule.next(schedule.start, 5), None);
    }

    #[test]
    fn every_sandbox_of_a_burst_is_due_at_the_start() {
        let mut schedule = schedule(Some(f64::INFINITY), Some(4), None, 0);
        assert_eq!(begins(&mut schedule, 1), [(0.0, true); 4]);
        assert_eq!(schedule.never_begun(schedule.start + SECOND), 0);
    }
}
