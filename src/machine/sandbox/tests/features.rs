//! A request that needs features of the server is sent only to a server that has all of them.

use std::borrow::Cow;

use super::*;
use crate::protocol::{Builtin, Program, TerminalSize};

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
