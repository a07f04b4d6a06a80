//! Parses and prints JSON, and defines [`ParseError`].
//!
//! A message is read in two steps. First, a derived struct holds the values of the known keys as
//! [`Raw`] text, borrowed from the frame. When the kind of message is known, its values are parsed.
//! So large, deeply nested or unknown values of a peer cause no allocation.

use std::{borrow::Cow, str::FromStr};

use serde::{Deserialize, Serialize, Serializer, de::IgnoredAny};
use serde_json::value::RawValue;

use super::{EndReason, ExecId, SandboxId, Status, excerpt, plain::plain_length};

/// Why a frame is not a message.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ParseError {
    /// The frame is not UTF-8, which a text frame must be (RFC 6455, 8.1).
    #[error("the frame is not UTF-8 text: {excerpt}")]
    NotUtf8 {
        /// The beginning of the frame, at most 200 characters.
        excerpt: String,
    },
    /// The frame is not JSON, or contains a known key twice.
    #[error("the frame is not JSON ({problem}): {excerpt}")]
    NotJson {
        /// The message of the JSON parser.
        problem: String,
        /// The beginning of the frame, at most 200 characters.
        excerpt: String,
    },
    /// The frame is JSON, but not an object.
    #[error("the frame is not a JSON object: {excerpt}")]
    NotAnObject {
        /// The beginning of the frame, at most 200 characters.
        excerpt: String,
    },
    /// A key that this kind of message requires is missing, or its value has the wrong type.
    #[error("the {event} message has no {expected} under the key `{key}`: {excerpt}")]
    MissingValue {
        /// The kind of message.
        event: &'static str,
        /// The key.
        key: &'static str,
        /// The type of the value.
        expected: &'static str,
        /// The beginning of the frame, at most 200 characters.
        excerpt: String,
    },
}

/// Reads a frame that must contain one JSON object. Ignores keys that `T` doesn't have. Fails if a
/// key of `T` occurs twice.
pub(super) fn parse_object<'a, T: Deserialize<'a>>(frame: &'a [u8]) -> Result<T, ParseError> {
    let excerpt = || excerpt(frame);
    let text =
        std::str::from_utf8(frame).map_err(|_| ParseError::NotUtf8 { excerpt: excerpt() })?;
    // A derived struct can be read from a JSON array, too.
    let problem = if text.trim_start().starts_with('{') {
        match serde_json::from_str(text) {
            Ok(object) => return Ok(object),
            Err(error) => error,
        }
    } else {
        match serde_json::from_str::<IgnoredAny>(text) {
            Ok(_) => return Err(ParseError::NotAnObject { excerpt: excerpt() }),
            Err(error) => error,
        }
    };
    Err(not_json(frame, problem))
}

/// The error for a frame that is not JSON.
pub(super) fn not_json(frame: &[u8], problem: impl ToString) -> ParseError {
    ParseError::NotJson {
        problem: problem.to_string(),
        excerpt: excerpt(frame),
    }
}

/// The JSON text of one value. An absent key and `null` are `None` in the struct.
#[derive(Clone, Copy, Deserialize)]
#[serde(transparent)]
pub(super) struct Raw<'a>(#[serde(borrow)] &'a RawValue);

impl<'a> Raw<'a> {
    pub(super) fn json(self) -> &'a str {
        self.0.get()
    }

    /// The value, if it has this type.
    pub(super) fn read<T: Deserialize<'a>>(self) -> Option<T> {
        serde_json::from_str(self.json()).ok()
    }

    /// The value, if it is text. Borrowed if it has no escapes.
    pub(super) fn text(self) -> Option<Cow<'a, str>> {
        let text = self.json().strip_prefix('"')?.strip_suffix('"')?;
        match plain_length(text.as_bytes()) == text.len() {
            true => Some(Cow::Borrowed(text)),
            false => self.read().map(Cow::Owned),
        }
    }

    /// The value, if it is a whole number in the range of the type.
    pub(super) fn number<T: FromStr>(self) -> Option<T> {
        // The JSON grammar was checked. `FromStr` refuses strings and fractions.
        self.json().parse().ok()
    }

    /// The value, if it is true or false.
    pub(super) fn flag(self) -> Option<bool> {
        self.json().parse().ok()
    }
}

