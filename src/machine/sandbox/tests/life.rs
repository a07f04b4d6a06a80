//! Create, attach, fatal statuses, malformed frames, detach.

use super::*;
use crate::machine::ProcessEnd;

const FATAL: &[&str] = &[
    "SANDBOX_CREATION_ERROR",
    "SANDBOX_NOT_FOUND",
    "SANDBOX_PERMISSION_DENIAL_ERROR",
    "SANDBOX_RESTORE_ERROR",
    "SANDBOX_CHECKPOINT_ERROR",
    "SANDBOX_LOCK_RENEWAL_ERROR",
    "SANDBOX_ERROR",
];

/// Every state in which a link is open.
fn every_state() -> Vec<(SandboxState, Fixture)> {
    let creating = Fixture::creating().0;
    let attaching = Fixture::attaching().0;
    let running = Fixture::executing();
    let mut reconnecting = Fixture::reconnecting();
    reconnecting.link();
    let mut checkpointing = Fixture::running();
    checkpointing.checkpoint();
    checkpointing.say("SANDBOX_CHECKPOINTING");
    let mut killing = Fixture::running();
    killing.kill();
    [
        (SandboxState::Creating, creating),
        (SandboxState::Attaching, attaching),
        (SandboxState::Running, running),
        (SandboxState::Reconnecting, reconnecting),
        (SandboxState::Checkpointing, checkpointing),
        (SandboxState::Killing, killing),
    ]
    .into_iter()
    .map(|(state, fixture)| {
        assert_eq!(fixture.state(), state);
        (state, fixture)
    })
    .collect()
}

fn assert_over(fixture: &mut Fixture, what: &str) {
    let control = fixture.control();
    assert_eq!(control.last(), Some(&CLOSE), "{what}: {control:?}");
    assert!(control.contains(&DISABLE_RECONNECT), "{what}: {control:?}");
    assert_eq!(fixture.sandbox.poll_timeout(), None, "{what}");
    assert_eq!(
        fixture.answers.len() as u64,
        fixture.requests,
        "{what}: a request without an answer"
    );
    let ends = fixture.events();
    let ends = ends.iter().filter(|e| matches!(e, SandboxEvent::Ended(_)));
    assert_eq!(ends.count(), 1, "{what}");
}

