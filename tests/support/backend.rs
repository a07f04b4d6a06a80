//! The backend that tests run on: the one in `ACTIX_SANDBOX_BACKEND`, or `host` by default. Tests
//! that need another one choose it with these functions.

use std::time::Duration;

use actix_sandbox::server::{Backend, LocalServer, ServerBuilder};

/// A time limit for code that must print something before the limit ends it. On a busy machine,
/// even bash takes a while to start.
pub(crate) const LONG_ENOUGH_TO_BEGIN: Duration = Duration::from_secs(5);

/// A server whose sandboxes have processes that this machine sees. On gVisor, `host` replaces it:
/// gVisor hides the processes, and its kernel costs about 30 MB per sandbox, too much for tests
/// with many sandboxes.
pub(crate) fn with_visible_processes() -> ServerBuilder {
    let builder = LocalServer::builder();
    match is("gvisor") {
        true => builder.backend(Backend::Host),
        false => builder,
    }
}

/// A server for tests that need the host backend: code there uses directories of this machine and
/// its `PATH`, and can remove what the server relies on.
pub(crate) fn on_the_host() -> ServerBuilder {
    LocalServer::builder().backend(Backend::Host)
}

/// Starts a server. If the backend doesn't work on this machine, prints why and returns `None`.
/// With `CI_BACKENDS` set, panics instead: CI has every backend.
pub(crate) async fn start_if_possible(builder: ServerBuilder) -> Option<LocalServer> {
    match builder.start().await {
        Ok(server) => Some(server),
        Err(error) => {
            println!("not tried: {error}");
            assert!(std::env::var_os("CI_BACKENDS").is_none(), "{error}");
            None
        }
    }
}

/// Whether `ACTIX_SANDBOX_BACKEND` names this backend.
pub(crate) fn is(name: &str) -> bool {
    std::env::var_os("ACTIX_SANDBOX_BACKEND").is_some_and(|named| named == name)
}

/// `actix-sandbox` without `bwrap` and with this `PATH`, without arguments. The server looks for
/// `bwrap` on a fixed path, so a mount namespace hides it there. If that is not possible, the exit
/// status is 99, or stderr contains `unshare`.
#[cfg(all(target_os = "linux", feature = "cli"))]
pub(crate) fn without_bwrap(path: &std::path::Path) -> std::process::Command {
    let script = "for directory in /usr/local/sbin /usr/local/bin /usr/sbin /usr/bin /sbin /bin; do
        [ ! -e $directory/bwrap ] || mount --bind /dev/null $directory/bwrap || exit 99
    done
    PATH=$1; shift; exec \"$@\"";
    let mut hidden = std::process::Command::new("unshare");
    hidden.args(["--mount", "--", "bash", "-c", script, "bash"]);
    hidden.arg(path);
    hidden.arg(env!("CARGO_BIN_EXE_actix-sandbox"));
    hidden
}
