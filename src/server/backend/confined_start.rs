//! [`start`]: starts code through the agent of a confined sandbox.

use std::path::{Path, PathBuf};

use super::{
    code_file::CodeFile,
    confine::{ENVIRONMENT, HOME_INSIDE, interpreter, write_for},
    job::{Job, Program, UNBUFFERED, check, no_directory},
    sweep::ID_VARIABLE,
};
use crate::{
    inside::{
        messages::{self, File, Start},
        process::Started,
        remote::{NotStarted, Remote},
    },
    protocol::{SandboxId, excerpt},
};

/// The places in which a sandbox finds its code.
pub(super) struct CodeDirectory {
    /// The directory in the sandbox with the code of each exec.
    pub(super) inside: &'static str,
    /// The path of that directory on this machine, and the user who may read the code. If there is
    /// no such user, the user of this process reads it. `None` if the directory is not on this
    /// machine: then the agent writes the code.
    pub(super) mounted: Option<(PathBuf, Option<u32>)>,
    /// The path in the sandbox of the directory with `sitecustomize.py`: see [`site`](super::site).
    pub(super) site: String,
}

/// Starts code. The error is the reason to report to the client. `number` counts the execs of the
/// sandbox.
pub(super) async fn start(
    remote: &Remote,
    directory: &CodeDirectory,
    id: &SandboxId,
    number: u64,
    job: Job,
) -> Result<Started, String> {
    check(&job)?;
    let env = environment(&job, &directory.site, id.as_str());
    let (mut file, mut code) = (None, None);
    let program = match job.program {
        Program::Code {
            language,
            code: text,
            args,
        } => {
            let interpreter = interpreter(language)?.to_string_lossy().into_owned();
            let path = |parent: &Path| CodeFile::path(parent, language, number);
            let inside = path(directory.inside.as_ref());
            let inside = inside.to_string_lossy().into_owned();
            match &directory.mounted {
                Some((parent, reader)) => {
                    let written = file.insert(CodeFile(path(parent)));
                    write_for(*reader, written, text)
                        .await
                        .map_err(|error| format!("Failed to store the code: {error}"))?;
                }
                None => {
                    let path = inside.clone();
                    code = Some(File { path, text });
                }
            }
            messages::Program::File {
                path: interpreter,
                args: [inside].into_iter().chain(args).collect(),
            }
        }
        Program::File { path, args } => messages::Program::File { path, args },
        Program::Builtin(builtin) => messages::Program::Builtin(builtin),
    };
    let name = match &program {
        messages::Program::File { path, .. } => excerpt(path.as_bytes()),
        messages::Program::Builtin(builtin) => builtin.op().to_owned(),
    };
    let cwd = job.cwd.as_deref().filter(|cwd| !cwd.is_empty());
    let cwd = cwd.unwrap_or(HOME_INSIDE);
    let start = Start {
        exec: 0,
        program,
        env,
        cwd: Path::new(HOME_INSIDE)
            .join(cwd)
            .to_string_lossy()
            .into_owned(),
        terminal: job.terminal,
        file: code,
    };
    let started = remote.start(start, file).await;
    started.map_err(|failed| match failed {
        NotStarted::NoDirectory => no_directory(cwd),
        NotStarted::DirectoryDenied(reason) => {
            let cwd = excerpt(cwd.as_bytes());
            format!("The working directory '{cwd}' can't be entered: {reason}.")
        }
        NotStarted::Failed(reason) => {
            format!("Failed to start {name}: {reason}")
        }
    })
}

/// The environment of code. Later variables replace earlier ones.
fn environment(job: &Job, site: &str, id: &str) -> Vec<(String, String)> {
    let own = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
    let defaults = ENVIRONMENT.into_iter();
    let defaults = defaults.filter(|(name, _)| *name != UNBUFFERED || job.terminal.is_none());
    let defaults = defaults.map(own);
    let variables = job.variables(site).into_iter();
    let variables = variables.map(|(name, value)| (name.to_owned(), value.into_owned()));
    let id = std::iter::once(own((ID_VARIABLE, id)));
    defaults.chain(variables).chain(id).collect()
}
