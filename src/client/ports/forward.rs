//! [`PortForward`]: a local listener whose connections lead to a port of a sandbox.

use std::{
    fmt::Display,
    io,
    net::{SocketAddr, TcpListener as StdListener},
    time::Duration,
};

use futures::{
    FutureExt, StreamExt,
    future::{AbortHandle, Either, abortable, select, try_join},
};
use socket2::SockRef;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy, split},
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::sleep,
};

use super::{PortStream, valid};
use crate::{Error, EventStream, Sandbox, actor::run_beside, protocol::excerpt};

/// How many connections of a listener are open at a time. Further ones wait in the queue of the
/// operating system. The local server opens four times as many connections of a sandbox.
const MAX_CONNECTIONS: usize = 64;

/// How many bytes to read at a time from a local connection.
const BUFFER: usize = 64 * 1024;

/// How long to wait after a connection could not be accepted, for example because this process has
/// too many open files.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// A local listener whose connections lead to a port of a sandbox.
/// [`Sandbox::forward`](crate::Sandbox::forward) returns it.
///
/// Dropping it closes the listener and resets its connections. The same happens when the sandbox
/// ends, or when its connection to the server is lost for good. It counts as a handle of the
/// sandbox.
#[derive(Debug)]
#[must_use = "dropping it closes the listener"]
pub struct PortForward {
    local_addr: SocketAddr,
    task: AbortHandle,
}

impl Sandbox {
    /// Listens on a local address. Each connection that it accepts leads to the TCP port of the
    /// sandbox, as with [`connect`](Self::connect). Port 0 in the address selects a free port,
    /// which [`PortForward::local_addr`] returns. The address is a [`SocketAddr`], or text such as
    /// `"127.0.0.1:0"` or `"[::1]:8000"`. It can't contain a host name. Needs protocol v2.
    ///
    /// The connections run on the thread of the sandbox's actor, so no tokio runtime is needed. At
    /// most 64 are open at a time, and further ones wait. If nothing listens on the port in the
    /// sandbox, or if the connection is reset there, the local connection is reset. The reason is
    /// logged at the level `debug`.
    ///
    /// Every program of this machine that can reach the local address can use the port, so prefer
    /// `127.0.0.1`.
    ///
    /// ```no_run
    /// # async fn forward(sandbox: actix_sandbox::Sandbox) -> Result<(), actix_sandbox::Error> {
    /// let forward = sandbox.forward("127.0.0.1:0", 8000).await?;
    /// println!("open http://{}/", forward.local_addr());
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// - [`ErrorKind::LocalAddress`](crate::ErrorKind::LocalAddress): this machine can't listen on
    ///   the local address, or it is not an IP address with a port.
    /// - [`BuiltinErrorKind::InvalidInput`](crate::BuiltinErrorKind::InvalidInput): the port of the
    ///   sandbox is not a number from 1 to 65535.
    /// - [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported): the server speaks protocol v1,
    ///   or is too old.
    /// - The errors of [`exec`](Self::exec), for example if the sandbox is over.
    ///
    /// It is no error if nothing listens in the sandbox yet.
    #[doc(alias = "get_host")]
    pub async fn forward(
        &self,
        local: impl Display,
        port: impl TryInto<u16> + Display,
    ) -> Result<PortForward, Error> {
        let port = valid("forward to", port)?;
        let listen = || {
            let listener = StdListener::bind(parse(&local.to_string())?)?;
            listener.set_nonblocking(true)?;
            Ok((listener.local_addr()?, listener))
        };
        let (local_addr, listener) = listen().map_err(Error::local_address)?;
        // Fails if the sandbox is over, or if the server doesn't support ports.
        match self.ports().await {
            Err(error) if error.builtin().is_none() => return Err(error),
            _ => {}
        }
        let (serving, task) = abortable(serve(listener, self.clone(), self.events(), port));
        run_beside(serving.map(drop).boxed(), self.addr());
        Ok(PortForward { local_addr, task })
    }
}

impl PortForward {
    /// The address of the listener.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }
}

impl Drop for PortForward {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Doesn't look up host names, because that blocks.
fn parse(local: &str) -> io::Result<SocketAddr> {
    local.parse().map_err(|_| {
        let local = excerpt(local.as_bytes());
        let message =
            format!("'{local}' is not an IP address with a port, for example '127.0.0.1:0'");
        io::Error::new(io::ErrorKind::InvalidInput, message)
    })
}

/// Accepts connections until the sandbox ends.
async fn serve(listener: StdListener, sandbox: Sandbox, events: EventStream, port: u16) {
    let listener = match TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => return tracing::warn!(%error, "a forwarded port can't be served"),
    };
    // The connections end when this is dropped.
    let mut connections = JoinSet::new();
    let accepting = async {
        loop {
            while connections.try_join_next().is_some() {}
            if connections.len() >= MAX_CONNECTIONS {
                connections.join_next().await;
            }
            match listener.accept().await {
                Ok((local, _)) => {
                    connections.spawn(relay(local, sandbox.clone(), port));
                }
                Err(error) => {
                    tracing::warn!(%error, "a forwarded connection can't be accepted");
                    sleep(ACCEPT_AGAIN).await;
                }
            }
        }
    };
    let ended = events.for_each(|_| std::future::ready(()));
    match select(std::pin::pin!(accepting), ended).await {
        Either::Left(((), _)) | Either::Right(((), _)) => {}
    }
}

/// Moves bytes between a local connection and the port until both directions have ended.
///
/// Resets the local connection unless both directions have ended, even if this future is dropped.
/// Otherwise a part of an answer could look complete.
async fn relay(mut local: TcpStream, sandbox: Sandbox, port: u16) {
    let relayed = async {
        // With this option, dropping the connection resets it.
        SockRef::from(&local).set_linger(Some(Duration::ZERO))?;
        local.set_nodelay(true)?;
        let mut remote = sandbox.connect(port).await?;
        exchange(&mut local, &mut remote).await?;
        // The program may not have received everything yet.
        remote.closed().await?;
        SockRef::from(&local).set_linger(None)
    };
    if let Err(error) = relayed.await {
        tracing::debug!(port, %error, "a forwarded connection failed");
    }
}

/// Moves bytes until both directions have ended.
///
/// If the program takes no more bytes, what it has sent is moved before this fails. For example, an
/// HTTP server may refuse a request before it has read all of it.
async fn exchange(local: &mut TcpStream, remote: &mut PortStream) -> io::Result<()> {
    let (mut from_local, mut to_local) = local.split();
    let (mut from_remote, mut to_remote) = split(remote);
    let upload = async {
        let mut buffer = vec![0; BUFFER];
        loop {
            let bytes = from_local.read(&mut buffer).await?;
            let taken = match buffer.get(..bytes) {
                None | Some([]) => return Ok(to_remote.shutdown().await),
                Some(read) => to_remote.write_all(read).await,
            };
            if taken.is_err() {
                return Ok(taken);
            }
        }
    };
    let download = async {
        copy(&mut from_remote, &mut to_local).await?;
        to_local.shutdown().await
    };
    let (taken, ()) = try_join(upload, download).await?;
    taken
}
