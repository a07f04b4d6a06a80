//! [`Init`]: the first process of a sandbox. It sets up the namespaces and waits for the end of its
//! input. When it ends, all other processes of the sandbox end with it.

use std::{
    fs::File,
    io::{self, Read, Seek},
    os::fd::AsRawFd,
    path::{Path, PathBuf},
    process::Stdio,
    sync::Arc,
    time::Duration,
};

use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, BufReader},
    process::{Child, ChildStdin},
    time::{sleep, timeout},
};

use crate::{
    protocol::excerpt,
    server::backend::{
        etc::{self, EtcFile},
        proc::parse_stat,
        spawn,
        sweep::PidNamespace,
    },
};

/// Time limit for the setup of the namespaces. It takes a tenth of a second, and far longer on a
/// busy machine.
const READY_WITHIN: Duration = Duration::from_secs(30);
/// How long to wait for the first process to end after its input has ended.
const ENDED_WITHIN: Duration = Duration::from_secs(2);
/// How long to wait for the first process to be gone after a kill.
const GONE_WITHIN: Duration = Duration::from_secs(10);
/// How often to check whether the first process is gone. The server is not its parent, so the
/// kernel doesn't report its end.
const LOOKED_AT_EVERY: Duration = Duration::from_millis(10);

/// The script of the first process. It runs in the directory of the sandbox: it builds the root
/// file system, pivots into it, drops its privileges and waits for the end of its input.
///
/// `$1` is `yes` if the sandbox has a network. Three lists follow, separated by `--`:
///
/// 1. the sandbox's own `/etc` files, as `NAME=PATH`;
/// 2. the directories of this machine that the sandbox can read;
/// 3. the paths below them that must be empty.
///
/// - Each readable directory is mounted, with all mounts below it: in a container, `/etc/hosts` is
///   a mount. A directory that is a symbolic link on this machine, such as `/lib64`, is mounted,
///   too. Code can't replace a mount, and programs that still have privileges are loaded from
///   there.
/// - Code may have filled the tree before. If a mount point were a link, the mount would end up
///   elsewhere, and the next program with privileges could be one that code has written. So links
///   and files on the paths of mount points are replaced, component by component, before the first
///   mount.
/// - The first process keeps one capability, which is useless in the sandbox. Code has none, so it
///   can't attach to the first process by ptrace.
/// - The first process and the code have separate sessions, without the terminal of the server.
const SCRIPT: &str = r#"
set -eu
read -r pid _ < /proc/self/stat
network=$1; shift
own=()
while [ "$1" != -- ]; do own+=("$1"); shift; done
shift
readable=()
while [ "$1" != -- ]; do readable+=("$1"); shift; done
shift
mount -c --bind root root
cd root
point() (
  rest=${1#/}
  at=.
  while [ -n "$rest" ]; do
    at=$at/${rest%%/*}
    case $rest in */*) rest=${rest#*/} ;; *) rest= ;; esac
    if [ -L "$at" ] || [ ! -d "$at" ]; then
      rm -f "$at"
      mkdir "$at"
    fi
  done
)
for path in "${readable[@]}" proc dev run tmp home/sandbox sys var/tmp; do
  case $path in /*) [ -d "$path" ] || continue ;; esac
  point "$path"
done
for path in "${readable[@]}"; do
  [ -d "$path" ] || continue
  mount -c --rbind "$path" ".$path"
done
for file in "${own[@]}"; do
  place=${file#*=}
  # If `/etc/NAME` is a link to `/run`, the file is written there below.
  case $place in /run/*) continue ;; esac
  [ ! -f ".$place" ] || mount -c --bind "../etc/${file%%=*}" ".$place"
done
while read -r _ _ _ _ place options _; do
  # Decode the escapes of mountinfo: a space is written as \040.
  printf -v place %b "$place"
  case $place in "$PWD"/*) ;; *) continue ;; esac
  # Skip mounts below paths that are hidden later. The root of this sandbox is such a mount if the
  # server's directory is below a readable one.
  for path; do case $place in "$PWD$path"/*) continue 2 ;; esac; done
  # Skip mounts that this user can't reach, because code can't reach them either: those below a
  # private directory of another user, and those that another mount covers.
  said=$(stat -L -- ".${place#"$PWD"}" 2>&1 > /dev/null) || case $said in
    *'Permission denied'*|*'No such file or directory'*) continue ;;
  esac
  # Keep `noexec`: in a user namespace, the kernel refuses to remove it.
  case ,$options, in *,noexec,*) noexec=,noexec ;; *) noexec= ;; esac
  # Use a relative path. For the path in mountinfo, `mount` would add the options that it finds
  # there, including those of the whole file system.
  mount -c -o "remount,bind,ro,nosuid,nodev$noexec" ".${place#"$PWD"}"
done < /proc/self/mountinfo
for path; do mount -c -t tmpfs -o ro,mode=555,size=4k,nosuid,nodev,noexec hidden ".$path"; done
mount -c -t proc -o nosuid,nodev,noexec proc proc
mount -c -t tmpfs -o mode=755,size=64k,nr_inodes=64,nosuid,noexec dev dev
for device in null zero full random urandom; do
  : > "dev/$device"
  mount -c --bind "/dev/$device" "dev/$device"
done
# These files list the keys of the whole machine.
for file in keys key-users; do [ ! -e "proc/$file" ] || mount -c --bind dev/null "proc/$file"; done
ln -s /proc/self/fd dev/fd
ln -s /proc/self/fd/0 dev/stdin
ln -s /proc/self/fd/1 dev/stdout
ln -s /proc/self/fd/2 dev/stderr
mkdir dev/pts
mount -c -t devpts -o newinstance,ptmxmode=0666,mode=0620,max=256,nosuid,noexec devpts dev/pts
ln -s pts/ptmx dev/ptmx
mkdir dev/shm
mount -c -t tmpfs -o mode=1777,size=64m,nr_inodes=16k,nosuid,nodev shm dev/shm
mount -c -t tmpfs -o mode=755,size=1m,nr_inodes=1k,nosuid,nodev run run
mkdir run/code
for file in "${own[@]}"; do
  place=${file#*=}
  case $place in /run/*) mkdir -p ".${place%/*}"; cat "../etc/${file%%=*}" > ".$place" ;; esac
done
mount -c --bind ../home home/sandbox
mount -c --bind ../tmp tmp
mount -c --bind ../code run/code
mount -c -o remount,bind,ro,nosuid,nodev run/code
pivot_root . .
umount -l .
cd /
! command -v hostname > /dev/null || hostname sandbox
echo 0 > /proc/sys/user/max_user_namespaces
[ "$network" = yes ] || ! command -v ip > /dev/null || ip link set lo up
mount -o remount,bind,ro /dev
echo "ready $pid"
exec setsid setpriv --bounding-set=-all,+wake_alarm --inh-caps=-all --no-new-privs \
  bash -c 'trap "" TERM INT HUP QUIT; while IFS= read -r _; do :; done' actix-sandbox-init
"#;

/// The namespaces of a sandbox: the options of `nsenter`, and the names in `/proc/PID/ns`.
const NAMESPACES: [(&str, &str); 6] = [
    ("--user", "user"),
    ("--mount", "mnt"),
    ("--pid", "pid"),
    ("--ipc", "ipc"),
    ("--uts", "uts"),
    ("--net", "net"),
];

/// The paths of the programs that this backend runs. They are programs of the machine, which code
/// in a sandbox can't replace.
pub(super) struct Tools {
    pub(super) unshare: PathBuf,
    pub(super) nsenter: PathBuf,
    pub(super) setpriv: PathBuf,
    pub(super) setsid: PathBuf,
    pub(super) prlimit: PathBuf,
    pub(super) env: PathBuf,
    pub(super) perl: PathBuf,
    /// The search path for other programs.
    pub(super) path: &'static str,
}

/// The first process of a sandbox. Dropping this kills all processes of the sandbox.
pub(super) struct Init {
    pub(super) child: Child,
    stdin: Option<ChildStdin>,
    /// The open file `/proc/PID/stat` of the first process. It belongs to this process even if
    /// another one gets the same PID.
    stat: File,
    namespaces: Arc<Namespaces>,
}

/// The namespaces of a sandbox, as open files. A PID can be reused, but an open file always refers
/// to the same namespace.
pub(super) struct Namespaces(Vec<(&'static str, File)>);

impl Namespaces {
    fn open(pid: u32, network: bool) -> io::Result<Self> {
        let open = |(option, name)| Ok((option, File::open(format!("/proc/{pid}/ns/{name}"))?));
        NAMESPACES
            .into_iter()
            // With a network, the sandbox uses the machine's network namespace. `nsenter` is
            // already in it, and only root may enter it.
            .filter(|(_, name)| *name != "net" || !network)
            .map(open)
            .collect::<io::Result<_>>()
            .map(Self)
    }

    /// The PID namespace.
    pub(super) fn pid(&self) -> io::Result<PidNamespace> {
        let mut files = self.0.iter();
        let file = files.find(|(option, _)| *option == "--pid");
        let (_, file) = file.ok_or(io::ErrorKind::NotFound)?;
        Ok(PidNamespace::of(&file.metadata()?))
    }

    /// The arguments with which `nsenter` enters these namespaces. Keep `self` until it has entered
    /// them: after the drop, other files may get these descriptor numbers.
    pub(super) fn enter(&self) -> impl Iterator<Item = String> + use<'_> {
        let me = std::process::id();
        self.0
            .iter()
            .map(move |(option, file)| format!("{option}=/proc/{me}/fd/{}", file.as_raw_fd()))
    }
}

impl Init {
    /// Starts the first process, and waits until the namespaces are set up. `user` is the user that
    /// code runs as, if it differs from the user of this process.
    pub(super) async fn start(
        tools: &Tools,
        directory: &Path,
        user: Option<u32>,
        network: bool,
        [readable, hidden]: [&[PathBuf]; 2],
    ) -> Result<Self, String> {
        let mut command = match user {
            Some(user) => {
                let mut command = spawn::command(&tools.setpriv);
                command
                    .arg(format!("--reuid={user}"))
                    .arg(format!("--regid={user}"))
                    .args(["--clear-groups", "--"])
                    .arg(&tools.unshare);
                command
            }
            None => spawn::command(&tools.unshare),
        };
        command.args(["--user", "--map-root-user", "--mount", "--pid", "--fork"]);
        command.args(["--kill-child=KILL", "--ipc", "--uts"]);
        if !network {
            command.arg("--net");
        }
        command
            .args(["--", "bash", "-c", SCRIPT, "actix-sandbox-init"])
            .arg(if network { "yes" } else { "no" })
            .args(etc::files(readable).iter().map(EtcFile::to_argument))
            .arg("--")
            .args(readable)
            .arg("--")
            .args(hidden)
            .env("PATH", tools.path)
            .env("LANG", "C.UTF-8")
            .current_dir(directory)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        spawn::deny_keys(&mut command);
        let mut child = command
            .spawn()
            .map_err(|error| format!("cannot run {}: {error}", tools.unshare.display()))?;
        let stdin = child.stdin.take();
        match timeout(READY_WITHIN, ready(&mut child)).await {
            Ok(Ok(pid)) => {
                let opened = || {
                    let stat = File::open(format!("/proc/{pid}/stat"))?;
                    Ok((stat, Namespaces::open(pid, network)?))
                };
                let (stat, namespaces) = opened().map_err(|error: io::Error| {
                    format!("cannot open the namespaces of a sandbox: {error}")
                })?;
                // The PID that the script reports is not trusted. If the parent is `unshare`, the
                // PID is right: `unshare` has not reaped the process, so its PID can't have been
                // reused.
                if parent(&stat) != child.id() {
                    return Err(format!(
                        "the first process of the sandbox does not have the PID {pid}"
                    ));
                }
                Ok(Self {
                    child,
                    stdin,
                    stat,
                    namespaces: Arc::new(namespaces),
                })
            }
            Ok(Err(said)) => Err(format!(
                "`unshare --user --mount --pid …` failed: {}",
                excerpt(said.as_bytes())
            )),
            Err(_) => Err(format!(
                "`unshare --user --mount --pid …` was not ready within {READY_WITHIN:?}"
            )),
        }
    }

    /// Whether the first process is alive.
    pub(super) fn is_alive(&self) -> bool {
        parent(&self.stat).is_some()
    }

    pub(super) fn namespaces(&self) -> Arc<Namespaces> {
        self.namespaces.clone()
    }

    /// Ends every process of the sandbox. Can be retried after an error.
    pub(super) async fn end(&mut self) -> Result<(), String> {
        drop(self.stdin.take());
        if timeout(ENDED_WITHIN, self.child.wait()).await.is_err() {
            self.child.kill().await.map_err(|error| {
                format!("the namespaces of the sandbox could not be ended: {error}")
            })?;
        }
        // When `unshare` is killed, the kernel also kills the first process, but that takes a
        // moment.
        timeout(GONE_WITHIN, self.gone()).await.map_err(|_| {
            format!(
                "the first process of the sandbox did not end within {GONE_WITHIN:?} of its kill"
            )
        })
    }

    async fn gone(&self) {
        while self.is_alive() {
            sleep(LOOKED_AT_EVERY).await;
        }
    }
}

/// The parent of the process that this open `stat` file belongs to. `None` once the process is
/// dead.
fn parent(mut stat: &File) -> Option<u32> {
    let mut said = Vec::new();
    stat.rewind().ok()?;
    stat.read_to_end(&mut said).ok()?;
    let (parent, ..) = parse_stat(&said)?;
    u32::try_from(parent).ok()
}

/// Waits until the first process is ready. Returns its PID, or else its error output.
async fn ready(child: &mut Child) -> Result<u32, String> {
    let (Some(stdout), Some(mut stderr)) = (child.stdout.take(), child.stderr.take()) else {
        return Err("it has no pipes".to_owned());
    };
    let mut line = String::new();
    let _ = BufReader::new(stdout).read_line(&mut line).await;
    if let Some(pid) = line
        .strip_prefix("ready ")
        .and_then(|pid| pid.trim().parse().ok())
    {
        return Ok(pid);
    }
    let mut said = Vec::new();
    let _ = (&mut stderr).take(4_096).read_to_end(&mut said).await;
    let said = String::from_utf8_lossy(&said);
    Err(said.lines().map(str::trim).collect::<Vec<_>>().join("; "))
}
