//! The processes of a sandbox.

use actix_sandbox::{ProcessRef, Sandbox};

use crate::{failure::Failure, kept::Kept};

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
    let is_found = |it: &ProcessRef| !id.is_empty() && it.exec_id().starts_with(id);
    all.retain(is_found);
    if let Some(exact) = all.iter().position(|it| it.exec_id() == id) {
        return Ok(all.swap_remove(exact));
    }
    let sandbox = sandbox.sandbox_id();
    match all.len() {
        1 => Ok(all.swap_remove(0)),
        0 => Err(format!(
            "no process `{id}` runs in {sandbox}: `actix-sandbox inspect {sandbox}` shows those that do"
        )
        .into()),
        count => Err(format!("`{id}` is ambiguous: {count} processes start with it").into()),
    }
}
