//! The wrapper around code on a v1 peer, which says how the code ended: [`wrap`] makes it, [`TrailerFilter`](super::TrailerFilter) takes
//! what it says out of the output.
//!
//! | file | |
//! | --- | --- |
//! | `wrap.rs` | the program: `bash.sh`, or `python.py` with `start.py`, with the code and its options put in |
//! | `supervisor.py` | the part of both that waits for the code |
//! | `../trailer.rs` | the trailer, found in a stream that may be cut anywhere |
//!
//! The wrapper runs the code in a fresh interpreter, a child that has the stdin, stdout and stderr of the exec, and waits
//! for it. So it outlives whatever the code does, be it `exec`, `os._exit`, a syntax error or a signal. It then
//! prints the trailer: a nonce and the exit code, or the signal. Signals that end a process it hands on to the code; a
//! guard, its second child, kills the code when the wrapper itself is killed, as servers do that know no other process.
//!
//! Python waits for bash, too: bash itself cannot tell `exit 137` from SIGKILL, and its `wait` may hang when a
//! signal comes with the end. Where there is no `python3`, bash waits, without a guard, and every end is an exit code.
//!
//! The code gets its text by a pipe or an unlinked file, so its size has no bound but that of a message, and it has
//! neither the nonce nor the options of the wrapper in its arguments, environment or memory. It could find the nonce all
//! the same: in the file and the arguments that its parent was started with, of which `$0` and `__file__` tell the name.
//! Code that does can forge its ending. **The wrapper reports; it is no protection.**
//!
//! [`FAILED`] is the exit code where the code did not run: no such directory, or arguments that are too long.

use std::fmt::{self, Write};

use crate::protocol::ExecOptions;

const SUPERVISOR: &str = include_str!("wrap/supervisor.py");

/// Exit code of the wrapper when it could not run the code; stderr says why. `env` and `timeout` use the same.
pub const FAILED: i32 = 125;

/// 128 bits that nobody can guess, by which the trailer of one exec is known.
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
    /// Does not show it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Nonce(..)")
    }
}

/// The program that runs the code with its arguments, environment and directory and says how it ended.
///
/// # Errors
///
/// What it cannot do, as the feature that is missing: another language, a time limit, an end of input, what no
/// process can be given.
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
    // Not every name can be exported by bash, and some would change the wrapper.
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
    // Never an option, nor looked for in CDPATH.
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
        // The template has the newline at its end.
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
            // An empty one is the usual one.
            Some(cwd) if !cwd.is_empty() => push_bytes(program, cwd),
            _ => program.push_str("None"),
        },
        _ => {
            let _ = write!(program, "{nonce}");
        }
    })
}

/// The template with something in the place of each `@@name@@`.
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

/// As one word of bash.
fn quote(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// As a bytes literal of Python, in ASCII whatever the text.
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
