//! [`Proxy`]: a TCP proxy with the faults of networks. It cuts connections at a byte, resets,
//! stalls, splits and refuses them. It can record the bytes that the server sent on each
//! connection.

use std::{
    fmt, io,
    net::{Ipv4Addr, Shutdown, SocketAddr},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use futures::future::{Either, select};
use socket2::SockRef;
#[cfg(target_os = "linux")]
use socket2::{Domain, Socket, Type};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
    task::JoinHandle,
};

use super::Plan;

/// Maximum number of connections to record. Later connections are not recorded.
const MAX_RECORDS: usize = 10_000;

/// The record of one connection.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Record {
    /// The first [`ProxyBuilder::record`] bytes from the server, including bytes after a cut.
    pub from_server: Vec<u8>,
    /// Number of bytes received from the server.
    pub taken: u64,
    /// Number of bytes passed to the client.
    pub delivered: usize,
    /// Whether both ends are closed.
    pub over: bool,
}

impl Record {
    fn add(&mut self, bytes: &[u8], most: usize) {
        self.taken += bytes.len() as u64;
        let room = most.saturating_sub(self.from_server.len());
        self.from_server
            .extend_from_slice(&bytes[..bytes.len().min(room)]);
    }
}

/// A command to all connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    Pass,
    /// No bytes pass, and neither side sees an end: a half-open link.
    Stall,
    /// All connections are cut, for the nth time.
    Cut(usize),
}

type Planner = dyn Fn(usize) -> Plan + Send + Sync;

struct Shared {
    target: SocketAddr,
    planner: Box<Planner>,
    records: Mutex<Vec<Arc<Mutex<Record>>>>,
    accepted: AtomicUsize,
    /// Number of open connections.
    open: watch::Sender<usize>,
    order: watch::Sender<Order>,
    /// Bytes to record of each connection.
    record: usize,
}

/// A TCP proxy with faults. When dropped, it stops listening; its connections continue.
///
/// ```
/// # #[cfg(all(unix, feature = "server"))]
/// # #[actix::main]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use actix_sandbox::{
///     Language, LocalServer, Sandbox,
///     test_util::{Plan, Proxy},
/// };
///
/// let server = LocalServer::start().await?;
/// // Cuts the first connection in the middle, and no later one.
/// let proxy = Proxy::builder(server.address())
///     .plan(|number| match number {
///         0 => Plan::default().cut_down(2_000).reset(),
///         _ => Plan::default(),
///     })
///     .start()
///     .await?;
///
/// let sandbox = Sandbox::create(proxy.url_for(server.url()))
///     .enable_auto_reconnect(true)
///     .await?;
/// let output = sandbox.run(Language::Bash, "seq 1000").await?;
/// assert_eq!(output.stdout_lossy().lines().count(), 1000); // protocol v2 loses nothing
/// assert_eq!(proxy.accepted(), 2);
/// # sandbox.kill().await?;
/// # Ok(())
/// # }
/// # #[cfg(not(all(unix, feature = "server")))]
/// # fn main() {}
/// ```
pub struct Proxy {
    address: SocketAddr,
    /// Reserves the port while the proxy doesn't listen. Only Linux lets a listener bind a port
    /// that is reserved this way.
    #[cfg(target_os = "linux")]
    _reserved: Socket,
    shared: Arc<Shared>,
    listening: Option<Listening>,
}

/// A listener and its task. Stops listening when dropped.
struct Listening {
    listener: Arc<TcpListener>,
    task: JoinHandle<()>,
}

impl Listening {
    fn start(listener: TcpListener, shared: Arc<Shared>) -> Self {
        let listener = Arc::new(listener);
        let task = tokio::spawn(listen(listener.clone(), shared));
        Self { listener, task }
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        // Closing the socket isn't enough: a child process between fork and exec still has a copy
        // of it. macOS can't shut down a listening socket. There, closing it must do.
        let _ = SockRef::from(&*self.listener).shutdown(Shutdown::Both);
        self.task.abort();
    }
}

/// Options of a [`Proxy`].
#[must_use = "the proxy doesn't listen until it is started"]
pub struct ProxyBuilder {
    target: SocketAddr,
    planner: Box<Planner>,
    record: usize,
}

impl ProxyBuilder {
    /// Sets the faults of each connection. `planner` gets the number of the connection, from 0.
    /// Default: no faults.
    pub fn plan(mut self, planner: impl Fn(usize) -> Plan + Send + Sync + 'static) -> Self {
        self.planner = Box::new(planner);
        self
    }

