//! [`Received`]: a server's message, where output is borrowed from its frame.
//!
//! Nearly all messages have a few known keys with plain values. They are read here in one pass, without a list of
//! everything that a message may have. Whatever else a frame holds, and whatever is wrong with it, is left to the general
//! reader (`json.rs`): this one accepts nothing that the general one does not, and reads the same from it.

use std::borrow::Cow;

use bytes::Bytes;

use super::{
    EndReason, ExecEnd, ExecId, ExecUpdate, Extra, OutputPiece, OutputPlace, ServerMessage, Status,
    StatusUpdate, StdStream, Version, names, plain::plain_length,
};

/// A message of a server.
#[derive(Debug)]
pub enum Received<'a> {
    /// A piece of output.
    Output(OutputView<'a>),
    /// Anything else, and output in an unusual form.
    Message(ServerMessage),
}

/// A piece of output, not yet taken out of its frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutputView<'a> {
    /// Which stream.
    pub stream: StdStream,
    /// Whose output it is, and how many bytes of the stream are before it (v2).
    pub place: Option<(&'a str, u64)>,
    /// The bytes; borrowed from the frame where nothing needed unescaping.
    pub data: Cow<'a, [u8]>,
}

impl OutputView<'_> {
    /// The data for itself: a slice of the frame that it was read from, or what was unescaped.
    pub fn into_data(self, frame: &Bytes) -> Bytes {
        match self.data {
            Cow::Borrowed(data) => frame.slice_ref(data),
            Cow::Owned(data) => data.into(),
        }
    }

    /// The piece for itself.
    pub fn into_piece(self, frame: &Bytes) -> OutputPiece {
        let place = self.place.map(|(exec, offset)| OutputPlace {
            exec: ExecId::new(exec),
            offset,
        });
        OutputPiece {
            stream: self.stream,
            place,
            data: self.into_data(frame),
            extra: Extra::default(),
        }
    }
}

/// Reads a frame in one of the usual forms. `None`: the general reader is to look at it.
pub(super) fn read(frame: &[u8], version: Version) -> Option<Received<'_>> {
    let text = std::str::from_utf8(frame).ok()?;
    if let Some(output) = usual_output(text) {
        // In v1 nothing of a message names an exec.
        let fits = version == Version::V2 || output.place.is_none();
        return fits.then_some(Received::Output(output));
    }
    let fields = usual_status(text).or_else(|| Fields::read(text))?;
    if version == Version::V1 && fields.exec.is_some() {
        return None;
    }
    match fields.event? {
        names::EVENT_STDOUT => fields.output(StdStream::Stdout),
        names::EVENT_STDERR => fields.output(StdStream::Stderr),
        names::EVENT_STATUS_UPDATE => fields.status().map(Received::Message),
        names::EVENT_STDIN_ACK => fields.stdin_ack().map(Received::Message),
        _ => None,
    }
}

