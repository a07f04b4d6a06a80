//! The JSON form of the execs in a checkpoint: those that have ended but whose end was not
//! acknowledged, each with its unacknowledged output (protocol v2).

use std::io;

use base64::{Engine, engine::general_purpose::STANDARD};
use serde::{Deserialize, Serialize};

use crate::{
    machine::StoredExec,
    protocol::{BuiltinError, EndReason, ExecEnd, ExecId, Outcome, StdStream},
};

/// The JSON form of a [`StoredExec`]. A later version may add keys.
#[derive(Serialize, Deserialize)]
struct Written {
    exec: String,
    window: u64,
    reason: String,
    exit_code: Option<i32>,
    signal: Option<i32>,
    /// The lengths of stdout and stderr, in bytes.
    lengths: Option<[u64; 2]>,
    #[serde(default)]
    output_cut: bool,
    message: Option<String>,
    output: Vec<Piece>,
    /// The result of a builtin, a JSON object.
    #[serde(default)]
    result: Option<String>,
    /// Why a builtin failed.
    #[serde(default)]
    error: Option<BuiltinError>,
}

/// Bytes of a stream from `offset` on, in base64.
#[derive(Serialize, Deserialize)]
struct Piece {
    stderr: bool,
    offset: u64,
    data: String,
}

pub(super) fn write(execs: &[StoredExec]) -> io::Result<Vec<u8>> {
    let written = execs.iter().map(|stored| Written {
        exec: stored.exec.as_str().to_owned(),
        window: stored.window,
        reason: stored.end.reason.as_str().to_owned(),
        exit_code: stored.end.exit_code,
        signal: stored.end.signal,
        lengths: stored.end.lengths,
        output_cut: stored.end.output_cut,
        message: stored.message.clone(),
        result: match stored.end.outcome.as_deref() {
            Some(Outcome::Result(result)) => Some(result.clone()),
            _ => None,
        },
        error: match stored.end.outcome.as_deref() {
            Some(Outcome::Error(error)) => Some(error.clone()),
            _ => None,
        },
        output: stored
            .output
            .iter()
            .map(|(stream, offset, data)| Piece {
                stderr: *stream == StdStream::Stderr,
                offset: *offset,
                data: STANDARD.encode(data),
            })
            .collect(),
    });
    Ok(serde_json::to_vec(&written.collect::<Vec<_>>())?)
}

pub(super) fn read(text: &[u8]) -> io::Result<Vec<StoredExec>> {
    let damaged = |error| io::Error::new(io::ErrorKind::InvalidData, error);
    let written: Vec<Written> = serde_json::from_slice(text)?;
    let execs = written.into_iter().map(|written| {
        let output = written.output.into_iter().map(|piece| {
            let stream = match piece.stderr {
                true => StdStream::Stderr,
                false => StdStream::Stdout,
            };
            let data = STANDARD.decode(piece.data).map_err(damaged)?;
            Ok((stream, piece.offset, data.into()))
        });
        Ok(StoredExec {
            exec: ExecId::new(written.exec),
            window: written.window,
            end: ExecEnd {
                reason: EndReason::from_wire(&written.reason),
                exit_code: written.exit_code,
                signal: written.signal,
                lengths: written.lengths,
                output_cut: written.output_cut,
                outcome: match (written.result, written.error) {
                    (_, Some(error)) => Some(Box::new(Outcome::Error(error))),
                    (Some(result), None) => Some(Box::new(Outcome::Result(result))),
                    (None, None) => None,
                },
            },
            message: written.message,
            output: output.collect::<io::Result<_>>()?,
        })
    });
    execs.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn execs_are_read_as_they_were_written() {
        let stored = |end, output| StoredExec {
            exec: ExecId::new("a-1"),
            window: 4_096,
            end,
            message: Some("why".to_owned()),
            output,
        };
        let lost = ExecEnd {
            reason: EndReason::SandboxLost,
            exit_code: None,
            signal: Some(9),
            lengths: Some([3, u64::MAX]),
            output_cut: false,
            outcome: None,
        };
        let exited = ExecEnd {
            reason: EndReason::Exited,
            exit_code: Some(-1),
            signal: None,
            lengths: None,
            output_cut: true,
            outcome: None,
        };
        let every: Vec<u8> = (0..=255).collect();
        let execs = [
            stored(lost, vec![(StdStream::Stderr, 7, every.into())]),
            stored(exited, vec![(StdStream::Stdout, 0, "text".into())]),
        ];
        let text = write(&execs).expect("JSON");
        assert_eq!(read(&text).expect("execs"), execs);
        assert_eq!(read(b"[]").expect("none"), []);
        for damaged in ["", "{}", r#"[{"exec":1}]"#] {
            assert!(read(damaged.as_bytes()).is_err(), "{damaged}");
        }
    }
}
