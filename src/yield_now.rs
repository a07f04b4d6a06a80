//! [`Yield`]: lets a task wait until the runtime has polled its sockets and timers.
//!
//! While any task of a thread is ready, tokio rarely polls sockets and timers (with a `LocalSet`,
//! only after thousands of polls of tasks). A peer that floods one socket, or reads as fast as a
//! task writes, keeps that task ready, so everything else on the thread waits: in a measurement, a
//! kill was read 8 seconds after it had arrived. tokio delivers the wake of `yield_now` only after
//! it has polled sockets and timers. So a task that waits for this wake, and for nothing else, lets
//! the rest of the thread run.
//!
//! The client's link and process actors and the server's sessions use it.

use std::{
    future::Future,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
};

use futures::task::AtomicWaker;

#[derive(Debug, Default)]
struct Turn {
    over: AtomicBool,
    task: AtomicWaker,
}

impl Wake for Turn {
    fn wake(self: Arc<Self>) {
        self.over.store(true, Ordering::Release);
        self.task.wake();
    }
}

/// A yield in progress.
#[derive(Debug)]
pub(crate) struct Yield(Arc<Turn>);

impl Yield {
    /// Starts a yield, which ends after the runtime's next poll of sockets and timers.
    pub(crate) fn begin() -> Self {
        let turn = Arc::new(Turn::default());
        let waker = Waker::from(Arc::clone(&turn));
        // The first poll requests the deferred wake. After that, the future isn't needed.
        if pin!(tokio::task::yield_now())
            .poll(&mut Context::from_waker(&waker))
            .is_ready()
        {
            turn.over.store(true, Ordering::Release);
        }
        Self(turn)
    }

    /// Ready once the runtime has polled sockets and timers.
    pub(crate) fn poll(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.0.task.register(cx.waker());
        if self.0.over.load(Ordering::Acquire) {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[actix_rt::test]
    async fn a_yield_ends_by_itself_and_not_by_being_polled() {
        let yielding = Yield::begin();
        let mut polls = 0;
        std::future::poll_fn(|cx| {
            polls += 1;
            assert!(polls > 1 || yielding.poll(cx).is_pending());
            assert!(
                polls > 1 || yielding.poll(cx).is_pending(),
                "a second poll does not end it"
            );
            yielding.poll(cx)
        })
        .await;
        assert!(polls >= 2);
    }
}
