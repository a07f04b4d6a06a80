//! [`Deferred`]: an answer that follows later, without a future or a task for it.

use std::{cell::RefCell, rc::Rc, task::Context};

use actix::{
    Actor, Message,
    dev::{MessageResponse, OneshotSender},
};

enum Slot<T> {
    /// The handler has not returned, and the answer is not known.
    Empty,
    /// The handler has returned. The caller waits, or did not ask for an answer.
    Asked(Option<OneshotSender<T>>),
    /// The answer is known, and the handler has not returned.
    Answered(T),
}

/// The result of a handler whose answer follows later.
pub struct Deferred<T>(Rc<RefCell<Slot<T>>>);

/// Answers the caller, once. If it is dropped without an answer, for example by a panic, the caller
/// gets an error: the actor is gone.
pub(crate) struct Settler<T>(Rc<RefCell<Slot<T>>>);

/// The answer, returned because the caller stopped waiting.
pub(crate) struct Undelivered<T>(pub(crate) T);

/// Returns a deferred answer and its settler.
pub(crate) fn deferred<T>() -> (Settler<T>, Deferred<T>) {
    let slot = Rc::new(RefCell::new(Slot::Empty));
    (Settler(Rc::clone(&slot)), Deferred(slot))
}

impl<T> Settler<T> {
    /// Whether the caller stopped waiting. Registers the task to be woken when it does.
    pub(crate) fn is_cancelled(&self, task: &mut Context<'_>) -> bool {
        match &mut *self.0.borrow_mut() {
            Slot::Asked(Some(sender)) => sender.poll_closed(task).is_ready(),
            Slot::Asked(None) | Slot::Empty | Slot::Answered(_) => false,
        }
    }

    pub(crate) fn settle(self, answer: T) -> Result<(), Undelivered<T>> {
        let mut slot = self.0.borrow_mut();
        match std::mem::replace(&mut *slot, Slot::Empty) {
            Slot::Asked(Some(sender)) => sender.send(answer).map_err(Undelivered),
            Slot::Asked(None) => Ok(()),
            Slot::Empty | Slot::Answered(_) => {
                *slot = Slot::Answered(answer);
                Ok(())
            }
        }
    }
}

impl<A, M> MessageResponse<A, M> for Deferred<M::Result>
where
    A: Actor,
    M: Message,
{
    fn handle(self, _: &mut A::Context, sender: Option<OneshotSender<M::Result>>) {
        let mut slot = self.0.borrow_mut();
        match std::mem::replace(&mut *slot, Slot::Empty) {
            Slot::Answered(answer) => {
                if let Some(sender) = sender {
                    // A caller that stopped waiting is not an error.
                    let _ = sender.send(answer);
                }
            }
            Slot::Empty | Slot::Asked(_) => *slot = Slot::Asked(sender),
        }
    }
}
