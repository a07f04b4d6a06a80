//! Round trips of real directories, and hostile archives.

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    fs,
    io::{self, Read, Write},
    os::unix::{
        ffi::OsStrExt,
        fs::{FileExt, MetadataExt, PermissionsExt, symlink},
    },
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use tar::{Builder, EntryType, Header};
use tempfile::tempdir;

use super::*;

fn pack_all(source: &Path) -> Result<(Vec<u8>, Summary), ArchiveError> {
    let mut archive = Vec::new();
    let summary = pack(source, &|_, _| false, &mut archive, &mut |_| {})?;
    Ok((archive, summary))
}

fn unpack_all(archive: &[u8], destination: &Path) -> Result<Summary, ArchiveError> {
    unpack(destination, &mut &*archive, &Limits::NONE, &mut |_| {})
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

fn set_time(path: &Path, seconds: i64, nanoseconds: u32) {
    let time = filetime::FileTime::from_unix_time(seconds, nanoseconds);
    filetime::set_symlink_file_times(path, time, time).unwrap();
}

/// Everything about a file that an archive keeps: mode, time, and the content or target.
type Facts = (u32, i64, i64, Vec<u8>);

fn facts(top: &Path) -> BTreeMap<PathBuf, Facts> {
    let (mut facts, mut left) = (BTreeMap::new(), vec![top.to_owned()]);
    while let Some(directory) = left.pop() {
        for entry in fs::read_dir(&directory).unwrap() {
            let path = entry.unwrap().path();
            let meta = fs::symlink_metadata(&path).unwrap();
            let content = if meta.is_symlink() {
                fs::read_link(&path)
                    .unwrap()
                    .as_os_str()
                    .as_bytes()
                    .to_vec()
            } else if meta.is_dir() {
                left.push(path.clone());
                Vec::new()
            } else {
                fs::read(&path).unwrap()
            };
            let name = path.strip_prefix(top).unwrap().to_owned();
            let fact = (meta.mode(), meta.mtime(), meta.mtime_nsec(), content);
            facts.insert(name, fact);
        }
    }
    facts
}

#[test]
fn a_tree_survives_a_round_trip() {
    let source = tempdir().unwrap();
    let at = |name: &str| source.path().join(name);
    fs::create_dir_all(at("a/b/empty directory")).unwrap();
    fs::create_dir(at("locked")).unwrap();
    fs::write(at("locked/file"), "x").unwrap();
    fs::write(at("empty"), "").unwrap();
    fs::write(at("large"), vec![7; 3_000_001]).unwrap();
    fs::write(at("with \n line"), "x").unwrap();
    fs::write(at(&"n".repeat(255)), "255").unwrap();
    fs::write(source.path().join(OsStr::from_bytes(b"\xff\xfe")), "bytes").unwrap();
    let deep: PathBuf = std::iter::repeat_n("d".repeat(100), 8).collect();
    fs::create_dir_all(source.path().join(&deep)).unwrap();
    fs::write(source.path().join(&deep).join("file"), "deep").unwrap();
    symlink("/etc/passwd", at("absolute")).unwrap();
    symlink("nowhere", at("dangling")).unwrap();
    symlink("a", at("to directory")).unwrap();
    symlink(&deep, at("long target")).unwrap();
    symlink(OsStr::from_bytes(b"\xff"), at("target that is not text")).unwrap();
    for (name, mode) in [
        ("empty", 0o000),
        ("large", 0o777),
        ("a/b", 0o1),
        ("locked", 0o500),
    ] {
        // The root user reads every file. Another user can't pack what it can't read.
        let is_root = nix::unistd::geteuid().is_root();
        set_mode(&at(name), if is_root { mode } else { mode | 0o500 });
    }
    set_time(&at("empty"), 1, 0);
    set_time(&at("large"), -5, 750_000_000);
    set_time(&at("dangling"), 1_000_000_000, 123_456_789);
    set_time(&at("a/b"), 1_500_000_000, 1);
    set_time(&at("locked"), 0, 0);

    let (archive, packed) = pack_all(source.path()).unwrap();
    let destination = tempdir().unwrap();
    for _ in 0..2 {
        // The second time, everything exists.
        let unpacked = unpack_all(&archive, destination.path()).unwrap();
        assert_eq!(unpacked, packed);
        let (found, expected) = (facts(destination.path()), facts(source.path()));
        assert_eq!(
            found.keys().collect::<Vec<_>>(),
            expected.keys().collect::<Vec<_>>()
        );
        for (name, fact) in &expected {
            let found = &found[name];
            assert!(found.3 == fact.3, "content of {name:?}");
            assert_eq!(
                (found.0, found.1, found.2),
                (fact.0, fact.1, fact.2),
                "{name:?}"
            );
        }
        assert_eq!(packed.entries, expected.len() as u64);
    }
    set_mode(&at("locked"), 0o700);
    set_mode(&destination.path().join("locked"), 0o700);
}

#[test]
fn set_id_bits_are_not_restored() {
    let (source, destination) = (tempdir().unwrap(), tempdir().unwrap());
    fs::create_dir(source.path().join("d")).unwrap();
    fs::write(source.path().join("d/f"), "").unwrap();
    set_mode(&source.path().join("d/f"), 0o6755);
    set_mode(&source.path().join("d"), 0o7755);
    unpack_all(&pack_all(source.path()).unwrap().0, destination.path()).unwrap();
    for name in ["d", "d/f"] {
        let meta = fs::metadata(destination.path().join(name)).unwrap();
        assert_eq!(meta.mode() & 0o7777, 0o755);
    }
}

#[test]
fn holes_take_space_neither_in_the_archive_nor_on_the_disk() {
    let (source, destination) = (tempdir().unwrap(), tempdir().unwrap());
    let file = fs::File::create(source.path().join("sparse")).unwrap();
    file.set_len(1 << 30).unwrap();
    file.write_all_at(b"middle", 1 << 29).unwrap();
    let (archive, packed) = pack_all(source.path()).unwrap();
    assert_eq!(packed.bytes, 1 << 30);
    assert!(archive.len() < 64 * 1024, "{}", archive.len());
    unpack_all(&archive, destination.path()).unwrap();
    let file = fs::File::open(destination.path().join("sparse")).unwrap();
    let meta = file.metadata().unwrap();
    assert_eq!(meta.len(), 1 << 30);
    assert!(meta.blocks() * 512 < 1 << 20, "{} blocks", meta.blocks());
    let mut middle = [0; 7];
    file.read_exact_at(&mut middle, 1 << 29).unwrap();
    assert_eq!(&middle, b"middle\0");
}

#[test]
fn a_file_is_packed_with_its_own_name_also_through_a_link() {
    let (source, destination) = (tempdir().unwrap(), tempdir().unwrap());
    fs::write(source.path().join("file"), "text").unwrap();
    symlink("file", source.path().join("link")).unwrap();
    for name in ["file", "link"] {
        let (archive, packed) = pack_all(&source.path().join(name)).unwrap();
        assert_eq!((packed.bytes, packed.entries), (4, 1));
        unpack_all(&archive, destination.path()).unwrap();
        let path = destination.path().join(name);
        assert!(!fs::symlink_metadata(&path).unwrap().is_symlink());
        assert_eq!(fs::read(path).unwrap(), b"text");
    }
}

#[test]
fn pipes_and_sockets_are_skipped_and_reported() {
    let source = tempdir().unwrap();
    let mode = nix::sys::stat::Mode::S_IRWXU;
    nix::unistd::mkfifo(&source.path().join("pipe"), mode).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(source.path().join("socket")).unwrap();
    fs::write(source.path().join("file"), "").unwrap();
    let (_, packed) = pack_all(source.path()).unwrap();
    assert_eq!((packed.entries, packed.skipped_count), (1, 2));
    let names: Vec<_> = packed.skipped.iter().map(|it| it.path.as_path()).collect();
    assert_eq!(names, [Path::new("pipe"), Path::new("socket")]);
    let error = pack_all(&source.path().join("pipe")).unwrap_err();
    assert!(error.to_string().contains("is a pipe"), "{error}");
}

#[test]
fn excluded_directories_are_left_out_with_their_contents() {
    let (source, destination) = (tempdir().unwrap(), tempdir().unwrap());
    for directory in ["keep", "leave/below"] {
        fs::create_dir_all(source.path().join(directory)).unwrap();
        fs::write(source.path().join(directory).join("file"), "").unwrap();
    }
    let mut archive = Vec::new();
    let excludes = |path: &Path, is_directory: bool| is_directory && path.ends_with("leave");
    pack(source.path(), &excludes, &mut archive, &mut |_| {}).unwrap();
    unpack_all(&archive, destination.path()).unwrap();
    let names: Vec<_> = facts(destination.path()).into_keys().collect();
    assert_eq!(names, [Path::new("keep"), Path::new("keep/file")]);
}

/// Packing fails with the name of the file, and its output is not a whole archive.
#[test]
fn a_file_that_shrinks_while_it_is_packed_is_an_error() {
    struct Shrinks<'a>(&'a Path, Vec<u8>);
    impl Write for Shrinks<'_> {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            fs::OpenOptions::new()
                .write(true)
                .open(self.0)?
                .set_len(0)?;
            self.1.extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let source = tempdir().unwrap();
    let path = source.path().join("file");
    fs::write(&path, vec![7; 1_000_000]).unwrap();
    let mut out = Shrinks(&path, Vec::new());
    let error = pack(source.path(), &|_, _| false, &mut out, &mut |_| {}).unwrap_err();
    assert_eq!(error.path(), Some(Path::new("file")));
    assert!(error.to_string().contains("became shorter"), "{error}");
    let error = unpack_all(&out.1, tempdir().unwrap().path()).unwrap_err();
    assert_eq!(error.kind(), ArchiveErrorKind::Truncated, "{error}");
}

