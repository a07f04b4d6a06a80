//! Replays the recordings of the cloud-run-sandbox server into the client's machines, in virtual
//! time.
//!
//! The machines receive the server's messages from the recording. Where the recorded client sent a
//! message, the test issues the matching command, and the machines must send the same message. The
//! recordings are in `tests/transcripts/`.

#![allow(clippy::disallowed_methods, reason = "virtual time needs an origin")]
#![allow(
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking, also in its helpers"
)]

use std::{
    collections::{BTreeMap, HashMap},
    time::{Duration, Instant},
};

use actix_sandbox::{
    machine::{
        Epoch, Failure, LinkError, LinkFact, Mode, NewExec, Process, ProcessAction, ProcessConfig,
        ProcessEnd, ProcessFact, ProcessId, RequestId, Sandbox, SandboxAction, SandboxConfig,
        SandboxState, Timeouts, UpgradeRefusal,
    },
    protocol::{ClientMessage, SandboxConfig as Configuration, SandboxToken, Version},
};
use serde_json::Value;

/// The machines of a client, and their results.
struct Client {
    sandbox: Sandbox,
    epoch: Epoch,
    now: Instant,
    processes: BTreeMap<ProcessId, Box<Process>>,
    ends: BTreeMap<ProcessId, ProcessEnd>,
    output: BTreeMap<ProcessId, String>,
    sent: Vec<Value>,
    asked: Vec<&'static str>,
    /// The result of each request.
    answers: BTreeMap<RequestId, Result<(), Failure>>,
}

impl Client {
    fn new(mode: Mode, now: Instant) -> Self {
        let timeouts = Timeouts::default();
        let mut client = Self {
            sandbox: Sandbox::new(SandboxConfig {
                mode,
                timeouts,
                process: ProcessConfig::default(),
                exec_prefix: "replay".into(),
            }),
            epoch: Epoch(0),
            now,
            processes: BTreeMap::new(),
            ends: BTreeMap::new(),
            output: BTreeMap::new(),
            sent: Vec::new(),
            asked: Vec::new(),
            answers: BTreeMap::new(),
        };
        let request = client.request("open");
        client.sandbox.open(request);
        client.open();
        client
    }

    fn request(&mut self, what: &'static str) -> RequestId {
        self.asked.push(what);
        RequestId(self.asked.len() as u64)
    }

    fn open(&mut self) {
        self.epoch.0 += 1;
        let opened = LinkFact::Opened(self.epoch, Version::V1);
        self.sandbox.handle_link(opened, self.now);
        self.run();
    }

    fn at(&mut self, now: Instant) {
        self.now = now;
        self.sandbox.handle_timeout(now);
        for process in self.processes.values_mut() {
            process.handle_timeout(now);
        }
        self.run();
    }

    fn receive(&mut self, frame: &str) {
        let frame = frame.to_owned().into();
        self.sandbox.handle_frame(self.epoch, &frame, self.now);
        self.run();
    }

    fn lose(&mut self, cause: LinkError) {
        let lost = LinkFact::Lost { cause, attempts: 0 };
        self.sandbox.handle_link(lost, self.now);
        self.run();
    }

