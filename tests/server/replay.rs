//! Replays the client's side of the recordings of the cloud-run-sandbox server to the local server.
//! The local server must send the recorded answers in the same order, except for the listed
//! differences.

use std::collections::HashMap;

use crate::support::{
    raw_client::{Client, dial},
    recording::{Event, Line, lines, names},
};
use actix_sandbox::server::LocalServer;
use serde_json::Value;

/// A difference: lines that the local server sends instead of recorded lines. One recording has
/// its own test, because most of it differs: `output_that_the_recorded_server_lost`.
struct Difference {
    recording: &'static str,
    conn: &'static str,
    /// The beginnings of the recorded lines.
    recorded: &'static [&'static str],
    ours: &'static [&'static str],
    why: &'static str,
}

const DIFFERENCES: &[Difference] = &[
    Difference {
        recording: "create_errors",
        conn: "A0",
        recorded: &["error: Failed to create gVisor container: Filesystem snapshot not found at"],
        ours: &["error: Filesystem snapshot not found: 'nope'"],
        why: "the local server doesn't reveal its paths",
    },
    Difference {
        recording: "filesystem_snapshot_failure",
        conn: "A",
        recorded: &[
            "SANDBOX_FILESYSTEM_SNAPSHOT_ERROR",
            "error: Failed to snapshot filesystem for sandbox",
        ],
        ours: &["SANDBOX_FILESYSTEM_SNAPSHOT_CREATED"],
        why: "the recorded server could not take snapshots",
    },
    Difference {
        recording: "handoff",
        conn: "B",
        recorded: &[
            "SANDBOX_LOCK_RELEASING",
            "SANDBOX_LOCK_RELEASED",
            "SANDBOX_RESTORE_ERROR",
            "error: Failed to restore sandbox",
            "close 4000",
        ],
        ours: &["SANDBOX_RUNNING"],
        why: "the recorded server could not restore",
    },
    Difference {
        recording: "exec_python_and_bash",
        conn: "A",
        recorded: &["stderr: Traceback"],
        ours: &[
            "stderr: Traceback (most recent call last):\n  File \"main.py\", line 1, in <module>\n    raise ValueError('boom')\nValueError: boom\n",
        ],
        why: "the local server stores the code in a file with another name",
    },
    Difference {
        recording: "stdin_and_kill_process",
        conn: "A",
        recorded: &["SANDBOX_EXECUTION_DONE", "SANDBOX_EXECUTION_FORCE_KILLED"],
        ours: &["SANDBOX_EXECUTION_FORCE_KILLED", "SANDBOX_EXECUTION_DONE"],
        why: "Deployed clients wait for the end after the answer to their kill. The recorded \
              server sometimes sends the end first. This crate's client accepts that \
              (`client::replay::stdin_and_kill_process`), but its server never does it.",
    },
];

/// Returns an event of the server as a line: a status, a reason, output, an identity or a close.
fn said(event: &Event) -> Option<String> {
    match event {
        Event::Recv(frame) => {
            let message: Value = serde_json::from_str(frame).expect("JSON");
            let text = |key: &str| message[key].as_str().unwrap_or_default().to_owned();
            Some(match &*text("event") {
                "status_update" => text("status"),
                "error" => format!("error: {}", text("message")),
                "sandbox_id" => format!(
                    "sandbox_id {} {}",
                    text("sandbox_id"),
                    text("sandbox_token")
                ),
                stream => format!("{stream}: {}", text("data")),
            })
        }
        Event::Close(1006, _) => Some("lost".to_owned()),
        Event::Close(code, _) => Some(format!("close {code}")),
        _ => None,
    }
}

/// Joins the pieces of a stream up to the next status.
fn add(lines: &mut Vec<String>, line: String) {
    if let Some((stream @ ("stdout" | "stderr"), data)) = line.split_once(": ") {
        // Output of the other stream may come in between: the two streams have no common order.
        let mut streams = lines.iter_mut().rev().take_while(|line| is_stream(line));
        if let Some(before) = streams.find(|it| it.starts_with(&format!("{stream}: "))) {
            return before.push_str(data);
        }
    }
    lines.push(line);
}

/// The state of a replay against the local server.
struct Replay {
    name: String,
    server: LocalServer,
    /// Another server with the same state directory, for a handoff.
    other: LocalServer,
    clients: HashMap<String, Client>,
    /// Recorded ids and tokens, each with its replacement.
    identities: Vec<(String, String)>,
    /// The lines that each connection must still receive.
    due: HashMap<String, Vec<String>>,
    heard: Vec<(String, String)>,
    /// Whether the code waits for stdin, which the recording doesn't contain.
    waits: bool,
}

impl Replay {
    fn ours(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for (recorded, own) in &self.identities {
            text = text.replace(recorded, own);
        }
        // Sandboxes of the local server can't write to `/`.
        text.replace("/test.txt", "test.txt")
            .replace("/t.txt", "t.txt")
            // Instead of sleeping, the code waits for stdin, which it gets after the client's next
            // message.
            .replace("sleep 1; ", "read x; ")
            .replace("echo L$i; ", "echo L$i; [ $i != 8 ] || read x; ")
    }

