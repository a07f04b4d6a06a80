//! The processes of a sandbox.

use actix_sandbox::{ProcessRef, Sandbox};

use crate::cli::{failure::Failure, kept::Kept, prefix::unambiguous};

/// Finds the process whose id is `id` or starts with it, among those that run and those that were
/// detached, which may have ended.
pub(crate) async fn find(sandbox: &Sandbox, kept: &Kept, id: &str) -> Result<ProcessRef, Failure> {
    let running = sandbox.processes().await?.into_iter();
    let mut all: Vec<_> = running.map(|it| it.process).collect();
    for detached in &kept.processes {
        if all.iter().all(|it| it.exec_id() != detached.exec_id()) {
            all.push(detached.clone());
        }
    }
    let found = unambiguous(all, id, ProcessRef::exec_id);
    let sandbox = sandbox.sandbox_id();
    found.map_err(|found| match found.len() {
        0 => format!(
            "no process `{id}` runs in {sandbox}: `actix-sandbox inspect {sandbox}` shows those that do"
        )
        .into(),
        count => format!("`{id}` is ambiguous: {count} processes start with it").into(),
    })
}