    /// Issues the command for a message that the recorded client sent. Returns `false` if this
    /// crate's client never sends it.
    fn say(&mut self, frame: &str) -> bool {
        let process = self.sandbox.process();
        match ClientMessage::parse_as(frame.as_bytes(), Version::V1) {
            Ok(ClientMessage::Exec(exec)) => {
                let request = self.request("exec");
                let (language, code) = (exec.language, exec.code);
                let plain = language.is_some() && code.is_some() && process.is_none();
                let language = language.unwrap_or_default();
                let code = code.unwrap_or_default();
                let run = NewExec::code(&language, &code);
                if let Some((process, machine)) = self.sandbox.exec(request, run, self.now) {
                    self.processes.insert(process, machine);
                }
                self.run();
                return plain;
            }
            Ok(ClientMessage::Stdin { data: Some(data) }) if process.is_some() => {
                let request = self.request("stdin");
                if let Some(process) = process.and_then(|p| self.processes.get_mut(&p)) {
                    process.write_stdin(request, data.into_owned());
                }
            }
            Ok(ClientMessage::KillProcess) if process.is_some() => {
                let request = self.request("kill process");
                if let Some(process) = process.and_then(|p| self.processes.get_mut(&p)) {
                    process.kill(Some(request), self.now);
                }
            }
            Ok(ClientMessage::KillSandbox) => {
                let request = self.request("kill sandbox");
                self.sandbox.kill(request, self.now);
            }
            Ok(ClientMessage::Checkpoint) => {
                let request = self.request("checkpoint");
                self.sandbox.checkpoint(request, self.now);
            }
            Ok(ClientMessage::SnapshotFilesystem { name: Some(name) }) => {
                let request = self.request("snapshot");
                self.sandbox.snapshot_filesystem(request, &name, self.now);
            }
            // The machine sends this by itself once the sandbox runs.
            Ok(ClientMessage::Reconnect) => {}
            _ => return false,
        }
        self.run();
        true
    }

    fn answer(&mut self, request: RequestId, answer: Result<(), Failure>) {
        let earlier = self.answers.insert(request, answer);
        assert_eq!(earlier, None, "{request:?} was answered twice");
    }

    fn run(&mut self) {
        loop {
            while let Some(action) = self.sandbox.poll_action() {
                match action {
                    SandboxAction::Send(text) => {
                        self.sent.push(serde_json::from_str(&text).expect("JSON"));
                    }
                    SandboxAction::Settle(request, answer) => {
                        self.answer(request, answer.map(drop));
                    }
                    SandboxAction::Tell(process, fact) => {
                        let machine = self.processes.get_mut(&process).expect("a process");
                        machine.handle_fact(fact, self.now);
                    }
                    SandboxAction::Output(process, piece) => {
                        let text = std::str::from_utf8(&piece.data).expect("UTF-8");
                        self.output.entry(process).or_default().push_str(text);
                    }
                    _ => {}
                }
            }
            let next = self
                .processes
                .iter_mut()
                .find_map(|(&id, process)| Some((id, process.poll_action()?)));
            let Some((id, action)) = next else { return };
            match action {
                ProcessAction::Settle(request, answer) => self.answer(request, answer.map(drop)),
                ProcessAction::SendKill => self.sandbox.kill_process(id),
                ProcessAction::SendStdin { number, frame } => {
                    let text = frame.into_text();
                    assert!(self.sandbox.can_send(id));
                    self.sent.push(serde_json::from_str(&text).expect("JSON"));
                    let machine = self.processes.get_mut(&id).expect("a process");
                    machine.handle_fact(ProcessFact::StdinWritten(number), self.now);
                }
                ProcessAction::Ended { end, .. } => {
                    assert_eq!(self.ends.insert(id, end), None, "{id} ended twice");
                    self.sandbox.process_ended(id);
                }
                ProcessAction::StreamEnded(_)
                | ProcessAction::OutputEnded(_)
                | ProcessAction::Settled => {
                    assert!(self.ends.contains_key(&id), "{id} settled before its end");
                }
                ProcessAction::Send(text) => panic!("v1 has no {text}"),
            }
        }
    }
}

