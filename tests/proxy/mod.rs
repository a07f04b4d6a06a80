//! A TCP proxy between client and server that does what networks do: cuts at a byte, resets, stalls,
//! splits what is written, refuses. It writes down what the server has handed to each connection.
#![allow(dead_code, reason = "every test file uses a part of it")]

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
    task::JoinHandle,
};

/// What is to happen to one connection. Nothing, unless it says so.
#[derive(Clone, Debug, Default)]
pub(crate) struct Plan {
    /// Cut after this many bytes from the server.
    pub(crate) cut_down: Option<u64>,
    /// Cut after this many bytes from the client.
    pub(crate) cut_up: Option<u64>,
    /// Instead of the cut, nothing comes from the server any more, and nobody is told: a half-open link.
    pub(crate) stall: bool,
    /// The client's end is reset instead of closed.
    pub(crate) reset: bool,
    /// Bytes from the server that are passed on in one piece; all there are, unless it says so.
    pub(crate) piece: Option<usize>,
}

/// What happened on one connection.
#[derive(Clone, Debug, Default)]
pub(crate) struct Record {
    /// Everything that was taken from the server, also after the cut.
    pub(crate) from_server: Vec<u8>,
    /// How much of it was passed on.
    pub(crate) delivered: usize,
    /// Both ends are closed.
    pub(crate) over: bool,
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
    order: watch::Sender<Order>,
    record: bool,
}

/// A proxy. Dropped, it stops to listen; its connections go on.
pub(crate) struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    listening: Option<JoinHandle<()>>,
}

impl Proxy {
    /// In front of `target`; `planner` is asked about every connection, by its number from 0.
    pub(crate) async fn start(
        target: SocketAddr,
        planner: impl Fn(usize) -> Plan + Send + Sync + 'static,
    ) -> Self {
        Self::start_with(target, planner, true).await
    }

    /// The same; it writes nothing down.
    pub(crate) async fn start_unrecorded(
        target: SocketAddr,
        planner: impl Fn(usize) -> Plan + Send + Sync + 'static,
    ) -> Self {
        Self::start_with(target, planner, false).await
    }

    /// One that only passes on, and does what it is told; it writes nothing down.
    pub(crate) async fn plain(target: SocketAddr) -> Self {
        Self::start_with(target, |_| Plan::default(), false).await
    }

    async fn start_with(
        target: SocketAddr,
        planner: impl Fn(usize) -> Plan + Send + Sync + 'static,
        record: bool,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let shared = Arc::new(Shared {
            target,
            planner: Box::new(planner),
            records: Mutex::default(),
            accepted: AtomicUsize::new(0),
            order: watch::Sender::new(Order::Pass),
            record,
        });
        let listening = Some(tokio::spawn(listen(listener, shared.clone())));
        Self {
            address,
            shared,
            listening,
        }
    }

    pub(crate) fn url(&self) -> String {
        format!("ws://{}", self.address)
    }

    /// How many connections there have been.
    pub(crate) fn accepted(&self) -> usize {
        self.shared.accepted.load(Ordering::SeqCst)
    }

    /// Cuts every connection there is.
    pub(crate) fn cut(&self) {
        self.shared.order.send_modify(|order| {
            *order = Order::Cut(match order {
                Order::Cut(times) => *times + 1,
                _ => 1,
            });
        });
    }

    /// From now on nothing passes, on old and new connections, and no end is told.
    pub(crate) fn stall(&self) {
        self.shared.order.send_replace(Order::Stall);
    }

    /// New connections pass again. Those that stalled stay as they are until they are cut.
    pub(crate) fn pass(&self) {
        self.shared.order.send_replace(Order::Pass);
    }

    /// New connections are refused from now on; the port is kept in mind.
    pub(crate) async fn refuse(&mut self) {
        if let Some(listening) = self.listening.take() {
            listening.abort();
            let _ = listening.await;
        }
    }

    /// Listens again, at the same address.
    pub(crate) async fn accept(&mut self) {
        let listener = TcpListener::bind(self.address).await.expect("the port");
        self.listening = Some(tokio::spawn(listen(listener, self.shared.clone())));
    }

