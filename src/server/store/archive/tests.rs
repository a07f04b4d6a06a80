//! Packing and unpacking directory trees, also with hostile trees and archives.

use std::{
    ffi::OsStr,
    fs,
    io::{self, Write},
    os::unix::{
        ffi::OsStrExt,
        fs::{MetadataExt, PermissionsExt, symlink},
    },
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, SystemTime},
};

use lz4_flex::frame::FrameEncoder;
use tar::{Builder, EntryType, Header};

use super::{
    codec::{self, Decoder},
    layout::*,
    pack::{Packer, is_replaced},
    unpack::{self, read_record},
};
use crate::{
    archive::sparse::MAX_PIECES,
    server::store::turns::{Stop, Turn},
};

const BOUNDS: Bounds = Bounds {
    bytes: 4 << 30,
    files: 10_000,
};

/// A temporary directory, and the path of an archive in it.
fn place() -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let place = directory.path().join("a.tar.lz4");
    (directory, place)
}

fn pack(tree: &Path, place: &Path) -> io::Result<()> {
    pack_within(BOUNDS, tree, place)
}

fn pack_within(bounds: Bounds, tree: &Path, place: &Path) -> io::Result<()> {
    let mut packer = packer(place.parent().unwrap(), bounds, Vec::new())?;
    packer.add_tree("home", tree)?;
    packer.finish()?.put(place, || Ok(()))
}

fn packer(directory: &Path, bounds: Bounds, stops: Vec<Stop>) -> io::Result<Packer> {
    Packer::create(directory, ".unfinished-", None, bounds, &Turn::until(stops))
}

fn unpack(place: &Path) -> io::Result<tempfile::TempDir> {
    unpack_within(BOUNDS, place)
}

fn unpack_within(bounds: Bounds, place: &Path) -> io::Result<tempfile::TempDir> {
    let directory = tempfile::tempdir().unwrap();
    unpack_into(bounds, place, directory.path())?;
    Ok(directory)
}

fn unpack_into(bounds: Bounds, place: &Path, directory: &Path) -> io::Result<()> {
    let memory = Tree {
        files_only: true,
        ..Tree::new("memory", None)
    };
    let trees = Trees {
        directory: directory.to_owned(),
        trees: vec![Tree::new("home", None), memory],
    };
    unpack::unpack(fs::File::open(place)?, &trees, bounds, &Turn::default())
}

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().permissions().mode() & 0o7777
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn files_directories_links_and_permissions_are_restored() {
    let tree = tempfile::tempdir().unwrap();
    let at = |name: &str| tree.path().join(name);
    fs::create_dir_all(at("a/b")).unwrap();
    fs::write(at("a/b/file"), "text").unwrap();
    fs::write(at("script"), "#!/bin/sh\n").unwrap();
    fs::write(at("empty"), "").unwrap();
    fs::write(at("n\u{e4}me with \n all"), "x").unwrap();
    fs::write(at(&"long".repeat(60)), "long").unwrap();
    set_mode(&at("script"), 0o6755);
    fs::write(at("a/secret"), "s").unwrap();
    set_mode(&at("a/secret"), 0o400);
    set_mode(&at("a/b"), 0o500);
    symlink("/etc/passwd", at("absolute")).unwrap();
    symlink("nowhere", at("dangling")).unwrap();
    symlink("a", at("to directory")).unwrap();
    fs::hard_link(at("empty"), at("other name")).unwrap();

    let (_directory, archive) = place();
    pack(tree.path(), &archive).unwrap();
    assert_eq!(mode(&archive), 0o600, "only its owner may read an archive");
    let unpacked = unpack(&archive).unwrap();
    let at = |name: &str| unpacked.path().join("home").join(name);
    assert_eq!(fs::read_to_string(at("a/b/file")).unwrap(), "text");
    assert_eq!(
        fs::read_to_string(at("n\u{e4}me with \n all")).unwrap(),
        "x"
    );
    assert_eq!(fs::read_to_string(at(&"long".repeat(60))).unwrap(), "long");
    assert_eq!(fs::read_to_string(at("other name")).unwrap(), "");
    assert_eq!(mode(&at("script")), 0o755, "without the set-id bits");
    assert_eq!(mode(&at("a/secret")), 0o400);
    assert_eq!(mode(&at("a/b")), 0o500);
    let target = |name: &str| fs::read_link(at(name)).unwrap();
    assert_eq!(target("absolute"), Path::new("/etc/passwd"));
    assert_eq!(target("dangling"), Path::new("nowhere"));
    assert_eq!(target("to directory"), Path::new("a"));
    set_mode(&at("a/b"), 0o700);
    set_mode(&tree.path().join("a/b"), 0o700);
}