/// Reads output as this crate's server prints it, to the byte.
fn usual_output(text: &str) -> Option<OutputView<'_>> {
    let mut cursor = Cursor { text, at: 0 };
    cursor.literal(r#"{"event":"std"#)?;
    let stream = match cursor.literal(r#"out","#) {
        Some(()) => StdStream::Stdout,
        None => cursor.literal(r#"err","#).map(|()| StdStream::Stderr)?,
    };
    let place = match cursor.literal(r#""exec":"#) {
        Some(()) => {
            let exec = cursor.plain_string()?;
            cursor.literal(r#","offset":"#)?;
            let offset = cursor.number()?;
            cursor.literal(",")?;
            Some((exec, offset))
        }
        None => None,
    };
    cursor.literal(r#""data":"#)?;
    let data = cursor.string()?;
    cursor.literal("}")?;
    cursor.is_at_end().then(|| OutputView {
        stream,
        place,
        data: bytes(data),
    })
}

/// The same of a status, whose keys have an order as well.
fn usual_status(text: &str) -> Option<Fields<'_>> {
    let mut cursor = Cursor { text, at: 0 };
    cursor.literal(r#"{"event":"status_update","status":"#)?;
    let mut fields = Fields {
        event: Some(names::EVENT_STATUS_UPDATE),
        status: Some(cursor.plain_string()?),
        ..Fields::default()
    };
    if cursor.literal(r#","exec":"#).is_some() {
        fields.exec = Some(cursor.plain_string()?);
        for (key, field) in [
            (r#","stdin":"#, &mut fields.stdin),
            (r#","window":"#, &mut fields.window),
            (r#","exit_code":"#, &mut fields.exit_code),
            (r#","signal":"#, &mut fields.signal),
            (r#","stdout":"#, &mut fields.stdout),
            (r#","stderr":"#, &mut fields.stderr),
        ] {
            if cursor.literal(key).is_some() {
                *field = Some(cursor.number()?);
            }
        }
        if cursor.literal(r#","reason":"#).is_some() {
            fields.reason = Some(cursor.plain_string()?);
        }
    }
    cursor.literal("}")?;
    cursor.is_at_end().then_some(fields)
}

fn bytes(text: Cow<'_, str>) -> Cow<'_, [u8]> {
    match text {
        Cow::Borrowed(text) => Cow::Borrowed(text.as_bytes()),
        Cow::Owned(text) => Cow::Owned(text.into_bytes()),
    }
}

/// The known keys of a message, each at most once, with values of the expected kind.
#[derive(Default)]
struct Fields<'a> {
    event: Option<&'a str>,
    status: Option<&'a str>,
    exec: Option<&'a str>,
    reason: Option<&'a str>,
    data: Option<Cow<'a, str>>,
    offset: Option<u64>,
    stdin: Option<u64>,
    window: Option<u64>,
    stdout: Option<u64>,
    stderr: Option<u64>,
    exit_code: Option<u64>,
    signal: Option<u64>,
}

impl<'a> Fields<'a> {
    fn read(text: &'a str) -> Option<Self> {
        let mut fields = Self::default();
        let mut cursor = Cursor { text, at: 0 };
        cursor.token(b'{')?;
        loop {
            let key = cursor.plain_string()?;
            cursor.token(b':')?;
            match key {
                names::KEY_EVENT => set(&mut fields.event, cursor.plain_string()?),
                names::KEY_STATUS => set(&mut fields.status, cursor.plain_string()?),
                names::KEY_EXEC => set(&mut fields.exec, cursor.plain_string()?),
                names::KEY_REASON => set(&mut fields.reason, cursor.plain_string()?),
                names::KEY_DATA => set(&mut fields.data, cursor.string()?),
                names::KEY_OFFSET => set(&mut fields.offset, cursor.number()?),
                names::KEY_STDIN => set(&mut fields.stdin, cursor.number()?),
                names::KEY_WINDOW => set(&mut fields.window, cursor.number()?),
                names::KEY_STDOUT => set(&mut fields.stdout, cursor.number()?),
                names::KEY_STDERR => set(&mut fields.stderr, cursor.number()?),
                names::KEY_EXIT_CODE => set(&mut fields.exit_code, cursor.number()?),
                names::KEY_SIGNAL => set(&mut fields.signal, cursor.number()?),
                _ => None,
            }?;
            match cursor.next()? {
                b',' => {}
                b'}' => break,
                _ => return None,
            }
        }
        cursor.skip_space();
        cursor.is_at_end().then_some(fields)
    }

    fn output(self, stream: StdStream) -> Option<Received<'a>> {
        let rest = (self.status, self.reason, self.stdin, self.window);
        let ends = (self.stdout, self.stderr, self.exit_code, self.signal);
        if rest != (None, None, None, None) || ends != (None, None, None, None) {
            return None;
        }
        let place = match (self.exec, self.offset) {
            (Some(exec), Some(offset)) => Some((exec, offset)),
            (None, None) => None,
            _ => return None,
        };
        Some(Received::Output(OutputView {
            stream,
            place,
            data: bytes(self.data?),
        }))
    }

    fn status(self) -> Option<ServerMessage> {
        if self.data.is_some() || self.offset.is_some() {
            return None;
        }
        let code = |number: Option<u64>| number.map(i32::try_from).transpose().ok();
        let end = ExecEnd {
            reason: EndReason::from_wire(self.reason.unwrap_or_default()),
            exit_code: code(self.exit_code)?,
            signal: code(self.signal)?,
            lengths: match (self.stdout, self.stderr) {
                (Some(stdout), Some(stderr)) => Some([stdout, stderr]),
                (None, None) => None,
                _ => return None,
            },
            output_cut: false,
        };
        let known = (end.exit_code, end.signal, end.lengths) != (None, None, None);
        let is_end = self.reason.is_some() || known;
        let exec = match self.exec {
            Some(exec) => Some(Box::new(ExecUpdate {
                exec: ExecId::new(exec),
                stdin: self.stdin,
                window: self.window,
                end: is_end.then_some(end),
            })),
            // These keys mean nothing without an exec, and are carried.
            None if is_end || self.stdin.is_some() || self.window.is_some() => return None,
            None => None,
        };
        Some(ServerMessage::Status(StatusUpdate {
            status: Status::from_wire(self.status?),
            message: None,
            exec,
            extra: Extra::default(),
        }))
    }

    fn stdin_ack(self) -> Option<ServerMessage> {
        Some(ServerMessage::StdinAck {
            exec: ExecId::new(self.exec?),
            offset: self.offset?,
        })
    }
}

/// Of a repeated key the last value counts, whatever it is: that is left to the general reader.
fn set<T>(field: &mut Option<T>, value: T) -> Option<()> {
    field.replace(value).is_none().then_some(())
}

/// A place in a JSON text.
struct Cursor<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Cursor<'a> {
    fn skip_space(&mut self) {
        while let Some(b' ' | b'\t' | b'\n' | b'\r') = self.text.as_bytes().get(self.at) {
            self.at += 1;
        }
    }

    /// The next byte that is no space.
    fn next(&mut self) -> Option<u8> {
        self.skip_space();
        let byte = *self.text.as_bytes().get(self.at)?;
        self.at += 1;
        Some(byte)
    }

    fn token(&mut self, expected: u8) -> Option<()> {
        (self.next()? == expected).then_some(())
    }

    /// Exactly this text.
    fn literal(&mut self, expected: &str) -> Option<()> {
        let rest = &self.text.as_bytes()[self.at..];
        let found = rest.starts_with(expected.as_bytes());
        self.at += if found { expected.len() } else { 0 };
        found.then_some(())
    }

    fn is_at_end(&self) -> bool {
        self.at == self.text.len()
    }

    /// A string without anything to unescape.
    fn plain_string(&mut self) -> Option<&'a str> {
        self.token(b'"')?;
        let from = self.at;
        let length = plain_length(&self.text.as_bytes()[from..]);
        let end = from + length;
        self.at = end + 1;
        (*self.text.as_bytes().get(end)? == b'"').then(|| &self.text[from..end])
    }

    fn string(&mut self) -> Option<Cow<'a, str>> {
        self.token(b'"')?;
        let from = self.at;
        let bytes = self.text.as_bytes();
        let mut escaped = false;
        let end = loop {
            self.at += plain_length(&bytes[self.at..]);
            match bytes.get(self.at)? {
                b'"' => break self.at,
                b'\\' => {
                    escaped = true;
                    // Whatever is escaped, it is no end.
                    self.at += 2;
                    if self.at > bytes.len() {
                        return None;
                    }
                }
                _ => return None,
            }
        };
        self.at = end + 1;
        match escaped {
            false => Some(Cow::Borrowed(&self.text[from..end])),
            true => serde_json::from_str(self.text.get(from - 1..=end)?)
                .ok()
                .map(Cow::Owned),
        }
    }

    /// A whole number that fits, written without a sign, a fraction or an exponent.
    fn number(&mut self) -> Option<u64> {
        self.skip_space();
        let (bytes, begin) = (self.text.as_bytes(), self.at);
        let mut number = 0;
        while let Some(digit @ b'0'..=b'9') = bytes.get(self.at) {
            self.at += 1;
            if self.at - begin > 19 {
                return None;
            }
            // 19 digits always fit.
            number = number * 10 + u64::from(digit - b'0');
        }
        let digits = self.at - begin;
        if digits == 0 || digits > 1 && bytes[begin] == b'0' {
            return None;
        }
        Some(number)
    }
}

#[cfg(test)]
mod tests;
