//! [`Recording`]: the messages between clients and a server, read from lines of JSON.

use std::{
    collections::HashMap,
    fmt, fs,
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::time::{Instant, sleep, timeout_at};

use crate::transport::{By, Dir, Line as Raw};

/// How often [`Recording::load_complete`] reads the file.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// One or more sessions, in the order in which their messages passed.
///
/// Written by [`record_to`](crate::SandboxBuilder::record_to), or by hand. Each line is a JSON
/// object:
///
/// | `dir` | other keys | |
/// | --- | --- | --- |
/// | `connect` | `path`, `protocol` | the client dialled `path`; the server selected the subprotocol `protocol`, or none (v1) |
/// | `refused` | `error` | the upgrade was refused. `error` ends with the HTTP status (`HTTP 403`); without one, the connection ended before a response |
/// | `send` | `frame` | the client sent this text |
/// | `recv` | `frame` | the server sent this text |
/// | `close` | `code`, `reason`, `by` | closed by the `server` (the default) or the `client`; 1006: without a close frame |
/// | `cut` | `by` | the connection ended without a close frame |
/// | `quiet` | | no message passed for some time |
/// | `end` | `error` | the last line that a recorder writes; `error` is present if it had to stop early |
///
/// Every line also has `t`, the milliseconds since the first line, and `conn`, the name of the
/// connection, such as `A`.
#[derive(Clone, Debug)]
pub struct Recording {
    name: String,
    lines: Vec<Line>,
    end: Option<Option<String>>,
}

/// One line of a recording.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Line {
    /// The line's number in the recording, from 1.
    pub number: usize,
    /// Time since the first line.
    pub at: Duration,
    /// The name of the connection.
    pub conn: String,
    /// What happened.
    pub event: Event,
}

/// What happened on a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// The client dialled.
    Connect {
        /// Path and query.
        path: String,
        /// The subprotocol that the server selected.
        protocol: Option<String>,
    },
    /// The upgrade was refused with this HTTP status. `None`: the connection ended without a
    /// response.
    Refused(Option<u16>),
    /// The client sent this text.
    Send(String),
    /// The server sent this text.
    Recv(String),
    /// Closed with this code; 1006: without a close frame.
    Close(u16, Side),
    /// The connection ended without a close frame.
    Cut(Side),
    /// No message passed for some time.
    Quiet,
}

/// One of the two sides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The client.
    Client,
    /// The server, or the network.
    Server,
}

/// Why a recording can't be read. The message names the file and the line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {problem}")]
pub struct RecordingError {
    place: String,
    problem: String,
}

impl Recording {
    /// Reads a file.
    ///
    /// # Errors
    ///
    /// The file can't be read, or a line is not a valid line of a recording.
    pub fn load(path: impl AsRef<Path>) -> Result<Self, RecordingError> {
        let path = path.as_ref();
        let place = path.display().to_string();
        match fs::read_to_string(path) {
            Ok(text) => Self::parse(place, &text),
            Err(error) => Err(RecordingError {
                place,
                problem: format!("the recording can't be read: {error}"),
            }),
        }
    }

    /// Waits until [`record_to`](crate::SandboxBuilder::record_to) has completed a file, then reads
    /// it. The file is complete when all handles of the sandbox are dropped and its actors have
    /// stopped.
    ///
    /// # Errors
    ///
    /// Fails like [`load`](Self::load), and if the file isn't complete within the given time. Also
    /// fails if the recorder had to stop early; the error contains the reason.
    pub async fn load_complete(
        path: impl Into<PathBuf>,
        within: Duration,
    ) -> Result<Self, RecordingError> {
        let path = path.into();
        let deadline = Instant::now() + within;
        loop {
            // While the file is being written, its last line may be incomplete.
            let loaded = Self::load(&path);
            if let Ok(recording) = &loaded
                && let Some(stopped) = &recording.end
            {
                return match stopped {
                    None => loaded,
                    Some(why) => Err(recording.error(format!("the recording stopped: {why}"))),
                };
            }
            let pause = sleep(LOOK_EVERY);
            if timeout_at(deadline, pause).await.is_err() {
                let incomplete = |recording: Self| {
                    let problem = format!(
                        "the recording is not complete after {within:?}; drop all handles of the sandbox first"
                    );
                    Err(recording.error(problem))
                };
                return loaded.and_then(incomplete);
            }
        }
    }

    /// Parses lines of JSON. Errors use `name`. Skips empty lines.
    ///
    /// # Errors
    ///
    /// A line is not a valid line of a recording.
    pub fn parse(name: impl Into<String>, text: &str) -> Result<Self, RecordingError> {
        let name = name.into();
        let mut recording = Self {
            name,
            lines: Vec::new(),
            end: None,
        };
        let mut open = HashMap::new();
        for (index, text) in text.lines().enumerate() {
            if text.trim().is_empty() {
                continue;
            }
            let number = index + 1;
            recording
                .add(number, text, &mut open)
                .map_err(|problem| RecordingError {
                    place: format!("{}, line {number}", recording.name),
                    problem,
                })?;
        }
        Ok(recording)
    }

