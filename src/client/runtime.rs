//! [`Runtime`]: the threads that run the actors.

use std::{
    fmt, io,
    pin::pin,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    thread,
};

use actix::{Actor, Addr, Arbiter, ArbiterHandle, Context, System};
use futures::future::select;
use tokio::sync::oneshot;

use crate::{Error, SandboxActor, actor::Settings};

/// Threads for the actors of sandboxes, shared by all clones.
///
/// Most programs don't need one. In an actix System, the actors run on the current arbiter.
/// Elsewhere they run on one runtime for the whole program, with one arbiter per core, eight at
/// most. Use a separate runtime to limit the number of threads for a part of the program, or to end
/// its threads early.
///
/// The threads end when the last clone of the runtime and the last sandbox on it are gone.
///
/// ```
/// # #[cfg(all(unix, feature = "server"))]
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use actix_sandbox::{LocalServer, Runtime, Sandbox};
///
/// let runtime = Runtime::new(2)?;
/// futures::executor::block_on(async {
///     let server = LocalServer::start().await?;
///     let sandbox = Sandbox::create(server.url()).runtime(&runtime).await?;
///     sandbox.kill().await?;
///     Ok(())
/// })
/// # }
/// # #[cfg(not(all(unix, feature = "server")))]
/// # fn main() {}
/// ```
#[derive(Clone)]
pub struct Runtime(Arc<Inner>);

struct Inner {
    arbiters: Vec<(ArbiterHandle, AtomicUsize)>,
    system: System,
}

/// A place on an arbiter. Dropping it frees the place.
struct Seat {
    runtime: Runtime,
    index: usize,
}

impl Runtime {
    /// Starts a thread for a System, and `arbiters` arbiters with one thread each. 0 counts as 1.
    ///
    /// # Errors
    ///
    /// Fails with [`ErrorKind::Runtime`](crate::ErrorKind::Runtime) if the operating system can't
    /// start a thread.
    pub fn new(arbiters: usize) -> Result<Self, Error> {
        let count = arbiters.max(1);
        let (sender, receiver) = mpsc::sync_channel(1);
        thread::Builder::new()
            .name("actix-sandbox".to_owned())
            .spawn(move || {
                let runner = System::new();
                let arbiters = (0..count)
                    .map(|_| (Arbiter::new().handle(), AtomicUsize::new(0)))
                    .collect::<Vec<_>>();
                // The receiver blocks on this. A send fails only if the receiver is gone.
                let _ = sender.send((System::current(), arbiters));
                if let Err(error) = runner.run() {
                    tracing::error!(%error, "the System of the sandbox runtime failed");
                }
            })
            .map_err(|error: io::Error| Error::runtime(error.to_string()))?;
        match receiver.recv() {
            Ok((system, arbiters)) => Ok(Self(Arc::new(Inner { arbiters, system }))),
            Err(_) => Err(Error::runtime("its thread ended before it was ready")),
        }
    }

    /// The runtime of the whole program. It starts at the first use and never ends.
    fn shared() -> Result<Self, Error> {
        static SHARED: OnceLock<Runtime> = OnceLock::new();
        static STARTING: Mutex<()> = Mutex::new(());
        if let Some(runtime) = SHARED.get() {
            return Ok(runtime.clone());
        }
        let _one_at_a_time = STARTING.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(runtime) = SHARED.get() {
            return Ok(runtime.clone());
        }
        let cores = thread::available_parallelism().map_or(1, usize::from);
        let runtime = Self::new(cores.min(8))?;
        Ok(SHARED.get_or_init(|| runtime).clone())
    }

    /// The arbiter with the fewest sandboxes.
    fn seat(&self) -> Seat {
        let least = self
            .0
            .arbiters
            .iter()
            .enumerate()
            .min_by_key(|(_, (_, load))| load.load(Ordering::Relaxed));
        let index = least.map_or(0, |(index, _)| index);
        self.0.arbiters[index].1.fetch_add(1, Ordering::Relaxed);
        Seat {
            runtime: self.clone(),
            index,
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // The threads end by themselves. Joining them here could deadlock, because the last clone
        // may be dropped on one of them.
        self.system.stop();
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.runtime.0.arbiters[self.index]
            .1
            .fetch_sub(1, Ordering::Relaxed);
    }
}

impl fmt::Debug for Runtime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let loads: Vec<_> = self
            .0
            .arbiters
            .iter()
            .map(|(_, load)| load.load(Ordering::Relaxed))
            .collect();
        f.debug_struct("Runtime")
            .field("sandboxes_per_arbiter", &loads)
            .finish()
    }
}

/// Starts the actor of a sandbox on the given runtime, otherwise in the current System, otherwise
/// on the runtime of the whole program. The sandbox's actors keep their place on the arbiter for as
/// long as they live.
pub(crate) fn start(
    mut settings: Settings,
    runtime: Option<&Runtime>,
) -> Result<Addr<SandboxActor>, Error> {
    let (arbiter, seat) = arbiter(runtime)?;
    if let Some(seat) = seat {
        settings.kept = Some(Arc::new(seat));
    }
    // The actor is created in the thread that runs it, because a link is not `Send`.
    let start = move |_: &mut Context<SandboxActor>| SandboxActor::new(settings);
    Ok(SandboxActor::start_in_arbiter(&arbiter, start))
}

/// Runs a task that is not `Send` where [`start`] would start an actor. Dropping the future stops
/// the task.
pub(crate) async fn run<F, T>(
    runtime: Option<&Runtime>,
    task: impl FnOnce() -> F + Send + 'static,
) -> Result<T, Error>
where
    F: Future<Output = T> + 'static,
    T: Send + 'static,
{
    let (arbiter, seat) = arbiter(runtime)?;
    let (mut sender, receiver) = oneshot::channel();
    arbiter.spawn_fn(move || {
        actix::spawn(async move {
            let _seat = seat;
            let stopped = async {
                sender.closed().await;
                None
            };
            let result = async { Some(task().await) };
            let first = select(pin!(result), pin!(stopped)).await.factor_first().0;
            if let Some(result) = first {
                drop(sender.send(result));
            }
        });
    });
    let stopped = |_| Error::runtime("its System was stopped");
    receiver.await.map_err(stopped)
}

/// The arbiter of the given runtime, otherwise of the current System, otherwise of the runtime of
/// the whole program. The place on the arbiter is free when the seat is dropped.
fn arbiter(runtime: Option<&Runtime>) -> Result<(ArbiterHandle, Option<Seat>), Error> {
    let runtime = match runtime {
        Some(runtime) => runtime.clone(),
        None if System::is_registered() => return Ok((Arbiter::current(), None)),
        None => Runtime::shared()?,
    };
    let seat = runtime.seat();
    let arbiter = runtime.0.arbiters[seat.index].0.clone();
    Ok((arbiter, Some(seat)))
}
