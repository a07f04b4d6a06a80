//! [`start`]: starts code through the agent of a confined sandbox.

use std::path::{Path, PathBuf};

use super::{
    code_file::CodeFile,
    confine::{ENVIRONMENT, HOME_INSIDE, interpreter, write_for},
    job::{Job, check, no_directory},
    site,
    sweep::ID_VARIABLE,
};
use crate::{
    inside::{
        messages::{FileCopy, Start},
        process::Started,
        remote::{NotStarted, Remote},
    },
    protocol::{SandboxId, excerpt},
};

/// The directory with the code of each exec of a sandbox.
pub(super) struct CodeDirectory {
    /// Its path on this machine.
    pub(super) path: PathBuf,
    /// Its path in the sandbox.
    pub(super) inside: &'static str,
    /// The user of this machine who may read the code. `None`: the user of this process.
    pub(super) reader: Option<u32>,
    /// The directory in the sandbox to which the agent copies the code. `None`: the code is run
    /// from `inside`.
    pub(super) copies: Option<&'static str>,
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
    let interpreter = interpreter(job.language)?;
    let code = CodeFile::new(&directory.path, job.language, number);
    write_for(directory.reader, &code, &job.code)
        .await
        .map_err(|error| format!("Failed to store the code: {error}"))?;
    let name = code.0.file_name().unwrap_or_default().to_string_lossy();
    let file = |directory: &str| format!("{directory}/{name}");
    let copy = directory.copies.map(|copies| FileCopy {
        from: file(directory.inside),
        to: file(copies),
    });
    let mut args = vec![file(directory.copies.unwrap_or(directory.inside))];
    let site = format!("{}/{}", directory.inside, site::SITE);
    let env = environment(&job, &site, id.as_str());
    args.extend_from_slice(&job.args);
    let cwd = job.cwd.as_deref().filter(|cwd| !cwd.is_empty());
    let cwd = cwd.unwrap_or(HOME_INSIDE);
    let start = Start {
        exec: 0,
        program: interpreter.to_string_lossy().into_owned(),
        args,
        env,
        cwd: Path::new(HOME_INSIDE)
            .join(cwd)
            .to_string_lossy()
            .into_owned(),
        copy,
    };
    let started = remote.start(start, code).await;
    started.map_err(|failed| match failed {
        NotStarted::NoDirectory => no_directory(cwd),
        NotStarted::DirectoryDenied(reason) => {
            let cwd = excerpt(cwd.as_bytes());
            format!("The working directory '{cwd}' can't be entered: {reason}.")
        }
        NotStarted::Failed(reason) => {
            format!("Failed to start {}: {reason}", interpreter.display())
        }
    })
}

/// The environment of code. Later variables replace earlier ones.
fn environment(job: &Job, site: &str, id: &str) -> Vec<(String, String)> {
    let own = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
    let defaults = ENVIRONMENT.into_iter().map(own);
    let variables = job.variables(site).into_iter();
    let variables = variables.map(|(name, value)| (name.to_owned(), value.into_owned()));
    let id = std::iter::once(own((ID_VARIABLE, id)));
    defaults.chain(variables).chain(id).collect()
}