/// Implements `Serialize` for types that are text on the wire.
macro_rules! print_as_text {
    ($($text:ty)*) => {$(
        impl Serialize for $text {
            fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                to.serialize_str(self.as_str())
            }
        }
    )*};
}
print_as_text!(EndReason ExecId SandboxId Status);

/// A message as JSON.
pub(super) fn print(message: &impl Serialize) -> String {
    let mut json = Vec::with_capacity(256);
    let printed = serde_json::to_writer(&mut json, message);
    debug_assert!(printed.is_ok(), "printing to memory can't fail");
    into_text(json)
}

/// A JSON object that is being printed. Its keys have nothing to escape.
///
/// A derived `Serialize` needs three times as many instructions, which would be 5 % of an exec
/// round trip. So frequent messages are printed with this type.
pub(super) struct Object(Vec<u8>);

impl Object {
    pub(super) fn with_capacity(bytes: usize) -> Self {
        Self(Vec::with_capacity(bytes))
    }

    fn key(&mut self, key: &str) {
        let before = if self.0.is_empty() { b"{\"" } else { b",\"" };
        self.0.extend_from_slice(before);
        self.0.extend_from_slice(key.as_bytes());
        self.0.extend_from_slice(b"\":");
    }

    /// Adds a value by its `Serialize`.
    pub(super) fn value(mut self, key: &str, value: impl Serialize) -> Self {
        self.key(key);
        let printed = serde_json::to_writer(&mut self.0, &value);
        debug_assert!(printed.is_ok(), "printing to memory can't fail");
        self
    }

    /// Adds a value by its `Serialize`, if there is one.
    pub(super) fn optional(self, key: &str, value: Option<impl Serialize>) -> Self {
        match value {
            Some(value) => self.value(key, value),
            None => self,
        }
    }

    /// Adds a text. Fast if there is nothing to escape.
    pub(super) fn text(self, key: &str, text: &str) -> Self {
        match plain_length(text.as_bytes()) < text.len() {
            true => self.value(key, text),
            false => self.plain(key, text),
        }
    }

    /// Adds a text without characters to escape.
    pub(super) fn plain(mut self, key: &str, text: &str) -> Self {
        self.key(key);
        self.0.reserve(text.len() + 2);
        self.0.push(b'"');
        self.0.extend_from_slice(text.as_bytes());
        self.0.push(b'"');
        self
    }

    /// The object as text.
    pub(super) fn end(mut self) -> String {
        if self.0.is_empty() {
            self.0.push(b'{');
        }
        self.0.push(b'}');
        into_text(self.0)
    }
}

/// Converts printed JSON, which is always UTF-8.
fn into_text(json: Vec<u8>) -> String {
    String::from_utf8(json).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Deserialize)]
    #[serde(bound(deserialize = "'de: 'a"))]
    struct Keys<'a> {
        code: Option<Raw<'a>>,
        other: Option<Raw<'a>>,
    }

    #[test]
    fn unknown_and_nested_values_are_skipped() {
        let deep = "[".repeat(100_000) + &"]".repeat(100_000);
        let frame = format!(r#"{{"x":{deep},"code":"c\n","y":1e400,"other":{deep}}}"#);
        let keys: Keys<'_> = parse_object(frame.as_bytes()).unwrap();
        assert_eq!(keys.code.unwrap().text().unwrap(), "c\n");
        let other = keys.other.unwrap();
        assert_eq!(other.json(), deep);
        assert_eq!(
            (other.text(), other.number::<u64>(), other.flag()),
            (None, None, None)
        );
    }

    #[test]
    fn a_known_key_that_occurs_twice_is_an_error() {
        let error = parse_object::<Keys<'_>>(br#"{"code":"a","code":"b"}"#).err();
        assert!(
            error
                .unwrap()
                .to_string()
                .contains("duplicate field `code`")
        );
        assert!(parse_object::<Keys<'_>>(br#"{"x":"a","x":"b"}"#).is_ok());
    }

    #[test]
    fn only_numbers_in_range_are_numbers() {
        let number = |text: &str| {
            serde_json::from_str::<Raw<'_>>(text)
                .unwrap()
                .number::<u64>()
        };
        assert_eq!(number("18446744073709551615"), Some(u64::MAX));
        for text in [
            "18446744073709551616",
            "-1",
            "1.0",
            "1e3",
            "\"1\"",
            "true",
            "[1]",
        ] {
            assert_eq!(number(text), None, "{text}");
        }
    }
}
