//! [`Job`]: a program to run, with its environment and working directory.

use std::borrow::Cow;

use crate::protocol::{Builtin, TerminalSize, excerpt};

/// A language that a backend runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Language {
    Python,
    Bash,
}

impl Language {
    /// The supported languages, as error messages name them.
    pub(crate) const NAMES: &'static str = "python, bash";

    /// The interpreter.
    pub(crate) fn program(self) -> &'static str {
        match self {
            Self::Python => "python3",
            Self::Bash => "bash",
        }
    }

    /// Why a language that a client names can't be used.
    pub(crate) fn unsupported(name: &str) -> String {
        const MOST: usize = 100;
        let shown = match name.char_indices().nth(MOST) {
            Some((end, _)) => format!("{}…", &name[..end]),
            None => name.to_owned(),
        };
        let names = Self::NAMES;
        format!("Unsupported language: '{shown}'. Supported languages are: {names}")
    }

    /// The language that a client names, also by an alias.
    pub(crate) fn from_name(name: &str) -> Option<Self> {
        match name {
            "python" | "python3" | "py" => Some(Self::Python),
            "bash" | "sh" => Some(Self::Bash),
            _ => None,
        }
    }
}

/// The variable that makes Python write its output at once. A terminal needs none: there, Python
/// writes whole lines. Without buffers, Python sometimes writes 0 bytes, and such a write to a
/// terminal never returns in gVisor.
pub(super) const UNBUFFERED: &str = "PYTHONUNBUFFERED";

/// A program to run, with its environment and working directory.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) program: Program,
    /// Variables to add to the default environment.
    pub(crate) env: Vec<(String, String)>,
    /// The working directory, relative to the default one.
    pub(crate) cwd: Option<String>,
    /// The size of the terminal to run the program in. `None`: it runs without a terminal.
    pub(crate) terminal: Option<TerminalSize>,
}

/// What a job runs.
#[derive(Debug)]
pub(crate) enum Program {
    Code {
        language: Language,
        code: String,
        args: Vec<String>,
    },
    /// A program of the sandbox, by its path or by its name in `PATH`, and its arguments.
    File { path: String, args: Vec<String> },
    /// An operation on the files of the sandbox.
    Builtin(Builtin),
}

impl Program {
    /// The arguments.
    fn args(&self) -> &[String] {
        match self {
            Self::Code { args, .. } | Self::File { args, .. } => args,
            Self::Builtin(_) => &[],
        }
    }

    /// A name for the log. It holds nothing that the client chose.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Code { language, .. } => language.program(),
            Self::File { .. } => "file",
            Self::Builtin(builtin) => builtin.op(),
        }
    }

    /// A name for the client: the interpreter, or the path or name of the program without
    /// arguments.
    pub(crate) fn label(&self) -> String {
        match self {
            Self::File { path, .. } => excerpt(path.as_bytes()),
            _ => self.name().to_owned(),
        }
    }

    fn language(&self) -> Option<Language> {
        match self {
            Self::Code { language, .. } => Some(*language),
            Self::File { .. } | Self::Builtin(_) => None,
        }
    }
}

impl Job {
    /// Code without arguments, in the default environment and working directory.
    pub(crate) fn new(language: Language, code: String) -> Self {
        Self::of(Program::Code {
            language,
            code,
            args: Vec::new(),
        })
    }

    /// A program in the default environment and working directory, without a terminal.
    pub(crate) fn of(program: Program) -> Self {
        Self {
            program,
            env: Vec::new(),
            cwd: None,
            terminal: None,
        }
    }

    /// The variables that code gets in addition to the default ones. `site` is the path of the
    /// directory that [`site`](super::site) writes, as code sees it. It lets Python import from its
    /// working directory, as with `python3 -c`, although the code is in a file elsewhere.
    pub(super) fn variables(&self, site: &str) -> Vec<(&str, Cow<'_, str>)> {
        const SEARCHED: &str = "PYTHONPATH";
        let mut variables: Vec<_> = self
            .env
            .iter()
            .map(|(name, value)| (name.as_str(), Cow::from(value)))
            .collect();
        if self.program.language() == Some(Language::Python) {
            match variables.iter_mut().rfind(|(name, _)| *name == SEARCHED) {
                Some((_, value)) if !value.is_empty() => *value = format!("{site}:{value}").into(),
                _ => variables.push((SEARCHED, site.to_owned().into())),
            }
        }
        variables
    }
}

/// Fails with the reason if no backend can run this job.
pub(super) fn check(job: &Job) -> Result<(), String> {
    let is_name = |name: &str| !name.is_empty() && !name.contains(['=', '\0']);
    if let Some((name, _)) = job.env.iter().find(|(name, _)| !is_name(name)) {
        return Err(format!(
            "'{}' is not a valid name for an environment variable.",
            excerpt(name.as_bytes())
        ));
    }
    if job
        .cwd
        .as_ref()
        .is_some_and(|cwd| cwd.len() > MAX_CWD_BYTES)
    {
        return Err(format!(
            "The path of the working directory is longer than {MAX_CWD_BYTES} bytes."
        ));
    }
    let values = job.env.iter().map(|(_, value)| value);
    let values = values.chain(job.program.args());
    if values.chain(&job.cwd).any(|text| text.contains('\0')) {
        return Err(
            "An argument, an environment variable or the working directory contains a NUL byte."
                .to_owned(),
        );
    }
    check_size(job)
}

/// Maximum bytes of a path (`PATH_MAX`).
const MAX_CWD_BYTES: usize = 4_096;

/// Maximum bytes of one argument, or of one environment variable with its name (`MAX_ARG_STRLEN` in
/// execve(2)).
const MAX_WORD_BYTES: usize = 128 * 1024 - 1;

/// Maximum bytes of all arguments and variables: a quarter of the usual stack (execve(2)), less
/// what the server adds.
const MAX_WORDS_BYTES: usize = 2 * 1024 * 1024 - 64 * 1024;

/// Fails if the kernel would not start a process with these arguments and variables.
fn check_size(job: &Job) -> Result<(), String> {
    // A variable also takes a `=`; every word also takes a NUL byte and a pointer.
    let variables = job
        .env
        .iter()
        .map(|(name, value)| name.len() + 1 + value.len());
    let args = job.program.args().iter().map(String::len);
    let words: Vec<usize> = args.chain(variables).collect();
    let largest = words.iter().copied().max().unwrap_or(0);
    let total: usize = words
        .iter()
        .map(|bytes| bytes + 1 + size_of::<usize>())
        .sum();
    if largest > MAX_WORD_BYTES || total > MAX_WORDS_BYTES {
        return Err(format!(
            "The arguments and environment variables are too large: {total} bytes in all, \
             {largest} bytes in the largest. \
             A process takes at most {MAX_WORDS_BYTES} bytes in all and {MAX_WORD_BYTES} in each; \
             pass more data in its input or in a file."
        ));
    }
    Ok(())
}

/// The error for a job whose working directory does not exist.
pub(super) fn no_directory(cwd: &str) -> String {
    format!(
        "The working directory '{}' does not exist or is not a directory.",
        excerpt(cwd.as_bytes())
    )
}
