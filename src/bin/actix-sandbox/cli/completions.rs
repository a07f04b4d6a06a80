//! `actix-sandbox completions` and `actix-sandbox man`.

use std::{fs, path::PathBuf, process::ExitCode};

use clap::{Args, Command};
use clap_complete::Shell;

use crate::cli::{failure::Failure, output};

#[derive(Args)]
pub(crate) struct Completions {
    /// The shell.
    shell: Shell,
}

impl Completions {
    /// Writes the completions of this command to stdout.
    pub(crate) fn run(self, mut command: Command) -> Result<ExitCode, Failure> {
        let mut text = Vec::new();
        let name = command.get_name().to_owned();
        clap_complete::generate(self.shell, &mut command, name, &mut text);
        let text = String::from_utf8_lossy(&text);
        // The generator for bash expects a name without a dash: it sets `actix__sandbox`, and then
        // compares with this label.
        output::print(&text.replace("actix__subcmd__sandbox", "actix__sandbox"))?;
        Ok(ExitCode::SUCCESS)
    }
}

#[derive(Args)]
pub(crate) struct Man {
    /// Directory for the man pages, one for each command.
    directory: PathBuf,
}

impl Man {
    /// Writes the man pages of this command.
    pub(crate) fn run(self, command: Command) -> Result<ExitCode, Failure> {
        let written = fs::create_dir_all(&self.directory)
            .and_then(|()| clap_mangen::generate_to(command, &self.directory));
        match written {
            Ok(()) => Ok(ExitCode::SUCCESS),
            Err(error) => {
                Err(format!("cannot write to {}: {error}", self.directory.display()).into())
            }
        }
    }
}
