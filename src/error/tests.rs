//! Kinds, effects and texts of errors.

use super::*;
use crate::{machine::UpgradeRefusal, protocol::Status};

#[test]
fn only_opening_is_retryable_after_the_sandbox_is_over() {
    let end = SandboxEnd::LinkLost {
        cause: LinkError::Dropped {
            detail: "cut".into(),
        },
        attempts: 3,
    };
    let over = Failure::SandboxEnded {
        what: "confirm the checkpoint",
        end: end.clone(),
        effect: Effect::Unknown,
    };
    assert!(!Error::from(over).is_retryable());
    assert!(!Error::sandbox_lost(end.clone()).is_retryable());
    assert!(Error::from(Failure::NotOpened { end }).is_retryable());
}

#[test]
fn debug_shows_the_message_and_alternate_debug_the_kind() {
    let error = Error::option("idle_timeout", "is zero");
    assert_eq!(format!("{error:?}"), "the option `idle_timeout` is zero");
    let full = format!("{error:#?}");
    assert!(
        full.contains("InvalidOption") && full.contains("NotApplied"),
        "{full}"
    );
}

fn refused(status: u16, reason: Option<&str>) -> Error {
    let cause = LinkError::UpgradeRefused(Box::new(UpgradeRefusal {
        address: "host:1".into(),
        status,
        reason: reason.map(str::to_owned),
        location: None,
        retry_after: None,
    }));
    let end = SandboxEnd::LinkLost { cause, attempts: 0 };
    Error::from(Failure::NotOpened { end })
}

#[test]
fn authentication_is_advised_only_without_another_reason() {
    for (status, reason, advised) in [
        (401, None, true),
        (403, None, true),
        (403, Some("quota used up"), false),
        (404, None, false),
    ] {
        let text = refused(status, reason).to_string();
        assert_eq!(text.contains("roles/run.invoker"), advised, "{text}");
    }
}

#[test]
fn a_failure_is_safe_to_retry_only_without_an_effect() {
    let (what, after) = ("do it", std::time::Duration::from_secs(1));
    let (not_applied, unknown) = (Effect::NotApplied, Effect::Unknown);
    let refused = Status::ExecutionError;
    let (status, reason) = (refused, None);
    let end = SandboxEnd::Killed;
    for (failure, effect) in [
        (
            Failure::WrongState {
                what,
                state: SandboxState::Reconnecting,
            },
            not_applied,
        ),
        (Failure::ProcessRunning { what }, not_applied),
        (
            Failure::Unsupported {
                what,
                feature: "arguments",
            },
            not_applied,
        ),
        (Failure::StdinClosed { what }, not_applied),
        (Failure::ProcessEnded { what }, not_applied),
        (Failure::AlreadyUnderWay { what }, not_applied),
        (
            Failure::Refused {
                what,
                status,
                reason,
            },
            not_applied,
        ),
        (Failure::Timeout { what, after }, unknown),
        (
            Failure::SandboxEnded {
                what,
                end: end.clone(),
                effect: unknown,
            },
            unknown,
        ),
        (
            Failure::SandboxEnded {
                what,
                end,
                effect: not_applied,
            },
            not_applied,
        ),
        (
            Failure::LinkLost {
                what,
                effect: unknown,
            },
            unknown,
        ),
        (
            Failure::LinkLost {
                what,
                effect: not_applied,
            },
            not_applied,
        ),
        (Failure::ActorGone { what }, unknown),
        (Failure::Cancelled { what }, unknown),
    ] {
        let error = Error::from(failure);
        assert_eq!(error.effect(), effect, "{error}");
        assert_eq!(error.is_safe_to_retry(), effect == not_applied, "{error}");
    }
    // The process ran: another call runs it again.
    let failed = Error::process_failed(ProcessEnd::Exited(1), "why\n");
    assert_eq!(failed.effect(), Effect::Applied);
    assert!(!failed.is_safe_to_retry() && !failed.is_retryable());
    assert!(failed.to_string().ends_with("stderr:\nwhy"), "{failed}");
}