#[test]
fn missing_and_unreadable_sources_are_named() {
    let source = tempdir().unwrap();
    let (missing, mut archive) = (source.path().join("missing"), Vec::new());
    let error = pack(&missing, &|_, _| false, &mut archive, &mut |_| {}).unwrap_err();
    assert_eq!(error.io().kind(), io::ErrorKind::NotFound);
    assert!(error.to_string().contains("missing"), "{error}");
    let error = unpack_all(&archive, source.path()).unwrap_err();
    assert_eq!(error.kind(), ArchiveErrorKind::Truncated, "{error}");
    fs::write(source.path().join("locked"), "").unwrap();
    set_mode(&source.path().join("locked"), 0);
    match pack_all(source.path()) {
        Ok(_) => assert!(nix::unistd::geteuid().is_root()),
        Err(error) => {
            assert_eq!(error.io().kind(), io::ErrorKind::PermissionDenied);
            assert_eq!(error.path(), Some(Path::new("locked")));
        }
    }
}

#[test]
fn a_stream_that_fails_is_reported_as_a_stream_error() {
    struct Fails;
    impl Write for Fails {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::Error::other("stopped"))
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    impl Read for Fails {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::Error::other("stopped"))
        }
    }
    let source = tempdir().unwrap();
    fs::write(source.path().join("file"), vec![7; 200_000]).unwrap();
    let (archive, _) = pack_all(source.path()).unwrap();
    let error = pack(source.path(), &|_, _| false, &mut Fails, &mut |_| {}).unwrap_err();
    assert_eq!(error.kind(), ArchiveErrorKind::Stream);
    let destination = tempdir().unwrap();
    for length in [0, 1_000, 100_000] {
        let mut input = archive[..length].chain(Fails);
        let unpacked = unpack(destination.path(), &mut input, &Limits::NONE, &mut |_| {});
        let error = unpacked.unwrap_err();
        assert_eq!(error.kind(), ArchiveErrorKind::Stream, "{length}");
        assert!(error.to_string().contains("stopped"), "{error}");
        assert!(!destination.path().join("file").exists());
    }
}