#[test]
fn create_sends_its_configuration_and_answers_when_the_sandbox_runs() {
    let config = Configuration {
        idle_timeout: Some(60),
        ..Configuration::default()
    };
    let mut fixture = Fixture::new(Mode::Create(config));
    let open = fixture.ask(Sandbox::open);
    assert_eq!(fixture.sent(), [""; 0], "nothing without a link");
    fixture.link();
    assert_eq!(fixture.sent(), [r#"{"idle_timeout":60}"#]);
    fixture.say("SANDBOX_CREATING");
    fixture.frame(IDENTITY);
    assert_eq!(fixture.control(), [Control::Resume("sandbox-1".into())]);
    assert_eq!(fixture.answer(open), None);
    fixture.say("SANDBOX_RUNNING");
    assert_eq!(fixture.answer(open), Some(Ok(SandboxReply::Ready)));
    assert_eq!(fixture.control(), [confirm(1)]);
    let late = fixture.ask(Sandbox::open);
    assert_eq!(fixture.answer(late), Some(Ok(SandboxReply::Ready)));
    assert_eq!(fixture.sandbox.poll_timeout(), None);
}

#[test]
fn attach_sends_nothing_and_answers_after_a_restore() {
    let (mut fixture, open) = Fixture::attaching();
    fixture.say_all("RESTORING LOCK_ACQUIRING LOCK_ACQUIRED");
    assert_eq!(fixture.answer(open), None);
    fixture.say("SANDBOX_RUNNING");
    assert_eq!(fixture.answer(open), Some(Ok(SandboxReply::Ready)));
    assert_eq!(fixture.sent(), [""; 0]);
    assert_eq!(fixture.control(), [confirm(1)]);
}

#[test]
fn every_fatal_status_ends_every_state_with_the_reason() {
    for status in FATAL {
        for (state, mut fixture) in every_state() {
            let what = format!("{status} while {state}");
            fixture.say_because(status, "the reason");
            let expected = SandboxEnd::Failed {
                status: Status::from_wire(status),
                reason: (*status != "SANDBOX_NOT_FOUND").then(|| "the reason".to_owned()),
            };
            assert_eq!(fixture.end(), Some(expected), "{what}");
            assert_over(&mut fixture, &what);
        }
    }
}

#[test]
fn attach_errors_are_told_apart() {
    for (status, reason) in [
        ("SANDBOX_NOT_FOUND", None),
        ("SANDBOX_IN_USE", None),
        ("SANDBOX_RESTORE_ERROR", Some("why")),
        ("SANDBOX_PERMISSION_DENIAL_ERROR", Some("why")),
    ] {
        let (mut fixture, open) = Fixture::attaching();
        fixture.say(status);
        if let Some(reason) = reason {
            fixture.reason(reason);
        }
        let end = SandboxEnd::Failed {
            status: Status::from_wire(status),
            reason: reason.map(str::to_owned),
        };
        assert!(
            matches!(fixture.failure(open), Failure::NotOpened { end: e } if e == end),
            "{status}"
        );
        assert_over(&mut fixture, status);
    }
}

#[test]
fn a_reason_in_the_status_itself_counts_at_once() {
    let (mut fixture, _) = Fixture::creating();
    fixture.frame(
        r#"{"event":"status_update","status":"SANDBOX_CREATION_ERROR","message":"no room"}"#,
    );
    let end = fixture.end().expect("ended").to_string();
    assert_eq!(end, "SANDBOX_CREATION_ERROR: no room");
}

#[test]
fn a_reason_that_never_comes_is_waited_for_one_second() {
    let (mut fixture, open) = Fixture::creating();
    fixture.say("SANDBOX_CREATION_ERROR");
    assert_eq!(fixture.answer(open), None);
    assert_eq!(fixture.pass_until_due(), Duration::from_secs(1));
    assert_eq!(
        fixture.end().expect("ended").to_string(),
        "SANDBOX_CREATION_ERROR"
    );
    assert!(fixture.answer(open).is_some());
    assert_over(&mut fixture, "no reason");
}

#[test]
fn a_reason_that_comes_late_is_an_event() {
    let mut fixture = Fixture::executing();
    fixture.say("SANDBOX_STDIN_ERROR");
    fixture.pass_until_due();
    fixture.reason("too late");
    assert!(
        fixture
            .events()
            .contains(&SandboxEvent::Reason("too late".into()))
    );
    assert_eq!(fixture.state(), SandboxState::Running);
}

#[test]
fn each_error_status_has_its_own_wait_for_its_reason() {
    let mut fixture = Fixture::running();
    let exec = fixture.exec();
    fixture.say("SANDBOX_STDIN_ERROR");
    fixture.pass(Duration::from_millis(900));
    fixture.say("SANDBOX_EXECUTION_ERROR");
    fixture.pass(Duration::from_millis(900));
    assert_eq!(fixture.answer(exec), None);
    fixture.reason("no shell");
    assert!(fixture.says(exec).contains("no shell"));
}

#[test]
fn a_fatal_status_that_waits_for_its_reason_outlives_the_link() {
    let held = |mut fixture: Fixture| {
        fixture.say("SANDBOX_ERROR");
        fixture
    };
    let mut lost = held(Fixture::executing());
    lost.lose();
    let mut cut = held(Fixture::executing());
    cut.cut();
    let mut malformed = held(Fixture::executing());
    malformed.frame("garbage");
    let mut replaced = held(Fixture::executing());
    replaced.say("SANDBOX_STDIN_ERROR");
    for (what, mut fixture) in [
        ("lost", lost),
        ("cut", cut),
        ("malformed", malformed),
        ("replaced", replaced),
    ] {
        let end = SandboxEnd::Failed {
            status: Status::SandboxError,
            reason: None,
        };
        assert_eq!(fixture.end(), Some(end), "{what}");
        assert_over(&mut fixture, what);
    }
}

#[test]
fn the_last_words_of_the_server_are_a_better_reason_than_its_silence() {
    let (mut fixture, _) = Fixture::creating();
    fixture.pass(Duration::from_millis(59_500));
    fixture.say("SANDBOX_CREATION_ERROR");
    fixture.pass_until_due();
    assert_eq!(
        fixture.end().expect("ended").to_string(),
        "SANDBOX_CREATION_ERROR"
    );
}

#[test]
fn a_sandbox_that_does_not_get_ready_in_time_is_an_error() {
    for (mut fixture, open) in [Fixture::creating(), Fixture::attaching()] {
        assert_eq!(fixture.pass_until_due(), Duration::from_secs(60));
        assert!(matches!(fixture.end(), Some(SandboxEnd::NotReady { .. })));
        assert!(
            fixture
                .says(open)
                .contains("no SANDBOX_RUNNING within 60s of the connection")
        );
        assert_over(&mut fixture, "not ready");
    }
}

#[test]
fn an_early_close_fails_create_and_attach_once() {
    for (mut fixture, open) in [Fixture::creating(), Fixture::attaching()] {
        fixture.lose();
        fixture.lose();
        assert!(
            fixture
                .says(open)
                .contains("cannot open the sandbox: the connection broke: cut")
        );
        assert_over(&mut fixture, "early close");
    }
    let mut refused = Fixture::new(Mode::Create(Configuration::default()));
    let open = refused.ask(Sandbox::open);
    refused.call(|sandbox| {
        let cause = LinkError::UpgradeRefused {
            address: "host:1".into(),
            status: 403,
            reason: Some("not you".into()),
            location: None,
            retry_after: None,
        };
        sandbox.handle_link(lost(cause), Instant::now());
    });
    assert!(refused.says(open).ends_with("HTTP status 403: not you"));
}

#[test]
fn malformed_frames_end_the_session_and_quote_at_most_200_characters() {
    let long = "x".repeat(100_000);
    let other =
        format!(r#"{{"event":"sandbox_id","sandbox_id":"{long}\u001b","sandbox_token":"s3cret"}}"#);
    for frame in [
        "not json".to_owned(),
        "[1,2,3]".to_owned(),
        "\"text\"".to_owned(),
        format!("{{\"event\":\"stdout\",\"data\":7,\"x\":\"{long}\"}}"),
        format!("{{\"event\":\"stdout\",\"{long}"),
        r#"{"event":"status_update"}"#.to_owned(),
        r#"{"event":"error"}"#.to_owned(),
        other,
        IDENTITY.replace("s3cret", "0ther"),
    ] {
        for (state, mut fixture) in every_state() {
            if fixture.sandbox.identity().is_none() && frame.contains("sandbox_id") {
                continue;
            }
            let name: String = frame.chars().take(40).collect();
            let what = format!("{name} while {state}");
            fixture.frame(&frame);
            let Some(SandboxEnd::LinkLost {
                cause: LinkError::Protocol { detail },
                attempts: 0,
            }) = fixture.end()
            else {
                panic!("{what}: {:?}", fixture.end())
            };
            assert!(detail.chars().count() < 320, "{what}: {detail}");
            assert!(detail.matches('x').count() <= 210, "{what}: {detail}");
            assert!(!detail.contains(char::is_control), "{what}: {detail}");
            assert!(!detail.contains("s3cret") && !detail.contains("0ther"));
            assert_over(&mut fixture, &what);
        }
    }
}

#[test]
fn frames_out_of_order_end_the_session() {
    for frame in [
        r#"{"event":"status_update","status":"SANDBOX_RUNNING"}"#,
        r#"{"event":"status_update","status":"SANDBOX_EXECUTION_RUNNING"}"#,
        r#"{"event":"status_update","status":"SANDBOX_EXECUTION_DONE"}"#,
        r#"{"event":"status_update","status":"SANDBOX_EXECUTION_FORCE_KILLED"}"#,
        r#"{"event":"stdout","data":"x"}"#,
    ] {
        let (mut fixture, open) = Fixture::creating();
        fixture.frame(frame);
        assert!(
            fixture.says(open).contains("the server broke the protocol"),
            "{frame}"
        );
        assert_over(&mut fixture, frame);
    }
}

#[test]
fn what_this_version_does_not_know_is_ignored_in_every_state() {
    for (state, mut fixture) in every_state() {
        fixture.frame(r#"{"event":"levitation","height":3}"#);
        fixture.frame(r#"{"no":"event"}"#);
        fixture.frame(r#"{"event":"status_update","status":"SANDBOX_LEVITATING"}"#);
        assert_eq!(fixture.state(), state);
    }
}

#[test]
fn frames_of_an_old_link_are_ignored() {
    let mut fixture = Fixture::reconnecting();
    for (epoch, linked) in [(1, false), (1, true), (3, true)] {
        if linked && fixture.epoch == 1 {
            fixture.link();
        }
        fixture.frame_of(
            epoch,
            r#"{"event":"status_update","status":"SANDBOX_RUNNING"}"#,
        );
        fixture.frame_of(epoch, r#"{"event":"stdout","data":"old"}"#);
        fixture.frame_of(epoch, "garbage");
        assert_eq!(fixture.state(), SandboxState::Reconnecting);
        assert_eq!(fixture.output(), []);
    }
}

#[test]
fn nothing_happens_after_the_end() {
    for (state, mut fixture) in every_state() {
        fixture.say_because("SANDBOX_ERROR", "over");
        fixture.forget();
        fixture.say_all("RUNNING EXECUTION_RUNNING EXECUTION_DONE KILLED DELETED");
        fixture.print("late");
        fixture.frame("garbage");
        fixture.link();
        fixture.cut();
        fixture.lose();
        fixture.call(|sandbox| sandbox.handle_link(LinkFact::Closed, Instant::now()));
        fixture.pass(Duration::from_secs(3600));
        fixture.call(|sandbox| (1..3).for_each(|n| sandbox.abandon_process(ProcessId(n))));
        assert_eq!(fixture.control(), [], "{state}");
        assert_eq!(fixture.events(), [], "{state}");
        assert_eq!(
            (fixture.told(), fixture.sent()),
            (vec![], vec![]),
            "{state}"
        );
        let requests = [
            fixture.ask(Sandbox::open),
            fixture.exec(),
            fixture.checkpoint(),
            fixture.snapshot(),
        ];
        for request in requests {
            let says = fixture.says(request);
            assert!(says.contains("SANDBOX_ERROR: over"), "{says}");
        }
        assert_eq!((fixture.sent(), fixture.control()), (vec![], vec![]));
    }
}

#[test]
fn detach_closes_at_once_but_sees_a_creation_and_a_kill_through() {
    for (state, mut fixture) in every_state() {
        fixture.forget();
        fixture.call(Sandbox::detach);
        if state == SandboxState::Creating {
            assert_eq!(fixture.end(), None);
            continue;
        }
        if state == SandboxState::Killing {
            assert_eq!(fixture.end(), None);
            fixture.pass(Duration::from_secs(3600));
        }
        assert_eq!(fixture.end(), Some(SandboxEnd::Closed), "{state}");
        assert_over(&mut fixture, &format!("detached while {state}"));
        fixture.call(Sandbox::detach);
        assert_eq!(fixture.control(), [CLOSE], "again");
    }
    let mut dialling = Fixture::new(Mode::Create(Configuration::default()));
    dialling.ask(Sandbox::open);
    dialling.call(Sandbox::detach);
    assert_eq!(dialling.end(), Some(SandboxEnd::Closed));
}

/// Dropped while it was created, and running now.
fn abandoned() -> Fixture {
    let (mut fixture, _) = Fixture::creating();
    fixture.call(Sandbox::detach);
    fixture.frame(IDENTITY);
    fixture.forget();
    fixture.say("SANDBOX_RUNNING");
    assert_eq!(fixture.sent(), [KILL_SANDBOX]);
    assert_eq!(fixture.control(), [confirm(1), DISABLE_RECONNECT]);
    fixture.call(Sandbox::detach);
    assert_eq!(fixture.state(), SandboxState::Killing);
    fixture
}

#[test]
fn a_sandbox_dropped_while_it_is_created_is_killed_not_leaked() {
    let mut fixture = abandoned();
    fixture.say_all("KILLING DELETING DELETED KILLED");
    assert_eq!(fixture.end(), Some(SandboxEnd::Killed));
    assert_over(&mut fixture, "killed");
}

#[test]
fn the_kill_of_a_dropped_sandbox_is_bounded_in_time() {
    let mut silent = abandoned();
    assert_eq!(silent.pass_until_due(), Duration::from_secs(30));
    assert_eq!(silent.end(), Some(SandboxEnd::Closed));

    let mut refused = abandoned();
    refused.say_because("SANDBOX_KILL_ERROR", "no");
    assert_eq!(refused.end(), Some(SandboxEnd::Closed));

    let mut deleted = abandoned();
    for _ in 0..100 {
        deleted.say("SANDBOX_DELETED");
        deleted.pass(Duration::from_secs(1));
    }
    assert_eq!(deleted.end(), Some(SandboxEnd::Killed));

    let (mut never_ready, _) = Fixture::creating();
    never_ready.call(Sandbox::detach);
    never_ready.pass_until_due();
    assert_over(&mut never_ready, "never ready");
}

/// Dropped in the moment in which it was opened, and the link as well.
#[test]
fn a_sandbox_dropped_in_an_outage_before_anybody_had_it_is_killed_after_it() {
    let dropped = || {
        let mut fixture = Fixture::running();
        fixture.cut();
        let now = fixture.now;
        fixture.call(|sandbox| sandbox.abandon(now));
        fixture.call(Sandbox::detach);
        assert_eq!(fixture.end(), None);
        fixture
    };
    let mut back = dropped();
    back.link();
    back.say("SANDBOX_RUNNING");
    assert_eq!(back.sent(), [KILL_SANDBOX]);
    back.say("SANDBOX_KILLED");
    assert_over(&mut back, "killed");

    let mut away = dropped();
    assert_eq!(away.pass_until_due(), Duration::from_secs(30));
    assert_over(&mut away, "not for ever");
}

#[test]
fn a_lost_link_is_no_word_for_the_kill_of_a_dropped_sandbox() {
    let mut fixture = abandoned();
    fixture.lose();
    assert!(matches!(fixture.end(), Some(SandboxEnd::LinkLost { .. })));
}

#[test]
fn timeouts_without_end_are_no_panic() {
    let max = Duration::MAX;
    let timeouts = Timeouts {
        ready: max,
        exec: max,
        kill: max,
        store: max,
        reason: max,
    };
    let mut fixture = Fixture::new(Mode::Create(Configuration::default()));
    fixture.sandbox.config.timeouts = timeouts;
    fixture.link();
    fixture.frame(IDENTITY);
    fixture.say("SANDBOX_RUNNING");
    fixture.exec();
    fixture.snapshot();
    fixture.checkpoint();
    fixture.say("SANDBOX_STDIN_ERROR");
    fixture.kill();
    fixture.pass(Duration::from_secs(1_000_000));
    assert_eq!(fixture.state(), SandboxState::Killing);
}

#[test]
fn a_refused_kill_ends_a_sandbox_that_nobody_holds() {
    let mut fixture = Fixture::running();
    fixture.kill();
    fixture.say("SANDBOX_KILLING");
    fixture.call(Sandbox::detach);
    assert_eq!(fixture.end(), None, "the kill is seen through");
    fixture.say_because("SANDBOX_KILL_ERROR", "busy");
    assert_eq!(fixture.end(), Some(SandboxEnd::Closed));
}

/// What the server says of a named exec that runs, and what its process is told in the end.
fn told_end_of_a_lost_exec(configuration: Configuration) -> (ProcessEnd, Option<SandboxEnd>) {
    let (mut fixture, _) = Fixture::creating_with(configuration);
    fixture.sandbox.life.version = Version::V2;
    fixture.frame(IDENTITY);
    fixture.say("SANDBOX_RUNNING");
    fixture.exec();
    let sent = fixture.sent().pop().expect("an exec");
    let sent: serde_json::Value = serde_json::from_str(&sent).expect("JSON");
    let exec = sent["exec"].as_str().expect("a name");
    let say = |status: &str, rest: &str| {
        format!(r#"{{"event":"status_update","status":"{status}","exec":"{exec}",{rest}}}"#)
    };
    fixture.frame(&say(
        "SANDBOX_EXECUTION_RUNNING",
        r#""stdin":0,"window":1024"#,
    ));
    fixture.say("SANDBOX_DELETING");
    fixture.frame(&say(
        "SANDBOX_EXECUTION_DONE",
        r#""stdout":0,"stderr":0,"reason":"sandbox_lost""#,
    ));
    fixture.say("SANDBOX_DELETED");
    let told = fixture.told().into_iter().find_map(|(_, fact)| match fact {
        ProcessFact::Ended { end, .. } => Some(end),
        _ => None,
    });
    (told.expect("an end"), fixture.end())
}

#[test]
fn a_process_lost_with_its_sandbox_is_told_the_same_end() {
    for enable_idle_timeout_auto_checkpoint in [false, true] {
        let (told, end) = told_end_of_a_lost_exec(Configuration {
            enable_checkpoint: true,
            enable_idle_timeout_auto_checkpoint,
            ..Configuration::default()
        });
        let expected = match enable_idle_timeout_auto_checkpoint {
            false => SandboxEnd::Deleted,
            true => SandboxEnd::MaybeCheckpointed,
        };
        assert_eq!(end, Some(expected.clone()));
        assert_eq!(told, ProcessEnd::SandboxLost { end: expected });
    }
}

/// A sandbox with `kill_on_drop` whose last handle goes during a checkpoint.
fn dropped_while_checkpointing() -> Fixture {
    let mut fixture = Fixture::running();
    fixture.checkpoint();
    fixture.say("SANDBOX_CHECKPOINTING");
    fixture.forget();
    let now = fixture.now;
    fixture.call(|sandbox| sandbox.abandon(now));
    fixture.call(Sandbox::detach);
    assert_eq!(fixture.end(), None, "the outcome is waited for");
    fixture
}

#[test]
fn a_sandbox_dropped_during_a_checkpoint_is_killed_if_that_is_refused() {
    let mut refused = dropped_while_checkpointing();
    refused.say_because("SANDBOX_EXECUTION_IN_PROGRESS_ERROR", "no");
    assert_eq!(refused.sent(), [KILL_SANDBOX]);
    refused.say("SANDBOX_KILLED");
    assert_over(&mut refused, "killed");

    let mut stored = dropped_while_checkpointing();
    stored.say("SANDBOX_CHECKPOINTED");
    assert_eq!(stored.end(), Some(SandboxEnd::Checkpointed));
    assert_eq!(stored.sent(), [""; 0]);

    let mut silent = dropped_while_checkpointing();
    assert_eq!(silent.pass_until_due(), Duration::from_secs(30));
    assert_over(&mut silent, "not for ever");
}

#[test]
fn detach_kills_what_was_being_started_for_nobody() {
    let mut fixture = Fixture::running();
    fixture.exec();
    fixture.sent();
    fixture.call(Sandbox::detach);
    assert_eq!(fixture.sent(), [KILL_PROCESS]);
    assert_eq!(fixture.end(), Some(SandboxEnd::Closed));
}
