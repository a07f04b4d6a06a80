//! [`Printer`]: writes the report to stdout. As text, each result as soon as it is known.

use std::fmt::Write as _;

use bytesize::ByteSize;

use super::report::{
    BackendReport, Calls, Interpreter, Limits, MachineReport, Report, ServiceReport, Step, User,
};
use crate::cli::{
    failure::Failure,
    output::{self, Format},
};

pub(super) struct Printer(Format);

impl Printer {
    pub(super) fn new(format: Format) -> Self {
        Self(format)
    }

    /// Prints the URL of the service, before its steps.
    pub(super) fn service(&mut self, url: &str) -> Result<(), Failure> {
        self.text(|| format!("{url}\n"))
    }

    /// Prints a step of the check of a service.
    pub(super) fn step(&mut self, step: &Step) -> Result<(), Failure> {
        self.text(|| {
            let mark = if step.works { "ok" } else { "fails" };
            let time = time(step.ms);
            let texts = [&step.detail, &step.problem];
            let text = texts.into_iter().flatten().next();
            let text = text.map_or("", |text| text.as_str());
            let line = format!("{:<10} {mark:<6}{time:>8}  {text}", step.step);
            format!("{}\n{}", line.trim_end(), bullets(11, &step.advice))
        })
    }

    /// Prints the result of a backend.
    pub(super) fn backend(&mut self, report: &BackendReport) -> Result<(), Failure> {
        self.text(|| backend(report))
    }

    /// Prints the rest of the report.
    pub(super) fn end(&mut self, report: &Report) -> Result<(), Failure> {
        if self.0 == Format::Json {
            return output::print_json(report);
        }
        let mut text = String::new();
        if let Some(machine) = &report.machine {
            text += &machine_summary(machine);
        }
        if let Some(service) = &report.service {
            text += &service_summary(service);
        }
        output::print(&text)
    }

    fn text(&self, text: impl FnOnce() -> String) -> Result<(), Failure> {
        match self.0 {
            Format::Text => output::print(&text()),
            Format::Json => Ok(()),
        }
    }
}

fn backend(report: &BackendReport) -> String {
    let name = report.backend;
    if let Some(problem) = &report.problem {
        return format!(
            "{name:<11}fails  {problem}\n{}",
            bullets(11, &report.advice)
        );
    }
    let time = report.create_and_run_ms.map(time).unwrap_or_default();
    let program = match &report.program {
        Some(program) => {
            let version = program.version.as_deref().unwrap_or("unknown version");
            format!("{} ({version})", program.path.display())
        }
        None if report.confines => String::new(),
        None => "confines nothing".to_owned(),
    };
    format!("{name:<11}works  create + run {time:>8}  {program}\n")
}

fn machine_summary(machine: &MachineReport) -> String {
    let mut text = String::from("\n");
    text += &match (&machine.confined, &machine.auto) {
        (Some(name), _) => format!("`--backend confined` and `--backend auto` select {name}.\n"),
        (None, auto) => format!(
            "`--backend confined` fails: no backend that confines code works here.\n\
             `--backend auto` {}.\n",
            match auto {
                Some(name) => format!("selects {name}, which confines nothing"),
                None => "fails".to_owned(),
            }
        ),
    };
    let works: Vec<_> = machine
        .backends
        .iter()
        .filter_map(|report| Some((report, report.limits.as_ref()?)))
        .collect();
    if !works.is_empty() {
        text += &table(&works);
    }
    let notes: Vec<_> = works
        .iter()
        .flat_map(|(report, limits)| notes(report, limits))
        .collect();
    if !notes.is_empty() {
        text += "\n";
        text += &bullets(0, &notes);
    }
    let files = &machine.open_files;
    if let Some(connections) = files.max_connections {
        let _ = writeln!(
            text,
            "\nWith the limit of this process on open files ({}, `ulimit -Hn`), `serve` accepts up to \
             {connections} connections.",
            files.limit
        );
    }
    text
}

/// What a cell of the table shows.
type Cell = fn(&BackendReport, &Limits) -> String;

