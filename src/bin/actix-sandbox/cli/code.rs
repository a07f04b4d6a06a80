//! The code of `run`: a file, standard input or an argument, and its language.

use std::{
    fs,
    io::{self, Read},
    path::{Path, PathBuf},
};

use actix_sandbox::{Command, ErrorKind, Language, Sandbox};

use crate::cli::failure::Failure;

/// Maximum size of a program, in bytes.
const MAX_BYTES: u64 = 10 * 1024 * 1024;

/// A program and its language.
#[derive(Debug)]
pub(crate) struct Code {
    language: Language,
    text: String,
    /// The name of the file, which the program has in the sandbox, too.
    file: Option<String>,
}

impl Code {
    /// Code that is an argument, or stdin. The language is Python unless another is given.
    pub(crate) fn from_text(text: String, language: Option<String>) -> Self {
        Self {
            language: language.map_or(Language::Python, Language::from),
            text,
            file: None,
        }
    }

    /// Reads the code from stdin.
    pub(crate) fn from_stdin(language: Option<String>) -> Result<Self, Failure> {
        let text = read(io::stdin().lock()).map_err(|reason| {
            Failure::from(format!(
                "cannot read the code from standard input: {reason}"
            ))
        })?;
        Ok(Self::from_text(text, language))
    }

    /// Reads a file. Its name, or else its first line, tells the language.
    pub(crate) fn from_file(path: &Path, language: Option<String>) -> Result<Self, Failure> {
        let cannot =
            |reason: String| Failure::from(format!("cannot read {}: {reason}", path.display()));
        let file = fs::File::open(path).map_err(|error| cannot(error.to_string()))?;
        let text = read(file).map_err(cannot)?;
        let language = match language.map(Language::from).or_else(|| guess(path, &text)) {
            Some(language) => language,
            None => {
                return Err(cannot(
                    "its language is unknown: pass it with `--language`, for example `--language \
                     python`"
                        .to_owned(),
                ));
            }
        };
        let name = path.file_name().map(PathBuf::from);
        let name = name.and_then(|name| name.into_os_string().into_string().ok());
        Ok(Self {
            language,
            text,
            file: name,
        })
    }

    /// The command that runs the code in this sandbox. A file gets its name in the sandbox, so that
    /// error messages contain it, and `__file__` exists.
    pub(crate) async fn command(self, sandbox: &Sandbox) -> Result<Command, Failure> {
        let interpreter = match self.language {
            Language::Python => Some("python3"),
            Language::Bash => Some("bash"),
            _ => None,
        };
        if let (Some(interpreter), Some(name)) = (interpreter, &self.file) {
            match sandbox.files().write(&**name, self.text.clone()).await {
                // A name that starts with a dash must not be an option.
                Ok(_) if name.starts_with('-') => {
                    return Ok(sandbox.program(interpreter).arg(format!("./{name}")));
                }
                Ok(_) => return Ok(sandbox.program(interpreter).arg(name)),
                // A service that speaks only v1 has no files.
                Err(error) if error.kind() == ErrorKind::Unsupported => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(sandbox.command(self.language, self.text))
    }
}

fn read(from: impl Read) -> Result<String, String> {
    let mut text = String::new();
    let read = from.take(MAX_BYTES + 1).read_to_string(&mut text);
    match read {
        Ok(_) if text.len() as u64 > MAX_BYTES => Err(format!(
            "it is larger than {MAX_BYTES} bytes; upload it with `--upload`, and run a small program \
             that uses it"
        )),
        Ok(_) => Ok(text),
        Err(error) if error.kind() == io::ErrorKind::InvalidData => {
            Err("it is not text in UTF-8".to_owned())
        }
        Err(error) => Err(error.to_string()),
    }
}

/// The language of a file by its name, or else by its first line.
fn guess(path: &Path, text: &str) -> Option<Language> {
    match path.extension().and_then(|it| it.to_str()) {
        Some("py") => return Some(Language::Python),
        Some("sh" | "bash") => return Some(Language::Bash),
        _ => {}
    }
    let line = text.lines().next()?.strip_prefix("#!")?;
    let mut words = line
        .split_whitespace()
        .map(|it| it.rsplit('/').next().unwrap_or(it));
    let program = words.find(|word| *word != "env" && !word.starts_with('-'))?;
    match program {
        "bash" | "sh" => Some(Language::Bash),
        python if python.starts_with("python") => Some(Language::Python),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guessed(name: &str, text: &str) -> Option<String> {
        guess(Path::new(name), text).map(|it| it.as_str().to_owned())
    }

    #[test]
    fn the_name_or_the_first_line_tells_the_language() {
        for (name, text, language) in [
            ("a.py", "", Some("python")),
            ("a.sh", "#!/usr/bin/python3", Some("bash")),
            ("a", "#!/usr/bin/env -S python3.11 -u\n", Some("python")),
            ("a", "#! /bin/sh\n", Some("bash")),
            ("a", "#!/usr/bin/ruby\n", None),
            ("a.rb", "echo", None),
            ("a", "", None),
        ] {
            assert_eq!(guessed(name, text).as_deref(), language, "{name} {text}");
        }
    }
}
