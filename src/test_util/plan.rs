//! [`Plan`]: what a [`Proxy`](super::Proxy) does to one connection.

/// What is to happen to one connection. Nothing, unless it says so.
///
/// ```
/// use actix_sandbox::test_util::Plan;
///
/// // The upgrade passes; then, in the middle of a frame, the client finds its connection reset.
/// let plan = Plan::default().cut_down(1_000).reset();
/// // A half-open link: from there on nothing comes, and nobody is told.
/// let silent = Plan::default().cut_down(1_000).stall();
/// # let _ = (plan, silent);
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Cut after this many bytes from the server, those of the upgrade counted.
    pub cut_down: Option<u64>,
    /// Cut after this many bytes from the client, those of the upgrade counted.
    pub cut_up: Option<u64>,
    /// Instead of the cut after bytes from the server, nothing comes from there any more, and nobody is told.
    pub stall: bool,
    /// The client's end is reset instead of closed.
    pub reset: bool,
    /// Most bytes from the server that are passed on in one piece; all there are, unless it says so.
    pub piece: Option<usize>,
    /// The connection is taken and reset at once, before anything passes.
    pub refuse: bool,
}

impl Plan {
    /// Cut after this many bytes from the server.
    #[must_use]
    pub fn cut_down(mut self, bytes: u64) -> Self {
        self.cut_down = Some(bytes);
        self
    }

    /// Cut after this many bytes from the client.
    #[must_use]
    pub fn cut_up(mut self, bytes: u64) -> Self {
        self.cut_up = Some(bytes);
        self
    }

    /// Where it would be cut after bytes from the server, it becomes silent instead: a half-open link.
    #[must_use]
    pub fn stall(mut self) -> Self {
        self.stall = true;
        self
    }

    /// The client's end is reset instead of closed.
    #[must_use]
    pub fn reset(mut self) -> Self {
        self.reset = true;
        self
    }

    /// What comes from the server is passed on in pieces of so many bytes, at least one.
    #[must_use]
    pub fn piece(mut self, bytes: usize) -> Self {
        self.piece = Some(bytes);
        self
    }

    /// The connection is reset at once.
    #[must_use]
    pub fn refuse(mut self) -> Self {
        self.refuse = true;
        self
    }
}