/// The rows of the table.
const ROWS: [(&str, Cell); 12] = [
    ("memory of a process", |_, it| size(it.memory_bytes)),
    ("memory of a sandbox", |_, it| size(it.sandbox_memory_bytes)),
    ("CPUs of a sandbox", |_, it| number(it.cpus)),
    ("processes of a sandbox", |_, it| number(it.processes)),
    ("disk of a sandbox", |_, it| size(it.disk_bytes)),
    ("size of a file", |_, it| size(it.file_size_bytes)),
    ("open files of a process", |_, it| number(it.open_files)),
    ("user ID of code", |_, it| {
        let user = match it.user {
            User::Server => "of the server",
            User::Shared => "shared",
            User::Own => "own",
            User::Unknown => "unknown",
        };
        user.to_owned()
    }),
    ("system calls", |_, it| {
        let calls = match it.system_calls {
            Calls::Unfiltered => "unfiltered",
            Calls::Filtered => "seccomp filter",
            Calls::OwnKernel => "own kernel",
            Calls::Unknown => "unknown",
        };
        calls.to_owned()
    }),
    ("network", |_, it| {
        if it.network { "on" } else { "off" }.to_owned()
    }),
    ("bash", |it, _| version(&it.bash)),
    ("python3", |it, _| version(&it.python3)),
];

fn table(works: &[(&BackendReport, &Limits)]) -> String {
    const FIRST: usize = 25;
    const OTHER: usize = 17;
    let mut text = String::new();
    let mut row = |first: &str, cells: Vec<String>| {
        let cells: String = cells.iter().map(|it| format!("{it:<OTHER$}")).collect();
        let line = format!("{first:<FIRST$}{cells}");
        text = format!("{text}\n{}", line.trim_end());
    };
    row(
        "default options",
        works.iter().map(|(it, _)| it.backend.to_owned()).collect(),
    );
    for (name, cell) in ROWS {
        row(
            name,
            works.iter().map(|(it, limits)| cell(it, limits)).collect(),
        );
    }
    format!("{text}\n")
}

/// What the cells of a column don't say.
fn notes(report: &BackendReport, limits: &Limits) -> Vec<String> {
    let name = report.backend;
    let mut notes = Vec::new();
    if let Some(reason) = &limits.no_cgroup {
        notes.push(format!(
            "{name}: memory and CPU of a whole sandbox can't be limited: {reason}"
        ));
    }
    for (program, found) in [("bash", &report.bash), ("python3", &report.python3)] {
        if let Some(problem) = found.as_ref().and_then(|it| it.problem.as_ref()) {
            notes.push(format!(
                "{name}: {program} doesn't run in sandboxes: {problem}"
            ));
        }
    }
    notes
}

fn service_summary(service: &ServiceReport) -> String {
    let Some(protocol) = &service.protocol else {
        return String::new();
    };
    let mut text = format!("\nThe service speaks protocol {protocol}.");
    text += match service.lift {
        None => "",
        Some(true) => " With `--lift`, it supports most features of v2 (docs/lift.md).",
        Some(false) => " The lift does not work.",
    };
    text += "\n";
    if !service.features.is_empty() {
        let _ = writeln!(text, "Its features: {}.", service.features.join(", "));
    }
    text
}

fn bullets(indent: usize, lines: &[String]) -> String {
    let lines = lines.iter();
    lines.map(|it| format!("{:indent$}- {it}\n", "")).collect()
}

fn size(bytes: Option<u64>) -> String {
    bytes.map_or("no limit".to_owned(), |it| ByteSize::b(it).to_string())
}

fn number(number: Option<impl ToString>) -> String {
    number.map_or("no limit".to_owned(), |it| it.to_string())
}

fn version(found: &Option<Interpreter>) -> String {
    let version = found.as_ref().and_then(|it| it.version.clone());
    version.unwrap_or("missing".to_owned())
}

fn time(ms: f64) -> String {
    match ms {
        ms if ms < 10.0 => format!("{ms:.1} ms"),
        ms if ms < 10_000.0 => format!("{ms:.0} ms"),
        ms => format!("{:.1} s", ms / 1_000.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_about_three_digits() {
        let times = [0.04, 9.94, 10.4, 1234.0, 12_340.0].map(time);
        assert_eq!(times, ["0.0 ms", "9.9 ms", "10 ms", "1234 ms", "12.3 s"]);
    }
}
