//! Reading a message in one pass, without a tree: known keys are picked out, unknown ones are kept.

use std::{borrow::Cow, cell::Cell, fmt, marker::PhantomData};

use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{DeserializeSeed, IgnoredAny, MapAccess, SeqAccess, Visitor},
};
use serde_json::{Map, Value};

use super::{excerpt, names, plain::plain_length};

/// Most values that are carried of one message, nested ones counted. A tree takes up to a hundred
/// times the memory of its text, so a peer must not decide how large it grows.
const MAX_CARRIED: usize = 1_024;

/// Keys of a message that this version does not know, with their values. Nothing is allocated for none.
///
/// At most 1024 values of one message are carried, nested ones counted; the rest is left out.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Extra(Option<Box<Map<String, Value>>>);

impl Extra {
    /// The value of an unknown key.
    #[cfg(test)]
    pub(super) fn get(&self, key: &str) -> Option<&Value> {
        self.0.as_ref()?.get(key)
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

    /// A number that is none of bytes is none at all.
    pub(super) fn as_u64(&self) -> Option<u64> {
        self.other()?.as_u64()
    }

    pub(super) fn other(&self) -> Option<&Value> {
        match self {
            Self::Str(_) => None,
            Self::Other(value) => Some(value),
        }
    }

    fn into_value(self) -> Value {
        match self {
            Self::Str(text) => Value::String(text.into_owned()),
            Self::Other(value) => value,
        }
    }
}

/// How many more values of a message are carried.
struct Budget {
    left: Cell<usize>,
    /// Something was left out.
    exceeded: Cell<bool>,
}

impl Budget {
    fn new(values: usize) -> Self {
        Self {
            left: Cell::new(values),
            exceeded: Cell::new(false),
        }
    }

    fn take(&self) -> bool {
        let left = self.left.get();
        self.left.set(left.saturating_sub(1));
        self.exceeded.set(self.exceeded.get() || left == 0);
        left > 0
    }
}

/// Reads the value of a key, within a budget for what is nested in it.
struct TextSeed<'b>(&'b Budget);

impl<'de> DeserializeSeed<'de> for TextSeed<'_> {
    type Value = Text<'de>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Text<'de>, D::Error> {
        struct TextVisitor<'b>(&'b Budget);

        impl<'de> Visitor<'de> for TextVisitor<'_> {
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
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
                let mut list = Vec::new();
                while self.0.take() {
                    match seq.next_element_seed(TextSeed(self.0))? {
                        Some(value) => list.push(value.into_value()),
                        None => return Ok(Text::Other(Value::Array(list))),
                    }
                }
                while seq.next_element::<IgnoredAny>()?.is_some() {}
                Ok(Text::Other(Value::Array(list)))
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut object = Map::new();
                while self.0.take() {
                    let Some(key) = map.next_key::<String>()? else {
                        return Ok(Text::Other(Value::Object(object)));
                    };
                    let value = map.next_value_seed(TextSeed(self.0))?;
                    object.insert(key, value.into_value());
                }
                while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                Ok(Text::Other(Value::Object(object)))
            }
        }
        deserializer.deserialize_any(TextVisitor(self.0))
    }
}

