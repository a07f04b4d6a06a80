//! The text of a [`Report`]: its lines, which the page also shows, and its table.

use std::fmt;

use bytesize::ByteSize;

use super::{
    pace::Mode,
    phase::Phase,
    report::{Connections, ErrorReport, Report, Sandboxes},
    statistics::time,
    subject::LocalReport,
};

impl Report {
    /// The plan, in one line.
    pub(super) fn headline(&self) -> String {
        let plan = &self.plan;
        let ramp = plan.ramp_seconds.map_or(String::new(), |ramp| {
            format!(" after a ramp of {}", time(ramp * 1000.0))
        });
        let most = plan.concurrency;
        let how = match (plan.mode, plan.rate) {
            (Some(Mode::Sequential), _) => "one after the other (sequential)".to_owned(),
            (Some(Mode::Staggered), Some(rate)) => {
                format!("one starts every {} (staggered)", time(1000.0 / rate))
            }
            (Some(mode), _) => format!("{most} at once ({mode})"),
            (None, Some(rate)) => {
                format!("{rate} arrive per second{ramp} (open loop), at most {most} at once")
            }
            (None, None) => format!("{most} at once{ramp} (closed loop)"),
        };
        let runs = match plan.execs {
            1 => "each runs the script once".to_owned(),
            execs => format!("each runs the script {execs} times"),
        };
        format!("Sandboxes on {}: {how}, {runs}", self.target)
    }

    /// The number of sandboxes by outcome, in one line.
    pub(super) fn outcome(&self) -> String {
        let Sandboxes {
            completed,
            failed,
            cancelled,
            warm_up,
            never_begun,
            longest_wait_ms,
        } = self.sandboxes;
        let mut text = format!("{completed} completed, {failed} failed");
        let more = [
            (cancelled, "stopped"),
            (warm_up, "during the warm-up"),
            (never_begun, "never started (--concurrency was reached)"),
        ];
        for (count, what) in more.into_iter().filter(|(count, _)| *count > 0) {
            text += &format!(", {count} {what}");
        }
        if longest_wait_ms >= 1.0 && self.plan.kind == "open" {
            text += &format!(", the longest wait to start was {}", time(longest_wait_ms));
        }
        text
    }

    /// The throughput, in one line.
    pub(super) fn throughput(&self) -> String {
        let bytes = ByteSize::b(self.output_bytes_per_second as u64);
        format!(
            "{:.1} sandboxes, {:.1} execs and {bytes} of output per second, over {:.1} s",
            self.sandboxes_per_second, self.execs_per_second, self.measured_seconds
        )
    }

    /// Where the benchmark ran, in one line.
    pub(super) fn environment(&self) -> String {
        let environment = &self.environment;
        let (machine, version) = (&environment.machine, self.version);
        let build = format!("actix-sandbox {version} ({} build)", environment.build);
        match &environment.local_server {
            Some(LocalReport { backend, warm }) => format!(
                "Client and server: {machine}; {build}, backend {backend}, warm pool of {warm}"
            ),
            None => format!("Client: {machine}; {build}"),
        }
    }

    /// The time from the arrival of a sandbox to its first output, in one line. `None` if no
    /// script wrote output.
    pub(super) fn interactive(&self) -> Option<String> {
        let mut phases = self.phases.iter();
        let row = phases.find(|it| it.phase == Phase::Interactive)?;
        let Sandboxes {
            completed, failed, ..
        } = self.sandboxes;
        Some(format!(
            "Time to interactive: median {}, p95 {}, p99 {}, success rate {:.1} % of {} sandboxes",
            time(row.p50_ms),
            time(row.p95_ms),
            time(row.p99_ms),
            row.success_rate.unwrap_or(0.0) * 100.0,
            completed + failed
        ))
    }

    /// Warnings about the results.
    pub(super) fn cautions(&self) -> Vec<String> {
        let mut cautions = Vec::new();
        if self.times_too_good {
            cautions.push(format!(
                "The latencies are too low: they omit {} sandboxes that were due but never started; \
                 raise --concurrency or lower --rate",
                self.sandboxes.never_begun
            ));
        }
        if self.environment.build == "debug" {
            cautions.push(
                "This is a debug build, which is slower than a release build: its results are not \
                 comparable"
                    .to_owned(),
            );
        }
        cautions
    }

    /// The numbers of lost and reconnected connections, in one line.
    pub(super) fn connections(&self) -> String {
        let Connections { lost, reconnected } = self.connections;
        format!("{lost} connections lost, {reconnected} reconnected")
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.headline())?;
        writeln!(f, "{}", self.outcome())?;
        writeln!(f, "{}", self.throughput())?;
        if let Some(interactive) = self.interactive() {
            writeln!(f, "{interactive}")?;
        }
        writeln!(f, "{}", self.environment())?;
        for caution in self.cautions() {
            writeln!(f, "{caution}")?;
        }
        if let Some(first) = self.phases.first() {
            write!(f, "\n{:<14}{:>8}", "", "count")?;
            for (name, _) in first.columns() {
                write!(f, "{name:>10}")?;
            }
            writeln!(f)?;
        }
        for phase in &self.phases {
            write!(f, "{:<14}{:>8}", phase.phase.name(), phase.count)?;
            for (_, value) in phase.columns() {
                write!(f, "{:>10}", time(value))?;
            }
            writeln!(f)?;
        }
        if !self.errors.is_empty() {
            writeln!(f, "\nerrors")?;
        }
        for error in &self.errors {
            let ErrorReport {
                phase,
                kind,
                count,
                example,
            } = error;
            writeln!(f, "{count:>6} × {kind} in {}: {example}", phase.name())?;
        }
        if self.connections.lost > 0 {
            writeln!(f, "\n{}", self.connections())?;
        }
        Ok(())
    }
}
