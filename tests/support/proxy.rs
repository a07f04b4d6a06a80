//! A wrapper around the crate's fault-injecting proxy that fails the test if the proxy can't start.

use std::{
    ops::{Deref, DerefMut},
    time::Duration,
};

pub(crate) use actix_sandbox::test_util::Plan;
use actix_sandbox::{LocalServer, test_util};

/// More than any test sends over one connection.
const WHOLE: usize = 256 * 1024 * 1024;

/// A proxy in front of a local server. Dropping it stops the listener, but not open connections.
pub(crate) struct Proxy {
    proxy: test_util::Proxy,
    url: String,
}

impl Proxy {
    /// Starts a proxy that records its connections. `planner` gets the number of each connection,
    /// from 0.
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

    /// The URL of the server through this proxy.
    pub(crate) fn url(&self) -> String {
        self.url.clone()
    }

    /// Like [`start`](Self::start), without recording.
    pub(crate) async fn start_unrecorded(
        server: &LocalServer,
        planner: impl Fn(usize) -> Plan + Send + Sync + 'static,
    ) -> Self {
        let builder = test_util::Proxy::builder(server.address()).plan(planner);
        Self::begin(server, builder).await
    }

    /// Starts a proxy that injects no fault by itself and records nothing.
    pub(crate) async fn plain(server: &LocalServer) -> Self {
        Self::start_unrecorded(server, |_| Plan::default()).await
    }

    /// Listens again on the same address.
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

/// A seeded random number generator, so that a seed reproduces a run.
pub(crate) struct Chance(u64);

impl Chance {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// Returns a number from 0 to `most - 1`.
    pub(crate) fn below(&mut self, most: u64) -> u64 {
        // xorshift64*
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11) % most
    }
}

/// Waits until all connections of a proxy have ended.
pub(crate) async fn all_over(proxy: &Proxy) {
    let over = tokio::time::timeout(Duration::from_secs(120), proxy.all_over()).await;
    over.expect("the connections end");
}