#[test]
fn an_archive_that_ends_early_is_an_error() {
    let source = tempdir().unwrap();
    fs::create_dir(source.path().join("d")).unwrap();
    fs::write(source.path().join("d/file"), vec![7; 3_000]).unwrap();
    symlink("file", source.path().join("d/link")).unwrap();
    fs::write(source.path().join("d/".to_owned() + &"n".repeat(200)), "x").unwrap();
    let sparse = fs::File::create(source.path().join("sparse")).unwrap();
    sparse.set_len(1 << 20).unwrap();
    sparse.write_all_at(b"x", 1 << 19).unwrap();
    let (archive, _) = pack_all(source.path()).unwrap();
    assert!(archive.len() > 20 * 512);
    for length in (0..archive.len())
        .step_by(512)
        .chain([1, 513, archive.len() - 1])
    {
        let destination = tempdir().unwrap();
        let error = unpack_all(&archive[..length], destination.path()).unwrap_err();
        assert_eq!(
            error.kind(),
            ArchiveErrorKind::Truncated,
            "{length}: {error}"
        );
    }
    let destination = tempdir().unwrap();
    unpack_all(&archive, destination.path()).unwrap();
    // Other programs fill the last record with zeros. Other data is refused.
    unpack_all(&[&archive[..], &[0; 9_000]].concat(), destination.path()).unwrap();
    let more = [&archive[..], &[0; 9_000], b"x"].concat();
    let error = unpack_all(&more, destination.path()).unwrap_err();
    assert!(error.to_string().contains("data follows"), "{error}");
}

