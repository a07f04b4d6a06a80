//! [`Init`]: the first process of a sandbox's namespaces. It makes them, waits for the end of its input, and all others end
//! with it.

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

/// Longest time that namespaces may take to be made: a tenth of a second, or far more where a machine does much else.
const READY_WITHIN: Duration = Duration::from_secs(30);
/// Longest time that the first process may take to see the end of its input.
const ENDED_WITHIN: Duration = Duration::from_secs(2);
/// Longest time that a kill may take until all processes in the namespaces are gone.
const GONE_WITHIN: Duration = Duration::from_secs(10);
/// Nothing says that a process has ended whose parent is another.
const LOOKED_AT_EVERY: Duration = Duration::from_millis(10);

/// What the first process does, in the directory of the sandbox: puts together the root of the file system, makes it its own, gives
/// up all privileges, and waits. `$1` says whether there is a network. Then come three lists, with `--` between them: the files of
/// `/etc` that the sandbox has of its own, as `NAME=PLACE`; the directories of this machine that can be read; those below them that
/// are to be empty.
///
/// Those are mounts, with what is mounted below them (in a container `/etc/hosts` is a mount), also where this machine has a link (`/lib64`): what is a mount the code of the sandbox cannot replace,
/// and programs that still have privileges are loaded from there. The tree may be one that code has left: where it has a link, a mount
/// would end up elsewhere, and the next program with privileges would be one of its own. So what is mounted on is made anew, part
/// by part, before anything is.
///
/// The first process keeps one capability, of no use in here: what has none may not attach to it by ptrace. It and the code are in
/// sessions of their own, without the terminal of the server.
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
  # Where this machine has a link to it, it is written there below.
  case $place in /run/*) continue ;; esac
  [ ! -f ".$place" ] || mount -c --bind "../etc/${file%%=*}" ".$place"
done
while read -r _ _ _ _ place options _; do
  # As it is written there: a space as \040.
  printf -v place %b "$place"
  case $place in "$PWD"/*) ;; *) continue ;; esac
  # This tree is a mount as well, and may be below a directory that is read.
  for path; do case $place in "$PWD$path"/*) continue 2 ;; esac; done
  # Where this user does not come, code does not either: below a directory that is somebody else's alone. Nor where something else is
  # mounted over it.
  said=$(stat -L -- ".${place#"$PWD"}" 2>&1 > /dev/null) || case $said in
    *'Permission denied'*|*'No such file or directory'*) continue ;;
  esac
  # What is locked about the mount stays as it is.
  case ,$options, in *,noexec,*) noexec=,noexec ;; *) noexec= ;; esac
  # By another path than that: `mount` would add what it finds there, also the options of the whole file system.
  mount -c -o "remount,bind,ro,nosuid,nodev$noexec" ".${place#"$PWD"}"
done < /proc/self/mountinfo
for path; do mount -c -t tmpfs -o ro,mode=555,size=4k,nosuid,nodev,noexec hidden ".$path"; done
mount -c -t proc -o nosuid,nodev,noexec proc proc
mount -c -t tmpfs -o mode=755,size=64k,nr_inodes=64,nosuid,noexec dev dev
for device in null zero full random urandom; do
  : > "dev/$device"
  mount -c --bind "/dev/$device" "dev/$device"
done
# They list keys of the whole machine.
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

/// The namespaces of a sandbox, by the names that `nsenter` and `/proc` have for them.
const NAMESPACES: [(&str, &str); 6] = [
    ("--user", "user"),
    ("--mount", "mnt"),
    ("--pid", "pid"),
    ("--ipc", "ipc"),
    ("--uts", "uts"),
    ("--net", "net"),
];

/// The programs of this machine that are needed, and where they are. The code of a sandbox cannot put others in their place.
pub(super) struct Tools {
    pub(super) unshare: PathBuf,
    pub(super) nsenter: PathBuf,
    pub(super) setpriv: PathBuf,
    pub(super) setsid: PathBuf,
    pub(super) prlimit: PathBuf,
    pub(super) env: PathBuf,
    pub(super) perl: PathBuf,
    /// Where the others are.
    pub(super) path: &'static str,
}

/// The first process of a sandbox's namespaces. When it is dropped all processes in them die.
pub(super) struct Init {
    pub(super) child: Child,
    stdin: Option<ChildStdin>,
    /// What `/proc` says of the first process itself. The file stays that of this one, whoever gets its number.
    stat: File,
    namespaces: Arc<Namespaces>,
}

/// The namespaces of a sandbox, held open: the number of a process may be given away, a namespace not.
pub(super) struct Namespaces(Vec<(&'static str, File)>);

impl Namespaces {
    fn open(pid: u32, network: bool) -> io::Result<Self> {
        let open = |(option, name)| Ok((option, File::open(format!("/proc/{pid}/ns/{name}"))?));
        NAMESPACES
            .into_iter()
            // Nobody but root may enter that of the machine, where it is anyway.
            .filter(|(_, name)| *name != "net" || !network)
            .map(open)
            .collect::<io::Result<_>>()
            .map(Self)
    }

    /// The one of its processes.
    pub(super) fn pid(&self) -> io::Result<PidNamespace> {
        let mut files = self.0.iter();
        let file = files.find(|(option, _)| *option == "--pid");
        let (_, file) = file.ok_or(io::ErrorKind::NotFound)?;
        Ok(PidNamespace::of(&file.metadata()?))
    }

    /// The arguments of `nsenter` by which a process comes here. This must be kept until it has: then others are opened at
    /// these numbers.
    pub(super) fn enter(&self) -> impl Iterator<Item = String> + use<'_> {
        let me = std::process::id();
        self.0
            .iter()
            .map(move |(option, file)| format!("{option}=/proc/{me}/fd/{}", file.as_raw_fd()))
    }
}

impl Init {
    /// Makes the namespaces. `user` is whom code runs as, where that is not the user of this process.
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
                // That the number is its own, and no other's, is not taken from what it says. Its parent has not waited for it.
                if parent(&stat) != child.id() {
                    return Err(format!("the first process is not {pid}"));
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

    /// Whether it is alive.
    pub(super) fn is_alive(&self) -> bool {
        parent(&self.stat).is_some()
    }

    pub(super) fn namespaces(&self) -> Arc<Namespaces> {
        self.namespaces.clone()
    }

    /// Ends it, and with it every process in the namespaces. After an error it can be tried again.
    pub(super) async fn end(&mut self) -> Result<(), String> {
        drop(self.stdin.take());
        if timeout(ENDED_WITHIN, self.child.wait()).await.is_err() {
            self.child.kill().await.map_err(|error| {
                format!("the namespaces of the sandbox could not be ended: {error}")
            })?;
        }
        // Where its parent was killed it is killed as well, which takes effect by itself.
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

/// The parent of the process whose file `stat` this is; `None` once it is dead.
fn parent(mut stat: &File) -> Option<u32> {
    let mut said = Vec::new();
    stat.rewind().ok()?;
    stat.read_to_end(&mut said).ok()?;
    let (parent, ..) = parse_stat(&said)?;
    u32::try_from(parent).ok()
}

/// The number of the first process, once it is ready; or what was said instead.
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
