//! [`Execs`]: the named execs of protocol v2 in a recording that is replayed.
//!
//! The client chooses random ids, so the player maps the recorded ids to them. How input is split
//! into messages, and when output is acknowledged, depends on timing. So the player compares input
//! by its bytes, and acknowledgements only open the window.

use std::collections::{HashMap, HashSet};

use serde_json::Value;

use super::{Event, Recording, deviation::quoted};
use crate::{
    protocol::{
        ClientMessage, NamedMessage, OutputPiece, OutputPlace, ServerMessage, Version,
        names::{KEY_EXEC, SUBPROTOCOL_V2},
        utf8_boundary,
    },
    transport::RECORDED_TOKEN,
};

/// A deviation: what was expected, and what was found.
pub(super) struct Wrong(pub(super) String, pub(super) String);

/// The execs of a recording.
#[derive(Default)]
pub(super) struct Execs {
    /// The client's ids, by recorded id.
    real: HashMap<String, String>,
    /// The recorded ids, by the client's id.
    recorded: HashMap<String, String>,
    inputs: HashMap<String, Input>,
    outputs: HashMap<String, Output>,
}

/// The recorded input of an exec, and how much of it has arrived.
#[derive(Default)]
struct Input {
    pieces: Vec<(u64, Vec<u8>)>,
    begin: u64,
    bytes: Vec<u8>,
    eof: bool,
    heard: u64,
    heard_eof: bool,
}

/// The offsets of an exec's output that were sent and acknowledged, for stdout and stderr.
#[derive(Default)]
struct Output {
    window: Option<u64>,
    sent: [Option<u64>; 2],
    acked: [u64; 2],
}

impl Input {
    /// Joins adjacent pieces.
    fn join(&mut self) {
        self.pieces.sort();
        for (offset, data) in std::mem::take(&mut self.pieces) {
            if self.bytes.is_empty() {
                self.begin = offset;
            }
            let end = self.begin + self.bytes.len() as u64;
            let known = end
                .checked_sub(offset)
                .and_then(|it| usize::try_from(it).ok());
            if let Some(new) = known.and_then(|known| data.get(known..)) {
                self.bytes.extend_from_slice(new);
            }
        }
        self.heard = self.begin;
    }

    fn hear(&mut self, offset: u64, data: &[u8], eof: bool) -> Result<(), Wrong> {
        let end = offset.saturating_add(data.len() as u64);
        let most = self.begin + self.bytes.len() as u64;
        // Skip bytes from before the recording.
        let skip = usize::try_from(self.begin.saturating_sub(offset)).unwrap_or(usize::MAX);
        let new = data.get(skip.min(data.len())..).unwrap_or_default();
        let at = usize::try_from(offset.saturating_sub(self.begin)).unwrap_or(usize::MAX);
        let recorded = self
            .bytes
            .get(at.min(self.bytes.len())..)
            .unwrap_or_default();
        if end > most || !recorded.starts_with(new) {
            let shown = &recorded[..recorded.len().min(new.len())];
            return Err(Wrong(
                format!("as input at {offset} {}", show(shown)),
                format!("the client sent {}", show(new)),
            ));
        }
        if eof && !(self.eof && end == most) {
            return Err(Wrong(
                "more input".to_owned(),
                format!("the client ended the input after {end} bytes"),
            ));
        }
        if offset <= self.heard {
            self.heard = self.heard.max(end);
            self.heard_eof |= eof;
        }
        Ok(())
    }
}

impl Execs {
    /// Collects the input of all execs of a recording.
    pub(super) fn new(recording: &Recording) -> Self {
        let mut execs = Self::default();
        let mut v2 = HashSet::new();
        for line in recording.lines() {
            match &line.event {
                Event::Connect { protocol, .. } if protocol.as_deref() == Some(SUBPROTOCOL_V2) => {
                    v2.insert(&line.conn);
                }
                Event::Send(frame) if v2.contains(&line.conn) => {
                    if let Some((exec, NamedMessage::Stdin { offset, data, eof })) = named(frame) {
                        let input = execs.inputs.entry(exec).or_default();
                        input.pieces.push((offset, data.into_owned()));
                        input.eof |= eof;
                    }
                }
                _ => {}
            }
        }
        execs.inputs.values_mut().for_each(Input::join);
        execs
    }

