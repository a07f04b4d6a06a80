//! The crate's own proxy with faults, as tests use it: it starts, or the test fails.
#![allow(dead_code, reason = "every test file uses a part of it")]

use std::{
    net::SocketAddr,
    ops::{Deref, DerefMut},
    time::Duration,
};

use actix_sandbox::test_util;
#[allow(unused_imports, reason = "every test file uses a part of it")]
pub(crate) use actix_sandbox::test_util::Plan;

/// More than any test sends over one connection.
const WHOLE: usize = 256 * 1024 * 1024;

/// A proxy. Dropped, it stops to listen; its connections go on.
pub(crate) struct Proxy(test_util::Proxy);

impl Proxy {
    /// In front of `target`; `planner` is asked about every connection, by its number from 0.
    pub(crate) async fn start(
        target: SocketAddr,
        planner: impl Fn(usize) -> Plan + Send + Sync + 'static,
    ) -> Self {
        let builder = test_util::Proxy::builder(target).plan(planner);
        Self(builder.record(WHOLE).start().await.expect("a proxy"))
    }

    /// The same; it writes nothing down.
    pub(crate) async fn start_unrecorded(
        target: SocketAddr,
        planner: impl Fn(usize) -> Plan + Send + Sync + 'static,
    ) -> Self {
        let builder = test_util::Proxy::builder(target).plan(planner);
        Self(builder.start().await.expect("a proxy"))
    }

    /// One that only passes on, and does what it is told; it writes nothing down.
    pub(crate) async fn plain(target: SocketAddr) -> Self {
        Self::start_unrecorded(target, |_| Plan::default()).await
    }

    /// Listens again, at the same address.
    pub(crate) async fn accept(&mut self) {
        self.0.accept().await.expect("the port");
    }
}

impl Deref for Proxy {
    type Target = test_util::Proxy;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl DerefMut for Proxy {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.0
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
    let over = tokio::time::timeout(Duration::from_secs(120), proxy.all_over()).await;
    over.expect("the connections end");
}
