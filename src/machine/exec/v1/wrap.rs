//! [`wrap`]: puts code for a v1 server into a program that reports how the code ended.
//!
//! | file | |
//! | --- | --- |
//! | `wrap.rs` | puts the code and its options into the program |
//! | `wrap/bash.sh` | the program for bash |
//! | `wrap/python.py`, `wrap/start.py` | the program for Python, and how it starts the code |
//! | `wrap/supervisor.py` | the part of both that waits for the code |
//!
//! The wrapper runs the code in a new interpreter: a child that inherits the stdin, stdout and
//! stderr of the exec. It waits for the child and then prints the trailer, which contains a nonce
//! and the exit code or the signal. So it reports every kind of end: `exec`, `os._exit`, a syntax
//! error, a signal. It forwards terminating signals to the code. A second child, the guard, kills
//! the code if the wrapper itself is killed, because servers kill only the process that they
//! started.
//!
//! Python waits for bash code, too, because bash can't distinguish `exit 137` from SIGKILL, and its
//! `wait` may hang if a signal arrives at the same time as the end. Without `python3`, bash itself
//! waits. Then there is no guard, and every end is reported as an exit code.
//!
//! The interpreter reads the code from a pipe or an unlinked file, so only the size of a message
//! limits its length. The arguments, the environment and the memory of the code contain neither the
//! nonce nor the wrapper's options. But the file and the arguments of its parent do, and `$0` and
//! `__file__` name that file. Code that reads it can forge its end. **The wrapper reports; it does
//! not protect.**
//!
//! [`FAILED`] is the exit code if the code did not run, for example because the directory does not
//! exist or the arguments are too long.

use std::fmt::{self, Write};

use crate::protocol::ExecOptions;

const SUPERVISOR: &str = include_str!("wrap/supervisor.py");

/// The exit code of the wrapper if it could not run the code. Stderr says why. `env` and `timeout`
/// use the same code.
pub(super) const FAILED: i32 = 125;

/// 128 random bits that identify the trailer of one exec.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Nonce(pub(super) u128);

impl Nonce {
    /// A nonce of random bits.
    pub fn new(bits: u128) -> Self {
        Self(bits)
    }
}

impl fmt::Display for Nonce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for Nonce {
    /// Doesn't show the nonce.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Nonce(..)")
    }
}

/// Returns the program that runs the code with its arguments, environment and directory, and
/// reports how it ended.
///
/// # Errors
///
/// Fails with the name of a feature that the wrapper doesn't support: another language, a time
/// limit, the end of input, or a value that can't be passed to a process.
pub fn wrap(
    language: &str,
    code: &str,
    options: &ExecOptions,
    nonce: &Nonce,
) -> Result<String, &'static str> {
    let ExecOptions {
        args,
        env,
        cwd,
        timeout_ms,
        output_grace_ms,
        input_ends,
        terminal,
        binary: _,
        window: _,
    } = options;
    let wrapper = match language {
        "bash" => bash,
        "python" => python,
        _ => return Err("wrapper for other languages than bash and python"),
    };
    let values = args.iter().chain(env.iter().flat_map(|(a, b)| [a, b]));
    let is_name = |name: &str| !name.is_empty() && !name.contains('=');
    let refused = [
        (timeout_ms.is_some(), "timeout of a process"),
        (output_grace_ms.is_some(), "output grace of a process"),
        (*input_ends, "end of input"),
        (terminal.is_some(), "terminals"),
        (
            values.chain(cwd).any(|text| text.contains('\0')),
            "NUL byte in arguments, environment variables or the working directory",
        ),
        (
            !env.iter().all(|(name, _)| is_name(name)),
            "environment variable without a name or with a `=` in it",
        ),
    ];
    match refused.into_iter().find(|(refused, _)| *refused) {
        Some((_, feature)) => Err(feature),
        None => Ok(wrapper(code, options, nonce)),
    }
}

fn bash(code: &str, options: &ExecOptions, nonce: &Nonce) -> String {
    // `env` sets the variables: bash can't export every name, and some names would change the
    // wrapper.
    let env = match options.env.as_slice() {
        [] => String::new(),
        env => env
            .iter()
            .fold("env -- ".to_owned(), |text, (name, value)| {
                text + &quote(&format!("{name}={value}")) + " "
            }),
    };
    let args = options
        .args
        .iter()
        .fold(String::new(), |text, arg| text + " " + &quote(arg));
    // The prefix `./` keeps `cd` from taking the directory for an option or searching it in CDPATH.
    let cwd = options.cwd.as_deref().map(|cwd| {
        let directory = match cwd.starts_with('/') {
            true => quote(cwd),
            false => quote(&format!("./{cwd}")),
        };
        format!(
            "\ncd -P -- {directory} || {{ echo \"actix-sandbox: the code did not run\" >&2; end {FAILED}; }}\nunset OLDPWD"
        )
    });
    fill(include_str!("wrap/bash.sh"), |name, program| match name {
        // The template adds the newline at the end.
        "code" => program.push_str(code.strip_suffix('\n').unwrap_or(code)),
        "supervisor" => program.push_str(SUPERVISOR.trim_end()),
        "env" => program.push_str(&env),
        "args" => program.push_str(&args),
        "cwd" => program.push_str(cwd.as_deref().unwrap_or_default()),
        "end" => {
            let _ = write!(program, "actix_sandbox_{nonce}");
        }
        _ => {
            let _ = write!(program, "{nonce}");
        }
    })
}

fn python(code: &str, options: &ExecOptions, nonce: &Nonce) -> String {
    fill(include_str!("wrap/python.py"), |name, program| match name {
        "code" => push_bytes(program, code),
        "supervisor" => program.push_str(SUPERVISOR.trim_end()),
        "start" => push_bytes(program, include_str!("wrap/start.py")),
        "args" => options.args.iter().for_each(|arg| {
            push_bytes(program, arg);
            program.push(',');
        }),
        "env" => options.env.iter().for_each(|(name, value)| {
            program.push('(');
            push_bytes(program, name);
            program.push(',');
            push_bytes(program, value);
            program.push_str("),");
        }),
        "cwd" => match &options.cwd {
            // An empty directory means the default directory.
            Some(cwd) if !cwd.is_empty() => push_bytes(program, cwd),
            _ => program.push_str("None"),
        },
        _ => {
            let _ = write!(program, "{nonce}");
        }
    })
}

/// Replaces each `@@name@@` in the template.
fn fill(template: &str, mut put: impl FnMut(&str, &mut String)) -> String {
    let mut program = String::new();
    for (number, part) in template.split("@@").enumerate() {
        match number % 2 {
            0 => program.push_str(part),
            _ => put(part, &mut program),
        }
    }
    program
}

/// Quotes text as one word of bash.
fn quote(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// Appends text as a bytes literal of Python, in ASCII.
fn push_bytes(program: &mut String, text: &str) {
    program.push_str("b'");
    for byte in text.bytes() {
        match byte {
            b'\n' => program.push_str("\\n"),
            b'\\' | b'\'' => program.extend(['\\', char::from(byte)]),
            b' '..=b'~' => program.push(char::from(byte)),
            _ => {
                let _ = write!(program, "\\x{byte:02x}");
            }
        }
    }
    program.push('\'');
}
