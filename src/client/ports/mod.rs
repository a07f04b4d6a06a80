//! Ports of a sandbox: [`Sandbox::connect`], [`Sandbox::forward`], [`Sandbox::ports`] and
//! [`Sandbox::wait_for_port`].
//!
//! Each connection is an exec whose program is a [`Builtin`]. So no byte is lost, even if the link
//! to the server is lost while the connection is open.

mod forward;
mod stream;

use std::{
    fmt::Display,
    future::{Future, IntoFuture},
    pin::Pin,
    time::Duration,
};

use futures::TryStreamExt;

pub use self::{forward::PortForward, stream::PortStream};
use super::{Sandbox, json_lines::JsonLines};
use crate::{
    Error,
    machine::Stdin,
    protocol::{Builtin, ListeningPort, invalid_port},
};

impl Sandbox {
    /// Connects to a TCP port of the sandbox: to `127.0.0.1`, or to `::1` if that is refused. The
    /// port is inside the sandbox, so this works without a network. Needs protocol v2.
    ///
    /// A sandbox on the backend `host`, or with a network, has no ports of its own: there, it is a
    /// port of the server's machine.
    ///
    /// The local server opens at most 256 connections of a sandbox at a time. Further ones wait. On
    /// the backends `namespace` and `gvisor`, each open connection takes one of the processes that
    /// the sandbox may have. On `host`, it takes a thread and about 9 file descriptors of the
    /// server's process.
    ///
    /// ```
    /// # #[cfg(all(unix, feature = "server"))]
    /// # #[actix::main]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let server = actix_sandbox::LocalServer::start().await?;
    /// # let sandbox = actix_sandbox::Sandbox::create(server.url()).await?;
    /// use actix_sandbox::Language;
    /// use tokio::io::{AsyncReadExt, AsyncWriteExt};
    ///
    /// let code = "import socket; listener = socket.create_server(('127.0.0.1', 0))\n\
    ///             print(listener.getsockname()[1], flush=True)\n\
    ///             peer = listener.accept()[0]; peer.sendall(peer.recv(100).upper())";
    /// let mut printed = sandbox.exec(Language::Python, code).await?.stdout().lines();
    /// # use futures::StreamExt;
    /// let port: u16 = printed.next().await.expect("a line")?.parse()?;
    ///
    /// let mut stream = sandbox.connect(port).await?;
    /// stream.write_all(b"hello").await?;
    /// let mut answer = String::new();
    /// stream.read_to_string(&mut answer).await?;
    /// assert_eq!(answer, "HELLO");
    /// # sandbox.kill().await?;
    /// # Ok(())
    /// # }
    /// # #[cfg(not(all(unix, feature = "server")))]
    /// # fn main() {}
    /// ```
    ///
    /// # Errors
    ///
    /// - [`BuiltinErrorKind::ConnectionRefused`](crate::BuiltinErrorKind::ConnectionRefused):
    ///   nothing listens on the port.
    /// - [`BuiltinErrorKind::TimedOut`](crate::BuiltinErrorKind::TimedOut): too many connections
    ///   wait for the program, which accepted none for 10 seconds.
    /// - [`BuiltinErrorKind::InvalidInput`](crate::BuiltinErrorKind::InvalidInput): the port is not
    ///   a number from 1 to 65535. Nothing was sent.
    /// - [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported): the server speaks protocol v1,
    ///   or is too old. Nothing was sent.
    /// - The errors of [`exec`](Self::exec).
    ///
    /// # Cancel safety
    ///
    /// Dropping the future ends the connection, if it was opened.
    pub async fn connect(&self, port: impl TryInto<u16> + Display) -> Result<PortStream, Error> {
        let port = valid("connect to", port)?;
        let connect = Builtin::Connect { port };
        let process = self.start(connect, Stdin::Open).await?;
        PortStream::connected(process).await
    }

    /// Lists the TCP ports on which programs of the sandbox listen, sorted by port. Needs protocol
    /// v2, and a server on Linux.
    ///
    /// A port occurs once for each address that a program listens on.
    /// [`ListeningPort::is_reachable`] tells whether [`connect`](Self::connect) can reach it. On
    /// the backend `host`, and in a sandbox with a network, these are the ports of the server's
    /// machine.
    ///
    /// # Errors
    ///
    /// Those of [`connect`](Self::connect), except for the errors about the port.
    pub async fn ports(&self) -> Result<Vec<ListeningPort>, Error> {
        let process = self.start(Builtin::Ports, Stdin::Null).await?;
        JsonLines::<ListeningPort>::new(process).try_collect().await
    }

    /// Waits until a program listens on a TCP port that [`connect`](Self::connect) can reach. Await
    /// the builder. Needs protocol v2, and a server on Linux.
    ///
    /// The wait opens no connection to the program.
    ///
    /// ```no_run
    /// # async fn wait(sandbox: actix_sandbox::Sandbox) -> Result<(), actix_sandbox::Error> {
    /// use std::time::Duration;
    ///
    /// sandbox.wait_for_port(8000).timeout(Duration::from_secs(10)).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`BuiltinErrorKind::TimedOut`](crate::BuiltinErrorKind::TimedOut) if the
    /// [timeout](WaitForPort::timeout) is over. All other errors are those of
    /// [`connect`](Self::connect).
    ///
    /// # Cancel safety
    ///
    /// Dropping the future ends the wait.
    pub fn wait_for_port(&self, port: impl TryInto<u16> + Display) -> WaitForPort {
        WaitForPort {
            sandbox: self.clone(),
            port: valid("wait for", port),
            timeout: None,
        }
    }
}

/// A wait for a port. [`Sandbox::wait_for_port`] returns this builder.
#[derive(Debug)]
#[must_use = "nothing waits until the builder is awaited"]
pub struct WaitForPort {
    sandbox: Sandbox,
    port: Result<u16, Error>,
    timeout: Option<Duration>,
}

impl WaitForPort {
    /// How long to wait, from the moment at which the server begins to wait. Rounded up to whole
    /// milliseconds. Default: no limit.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    async fn wait(self) -> Result<(), Error> {
        let millis = |timeout: Duration| {
            let millis = timeout.as_nanos().div_ceil(1_000_000);
            u64::try_from(millis).unwrap_or(u64::MAX)
        };
        let wait = Builtin::WaitForPort {
            port: self.port?,
            timeout_ms: self.timeout.map(millis),
        };
        self.sandbox.apply(wait).await
    }
}

impl IntoFuture for WaitForPort {
    type Output = Result<(), Error>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.wait())
    }
}

/// Checks a port. `what` is the operation, for errors.
fn valid(what: &str, port: impl TryInto<u16> + Display) -> Result<u16, Error> {
    let text = port.to_string();
    match port.try_into() {
        Ok(port) if port > 0 => Ok(port),
        _ => Err(invalid_port(what, &text).into()),
    }
}
