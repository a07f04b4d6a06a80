//! [`Rest`]: a break in which the thread looks at its other sockets and timers.
//!
//! As long as some task of a thread is ready, tokio looks at sockets and timers rarely (with a
//! `LocalSet`, after thousands of turns). A peer that floods one socket, or takes all that is written,
//! keeps its task ready, and everything else on the thread waits: measured here, a kill was read 8
//! seconds after it had come. A wake that `yield_now` defers comes after such a look; a task that waits
//! for *that* wake, and for no other, has let the rest of the thread have its turn.
//!
//! Used by the client's link and by the server's sessions.

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
struct Look {
    taken: AtomicBool,
    task: AtomicWaker,
}

impl Wake for Look {
    fn wake(self: Arc<Self>) {
        self.taken.store(true, Ordering::Release);
        self.task.wake();
    }
}

/// A break under way.
#[derive(Debug)]
pub(crate) struct Rest(Arc<Look>);

impl Rest {
    /// Begins a break. It ends after the thread's next look at its sockets and timers.
    pub(crate) fn begin() -> Self {
        let look = Arc::new(Look::default());
        let waker = Waker::from(Arc::clone(&look));
        // The first poll asks for the deferred wake; the future itself is not needed after it.
        if pin!(tokio::task::yield_now())
            .poll(&mut Context::from_waker(&waker))
            .is_ready()
        {
            look.taken.store(true, Ordering::Release);
        }
        Self(look)
    }

    /// Whether the break is over.
    pub(crate) fn poll(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.0.task.register(cx.waker());
        if self.0.taken.load(Ordering::Acquire) {
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
    async fn a_break_ends_by_itself_and_not_by_being_polled() {
        let rest = Rest::begin();
        let mut polls = 0;
        std::future::poll_fn(|cx| {
            polls += 1;
            assert!(polls > 1 || rest.poll(cx).is_pending());
            assert!(
                polls > 1 || rest.poll(cx).is_pending(),
                "a second poll is no look"
            );
            rest.poll(cx)
        })
        .await;
        assert!(polls >= 2);
    }
}
