//! The tunnel against a service and a program that the tests play.
#![allow(
    clippy::disallowed_methods,
    reason = "any instant will do as the origin of virtual time"
)]

use serde_json::Value;

use super::*;
use crate::{lift::program::LOADER, protocol::Piece};

const HELLO: &str = r#"{"lift":"hello","version":1,"features":["builtins"],"program":"p1"}"#;
const EXEC: &str = r#"{"language":"bash","code":"true","exec":"a"}"#;

struct World {
    tunnel: Tunnel,
    now: Instant,
    /// The name of the link in the last greeting, and the number of the program's next line.
    link: String,
    number: u64,
}

impl World {
    fn new(is_new: bool) -> Self {
        Self::with(is_new, RequestedExecs::default())
    }

    fn with(is_new: bool, earlier: RequestedExecs) -> Self {
        let now = Instant::now();
        let config = TunnelConfig {
            link: "f00d".to_owned(),
            idle_timeout: Some(Duration::from_secs(60)),
            is_new,
            link_silence: Duration::from_secs(30),
        };
        Self {
            tunnel: Tunnel::new(config, earlier, now),
            now,
            link: String::new(),
            number: 0,
        }
    }

    /// A new sandbox whose program answers.
    fn up() -> Self {
        Self::up_with(RequestedExecs::default(), HELLO)
    }

    fn up_with(asked: RequestedExecs, hello: &str) -> Self {
        let mut world = Self::with(true, asked);
        world.status("SANDBOX_RUNNING");
        world.actions();
        world.status("SANDBOX_EXECUTION_RUNNING");
        world.greeted();
        world.line(hello);
        let running = world.actions();
        assert!(running[0].contains("SANDBOX_RUNNING"), "{running:?}");
        world
    }

    /// Reads the greeting among the actions.
    fn greeted(&mut self) {
        let actions = self.actions();
        let hello = actions.last().expect("a greeting");
        let hello = hello.strip_prefix("stdin 0 ").expect("line 0");
        let hello: Value = serde_json::from_str(hello).expect("JSON");
        assert_eq!(hello["lift"], "hello");
        assert_eq!(hello["idle_timeout_ms"], 60_000);
        self.link = hello["link"].as_str().expect("a name").to_owned();
        self.number = 0;
    }

    fn frame(&mut self, frame: &str) {
        let frame = Bytes::copy_from_slice(frame.as_bytes());
        self.tunnel.handle_frame(&frame, self.now);
    }

    fn status(&mut self, status: &str) {
        let frame = serde_json::json!({ "event": "status_update", "status": status });
        self.frame(&frame.to_string());
    }

    fn error(&mut self, status: &str, reason: &str) {
        self.status(status);
        let frame = serde_json::json!({ "event": "error", "message": reason });
        self.frame(&frame.to_string());
    }

    fn output(&mut self, text: &str) {
        let frame = serde_json::json!({ "event": "stdout", "data": text });
        self.frame(&frame.to_string());
    }

    fn line(&mut self, json: &str) {
        let line = format!("{} {} {json}\n", self.link, self.number);
        self.number += 1;
        self.output(&line);
    }

    fn request(&mut self, json: &str) {
        let now = self.now;
        self.tunnel
            .handle_request(json.to_owned().into(), None, now);
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        self.tunnel.handle_timeout(self.now);
    }

    /// The actions as text: `stdin …`, `send …`, `deliver …`, `fail …`, `lose …`.
    fn actions(&mut self) -> Vec<String> {
        std::iter::from_fn(|| self.tunnel.poll_action())
            .map(|action| match action {
                TunnelAction::Send(frame, _) => {
                    let text = frame.into_text();
                    let json: Value = serde_json::from_str(&text).expect("JSON");
                    match (json["event"].as_str(), json["code"].as_str()) {
                        (Some("stdin"), _) => {
                            format!("stdin {}", json["data"].as_str().expect("text").trim_end())
                        }
                        (_, Some(code)) if code == LOADER => "send loader".to_owned(),
                        _ => format!("send {text}"),
                    }
                }
                TunnelAction::Deliver(frame) => match Piece::read(&frame) {
                    Some(piece) => format!("deliver {}", piece.to_text()),
                    None => format!("deliver {}", String::from_utf8_lossy(&frame)),
                },
                TunnelAction::Fail(reason) => format!("fail {reason}"),
                TunnelAction::Lose(cause) => format!("lose {cause}"),
            })
            .collect()
    }

