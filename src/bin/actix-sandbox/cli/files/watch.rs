//! `actix-sandbox watch`: the changes of files of a sandbox.

use std::process::ExitCode;

use actix_sandbox::{FileEvent, FilePath, Sandbox};
use clap::Args;
use futures::TryStreamExt;

use super::place::RemotePath;
use crate::cli::{
    escape::escaped_bytes,
    failure::Failure,
    known, operation,
    output::{self, Format},
    runtime,
    service::ServiceArguments,
    shared::say,
    signals::Signals,
};

const STATUS: &str = "Exit status: 130 after Ctrl-C, the usual end; 0 if the watched file or \
    directory was removed; 1 if the watch failed, for example because the sandbox has ended.";

#[derive(Args)]
#[command(after_help = STATUS)]
pub(crate) struct Watch {
    /// Directory or file to watch. Without PATH, the home directory of the sandbox.
    #[arg(value_name = "ID[:PATH]", value_parser = RemotePath::parser())]
    place: RemotePath,

    /// Watches subdirectories recursively.
    #[arg(short, long)]
    recursive: bool,

    /// Format of the events: text, or a JSON object on each line. The first object is
    /// {"event":"ready"}.
    #[arg(long, value_enum, default_value = "text")]
    output: Format,

    #[command(flatten)]
    service: ServiceArguments,
}

impl Watch {
    pub(crate) fn run(self) -> Result<ExitCode, Failure> {
        runtime::run(|signals| self.start(signals))
    }

    async fn start(self, mut signals: Signals) -> Result<ExitCode, Failure> {
        let kept = self.place.find(&self.service)?;
        let sandbox = signals.or(known::attach(&kept)).await?;
        let watched = operation::run(&sandbox, &mut signals, self.watch(&sandbox)).await;
        watched.map_err(Failure::quiet_if_interrupted)
    }

    async fn watch(&self, sandbox: &Sandbox) -> Result<ExitCode, Failure> {
        let path = self.place.path();
        let mut events = sandbox.files().watch(&path, self.recursive).await?;
        match self.output {
            Format::Json => self.print(&FileEvent::Ready)?,
            Format::Text => say(format_args!("watching {}", escaped_bytes(path.as_bytes()))),
        }
        while let Some(event) = events.try_next().await? {
            self.print(&event)?;
        }
        Ok(ExitCode::SUCCESS)
    }

    fn print(&self, event: &FileEvent) -> Result<(), Failure> {
        match self.output {
            Format::Text => output::print_line(&text(event)),
            Format::Json => output::print_json_line(event),
        }
    }
}

fn text(event: &FileEvent) -> String {
    match event {
        FileEvent::Created { path } => format!("created {}", shown(path)),
        FileEvent::Modified { path } => format!("modified {}", shown(path)),
        FileEvent::Removed { path } => format!("removed {}", shown(path)),
        FileEvent::Renamed { path, to } => format!("renamed {} -> {}", shown(path), shown(to)),
        FileEvent::Overflow => "overflow: changes were lost".to_owned(),
        _ => "other: a change of an unknown kind".to_owned(),
    }
}

/// An empty path stands for the watched path itself.
fn shown(path: &FilePath) -> String {
    match path.as_bytes() {
        b"" => ".".to_owned(),
        path => escaped_bytes(path),
    }
}