    /// How many bytes from the server to record of each connection, for [`Proxy::records`]. Only
    /// the first 10,000 connections are recorded. Default: 0, no recording.
    pub fn record(mut self, bytes: usize) -> Self {
        self.record = bytes;
        self
    }

    /// Starts to listen on `127.0.0.1` at a free port. Must be called in a tokio runtime, which
    /// runs the proxy.
    ///
    /// # Errors
    ///
    /// The port can't be bound.
    pub async fn start(self) -> io::Result<Proxy> {
        let mut address = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        #[cfg(target_os = "linux")]
        let _reserved = {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
            socket.set_reuse_address(true)?;
            socket.bind(&address.into())?;
            address = socket.local_addr()?.as_socket().unwrap_or(address);
            socket
        };
        let listener = TcpListener::bind(address).await?;
        address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            target: self.target,
            planner: self.planner,
            records: Mutex::default(),
            accepted: AtomicUsize::new(0),
            open: watch::Sender::new(0),
            order: watch::Sender::new(Order::Pass),
            record: self.record,
        });
        let listening = Some(Listening::start(listener, shared.clone()));
        Ok(Proxy {
            address,
            #[cfg(target_os = "linux")]
            _reserved,
            shared,
            listening,
        })
    }
}

impl Proxy {
    /// A proxy in front of `target`.
    pub fn builder(target: SocketAddr) -> ProxyBuilder {
        ProxyBuilder {
            target,
            planner: Box::new(|_| Plan::default()),
            record: 0,
        }
    }

    /// The URL of the proxy: `ws://127.0.0.1:port`.
    pub fn url(&self) -> String {
        format!("ws://{}", self.address)
    }

    /// The URL by which a client reaches `service` through the proxy. It keeps the path, which
    /// contains the secret of a local server.
    pub fn url_for(&self, service: &str) -> String {
        let (_, rest) = service.split_once("://").unwrap_or(("", service));
        let path = rest.find('/').map_or("", |at| &rest[at..]);
        self.url() + path
    }

    /// The address that the proxy listens on.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Number of connections accepted so far.
    pub fn accepted(&self) -> usize {
        self.shared.accepted.load(Ordering::SeqCst)
    }

    /// Cuts every open connection.
    pub fn cut(&self) {
        self.shared.order.send_modify(|order| {
            *order = Order::Cut(match order {
                Order::Cut(times) => *times + 1,
                _ => 1,
            });
        });
    }

    /// Stalls all open and new connections: no bytes pass, and neither side sees an end.
    pub fn stall(&self) {
        self.shared.order.send_replace(Order::Stall);
    }

    /// Lets new connections pass again. Connections that stalled stay stalled until they are cut.
    pub fn pass(&self) {
        self.shared.order.send_replace(Order::Pass);
    }

    /// Stops listening, so new connections are refused. [`accept`](Self::accept) listens again at
    /// the same port.
    pub async fn refuse(&mut self) {
        if let Some(mut listening) = self.listening.take() {
            listening.task.abort();
            let _ = (&mut listening.task).await;
        }
    }

    /// Listens again at the same address.
    ///
    /// # Errors
    ///
    /// The port can't be bound. On Linux, the proxy reserves it. Elsewhere, another program may
    /// have taken it.
    pub async fn accept(&mut self) -> io::Result<()> {
        if self.listening.is_none() {
            let listener = TcpListener::bind(self.address).await?;
            self.listening = Some(Listening::start(listener, self.shared.clone()));
        }
        Ok(())
    }

    /// The records of all connections, in order of arrival. Empty unless [`ProxyBuilder::record`]
    /// is set.
    pub fn records(&self) -> Vec<Record> {
        let records = lock(&self.shared.records);
        records.iter().map(|record| lock(record).clone()).collect()
    }

    /// Waits until no connection is open.
    pub async fn all_over(&self) {
        let mut open = self.shared.open.subscribe();
        // Its sender lives as long as `self`.
        let _ = open.wait_for(|open| *open == 0).await;
    }
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Proxy")
            .field("address", &self.address)
            .field("target", &self.shared.target)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for ProxyBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProxyBuilder")
            .field("target", &self.target)
            .field("record", &self.record)
            .finish_non_exhaustive()
    }
}

/// Ignores poisoning: no panic can happen in the middle of a change here.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Counts as an open connection until it is dropped.
struct Open(Arc<Shared>);

