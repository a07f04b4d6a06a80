//! The backend that tests run on: the one that `ACTIX_SANDBOX_BACKEND` names, or `host`. Some need another, and say why.

use std::time::Duration;

use actix_sandbox::server::{Backend, LocalServer, ServerBuilder};

/// A limit of time for code that is to have said something before it: on a busy machine even bash takes a while to.
pub(crate) const LONG_ENOUGH_TO_BEGIN: Duration = Duration::from_secs(5);

/// For tests that look for processes of a sandbox on this machine: those in gVisor are not seen there; and for those with many
/// sandboxes at once: in gVisor each has a kernel of its own, of some 30 MB.
pub(crate) fn with_visible_processes() -> ServerBuilder {
    let builder = LocalServer::builder();
    match is("gvisor") {
        true => builder.backend(Backend::Host),
        false => builder,
    }
}

/// For tests of what is so on the host alone: directories of this machine, its `PATH`, what a sandbox can do to the server.
pub(crate) fn on_the_host() -> ServerBuilder {
    LocalServer::builder().backend(Backend::Host)
}

/// Starts a server on a backend that this machine may not have: then a line says why. CI has all, and says so.
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

/// Whether the tests run on this backend.
pub(crate) fn is(name: &str) -> bool {
    std::env::var_os("ACTIX_SANDBOX_BACKEND").is_some_and(|named| named == name)
}
