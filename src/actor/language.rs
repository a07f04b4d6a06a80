//! [`Language`]: the language of an exec.

use std::{borrow::Cow, fmt};

/// The language of an exec. The server decides which names it supports.
///
/// ```
/// use actix_sandbox::Language;
///
/// assert_eq!(Language::Python.as_str(), "python");
/// assert_eq!(Language::from("ruby").as_str(), "ruby");
/// assert_eq!(Language::from("bash"), Language::Bash);
/// // The client resolves aliases:
/// assert_eq!(Language::from("python3"), Language::Python);
/// assert_eq!(Language::from("py"), Language::Python);
/// assert_eq!(Language::from("sh"), Language::Bash);
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Language {
    /// `python`
    Python,
    /// `bash`
    Bash,
    /// Any other name.
    Other(Cow<'static, str>),
}

impl Language {
    /// The name on the wire.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Python => "python",
            Self::Bash => "bash",
            Self::Other(name) => name,
        }
    }
}

impl<T: Into<Cow<'static, str>>> From<T> for Language {
    fn from(name: T) -> Self {
        let name = name.into();
        match &*name {
            "python" | "python3" | "py" => Self::Python,
            "bash" | "sh" => Self::Bash,
            _ => Self::Other(name),
        }
    }
}

impl fmt::Display for Language {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
