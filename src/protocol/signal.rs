//! [`Signal`]: a signal for a process.

use std::{fmt, str::FromStr};

/// A signal for a process in a sandbox, by its number on Linux.
///
/// ```
/// use actix_sandbox::Signal;
///
/// assert_eq!(Signal::INT.number(), 2);
/// assert_eq!(Signal::INT.to_string(), "SIGINT");
/// assert_eq!(Signal::from_number(34).unwrap().to_string(), "signal 34");
/// assert_eq!("TERM".parse(), Ok(Signal::TERM));
/// assert_eq!(Signal::from_number(0), None);
/// assert_eq!(Signal::from_number(99), None);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Signal(i32);

/// Defines the signals that have a constant, and their names.
macro_rules! signals {
    ($($name:ident $number:literal $doc:literal)*) => {
        impl Signal {
            $(
                #[doc = $doc]
                pub const $name: Self = Self($number);
            )*

            fn name(self) -> Option<&'static str> {
                match self.0 {
                    $($number => Some(concat!("SIG", stringify!($name))),)*
                    _ => None,
                }
            }

            /// The signal with this name, which lacks the prefix `SIG`.
            fn named(name: &str) -> Option<Self> {
                match name {
                    $(stringify!($name) => Some(Self::$name),)*
                    _ => None,
                }
            }
        }
    };
}

signals! {
    HUP 1 "The terminal was closed. Many daemons reload their configuration."
    INT 2 "Interrupt, as Ctrl-C in a terminal."
    QUIT 3 "Quit with a core dump, as Ctrl-\\ in a terminal."
    KILL 9 "Ends the process at once and can't be caught. A kill also ends its children."
    USR1 10 "The program decides what it means."
    USR2 12 "The program decides what it means."
    TERM 15 "Requests termination."
    CONT 18 "Continue after a stop."
    STOP 19 "Stop. A process can't catch it."
    TSTP 20 "Stop, as Ctrl-Z in a terminal."
    WINCH 28 "The size of the terminal has changed."
}

impl Signal {
    /// The greatest number of a signal.
    pub const MAX: i32 = 64;

    /// Returns `None` if the number is not from 1 to [`MAX`](Self::MAX).
    pub const fn from_number(number: i32) -> Option<Self> {
        match number {
            1..=Self::MAX => Some(Self(number)),
            _ => None,
        }
    }

    /// The number on Linux, from 1 to [`MAX`](Self::MAX).
    pub const fn number(self) -> i32 {
        self.0
    }
}

impl FromStr for Signal {
    type Err = String;

    /// Parses a number from 1 to [`MAX`](Self::MAX), or the name of a constant with or without the
    /// prefix `SIG`. Ignores upper and lower case.
    fn from_str(text: &str) -> Result<Self, String> {
        let name = text.to_ascii_uppercase();
        let named = Self::named(name.strip_prefix("SIG").unwrap_or(&name));
        let signal = named.or_else(|| text.parse().ok().and_then(Self::from_number));
        signal.ok_or_else(|| {
            let text = text.escape_debug();
            format!("`{text}` is not a signal; expected for example TERM, SIGTERM or 15")
        })
    }
}

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "signal {}", self.0),
        }
    }
}