    /// The only action.
    fn action(&mut self) -> String {
        let mut actions = self.actions();
        assert_eq!(actions.len(), 1, "{actions:?}");
        actions.remove(0)
    }
}

#[test]
fn a_sandbox_runs_once_its_program_answers() {
    let mut world = World::new(true);
    world.request(r#"{"idle_timeout":60}"#);
    assert_eq!(world.action(), r#"send {"idle_timeout":60}"#);
    world.status("SANDBOX_CREATING");
    assert!(world.action().contains("SANDBOX_CREATING"));
    world.status("SANDBOX_RUNNING");
    assert_eq!(world.action(), "send loader");
    world.status("SANDBOX_EXECUTION_RUNNING");
    world.greeted();
    world.line(HELLO);
    assert_eq!(
        world.action(),
        r#"deliver {"event":"status_update","status":"SANDBOX_RUNNING","features":["builtins"]}"#
    );
}

#[test]
fn messages_about_execs_pass_and_output_arrives_as_bytes() {
    let mut world = World::up();
    world.request(EXEC);
    assert_eq!(world.action(), format!("stdin 1 {EXEC}"));
    let running = r#"{"event":"status_update","status":"SANDBOX_EXECUTION_RUNNING","exec":"a"}"#;
    world.line(running);
    assert_eq!(world.action(), format!("deliver {running}"));
    world.line(r#"{"event":"stdout","exec":"a","offset":3,"data_b64":"AP8=","eof":true}"#);
    assert_eq!(
        world.action(),
        r#"deliver {"event":"stdout","exec":"a","offset":3,"data_b64":"AP8=","eof":true}"#
    );
    world.request(r#"{"action":"snapshot_filesystem","name":"s"}"#);
    assert!(world.action().starts_with("send "));
    world.request(r#"{"action":"reconnect"}"#);
    assert_eq!(world.actions(), [""; 0]);
}

#[test]
fn another_client_finds_the_program() {
    let mut world = World::new(false);
    world.status("SANDBOX_RUNNING");
    assert_eq!(world.action(), "send loader");
    world.error("SANDBOX_EXECUTION_ERROR", "in progress");
    assert_eq!(world.action(), r#"send {"action":"reconnect"}"#);
    world.status("SANDBOX_EXECUTION_RUNNING");
    world.greeted();
    world.output("the rest of a line\nold 9 {}\n");
    world.line(HELLO);
    assert!(world.action().contains("SANDBOX_RUNNING"));
}

#[test]
fn the_program_starts_when_the_exec_in_its_way_ends() {
    let mut world = World::new(false);
    world.status("SANDBOX_RUNNING");
    world.error("SANDBOX_EXECUTION_ERROR", "in progress");
    world.actions();
    world.status("SANDBOX_EXECUTION_RUNNING");
    world.actions();
    world.status("SANDBOX_EXECUTION_DONE");
    assert_eq!(world.action(), "send loader");
    world.status("SANDBOX_EXECUTION_RUNNING");
    world.greeted();
    assert_eq!(world.link, "f00dx1");
    world.line(HELLO);
    assert!(world.action().contains("SANDBOX_RUNNING"));
}

#[test]
fn a_failed_start_reports_its_reason() {
    let mut world = World::new(true);
    world.status("SANDBOX_RUNNING");
    world.actions();
    world.error("SANDBOX_EXECUTION_ERROR", "python3: not found");
    assert!(world.action().ends_with("python3: not found"));

    let mut world = World::new(true);
    world.status("SANDBOX_RUNNING");
    world.status("SANDBOX_EXECUTION_RUNNING");
    world.actions();
    world.output("Python 3.8 or newer is required; the sandbox has Python 3.6.9\n");
    world.status("SANDBOX_EXECUTION_DONE");
    assert!(world.action().ends_with("has Python 3.6.9"));

    let mut world = World::new(false);
    world.status("SANDBOX_RUNNING");
    world.error("SANDBOX_EXECUTION_ERROR", "in progress");
    world.status("SANDBOX_EXECUTION_RUNNING");
    world.actions();
    world.pass(START_TIMEOUT);
    let why = world.action();
    assert!(
        why.contains("(in progress)") && why.contains("a client without the lift"),
        "{why}"
    );

    let mut world = World::new(false);
    world.status("SANDBOX_RUNNING");
    world.error("SANDBOX_EXECUTION_ERROR", "no memory");
    world.actions();
    world.error("SANDBOX_ERROR", "No process is running in the sandbox.");
    assert!(world.actions()[0].ends_with("no memory"));

    let mut world = World::new(true);
    world.status("SANDBOX_RUNNING");
    world.status("SANDBOX_EXECUTION_RUNNING");
    world.greeted();
    world.line(r#"{"lift":"hello","version":2}"#);
    assert!(world.action().contains("started version 2 of it"));
}

#[test]
fn damaged_lines_lose_the_link() {
    let mut world = World::up();
    world.number = 5;
    world.line("{}");
    assert!(world.action().contains("got line 5, expected line 1"));
    for json in ["[", r#"{"lift":3}"#, r#"{"event":"error","message":"x"}"#] {
        let mut world = World::up();
        world.line(json);
        assert!(world.action().starts_with("lose "), "{json}");
    }
}

#[test]
fn a_forged_sandbox_status_loses_the_link() {
    for json in [
        r#"{"event":"status_update","status":"SANDBOX_KILLED"}"#,
        r#"{"event":"status_update","status":"SANDBOX_KILLED","exec":"a"}"#,
    ] {
        let mut world = World::up();
        world.line(json);
        assert!(world.action().starts_with("lose "), "{json}");
    }
}

#[test]
fn a_killed_program_loses_its_execs_and_starts_again() {
    let mut world = World::up();
    world.request(EXEC);
    world.actions();
    world.status("SANDBOX_EXECUTION_DONE");
    let lost = world.action();
    assert!(
        lost.contains(r#""exec":"a""#) && lost.contains("sandbox_lost"),
        "{lost}"
    );
    assert!(lost.contains("it was killed"), "{lost}");
    world.request(r#"{"action":"kill_process","exec":"a"}"#);
    assert!(world.action().contains("FORCE_KILLED"));
    world.request(r#"{"event":"ack","exec":"a","done":true}"#);
    assert_eq!(world.actions(), [""; 0]);
    let other = EXEC.replace("\"a\"", "\"b\"");
    world.request(&other);
    assert_eq!(world.action(), "send loader");
    world.status("SANDBOX_EXECUTION_RUNNING");
    world.greeted();
    world.line(HELLO);
    assert_eq!(world.action(), format!("stdin 1 {other}"));
}

#[test]
fn a_request_that_an_idle_program_did_not_read_is_sent_again() {
    let mut world = World::up();
    world.line(r#"{"lift":"bye","bytes":70}"#);
    world.request(EXEC);
    world.actions();
    world.status("SANDBOX_EXECUTION_DONE");
    assert_eq!(world.action(), "send loader");
    world.status("SANDBOX_EXECUTION_RUNNING");
    world.greeted();
    world.line(HELLO);
    assert_eq!(world.action(), format!("stdin 1 {EXEC}"));
}

#[test]
fn a_program_that_cannot_start_again_refuses_the_requests() {
    let mut world = World::up();
    world.status("SANDBOX_EXECUTION_DONE");
    world.request(EXEC);
    world.request(&EXEC.replace("language", "x").replace("code", "y"));
    world.request(r#"{"action":"reconnect","exec":"b"}"#);
    world.actions();
    world.error("SANDBOX_EXECUTION_ERROR", "no memory");
    let answers = world.actions();
    assert!(answers[0].contains("SANDBOX_EXECUTION_ERROR") && answers[0].contains("no memory"));
    assert!(answers.last().is_some_and(|it| it.contains("sandbox_lost")));
}

#[test]
fn a_checkpoint_waits_for_the_program_and_fails_while_execs_run() {
    let mut world = World::up();
    world.request(r#"{"action":"checkpoint"}"#);
    assert_eq!(world.action(), r#"stdin 1 {"lift":"stop"}"#);
    world.line(r#"{"lift":"busy","execs":2}"#);
    let refused = world.action();
    assert!(refused.contains("EXECUTION_IN_PROGRESS_ERROR") && refused.contains("(2)"));

    world.request(r#"{"action":"checkpoint"}"#);
    world.actions();
    world.line(r#"{"lift":"bye","bytes":99}"#);
    world.status("SANDBOX_EXECUTION_DONE");
    assert_eq!(world.action(), r#"send {"action":"checkpoint"}"#);
    world.status("SANDBOX_CHECKPOINTED");
    assert!(world.action().contains("CHECKPOINTED"));
}

#[test]
fn input_travels_in_the_shorter_form() {
    let mut world = World::up();
    let input = |data: &str| {
        let data = Value::from(data);
        format!(r#"{{"event":"stdin","exec":"a","offset":0,"data":{data}}}"#)
    };
    world.request(&input("a line of text\n"));
    assert!(world.action().contains(r#""data":"a line of text\n""#));
    world.request(&input("\0\0\0"));
    assert!(world.action().contains(r#""data_b64":"AAAA""#));
    let piece = Piece {
        stream: None,
        exec: "a",
        offset: 0,
        data: b"\0\0\0",
        eof: true,
    };
    let now = world.now;
    world.tunnel.handle_request(piece.encode(), None, now);
    let sent = world.action();
    assert!(sent.contains(r#""data_b64":"AAAA","eof":true"#), "{sent}");
}

#[test]
fn the_program_ends_before_its_sandbox_is_killed() {
    let kill = r#"{"action":"kill_sandbox"}"#;
    let mut world = World::up();
    world.request(kill);
    assert_eq!(world.action(), r#"stdin 1 {"lift":"quit"}"#);
    world.status("SANDBOX_EXECUTION_DONE");
    assert_eq!(world.action(), format!("send {kill}"));
    // A program that doesn't end delays the kill only shortly.
    let mut world = World::up();
    world.request(kill);
    world.actions();
    world.pass(QUIT_TIMEOUT);
    assert_eq!(world.action(), format!("send {kill}"));
    // Without a program, nothing delays it.
    let mut world = World::new(true);
    world.request(kill);
    assert_eq!(world.action(), format!("send {kill}"));
}

#[test]
fn input_that_the_service_cannot_write_ends_no_session() {
    let mut world = World::up();
    world.request(EXEC);
    world.actions();
    world.error("SANDBOX_ERROR", "Cannot write to closing transport");
    assert_eq!(world.actions(), [""; 0]);
    world.status("SANDBOX_EXECUTION_DONE");
    assert!(world.action().contains("sandbox_lost"));
}

/// The time after which a program that doesn't answer a ping is killed.
const PATIENCE: Duration = Duration::from_secs(40);

#[test]
fn a_program_that_hangs_is_killed() {
    let mut world = World::up();
    assert_eq!(world.tunnel.poll_timeout(), None);
    world.request(EXEC);
    world.actions();
    // A ping also tells the program that the client is there, whatever the program prints.
    for number in 2..5 {
        world.line(r#"{"lift":"pong"}"#);
        world.pass(PING_EVERY);
        assert_eq!(
            world.action(),
            format!(r#"stdin {number} {{"lift":"ping"}}"#)
        );
    }
    world.pass(PATIENCE);
    assert_eq!(world.action(), r#"send {"action":"kill_process"}"#);
    world.status("SANDBOX_EXECUTION_FORCE_KILLED");
    world.status("SANDBOX_EXECUTION_DONE");
    assert!(world.action().contains("did not answer for 40s"));
    // A service that doesn't confirm the kill delays no caller.
    let mut world = World::up();
    world.request(EXEC);
    for time in [PING_EVERY, PATIENCE, KILL_TIMEOUT] {
        world.pass(time);
    }
    let lost = world.actions().pop().expect("an action");
    assert!(lost.contains("sandbox_lost"), "{lost}");
}

#[test]
fn a_suspended_client_still_waits_for_the_pong() {
    let mut world = World::up();
    world.request(EXEC);
    world.actions();
    world.pass(Duration::from_secs(3_600));
    assert_eq!(world.action(), r#"stdin 2 {"lift":"ping"}"#);
    world.pass(Duration::from_secs(1));
    assert_eq!(world.actions(), [""; 0]);
}

#[test]
fn a_checkpoint_of_a_program_that_hangs_is_made_after_its_kill() {
    let mut world = World::up();
    world.request(r#"{"action":"checkpoint"}"#);
    for time in [PING_EVERY, PATIENCE] {
        world.pass(time);
    }
    world.actions();
    world.status("SANDBOX_EXECUTION_DONE");
    assert_eq!(world.action(), r#"send {"action":"checkpoint"}"#);
}

#[test]
fn an_exec_that_an_old_program_may_have_run_is_lost() {
    let mut world = World::up();
    world.request(EXEC);
    let asked = world.tunnel.into_requested();
    // The same program knows whether it has run the exec.
    let mut world = World::up_with(asked.clone(), HELLO);
    world.request(EXEC);
    assert_eq!(world.action(), format!("stdin 1 {EXEC}"));
    // But not another one.
    let mut world = World::up_with(asked.clone(), &HELLO.replace("p1", "p2"));
    world.request(EXEC);
    assert!(world.action().contains("sandbox_lost"));
    // The same if the program ends before it has read the repeated request.
    let mut world = World::up_with(asked, HELLO);
    world.line(r#"{"lift":"bye","bytes":70}"#);
    world.request(EXEC);
    world.status("SANDBOX_EXECUTION_DONE");
    assert!(world.action().contains("sandbox_lost"));
    // A request that was never sent may be sent to any program.
    let mut world = World::up();
    world.line(r#"{"lift":"bye","bytes":70}"#);
    world.request(EXEC);
    let asked = world.tunnel.into_requested();
    let mut world = World::up_with(asked, &HELLO.replace("p1", "p2"));
    world.request(EXEC);
    assert_eq!(world.action(), format!("stdin 1 {EXEC}"));
}

#[test]
fn a_late_refusal_of_input_does_not_fail_the_next_start() {
    let mut world = World::up();
    world.status("SANDBOX_EXECUTION_DONE");
    world.request(EXEC);
    assert_eq!(world.action(), "send loader");
    world.error(
        "SANDBOX_EXECUTION_ERROR",
        "No process is running in the sandbox.",
    );
    assert_eq!(world.actions(), [""; 0]);
    world.status("SANDBOX_EXECUTION_RUNNING");
    world.greeted();
    world.line(HELLO);
    assert_eq!(world.action(), format!("stdin 1 {EXEC}"));
}

#[test]
fn a_late_answer_to_reconnect_does_not_count_as_a_start() {
    let mut world = World::new(false);
    world.status("SANDBOX_RUNNING");
    world.error("SANDBOX_EXECUTION_ERROR", "in progress");
    world.actions();
    world.status("SANDBOX_EXECUTION_DONE");
    assert_eq!(world.actions(), [""; 0]);
    // The answer to `reconnect`.
    world.status("SANDBOX_EXECUTION_RUNNING");
    assert_eq!(world.action(), "send loader");
    world.status("SANDBOX_EXECUTION_RUNNING");
    world.greeted();
    world.line(HELLO);
    assert!(world.action().contains("SANDBOX_RUNNING"));
}

#[test]
fn an_oversized_request_is_refused_at_once() {
    let mut world = World::up();
    let code = "x".repeat(MAX_MESSAGE_BYTES);
    world.request(&EXEC.replace("true", &code));
    let refused = world.action();
    assert!(refused.contains("accepts at most 16777"), "{refused}");
}

#[test]
fn a_malformed_request_is_answered_by_the_program() {
    let mut world = World::up();
    // The program starts if it has to, and says what is wrong.
    world.status("SANDBOX_EXECUTION_DONE");
    world.request(r#"{"language":"bash","code":"","exec":"m","args":3}"#);
    assert_eq!(world.action(), "send loader");
}

#[test]
fn a_forged_refusal_of_a_running_exec_does_not_hide_its_loss() {
    let mut world = World::up();
    world.request(EXEC);
    let status = |status| {
        format!(r#"{{"event":"status_update","status":"SANDBOX_EXECUTION_{status}","exec":"a"}}"#)
    };
    world.line(&status("RUNNING"));
    world.actions();
    world.line(&status("ERROR"));
    assert_eq!(world.actions(), [""; 0]);
    world.status("SANDBOX_EXECUTION_DONE");
    assert!(world.action().contains("sandbox_lost"));
}

#[test]
fn foreign_output_is_ignored_and_takes_no_memory() {
    let mut world = World::up();
    for _ in 0..1_000 {
        let noise = "x\n".repeat(5_000);
        world.output(&noise);
        world.frame(r#"{"event":"stderr","data":"noise"}"#);
    }
    assert_eq!(world.actions(), [""; 0]);
    assert!(world.tunnel.tail.len() <= TAIL_BYTES);
    world.request(EXEC);
    assert_eq!(world.actions().len(), 1);
}
