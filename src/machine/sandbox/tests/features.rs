//! A request that needs features of the server is sent only to a server that has all of them.

use std::borrow::Cow;

use super::*;
use crate::protocol::{Builtin, ExecId, Program, TerminalSize};

/// A sandbox that runs on a v2 server with these features.
fn running_with(features: &str) -> Fixture {
    let mut fixture = Fixture::new(Mode::Create(Configuration::default()));
    fixture.ask(Sandbox::open);
    fixture.link_as(Version::V2);
    fixture.say("SANDBOX_CREATING");
    fixture.frame(IDENTITY);
    say_running(&mut fixture, features);
    fixture.forget();
    fixture
}

fn say_running(fixture: &mut Fixture, features: &str) {
    fixture.frame(&format!(
        r#"{{"event":"status_update","status":"SANDBOX_RUNNING","features":{features}}}"#
    ));
}

/// Starts a builtin, which needs the features `builtins` and `binary`.
fn start(fixture: &mut Fixture) -> RequestId {
    let path = "directory".into();
    let mut exec = NewExec::new(Program::Builtin(Cow::Owned(Builtin::CreateDir { path })));
    exec.options.binary = true;
    let now = fixture.now;
    fixture.ask(|sandbox, request| {
        sandbox.exec(request, exec, now);
    })
}

fn assert_not_offered(fixture: &mut Fixture, request: RequestId, missing: &str) {
    match fixture.failure(request) {
        Failure::NotOffered { feature, .. } => assert_eq!(feature, missing),
        failure => panic!("{failure}"),
    }
    assert_eq!(fixture.sent(), [""; 0]);
}

