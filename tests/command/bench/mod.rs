//! The command `actix-sandbox bench`.

mod arguments;
mod compare;
mod conditions;
mod ends;
mod pace;
mod reports;

use std::{fs, path::Path, process::Command, time::Duration};

use crate::support::{
    LONG,
    program::{self, ended},
};
use serde_json::Value;
use tempfile::TempDir;

fn command(arguments: &[&str]) -> Command {
    let command = Command::new(env!("CARGO_BIN_EXE_actix-sandbox"));
    program::subcommand(command, "bench", arguments)
}

async fn run(arguments: &[&str]) -> (Option<i32>, String, String) {
    program::run(command(arguments)).await
}

fn json(path: &Path) -> Value {
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

fn sum(list: &Value) -> u64 {
    let list = list.as_array().unwrap().iter();
    list.map(|it| it.as_u64().unwrap()).sum()
}

fn phase<'a>(report: &'a Value, name: &str) -> &'a Value {
    let phases = report["phases"].as_array().unwrap();
    let mut named = phases.iter().filter(|it| it["phase"] == name);
    named.next().unwrap_or_else(|| panic!("no {name}"))
}

/// Returns a temporary directory, and the path of a file in it.
fn place(name: &str) -> (TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join(name).to_str().unwrap().to_owned();
    (folder, file)
}
