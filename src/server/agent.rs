//! [`agent`] runs the agent of a confined sandbox. [`find_agent`] finds the program to start as the
//! agent.

use std::{
    env,
    ffi::OsStr,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
};

use super::backend::programs::{find, is_program, search_path};

/// The arguments with which the server starts the agent.
pub(crate) const ARGUMENTS: [&str; 2] = ["agent", "--for-actix-sandbox"];

/// Environment variable that names the program of the agent if the builder does not.
const VARIABLE: &str = "ACTIX_SANDBOX_AGENT";

/// The name of this crate's command.
const COMMAND: &str = "actix-sandbox";

/// Whether `main` of this program calls [`agent`].
static IS_AGENT: AtomicBool = AtomicBool::new(false);

/// Lets a server in this program start the same program as the agent of its sandboxes. Call this
/// first in `main`, before another thread starts. `#[actix::main]` starts no thread, so the call
/// can be the first line of that function. `#[tokio::main]` starts threads, so call this before the
/// runtime starts.
///
/// The backends `namespace` and `gvisor` start an agent as the first process of each sandbox. The
/// agent starts the code, moves its input and output, and kills it. In a process that a server
/// started as an agent, this function runs the agent and then exits the process. In any other
/// process, it returns at once, and a server in that process uses this program for its agents.
/// Without this call, the server needs the command `actix-sandbox`, the variable
/// `ACTIX_SANDBOX_AGENT`, or [`ServerBuilder::agent`](super::ServerBuilder::agent).
///
/// The agent runs in the sandbox, so it can load only libraries from directories that the sandbox
/// can read.
///
/// ```no_run
/// #[actix::main]
/// async fn main() {
///     actix_sandbox::server::agent();
///     // Start a `LocalServer` here.
/// }
/// ```
pub fn agent() {
    if env::args_os().skip(1).eq(ARGUMENTS.map(OsStr::new)) {
        #[cfg(target_os = "linux")]
        std::process::exit(crate::inside::agent::run());
        #[cfg(not(target_os = "linux"))]
        std::process::exit(1);
    }
    IS_AGENT.store(true, Ordering::Relaxed);
}

/// Finds the program of the agent. If there is none, the error lists the places that were searched.
pub(crate) fn find_agent(chosen: Option<&Path>) -> Result<PathBuf, String> {
    let named = env::var_os(VARIABLE).filter(|path| !path.is_empty());
    let named = named.map(PathBuf::from);
    if let Some((what, path)) = chosen
        .map(|path| ("the option `agent`", path))
        .or_else(|| named.as_deref().map(|path| (VARIABLE, path)))
    {
        return match is_program(path) {
            Ok(true) => Ok(path.to_owned()),
            Ok(false) => Err(format!(
                "{what} is {}, which can't be executed",
                path.display()
            )),
            Err(error) => Err(format!("{what} is {}: {error}", path.display())),
        };
    }
    let mut tried = Vec::new();
    match env::current_exe() {
        // This link leads to the running program even after a new build has replaced its file.
        Ok(_) if IS_AGENT.load(Ordering::Relaxed) && cfg!(target_os = "linux") => {
            return Ok(PathBuf::from("/proc/self/exe"));
        }
        Ok(program) => {
            tried.push(format!(
                "{} (its `main` does not call `actix_sandbox::server::agent()` first)",
                program.display()
            ));
            for beside in beside(&program) {
                if is_program(&beside).is_ok_and(|is_program| is_program) {
                    return Ok(beside);
                }
                tried.push(beside.display().to_string());
            }
        }
        Err(error) => tried.push(format!("this program ({error})")),
    }
    let path = search_path();
    find(COMMAND, &path).ok_or_else(|| {
        tried.push(format!("`{COMMAND}` on the PATH ({})", path.display()));
        format!(
            "found no program for the agents of sandboxes; tried: {}. Call \
             `actix_sandbox::server::agent()` first in `main`, install `{COMMAND}`, or name the \
             program with {VARIABLE}",
            tried.join(", ")
        )
    })
}

/// The paths of the command in the directory of this program and, for a test or an example, in the
/// directory above, where cargo puts the command.
fn beside(program: &Path) -> Vec<PathBuf> {
    let directory = program.parent();
    let is_below = |it: &&Path| it.ends_with("deps") || it.ends_with("examples");
    let above = directory.filter(is_below).and_then(Path::parent);
    let directories = directory.into_iter().chain(above);
    directories.map(|it| it.join(COMMAND)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_is_found_beside_a_program_and_above_a_test() {
        let paths = |program: &str| beside(Path::new(program));
        assert_eq!(paths("/a/b/program"), [Path::new("/a/b/actix-sandbox")]);
        for test in ["/a/target/deps/test", "/a/target/examples/basic"] {
            let above = Path::new("/a/target/actix-sandbox");
            assert_eq!(paths(test).last().unwrap(), above);
        }
    }

    #[test]
    fn a_chosen_program_that_cannot_be_executed_is_named() {
        let error = find_agent(Some(Path::new("/no/program"))).unwrap_err();
        assert!(
            error.contains("the option `agent` is /no/program: "),
            "{error}"
        );
        let error = find_agent(Some(Path::new("/etc/passwd"))).unwrap_err();
        assert!(error.contains("can't be executed"), "{error}");
    }
}
