//! [`Gate`]: a TCP proxy between a server and its storage. It forwards all bytes until the server
//! has sent a set number of them, and holds back the rest. It runs on its own threads.

use std::{
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
};

use tokio::sync::watch;

pub(crate) struct Gate {
    pub(crate) address: SocketAddr,
    inside: Arc<Inside>,
}

struct Inside {
    target: SocketAddr,
    /// Bytes that may pass to the target.
    left: AtomicU64,
    held: watch::Sender<bool>,
    /// Headers to hide from the target, each with its replacement of the same length.
    renamed: &'static [(&'static str, &'static str)],
    /// Whether the gate ignores new connections.
    cut: AtomicBool,
    open: Mutex<Vec<TcpStream>>,
}

impl Gate {
    pub(crate) fn start(target: SocketAddr) -> Self {
        Self::start_renaming(target, &[])
    }

    /// Starts a gate that replaces the names of these headers, so that the target doesn't know
    /// them.
    pub(crate) fn start_renaming(
        target: SocketAddr,
        renamed: &'static [(&'static str, &'static str)],
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let inside = Arc::new(Inside {
            target,
            left: AtomicU64::new(u64::MAX),
            held: watch::Sender::new(false),
            renamed,
            cut: AtomicBool::new(false),
            open: Mutex::default(),
        });
        let gate = inside.clone();
        thread::spawn(move || {
            for client in listener.incoming() {
                let client = client.unwrap();
                if !gate.cut.load(Ordering::SeqCst) {
                    gate.clone().pass(client);
                }
            }
        });
        Self { address, inside }
    }

    /// Opens the gate for `bytes` bytes to the target. After these, it holds back the rest.
    /// Connections that were held back continue.
    pub(crate) fn hold_after(&self, bytes: u64) {
        self.inside.left.store(bytes, Ordering::SeqCst);
        self.inside.held.send_replace(false);
        self.inside.cut.store(false, Ordering::SeqCst);
    }

    /// Waits until the gate holds bytes back.
    pub(crate) async fn is_held(&self) {
        let mut held = self.inside.held.subscribe();
        held.wait_for(|&held| held).await.unwrap();
    }

    /// Shuts every connection down, and ignores new ones until [`hold_after`](Self::hold_after).
    pub(crate) fn cut(&self) {
        self.inside.cut.store(true, Ordering::SeqCst);
        for socket in self.inside.open.lock().unwrap().drain(..) {
            let _ = socket.shutdown(Shutdown::Both);
        }
    }
}

impl Inside {
    fn pass(self: Arc<Self>, client: TcpStream) {
        let target = TcpStream::connect(self.target).unwrap();
        let both = [&client, &target].map(|socket| socket.try_clone().unwrap());
        self.open.lock().unwrap().extend(both);
        let (mut from_target, mut to_client) =
            (target.try_clone().unwrap(), client.try_clone().unwrap());
        thread::spawn(move || {
            let _ = std::io::copy(&mut from_target, &mut to_client);
            let _ = to_client.shutdown(Shutdown::Write);
        });
        thread::spawn(move || self.pass_up(client, target));
    }

    fn pass_up(&self, mut client: TcpStream, mut target: TcpStream) {
        let mut data = [0; 16 * 1024];
        while let Ok(length @ 1..) = client.read(&mut data) {
            let enough = |left: u64| left.checked_sub(length as u64);
            while self
                .left
                .fetch_update(Ordering::SeqCst, Ordering::SeqCst, enough)
                .is_err()
            {
                // The sockets stay open, but this thread reads no more until the gate opens.
                let mut held = self.held.subscribe();
                self.held.send_replace(true);
                // It may have opened meanwhile.
                if self.left.load(Ordering::SeqCst) >= length as u64 {
                    self.held.send_replace(false);
                    continue;
                }
                let opened = held.wait_for(|&held| !held);
                if futures::executor::block_on(opened).is_err() {
                    return;
                }
            }
            let data = &mut data[..length];
            for (name, other) in self.renamed {
                for at in 0..length.saturating_sub(name.len()) {
                    let found = &mut data[at..at + name.len()];
                    if found.eq_ignore_ascii_case(name.as_bytes()) {
                        found.copy_from_slice(other.as_bytes());
                    }
                }
            }
            if target.write_all(data).is_err() {
                break;
            }
        }
        let _ = target.shutdown(Shutdown::Write);
    }
}
