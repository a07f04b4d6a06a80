//! The recordings of a real server, in `tests/transcripts/`: one event in each line, in order.
#![allow(dead_code, reason = "every test file uses a part of it")]

use serde_json::Value;

/// Something that happened on a connection.
#[derive(Clone, Debug)]
pub(crate) struct Line {
    /// The connection.
    pub(crate) conn: String,
    pub(crate) event: Event,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Event {
    /// The client dialled this path.
    Connect(String),
    /// The upgrade was refused with this HTTP status.
    Refused(u16),
    /// The client sent this.
    Send(String),
    /// The server sent this.
    Recv(String),
    /// The server closed with this code; 1006: without a close frame.
    Close(u16),
    /// The link was cut.
    Cut,
    /// Nothing came for some seconds.
    Quiet,
}

/// The names of all recordings.
pub(crate) fn names() -> Vec<String> {
    let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/transcripts");
    let mut names: Vec<String> = std::fs::read_dir(directory)
        .expect("the recordings")
        .filter_map(|entry| {
            let name = entry.ok()?.file_name().into_string().ok()?;
            Some(name.strip_suffix(".jsonl")?.to_owned())
        })
        .collect();
    names.sort();
    names
}

/// One recording.
pub(crate) fn lines(name: &str) -> Vec<Line> {
    let file = format!(
        "{}/tests/transcripts/{name}.jsonl",
        env!("CARGO_MANIFEST_DIR")
    );
    let text = std::fs::read_to_string(file).expect("a recording");
    text.lines().map(parse).collect()
}

fn parse(line: &str) -> Line {
    let line: Value = serde_json::from_str(line).expect("JSON");
    let text = |key: &str| line[key].as_str().unwrap_or_default().to_owned();
    let event = match &*text("dir") {
        "connect" => Event::Connect(text("path")),
        "refused" => {
            let error = text("error");
            let status = error
                .rsplit(' ')
                .next()
                .and_then(|status| status.parse().ok());
            Event::Refused(status.expect("an HTTP status"))
        }
        "send" => Event::Send(text("frame")),
        "recv" => Event::Recv(text("frame")),
        "close" => Event::Close(line["code"].as_u64().expect("a code") as u16),
        "cut" => Event::Cut,
        "quiet" => Event::Quiet,
        other => panic!("an event of an unknown kind: {other}"),
    };
    Line {
        conn: text("conn"),
        event,
    }
}
