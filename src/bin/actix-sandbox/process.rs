//! The running processes of a sandbox.

use actix_sandbox::{ProcessRef, Sandbox};

use crate::failure::Failure;

/// Finds the running process whose id is `id` or starts with it.
pub(crate) async fn find(sandbox: &Sandbox, id: &str) -> Result<ProcessRef, Failure> {
    let running = sandbox.processes().await?;
    let mut found: Vec<_> = running
        .into_iter()
        .map(|it| it.process)
        .filter(|it| it.exec_id().starts_with(id))
        .collect();
    if let Some(exact) = found.iter().position(|it| it.exec_id() == id) {
        return Ok(found.swap_remove(exact));
    }
    let id = id.escape_debug();
    let sandbox = sandbox.sandbox_id();
    match found.len() {
        1 => Ok(found.swap_remove(0)),
        0 => Err(format!(
            "no process `{id}` runs in {sandbox}: `actix-sandbox inspect {sandbox}` shows those that do"
        )
        .into()),
        count => Err(format!("`{id}` is ambiguous: {count} processes start with it").into()),
    }
}