    async fn connect(&mut self, conn: &str, path: &str, refused: Option<u16>) {
        let path = self.ours(path);
        if let Some(expected) = refused {
            let (status, _) = dial(&self.server, &path, &[]).await.err().expect("refused");
            return assert_eq!(status, expected);
        }
        let other = self.name == "handoff" && conn == "B";
        let server = if other { &self.other } else { &self.server };
        let client = Client::connect(server, &path).await;
        self.clients.insert(conn.to_owned(), client);
    }

    /// Receives the lines that are due on a connection, and checks them.
    async fn hear(&mut self, conn: &str) {
        let due = std::mem::take(self.due.entry(conn.to_owned()).or_default());
        let mut lines: Vec<String> = Vec::new();
        while lines.len() < due.len() || lines.iter().any(|line| is_part(line, &due)) {
            let client = self.clients.get_mut(conn).expect("a connection");
            let line = client.line().await;
            if let Some(identity) = line.strip_prefix("sandbox_id ") {
                let recorded = due.iter().find_map(|line| line.strip_prefix("sandbox_id "));
                let recorded = recorded.expect("an identity was recorded");
                for (recorded, own) in recorded.split(' ').zip(identity.split(' ')) {
                    self.identities.push((recorded.to_owned(), own.to_owned()));
                }
            }
            add(&mut lines, shortened(line));
        }
        let due: Vec<String> = due.iter().map(|line| self.ours(line)).collect();
        assert_eq!(sorted(&lines), sorted(&due), "{}, {conn}", self.name);
        for line in lines {
            self.heard.push((conn.to_owned(), line));
        }
    }
}

/// Whether a line is output of a stream, and the beginning of a line that is due.
fn is_part(heard: &String, due: &[String]) -> bool {
    is_stream(heard) && !due.contains(heard) && due.iter().any(|due| due.starts_with(heard))
}

fn is_stream(line: &str) -> bool {
    line.starts_with("stdout: ") || line.starts_with("stderr: ")
}

/// Groups lines for comparison: stdout and stderr are not ordered relative to each other, all other
/// lines are ordered.
fn sorted(lines: &[String]) -> Vec<Vec<&String>> {
    let mut groups: Vec<Vec<&String>> = vec![Vec::new()];
    for line in lines {
        match groups.last_mut() {
            Some(group) if is_stream(line) => group.push(line),
            _ => groups.extend([vec![line], Vec::new()]),
        }
    }
    groups.iter_mut().for_each(|group| group.sort());
    groups.retain(|group| !group.is_empty());
    groups
}

/// Removes the directory from the file name in a traceback.
fn shortened(line: String) -> String {
    match (line.find("File \""), line.find("\", line")) {
        (Some(begin), Some(end)) if begin < end => {
            format!("{}File \"main.py{}", &line[..begin], &line[end..])
        }
        _ => line,
    }
}

/// Returns the lines to expect for these recorded lines, with the differences applied.
fn due(name: &str, conn: &str, said: Vec<String>) -> Vec<String> {
    let mut due = Vec::new();
    for line in said {
        add(&mut due, line);
    }
    for difference in DIFFERENCES {
        if difference.recording != name || difference.conn != conn {
            continue;
        }
        let length = difference.recorded.len();
        let place = due.windows(length).position(|lines| {
            let mut pairs = lines.iter().zip(difference.recorded);
            pairs.all(|(line, recorded)| line.starts_with(recorded))
        });
        if let Some(place) = place {
            assert!(!difference.why.is_empty());
            let ours = difference.ours.iter().map(|&line| line.to_owned());
            due.splice(place..place + length, ours);
        }
    }
    due
}

/// Reorders the recording `stdin_and_kill_process`. There, the client sent the kill while the last
/// output was in flight. Replayed at the recorded line, the kill would arrive before the process
/// has read its stdin, so it moves behind the output. The client sent the next exec between the two
/// answers to the kill. The local server sends these in the other order, so the exec moves behind
/// both.
fn in_order(name: &str, mut lines: Vec<Line>) -> Vec<Line> {
    if name == "stdin_and_kill_process" {
        let is_kill = |line: &Line| matches!(&line.event, Event::Send(frame) if frame.contains("kill_process"));
        let kill = lines.iter().position(is_kill).expect("a kill");
        let kill = lines.remove(kill);
        let done = |line: &Line| matches!(&line.event, Event::Recv(frame) if frame.contains("EXECUTION_DONE"));
        let done = lines.iter().position(done).expect("its end");
        lines.insert(done, kill);
        let is_next =
            |line: &Line| matches!(&line.event, Event::Send(frame) if frame.contains("echo next"));
        let next = lines.iter().position(is_next).expect("the next exec");
        let killed = |line: &Line| matches!(&line.event, Event::Recv(frame) if frame.contains("FORCE_KILLED"));
        let killed = lines.iter().position(killed).expect("an answer");
        lines[next..=killed].rotate_left(1);
    }
    lines
}

