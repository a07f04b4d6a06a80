//! [`watch`]: writes the changes below a path to stdout.

mod directories;
mod moves;

use std::{
    collections::{HashMap, HashSet},
    io::{self, Read, Write},
    os::{fd::AsFd, unix::ffi::OsStrExt},
    path::{Path, PathBuf},
};

use nix::{
    errno::Errno,
    poll::PollTimeout,
    sys::{
        inotify::{AddWatchFlags, InitFlags, Inotify, InotifyEvent, WatchDescriptor},
        stat::stat,
    },
};

use self::moves::{Move, Moves};
use super::{Done, Streams, Subject};
use crate::{
    archive::UNFINISHED,
    protocol::{BuiltinError, FileEvent, FilePath},
};

/// The output is written in pieces of this size.
const PIECE: usize = 64 * 1024;
/// How many times to read the queue before looking at stdin again.
const READS: usize = 1024;

const CHANGES: AddWatchFlags = AddWatchFlags::IN_CREATE
    .union(AddWatchFlags::IN_MODIFY)
    .union(AddWatchFlags::IN_ATTRIB)
    .union(AddWatchFlags::IN_DELETE)
    .union(AddWatchFlags::IN_MOVE)
    .union(AddWatchFlags::IN_DELETE_SELF)
    .union(AddWatchFlags::IN_MOVE_SELF);

/// Writes changes until stdin ends, or until the path itself is removed, moved or replaced, which
/// is reported as its removal. An empty path stands for the home.
///
/// A recursive watch has an inotify watch for each directory. When a directory appears, each of its
/// entries is reported as created once, whether the entry came before or after the inotify watch. A
/// directory that the user may not read is not watched. If the kernel has lost events, or the limit
/// on watches is reached, an overflow is reported.
pub(super) fn watch(
    home: &Path,
    path: &FilePath,
    is_recursive: bool,
    streams: &mut Streams,
) -> Result<Done, BuiltinError> {
    let subject = Subject::or_home("watch", path)?;
    let mut watcher = Watcher {
        root: subject.on_machine(home),
        is_recursive,
        queue: queue().map_err(|error| subject.fail(error))?,
        root_watch: None,
        watches: HashMap::new(),
        seen: HashSet::new(),
        moves: Moves::default(),
        output: Vec::new(),
        is_lossy: false,
        has_ended: false,
        streams,
    };
    watcher.start().map_err(|error| match error {
        Errno::ENOSPC => subject.fail(io::Error::other(
            "the limit on watches is reached; end another watch",
        )),
        error => subject.fail(error),
    })?;
    watcher.run().map_err(|error| subject.fail(error))?;
    Ok(Done {})
}

fn queue() -> nix::Result<Inotify> {
    Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)
}

struct Watcher<'a> {
    root: PathBuf,
    is_recursive: bool,
    queue: Inotify,
    root_watch: Option<WatchDescriptor>,
    /// The paths of the watched directories. All paths are relative to the root.
    watches: HashMap<WatchDescriptor, Vec<u8>>,
    /// Entries of new directories that were already reported as created. The queue may contain
    /// their creation a second time.
    seen: HashSet<Vec<u8>>,
    moves: Moves,
    /// Lines that are not written yet.
    output: Vec<u8>,
    /// Whether the last line is an overflow.
    is_lossy: bool,
    has_ended: bool,
    streams: &'a mut Streams,
}

