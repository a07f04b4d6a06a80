//! [`Measured`]: the measurements of a run. Their memory is bounded for any number of sandboxes and
//! any duration.

use std::{collections::BTreeMap, time::Duration};

use hdrhistogram::Histogram;
use tokio::time::Instant;

use super::{phase::Phase, session::Session, timeline::Timeline};

/// The longest time that a histogram distinguishes, in microseconds: one hour.
const LONGEST: u64 = 3_600_000_000;

/// Significant digits of the recorded times.
const DIGITS: u8 = 3;

/// The measurements of a run.
pub(super) struct Measured {
    from: Instant,
    until: Instant,
    /// An empty histogram, which is cloned for each step.
    empty: Histogram<u64>,
    histograms: BTreeMap<Phase, Histogram<u64>>,
    failures: BTreeMap<(Phase, String), Failures>,
    timeline: Timeline,
    counts: Counts,
    /// The longest time that a sandbox waited for its start after it was due.
    longest_wait: Duration,
}

/// Failures of one kind in one step.
pub(super) struct Failures {
    pub(super) count: u64,
    /// The text of the first failure.
    pub(super) example: String,
}

/// Counters of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) completed: u64,
    pub(super) failed: u64,
    pub(super) cancelled: u64,
    pub(super) warm_up: u64,
    pub(super) never_begun: u64,
    /// Completed or failed sandboxes whose first exec wrote output and succeeded.
    pub(super) interactive: u64,
    pub(super) execs: u64,
    pub(super) output_bytes: u64,
    pub(super) links_lost: u64,
    pub(super) links_back: u64,
}

impl Measured {
    /// Creates an empty set of measurements that starts at `from`. Fails if the histogram can't be
    /// created.
    pub(super) fn new(from: Instant) -> Result<Self, String> {
        let empty = Histogram::new_with_bounds(1, LONGEST, DIGITS);
        Ok(Self {
            from,
            until: from,
            empty: empty.map_err(|error| error.to_string())?,
            histograms: BTreeMap::new(),
            failures: BTreeMap::new(),
            timeline: Timeline::new(from),
            counts: Counts::default(),
            longest_wait: Duration::ZERO,
        })
    }

    /// Adds the result of one sandbox.
    pub(super) fn add(&mut self, session: &Session) {
        let arrival = session.arrival;
        if !arrival.measured {
            self.counts.warm_up += 1;
            return;
        }
        for &(phase, time) in &session.steps {
            self.record(phase, time);
        }
        for failure in &session.failures {
            let key = (failure.phase, failure.kind.clone());
            let known = self.failures.entry(key).or_insert_with(|| Failures {
                count: 0,
                example: failure.text.clone(),
            });
            known.count += 1;
        }
        let execs = session.steps.iter().filter(|(it, _)| *it == Phase::End);
        let execs = execs.count() as u64;
        let wait = session.began.saturating_duration_since(arrival.due);
        self.longest_wait = self.longest_wait.max(wait);
        self.counts.execs += execs;
        self.counts.output_bytes += session.output_bytes;
        self.timeline.add(session, execs);
        match (session.cancelled, session.failures.is_empty()) {
            (true, _) => self.counts.cancelled += 1,
            (false, true) => self.counts.completed += 1,
            (false, false) => self.counts.failed += 1,
        }
        let mut phases = session.steps.iter().map(|(phase, _)| *phase);
        let was_interactive = phases.any(|it| it == Phase::Interactive);
        self.counts.interactive += u64::from(was_interactive && !session.cancelled);
    }

    fn record(&mut self, phase: Phase, time: Duration) {
        let micros = u64::try_from(time.as_micros()).unwrap_or(LONGEST);
        let histogram = self.histograms.entry(phase);
        let histogram = histogram.or_insert_with(|| self.empty.clone());
        histogram.saturating_record(micros.max(1));
    }

    /// Records when the run ended.
    pub(super) fn finish(&mut self, now: Instant, never_begun: u64) {
        self.until = now;
        self.timeline.finish();
        self.counts.never_begun = never_begun;
    }

    pub(super) fn set_reconnects(&mut self, lost: u64, back: u64) {
        self.counts.links_lost = lost;
        self.counts.links_back = back;
    }

    /// How long the run was measured.
    pub(super) fn elapsed(&self) -> Duration {
        self.until.saturating_duration_since(self.from)
    }

    pub(super) fn completed(&self) -> u64 {
        self.counts.completed
    }

    /// The number of failed steps.
    pub(super) fn failures(&self) -> u64 {
        self.failures.values().map(|it| it.count).sum()
    }

    pub(super) fn counts(&self) -> Counts {
        self.counts
    }

    pub(super) fn longest_wait(&self) -> Duration {
        self.longest_wait
    }

    pub(super) fn histograms(&self) -> &BTreeMap<Phase, Histogram<u64>> {
        &self.histograms
    }

    pub(super) fn by_kind(&self) -> &BTreeMap<(Phase, String), Failures> {
        &self.failures
    }

    pub(super) fn timeline(&self) -> &Timeline {
        &self.timeline
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::{
        super::{
            schedule::Arrival,
            session::{Failure, Fatal},
        },
        *,
    };

    const MILLI: Duration = Duration::from_millis(1);

    fn session(from: Instant, due: u32, began: u32, ended: u32) -> Session {
        Session {
            arrival: Arrival {
                due: from + MILLI * due,
                measured: true,
            },
            began: from + MILLI * began,
            ended: from + MILLI * ended,
            steps: vec![(Phase::Create, MILLI * (ended - due)), (Phase::End, MILLI)],
            failures: Vec::new(),
            output_bytes: 6,
            created: true,
            cancelled: false,
        }
    }

    fn measured() -> (Measured, Instant) {
        #[allow(clippy::disallowed_methods, reason = "any instant will do")]
        let from = Instant::now();
        (Measured::new(from).unwrap(), from)
    }

    #[test]
    fn latencies_include_the_wait_to_start() {
        let (mut measured, from) = measured();
        measured.add(&session(from, 0, 0, 10));
        measured.add(&session(from, 5, 1_000, 1_010));
        let create = &measured.histograms()[&Phase::Create];
        assert_eq!(create.len(), 2);
        assert!(create.max() >= 1_004_000, "{}", create.max());
        assert_eq!(measured.longest_wait(), MILLI * 995);
    }

    #[test]
    fn sandboxes_are_counted_by_outcome() {
        let (mut measured, from) = measured();
        measured.add(&session(from, 0, 0, 10));
        let mut warm_up = session(from, 0, 0, 10);
        warm_up.arrival.measured = false;
        measured.add(&warm_up);
        let mut cancelled = session(from, 0, 0, 10);
        cancelled.cancelled = true;
        measured.add(&cancelled);
        let mut failed = session(from, 0, 0, 2_000);
        for _ in 0..2 {
            failed.failures.push(Failure {
                phase: Phase::Create,
                kind: "Connect".into(),
                text: "refused".into(),
                is_fatal: Fatal::No,
            });
        }
        measured.add(&failed);
        let counts = measured.counts();
        assert_eq!(
            (
                counts.completed,
                counts.failed,
                counts.cancelled,
                counts.warm_up
            ),
            (1, 1, 1, 1)
        );
        assert_eq!((counts.execs, counts.output_bytes), (3, 18));
        assert_eq!(measured.failures(), 2);
        let bins = measured.timeline().bins();
        assert_eq!(bins.iter().map(|bin| bin.completed).sum::<u64>(), 1);
        assert_eq!(bins[2].failed, 1);
    }
}
