//! [`Plan`]: what a [`Proxy`](super::Proxy) does to one connection.

/// The faults of one connection. The default has none.
///
/// ```
/// use actix_sandbox::test_util::Plan;
///
/// // The upgrade passes. Then, in the middle of a frame, the connection is reset.
/// let plan = Plan::default().cut_down(1_000).reset();
/// // A half-open link: after 1,000 bytes nothing arrives, and the client sees no end.
/// let silent = Plan::default().cut_down(1_000).stall();
/// # let _ = (plan, silent);
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Cut after this many bytes from the server, including the upgrade response.
    pub cut_down: Option<u64>,
    /// Cut after this many bytes from the client, including the upgrade request.
    pub cut_up: Option<u64>,
    /// Stall at `cut_down` instead of cutting: no more bytes arrive, and the client sees no end.
    pub stall: bool,
    /// Reset the client's end instead of closing it.
    pub reset: bool,
    /// Maximum number of bytes from the server to pass in one write. Default: no limit.
    pub piece: Option<usize>,
    /// Accept the connection and reset it at once.
    pub refuse: bool,
}

impl Plan {
    /// Cuts after this many bytes from the server, including the upgrade response.
    #[must_use]
    pub fn cut_down(mut self, bytes: u64) -> Self {
        self.cut_down = Some(bytes);
        self
    }

    /// Cuts after this many bytes from the client, including the upgrade request.
    #[must_use]
    pub fn cut_up(mut self, bytes: u64) -> Self {
        self.cut_up = Some(bytes);
        self
    }

    /// Stalls where [`cut_down`](Self::cut_down) would cut: a half-open link.
    #[must_use]
    pub fn stall(mut self) -> Self {
        self.stall = true;
        self
    }

    /// Resets the client's end instead of closing it.
    #[must_use]
    pub fn reset(mut self) -> Self {
        self.reset = true;
        self
    }

    /// Passes bytes from the server in writes of at most this many bytes, and at least one.
    #[must_use]
    pub fn piece(mut self, bytes: usize) -> Self {
        self.piece = Some(bytes);
        self
    }

    /// Resets the connection at once.
    #[must_use]
    pub fn refuse(mut self) -> Self {
        self.refuse = true;
        self
    }
}