#[test]
fn progress_ends_at_the_size_of_the_archive() {
    let source = tempdir().unwrap();
    fs::write(source.path().join("a"), vec![7; 300_000]).unwrap();
    fs::write(source.path().join("b"), "b").unwrap();
    let (mut archive, mut steps) = (Vec::new(), Vec::new());
    let watch = &mut |it| steps.push(it);
    pack(source.path(), &|_, _| false, &mut archive, watch).unwrap();
    let end = Progress {
        bytes: archive.len() as u64,
        entries: 2,
    };
    assert_eq!(steps.last(), Some(&end));
    assert!(steps.is_sorted_by_key(|it| it.bytes) && steps.len() > 4);
    steps.clear();
    let watch = &mut |it| steps.push(it);
    let destination = tempdir().unwrap();
    unpack(destination.path(), &mut &*archive, &Limits::NONE, watch).unwrap();
    assert_eq!(steps.last(), Some(&end));
    assert!(steps.is_sorted_by_key(|it| it.bytes) && steps.len() > 4);
}

/// A header as an attacker writes it: `Builder` and `set_path` check names.
fn header(name: &[u8], kind: EntryType, target: &str, size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.as_mut_bytes()[..name.len()].copy_from_slice(name);
    header.as_mut_bytes()[157..157 + target.len()].copy_from_slice(target.as_bytes());
    header.set_entry_type(kind);
    header.set_mode(0o777);
    header.set_size(size);
    header.set_mtime(1);
    header.set_cksum();
    header
}

/// Name, kind, and the target of a link or the content of a file.
type Item<'a> = (&'a str, EntryType, &'a str);

fn by_hand(items: &[Item<'_>]) -> Vec<u8> {
    let mut builder = Builder::new(Vec::new());
    for &(name, kind, text) in items {
        let is_link = matches!(kind, EntryType::Symlink | EntryType::Link);
        let (target, content) = if is_link { (text, "") } else { ("", text) };
        let header = header(name.as_bytes(), kind, target, content.len() as u64);
        builder.append(&header, content.as_bytes()).unwrap();
    }
    builder.into_inner().unwrap()
}

/// A directory `inside` beside a canary directory `outside`. In `inside`, a link leads to it.
fn canary() -> (tempfile::TempDir, PathBuf, BTreeMap<PathBuf, Facts>) {
    let top = tempdir().unwrap();
    let (inside, outside) = (top.path().join("inside"), top.path().join("outside"));
    fs::create_dir(&inside).unwrap();
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("secret"), "untouched").unwrap();
    set_mode(&outside.join("secret"), 0o640);
    set_mode(&outside, 0o750);
    set_time(&outside.join("secret"), 5, 5);
    set_time(&outside, 5, 5);
    symlink("../outside", inside.join("old")).unwrap();
    symlink("../outside/secret", inside.join("old file")).unwrap();
    let before = outside_of(top.path());
    (top, inside, before)
}

