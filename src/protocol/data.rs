//! Bytes of a stream on the wire: `data` if they are UTF-8, otherwise `data_b64` (v2).

use std::borrow::Cow;

use base64::{Engine, prelude::BASE64_STANDARD};

use super::json::{Object, Raw};

/// Reads the bytes of a v2 message. Without `data` and `data_b64`, there are none. `None` if both
/// are present, or if the bytes can't be decoded.
pub(super) fn read_data<'a>(
    data: Option<Raw<'a>>,
    data_b64: Option<Raw<'a>>,
) -> Option<Cow<'a, [u8]>> {
    match (data, data_b64) {
        (Some(data), None) => Some(into_bytes(data.text()?)),
        (None, Some(base64)) => decode(&base64.text()?),
        (None, None) => Some(Cow::Borrowed(&[])),
        (Some(_), Some(_)) => None,
    }
}

pub(super) fn decode(base64: &str) -> Option<Cow<'static, [u8]>> {
    BASE64_STANDARD.decode(base64).ok().map(Cow::Owned)
}

pub(super) fn into_bytes(text: Cow<'_, str>) -> Cow<'_, [u8]> {
    match text {
        Cow::Borrowed(text) => Cow::Borrowed(text.as_bytes()),
        Cow::Owned(text) => Cow::Owned(text.into_bytes()),
    }
}

/// A piece of a stream as JSON. This is the most frequent message, and the longest.
pub(super) fn print_piece(
    event: &str,
    place: Option<(&str, u64)>,
    data: &[u8],
    eof: bool,
) -> String {
    let Ok(text) = std::str::from_utf8(data) else {
        return print_base64_piece(event, place, data, eof);
    };
    let room = data.len() + data.len() / 16 + 128;
    let json = begin(event, place, room).text("data", text);
    json.optional("eof", eof.then_some(true)).end()
}

/// Like [`print_piece`], as base64 in any case.
pub(super) fn print_base64_piece(
    event: &str,
    place: Option<(&str, u64)>,
    data: &[u8],
    eof: bool,
) -> String {
    let json = begin(event, place, data.len() / 3 * 4 + 128);
    let json = json.plain("data_b64", &BASE64_STANDARD.encode(data));
    json.optional("eof", eof.then_some(true)).end()
}

fn begin(event: &str, place: Option<(&str, u64)>, room: usize) -> Object {
    let json = Object::with_capacity(room).plain("event", event);
    match place {
        Some((exec, offset)) => json.text("exec", exec).value("offset", offset),
        None => json,
    }
}
