//! [`Credit`]: permission to read one batch of frames from a link.
//!
//! Credits carry backpressure to the socket. A batch holds a credit, and dropping the credit
//! returns it to the link. While a slow consumer holds all credits, the link stops reading.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};

use futures::task::AtomicWaker;

#[derive(Debug)]
struct Pool {
    free: AtomicUsize,
    waker: AtomicWaker,
}

/// Permission to read one batch of frames. Dropping it returns it to the link, from any thread.
#[derive(Debug)]
pub(crate) struct Credit(Arc<Pool>);

/// The pool of credits of one link.
#[derive(Debug)]
pub(crate) struct Credits(Arc<Pool>);

impl Credits {
    pub(crate) fn new(count: usize) -> Self {
        Self(Arc::new(Pool {
            free: AtomicUsize::new(count),
            waker: AtomicWaker::new(),
        }))
    }

    /// Takes a credit. Pending until one is free.
    pub(crate) fn poll_take(&self, cx: &mut Context<'_>) -> Poll<Credit> {
        if let Some(credit) = self.take() {
            return Poll::Ready(credit);
        }
        self.0.waker.register(cx.waker());
        // A credit may have been returned before the waker was registered.
        self.take().map_or(Poll::Pending, Poll::Ready)
    }

    fn take(&self) -> Option<Credit> {
        self.0
            .free
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |free| {
                free.checked_sub(1)
            })
            .is_ok()
            .then(|| Credit(Arc::clone(&self.0)))
    }
}

impl Drop for Credit {
    fn drop(&mut self) {
        self.0.free.fetch_add(1, Ordering::AcqRel);
        self.0.waker.wake();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_credit_that_is_dropped_wakes_the_reader() {
        let credits = Credits::new(1);
        let (waker, wakes) = futures_test_waker();
        let mut cx = Context::from_waker(&waker);
        let Poll::Ready(credit) = credits.poll_take(&mut cx) else {
            panic!()
        };
        assert!(credits.poll_take(&mut cx).is_pending());
        drop(credit);
        assert_eq!(wakes.load(Ordering::SeqCst), 1);
        assert!(credits.poll_take(&mut cx).is_ready());
    }

    fn futures_test_waker() -> (std::task::Waker, Arc<AtomicUsize>) {
        struct Count(Arc<AtomicUsize>);
        impl std::task::Wake for Count {
            fn wake(self: Arc<Self>) {
                self.0.fetch_add(1, Ordering::SeqCst);
            }
        }
        let count = Arc::new(AtomicUsize::new(0));
        (Arc::new(Count(Arc::clone(&count))).into(), count)
    }
}
