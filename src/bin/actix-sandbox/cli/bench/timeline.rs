//! [`Timeline`]: what happened in each second of a run.

use std::time::Duration;

use tokio::time::Instant;

use super::{phase::Phase, session::Session};

/// The steps whose latencies are reported for each second.
pub(super) const LATENCIES: [Phase; 3] = [Phase::Create, Phase::Interactive, Phase::Whole];

/// Maximum number of bins: a day. The last bin also counts everything later.
const MOST: usize = 86_400;

/// The seconds of a run.
pub(super) struct Timeline {
    from: Instant,
    bins: Vec<Bin>,
    /// The bin of the samples.
    open: usize,
    /// The latencies in the open bin, in microseconds. They become percentiles when it is closed,
    /// so memory doesn't grow with the number of sandboxes.
    samples: [Vec<u64>; LATENCIES.len()],
}

/// One second.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Bin {
    pub(super) started: u64,
    pub(super) completed: u64,
    pub(super) failed: u64,
    pub(super) execs: u64,
    /// Of the sandboxes that ended in this second. `None` if there are none.
    pub(super) latencies: [Option<Latency>; LATENCIES.len()],
}

/// Percentiles of a latency, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Latency {
    pub(super) p50: f64,
    pub(super) p95: f64,
}

impl Timeline {
    pub(super) fn new(from: Instant) -> Self {
        Self {
            from,
            bins: Vec::new(),
            open: 0,
            samples: Default::default(),
        }
    }

    /// Adds a sandbox, which ran `execs` execs to their end.
    pub(super) fn add(&mut self, session: &Session, execs: u64) {
        self.bin(session.began).started += 1;
        let end = self.bin(session.ended);
        end.execs += execs;
        match (session.cancelled, session.failures.is_empty()) {
            (true, _) => {}
            (false, true) => end.completed += 1,
            (false, false) => end.failed += 1,
        }
        // Sandboxes are added in about the order of their ends. One that comes after the first of
        // the next second counts there.
        let index = self.index(session.ended).max(self.open);
        if index > self.open {
            self.close();
            self.open = index;
        }
        for (samples, phase) in self.samples.iter_mut().zip(LATENCIES) {
            let times = session.steps.iter().filter(|(it, _)| *it == phase);
            let micros = times.map(|(_, time)| u64::try_from(time.as_micros()).unwrap_or(u64::MAX));
            samples.extend(micros);
        }
    }

    /// Closes the last bin.
    pub(super) fn finish(&mut self) {
        self.close();
    }

    pub(super) fn bins(&self) -> &[Bin] {
        &self.bins
    }

    fn close(&mut self) {
        if let Some(bin) = self.bins.get_mut(self.open) {
            bin.latencies = self.samples.each_mut().map(percentiles);
        }
    }

    fn index(&self, at: Instant) -> usize {
        let time: Duration = at.saturating_duration_since(self.from);
        usize::try_from(time.as_secs()).map_or(MOST - 1, |it| it.min(MOST - 1))
    }

    fn bin(&mut self, at: Instant) -> &mut Bin {
        let index = self.index(at);
        if self.bins.len() <= index {
            self.bins.resize(index + 1, Bin::default());
        }
        &mut self.bins[index]
    }
}

/// Takes the samples and returns their percentiles.
fn percentiles(samples: &mut Vec<u64>) -> Option<Latency> {
    samples.sort_unstable();
    let at = |share: f64| {
        let rank = (samples.len() as f64 * share).ceil() as usize;
        let micros = samples.get(rank.saturating_sub(1))?;
        Some(*micros as f64 / 1000.0)
    };
    let (p50, p95) = (at(0.5)?, at(0.95)?);
    samples.clear();
    Some(Latency { p50, p95 })
}

#[cfg(test)]
mod tests {
    use super::{super::schedule::Arrival, *};

    const MILLI: Duration = Duration::from_millis(1);

    fn timeline() -> Timeline {
        #[allow(clippy::disallowed_methods, reason = "any instant will do")]
        Timeline::new(Instant::now())
    }

    fn session(from: Instant, began: u32, ended: u32) -> Session {
        Session {
            arrival: Arrival {
                due: from + MILLI * began,
                measured: true,
            },
            began: from + MILLI * began,
            ended: from + MILLI * ended,
            steps: vec![(Phase::Create, MILLI * (ended - began))],
            failures: Vec::new(),
            output_bytes: 0,
            created: true,
            cancelled: false,
        }
    }

    #[test]
    fn each_second_has_its_own_counts_and_latencies() {
        let mut timeline = timeline();
        let from = timeline.from;
        for took in 1..=100 {
            timeline.add(&session(from, 900 - took, 900), 1);
        }
        timeline.add(&session(from, 950, 3_050), 2);
        // This one ended before the sandbox above, and came after it.
        timeline.add(&session(from, 970, 990), 1);
        timeline.finish();
        let bins = timeline.bins();
        let counts = |bin: &Bin| (bin.started, bin.completed, bin.execs);
        assert_eq!(
            bins.iter().map(counts).collect::<Vec<_>>(),
            [(102, 101, 101), (0, 0, 0), (0, 0, 0), (0, 1, 2)]
        );
        let create = |index: usize| bins[index].latencies[0];
        let (p50, p95) = (50.0, 95.0);
        assert_eq!(create(0), Some(Latency { p50, p95 }));
        assert_eq!(create(1), None);
        let (p50, p95) = (20.0, 2_100.0);
        assert_eq!(create(3), Some(Latency { p50, p95 }));
    }

    #[test]
    fn a_run_of_days_takes_bounded_memory() {
        let mut timeline = timeline();
        let from = timeline.from;
        for day in 0..5 {
            timeline.add(&session(from, day * 86_400_000, day * 86_400_000 + 1), 1);
        }
        timeline.finish();
        assert_eq!(timeline.bins().len(), MOST);
        assert_eq!(
            timeline.bins().iter().map(|it| it.completed).sum::<u64>(),
            5
        );
    }
}
