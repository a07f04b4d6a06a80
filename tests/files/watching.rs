//! Watches through broken links, at a checkpoint and in an idle sandbox.

use actix_sandbox::{
    ErrorKind, FileEvent, FileEvents, Language, LocalServer, ProcessEnd,
    actor::{Builtin, Exec, Wait},
};
use futures::StreamExt;

use super::by_message::python;
use crate::support::{
    self, backend, patient,
    proxy::{Chance, Plan},
    sandbox_behind, until_it_runs, within,
};

const FILES: u32 = 10_000;
const CUTS: usize = 50;

/// Reads events up to the file `last`. Each other file was created once and in order, or an
/// overflow tells that some are missing. Returns how many were reported and the overflows.
async fn check(mut events: FileEvents) -> (u32, u32) {
    let (mut next, mut reported, mut overflows, mut may_miss) = (0, 0, 0, false);
    loop {
        let event = within("an event", events.next()).await.expect("an event");
        match event.unwrap() {
            FileEvent::Overflow => {
                overflows += 1;
                may_miss = true;
            }
            FileEvent::Created { path } if path.as_bytes() == b"last" => {
                assert!(next == FILES || may_miss, "{next} before the last");
                return (reported, overflows);
            }
            FileEvent::Created { path } => {
                let number: u32 = path.to_string().parse().unwrap();
                let is_next = number == next || may_miss && number > next;
                assert!(is_next, "{number} instead of {next}");
                next = number + 1;
                reported += 1;
                may_miss = false;
            }
            other => panic!("{other:?}"),
        }
    }
}

#[actix::test]
async fn a_watch_through_fifty_cuts_reports_each_file_once_and_in_order() {
    let server = LocalServer::start().await.unwrap();
    let planner = |number| {
        let mut chance = Chance::new(80_000 + number as u64);
        match number {
            0 => Plan::default().cut_down(until_it_runs()[1] + 9_000),
            1..CUTS => Plan::default().cut_down(600 + chance.below(6_000)),
            _ => Plan::default(),
        }
    };
    let (proxy, sandbox) = sandbox_behind(&server, planner).await;
    let files = sandbox.files();
    files.create_dir("w").await.unwrap();
    let events = within("the watch", files.watch("w", true)).await.unwrap();
    let create = async {
        let code = "for number in range(10_000): open(f'w/{number}', 'x').close()";
        python(&sandbox, code).await;
        python(&sandbox, "open('w/last', 'x').close()").await;
    };
    let ((reported, overflows), ()) = futures::join!(check(events), create);
    println!("{reported} files were reported, {overflows} overflows");
    assert!(reported == FILES || overflows > 0, "{reported} of {FILES}");
    assert!(proxy.accepted() > CUTS, "{} links", proxy.accepted());
}

#[actix::test]
async fn a_watch_ends_at_a_checkpoint_and_does_not_refuse_it() {
    let server = LocalServer::start().await.unwrap();
    let sandbox = patient(server.url()).enable_sandbox_checkpoint(true);
    let sandbox = sandbox.await.unwrap();
    let files = sandbox.files();
    files.create_dir("w").await.unwrap();
    let watch = Builtin::Watch {
        path: "w".into(),
        recursive: true,
    };
    let started = sandbox.addr().send(Exec::builtin(watch)).await.unwrap();
    let started = started.unwrap();
    let mut events = within("the watch", files.watch("w", false)).await.unwrap();
    within("the checkpoint", sandbox.checkpoint())
        .await
        .unwrap();
    let end = within("the end", started.actor.send(Wait)).await.unwrap();
    let end = end.unwrap();
    assert!(matches!(end, ProcessEnd::SandboxLost { .. }), "{end}");
    let last = within("the last item", events.next()).await.unwrap();
    let error = last.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::SandboxEnded, "{error}");
    assert!(within("the end", events.next()).await.is_none());

    let (id, token) = (sandbox.sandbox_id(), sandbox.sandbox_token());
    let attach = support::attach(server.url(), id, token);
    let restored = within("the attach", attach).await.unwrap();
    let mut events = within("a new watch", restored.files().watch("w", false))
        .await
        .unwrap();
    let code = "touch w/file";
    within("code", restored.run(Language::Bash, code))
        .await
        .unwrap();
    let event = within("an event", events.next()).await.unwrap().unwrap();
    let path = "file".into();
    assert_eq!(event, FileEvent::Created { path });
}

#[actix::test]
async fn a_watch_does_not_keep_a_sandbox_from_becoming_idle() {
    let server = LocalServer::start().await.unwrap();
    let sandbox = patient(server.url()).idle_timeout(backend::LONG_ENOUGH_TO_BEGIN);
    let sandbox = sandbox.await.unwrap();
    let events = within("the watch", sandbox.files().watch("", true)).await;
    let items: Vec<_> = within("the end", events.unwrap().collect()).await;
    let last = items.last().unwrap().as_ref().unwrap_err();
    assert_eq!(last.kind(), ErrorKind::SandboxEnded, "{last}");
    assert!(last.to_string().contains("idle"), "{last}");
}