impl Watcher<'_> {
    /// Watches the root.
    fn start(&mut self) -> nix::Result<()> {
        let root = self.queue.add_watch(&self.root, CHANGES)?;
        self.root_watch = Some(root);
        self.watches.insert(root, Vec::new());
        Ok(())
    }

    fn run(&mut self) -> io::Result<()> {
        // This stays in the buffer until all directories are watched. Only an overflow can follow
        // it before that.
        self.report(&FileEvent::Ready)?;
        self.add_entries(Vec::new(), false)?;
        self.write()?;
        while !self.has_ended {
            let limit = match self.moves.is_empty() {
                true => PollTimeout::NONE,
                false => moves::WAIT.into(),
            };
            let (has_changes, has_input) = self.streams.wait_for(self.queue.as_fd(), limit)?;
            if has_changes {
                self.read_queue()?;
            } else if !has_input {
                self.settle_moves(None)?;
            }
            if has_input && self.streams.read(&mut [0; 4096])? == 0 {
                self.read_queue()?;
                self.settle_moves(None)?;
                self.has_ended = true;
            }
            self.write()?;
        }
        Ok(())
    }

    fn read_queue(&mut self) -> io::Result<()> {
        for _ in 0..READS {
            match self.queue.read_events() {
                Ok(events) => {
                    for event in events {
                        if event.mask.contains(AddWatchFlags::IN_Q_OVERFLOW) {
                            // The remaining events are from the old queue.
                            self.restart()?;
                            break;
                        }
                        self.handle(event)?;
                        if self.has_ended {
                            return Ok(());
                        }
                    }
                }
                Err(Errno::EAGAIN) => {
                    // The queue is empty, so later creations are those of other entries.
                    self.seen.clear();
                    return Ok(());
                }
                Err(Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Starts again with a new queue after events were lost.
    fn restart(&mut self) -> io::Result<()> {
        self.queue = queue()?;
        self.watches.clear();
        self.seen.clear();
        self.moves = Moves::default();
        match self.start() {
            Err(Errno::ENOENT | Errno::ENOTDIR) => return self.end(),
            result => result?,
        }
        self.add_entries(Vec::new(), false)?;
        self.report(&FileEvent::Overflow)
    }

    fn handle(&mut self, event: InotifyEvent) -> io::Result<()> {
        let Some(name) = &event.name else {
            return self.handle_self(&event);
        };
        let Some(directory) = self.watches.get(&event.wd) else {
            return Ok(());
        };
        let path = join(directory, name.as_bytes());
        let has = |flags| event.mask.intersects(flags);
        let is_directory = has(AddWatchFlags::IN_ISDIR);
        if has(AddWatchFlags::IN_MOVED_TO)
            && let Some(old) = self.moves.take(event.cookie)
        {
            return self.renamed(old, path);
        }
        self.settle_moves(Some(&path))?;
        if has(AddWatchFlags::IN_CREATE) && self.seen.remove(&path) {
            return Ok(());
        }
        if has(AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVED_TO) {
            self.report(&FileEvent::Created {
                path: FilePath::from_bytes(path.as_slice()),
            })?;
            if is_directory && self.is_recursive {
                self.add_directory(path, true)?;
            }
            return Ok(());
        }
        if has(AddWatchFlags::IN_MOVED_FROM) {
            self.settle_moves(None)?;
            self.seen.remove(&path);
            self.moves.hold(Move {
                cookie: event.cookie,
                path,
                is_directory,
            });
            return Ok(());
        }
        let is_removed = has(AddWatchFlags::IN_DELETE);
        if is_removed {
            self.seen.remove(&path);
        }
        let path = FilePath::from_bytes(path);
        self.report(&match is_removed {
            true => FileEvent::Removed { path },
            false => FileEvent::Modified { path },
        })
    }

    /// Handles an event of a watched file or directory itself. The directory that contains it has
    /// an event of its own, unless it is the root.
    fn handle_self(&mut self, event: &InotifyEvent) -> io::Result<()> {
        let has = |flags| event.mask.intersects(flags);
        let gone = AddWatchFlags::IN_DELETE_SELF
            | AddWatchFlags::IN_MOVE_SELF
            | AddWatchFlags::IN_UNMOUNT
            | AddWatchFlags::IN_IGNORED;
        if self.root_watch == Some(event.wd) {
            // While a process has the removed file open, the kernel doesn't report its deletion.
            let is_gone = has(gone) || stat(&self.root).is_err();
            return match is_gone {
                true => self.end(),
                false => self.report(&FileEvent::Modified {
                    path: FilePath::default(),
                }),
            };
        }
        if has(AddWatchFlags::IN_IGNORED) {
            self.watches.remove(&event.wd);
        }
        Ok(())
    }

    /// Ends the watch, because the root was removed or moved.
    fn end(&mut self) -> io::Result<()> {
        self.settle_moves(None)?;
        self.has_ended = true;
        self.report(&FileEvent::Removed {
            path: FilePath::default(),
        })
    }

    fn renamed(&mut self, old: Move, to: Vec<u8>) -> io::Result<()> {
        self.report(&FileEvent::Renamed {
            path: FilePath::from_bytes(old.path.as_slice()),
            to: FilePath::from_bytes(to.as_slice()),
        })?;
        if old.is_directory && self.is_recursive {
            for path in self.watches.values_mut() {
                if let Some(below) = below(path, &old.path) {
                    *path = [&to, below].concat();
                }
            }
            self.add_directory(to, true)?;
        }
        Ok(())
    }

    /// Reports the file of a pending move as removed, because the second half of the move has not
    /// come. With `path`, does so only if the order of the move and of the event at `path` matters,
    /// or if the second half is overdue.
    fn settle_moves(&mut self, path: Option<&[u8]>) -> io::Result<()> {
        let Some(old) = self.moves.expire(path) else {
            return Ok(());
        };
        if old.is_directory {
            let queue = &self.queue;
            self.watches.retain(|watch, path| {
                let is_inside = below(path, &old.path).is_some();
                if is_inside {
                    // Fails if the directory was deleted meanwhile.
                    let _ = queue.rm_watch(*watch);
                }
                !is_inside
            });
        }
        self.report(&FileEvent::Removed {
            path: FilePath::from_bytes(old.path),
        })
    }

    /// Adds a line to the output. Doesn't repeat an overflow.
    fn report(&mut self, event: &FileEvent) -> io::Result<()> {
        let Some(event) = &without_unfinished(event) else {
            return Ok(());
        };
        let is_lossy = *event == FileEvent::Overflow;
        if is_lossy && self.is_lossy {
            return Ok(());
        }
        self.is_lossy = is_lossy;
        serde_json::to_writer(&mut self.output, event)?;
        self.output.push(b'\n');
        match self.output.len() >= PIECE {
            true => self.write(),
            false => Ok(()),
        }
    }

    fn write(&mut self) -> io::Result<()> {
        self.streams.write_all(&self.output)?;
        self.output.clear();
        Ok(())
    }
}

/// The event as the client sees it. An unfinished file of a builtin does not exist for the client:
/// its rename creates the file.
fn without_unfinished(event: &FileEvent) -> Option<FileEvent> {
    let is_unfinished = |path: &FilePath| {
        let name = path.as_bytes().rsplit(|byte| *byte == b'/').next();
        let random = name.and_then(|name| name.strip_prefix(UNFINISHED.as_bytes()));
        random.is_some_and(|it| it.len() == 16 && it.iter().all(u8::is_ascii_hexdigit))
    };
    match event {
        FileEvent::Created { path }
        | FileEvent::Modified { path }
        | FileEvent::Removed { path }
            if is_unfinished(path) =>
        {
            None
        }
        FileEvent::Renamed { path, to } if is_unfinished(path) => {
            Some(FileEvent::Created { path: to.clone() })
        }
        event => Some(event.clone()),
    }
}

fn join(directory: &[u8], name: &[u8]) -> Vec<u8> {
    match directory.is_empty() {
        true => name.to_owned(),
        false => [directory, b"/", name].concat(),
    }
}

/// The part of a path below a directory, or nothing for the directory itself.
fn below<'a>(path: &'a [u8], directory: &[u8]) -> Option<&'a [u8]> {
    let rest = path.strip_prefix(directory)?;
    (rest.is_empty() || rest.starts_with(b"/")).then_some(rest)
}

#[cfg(test)]
mod tests;
