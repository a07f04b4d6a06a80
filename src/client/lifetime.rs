//! How long a sandbox lives: changes of its idle timeout and of its maximum lifetime.

use std::time::{Duration, SystemTime};

use super::{Sandbox, builder::seconds};
use crate::{
    Error,
    protocol::{Builtin, Extended, listing::from_millis},
};

impl Sandbox {
    /// Changes the [idle timeout](crate::SandboxBuilder::idle_timeout). Resolves when the server
    /// has changed it. A timeout above the limit of the server becomes that limit. A checkpoint
    /// keeps the new timeout. Needs protocol v2.
    ///
    /// ```
    /// # #[cfg(all(unix, feature = "server"))]
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # futures::executor::block_on(async {
    /// # let server = actix_sandbox::LocalServer::start().await?;
    /// # let sandbox = actix_sandbox::Sandbox::create(server.url()).await?;
    /// use std::time::Duration;
    ///
    /// sandbox.set_idle_timeout(Duration::from_secs(600)).await?;
    /// # sandbox.kill().await?;
    /// # Ok(())
    /// # })
    /// # }
    /// # #[cfg(not(all(unix, feature = "server")))]
    /// # fn main() {}
    /// ```
    ///
    /// # Errors
    ///
    /// - [`ErrorKind::InvalidOption`](crate::ErrorKind::InvalidOption): the timeout is zero or
    ///   contains a fraction of a second. Nothing was sent.
    /// - [`ErrorKind::Builtin`](crate::ErrorKind::Builtin) with the kind
    ///   [`InvalidInput`](crate::BuiltinErrorKind::InvalidInput): the timeout is longer than 136
    ///   years.
    /// - [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported): the server can't change it.
    ///   Nothing was sent.
    /// - The errors of [`exec`](Self::exec).
    pub async fn set_idle_timeout(&self, timeout: Duration) -> Result<(), Error> {
        let seconds = seconds("idle_timeout", timeout)?;
        self.apply(Builtin::SetIdleTimeout { seconds }).await
    }

    /// Extends the lifetime of a sandbox with a
    /// [`max_lifetime`](crate::SandboxBuilder::max_lifetime): moves its end by this duration.
    /// Returns the new end. The end moves exactly once, even if the connection is lost in between.
    /// Needs protocol v2.
    ///
    /// A checkpoint keeps the new end. If the server crashes and the sandbox is restored from an
    /// earlier checkpoint, the end in that checkpoint counts.
    ///
    /// ```
    /// # #[cfg(all(unix, feature = "server"))]
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # futures::executor::block_on(async {
    /// # let server = actix_sandbox::LocalServer::start().await?;
    /// use std::time::Duration;
    ///
    /// use actix_sandbox::Sandbox;
    ///
    /// let hour = Duration::from_secs(3600);
    /// let sandbox = Sandbox::create(server.url()).max_lifetime(hour).await?;
    /// let ends_at = sandbox.extend(hour).await?;
    /// println!("the sandbox lives until {ends_at:?}");
    /// # sandbox.kill().await?;
    /// # Ok(())
    /// # })
    /// # }
    /// # #[cfg(not(all(unix, feature = "server")))]
    /// # fn main() {}
    /// ```
    ///
    /// # Errors
    ///
    /// - [`ErrorKind::InvalidOption`](crate::ErrorKind::InvalidOption): the duration is zero or
    ///   contains a fraction of a second. Nothing was sent.
    /// - [`ErrorKind::Builtin`](crate::ErrorKind::Builtin) with the kind
    ///   [`InvalidInput`](crate::BuiltinErrorKind::InvalidInput): the sandbox has no maximum
    ///   lifetime, or would end in more than 136 years.
    /// - [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported): the server can't extend it.
    ///   Nothing was sent.
    /// - The errors of [`exec`](Self::exec).
    #[doc(alias = "set_timeout")]
    pub async fn extend(&self, duration: Duration) -> Result<SystemTime, Error> {
        let seconds = seconds("extend", duration)?;
        let extended: Extended = self.perform(Builtin::Extend { seconds }).await?;
        Ok(from_millis(extended.ends_at_ms))
    }
}