/// Replays a recording. Returns the clients in their final state, by the name of the connection on
/// which each started.
fn replay(name: &str) -> BTreeMap<String, Client> {
    let path = format!(
        "{}/tests/transcripts/{name}.jsonl",
        env!("CARGO_MANIFEST_DIR")
    );
    let mut text = std::fs::read_to_string(&path).expect(&path);
    if name == "checkpoint_not_enabled_for_sandbox" {
        // The recorded client requested a checkpoint without enabling checkpoints. This crate's
        // client refuses that, so the test enables them in the recording.
        let enabled = r#"\"idle_timeout\": 60, \"enable_checkpoint\": true"#;
        text = text.replace(r#"\"idle_timeout\": 60"#, enabled);
    }
    let lines: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).expect(line))
        .collect();
    let get = |line: &Value, key: &str| line[key].as_str().unwrap_or_default().to_owned();
    let start = Instant::now();

    let mut clients = BTreeMap::<String, Client>::new();
    // The client of each connection, and the client whose link was cut.
    let mut owners = HashMap::<String, String>::new();
    let mut without_link: Option<String> = None;
    for (number, line) in lines.iter().enumerate() {
        let what = format!("{name}, line {}", number + 1);
        let millis = line["t"].as_u64().expect(&what);
        let now = start + Duration::from_millis(millis);
        clients.values_mut().for_each(|client| client.at(now));
        let conn = get(line, "conn");
        if line["dir"] == "connect" {
            let path = get(line, "path");
            if let Some(owner) = without_link.take() {
                clients.get_mut(&owner).expect(&what).open();
                owners.insert(conn, owner);
                continue;
            }
            let mode = if path == "/create" {
                let first = lines[number..]
                    .iter()
                    .find(|line| line["conn"] == *conn && line["dir"] == "send")
                    .expect(&what);
                let configuration = get(first, "frame");
                Mode::Create(Configuration::parse(configuration.as_bytes()).expect(&what))
            } else {
                let path = path.strip_prefix("/attach/").expect(&what);
                let (id, token) = path.split_once("?sandbox_token=").unwrap_or((path, ""));
                Mode::Attach(id.into(), SandboxToken::new(token))
            };
            owners.insert(conn.clone(), conn.clone());
            clients.insert(conn, Client::new(mode, now));
            continue;
        }
        let Some(client) = owners.get(&conn).and_then(|owner| clients.get_mut(owner)) else {
            panic!("{what}: no connection")
        };
        let address = || "host:1".to_owned();
        match line["dir"].as_str().expect(&what) {
            "recv" => client.receive(&get(line, "frame")),
            "send" => {
                let frame = get(line, "frame");
                let is_configuration = client.sent.len() == 1 && client.epoch == Epoch(1) && {
                    matches!(client.sandbox.state(), SandboxState::Creating)
                };
                if is_configuration || client.say(&frame) {
                    let recorded: Value = serde_json::from_str(&frame).expect(&what);
                    assert_eq!(client.sent.last(), Some(&recorded), "{what}");
                }
            }
            "close" => client.lose(LinkError::Closed {
                code: line["code"].as_u64().and_then(|code| code.try_into().ok()),
                reason: get(line, "reason"),
            }),
            "refused" => client.lose(LinkError::UpgradeRefused(Box::new(UpgradeRefusal {
                address: address(),
                status: 403,
                reason: None,
                location: None,
                retry_after: None,
            }))),
            "cut" => {
                let cause = LinkError::Dropped { detail: what };
                let reconnecting = LinkFact::Reconnecting {
                    attempt: 1,
                    delay: Duration::from_millis(200),
                    cause,
                };
                client.sandbox.handle_link(reconnecting, client.now);
                client.run();
                without_link = owners.get(&conn).cloned();
            }
            "quiet" => {}
            other => panic!("{what}: {other}"),
        }
    }
    clients
}

/// Checks the final states of the clients of a recording, and that each request is answered.
fn check(name: &str, states: &[(&str, &str)], processes: &[(&str, &str)]) {
    let mut clients = replay(name);
    let found: Vec<_> = clients
        .iter()
        .map(|(conn, client)| (conn.clone(), client.sandbox.state().to_string()))
        .collect();
    assert_eq!(found.len(), states.len(), "{name}: {found:#?}");
    for ((conn, state), (expected_conn, expected)) in found.iter().zip(states) {
        assert_eq!(conn, expected_conn, "{name}");
        assert!(state.starts_with(expected), "{name}, {conn}: {state}");
    }
    let mut ended = Vec::new();
    for client in clients.values() {
        for (process, end) in &client.ends {
            let output = client.output.get(process).cloned().unwrap_or_default();
            ended.push((end.to_string(), output));
        }
    }
    assert_eq!(ended.len(), processes.len(), "{name}: {ended:#?}");
    for ((end, output), (expected, part)) in ended.iter().zip(processes) {
        assert!(end.starts_with(expected), "{name}: {end}");
        assert!(
            output.contains(part) && part.is_empty() == output.is_empty(),
            "{name}: {output}"
        );
    }
    for (conn, client) in &mut clients {
        client.lose(LinkError::ActorGone);
        for request in 1..=client.asked.len() {
            let what = client.asked[request - 1];
            let answer = client.answers.get(&RequestId(request as u64));
            assert!(answer.is_some(), "{name}, {conn}: no answer to {what}");
        }
        assert_eq!(client.sandbox.poll_timeout(), None, "{name}, {conn}");
        for process in client.processes.keys() {
            assert!(client.ends.contains_key(process), "{name}, {conn}");
        }
    }
}

