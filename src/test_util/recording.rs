//! [`Recording`]: what passed between clients and a server, read from lines of JSON.

use std::{
    collections::HashMap,
    fmt, fs,
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::time::{Instant, sleep, timeout_at};

use crate::transport::{By, Dir, Line as Raw};

/// How often [`Recording::load_complete`] looks at the file.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// A session, or several, in the order in which things happened.
///
/// Written by [`record_to`](crate::SandboxBuilder::record_to), or by hand. Each line is a JSON object:
///
/// | `dir` | other keys | |
/// | --- | --- | --- |
/// | `connect` | `path`, `protocol` | the client dialled this path; the server selected this subprotocol, or none (v1) |
/// | `refused` | `error` | the upgrade was refused, with the HTTP status that the text ends with (`HTTP 403`), or the connection ended before |
/// | `send` | `frame` | the client sent this text |
/// | `recv` | `frame` | the server sent this text |
/// | `close` | `code`, `reason`, `by` | closed by the `server` (the default) or the `client`; 1006: without a close frame |
/// | `cut` | `by` | the connection ended without a word |
/// | `quiet` | | nothing came for some time |
/// | `end` | `error` | the last line of a recorder; with an error, where it had to stop before |
///
/// And all: `t`, milliseconds since the first line, and `conn`, the name of the connection, such as `A`.
#[derive(Clone, Debug)]
pub struct Recording {
    name: String,
    lines: Vec<Line>,
    end: Option<Option<String>>,
}

/// Something that happened on a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Line {
    /// The line's number in the recording, from 1.
    pub number: usize,
    /// Since the first line.
    pub at: Duration,
    /// The connection.
    pub conn: String,
    /// What happened.
    pub event: Event,
}

/// What a line tells.
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
    /// The upgrade was refused: with this HTTP status, or by the end of the connection.
    Refused(Option<u16>),
    /// The client sent this.
    Send(String),
    /// The server sent this.
    Recv(String),
    /// Closed with this code; 1006: without a close frame.
    Close(u16, Side),
    /// The connection ended without a word.
    Cut(Side),
    /// Nothing came for some time.
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

/// Why a recording cannot be read. Names its file, and the line.
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
    /// It cannot be read, or a line is none of a recording.
    pub fn load(path: impl AsRef<Path>) -> Result<Self, RecordingError> {
        let path = path.as_ref();
        let place = path.display().to_string();
        match fs::read_to_string(path) {
            Ok(text) => Self::parse(place, &text),
            Err(error) => Err(RecordingError {
                place,
                problem: format!("the recording cannot be read: {error}"),
            }),
        }
    }

    /// Reads a file that [`record_to`](crate::SandboxBuilder::record_to) may still be writing, once it is
    /// complete: when the actors of the sandbox are gone.
    ///
    /// # Errors
    ///
    /// As [`load`](Self::load); it is not complete in time; the recorder had to stop, and says why.
    pub async fn load_complete(
        path: impl Into<PathBuf>,
        within: Duration,
    ) -> Result<Self, RecordingError> {
        let path = path.into();
        let deadline = Instant::now() + within;
        loop {
            // While it is written, its last line may be half a line.
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
                        "the recording is not complete after {within:?}: is a handle of the sandbox still there?"
                    );
                    Err(recording.error(problem))
                };
                return loaded.and_then(incomplete);
            }
        }
    }

    /// Reads lines; the name is that which errors use. Empty lines are left out.
    ///
    /// # Errors
    ///
    /// A line is none of a recording.
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

    /// Adds a line, if it can follow those before it.
    fn add(
        &mut self,
        number: usize,
        text: &str,
        open: &mut HashMap<String, bool>,
    ) -> Result<(), String> {
        let raw: Raw = serde_json::from_str(text).map_err(|error| error.to_string())?;
        if self.end.is_some() {
            return Err("there is something after the `end`".to_owned());
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

    /// Its name: the path of the file, where it came from one.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What happened, in order.
    pub fn lines(&self) -> &[Line] {
        &self.lines
    }

    /// Leaves out lines: of a client that is not under test, or what your program says otherwise.
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

    /// Whether its recorder wrote it to the end of the sandbox's actors. One that was written by hand has no such end.
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
        assert!(error.starts_with("/nowhere/some.jsonl: the recording cannot be read"));
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
