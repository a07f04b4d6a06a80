//! Kills of a named exec: when they are sent, and which message answers them.

use super::*;

#[test]
fn a_kill_after_the_exit_is_for_what_holds_the_output() {
    let mut exec = Exec::running();
    exec.fact(ProcessFact::Exited(ProcessEnd::Exited(0)));
    exec.process.kill(None, exec.now);
    assert_eq!(exec.said(), NOTHING, "a dropped handle spares it");
    assert_eq!(exec.kill(1), ["kill"]);
    assert_eq!(exec.kill(2), NOTHING, "one is on its way");
    assert_eq!(exec.relink(), ["reconnect [0, 0]"]);
    let window = Some(WINDOW);
    let said = exec.fact(ProcessFact::Announced {
        stdin: 0,
        window,
        stdin_window: None,
    });
    assert_eq!(said, ["kill"], "the first may be lost with its link");
    assert_eq!(exec.fact(ProcessFact::ForceKilled), ["1 done", "2 done"]);
    exec.ended(ProcessEnd::Exited(0), Some([0, 0]));
    assert_eq!(exec.kill(3), ["3 done"], "nothing is left to kill");
}

fn cut() -> ProcessFact {
    ProcessFact::Ended {
        end: ProcessEnd::Exited(0),
        lengths: Some([0, 0]),
        cut: true,
    }
}

#[test]
fn an_exit_by_itself_does_not_confirm_a_kill() {
    for end in [ProcessEnd::Exited(0), ProcessEnd::Signaled(9)] {
        let mut exec = Exec::running();
        assert_eq!(exec.kill(1), ["kill"]);
        let said = exec.fact(ProcessFact::Exited(end.clone()));
        assert_eq!(said, [format!("ended {end:?}, 0 unsent")]);
        assert_eq!(exec.fact(ProcessFact::ForceKilled), ["1 done"]);

        let mut first = Exec::running();
        first.kill(1);
        assert_eq!(first.fact(ProcessFact::ForceKilled), NOTHING);
        let said = first.fact(ProcessFact::Exited(end));
        assert_eq!(said[1..], ["1 done"], "it was confirmed before");
    }
    for end in [ProcessEnd::Killed, ProcessEnd::TimedOut] {
        let mut exec = Exec::running();
        exec.kill(1);
        let said = exec.fact(ProcessFact::Exited(end));
        assert_eq!(said[1..], ["1 done"], "no process is left");
    }
}

#[test]
fn a_kill_after_the_exit_is_unknown_if_the_exec_is_lost() {
    let mut exec = Exec::running();
    exec.fact(ProcessFact::Exited(ProcessEnd::Exited(0)));
    assert_eq!(exec.kill(1), ["kill"]);
    let said = exec.ended(lost(), None);
    assert_eq!(said[0], "1 failed: SandboxEnded Unknown");
    assert_eq!(exec.kill(2), ["2 failed: SandboxEnded Unknown"]);
}

#[test]
fn a_kill_that_crosses_the_cut_of_the_output_is_unknown() {
    for late in [false, true] {
        let mut exec = Exec::running();
        if late {
            exec.fact(ProcessFact::Exited(ProcessEnd::Exited(0)));
        }
        assert_eq!(exec.kill(1), ["kill"]);
        let said = exec.fact(cut());
        let failed = "1 failed: OutputHeld Unknown".to_owned();
        assert!(said.contains(&failed), "{said:?}");
        // The answer of a server that has forgotten the exec.
        assert_eq!(exec.fact(ProcessFact::ForceKilled), NOTHING);
        assert_eq!(exec.kill(2), ["2 failed: OutputHeld Unknown"]);

        let mut confirmed = Exec::running();
        if late {
            confirmed.fact(ProcessFact::Exited(ProcessEnd::Exited(0)));
        }
        confirmed.kill(1);
        confirmed.fact(ProcessFact::ForceKilled);
        confirmed.fact(cut());
        assert_eq!(confirmed.kill(2), ["2 done"]);
    }
    let mut refused = Exec::running();
    refused.kill(1);
    let failure = Failure::ProcessEnded { what: "kill" };
    refused.fact(ProcessFact::KillRefused(failure));
    refused.fact(cut());
    assert_eq!(refused.kill(2), ["2 failed: OutputHeld Unknown"]);
}

#[test]
fn a_kill_after_the_exit_outlives_its_caller_in_an_outage() {
    for cancelled in [true, false] {
        let mut exec = Exec::running();
        exec.fact(ProcessFact::Exited(ProcessEnd::Exited(0)));
        exec.fact(ProcessFact::LinkDown);
        assert_eq!(exec.kill(1), NOTHING);
        if cancelled {
            exec.process.cancel(RequestId(1));
            assert_eq!(exec.said(), NOTHING);
        } else {
            let due = exec.now + ProcessConfig::default().kill_timeout;
            exec.process.handle_timeout(due);
            assert_eq!(exec.said(), ["1 failed: LinkLost Unknown"]);
        }
        exec.fact(ProcessFact::LinkUp);
        assert_eq!(exec.announced(0), ["kill"]);
        exec.relink();
        assert_eq!(exec.announced(0), ["kill"], "until it is answered");
        exec.fact(ProcessFact::ForceKilled);
        exec.relink();
        assert_eq!(exec.announced(0), NOTHING);
    }
}

#[test]
fn a_kill_is_sent_once_on_each_link() {
    let mut exec = Exec::starting();
    assert_eq!(exec.kill(1), NOTHING, "nothing to kill yet");
    assert_eq!(exec.announced(0), ["kill"]);
    assert_eq!(exec.kill(2), NOTHING);
    assert_eq!(exec.relink(), ["reconnect [0, 0]"]);
    assert_eq!(exec.announced(0), ["kill"]);
    assert_eq!(
        exec.fact(ProcessFact::ForceKilled),
        NOTHING,
        "the end follows"
    );
    assert_eq!(exec.process.end(), None);
    let said = exec.ended(ProcessEnd::Killed, Some([0, 0]));
    assert_eq!(said[..3], ["ended Killed, 0 unsent", "1 done", "2 done"]);
    assert_eq!(exec.kill(3), ["3 done"]);
}

#[test]
fn a_kill_of_a_lost_exec_is_not_confirmed() {
    let mut exec = Exec::running();
    exec.kill(1);
    let said = exec.ended(lost(), None);
    assert_eq!(said[1], "1 failed: SandboxEnded Unknown");
    assert_eq!(exec.kill(2), ["2 failed: SandboxEnded Unknown"]);
}

#[test]
fn a_kill_after_the_sandbox_is_deleted_succeeds() {
    let mut exec = Exec::running();
    exec.kill(1);
    let end = SandboxEnd::Deleted;
    let said = exec.ended(ProcessEnd::SandboxLost { end }, None);
    assert_eq!(said[0], "1 failed: SandboxEnded Unknown");
    assert_eq!(exec.kill(2), ["2 done"]);
}
