//! The sandbox that an argument names, among those of this user.

use std::time::Duration;

use actix_sandbox::{Error, ErrorKind, Sandbox};
use clap::Args;
use tokio::time::{Instant, sleep};

use crate::cli::{
    failure::{self, Failure},
    kept::{Kept, KeptSandboxes},
    prefix::unambiguous,
    service::{Service, ServiceArguments},
};

/// How long to retry while the server still treats an earlier command as attached.
pub(crate) const FREE_WITHIN: Duration = Duration::from_secs(3);
/// How often to retry.
const RETRY_EVERY: Duration = Duration::from_millis(100);

#[derive(Args, Clone)]
pub(crate) struct KnownSandbox {
    /// Id of one of your sandboxes, or an unambiguous prefix of it, with or without `sandbox-`.
    id: String,

    #[command(flatten)]
    service: ServiceArguments,
}

impl KnownSandbox {
    /// Attaches to the sandbox.
    pub(crate) async fn attach(&self) -> Result<Sandbox, Failure> {
        attach(&self.find()?).await
    }

    /// Finds the sandbox among those of this user. `--url` limits them to those of a service.
    pub(crate) fn find(&self) -> Result<Kept, Failure> {
        find(&self.id, &self.service)
    }
}

/// Finds a sandbox of this user by its id or a prefix of it, with or without `sandbox-`.
pub(crate) fn find(id: &str, arguments: &ServiceArguments) -> Result<Kept, Failure> {
    let found = unambiguous(all(arguments)?, id, |kept| &kept.id);
    let id = id.escape_debug();
    found.map_err(|found| match &found[..] {
        [first, second, ..] => format!(
            "`{id}` is ambiguous: {} sandboxes start with it, for example {} on {} and {} on {}",
            found.len(),
            first.id,
            first.service.shown(),
            second.id,
            second.service.shown()
        )
        .into(),
        _ => format!(
            "you have no sandbox with the id `{id}`: `actix-sandbox list --mine` shows your \
             sandboxes; `actix-sandbox attach --sandbox-token-file FILE ID` adds one"
        )
        .into(),
    })
}

/// All sandboxes of this user. `--url` limits them to those of a service.
pub(crate) fn all(arguments: &ServiceArguments) -> Result<Vec<Kept>, Failure> {
    let only = match arguments.names_url() {
        true => arguments.find()?,
        false => None,
    };
    let mut kept = KeptSandboxes::open()?.all()?;
    if let Some(only) = only {
        kept.retain(|it| it.service.is_same(&only));
    }
    let adjusted = kept.into_iter().map(|mut it| {
        it.service = arguments.adjust(it.service)?;
        Ok(it)
    });
    adjusted.collect()
}

/// Attaches to a sandbox of this user.
pub(crate) async fn attach(kept: &Kept) -> Result<Sandbox, Failure> {
    let attached = try_attach(kept).await?;
    attached.map_err(|error| describe(kept, &error))
}

/// Attaches to a sandbox of this user. Waits a little while another client is attached.
pub(crate) async fn try_attach(kept: &Kept) -> Result<Result<Sandbox, Error>, Failure> {
    try_attach_within(kept, FREE_WITHIN).await
}

/// Attaches to a sandbox of this user. Waits up to `wait` while another client is attached.
pub(crate) async fn try_attach_within(
    kept: &Kept,
    wait: Duration,
) -> Result<Result<Sandbox, Error>, Failure> {
    let deadline = Instant::now() + wait;
    loop {
        let Service { url, .. } = &kept.service;
        let builder = Sandbox::attach(url, kept.id.as_str(), kept.token.as_str());
        match kept.service.configure(builder)?.await {
            Err(error) if error.kind() == ErrorKind::InUse && Instant::now() < deadline => {
                sleep(RETRY_EVERY).await;
            }
            attached => return Ok(attached),
        }
    }
}

/// Why a sandbox could not be used.
pub(crate) fn describe(kept: &Kept, error: &Error) -> Failure {
    let id = &kept.id;
    match error.kind() {
        ErrorKind::InUse => format!(
            "{id} is in use: only one command or program can be attached to a sandbox at a time; end \
             the other one first"
        ),
        // It stays among the user's sandboxes: another instance of the service may know it.
        ErrorKind::NotFound => format!(
            "{id} no longer exists on {}: it was killed, or its idle timeout or maximum lifetime has \
             expired; `actix-sandbox kill {id}` removes it from your sandboxes",
            kept.service.shown()
        ),
        _ => format!("cannot use {id}: {}", failure::describe(error)),
    }
    .into()
}