/// Returns the error texts of all failed requests of one kind, for all clients.
fn failures(name: &str, what: &str) -> Vec<String> {
    let mut failures = Vec::new();
    for client in replay(name).values() {
        for (request, answer) in &client.answers {
            if client.asked[request.0 as usize - 1] == what
                && let Err(failure) = answer
            {
                failures.push(failure.to_string());
            }
        }
    }
    failures
}

const KILLED: &str = "over: it was killed";
const DONE: &str = "ended (protocol v1";

#[test]
fn every_recording_is_replayed() {
    let directory = format!("{}/tests/transcripts", env!("CARGO_MANIFEST_DIR"));
    let source = include_str!("replay_machine.rs");
    for entry in std::fs::read_dir(directory).expect("the recordings") {
        let path = entry.expect("an entry").path();
        let stem = path
            .file_stem()
            .expect("a name")
            .to_string_lossy()
            .into_owned();
        assert!(
            source.contains(&format!("check(\n        \"{stem}\""))
                || source.contains(&format!("check(\"{stem}\"")),
            "{stem}"
        );
    }
}

#[test]
fn attach_errors_are_told_apart() {
    check(
        "attach_errors",
        &[
            ("A", "running"),
            ("B", "over: another client is attached (SANDBOX_IN_USE)"),
            ("C", "over: no sandbox has this id (SANDBOX_NOT_FOUND)"),
            (
                "D",
                "over: the connection was lost: host:1 refused the WebSocket upgrade with HTTP status 403",
            ),
            (
                "E",
                "over: SANDBOX_PERMISSION_DENIAL_ERROR: Invalid sandbox token.",
            ),
            ("F", KILLED),
        ],
        &[(DONE, "attached\n")],
    );
    assert_eq!(failures("attach_errors", "open").len(), 4);
}

#[test]
fn a_checkpoint_waits_for_execs_and_can_be_restored() {
    check(
        "checkpoint_and_restore",
        &[("A", "over: it was checkpointed"), ("B", KILLED)],
        &[(DONE, ""), (DONE, "done\n"), (DONE, "hello\n")],
    );
    let failures = failures("checkpoint_and_restore", "checkpoint");
    assert_eq!(failures.len(), 1);
    assert!(failures[0].contains("Cannot checkpoint while an execution is in progress."));
}

#[test]
fn a_checkpoint_not_enabled_ends_the_session_with_the_reason() {
    check(
        "checkpoint_not_enabled_for_sandbox",
        &[(
            "A",
            "over: SANDBOX_CHECKPOINT_ERROR: Failed to checkpoint sandbox",
        )],
        &[],
    );
    let failures = failures("checkpoint_not_enabled_for_sandbox", "checkpoint");
    assert!(failures[0].contains("is not configured for checkpointing."));
}

#[test]
fn creation_errors_carry_the_reason() {
    let error = "over: SANDBOX_CREATION_ERROR:";
    check(
        "create_errors",
        &[("A0", error), ("A1", error), ("A2", error)],
        &[],
    );
    let failures = failures("create_errors", "open");
    for (failure, part) in failures.iter().zip([
        "Filesystem snapshot not found at",
        "Sandbox handoff requires checkpointing",
        "Idle timeout auto checkpoint requires checkpointing",
    ]) {
        assert!(failure.contains(part), "{failure}");
    }
}