/// The holes of a file of 1 GiB take space neither in the archive nor on the disk.
#[test]
fn holes_are_kept() {
    let tree = tempfile::tempdir().unwrap();
    let file = fs::File::create(tree.path().join("sparse")).unwrap();
    file.set_len(1 << 30).unwrap();
    {
        use std::os::unix::fs::FileExt;
        file.write_all_at(b"middle", 1 << 29).unwrap();
    }
    let (_directory, archive) = place();
    pack(tree.path(), &archive).unwrap();
    assert!(fs::metadata(&archive).unwrap().len() < 64 * 1024);
    let unpacked = unpack(&archive).unwrap();
    let sparse = fs::File::open(unpacked.path().join("home/sparse")).unwrap();
    let meta = sparse.metadata().unwrap();
    assert_eq!(meta.len(), 1 << 30);
    assert!(meta.blocks() * 512 < 1 << 20, "{} blocks", meta.blocks());
    use std::os::unix::fs::FileExt;
    let mut middle = [0; 7];
    sparse.read_exact_at(&mut middle, 1 << 29).unwrap();
    assert_eq!(&middle, b"middle\0");
}

#[test]
fn pipes_and_sockets_are_skipped_without_blocking() {
    let tree = tempfile::tempdir().unwrap();
    let made = std::process::Command::new("mkfifo")
        .arg(tree.path().join("pipe"))
        .status();
    assert!(made.unwrap().success());
    let _socket = std::os::unix::net::UnixListener::bind(tree.path().join("socket")).unwrap();
    fs::write(tree.path().join("file"), "kept").unwrap();
    let (_directory, archive) = place();
    pack(tree.path(), &archive).unwrap();
    let unpacked = unpack(&archive).unwrap();
    let names: Vec<_> = fs::read_dir(unpacked.path().join("home"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(names, ["file"]);
}

#[test]
fn files_that_change_while_packed_leave_a_valid_archive() {
    let tree = tempfile::tempdir().unwrap();
    for name in ["grows", "shrinks", "stays"] {
        fs::write(tree.path().join(name), vec![b'x'; 100_000]).unwrap();
    }
    let path = |name: &str| tree.path().join(name);
    let go_on = AtomicBool::new(true);
    let (_directory, archive) = place();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while go_on.load(Ordering::Relaxed) {
                let mut file = fs::File::options()
                    .append(true)
                    .open(path("grows"))
                    .unwrap();
                file.write_all(&[b'y'; 1000]).unwrap();
                fs::write(path("shrinks"), vec![b'x'; 100_000]).unwrap();
                fs::File::create(path("shrinks")).unwrap();
                fs::write(path("new"), "n").unwrap();
                fs::remove_file(path("new")).unwrap();
            }
        });
        for _ in 0..50 {
            pack(tree.path(), &archive).unwrap();
            let unpacked = unpack(&archive).unwrap();
            let stays = fs::read(unpacked.path().join("home/stays")).unwrap();
            assert!(stays == vec![b'x'; 100_000]);
            assert!(unpacked.path().join("home/grows").exists());
        }
        go_on.store(false, Ordering::Relaxed);
    });
}

