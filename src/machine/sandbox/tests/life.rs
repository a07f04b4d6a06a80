//! Create, attach, fatal statuses, malformed frames, detach.

use super::*;
use crate::machine::{ProcessEnd, UpgradeRefusal};

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

#[test]
fn create_sends_its_configuration_and_resolves_on_running() {
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
fn the_last_message_of_a_server_is_the_reason_of_its_loss() {
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
        let cause = LinkError::UpgradeRefused(Box::new(UpgradeRefusal {
            address: "host:1".into(),
            status: 403,
            reason: Some("not you".into()),
            location: None,
            retry_after: None,
        }));
        sandbox.handle_link(lost(cause), Instant::now());
    });
    assert!(refused.says(open).ends_with("HTTP status 403: not you"));
}

#[test]
fn malformed_frames_end_the_session_with_a_short_excerpt() {
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
            fixture
                .says(open)
                .contains("the server violated the protocol"),
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

#[test]
fn endless_timeouts_do_not_panic() {
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

/// Deletes a sandbox in which a named exec runs. Returns the end that the process was told, and the
/// end of the sandbox.
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

#[test]
fn a_sandbox_deleted_while_idle_is_over_at_once() {
    let mut fixture = Fixture::running();
    fixture.say_all("DELETING DELETED");
    assert_eq!(fixture.end(), Some(SandboxEnd::Deleted));
    assert_eq!(fixture.control(), [DISABLE_RECONNECT, CLOSE]);
    let kill = fixture.kill();
    assert_eq!(fixture.answer(kill), Some(Ok(SandboxReply::Done)));
    let exec = fixture.exec();
    assert!(fixture.says(exec).contains("it was idle for too long"));
}

#[test]
fn a_deleted_sandbox_may_be_checkpointed_if_that_was_enabled() {
    let (mut asked, _) = Fixture::creating_with(Configuration {
        enable_checkpoint: true,
        enable_idle_timeout_auto_checkpoint: true,
        ..Configuration::default()
    });
    asked.frame(IDENTITY);
    // The client doesn't know the options of a sandbox that it attached to.
    for mut fixture in [asked, Fixture::attaching().0] {
        fixture.say_all("RUNNING DELETING DELETED");
        let end = fixture.end().expect("the end");
        assert!(end.is_reattachable());
        assert!(
            end.to_string().contains("attach to it to restore it"),
            "{end}"
        );
        let kill = fixture.kill();
        assert!(matches!(fixture.answer(kill), Some(Ok(_))));
    }
}

#[test]
fn deleted_never_ends_as_checkpointed_after_a_failed_kill() {
    let mut fixture = Fixture::running();
    fixture.kill();
    fixture.say_all("KILLING DELETED");
    fixture.say_because("SANDBOX_KILL_ERROR", "half done");
    fixture.pass(Duration::from_secs(10));
    assert_eq!(fixture.end(), Some(SandboxEnd::Deleted));
}

/// A server reports the end of the lifetime before it deletes a running sandbox, and instead of a
/// sandbox that is over.
#[test]
fn the_end_of_the_lifetime_is_reported_in_every_state() {
    for (state, mut fixture) in every_state() {
        let kill = (state == SandboxState::Killing).then(|| fixture.kill());
        fixture.say("SANDBOX_LIFETIME_ENDED");
        match state {
            SandboxState::Running | SandboxState::Checkpointing | SandboxState::Killing => {
                assert_eq!(fixture.end(), None, "{state}");
                fixture.say("SANDBOX_DELETING");
                fixture.say("SANDBOX_DELETED");
            }
            _ => {}
        }
        assert_eq!(fixture.end(), Some(SandboxEnd::LifetimeEnded), "{state}");
        if let Some(kill) = kill {
            assert_eq!(fixture.answer(kill), Some(Ok(SandboxReply::Done)));
        }
        let late = fixture.kill();
        assert_eq!(
            fixture.answer(late),
            Some(Ok(SandboxReply::Done)),
            "{state}"
        );
        assert_over(&mut fixture, "over");
    }
}