impl Open {
    fn new(shared: &Arc<Shared>) -> Self {
        shared.open.send_modify(|open| *open += 1);
        Self(shared.clone())
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.send_modify(|open| *open -= 1);
    }
}

async fn listen(listener: Arc<TcpListener>, shared: Arc<Shared>) {
    while let Ok((client, _)) = listener.accept().await {
        let number = shared.accepted.fetch_add(1, Ordering::SeqCst);
        let record = Arc::new(Mutex::new(Record::default()));
        if shared.record > 0 {
            let mut records = lock(&shared.records);
            if records.len() < MAX_RECORDS {
                records.push(record.clone());
            }
        }
        let open = Open::new(&shared);
        tokio::spawn(async move {
            // On an error the connection closes, which its client sees.
            let _ = connection(client, number, &record, &open.0).await;
            lock(&record).over = true;
            drop(open);
        });
    }
}

async fn connection(
    client: TcpStream,
    number: usize,
    record: &Mutex<Record>,
    shared: &Shared,
) -> io::Result<()> {
    let plan = (shared.planner)(number);
    if plan.reset || plan.refuse {
        client.set_zero_linger()?;
    }
    if plan.refuse {
        return Ok(());
    }
    let server = TcpStream::connect(shared.target).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let mut order = shared.order.subscribe();
    let began_with = *order.borrow_and_update();

    let cut = async {
        // Ignore cuts ordered before this connection.
        let cut = |order: &Order| matches!(order, Order::Cut(_)) && *order != began_with;
        let _ = order.wait_for(cut).await;
    };
    let stalled = shared.order.subscribe();
    let down = Pass {
        most: plan.cut_down,
        stall: plan.stall,
        piece: plan.piece,
        order: stalled.clone(),
        record: (shared.record > 0).then_some((record, shared.record)),
    };
    let up = Pass {
        most: plan.cut_up,
        stall: false,
        piece: None,
        order: stalled,
        record: None,
    };
    {
        let down = std::pin::pin!(down.run(&mut from_server, &mut to_client));
        let up = std::pin::pin!(up.run(&mut from_client, &mut to_server));
        let cut = std::pin::pin!(cut);
        select(select(down, up), cut).await;
    }
    // Close the client's end first, so that it reconnects before the server notices.
    drop((from_client, to_client));
    let _ = to_server.shutdown().await;
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(count @ 1..) = from_server.read(&mut buffer).await {
        if shared.record > 0 {
            lock(record).add(&buffer[..count], shared.record);
        }
    }
    Ok(())
}

/// One direction of a connection.
struct Pass<'a> {
    most: Option<u64>,
    /// Whether the direction stalls after its last byte, instead of ending.
    stall: bool,
    piece: Option<usize>,
    order: watch::Receiver<Order>,
    record: Option<(&'a Mutex<Record>, usize)>,
}

impl Pass<'_> {
    /// Passes bytes until one end closes or the allowed number has passed.
    async fn run(mut self, from: &mut OwnedReadHalf, to: &mut OwnedWriteHalf) {
        let mut left = self.most.unwrap_or(u64::MAX);
        let mut buffer = vec![0; 16 * 1024];
        while left > 0 {
            if *self.order.borrow_and_update() == Order::Stall {
                // A stalled connection never passes bytes again.
                std::future::pending::<()>().await;
            }
            let read = {
                let read = std::pin::pin!(from.read(&mut buffer));
                let changed = std::pin::pin!(self.order.changed());
                match select(read, changed).await {
                    Either::Left((read, _)) => Some(read),
                    Either::Right(_) => None,
                }
            };
            let count = match read {
                Some(Ok(count @ 1..)) => count,
                Some(_) => return,
                None => continue,
            };
            if let Some((record, most)) = self.record {
                lock(record).add(&buffer[..count], most);
            }
            let allowed = count.min(usize::try_from(left).unwrap_or(usize::MAX));
            let piece = self.piece.unwrap_or(usize::MAX).max(1);
            for part in buffer[..allowed].chunks(piece) {
                if to.write_all(part).await.is_err() {
                    return;
                }
                if self.piece.is_some() {
                    tokio::task::yield_now().await;
                }
            }
            if let Some((record, _)) = self.record {
                lock(record).delivered += allowed;
            }
            left -= allowed as u64;
        }
        if self.stall {
            std::future::pending::<()>().await;
        }
    }
}
