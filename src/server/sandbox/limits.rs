//! Checks the limits that a client sets for its own sandbox against those of the server.

use crate::{
    protocol::SandboxLimits,
    server::choice::{LEAST_DISK, LEAST_MEMORY, LEAST_PROCESSES},
};

/// Fails if a limit is higher than the server's own, or so low that no program could start, or if
/// the backend can't apply it. `own` are the limits of the backend of this name. The error is the
/// reason for the client.
pub(super) fn check(asked: SandboxLimits, own: SandboxLimits, backend: &str) -> Result<(), String> {
    let least = [LEAST_MEMORY, LEAST_PROCESSES, LEAST_DISK];
    for (((name, asked), (_, most)), least) in asked.named().into_iter().zip(own.named()).zip(least)
    {
        let Some(asked) = asked else { continue };
        let most = most.ok_or_else(|| not_limited(name, backend))?;
        if !(least..=most).contains(&asked) {
            return Err(format!(
                "Invalid configuration: 'limits' contains {asked} for `{name}`; this server allows \
                 {least} to {most}."
            ));
        }
    }
    Ok(())
}

/// The limits of a sandbox that is restored. A server with lower limits applies its own. Fails if
/// the backend can't apply a limit. The error is the reason for the client.
pub(super) fn restored(
    stored: SandboxLimits,
    own: SandboxLimits,
    backend: &str,
) -> Result<SandboxLimits, String> {
    let mut both = stored.named().into_iter().zip(own.named());
    match both.find(|((_, stored), (_, own))| stored.is_some() && own.is_none()) {
        Some(((name, _), _)) => Err(not_limited(name, backend)),
        None => Ok(own.lowered(stored)),
    }
}

fn not_limited(name: &str, backend: &str) -> String {
    format!(
        "Invalid configuration: 'limits' contains `{name}`, which the backend `{backend}` of this \
         server can't limit for a sandbox."
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: SandboxLimits = SandboxLimits {
        memory: Some(1 << 30),
        processes: Some(64),
        disk: None,
    };

    #[test]
    fn limits_must_be_below_those_of_the_server() {
        let memory = |bytes| SandboxLimits {
            memory: Some(bytes),
            ..SandboxLimits::default()
        };
        let disk = SandboxLimits {
            disk: Some(1 << 30),
            ..SandboxLimits::default()
        };
        for fits in [SandboxLimits::default(), memory(1 << 30), memory(32 << 20)] {
            assert_eq!(check(fits, OWN, "b"), Ok(()));
        }
        for (asked, part) in [
            (memory((1 << 30) + 1), "allows 33554432 to 1073741824"),
            (memory(1), "contains 1 for `memory`"),
            (disk, "`disk`, which the backend `b`"),
        ] {
            let error = check(asked, OWN, "b").unwrap_err();
            assert!(error.contains(part), "{error}");
        }
        assert_eq!(restored(memory(1 << 40), OWN, "b"), Ok(OWN));
        let lower = restored(memory(1 << 29), OWN, "b").unwrap();
        assert_eq!((lower.memory, lower.processes), (Some(1 << 29), Some(64)));
        assert!(restored(disk, OWN, "b").is_err());
    }
}