    /// Adds a line. Fails if it can't follow the lines before it.
    fn add(
        &mut self,
        number: usize,
        text: &str,
        open: &mut HashMap<String, bool>,
    ) -> Result<(), String> {
        let raw: Raw = serde_json::from_str(text).map_err(|error| error.to_string())?;
        if self.end.is_some() {
            return Err("a line follows the `end` line".to_owned());
        }
        if raw.dir == Dir::End {
            self.end = Some(raw.error);
            return Ok(());
        }
        if raw.conn.is_empty() {
            return Err("it has no `conn`".to_owned());
        }
        let side = match raw.by {
            Some(By::Client) => Side::Client,
            _ => Side::Server,
        };
        let missing = |key: &str| format!("it has no `{key}`");
        let event = match raw.dir {
            Dir::Connect => Event::Connect {
                path: raw.path.ok_or_else(|| missing("path"))?,
                protocol: raw.protocol,
            },
            Dir::Refused => {
                let error = raw.error.unwrap_or_default();
                let status = error.rsplit_once("HTTP ").map(|(_, status)| status.trim());
                Event::Refused(status.and_then(|status| status.parse().ok()))
            }
            Dir::Send => Event::Send(raw.frame.ok_or_else(|| missing("frame"))?),
            Dir::Recv => Event::Recv(raw.frame.ok_or_else(|| missing("frame"))?),
            Dir::Close => Event::Close(raw.code.ok_or_else(|| missing("code"))?, side),
            Dir::Cut => Event::Cut(side),
            Dir::Quiet | Dir::End => Event::Quiet,
        };
        let is_open = open.get(&raw.conn).copied();
        match (&event, is_open) {
            (Event::Connect { .. }, None) | (Event::Quiet, _) => {}
            (Event::Connect { .. }, Some(_)) => {
                return Err(format!("{} was dialled before", raw.conn));
            }
            (_, Some(true)) => {}
            (_, Some(false)) => return Err(format!("{} has ended before", raw.conn)),
            (_, None) => return Err(format!("{} was not dialled before", raw.conn)),
        }
        match event {
            Event::Connect { .. } => open.insert(raw.conn.clone(), true),
            Event::Refused(_) | Event::Close(..) | Event::Cut(_) => {
                open.insert(raw.conn.clone(), false)
            }
            _ => None,
        };
        self.lines.push(Line {
            number,
            at: Duration::from_millis(raw.t),
            conn: raw.conn,
            event,
        });
        Ok(())
    }

    /// The name of the recording: the path of its file, or the name passed to
    /// [`parse`](Self::parse).
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The lines, in order.
    pub fn lines(&self) -> &[Line] {
        &self.lines
    }

    /// Removes lines, for example those of a client that is not under test.
    ///
    /// ```
    /// use actix_sandbox::test_util::Recording;
    ///
    /// # fn both() -> Result<Recording, actix_sandbox::test_util::RecordingError> {
    /// # Recording::parse("both", r#"{"t":0,"conn":"A","dir":"connect","path":"/create"}
    /// # {"t":0,"conn":"B","dir":"connect","path":"/create"}"#)
    /// # }
    /// let mut recording = both()?;
    /// recording.retain(|line| line.conn == "A");
    /// assert_eq!(recording.lines().len(), 1);
    /// # Ok::<(), actix_sandbox::test_util::RecordingError>(())
    /// ```
    pub fn retain(&mut self, keep: impl FnMut(&Line) -> bool) {
        self.lines.retain(keep);
    }

    /// Whether the recorder wrote the recording to its end. `false` for recordings that are written
    /// by hand without an `end` line.
    pub fn is_complete(&self) -> bool {
        self.end == Some(None)
    }

    fn error(&self, problem: String) -> RecordingError {
        RecordingError {
            place: self.name.clone(),
            problem,
        }
    }
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Client => "client",
            Self::Server => "server",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_that_cannot_be_read_is_named() {
        let begin = r#"{"t":0,"conn":"A","dir":"connect","path":"/create"}"#;
        for (line, problem) in [
            ("{", "EOF while parsing"),
            (
                r#"{"t":1,"conn":"A","dir":"shout"}"#,
                "unknown variant `shout`",
            ),
            (r#"{"t":1,"conn":"A","dir":"recv"}"#, "it has no `frame`"),
            (r#"{"t":1,"dir":"cut"}"#, "it has no `conn`"),
            (r#"{"t":1,"conn":"B","dir":"cut"}"#, "B was not dialled"),
            (begin, "A was dialled before"),
        ] {
            let text = format!("{begin}\n\n{line}");
            let error = Recording::parse("some.jsonl", &text)
                .unwrap_err()
                .to_string();
            assert!(error.starts_with("some.jsonl, line 3: "), "{error}");
            assert!(error.contains(problem), "{error}");
        }
        let error = Recording::load("/nowhere/some.jsonl")
            .unwrap_err()
            .to_string();
        assert!(error.starts_with("/nowhere/some.jsonl: the recording can't be read"));
    }

    #[test]
    fn a_refusal_has_the_status_that_its_text_ends_with() {
        let refused = |error: &str| {
            let text = format!(
                r#"{{"t":0,"conn":"A","dir":"connect","path":"/create"}}
                {{"t":0,"conn":"A","dir":"refused","error":"{error}"}}"#
            );
            Recording::parse("some", &text).unwrap().lines[1]
                .event
                .clone()
        };
        let status = refused("server rejected WebSocket connection: HTTP 403");
        assert_eq!(status, Event::Refused(Some(403)));
        assert_eq!(refused("no connection"), Event::Refused(None));
    }
}
