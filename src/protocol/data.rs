//! Bytes of a stream on the wire: `data` if they are UTF-8, otherwise `data_b64` (v2).

use std::{borrow::Cow, io::Write};

use base64::{Engine, prelude::BASE64_STANDARD};

use super::{
    ExecId,
    json::{Raw, into_text, print_plain, print_text},
};

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

/// A piece of a stream as JSON. This is the most frequent message, and the longest, so it has no
/// derived form.
pub(super) fn print_piece(
    event: &str,
    place: Option<(&ExecId, u64)>,
    data: &[u8],
    eof: bool,
) -> String {
    let mut json = Vec::with_capacity(data.len() + data.len() / 16 + 128);
    json.extend_from_slice(br#"{"event":"#);
    print_plain(&mut json, event);
    if let Some((exec, offset)) = place {
        json.extend_from_slice(br#","exec":"#);
        print_text(&mut json, exec.as_str());
        // Writing to memory can't fail.
        let _ = write!(json, r#","offset":{offset}"#);
    }
    match std::str::from_utf8(data) {
        Ok(text) => {
            json.extend_from_slice(br#","data":"#);
            print_text(&mut json, text);
        }
        Err(_) => {
            json.extend_from_slice(br#","data_b64":"#);
            print_plain(&mut json, &BASE64_STANDARD.encode(data));
        }
    }
    if eof {
        json.extend_from_slice(br#","eof":true"#);
    }
    json.push(b'}');
    into_text(json)
}
