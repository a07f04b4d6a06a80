//! [`Pace`]: when the sandboxes of a benchmark start, and the options that set it.

use std::{fmt, time::Duration};

use clap::{Args, ValueEnum};
use serde::Serialize;

use crate::cli::shared::duration;

/// When the sandboxes of a benchmark start, validated.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    pub(super) mode: Option<Mode>,
    /// Maximum number of sandboxes to measure.
    pub(super) sandboxes: Option<u64>,
    pub(super) duration: Option<Duration>,
    pub(super) concurrency: usize,
    /// Arrivals per second of an open loop. Infinite in a burst: every sandbox is due at the start.
    /// `None` for a closed loop.
    pub(super) rate: Option<f64>,
    /// How long the rate, or the concurrency of a closed loop, grows linearly at the start.
    pub(super) ramp: Option<Duration>,
    pub(super) warm_up: Duration,
}

/// A way to start sandboxes that published benchmarks of sandbox services use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
pub(super) enum Mode {
    /// One after the other.
    Sequential,
    /// One every --stagger.
    Staggered,
    /// All at once.
    Burst,
}

#[derive(Args)]
pub(super) struct PaceOptions {
    /// Number of sandboxes to measure [default: 100, or no limit with --duration].
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u64).range(1..))]
    sandboxes: Option<u64>,

    /// How long to start and measure sandboxes, for example 30s. The benchmark then waits for the
    /// sandboxes that still run.
    #[arg(long, value_name = "TIME", value_parser = duration)]
    duration: Option<Duration>,

    /// Maximum number of concurrent sandboxes. Without --rate, this many run all the time: a new
    /// one starts whenever one ends (a closed loop) [default: 10].
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..=MAX_CONCURRENCY))]
    concurrency: Option<u32>,

    /// Number of sandboxes that arrive per second, whether or not earlier ones are done (an open
    /// loop). If --concurrency makes a sandbox wait, its latencies still count from its arrival, so
    /// that they show the wait.
    #[arg(long, value_name = "PER SECOND", value_parser = rate)]
    rate: Option<f64>,

    /// How long the load grows at the start of the run, for example 30s. With --rate, the rate
    /// grows linearly from 0. Without it, the number of concurrent sandboxes grows from 1. These
    /// sandboxes are measured unless --warm-up covers the ramp.
    #[arg(long, value_name = "TIME", value_parser = duration)]
    ramp: Option<Duration>,

    /// How long to run sandboxes before measuring starts, for example 5s [default: 0s].
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    warm_up: Option<Duration>,

    /// Starts --sandboxes sandboxes as published benchmarks of sandbox services do. Replaces
    /// --rate, --concurrency, --duration, --ramp and --warm-up.
    #[arg(long, value_enum)]
    mode: Option<Mode>,

    /// Interval between two starts of --mode staggered [default: 200ms].
    #[arg(long, value_name = "TIME", value_parser = duration)]
    stagger: Option<Duration>,
}

/// Default number of sandboxes to measure.
const SANDBOXES: u64 = 100;

/// Default number of concurrent sandboxes.
const CONCURRENCY: u32 = 10;

/// Default of `--stagger`, as in the benchmarks of ComputeSDK.
const STAGGER: Duration = Duration::from_millis(200);

/// Maximum number of concurrent sandboxes.
const MAX_CONCURRENCY: i64 = 100_000;

/// Maximum arrivals per second: one per microsecond.
const MAX_RATE: f64 = 1_000_000.0;

fn rate(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(rate) if rate > 0.0 && rate <= MAX_RATE => Ok(rate),
        _ => Err(format!(
            "expected a number above 0 and up to {MAX_RATE}, for example 2.5"
        )),
    }
}

impl PaceOptions {
    /// Validates the options. `execs` is the number of execs of each sandbox.
    pub(super) fn pace(self, execs: u32) -> Result<Pace, String> {
        if self.stagger.is_some() && self.mode != Some(Mode::Staggered) {
            return Err("`--stagger` needs `--mode staggered`".to_owned());
        }
        match self.mode {
            Some(mode) => self.of_mode(mode, execs),
            None => self.of_loop(),
        }
    }