#[test]
fn several_execs_run_in_sequence() {
    check(
        "exec_python_and_bash",
        &[("A", KILLED)],
        &[
            (DONE, "hi\nerr\n"),
            (DONE, "a\nb\n"),
            (DONE, "ValueError: boom\n"),
        ],
    );
}

#[test]
fn a_failed_snapshot_leaves_the_sandbox_alive() {
    check(
        "filesystem_snapshot_failure",
        &[("A", KILLED)],
        &[(DONE, "alive\n")],
    );
    let failures = failures("filesystem_snapshot_failure", "snapshot");
    assert!(
        failures[0].contains("Failed to snapshot filesystem"),
        "{failures:?}"
    );
}

#[test]
fn a_handoff_ends_the_old_session_and_can_fail_for_the_new() {
    check(
        "handoff",
        &[
            ("A", "over: another client took it over"),
            (
                "B",
                "over: SANDBOX_RESTORE_ERROR: Failed to restore sandbox",
            ),
        ],
        &[(DONE, "")],
    );
}

#[test]
fn a_sandbox_deleted_while_idle_is_gone() {
    check(
        "idle_timeout_delete",
        &[
            ("A", "over: the server deleted it"),
            ("B", "over: no sandbox has this id (SANDBOX_NOT_FOUND)"),
        ],
        &[],
    );
}

#[test]
fn stray_answers_while_idle_disturb_nothing() {
    check("kill_process_when_idle", &[("A", KILLED)], &[]);
}

#[test]
fn output_that_the_server_loses_loses_nothing_else() {
    check(
        "large_and_unicode_output",
        &[("A", KILLED)],
        &[(DONE, "xxx"), (DONE, ""), (DONE, "")],
    );
    let clients = replay("large_and_unicode_output");
    let output = &clients["A"].output[&ProcessId(1)];
    assert!(output.starts_with(&"x".repeat(5000)) && output.ends_with('\n'));
}

#[test]
fn a_close_without_a_close_frame_is_a_lost_link() {
    let lost = "over: the connection was lost: the server closed the connection with code 1006";
    check("malformed_frames", &[("A", lost), ("B", lost)], &[]);
}

#[test]
fn the_end_of_an_exec_arrives_though_it_came_during_the_outage() {
    check(
        "reconnect_after_exec_ended",
        &[("A", KILLED)],
        &[(DONE, "tail\n")],
    );
}

#[test]
fn output_goes_on_in_order_after_an_outage() {
    let all: String = (1..=20).map(|n| format!("L{n}\n")).collect();
    let clients = replay("reconnect_mid_stream");
    let output = &clients["A"].output[&ProcessId(1)];
    let mut rest = all.lines();
    assert!(
        output.lines().all(|line| rest.any(|other| other == line)),
        "{output}"
    );
    assert!(output.ends_with("L20\n"));
    check(
        "reconnect_mid_stream",
        &[("A", KILLED)],
        &[(DONE, "L20\n"), (DONE, "after\n")],
    );
}

#[test]
fn a_second_exec_is_refused_and_the_first_goes_on() {
    check(
        "second_exec_while_running",
        &[("A", KILLED)],
        &[(DONE, "first\n")],
    );
    let failures = failures("second_exec_while_running", "exec");
    assert_eq!(failures.len(), 1);
    assert!(failures[0].contains("a process is running in the sandbox"));
}

#[test]
fn a_late_force_killed_does_not_end_the_next_process() {
    check(
        "stdin_and_kill_process",
        &[("A", KILLED)],
        &[
            ("killed", "got line 0\ngot line 1\ngot line 2\n"),
            (DONE, "next\n"),
        ],
    );
    assert!(failures("stdin_and_kill_process", "kill process").is_empty());
}

#[test]
fn an_unsupported_language_keeps_the_sandbox_running() {
    let refused = (DONE, "");
    check(
        "unsupported_language",
        &[("A", KILLED)],
        &[refused, refused, refused, (DONE, "still alive\n")],
    );
    let failures = failures("unsupported_language", "exec");
    assert_eq!(failures.len(), 3);
    assert!(failures[0].contains("Supported languages are: python, bash"));
}
