//! [`Runtime`]: the threads that the actors run on.

use std::{
    fmt, io,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    thread,
};

use actix::{Actor, Addr, Arbiter, ArbiterHandle, Context, System};

use crate::{Error, SandboxActor, actor::Settings};

/// Threads for the actors of sandboxes, shared by all clones.
///
/// Rarely needed. In an actix System the actors run on the current arbiter. Everywhere else they
/// run on a runtime that the process shares, with one arbiter for each core, eight at most. A
/// separate runtime limits the threads of a part of a program, or ends them early.
///
/// When the last clone and the last sandbox on it are gone, its threads end.
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

/// A place on an arbiter, given back by being dropped.
struct Seat {
    runtime: Runtime,
    index: usize,
}

impl Runtime {
    /// Starts a thread for a System, and this many arbiters, each with its own thread. At least
    /// one.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Runtime`](crate::ErrorKind::Runtime): the operating system can't start a
    /// thread.
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
                // The receiver waits for this; a failed send means that it was cancelled.
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

    /// The runtime that the process shares. It is started at the first use and never ends.
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
        // Its threads end by themselves; to wait for them here could be to wait for this very
        // thread.
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

/// Starts the actor of a sandbox: on the runtime given, else in the current System, else on the
/// shared runtime. Its actors keep their place there for as long as they live.
pub(crate) fn start(
    mut settings: Settings,
    runtime: Option<&Runtime>,
) -> Result<Addr<SandboxActor>, Error> {
    let runtime = match runtime {
        Some(runtime) => runtime.clone(),
        None if System::is_registered() => return Ok(start_on(&Arbiter::current(), settings)),
        None => Runtime::shared()?,
    };
    let seat = runtime.seat();
    let arbiter = runtime.0.arbiters[seat.index].0.clone();
    settings.kept = Some(Arc::new(seat));
    Ok(start_on(&arbiter, settings))
}

fn start_on(arbiter: &ArbiterHandle, settings: Settings) -> Addr<SandboxActor> {
    // Made in the thread that it runs in: a link is not `Send`.
    SandboxActor::start_in_arbiter(arbiter, move |_: &mut Context<SandboxActor>| {
        SandboxActor::new(settings)
    })
}