    fn of_mode(self, mode: Mode, execs: u32) -> Result<Pace, String> {
        let replaced = [
            ("--rate", self.rate.is_some()),
            ("--concurrency", self.concurrency.is_some()),
            ("--duration", self.duration.is_some()),
            ("--ramp", self.ramp.is_some()),
            ("--warm-up", self.warm_up.is_some()),
        ];
        if let Some((flag, _)) = replaced.into_iter().find(|(_, is_given)| *is_given) {
            return Err(format!(
                "`{flag}` cannot be used with `--mode {mode}`, which decides when sandboxes start; \
                 leave out one of them (`--sandboxes` sets the number of sandboxes)"
            ));
        }
        if execs == 0 {
            return Err(format!(
                "`--mode {mode}` measures the time to the first output of a script, so `--execs` \
                 must be at least 1"
            ));
        }
        let sandboxes = self.sandboxes.unwrap_or(SANDBOXES);
        let at_once = usize::try_from(sandboxes.min(MAX_CONCURRENCY as u64)).unwrap_or(usize::MAX);
        let stagger = self.stagger.unwrap_or(STAGGER);
        let (concurrency, rate) = match mode {
            Mode::Sequential => (1, None),
            Mode::Staggered => (at_once, Some(1.0 / stagger.as_secs_f64())),
            Mode::Burst if sandboxes > MAX_CONCURRENCY as u64 => {
                return Err(format!(
                    "`--mode burst` starts at most {MAX_CONCURRENCY} sandboxes at once; lower \
                     `--sandboxes`"
                ));
            }
            Mode::Burst => (at_once, Some(f64::INFINITY)),
        };
        Ok(Pace {
            mode: Some(mode),
            sandboxes: Some(sandboxes),
            duration: None,
            concurrency,
            rate,
            ramp: None,
            warm_up: Duration::ZERO,
        })
    }

    fn of_loop(self) -> Result<Pace, String> {
        let concurrency = self.concurrency.unwrap_or(CONCURRENCY);
        let pace = Pace {
            mode: None,
            sandboxes: match (self.sandboxes, self.duration) {
                (None, None) => Some(SANDBOXES),
                (sandboxes, _) => sandboxes,
            },
            duration: self.duration,
            concurrency: usize::try_from(concurrency).unwrap_or(usize::MAX),
            rate: self.rate,
            ramp: self.ramp,
            warm_up: self.warm_up.unwrap_or_default(),
        };
        pace.check_ramp()?;
        Ok(pace)
    }
}

impl Pace {
    /// Fails if the load could never reach its target.
    fn check_ramp(&self) -> Result<(), String> {
        let Some(ramp) = self.ramp else { return Ok(()) };
        if self.rate.is_none() && self.concurrency == 1 {
            return Err(
                "`--ramp` has nothing to grow: without `--rate`, it grows the number of \
                 concurrent sandboxes from 1 to `--concurrency`, which is 1"
                    .to_owned(),
            );
        }
        let run = |duration| self.warm_up.saturating_add(duration);
        if let Some(run) = self.duration.map(run).filter(|run| *run < ramp) {
            return Err(format!(
                "the ramp is longer than the run, so the load would never reach its target: lower \
                 `--ramp` ({ramp:?}), or raise `--duration` (with `--warm-up`, the run takes {run:?})"
            ));
        }
        let (Some(sandboxes), Some(_)) = (self.sandboxes, self.rate) else {
            return Ok(());
        };
        let during_ramp = self.arrivals(ramp) - self.arrivals(self.warm_up.min(ramp));
        match (sandboxes as f64) < during_ramp {
            true => Err(format!(
                "all {sandboxes} sandboxes would arrive before the end of the ramp, so the load \
                 would never reach `--rate`: raise `--sandboxes` above {during_ramp:.0}, or set \
                 `--duration` instead"
            )),
            false => Ok(()),
        }
    }

    /// Returns how many sandboxes of an open loop arrive in the first `time` of the run. 0 for a
    /// closed loop.
    pub(super) fn arrivals(&self, time: Duration) -> f64 {
        let (rate, time) = (self.rate.unwrap_or(0.0), time.as_secs_f64());
        match self.ramp.map(|ramp| ramp.as_secs_f64()) {
            Some(ramp) if time < ramp => rate * time * time / (2.0 * ramp),
            Some(ramp) => rate * (time - ramp / 2.0),
            None => rate * time,
        }
    }

    /// Returns when an open loop with this rate starts sandbox `index`, in seconds after the start
    /// of the run. This is the inverse of [`Pace::arrivals`].
    pub(super) fn arrival(&self, rate: f64, index: u64) -> f64 {
        let index = index as f64;
        match self.ramp.map(|ramp| ramp.as_secs_f64()) {
            Some(ramp) if index < rate * ramp / 2.0 => (2.0 * ramp * index / rate).sqrt(),
            Some(ramp) => index / rate + ramp / 2.0,
            None => index / rate,
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Sequential => "sequential",
            Self::Staggered => "staggered",
            Self::Burst => "burst",
        })
    }
}
