//! [`Owner`]: the actor that another actor reports to.

use actix::{
    Actor, Addr, Handler, Message, Recipient, WeakAddr,
    dev::{Envelope, ToEnvelope},
};

/// The actor that receives the reports `R`. Doesn't keep that actor alive.
///
/// A trait, so that an actor doesn't depend on the type of its owner. A `WeakRecipient` would do,
/// but allocates for each report.
pub(super) trait Owner<R: Message + Send>
where
    R::Result: Send,
{
    /// Sends a report, if the actor still exists.
    fn report(&self, report: R);

    /// Keeps the actor alive while the recipient exists.
    fn hold(&self) -> Option<Recipient<R>>;
}

impl<A, R> Owner<R> for WeakAddr<A>
where
    A: Actor + Handler<R>,
    A::Context: ToEnvelope<A, R>,
    R: Message + Send + 'static,
    R::Result: Send,
    Envelope<A>: Send,
{
    fn report(&self, report: R) {
        if let Some(owner) = self.upgrade() {
            owner.do_send(report);
        }
    }

    fn hold(&self) -> Option<Recipient<R>> {
        self.upgrade().map(Addr::recipient)
    }
}