macro_rules! raw_message {
    ($($field:ident: $key:expr;)*) => {
        /// Any message of the protocol, in pieces: one field for each key in the table of names.
        #[derive(Default)]
        pub(super) struct RawMessage<'a> {
            $(pub(super) $field: Option<Text<'a>>,)*
            pub(super) extra: Extra,
            /// There was more than is carried.
            pub(super) truncated: bool,
        }

        impl<'a> RawMessage<'a> {
            fn set(&mut self, key: Cow<'_, str>, value: Text<'a>, budget: &Budget) {
                match &*key {
                    $(k if k == $key => self.$field = Some(value),)*
                    _ if budget.take() => self.extra.insert(key.into_owned(), value.into_value()),
                    _ => {}
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
    exec: names::KEY_EXEC;
    offset: names::KEY_OFFSET;
    data_b64: names::KEY_DATA_B64;
    args: names::KEY_ARGS;
    env: names::KEY_ENV;
    cwd: names::KEY_CWD;
    timeout_ms: names::KEY_TIMEOUT_MS;
    output_grace_ms: names::KEY_OUTPUT_GRACE_MS;
    window: names::KEY_WINDOW;
    stdout: names::KEY_STDOUT;
    stderr: names::KEY_STDERR;
    stdin: names::KEY_STDIN;
    eof: names::KEY_EOF;
    done: names::KEY_DONE;
    exit_code: names::KEY_EXIT_CODE;
    signal: names::KEY_SIGNAL;
    output_cut: names::KEY_OUTPUT_CUT;
    reason: names::KEY_REASON;
}

impl<'a> RawMessage<'a> {
    /// Reads a frame that must hold one JSON object. Of a repeated key the last value counts.
    pub(super) fn parse(frame: &'a [u8]) -> Result<Self, ParseError> {
        parse_object(frame)
    }
}

/// A value of a message that is written.
pub(super) enum Json<'a> {
    Text(&'a str),
    Number(u64),
    Signed(i64),
    Flag(bool),
    List(&'a [String]),
    Object(&'a [(String, String)]),
}

impl Serialize for Json<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Text(text) => serializer.serialize_str(text),
            Self::Number(number) => serializer.serialize_u64(*number),
            Self::Signed(number) => serializer.serialize_i64(*number),
            Self::Flag(flag) => serializer.serialize_bool(*flag),
            Self::List(list) => list.serialize(serializer),
            Self::Object(pairs) => {
                serializer.collect_map(pairs.iter().map(|(key, value)| (key, value)))
            }
        }
    }
}

/// One JSON object, its keys in the order given; a key without a value is left out.
pub(super) fn write<'a>(entries: impl IntoIterator<Item = (&'a str, Option<Json<'a>>)>) -> String {
    let mut out = Vec::with_capacity(256);
    out.push(b'{');
    for (key, value) in entries {
        let Some(value) = value else { continue };
        if out.len() > 1 {
            out.push(b',');
        }
        // Nothing in the table of names needs an escape.
        write_plain(&mut out, key);
        out.push(b':');
        match value {
            Json::Text(text) => write_text(&mut out, text),
            other => write_any(&mut out, &other),
        }
    }
    out.push(b'}');
    // Only UTF-8 was written.
    String::from_utf8(out).unwrap_or_default()
}

fn write_text(out: &mut Vec<u8>, text: &str) {
    match plain_length(text.as_bytes()) < text.len() {
        true => write_any(out, text),
        false => write_plain(out, text),
    }
}

fn write_plain(out: &mut Vec<u8>, text: &str) {
    out.reserve(text.len() + 2);
    out.push(b'"');
    out.extend_from_slice(text.as_bytes());
    out.push(b'"');
}

fn write_any(out: &mut Vec<u8>, value: &(impl Serialize + ?Sized)) {
    let written = serde_json::to_writer(out, value);
    debug_assert!(written.is_ok(), "JSON to memory cannot fail");
}

/// Reads a frame that must hold one JSON object.
fn parse_object<'a, T: Deserialize<'a>>(frame: &'a [u8]) -> Result<T, ParseError> {
    let text = as_utf8(frame)?;
    serde_json::from_str(text).map_err(|error| {
        // A frame of another JSON type is told apart from one that is no JSON.
        if !text.trim_start().starts_with('{') && serde_json::from_str::<IgnoredAny>(text).is_ok() {
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

/// The keys of an object that are [wanted](Wanted::KEYS), with their values; others cost nothing.
pub(super) struct Picked<W> {
    pub(super) map: Map<String, Value>,
    wanted: PhantomData<W>,
}

/// Which keys of an object to read.
pub(super) trait Wanted {
    const KEYS: &'static [&'static str];
}

impl<W: Wanted> Picked<W> {
    /// Reads a frame that must hold one JSON object. Of a repeated key the last value counts.
    pub(super) fn parse(frame: &[u8]) -> Result<Self, ParseError> {
        parse_object(frame)
    }
}

impl<'de, W: Wanted> Deserialize<'de> for Picked<W> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct PickedVisitor<W>(PhantomData<W>);

        impl<'de, W: Wanted> Visitor<'de> for PickedVisitor<W> {
            type Value = Picked<W>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut picked = Map::new();
                let budget = Budget::new(MAX_CARRIED);
                while let Some(key) = map.next_key_seed(TextSeed(&budget))? {
                    match key.into_str() {
                        Some(key) if W::KEYS.contains(&&*key) => {
                            let value = map.next_value_seed(TextSeed(&budget))?;
                            picked.insert(key.into_owned(), value.into_value());
                        }
                        _ => drop(map.next_value::<IgnoredAny>()?),
                    }
                }
                Ok(Picked {
                    map: picked,
                    wanted: PhantomData,
                })
            }
        }
        deserializer.deserialize_map(PickedVisitor(PhantomData))
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
                let budget = Budget::new(MAX_CARRIED);
                // A key of a JSON object is always text.
                while let Some(key) = map.next_key_seed(TextSeed(&budget))? {
                    let value = map.next_value_seed(TextSeed(&budget))?;
                    message.set(key.into_str().unwrap_or_default(), value, &budget);
                }
                message.truncated = budget.exceeded.get();
                Ok(message)
            }
        }
        deserializer.deserialize_map(MessageVisitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_carried_is_bounded_and_what_is_known_is_read_nonetheless() {
        let many = "{\"\":0},".repeat(10_000);
        let frame = format!(r#"{{"x":[{many}0],"y":1,"code":"c","language":[{many}0]}}"#);
        let message = RawMessage::parse(frame.as_bytes()).unwrap();
        assert!(matches!(&message.code, Some(Text::Str(code)) if code == "c"));
        assert!(message.extra.get("y").is_none());
        let extra = message.into_extra();
        let carried: usize = extra.iter().map(|(_, value)| value.to_string().len()).sum();
        assert!(carried < 10 * MAX_CARRIED, "{carried}");

        let keys: String = (0..10_000).map(|i| format!("\"k{i}\":0,")).collect();
        let message = format!("{{{keys}\"code\":\"c\"}}");
        let message = RawMessage::parse(message.as_bytes()).unwrap();
        assert!(message.code.is_some());
        assert_eq!(message.extra.iter().count(), MAX_CARRIED);
    }

    #[test]
    fn an_object_with_a_number_out_of_range_is_no_json_and_not_no_object() {
        let error = RawMessage::parse(b" {\"x\":1e400}").err();
        assert!(
            matches!(error, Some(ParseError::NotJson { .. })),
            "{error:?}"
        );
    }
}