    /// What happened on each connection, in the order in which they came.
    pub(crate) fn records(&self) -> Vec<Record> {
        let records = self.shared.records.lock().expect("records");
        let records = records.iter();
        records
            .map(|record| record.lock().expect("a record").clone())
            .collect()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        if let Some(listening) = self.listening.take() {
            listening.abort();
        }
    }
}

async fn listen(listener: TcpListener, shared: Arc<Shared>) {
    while let Ok((client, _)) = listener.accept().await {
        let number = shared.accepted.fetch_add(1, Ordering::SeqCst);
        let record = Arc::new(Mutex::new(Record::default()));
        if shared.record {
            shared.records.lock().expect("records").push(record.clone());
        }
        tokio::spawn(connection(client, number, record, shared.clone()));
    }
}

async fn connection(
    client: TcpStream,
    number: usize,
    record: Arc<Mutex<Record>>,
    shared: Arc<Shared>,
) {
    let plan = (shared.planner)(number);
    let Ok(server) = TcpStream::connect(shared.target).await else {
        return;
    };
    client.set_nodelay(true).expect("nodelay");
    server.set_nodelay(true).expect("nodelay");
    if plan.reset {
        client.set_zero_linger().expect("linger");
    }
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
    let down = pass(
        &mut from_server,
        &mut to_client,
        plan.cut_down,
        plan.stall,
        plan.piece,
        stalled.clone(),
        shared.record.then_some(&*record),
    );
    let up = pass(
        &mut from_client,
        &mut to_server,
        plan.cut_up,
        false,
        None,
        stalled,
        None,
    );
    tokio::select! {
        () = down => {}
        () = up => {}
        () = cut => {}
    }
    // The client is told first, so that it is back before the server knows that it was gone.
    drop((from_client, to_client));
    let _ = to_server.shutdown().await;
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(count @ 1..) = from_server.read(&mut buffer).await {
        if shared.record {
            let mut record = record.lock().expect("a record");
            record.from_server.extend(&buffer[..count]);
        }
    }
    record.lock().expect("a record").over = true;
}

/// Passes bytes on until one end closes, or as many as allowed have passed; then it stalls, where it is to.
async fn pass(
    from: &mut OwnedReadHalf,
    to: &mut OwnedWriteHalf,
    most: Option<u64>,
    stall: bool,
    piece: Option<usize>,
    mut order: watch::Receiver<Order>,
    record: Option<&Mutex<Record>>,
) {
    let mut left = most.unwrap_or(u64::MAX);
    let mut buffer = vec![0; 16 * 1024];
    while left > 0 {
        if *order.borrow_and_update() == Order::Stall {
            // For good: whatever comes later is on a new connection.
            std::future::pending::<()>().await;
        }
        let count = tokio::select! {
            read = from.read(&mut buffer) => match read {
                Ok(count @ 1..) => count,
                _ => return,
            },
            _ = order.changed() => continue,
        };
        if let Some(record) = record {
            let mut record = record.lock().expect("a record");
            record.from_server.extend(&buffer[..count]);
        }
        let allowed = count.min(usize::try_from(left).unwrap_or(usize::MAX));
        for part in buffer[..allowed].chunks(piece.unwrap_or(usize::MAX)) {
            if to.write_all(part).await.is_err() {
                return;
            }
            if piece.is_some() {
                tokio::task::yield_now().await;
            }
        }
        if let Some(record) = record {
            record.lock().expect("a record").delivered += allowed;
        }
        left -= allowed as u64;
    }
    if stall {
        std::future::pending().await
    }
}

/// A small generator of chance, so that a run can be repeated by its seed.
pub(crate) struct Chance(u64);

impl Chance {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// From 0 to `most - 1`.
    pub(crate) fn below(&mut self, most: u64) -> u64 {
        // xorshift64*, good enough to choose where to cut.
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11) % most
    }
}

/// Waits until a proxy's connections have all come to their end.
pub(crate) async fn all_over(proxy: &Proxy) {
    let over = async {
        while !proxy.records().iter().all(|record| record.over) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let over = tokio::time::timeout(Duration::from_secs(30), over).await;
    over.expect("the connections end");
}