/// Code truncates the file while the packer reads it, then restores its size and modification time
/// to hide the change.
#[test]
fn a_shrinking_file_with_holes_leaves_later_entries_intact() {
    use std::os::unix::fs::FileExt;

    const PIECES: u64 = 4_000;
    let tree = tempfile::tempdir().unwrap();
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
    let file = fs::File::create(tree.path().join("holes")).unwrap();
    for number in 0..PIECES {
        file.write_all_at(&[b'x'; 4096], number * 8192).unwrap();
    }
    file.set_len(PIECES * 8192).unwrap();
    file.set_modified(time).unwrap();
    for number in 0..20 {
        fs::write(tree.path().join(format!("{number}")), vec![b'y'; 100_000]).unwrap();
    }
    let go_on = AtomicBool::new(true);
    let (_directory, archive) = place();
    let results: Vec<io::Result<_>> = std::thread::scope(|scope| {
        scope.spawn(|| {
            while go_on.load(Ordering::Relaxed) {
                file.set_len(PIECES * 4096).unwrap();
                file.set_len(PIECES * 8192).unwrap();
                file.set_modified(time).unwrap();
                for number in PIECES / 2..PIECES {
                    file.write_all_at(&[b'x'; 4096], number * 8192).unwrap();
                }
                file.set_modified(time).unwrap();
            }
        });
        let packed = (0..20).map(|_| {
            pack(tree.path(), &archive)?;
            unpack(&archive)
        });
        let packed = packed.collect();
        go_on.store(false, Ordering::Relaxed);
        packed
    });
    for unpacked in results {
        let unpacked = unpacked.unwrap();
        let home = unpacked.path().join("home");
        assert_eq!(fs::read_dir(&home).unwrap().count(), 21);
        assert!(fs::read(home.join("19")).unwrap() == vec![b'y'; 100_000]);
        let size = fs::metadata(home.join("holes")).unwrap().len();
        assert!([PIECES * 4096, PIECES * 8192].contains(&size), "{size}");
    }
}

type Archive = Builder<FrameEncoder<fs::File>>;

/// Writes an archive of any entries, also of entries that [`Packer`] never writes.
fn by_hand(archive: &Path, add: impl FnOnce(&mut Archive)) {
    let file = fs::File::create(archive).unwrap();
    let mut builder = Builder::new(codec::encoder(file));
    add(&mut builder);
    builder.into_inner().unwrap().finish().unwrap();
}

fn header(name: &[u8], kind: EntryType, mode: u32, target: &str) -> Header {
    let mut header = Header::new_gnu();
    header.as_mut_bytes()[..name.len()].copy_from_slice(name);
    header.as_mut_bytes()[157..157 + target.len()].copy_from_slice(target.as_bytes());
    header.set_size(0);
    header.set_mode(mode);
    header.set_entry_type(kind);
    header.set_cksum();
    header
}