    /// Handles input and acknowledgements, which are not compared as whole frames. Returns `false`
    /// for any other frame.
    pub(super) fn hear(&mut self, frame: &str) -> Result<bool, Wrong> {
        let Some((real, message)) = named(frame) else {
            return Ok(false);
        };
        let exec = self.recorded.get(&real).cloned().unwrap_or(real);
        match message {
            NamedMessage::Ack { offsets, .. } => {
                if let Some(output) = self.outputs.get_mut(&exec) {
                    for (index, offset) in offsets.into_iter().enumerate() {
                        let offset = offset.min(output.sent[index].unwrap_or(0));
                        output.acked[index] = output.acked[index].max(offset);
                    }
                }
                Ok(true)
            }
            NamedMessage::Stdin { offset, data, eof } => match self.inputs.get_mut(&exec) {
                Some(input) => input.hear(offset, &data, eof).map(|()| true),
                None => Err(Wrong(
                    "no input of this exec".to_owned(),
                    format!("the client sent {}", quoted(frame)),
                )),
            },
            _ => Ok(false),
        }
    }

    /// Whether the content of a recorded input or acknowledgement has arrived. `None` for any other
    /// frame, which is compared as a whole.
    pub(super) fn is_heard(&self, frame: &str) -> Option<bool> {
        match named(frame)? {
            (_, NamedMessage::Ack { .. }) => Some(true),
            (exec, NamedMessage::Stdin { offset, data, eof }) => {
                let input = self.inputs.get(&exec)?;
                let end = offset.saturating_add(data.len() as u64);
                Some(input.heard >= end && (input.heard_eof || !eof))
            }
            _ => None,
        }
    }

    /// Whether a client's frame matches a recorded one. An unmapped recorded id matches any
    /// unmapped id.
    pub(super) fn is_like(&self, recorded: &Value, heard: &Value) -> bool {
        let (Some(left), Some(right)) = (exec_of(recorded), exec_of(heard)) else {
            return like(recorded, heard, false);
        };
        let may_be = match self.real.get(left) {
            Some(real) => real == right,
            None => !self.recorded.contains_key(right),
        };
        may_be && like(recorded, heard, true)
    }

    /// Maps the recorded id to the client's id, after two frames were found alike.
    pub(super) fn bind(&mut self, recorded: &Value, heard: &Value) {
        if let (Some(left), Some(right)) = (exec_of(recorded), exec_of(heard)) {
            self.real.insert(left.to_owned(), right.to_owned());
            self.recorded.insert(right.to_owned(), left.to_owned());
        }
    }

    /// Whether two frames must arrive in the recorded order. Frames of different execs need not.
    pub(super) fn are_ordered(&self, recorded: &Value, heard: &Value) -> bool {
        match (exec_of(recorded), exec_of(heard)) {
            (None, None) => true,
            (Some(left), Some(right)) => self.real.get(left).is_some_and(|real| real == right),
            _ => false,
        }
    }

