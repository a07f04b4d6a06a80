//! [`Driver`]: the background work of an actor: its timer, its IO, and the loss of its last
//! address.
//!
//! Each actor has one such future for its whole life, so a call creates no task and no timer. actix
//! polls the future after the mailbox, on every wake.

use std::{
    future::Future,
    pin::Pin,
    task::{Context as TaskContext, Poll},
    time::Instant,
};

use actix::{Actor, Context, fut::ActorFuture};
use tokio::time::Sleep;

/// The background work of an actor, for its [`Driver`].
pub(crate) trait Driven: Actor<Context = Context<Self>> {
    /// Whether [`poll_io`](Self::poll_io) does anything.
    const HAS_IO: bool;
    /// When [`handle_timeout`](Self::handle_timeout) is due.
    fn poll_timeout(&self) -> Option<Instant>;
    /// Handles the passage of time.
    fn handle_timeout(&mut self, now: Instant, ctx: &mut Context<Self>);
    /// Handles the loss of the last address.
    fn handle_orphaned(&mut self, ctx: &mut Context<Self>);
    /// Makes progress with IO, if it [has](Self::HAS_IO) any.
    fn poll_io(&mut self, _ctx: &mut Context<Self>, _task: &mut TaskContext<'_>) {}
}

/// The future of an actor. It never completes, and is dropped with the actor.
#[derive(Default)]
pub(crate) struct Driver {
    timer: Option<Pin<Box<Sleep>>>,
    orphaned: bool,
}

impl<A: Driven> ActorFuture<A> for Driver {
    type Output = ();

    fn poll(
        mut self: Pin<&mut Self>,
        actor: &mut A,
        ctx: &mut Context<A>,
        task: &mut TaskContext<'_>,
    ) -> Poll<()> {
        if !self.orphaned && !ctx.connected() {
            self.orphaned = true;
            actor.handle_orphaned(ctx);
        }
        // The timer comes first: IO may use up tokio's budget for this turn, and then no timer
        // fires.
        self.poll_timer(actor, ctx, task);
        if A::HAS_IO {
            actor.poll_io(ctx, task);
            // Once more, because the IO may have set a timeout.
            self.poll_timer(actor, ctx, task);
        }
        Poll::Pending
    }
}

impl Driver {
    fn poll_timer<A: Driven>(
        &mut self,
        actor: &mut A,
        ctx: &mut Context<A>,
        task: &mut TaskContext<'_>,
    ) {
        // A timer that fires too early costs one check. Moving it at every change would cost more.
        while let Some(due) = actor.poll_timeout() {
            let due = tokio::time::Instant::from_std(due);
            match &mut self.timer {
                Some(timer) if timer.deadline() <= due => {}
                Some(timer) => timer.as_mut().reset(due),
                none => *none = Some(Box::pin(tokio::time::sleep_until(due))),
            }
            let Some(timer) = &mut self.timer else { return };
            if timer.as_mut().poll(task).is_pending() {
                return;
            }
            self.timer = None;
            let now = tokio::time::Instant::now();
            if now >= due {
                actor.handle_timeout(now.into_std(), ctx);
                // The machine has cleared the timeout that it handled. If the next one is already
                // due, yield first.
                if actor
                    .poll_timeout()
                    .is_some_and(|next| next <= now.into_std())
                {
                    task.waker().wake_by_ref();
                    return;
                }
            }
        }
    }
}

/// The clock of the actors. Tests can pause it.
pub(crate) fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}