#[test]
fn a_request_needs_all_of_its_features() {
    for (features, missing) in [
        ("[]", "builtins"),
        (r#"["argv","binary"]"#, "builtins"),
        (r#"["builtins"]"#, "binary"),
    ] {
        let mut fixture = running_with(features);
        let request = start(&mut fixture);
        assert_not_offered(&mut fixture, request, missing);
    }
}

/// Starts a process, with or without an id that the caller chose.
fn start_as(fixture: &mut Fixture, id: Option<&str>) -> RequestId {
    let mut exec = NewExec::new(Program::Argv(Cow::Owned(vec!["true".into()])));
    exec.id = id.map(ExecId::from);
    let now = fixture.now;
    fixture.ask(|sandbox, request| {
        sandbox.exec(request, exec, now);
    })
}

#[test]
fn only_an_exec_whose_id_no_caller_chose_is_killed_when_given_up() {
    let give_up: [fn(&mut Fixture, RequestId); 3] = [
        |fixture, exec| fixture.call(|sandbox| sandbox.cancel_exec(exec)),
        |fixture, _| {
            fixture.pass_until_due();
        },
        |fixture, _| fixture.call(|sandbox| sandbox.abandon_process(P1)),
    ];
    for give_up in give_up {
        let mut fixture = running_with(r#"["argv"]"#);
        let exec = start_as(&mut fixture, None);
        fixture.forget();
        give_up(&mut fixture, exec);
        assert_eq!(fixture.told(), [(P1, ProcessFact::Abandoned)]);

        let mut fixture = running_with(r#"["argv"]"#);
        let exec = start_as(&mut fixture, Some("job"));
        fixture.forget();
        give_up(&mut fixture, exec);
        assert_eq!(fixture.failure(exec).effect(), Effect::Unknown);
        let forgotten = ProcessFact::SandboxEnded(SandboxEnd::Closed);
        assert_eq!(fixture.told(), [(P1, forgotten)]);
        // The caller can repeat the start.
        start_as(&mut fixture, Some("job"));
        let request = r#"{"argv":["true"],"exec":"job"}"#;
        assert_eq!(fixture.sent(), [request]);
        fixture.call(|sandbox| sandbox.detach());
        assert_eq!(fixture.sent(), [""; 0], "no kill");
    }
}

#[test]
fn terminals_and_signals_need_a_server_that_has_them() {
    let mut terminal = NewExec::new(Program::Argv(Cow::Owned(vec!["sh".into()])));
    terminal.options.terminal = Some(TerminalSize::default());
    let builtin = |builtin| NewExec::new(Program::Builtin(Cow::Owned(builtin)));
    let signal = builtin(Builtin::Signal {
        exec: "e".into(),
        signal: 15,
        group: false,
    });
    let resize = builtin(Builtin::Resize {
        exec: "e".into(),
        size: TerminalSize::default(),
    });
    for (exec, missing) in [
        (terminal, "terminals"),
        (signal, "signals"),
        (resize, "terminals"),
    ] {
        let mut fixture = running_with(r#"["argv","builtins","binary"]"#);
        let now = fixture.now;
        let request = fixture.ask(|sandbox, request| {
            sandbox.exec(request, exec, now);
        });
        assert_not_offered(&mut fixture, request, missing);
    }
}

#[test]
fn an_operation_on_ports_needs_a_feature_of_its_own() {
    let mut fixture = running_with(r#"["argv","builtins","binary"]"#);
    let now = fixture.now;
    for builtin in [
        Builtin::Connect { port: 80 },
        Builtin::Ports,
        Builtin::WaitForPort {
            port: 80,
            timeout_ms: None,
        },
    ] {
        let exec = NewExec::new(Program::Builtin(Cow::Owned(builtin)));
        let request = fixture.ask(|sandbox, request| {
            sandbox.exec(request, exec, now);
        });
        assert_not_offered(&mut fixture, request, "ports");
    }
}

#[test]
fn a_request_is_repeated_only_to_a_server_with_all_of_its_features() {
    let all = r#"["binary","builtins","new"]"#;
    for (features, missing) in [
        ("[]", Some("builtins")),
        (r#"["builtins"]"#, Some("binary")),
        (all, None),
    ] {
        let mut fixture = running_with(all);
        let request = start(&mut fixture);
        let first = fixture.sent();
        assert_eq!(first.len(), 1);
        fixture.cut();
        fixture.link_as(Version::V2);
        say_running(&mut fixture, features);
        match missing {
            Some(missing) => assert_not_offered(&mut fixture, request, missing),
            None => assert_eq!(fixture.sent(), first),
        }
    }
}

/// A sandbox that is being created with a label, over a link of this version.
fn labelled(version: Version) -> (Fixture, RequestId) {
    let mut fixture = Fixture::new(Mode::Create(Configuration {
        labels: [("k".to_owned(), "v".to_owned())].into(),
        ..Configuration::default()
    }));
    let open = fixture.ask(Sandbox::open);
    fixture.link_as(version);
    (fixture, open)
}

fn unsupported(gone: bool) -> SandboxEnd {
    let option = "label";
    SandboxEnd::Unsupported { option, gone }
}

#[test]
fn options_of_v2_are_not_sent_to_a_v1_server() {
    let (mut fixture, open) = labelled(Version::V1);
    let end = unsupported(true);
    assert_eq!(fixture.failure(open), Failure::NotOpened { end });
    assert_eq!(fixture.sent(), [""; 0]);
    assert_over(&mut fixture, "v1");
}

#[test]
fn options_of_v2_need_their_feature() {
    let (mut fixture, open) = labelled(Version::V2);
    assert_eq!(fixture.sent(), [r#"{"labels":{"k":"v"}}"#]);
    fixture.frame(IDENTITY);
    say_running(&mut fixture, r#"["lifetime"]"#);
    assert_eq!(fixture.answer(open), Some(Ok(SandboxReply::Ready)));
    assert_eq!(fixture.state(), SandboxState::Running);
    assert_eq!(fixture.sent(), [""; 0]);
}

/// The sandbox is killed. The caller learns whether the server confirmed that.
#[test]
fn a_sandbox_whose_options_were_ignored_is_killed() {
    type Ending = fn(&mut Fixture);
    let endings: [(Ending, bool); 5] = [
        (|it| it.say("SANDBOX_KILLED"), true),
        (Fixture::lose, false),
        (Fixture::cut, false),
        (|it| it.say_because("SANDBOX_KILL_ERROR", "no"), false),
        (|it| it.pass(Duration::from_secs(3_600)), false),
    ];
    for (ends, gone) in endings {
        let (mut fixture, open) = labelled(Version::V2);
        fixture.forget();
        fixture.frame(IDENTITY);
        say_running(&mut fixture, "[]");
        assert_eq!(fixture.sent(), [KILL_SANDBOX]);
        assert_eq!(fixture.answer(open), None);
        // A caller that asks now waits, too.
        let late = fixture.ask(Sandbox::open);
        fixture.call(Sandbox::detach);
        assert_eq!(fixture.answer(late), None);
        ends(&mut fixture);
        if !gone && fixture.answer(open).is_none() {
            // The link is not dialled again.
            fixture.lose();
        }
        for open in [open, late] {
            let end = unsupported(gone);
            assert_eq!(fixture.failure(open), Failure::NotOpened { end });
        }
        assert_over(&mut fixture, "ignored");
    }
}