    /// Splits a frame of the server into parts that fit into the window of their exec.
    pub(super) fn parts(&mut self, frame: &str) -> Vec<(String, Option<Part>)> {
        let whole = || vec![(frame.to_owned(), None)];
        let Ok(mut value) = serde_json::from_str::<Value>(frame) else {
            return whole();
        };
        let Some(exec) = exec_of(&value).map(str::to_owned) else {
            return whole();
        };
        let real = self.real.get(&exec).unwrap_or(&exec).clone();
        let output = self.outputs.entry(exec.clone()).or_default();
        match ServerMessage::parse_as(&frame.to_owned().into(), Version::V2) {
            Ok(ServerMessage::Status(update)) => {
                let window = update.exec.and_then(|exec| exec.window);
                output.window = window.or(output.window);
            }
            Ok(ServerMessage::Output(OutputPiece {
                stream,
                data,
                place: Some(place),
                eof,
            })) => {
                // A client acknowledges after a fourth of the window at the latest.
                let most = output.window.map_or(usize::MAX, |window| {
                    usize::try_from(window / 4).unwrap_or(usize::MAX).max(4)
                });
                let mut parts = Vec::new();
                let (mut offset, mut rest) = (place.offset, data);
                while !rest.is_empty() || eof && parts.is_empty() {
                    let cut = match rest.len() <= most {
                        true => rest.len(),
                        false => utf8_boundary(&rest[..most]).max(1),
                    };
                    let data = rest.split_to(cut);
                    let end = offset + data.len() as u64;
                    let piece = OutputPiece {
                        stream,
                        data,
                        place: Some(OutputPlace {
                            exec: real.as_str().into(),
                            offset,
                        }),
                        eof: eof && rest.is_empty(),
                    };
                    let part = Part {
                        exec: exec.clone(),
                        stream: stream as usize,
                        begin: offset,
                        end,
                    };
                    parts.push((ServerMessage::Output(piece).encode(), Some(part)));
                    offset = end;
                }
                return parts;
            }
            _ => {}
        }
        value[KEY_EXEC] = real.into();
        vec![(value.to_string(), None)]
    }

    /// Whether the window permits a part. If so, counts it as sent.
    pub(super) fn try_send(&mut self, part: &Part) -> bool {
        let output = self.outputs.entry(part.exec.clone()).or_default();
        let mut sent = output.sent;
        if sent[part.stream].is_none() {
            // Earlier output belongs to another client.
            output.acked[part.stream] = part.begin;
        }
        sent[part.stream] = sent[part.stream].max(Some(part.end));
        let on_the_way: u64 = (0..2)
            .map(|it| sent[it].map_or(0, |sent| sent.saturating_sub(output.acked[it])))
            .sum();
        let is_allowed = output.window.is_none_or(|window| on_the_way <= window);
        if is_allowed {
            output.sent = sent;
        }
        is_allowed
    }
}

/// A piece of output that needs room in a window.
pub(super) struct Part {
    exec: String,
    stream: usize,
    begin: u64,
    end: u64,
}

fn named(frame: &str) -> Option<(String, NamedMessage<'_>)> {
    match ClientMessage::parse_as(frame.as_bytes(), Version::V2) {
        Ok(ClientMessage::Named(exec, message)) => Some((exec.as_str().to_owned(), message)),
        _ => None,
    }
}

fn exec_of(frame: &Value) -> Option<&str> {
    frame.get(KEY_EXEC)?.as_str()
}

/// Whether two frames are equal, apart from redacted tokens and, with `any_exec`, from the exec id.
fn like(recorded: &Value, heard: &Value, any_exec: bool) -> bool {
    match (recorded, heard) {
        (Value::Object(left), Value::Object(right)) => {
            left.len() == right.len()
                && left.iter().all(|(key, value)| {
                    right.get(key).is_some_and(|other| {
                        (any_exec && key == KEY_EXEC) || like(value, other, false)
                    })
                })
        }
        (Value::Array(left), Value::Array(right)) => {
            left.len() == right.len()
                && left
                    .iter()
                    .zip(right)
                    .all(|(left, right)| like(left, right, false))
        }
        (Value::String(left), Value::String(_)) if left == RECORDED_TOKEN => true,
        _ => recorded == heard,
    }
}

fn show(bytes: &[u8]) -> String {
    match bytes {
        [] => "nothing".to_owned(),
        bytes => quoted(String::from_utf8_lossy(bytes)),
    }
}
