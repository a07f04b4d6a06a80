//! Reading a message in one pass, without a tree: known keys are picked out, unknown ones are kept.

use std::{borrow::Cow, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor},
};
use serde_json::{Map, Value};

use super::{excerpt, names};

/// Keys of a message that this version does not know, with their values. Nothing is allocated for none.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Extra(Option<Box<Map<String, Value>>>);

impl Extra {
    /// The value of an unknown key.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.0.as_ref()?.get(key)
    }

    /// Whether there is no unknown key.
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// The unknown keys and their values.
    pub fn iter(&self) -> impl Iterator<Item = (&String, &Value)> {
        self.0.iter().flat_map(|map| map.iter())
    }

    fn insert(&mut self, key: String, value: Value) {
        self.0.get_or_insert_default().insert(key, value);
    }
}

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
    /// The frame is not JSON.
    #[error("the frame is not JSON ({problem}): {excerpt}")]
    NotJson {
        /// What the JSON parser found.
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
    /// A key that this kind of message must have is missing, or does not hold text.
    #[error("the {event} message has no text under the key `{key}`: {excerpt}")]
    MissingText {
        /// The kind of message.
        event: &'static str,
        /// The key.
        key: &'static str,
        /// The beginning of the frame, at most 200 characters.
        excerpt: String,
    },
}

/// The value of a key that should hold text.
#[derive(Debug)]
pub(super) enum Text<'a> {
    /// It does. Borrowed from the frame where nothing needed unescaping.
    Str(Cow<'a, str>),
    /// It holds something else.
    Other(Value),
}

impl<'a> Text<'a> {
    pub(super) fn into_str(self) -> Option<Cow<'a, str>> {
        match self {
            Self::Str(text) => Some(text),
            Self::Other(_) => None,
        }
    }

    fn into_value(self) -> Value {
        match self {
            Self::Str(text) => Value::String(text.into_owned()),
            Self::Other(value) => value,
        }
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TextVisitor;

        impl<'de> Visitor<'de> for TextVisitor {
            type Value = Text<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON value")
            }
            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
                Ok(Text::Str(Cow::Borrowed(text)))
            }
            fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
                Ok(Text::Str(Cow::Owned(text.to_owned())))
            }
            fn visit_string<E>(self, text: String) -> Result<Self::Value, E> {
                Ok(Text::Str(Cow::Owned(text)))
            }
            fn visit_bool<E>(self, value: bool) -> Result<Self::Value, E> {
                Ok(Text::Other(value.into()))
            }
            fn visit_i64<E>(self, value: i64) -> Result<Self::Value, E> {
                Ok(Text::Other(value.into()))
            }
            fn visit_u64<E>(self, value: u64) -> Result<Self::Value, E> {
                Ok(Text::Other(value.into()))
            }
            fn visit_f64<E>(self, value: f64) -> Result<Self::Value, E> {
                Ok(Text::Other(value.into()))
            }
            fn visit_unit<E>(self) -> Result<Self::Value, E> {
                Ok(Text::Other(Value::Null))
            }
            fn visit_seq<A: serde::de::SeqAccess<'de>>(
                self,
                seq: A,
            ) -> Result<Self::Value, A::Error> {
                let list = Vec::deserialize(serde::de::value::SeqAccessDeserializer::new(seq))?;
                Ok(Text::Other(Value::Array(list)))
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
                let map = Map::deserialize(serde::de::value::MapAccessDeserializer::new(map))?;
                Ok(Text::Other(Value::Object(map)))
            }
        }
        deserializer.deserialize_any(TextVisitor)
    }
}

macro_rules! raw_message {
    ($($field:ident: $key:expr;)*) => {
        /// Any message of the protocol, in pieces: one field for each key in the table of names.
        #[derive(Default)]
        pub(super) struct RawMessage<'a> {
            $(pub(super) $field: Option<Text<'a>>,)*
            pub(super) extra: Extra,
        }

        impl<'a> RawMessage<'a> {
            fn set(&mut self, key: Cow<'_, str>, value: Text<'a>) {
                match &*key {
                    $(k if k == $key => self.$field = Some(value),)*
                    _ => self.extra.insert(key.into_owned(), value.into_value()),
                }
            }

            /// Moves the keys that this kind of message does not use to the extra ones.
            pub(super) fn into_extra(mut self) -> Extra {
                $(if let Some(value) = self.$field.take() {
                    self.extra.insert($key.to_owned(), value.into_value());
                })*
                self.extra
            }
        }
    };
}
raw_message! {
    event: names::KEY_EVENT;
    status: names::KEY_STATUS;
    message: names::KEY_MESSAGE;
    sandbox_id: names::KEY_SANDBOX_ID;
    sandbox_token: names::KEY_SANDBOX_TOKEN;
    data: names::KEY_DATA;
    action: names::KEY_ACTION;
    language: names::KEY_LANGUAGE;
    code: names::KEY_CODE;
    name: names::KEY_NAME;
}

impl<'a> RawMessage<'a> {
    /// Reads a frame that must hold one JSON object. Of a repeated key the last value counts.
    pub(super) fn parse(frame: &'a [u8]) -> Result<Self, ParseError> {
        let text = as_utf8(frame)?;
        serde_json::from_str(text).map_err(|error| {
            // A frame of another JSON type is told apart from one that is no JSON.
            if serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok() {
                ParseError::NotAnObject {
                    excerpt: excerpt(frame),
                }
            } else {
                ParseError::NotJson {
                    problem: error.to_string(),
                    excerpt: excerpt(frame),
                }
            }
        })
    }
}

/// The text of a frame, or the error for a frame that is not UTF-8.
pub(super) fn as_utf8(frame: &[u8]) -> Result<&str, ParseError> {
    std::str::from_utf8(frame).map_err(|_| ParseError::NotUtf8 {
        excerpt: excerpt(frame),
    })
}

impl<'de: 'a, 'a> Deserialize<'de> for RawMessage<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct MessageVisitor;

        impl<'de> Visitor<'de> for MessageVisitor {
            type Value = RawMessage<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut message = RawMessage::default();
                while let Some(key) = map.next_key::<Text<'de>>()? {
                    let value = map.next_value()?;
                    // A key of a JSON object is always text.
                    message.set(key.into_str().unwrap_or_default(), value);
                }
                Ok(message)
            }
        }
        deserializer.deserialize_map(MessageVisitor)
    }
}