async fn replay(name: &str) -> Vec<(String, String)> {
    let state = tempfile::tempdir().unwrap();
    let start = || LocalServer::builder().state_directory(state.path()).start();
    let mut replay = Replay {
        name: name.to_owned(),
        server: start().await.unwrap(),
        other: start().await.unwrap(),
        clients: HashMap::new(),
        identities: Vec::new(),
        due: HashMap::new(),
        heard: Vec::new(),
        waits: false,
    };
    let lines = in_order(name, lines(name));
    let mut said_on: HashMap<String, Vec<String>> = HashMap::new();
    for (index, line) in lines.iter().enumerate() {
        let conn = &line.conn;
        if let Some(text) = said(&line.event) {
            let said = said_on.entry(conn.clone()).or_default();
            // A traceback may arrive in pieces, but never with a split file name.
            said.push(shortened(text));
        }
        // Receive what is due before the client's next message on this connection, and before any
        // dial.
        let is_over = lines[index + 1..].iter().all(|later| later.conn != *conn);
        let turns: Vec<String> = match &line.event {
            Event::Connect { .. } => said_on.keys().cloned().collect(),
            Event::Send(_) | Event::Cut(_) | Event::Close(..) | Event::Quiet => vec![conn.clone()],
            _ if is_over => vec![conn.clone()],
            _ => Vec::new(),
        };
        for conn in turns {
            let said = said_on.remove(&conn).unwrap_or_default();
            let expected = due(name, &conn, said);
            replay.due.insert(conn.clone(), expected);
            replay.hear(&conn).await;
        }
        match &line.event {
            Event::Connect { path, .. } => {
                let refused = lines.iter().find_map(|line| match line.event {
                    Event::Refused(status) if line.conn == *conn => status,
                    _ => None,
                });
                let is_cut = |line: &Line| matches!(line.event, Event::Cut(_));
                let follows_a_cut = lines[..index].iter().any(is_cut);
                if name == "attach_errors" && conn == "F" || follows_a_cut {
                    // The previous client disconnected without a close frame.
                    replay.clients.remove("A");
                    let path = replay.ours(path);
                    let client = attached(&replay.server, &path).await;
                    replay.clients.insert(conn.clone(), client);
                    said_on.insert(conn.clone(), Vec::new());
                } else {
                    replay.connect(conn, path, refused).await;
                }
            }
            Event::Send(frame) => {
                let frame = replay.ours(frame);
                let client = replay.clients.get_mut(conn).expect("a connection");
                client.send_text(&frame).await;
                if std::mem::take(&mut replay.waits) {
                    client.stdin("\n").await;
                }
                replay.waits = frame.contains("read x");
            }
            Event::Cut(_) => {
                drop(replay.clients.remove(conn));
                if std::mem::take(&mut replay.waits) {
                    let next = lines[index..].iter().find_map(|line| match &line.event {
                        Event::Connect { path, .. } => Some(path),
                        _ => None,
                    });
                    let path = replay.ours(next.expect("another connection"));
                    feed(&replay.server, &path).await;
                }
            }
            _ => {}
        }
    }
    replay.heard
}

/// Attaches a client as soon as the server has detected that the previous one disconnected. Puts
/// the first line back, so that the caller receives it.
async fn attached(server: &LocalServer, path: &str) -> Client {
    loop {
        let mut client = Client::connect(server, path).await;
        let first = client.line().await;
        if first != "SANDBOX_IN_USE" {
            client.unhear(first);
            return client;
        }
    }
}

/// Attaches a client that writes to the waiting code and doesn't read its output.
async fn feed(server: &LocalServer, path: &str) {
    let mut client = attached(server, path).await;
    assert_eq!(client.line().await, "SANDBOX_RUNNING");
    client.feed().await;
}

#[tokio::test]
async fn the_local_server_says_what_the_recorded_one_said() {
    for name in names() {
        if name == "large_and_unicode_output" {
            continue;
        }
        println!("{name}");
        let heard = replay(&name).await;
        assert!(!heard.is_empty());
    }
}

/// In this recording, the cloud-run-sandbox server lost output that is not valid UTF-8. The local
/// server sends replacement characters instead.
#[tokio::test]
async fn output_that_the_recorded_server_lost() {
    let name = "large_and_unicode_output";
    let server = LocalServer::start().await.unwrap();
    let (mut client, _) = Client::create(&server).await;
    let codes: Vec<String> = lines(name)
        .iter()
        .filter_map(|line| match &line.event {
            Event::Send(frame) if frame.contains("code") => Some(frame.clone()),
            _ => None,
        })
        .collect();
    let expected = [
        format!("{}\n", "x".repeat(5000)),
        format!("a{}END", "é".repeat(1500)),
        "\u{fffd}\u{fffd}END\n".to_owned(),
    ];
    assert_eq!(codes.len(), expected.len());
    for (code, expected) in codes.iter().zip(expected) {
        client.send_text(code).await;
        let lines = client.until("SANDBOX_EXECUTION_DONE").await;
        assert_eq!(
            lines,
            [
                "SANDBOX_EXECUTION_RUNNING".to_owned(),
                format!("stdout: {expected}"),
                "SANDBOX_EXECUTION_DONE".to_owned()
            ]
        );
    }
    client.kill_sandbox().await;
}
