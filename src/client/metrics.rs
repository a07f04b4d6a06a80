//! [`Sandbox::metrics`] and [`Sandbox::processes`].

use std::time::Duration;

use super::{ProcessRef, Sandbox};
use crate::{
    Error,
    actor::ProcessPlace,
    protocol::{Builtin, Metrics, RunningExec, RunningExecs},
};

impl Sandbox {
    /// Measures what the sandbox uses: CPU time, memory, processes and disk, with its limits. Needs
    /// protocol v2, and a server on Linux.
    ///
    /// On the backends `namespace` and `gvisor`, this starts a process in the sandbox for a moment.
    /// The server walks over all files of the sandbox, so ask rarely if there are very many. The
    /// local server fails above 1,000,000 files.
    ///
    /// ```
    /// # #[cfg(all(target_os = "linux", feature = "server"))]
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # futures::executor::block_on(async {
    /// # let server = actix_sandbox::LocalServer::start().await?;
    /// # let sandbox = actix_sandbox::Sandbox::create(server.url()).await?;
    /// let metrics = sandbox.metrics().await?;
    /// println!("{} bytes of memory", metrics.usage.memory_bytes);
    /// println!("running for {:?}", metrics.uptime());
    /// # sandbox.kill().await?;
    /// # Ok(())
    /// # })
    /// # }
    /// # #[cfg(not(all(target_os = "linux", feature = "server")))]
    /// # fn main() {}
    /// ```
    ///
    /// # Errors
    ///
    /// - [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported): the server speaks protocol v1,
    ///   or is too old. Nothing was sent.
    /// - [`ErrorKind::Builtin`](crate::ErrorKind::Builtin): the server could not measure the
    ///   sandbox.
    /// - The errors of [`exec`](Self::exec), for example if the sandbox is over.
    pub async fn metrics(&self) -> Result<Metrics, Error> {
        self.perform(Builtin::Metrics).await
    }

    /// Lists the processes that clients have started and whose main process runs, the oldest first.
    /// Includes those of other clients, but not background processes that code has started, and not
    /// processes that were started under protocol v1. Needs protocol v2.
    ///
    /// The list has room for several hundred processes. If there are more, it contains only the
    /// oldest.
    ///
    /// # Errors
    ///
    /// Those of [`metrics`](Self::metrics).
    pub async fn processes(&self) -> Result<Vec<RunningProcess>, Error> {
        let list: RunningExecs = self.perform(Builtin::Processes).await?;
        let execs = list.execs.into_iter();
        Ok(execs.map(|exec| RunningProcess::new(self, exec)).collect())
    }
}

/// A process that runs in a sandbox. [`Sandbox::processes`] returns it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct RunningProcess {
    /// The reference with which [`Sandbox::attach_process`] resumes the process. The output
    /// continues after the part that earlier clients have acknowledged.
    pub process: ProcessRef,
    /// The interpreter of the code, for example `python3`, or the path or the name of the program.
    pub program: String,
    /// How long it has been running.
    pub running: Duration,
}

impl RunningProcess {
    fn new(sandbox: &Sandbox, exec: RunningExec) -> Self {
        let place = ProcessPlace {
            exec: exec.exec,
            offsets: [exec.stdout, exec.stderr],
            window: exec.window,
        };
        Self {
            process: ProcessRef::new(sandbox.sandbox_id(), place),
            program: exec.program,
            running: Duration::from_millis(exec.running_ms),
        }
    }
}
