//! [`Watchdog`]: a small child process that cleans up when the server process dies without a word.
//!
//! It reads a pipe whose other end this process holds. `quit` ends it; the end of the pipe without
//! that means that this process is gone (SIGKILL, a crash, Ctrl-C), and the watchdog kills what is
//! left and removes the server's directory. It is in a session of its own, so that Ctrl-C at the
//! terminal does not reach it.

use std::{
    io::{self, Write},
    path::Path,
    process::{Child, ChildStdin, Stdio},
    sync::{Mutex, PoisonError},
};

use super::{programs::search_path, spawn};

/// `$1` is the variable that marks the processes of this server, `$2` its value, `$3` the directory.
///
/// The processes of gVisor have an empty environment; they are known by the place of their records.
///
/// Where there is no `/proc`, the process groups named on the pipe are killed instead.
const SCRIPT: &str = r#"
trap '' HUP INT QUIT TERM PIPE
groups=' '
while IFS= read -r line; do
  case $line in
    quit) exit 0 ;;
    +*) groups="$groups${line#+} " ;;
    -*) groups="${groups%% ${line#-} *} ${groups#* ${line#-} }" ;;
  esac
done
if [ -r /proc/self/environ ]; then
  passes=0
  while [ "$passes" -lt 100 ]; do
    passes=$((passes + 1))
    found=
    for file in $(grep -l -s -a -e "$1=$2" /proc/[0-9]*/environ
        grep -l -s -a -F -e "--root=$3/runsc" /proc/[0-9]*/cmdline); do
      pid=${file#/proc/}
      pid=${pid%/*}
      # That grep says what it looks for itself.
      [ -d "/proc/$pid" ] && kill -9 "$pid" 2>/dev/null && found=1
    done
    [ -n "$found" ] || [ "$passes" -lt 3 ] || break
    sleep 0.05
  done
else
  for group in $groups; do kill -9 -- "-$group" 2>/dev/null; done
fi
rm -rf -- "$3" 2>/dev/null && exit
# Directories alone: a file in there may be a hard link to one elsewhere.
find "$3" -type d ! -perm -700 -exec chmod u+rwx {} ';' 2>/dev/null
rm -rf -- "$3"
"#;

/// The child process.
#[derive(Debug)]
pub(crate) struct Watchdog {
    child: Mutex<Option<(Child, ChildStdin)>>,
}

impl Watchdog {
    /// Starts the child process.
    pub(crate) fn start(marker: &str, value: &str, directory: &Path) -> io::Result<Self> {
        let mut child = spawn::blocking_command("sh")
            .args(["-c", SCRIPT, "actix-sandbox-watchdog", marker, value])
            .arg(directory)
            .env("PATH", search_path())
            .stdin(Stdio::piped())
            .spawn()?;
        let pipe = child
            .stdin
            .take()
            .ok_or_else(|| io::Error::other("the child process has no pipe"))?;
        Ok(Self {
            child: Mutex::new(Some((child, pipe))),
        })
    }

    /// A process group began. Of use only where there is no `/proc`.
    pub(crate) fn group_began(&self, group: u32) {
        self.tell(&format!("+{group}\n"));
    }

    /// A process group ended.
    pub(crate) fn group_ended(&self, group: u32) {
        self.tell(&format!("-{group}\n"));
    }

    fn tell(&self, line: &str) {
        if cfg!(target_os = "linux") {
            return;
        }
        let mut child = self.child.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, pipe)) = child.as_mut()
            && let Err(error) = pipe.write_all(line.as_bytes())
        {
            tracing::warn!(%error, "the watchdog is gone; a crash would leave processes behind");
            // Its end was noticed here, and it is waited for, so no zombie stays.
            if let Some((mut child, _)) = child.take() {
                let _ = child.wait();
            }
        }
    }

    /// Ends the child process: everything is cleaned up. Blocks for a moment.
    pub(crate) fn quit(&self) {
        let child = self
            .child
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some((mut child, mut pipe)) = child {
            if pipe.write_all(b"quit\n").is_err() {
                let _ = child.kill();
            }
            drop(pipe);
            let _ = child.wait();
        }
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        self.quit();
    }
}
