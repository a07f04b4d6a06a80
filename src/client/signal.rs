//! Signals for processes.

use super::Process;
use crate::{
    Error,
    protocol::{Builtin, Signal},
};

impl Process {
    /// Sends a signal to the main process. Resolves when the signal is sent, which happens exactly
    /// once, even if the connection is lost in between. Needs protocol v2.
    ///
    /// ```
    /// # #[cfg(all(unix, feature = "server"))]
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # futures::executor::block_on(async {
    /// # let server = actix_sandbox::LocalServer::start().await?;
    /// # let sandbox = actix_sandbox::Sandbox::create(server.url()).await?;
    /// use actix_sandbox::{ProcessEnd, Signal};
    ///
    /// let process = sandbox.program("sleep").arg("1000").spawn().await?;
    /// process.signal(Signal::TERM).await?;
    /// assert_eq!(process.wait().await?, ProcessEnd::Signaled(15));
    /// # sandbox.kill().await?;
    /// # Ok(())
    /// # })
    /// # }
    /// # #[cfg(not(all(unix, feature = "server")))]
    /// # fn main() {}
    /// ```
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the signal may or may not be sent.
    ///
    /// # Errors
    ///
    /// - [`ErrorKind::Builtin`](crate::ErrorKind::Builtin), kind
    ///   [`NotFound`](crate::BuiltinErrorKind::NotFound): the main process has ended.
    /// - [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported): the server speaks protocol v1
    ///   or doesn't support signals. Nothing was sent.
    /// - The errors of [`Sandbox::exec`](crate::Sandbox::exec).
    pub async fn signal(&self, signal: Signal) -> Result<(), Error> {
        self.send_signal(signal, false).await
    }

    /// Sends a signal to the process group of the main process: to the main process and those of
    /// its descendants that have not changed their group. Otherwise like [`signal`](Self::signal).
    ///
    /// # Errors
    ///
    /// Those of [`signal`](Self::signal).
    pub async fn signal_group(&self, signal: Signal) -> Result<(), Error> {
        self.send_signal(signal, true).await
    }

    async fn send_signal(&self, signal: Signal, group: bool) -> Result<(), Error> {
        let exec = self.exec_id("send a signal")?;
        let signal = signal.number();
        let builtin = Builtin::Signal {
            exec,
            signal,
            group,
        };
        self.sandbox().apply(builtin).await
    }
}
