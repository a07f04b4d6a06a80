//! The fast path: reads output, statuses and `stdin_ack` in exactly the form that servers print.
//!
//! Nearly all messages of a busy link have this form. For a status, the general reader needs three
//! times as many instructions, which would be 15 % of an exec round trip. The general reader
//! handles all other frames. The fast path accepts no frame that the general reader refuses, and
//! returns the same result.

use std::borrow::Cow;

use super::{
    super::{
        ExecId, Status, StdStream, Version,
        data::{decode, into_bytes},
        plain::plain_length,
    },
    EndReason, ExecEnd, ExecUpdate, OutputView, Received, ServerMessage,
};

const STDOUT: &str = r#"{"event":"stdout","#;
const STDERR: &str = r#"{"event":"stderr","#;
const STATUS: &str = r#"{"event":"status_update","status":""#;
const STDIN_ACK: &str = r#"{"event":"stdin_ack","exec":""#;

/// Reads a piece of output. Returns `None` if the frame is another message, or needs the general
/// reader.
pub(super) fn output(frame: &[u8], version: Version) -> Option<OutputView<'_>> {
    let stream = if frame.starts_with(STDOUT.as_bytes()) {
        StdStream::Stdout
    } else if frame.starts_with(STDERR.as_bytes()) {
        StdStream::Stderr
    } else {
        return None;
    };
    let mut cursor = Cursor(std::str::from_utf8(frame).ok()?.get(STDOUT.len()..)?);
    let mut place = None;
    if version.is_v2() && cursor.literal(r#""exec":""#).is_some() {
        let exec = cursor.plain()?;
        place = Some((exec, cursor.number(r#","offset":"#)?));
        cursor.literal(",")?;
    }
    let data = if cursor.literal(r#""data":"#).is_some() {
        into_bytes(cursor.string()?)
    } else if place.is_some() {
        cursor.literal(r#""data_b64":""#)?;
        decode(cursor.plain()?)?
    } else {
        return None;
    };
    let output = OutputView {
        stream,
        place,
        data,
        eof: false,
    };
    (cursor.0 == "}").then_some(output)
}

/// Reads a frame that is no output. Returns `None` if it needs the general reader.
pub(super) fn read(frame: &[u8], version: Version) -> Option<Received<'_>> {
    let mut cursor = Cursor(std::str::from_utf8(frame).ok()?);
    let received = if cursor.literal(STATUS).is_some() {
        status(&mut cursor, version)?
    } else if version.is_v2() && cursor.literal(STDIN_ACK).is_some() {
        let exec = ExecId::new(cursor.plain()?);
        let offset = cursor.number(r#","offset":"#)?;
        Received::Message(ServerMessage::StdinAck { exec, offset })
    } else {
        return None;
    };
    (cursor.0 == "}").then_some(received)
}

fn status<'a>(cursor: &mut Cursor<'a>, version: Version) -> Option<Received<'a>> {
    let status = Status::from_wire(cursor.plain()?);
    if version.is_v2() && cursor.literal(r#","exec":""#).is_some() {
        let mut update = ExecUpdate::new(cursor.plain()?);
        update.stdin = cursor.number(r#","stdin":"#);
        update.window = cursor.number(r#","window":"#);
        let code = |code: Option<u64>| code.map(i32::try_from).transpose().ok();
        let mut end = ExecEnd {
            exit_code: code(cursor.number(r#","exit_code":"#))?,
            signal: code(cursor.number(r#","signal":"#))?,
            ..ExecEnd::lost()
        };
        if let Some(stdout) = cursor.number(r#","stdout":"#) {
            end.lengths = Some([stdout, cursor.number(r#","stderr":"#)?]);
        }
        // Servers send a reason with every end.
        if cursor.literal(r#","reason":""#).is_some() {
            end.reason = EndReason::from_wire(cursor.plain()?);
            update.end = Some(end);
        } else if end != ExecEnd::lost() {
            return None;
        }
        return Some(Received::ExecStatus(status, update));
    }
    Some(Received::Message(ServerMessage::status(status)))
}

/// The rest of a JSON text. After a read that returns `None`, the cursor has not moved, or the
/// caller refuses the frame.
struct Cursor<'a>(&'a str);

impl<'a> Cursor<'a> {
    /// Reads exactly this text.
    #[inline]
    fn literal(&mut self, expected: &str) -> Option<()> {
        self.0 = self.0.strip_prefix(expected)?;
        Some(())
    }

    /// Reads the rest of a string without escapes, and the quote that ends it.
    fn plain(&mut self) -> Option<&'a str> {
        let (text, rest) = self.0.split_at(plain_length(self.0.as_bytes()));
        self.0 = rest.strip_prefix('"')?;
        Some(text)
    }

    /// Reads a string. Borrowed if it has no escapes.
    fn string(&mut self) -> Option<Cow<'a, str>> {
        let bytes = self.0.as_bytes();
        let mut end = 1 + plain_length(bytes.strip_prefix(b"\"")?);
        let mut escaped = false;
        while *bytes.get(end)? == b'\\' {
            escaped = true;
            // The escaped character never ends the string.
            end += 2;
            end += plain_length(bytes.get(end..)?);
        }
        // Every other byte is not allowed in a string.
        let rest = self.0.get(end..)?.strip_prefix('"')?;
        let string = std::mem::replace(&mut self.0, rest).get(..=end)?;
        match escaped {
            false => string.get(1..end).map(Cow::Borrowed),
            true => serde_json::from_str(string).ok().map(Cow::Owned),
        }
    }

    /// Reads this text, and a whole number of at most 19 digits after it.
    #[inline]
    fn number(&mut self, key: &str) -> Option<u64> {
        let mut after = Cursor(self.0.strip_prefix(key)?);
        let number = after.digits()?;
        *self = after;
        Some(number)
    }

    fn digits(&mut self) -> Option<u64> {
        let text = self.0;
        let mut number = 0;
        let mut digits = 0;
        while let Some(digit @ b'0'..=b'9') = text.as_bytes().get(digits) {
            digits += 1;
            if digits > 19 {
                return None;
            }
            // 19 digits always fit.
            number = number * 10 + u64::from(digit - b'0');
        }
        if digits == 0 || (digits > 1 && text.starts_with('0')) {
            return None;
        }
        self.0 = text.get(digits..)?;
        Some(number)
    }
}
