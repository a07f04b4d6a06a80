//! The crate's own proxy with faults, as tests use it: it starts, or the test fails.

use std::{
    ops::{Deref, DerefMut},
    time::Duration,
};

pub(crate) use actix_sandbox::test_util::Plan;
use actix_sandbox::{LocalServer, test_util};

/// More than any test sends over one connection.
const WHOLE: usize = 256 * 1024 * 1024;

/// A proxy in front of a local server. Dropped, it stops to listen; its connections go on.
pub(crate) struct Proxy {
    proxy: test_util::Proxy,
    url: String,
}

impl Proxy {
    /// `planner` is asked about every connection, by its number from 0.
    pub(crate) async fn start(
        server: &LocalServer,
        planner: impl Fn(usize) -> Plan + Send + Sync + 'static,
    ) -> Self {
        let builder = test_util::Proxy::builder(server.address()).plan(planner);
        Self::begin(server, builder.record(WHOLE)).await
    }

    async fn begin(server: &LocalServer, builder: test_util::ProxyBuilder) -> Self {
        let proxy = builder.start().await.expect("a proxy");
        let url = proxy.url_for(server.url());
        Self { proxy, url }
    }

    /// Where a client finds the server, through this.
    pub(crate) fn url(&self) -> String {
        self.url.clone()
    }

    /// The same; it writes nothing down.
    pub(crate) async fn start_unrecorded(
        server: &LocalServer,
        planner: impl Fn(usize) -> Plan + Send + Sync + 'static,
    ) -> Self {
        let builder = test_util::Proxy::builder(server.address()).plan(planner);
        Self::begin(server, builder).await
    }

    /// One that only passes on, and does what it is told; it writes nothing down.
    pub(crate) async fn plain(server: &LocalServer) -> Self {
        Self::start_unrecorded(server, |_| Plan::default()).await
    }

    /// Listens again, at the same address.
    pub(crate) async fn accept(&mut self) {
        self.proxy.accept().await.expect("the port");
    }
}

impl Deref for Proxy {
    type Target = test_util::Proxy;

    fn deref(&self) -> &Self::Target {
        &self.proxy
    }
}

impl DerefMut for Proxy {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.proxy
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