/// The facts of everything but `inside`.
fn outside_of(top: &Path) -> BTreeMap<PathBuf, Facts> {
    let facts = facts(top).into_iter();
    facts
        .filter(|(name, _)| !name.starts_with("inside"))
        .collect()
}

#[test]
fn no_archive_leads_outside_of_the_destination() {
    use EntryType::{Block, Char, Directory, Fifo, Link, Regular, Symlink};

    let link = ("l", Symlink, "../outside");
    let d = ("d", Directory, "");
    // The part of the error. An empty one means that the archive is unpacked.
    let attacks: [(&[Item<'_>], &str); 31] = [
        (&[("/escaped", Regular, "x")], "must be relative"),
        (&[("../escaped", Regular, "x")], "must be relative"),
        (&[("../outside", Directory, "")], "must be relative"),
        (&[d, ("d/../../escaped", Regular, "x")], "must be relative"),
        (&[("./../escaped", Regular, "x")], "must be relative"),
        (&[(".", Symlink, "../outside")], "must be relative"),
        (&[("..", Directory, "")], "must be relative"),
        (&[("", Regular, "x")], "must be relative"),
        // Links that the archive has created.
        (&[link, ("l/escaped", Regular, "x")], "after its directory"),
        (
            &[link, ("l/", Directory, ""), ("l/secret", Regular, "x")],
            "",
        ),
        (&[link, ("l", Regular, "x")], ""),
        (
            &[("l", Symlink, "../outside/secret"), ("l", Regular, "x")],
            "",
        ),
        (
            &[("l", Symlink, ".."), ("l/outside", Directory, "")],
            "after its directory",
        ),
        (
            &[d, ("d", Symlink, "../outside")],
            "a directory is in its place",
        ),
        (
            &[
                d,
                ("d/l", Symlink, "../../outside"),
                ("d/l/secret", Regular, "x"),
            ],
            "after its directory",
        ),
        (&[link, ("l/l/secret", Regular, "x")], "after its directory"),
        // Links that were there before.
        (&[("old/secret", Regular, "x")], "after its directory"),
        (&[("old", Directory, ""), ("old/secret", Regular, "x")], ""),
        (&[("old file", Regular, "x")], ""),
        (&[("old file", Directory, "")], ""),
        (&[("old", Symlink, "elsewhere")], ""),
        // Kinds that are refused.
        (&[("h", Link, "../outside/secret")], "Link is not allowed"),
        (&[("h", Link, "old file")], "Link is not allowed"),
        (&[("n", Char, "")], "Char is not allowed"),
        (&[("n", Block, "")], "Block is not allowed"),
        (&[("n", Fifo, "")], "Fifo is not allowed"),
        (&[("n", EntryType::new(b'Z'), "x")], "is not allowed"),
        // Kinds that change.
        (
            &[("f", Regular, "x"), ("f/below", Regular, "x")],
            "after its directory",
        ),
        (
            &[
                ("f", Regular, "x"),
                ("f", Directory, ""),
                ("f/a", Regular, ""),
            ],
            "",
        ),
        (
            &[d, ("d/a", Regular, ""), ("d", Regular, "")],
            "a directory is in its place",
        ),
        (&[("f/", Regular, "x")], "end with a slash"),
    ];
    for (items, why) in attacks {
        let (top, inside, before) = canary();
        let unpacked = unpack_all(&by_hand(items), &inside);
        match (unpacked, why) {
            (Ok(_), "") => {}
            (Ok(_), _) => panic!("{items:?} was unpacked"),
            (Err(error), why) => {
                assert!(
                    !why.is_empty() && error.to_string().contains(why),
                    "{items:?}: {error}"
                );
                assert_eq!(error.path(), items.last().map(|it| Path::new(it.0)));
            }
        }
        assert_eq!(outside_of(top.path()), before, "{items:?}");
        assert!(!Path::new("/escaped").exists());
    }
}

#[test]
fn the_last_of_two_entries_with_one_name_stays() {
    let destination = tempdir().unwrap();
    let items = ["first", "second"].map(|text| ("name", EntryType::Regular, text));
    unpack_all(&by_hand(&items), destination.path()).unwrap();
    assert_eq!(
        fs::read(destination.path().join("name")).unwrap(),
        b"second"
    );
}

#[test]
fn names_may_begin_with_a_dot_as_other_programs_write_them() {
    let destination = tempdir().unwrap();
    let items = [
        ("./", EntryType::Directory, ""),
        ("./d/", EntryType::Directory, ""),
        ("./d/file", EntryType::Regular, "text"),
    ];
    unpack_all(&by_hand(&items), destination.path()).unwrap();
    assert_eq!(
        fs::read(destination.path().join("d/file")).unwrap(),
        b"text"
    );
}

#[test]
fn limits_hold_for_declared_sizes_entries_and_headers() {
    let limits = Limits {
        bytes: 100_000,
        entries: 10,
    };
    let long_name = |length: usize| {
        let mut builder = Builder::new(Vec::new());
        let kind = EntryType::GNULongName;
        let name = vec![b'n'; length];
        let long = header(b"././@LongLink", kind, "", length as u64);
        builder.append(&long, &*name).unwrap();
        let file = header(b"f", EntryType::Regular, "", 0);
        builder.append(&file, io::empty()).unwrap();
        builder.into_inner().unwrap()
    };
    let declares = |kind, size| header(b"f", kind, "", size).as_bytes().to_vec();
    let mut holes = header(b"f", EntryType::GNUSparse, "", 0);
    let gnu = holes.as_gnu_mut().unwrap();
    gnu.set_real_size(1 << 60);
    gnu.sparse[0].set_offset(1 << 60);
    gnu.sparse[0].set_length(0);
    holes.set_cksum();
    let many: Vec<_> = (0..11).map(|it| it.to_string()).collect();
    let many: Vec<_> = many
        .iter()
        .map(|it| (&**it, EntryType::Directory, ""))
        .collect();
    let over = vec![7; 60_000];
    let over = std::str::from_utf8(&over).unwrap();
    let two = [
        ("a", EntryType::Regular, over),
        ("b", EntryType::Regular, over),
    ];
    let attacks = [
        (
            declares(EntryType::Regular, 1 << 40),
            "limit of 100000 bytes",
        ),
        (declares(EntryType::Regular, u64::MAX - 5), ""),
        (declares(EntryType::XHeader, 1 << 40), ""),
        (declares(EntryType::GNULongName, 1 << 40), ""),
        (declares(EntryType::Symlink, 5), "must not hold data"),
        (holes.as_bytes().to_vec(), "limit of 100000 bytes"),
        (by_hand(&many), "more than 10 entries"),
        (by_hand(&two), "limit of 100000 bytes"),
        (long_name(5_000), "name too long"),
        (long_name(90_000), "name too long"),
        (long_name(3 << 20), "limit of 100000 bytes"),
    ];
    for (archive, why) in attacks {
        let (top, inside, before) = canary();
        let unpacked = unpack(&inside, &mut &*archive, &limits, &mut |_| {});
        let error = unpacked.expect_err(why).to_string();
        assert!(error.to_lowercase().contains(why), "{why}: {error}");
        assert_eq!(outside_of(top.path()), before, "{why}");
    }
    // Without a limit of bytes, the headers of an entry still have one.
    for kind in [
        EntryType::XHeader,
        EntryType::GNULongName,
        EntryType::GNULongLink,
    ] {
        let start = declares(kind, 1 << 40);
        let mut endless = start.chain(io::repeat(b'x'));
        let destination = tempdir().unwrap();
        let unpacked = unpack(destination.path(), &mut endless, &Limits::NONE, &mut |_| {});
        let error = unpacked.unwrap_err().to_string();
        assert!(error.contains("headers of an entry take more"), "{error}");
    }
}

/// Every byte of a small archive changes in turn. Whatever happens, it stays inside.
#[test]
fn damage_neither_panics_nor_leads_outside() {
    use EntryType::{Directory, Regular, Symlink};

    let items = [
        ("d", Directory, ""),
        ("d/l", Symlink, "../../outside"),
        ("d/f", Regular, "x"),
    ];
    let archive = by_hand(&items);
    let (top, inside, before) = canary();
    for at in 0..archive.len() {
        for byte in [0, b'/', b'.', b'7', 0xff] {
            let mut damaged = archive.clone();
            damaged[at] = byte;
            // The checksum is right, so that the reader looks at the rest.
            let block = at / 512 * 512;
            let mut header = Header::new_old();
            header
                .as_mut_bytes()
                .copy_from_slice(&damaged[block..block + 512]);
            header.set_cksum();
            damaged[block..block + 512].copy_from_slice(header.as_bytes());
            let limits = Limits {
                bytes: 1 << 20,
                entries: 100,
            };
            let _ = unpack(&inside, &mut &*damaged, &limits, &mut |_| {});
        }
    }
    assert_eq!(outside_of(top.path()), before);
}

/// The names of Windows, on every system.
#[test]
fn names_that_a_system_lacks_are_skipped_and_reported() {
    use EntryType::{Directory, Regular, Symlink};

    let destination = tempdir().unwrap();
    let archive = by_hand(&[
        ("a:b/", Directory, ""),
        ("a:b/file", Regular, "x"),
        ("a:b/d", Directory, ""),
        ("a:b/d/nul", Regular, "x"),
        ("a:bc", Regular, "x"),
        ("d", Directory, ""),
        ("d/link", Symlink, "/etc"),
        ("d/kept", Regular, "x"),
    ]);
    let input = &mut &*archive;
    let problem = windows::problem;
    let unpacked = unpack::unpack_on(
        problem,
        destination.path(),
        None,
        input,
        &Limits::NONE,
        &mut |_| {},
    );
    let summary = unpacked.unwrap();
    let skipped: Vec<_> = summary
        .skipped
        .iter()
        .map(|it| it.path.to_string_lossy())
        .collect();
    assert_eq!(skipped, ["a:b/", "a:bc", "d/link"]);
    let names: Vec<_> = facts(destination.path()).into_keys().collect();
    assert_eq!(names, [Path::new("d"), Path::new("d/kept")]);
    assert_eq!(summary.entries, 2);
}

#[test]
fn a_summary_names_a_limited_number_of_skipped_files() {
    let mut summary = Summary::default();
    for number in 0..MAX_SKIPPED + 5 {
        summary.skip(number.to_string(), "reason");
    }
    assert_eq!(summary.skipped.len(), MAX_SKIPPED);
    assert_eq!(summary.skipped_count, MAX_SKIPPED as u64 + 5);
}

#[test]
fn files_get_their_old_times_to_the_nanosecond() {
    let (source, destination) = (tempdir().unwrap(), tempdir().unwrap());
    let file = fs::File::create(source.path().join("f")).unwrap();
    let times = [
        Duration::from_nanos(1),
        Duration::new(4_000_000_000, 999_999_999),
    ];
    for time in times.map(|it| SystemTime::UNIX_EPOCH + it) {
        file.set_modified(time).unwrap();
        unpack_all(&pack_all(source.path()).unwrap().0, destination.path()).unwrap();
        let meta = fs::metadata(destination.path().join("f")).unwrap();
        assert_eq!(meta.modified().unwrap(), time);
    }
}

#[test]
fn one_file_becomes_the_file_at_a_path() {
    let (source, destination) = (tempdir().unwrap(), tempdir().unwrap());
    fs::write(source.path().join("one"), "new").unwrap();
    fs::set_permissions(source.path().join("one"), fs::Permissions::from_mode(0o640)).unwrap();
    let archive = |path: &Path| {
        let mut archive = Vec::new();
        pack(path, &|_, _| false, &mut archive, &mut |_| {}).unwrap();
        archive
    };
    let unpack =
        |archive: &[u8], path: &Path| unpack_file(path, &mut &*archive, &Limits::NONE, &mut |_| {});
    let path = destination.path().join("a/two");
    let whole = archive(&source.path().join("one"));
    unpack(&whole, &path).unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"new");
    let mode = fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o640);

    // Nothing else replaces the file, and no unfinished file is left.
    fs::write(source.path().join("two"), "2").unwrap();
    for refused in [
        archive(source.path()),
        whole[..600].to_vec(),
        vec![0; 1_024],
    ] {
        unpack(&refused, &path).unwrap_err();
    }
    assert_eq!(fs::read(&path).unwrap(), b"new");
    assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
}