/// Each attempt has the entries of an archive (name, kind, target of a link), and a part of the
/// expected error.
#[test]
fn a_hostile_archive_is_refused_with_the_name_of_the_entry() {
    use EntryType::{Block, Char, Directory, Fifo, Link, Regular, Symlink};

    let home = ("home", Directory, "");
    let memory = ("memory", Directory, "");
    type Entries<'a> = &'a [(&'a str, EntryType, &'a str)];
    let attempts: [(Entries<'_>, &str); 26] = [
        (
            &[("bundle", Directory, "")],
            "may contain only home, memory",
        ),
        (&[("bundle/config.json", Regular, "")], "may contain only"),
        (&[home, ("source/run.pl", Regular, "")], "may contain only"),
        (&[home, ("code/main-1.sh", Regular, "")], "may contain only"),
        (&[home, ("exit", Symlink, "/etc")], "may contain only"),
        (&[home, ("record.json", Regular, "")], "may contain only"),
        (&[("root", Directory, "")], "root file system"),
        (&[("home", Symlink, "../open")], "expected a directory"),
        (&[("home", Regular, "")], "expected a directory"),
        (
            &[("home", Symlink, "../open"), home],
            "expected a directory",
        ),
        (&[home, home], "twice"),
        (
            &[home, ("home/a", Symlink, ".."), ("home/a", Directory, "")],
            "twice",
        ),
        (
            &[home, ("home/a", Regular, ""), ("home/a", Symlink, "..")],
            "twice",
        ),
        (
            &[home, ("home/a", Directory, ""), ("home/a", Regular, "")],
            "twice",
        ),
        (
            &[
                home,
                ("home/a", Symlink, ".."),
                ("home/a/escaped", Regular, ""),
            ],
            "after its directory",
        ),
        (&[("home/a", Regular, "")], "after its directory"),
        (&[("../escaped", Regular, "")], "must be relative"),
        (
            &[home, ("home/../../escaped", Directory, "")],
            "must be relative",
        ),
        (
            &[home, ("/escaped-absolutely", Regular, "")],
            "must be relative",
        ),
        (&[home, ("./home/a", Regular, "")], "must be relative"),
        (&[home, ("home/a/", Regular, "")], "end with a slash"),
        (
            &[home, ("home/name", Link, "/etc/passwd")],
            "Link is not allowed",
        ),
        (&[home, ("home/null", Char, "")], "Char is not allowed"),
        (
            &[home, ("home/disk", Block, ""), ("home/pipe", Fifo, "")],
            "Block is not allowed",
        ),
        (
            &[memory, ("memory/checkpoint.img", Symlink, "/etc/shadow")],
            "Symlink is not allowed",
        ),
        (
            &[memory, ("memory/a", Directory, "")],
            "Directory is not allowed",
        ),
    ];
    for (entries, why) in attempts {
        let (_directory, archive) = place();
        by_hand(&archive, |builder| {
            for (name, kind, target) in entries {
                let header = header(name.as_bytes(), *kind, 0o000, target);
                builder.append(&header, io::empty()).unwrap();
            }
        });
        let outside = tempfile::tempdir().unwrap();
        let inside = outside.path().join("inside");
        fs::create_dir(&inside).unwrap();
        let open = outside.path().join("open");
        fs::create_dir(&open).unwrap();
        set_mode(&open, 0o755);
        let error = unpack_into(BOUNDS, &archive, &inside).expect_err(why);
        let error = error.to_string();
        let named = entries.iter().any(|(name, ..)| error.contains(name));
        assert!(named && error.contains(why), "{entries:?}: {error}");
        let names: Vec<_> = fs::read_dir(outside.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        assert_eq!(names.len(), 2, "{entries:?}: {names:?}");
        assert!(!inside.join("escaped").exists() && !Path::new("/escaped-absolutely").exists());
        assert_eq!(mode(&open), 0o755, "{entries:?}");
    }
}

/// Before unpacking, the directory of the sandbox already contains a link with the tree's name.
#[test]
fn a_link_in_place_of_a_tree_is_not_followed() {
    let tree = tempfile::tempdir().unwrap();
    fs::write(tree.path().join("file"), "text").unwrap();
    let (_directory, archive) = place();
    pack(tree.path(), &archive).unwrap();
    let (inside, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    symlink(outside.path(), inside.path().join("home")).unwrap();
    unpack_into(BOUNDS, &archive, inside.path()).unwrap_err();
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0);
}

/// An archive of less than 2 MiB contains 256 MiB of zeros.
#[test]
fn an_archive_that_unpacks_to_more_than_the_limit_is_refused() {
    let (_directory, archive) = place();
    by_hand(&archive, |builder| {
        let mut header = header(b"home", EntryType::Directory, 0o700, "");
        builder.append(&header, io::empty()).unwrap();
        header.set_entry_type(EntryType::Regular);
        header.set_size(1 << 28);
        let zeros = io::Read::take(io::repeat(0), 1 << 28);
        builder
            .append_data(&mut header, "home/bomb", zeros)
            .unwrap();
    });
    assert!(fs::metadata(&archive).unwrap().len() < 2 << 20);
    let directory = tempfile::tempdir().unwrap();
    let bounds = Bounds {
        bytes: 16 << 20,
        ..BOUNDS
    };
    let error = unpack_into(bounds, &archive, directory.path()).unwrap_err();
    let error = error.to_string();
    assert!(
        error.contains("16777216 bytes") && error.contains("`max_archive_size`"),
        "{error}"
    );
    let written = fs::metadata(directory.path().join("home/bomb")).unwrap();
    assert!(written.len() <= bounds.bytes);
}

#[test]
fn packing_and_unpacking_have_the_same_limits() {
    let tree = tempfile::tempdir().unwrap();
    // A time in whole seconds needs no PAX header.
    let touch = |path: &Path| {
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1);
        fs::File::open(path).unwrap().set_modified(time).unwrap();
    };
    for number in 0..20 {
        let file = tree.path().join(format!("{number}"));
        fs::write(&file, "text").unwrap();
        touch(&file);
    }
    touch(tree.path());
    let (_directory, archive) = place();
    // One block of 512 bytes for the directory, two for each of the 20 files, two at the end.
    let exactly = Bounds {
        bytes: 512 + 20 * 1024 + 1024,
        files: 21,
    };
    pack_within(exactly, tree.path(), &archive).unwrap();
    unpack_within(exactly, &archive).unwrap();
    let (fewer_bytes, fewer_files) = (
        Bounds {
            bytes: exactly.bytes - 1,
            ..exactly
        },
        Bounds {
            files: 20,
            ..exactly
        },
    );
    for (bounds, option) in [
        (fewer_bytes, "`max_archive_size`"),
        (fewer_files, "`max_archive_files`"),
    ] {
        let unpacked = unpack_within(bounds, &archive).unwrap_err().to_string();
        assert!(unpacked.contains(option), "{unpacked}");
        let (directory, archive) = place();
        let packed = pack_within(bounds, tree.path(), &archive).unwrap_err();
        assert!(packed.to_string().contains(option), "{packed}");
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
    }
}

/// The archive skips sockets, but the packer holds their names in memory until it reaches them. At
/// the deepest directory, it holds the names of all parents.
#[test]
fn pending_names_in_parent_directories_count_as_files() {
    let tree = tempfile::tempdir().unwrap();
    let mut directory = tree.path().to_owned();
    for _ in 0..4 {
        for name in ["a", "b", "c", "d"] {
            std::os::unix::net::UnixListener::bind(directory.join(name)).unwrap();
        }
        // Find a name that the file system lists first. So the packer enters this directory while
        // the names of the sockets are pending.
        let next = (0..).map(|number| directory.join(format!("{number}")));
        let first = next.into_iter().find(|next| {
            fs::create_dir(next).unwrap();
            let first = fs::read_dir(&directory).unwrap().next().unwrap().unwrap();
            let is_first = first.path() == *next;
            if !is_first {
                fs::remove_dir(next).unwrap();
            }
            is_first
        });
        directory = first.unwrap();
    }
    let (_directory, archive) = place();
    let within = |files| pack_within(Bounds { files, ..BOUNDS }, tree.path(), &archive);
    // 5 directories and 16 sockets.
    within(21).unwrap();
    let error = within(20).unwrap_err().to_string();
    assert!(error.contains("`max_archive_files`"), "{error}");
}

/// Before an entry, the reader loads its headers into memory: long names, PAX extensions, the list
/// of holes.
#[test]
fn endless_headers_are_refused_before_they_fill_memory() {
    use EntryType::{GNULongLink, GNULongName, XHeader};

    for kind in [GNULongName, GNULongLink, XHeader] {
        let (_directory, archive) = place();
        by_hand(&archive, |builder| {
            let mut header = header(b"long", kind, 0o644, "");
            header.set_size(1 << 26);
            header.set_cksum();
            let zeros = io::Read::take(io::repeat(0), 1 << 26);
            builder.append(&header, zeros).unwrap();
        });
        let error = unpack(&archive).unwrap_err().to_string();
        assert!(
            error.contains("headers of an entry take more than"),
            "{error}"
        );
        let error = read_record(fs::File::open(&archive).unwrap(), &Turn::default());
        assert!(error.is_err());
    }
    let (_directory, archive) = place();
    by_hand(&archive, |builder| {
        let home = header(b"home", EntryType::Directory, 0o700, "");
        builder.append(&home, io::empty()).unwrap();
        let mut sparse = header(b"home/holes", EntryType::GNUSparse, 0o644, "");
        sparse.as_gnu_mut().unwrap().set_is_extended(true);
        sparse.set_cksum();
        builder.append(&sparse, io::empty()).unwrap();
        let mut more = tar::GnuExtSparseHeader::new();
        more.set_is_extended(true);
        for _ in 0..1 << 20 {
            builder.get_mut().write_all(more.as_bytes()).unwrap();
        }
    });
    let error = unpack(&archive).unwrap_err().to_string();
    assert!(
        error.contains("headers of an entry take more than"),
        "{error}"
    );
}

#[test]
fn a_file_with_very_many_holes_is_stored_without_them() {
    use std::os::unix::fs::FileExt;

    let tree = tempfile::tempdir().unwrap();
    let file = fs::File::create(tree.path().join("holes")).unwrap();
    for number in 0..=MAX_PIECES as u64 {
        file.write_all_at(b"x", number * 8192).unwrap();
    }
    file.set_len((MAX_PIECES as u64 + 2) * 8192).unwrap();
    let (_directory, archive) = place();
    pack(tree.path(), &archive).unwrap();
    let unpacked = unpack(&archive).unwrap();
    let found = fs::File::open(unpacked.path().join("home/holes")).unwrap();
    let mut piece = [1; 8193];
    found
        .read_exact_at(&mut piece, MAX_PIECES as u64 / 2 * 8192)
        .unwrap();
    assert!(piece[0] == b'x' && piece[8192] == b'x' && piece[1..8192].iter().all(|&it| it == 0));
    assert_eq!(
        found.metadata().unwrap().len(),
        file.metadata().unwrap().len()
    );
}

#[test]
fn modification_times_are_restored() {
    let tree = tempfile::tempdir().unwrap();
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
    fs::create_dir_all(tree.path().join("a/b")).unwrap();
    fs::write(tree.path().join("a/b/file"), "").unwrap();
    for name in ["a/b/file", "a/b", "a"] {
        let file = fs::File::open(tree.path().join(name)).unwrap();
        file.set_modified(time).unwrap();
    }
    symlink("a", tree.path().join("link")).unwrap();
    filetime::set_symlink_file_times(tree.path().join("link"), time.into(), time.into()).unwrap();
    let (_directory, archive) = place();
    pack(tree.path(), &archive).unwrap();
    let unpacked = unpack(&archive).unwrap();
    for name in ["a/b/file", "a/b", "a", "link"] {
        let found = fs::symlink_metadata(unpacked.path().join("home").join(name)).unwrap();
        assert_eq!(found.modified().unwrap(), time, "{name}");
    }
}

/// Code replaces a directory with a link after the packer has listed the directory.
#[test]
fn a_replaced_directory_does_not_leak_outside_files() {
    let outside = tempfile::tempdir().unwrap();
    symlink("secret", outside.path().join("link")).unwrap();
    let tree = tempfile::tempdir().unwrap();
    let replaced = tree.path().join("replaced");
    symlink(outside.path(), &replaced).unwrap();

    let (_directory, archive) = place();
    let folder = archive.parent().unwrap();
    let mut packer = packer(folder, BOUNDS, Vec::new()).unwrap();
    let stored = Path::new("home/replaced/link");
    let error = packer.add(stored, &replaced.join("link"), 0);
    assert!(is_replaced(&error.unwrap_err()));
    packer.finish().unwrap().put(&archive, || Ok(())).unwrap();
    let mut unpacked = Vec::new();
    let mut decoder = Decoder::new(fs::File::open(&archive).unwrap());
    io::copy(&mut decoder, &mut unpacked).unwrap();
    assert!(!unpacked.windows(6).any(|it| it == b"secret"));
}

#[test]
fn damage_anywhere_in_an_archive_is_detected() {
    let tree = tempfile::tempdir().unwrap();
    // Data that hardly compresses, so that each byte of the archive matters.
    let noise: Vec<u8> = (0..20_000_u64)
        .map(|i| (i.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) as u8)
        .collect();
    fs::write(tree.path().join("noise"), &noise).unwrap();
    let (_directory, archive) = place();
    pack(tree.path(), &archive).unwrap();
    let whole = fs::read(&archive).unwrap();
    for at in (0..whole.len()).step_by(997) {
        fs::write(&archive, &whole[..at]).unwrap();
        assert!(unpack(&archive).is_err(), "cut at {at}");
        let mut flipped = whole.clone();
        flipped[at] ^= 0x40;
        fs::write(&archive, &flipped).unwrap();
        assert!(unpack(&archive).is_err(), "damaged at {at}");
    }
    fs::write(&archive, &whole).unwrap();
    unpack(&archive).unwrap();
}

#[test]
fn an_unfinished_archive_leaves_the_old_one_in_place() {
    let tree = tempfile::tempdir().unwrap();
    fs::write(tree.path().join("file"), "old").unwrap();
    let (directory, archive) = place();
    pack(tree.path(), &archive).unwrap();

    fs::write(tree.path().join("file"), vec![b'n'; 10_000_000]).unwrap();
    let stop = Stop::default();
    let mut packer = packer(directory.path(), BOUNDS, vec![stop.clone()]).unwrap();
    stop.stop();
    let added = packer.add_tree("home", tree.path());
    let error = added
        .and_then(|()| packer.finish()?.put(&archive, || Ok(())))
        .unwrap_err();
    assert!(error.to_string().contains("given up"), "{error}");

    let names: Vec<_> = fs::read_dir(directory.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(names, ["a.tar.lz4"]);
    let unpacked = unpack(&archive).unwrap();
    let file = unpacked.path().join("home/file");
    assert_eq!(fs::read_to_string(file).unwrap(), "old");
}

/// Deleting a sandbox stops a snapshot of it. An archive that lacks the deleted files must not
/// replace the old archive.
#[test]
fn an_archive_stopped_before_its_rename_replaces_nothing() {
    let tree = tempfile::tempdir().unwrap();
    fs::write(tree.path().join("file"), "old").unwrap();
    let (directory, archive) = place();
    pack(tree.path(), &archive).unwrap();

    fs::remove_file(tree.path().join("file")).unwrap();
    let stop = Stop::default();
    let stops = vec![Stop::default(), stop.clone()];
    let mut packer = packer(directory.path(), BOUNDS, stops).unwrap();
    packer.add_tree("home", tree.path()).unwrap();
    let stopped_meanwhile = || {
        stop.stop();
        Ok(())
    };
    let packed = packer.finish().unwrap();
    packed.put(&archive, stopped_meanwhile).unwrap_err();
    let unpacked = unpack(&archive).unwrap();
    let file = unpacked.path().join("home/file");
    assert_eq!(fs::read_to_string(file).unwrap(), "old");
}

#[test]
fn names_and_links_that_are_not_utf8_are_kept_exactly() {
    let tree = tempfile::tempdir().unwrap();
    let long = [b"\xff\xfe".as_slice(), &[0xe9; 150]].concat();
    let (name, long) = (OsStr::from_bytes(b"na\xffme"), OsStr::from_bytes(&long));
    for (name, text) in [(name, "short"), (long, "long")] {
        fs::write(tree.path().join(name), text).unwrap();
    }
    symlink(long, tree.path().join("link")).unwrap();
    let (_directory, archive) = place();
    pack(tree.path(), &archive).unwrap();
    let unpacked = unpack(&archive).unwrap();
    let home = unpacked.path().join("home");
    assert_eq!(fs::read_to_string(home.join(name)).unwrap(), "short");
    assert_eq!(fs::read_to_string(home.join(long)).unwrap(), "long");
    assert_eq!(fs::read_link(home.join("link")).unwrap(), long);
}

#[test]
fn a_missing_tree_gives_an_empty_archive() {
    let (directory, archive) = place();
    pack(&directory.path().join("missing"), &archive).unwrap();
    let unpacked = unpack(&archive).unwrap();
    assert_eq!(fs::read_dir(unpacked.path()).unwrap().count(), 0);
}

/// The error contains the name of the file. Root can read every file, so packing succeeds as root.
#[test]
fn an_unreadable_file_is_named_in_the_error() {
    let tree = tempfile::tempdir().unwrap();
    fs::create_dir(tree.path().join("d")).unwrap();
    fs::write(tree.path().join("d/locked"), "x").unwrap();
    set_mode(&tree.path().join("d/locked"), 0o000);
    let (_directory, archive) = place();
    let may_read = fs::File::open(tree.path().join("d/locked")).is_ok();
    match pack(tree.path(), &archive) {
        Ok(()) => assert!(may_read),
        Err(error) => {
            assert!(!may_read);
            assert!(error.to_string().contains("home/d/locked"), "{error}");
        }
    }
}
