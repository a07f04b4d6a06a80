//! Opening a sandbox: the future of a [`SandboxBuilder`].

use std::{
    future::{Future, IntoFuture},
    pin::Pin,
};

use actix::Addr;

use super::{OpenMode, SandboxBuilder};
use crate::{
    Error, SandboxActor,
    actor::{self, Open, Opened},
    client::{Sandbox, runtime},
};

const OPEN: &str = "open the sandbox";

impl<S: OpenMode> SandboxBuilder<S> {
    async fn open(mut self) -> Result<Sandbox, Error> {
        let runtime = self.runtime.take();
        let kill_on_drop = self.kill_on_drop;
        let addr = runtime::start(self.settings()?, runtime.as_ref())?;
        let unopened = Unopened {
            addr: Some(addr),
            kill: S::KILL_UNCLAIMED,
        };
        let opened = unopened.open().await?;
        let addr = unopened.keep()?;
        Ok(Sandbox::new(addr, opened, kill_on_drop))
    }
}
/// A sandbox that has no handle yet.
///
/// Dropping this kills a new sandbox, as soon as it is created. It only closes the connection of an
/// existing sandbox.
struct Unopened {
    addr: Option<Addr<SandboxActor>>,
    kill: bool,
}

impl Unopened {
    async fn open(&self) -> Result<Opened, Error> {
        match &self.addr {
            Some(addr) => addr.send(Open).await.map_err(Error::mailbox(OPEN))?,
            None => Err(Error::actor_gone(OPEN)),
        }
    }

    fn keep(mut self) -> Result<Addr<SandboxActor>, Error> {
        self.addr.take().ok_or_else(|| Error::actor_gone(OPEN))
    }
}

impl Drop for Unopened {
    fn drop(&mut self) {
        if let Some(addr) = self.addr.take().filter(|_| self.kill) {
            actor::abandon_in_background(&addr);
        }
    }
}

impl<S: OpenMode + Send + 'static> IntoFuture for SandboxBuilder<S> {
    type Output = Result<Sandbox, Error>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.open())
    }
}
