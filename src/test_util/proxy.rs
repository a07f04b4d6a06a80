//! [`Proxy`]: a TCP proxy between client and server that does what networks do: cuts at a byte, resets,
//! stalls, splits what is written, refuses. It can write down what the server has handed to each connection.

use std::{
    fmt, io,
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use futures::future::{Either, select};
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

/// Connections whose records are kept: the first ones.
const MAX_RECORDS: usize = 10_000;

/// What happened on one connection.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Record {
    /// What was taken from the server, also after the cut, up to [`ProxyBuilder::record`] bytes.
    pub from_server: Vec<u8>,
    /// How many bytes were taken from the server.
    pub taken: u64,
    /// How many of them were passed on.
    pub delivered: usize,
    /// Both ends are closed.
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

/// What is to be done to all connections now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    Pass,
    /// Nothing passes, and nobody is told: a half-open link.
    Stall,
    /// The nth time that all are cut.
    Cut(usize),
}

type Planner = dyn Fn(usize) -> Plan + Send + Sync;

struct Shared {
    target: SocketAddr,
    planner: Box<Planner>,
    records: Mutex<Vec<Arc<Mutex<Record>>>>,
    accepted: AtomicUsize,
    /// Connections that are not over.
    open: watch::Sender<usize>,
    order: watch::Sender<Order>,
    /// Bytes of each connection that are written down.
    record: usize,
}

/// A proxy with faults. Dropped, it stops to listen; its connections go on.
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
/// // The first connection is cut in the middle; those after it are left alone.
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
    shared: Arc<Shared>,
    listening: Option<JoinHandle<()>>,
}

/// Options of a [`Proxy`].
#[must_use = "the proxy listens when it is started"]
pub struct ProxyBuilder {
    target: SocketAddr,
    planner: Box<Planner>,
    record: usize,
}

impl ProxyBuilder {
    /// What happens to each connection, asked by its number from 0. Default: nothing does.
    pub fn plan(mut self, planner: impl Fn(usize) -> Plan + Send + Sync + 'static) -> Self {
        self.planner = Box::new(planner);
        self
    }

    /// How many bytes from the server are written down of each connection, for [`Proxy::records`]; of
    /// the first 10,000 connections. Default: 0, nothing is.
    pub fn record(mut self, bytes: usize) -> Self {
        self.record = bytes;
        self
    }

    /// Listens on 127.0.0.1 at a free port. Must be awaited in a tokio runtime, which runs the proxy.
    ///
    /// # Errors
    ///
    /// The system gives no port.
    pub async fn start(self) -> io::Result<Proxy> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            target: self.target,
            planner: self.planner,
            records: Mutex::default(),
            accepted: AtomicUsize::new(0),
            open: watch::Sender::new(0),
            order: watch::Sender::new(Order::Pass),
            record: self.record,
        });
        let listening = Some(tokio::spawn(listen(listener, shared.clone())));
        Ok(Proxy {
            address,
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

    /// Where a client finds it: `ws://127.0.0.1:port`.
    pub fn url(&self) -> String {
        format!("ws://{}", self.address)
    }

    /// The URL of a service behind the proxy, as a client dials it through the proxy: with the same
    /// path, which may be the secret of a local server.
    pub fn url_for(&self, service: &str) -> String {
        let (_, rest) = service.split_once("://").unwrap_or(("", service));
        let path = rest.find('/').map_or("", |at| &rest[at..]);
        self.url() + path
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// How many connections there have been.
    pub fn accepted(&self) -> usize {
        self.shared.accepted.load(Ordering::SeqCst)
    }

    /// Cuts every connection there is.
    pub fn cut(&self) {
        self.shared.order.send_modify(|order| {
            *order = Order::Cut(match order {
                Order::Cut(times) => *times + 1,
                _ => 1,
            });
        });
    }

    /// From now on nothing passes, on old and new connections, and no end is told.
    pub fn stall(&self) {
        self.shared.order.send_replace(Order::Stall);
    }

    /// New connections pass again. Those that stalled stay as they are until they are cut.
    pub fn pass(&self) {
        self.shared.order.send_replace(Order::Pass);
    }

    /// New connections are refused from now on; the port is kept in mind.
    pub async fn refuse(&mut self) {
        if let Some(listening) = self.listening.take() {
            listening.abort();
            let _ = listening.await;
        }
    }

    /// Listens again, at the same address.
    ///
    /// # Errors
    ///
    /// Another program took the port meanwhile.
    pub async fn accept(&mut self) -> io::Result<()> {
        if self.listening.is_none() {
            let listener = TcpListener::bind(self.address).await?;
            self.listening = Some(tokio::spawn(listen(listener, self.shared.clone())));
        }
        Ok(())
    }

    /// What happened on each connection, in the order in which they came. Nothing, unless
    /// [`ProxyBuilder::record`] says so.
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

impl Drop for Proxy {
    fn drop(&mut self) {
        if let Some(listening) = self.listening.take() {
            listening.abort();
        }
    }
}

/// The data is whole after a panic elsewhere: nothing here stops in the middle of a change.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Counts an open connection, however it ends.
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

async fn listen(listener: TcpListener, shared: Arc<Shared>) {
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
            // A connection that cannot be made is over; its client sees that.
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
        // Only what is ordered from now on.
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
    // The client is told first, so that it is back before the server knows that it was gone.
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
    /// What happens behind the last byte that may pass: nothing, or the end.
    stall: bool,
    piece: Option<usize>,
    order: watch::Receiver<Order>,
    record: Option<(&'a Mutex<Record>, usize)>,
}

impl Pass<'_> {
    /// Passes bytes on until one end closes, or as many as allowed have passed.
    async fn run(mut self, from: &mut OwnedReadHalf, to: &mut OwnedWriteHalf) {
        let mut left = self.most.unwrap_or(u64::MAX);
        let mut buffer = vec![0; 16 * 1024];
        while left > 0 {
            if *self.order.borrow_and_update() == Order::Stall {
                // For good: whatever comes later is on a new connection.
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
