//! Archives of directories: what is stored comes back, and what is hostile in a tree or an archive leads nowhere.

use std::{
    ffi::OsStr,
    os::unix::{
        ffi::OsStrExt,
        fs::{PermissionsExt, symlink},
    },
    sync::atomic::{AtomicBool, Ordering},
};

use super::*;

/// A directory for archives, and the archive in it.
fn place() -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let place = directory.path().join("a.tar.zst");
    (directory, place)
}

fn pack(tree: &Path, place: &Path) -> io::Result<()> {
    let mut packer = Packer::create(place.parent().unwrap(), ".unfinished-", None, Vec::new())?;
    packer.add_tree("home", tree)?;
    packer.finish()?.put(place, || Ok(()))
}

fn unpack(place: &Path) -> io::Result<tempfile::TempDir> {
    let directory = tempfile::tempdir().unwrap();
    Unpacker::new(fs::File::open(place)?)?.unpack_into(directory.path())?;
    Ok(directory)
}

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().permissions().mode() & 0o7777
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn files_directories_links_and_permissions_come_back() {
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

/// A gigabyte of nothing costs neither time nor space.
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
fn a_pipe_and_a_socket_are_left_out_and_nobody_waits_for_them() {
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
fn files_that_change_meanwhile_leave_a_whole_archive() {
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

/// Each an archive that somebody has made to write outside, or of what an archive of ours never holds.
#[test]
fn nothing_is_unpacked_outside() {
    type Add = fn(&mut Builder<Encoder<'static, fs::File>>);
    fn file(name: &[u8], kind: EntryType) -> Header {
        let mut header = Header::new_gnu();
        header.as_mut_bytes()[..name.len()].copy_from_slice(name);
        header.set_size(0);
        header.set_mode(0o644);
        header.set_entry_type(kind);
        header.set_cksum();
        header
    }
    let attempts: [(&str, Add); 6] = [
        ("a link, then its permissions", |builder| {
            let mut link = file(b"home", EntryType::Symlink);
            link.set_link_name("../open").unwrap();
            link.set_cksum();
            builder.append(&link, io::empty()).unwrap();
            let mut header = file(b"home", EntryType::Directory);
            header.set_mode(0o000);
            header.set_cksum();
            builder.append(&header, io::empty()).unwrap();
        }),
        ("a way up", |builder| {
            let header = file(b"../escaped", EntryType::Regular);
            builder.append(&header, io::empty()).unwrap();
        }),
        ("a way up in the middle", |builder| {
            let header = file(b"home/../../escaped", EntryType::Directory);
            builder.append(&header, io::empty()).unwrap();
        }),
        ("a link, then through it", |builder| {
            let mut link = file(b"home", EntryType::Symlink);
            link.set_link_name("..").unwrap();
            link.set_cksum();
            builder.append(&link, io::empty()).unwrap();
            let header = file(b"home/escaped", EntryType::Regular);
            builder.append(&header, io::empty()).unwrap();
        }),
        ("a second name for a file outside", |builder| {
            let mut link = file(b"home/name", EntryType::Link);
            link.set_link_name("/etc/passwd").unwrap();
            link.set_cksum();
            builder.append(&link, io::empty()).unwrap();
        }),
        ("a device", |builder| {
            let header = file(b"home/null", EntryType::Char);
            builder.append(&header, io::empty()).unwrap();
        }),
    ];
    for (what, add) in attempts {
        let (_directory, archive) = place();
        let file = fs::File::create(&archive).unwrap();
        let mut builder = Builder::new(Encoder::new(file, LEVEL).unwrap());
        add(&mut builder);
        builder.into_inner().unwrap().finish().unwrap();

        let outside = tempfile::tempdir().unwrap();
        let inside = outside.path().join("inside");
        fs::create_dir(&inside).unwrap();
        let open = outside.path().join("open");
        fs::create_dir(&open).unwrap();
        set_mode(&open, 0o755);
        let error = fs::File::open(&archive)
            .and_then(Unpacker::new)
            .and_then(|unpacker| unpacker.unpack_into(&inside))
            .expect_err(what);
        assert!(!outside.path().join("escaped").exists(), "{what}: {error}");
        assert!(!inside.join("home/name").exists(), "{what}");
        assert_eq!(mode(&open), 0o755, "{what}");
    }
    // An absolute path is taken as one below.
    let (_directory, archive) = place();
    let packed = fs::File::create(&archive).unwrap();
    let mut builder = Builder::new(Encoder::new(packed, LEVEL).unwrap());
    let header = file(b"/escaped-absolutely", EntryType::Regular);
    builder.append(&header, io::empty()).unwrap();
    builder.into_inner().unwrap().finish().unwrap();
    let unpacked = unpack(&archive).unwrap();
    assert!(unpacked.path().join("escaped-absolutely").exists());
    assert!(!Path::new("/escaped-absolutely").exists());
}

/// Its code puts a link in the place of a directory that was just listed.
#[test]
fn the_target_of_a_link_outside_is_not_read_through_a_directory_that_was_replaced() {
    let outside = tempfile::tempdir().unwrap();
    symlink("secret", outside.path().join("link")).unwrap();
    let tree = tempfile::tempdir().unwrap();
    let replaced = tree.path().join("replaced");
    symlink(outside.path(), &replaced).unwrap();

    let (_directory, archive) = place();
    let folder = archive.parent().unwrap();
    let mut packer = Packer::create(folder, ".unfinished-", None, Vec::new()).unwrap();
    let stored = Path::new("home/replaced/link");
    let error = packer.add(stored, &replaced.join("link"), &mut Vec::new());
    assert!(is_replaced(&error.unwrap_err()));
    packer.finish().unwrap().put(&archive, || Ok(())).unwrap();
    let unpacked = zstd::decode_all(fs::File::open(&archive).unwrap()).unwrap();
    assert!(!unpacked.windows(6).any(|it| it == b"secret"));
}

#[test]
fn a_damaged_archive_is_noticed_wherever_the_damage_is() {
    let tree = tempfile::tempdir().unwrap();
    // Incompressible, so that no byte is without a meaning.
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
fn an_archive_that_is_not_finished_leaves_nothing_and_the_old_one_stays() {
    let tree = tempfile::tempdir().unwrap();
    fs::write(tree.path().join("file"), "old").unwrap();
    let (directory, archive) = place();
    pack(tree.path(), &archive).unwrap();

    fs::write(tree.path().join("file"), vec![b'n'; 10_000_000]).unwrap();
    let stop = Stop::default();
    let mut packer =
        Packer::create(directory.path(), ".unfinished-", None, vec![stop.clone()]).unwrap();
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
    assert_eq!(names, ["a.tar.zst"]);
    let unpacked = unpack(&archive).unwrap();
    let file = unpacked.path().join("home/file");
    assert_eq!(fs::read_to_string(file).unwrap(), "old");
}

/// When a sandbox is deleted while it is stored, files that are gone are no reason to store it without.
#[test]
fn an_archive_that_is_stopped_at_the_last_moment_does_not_replace_the_old_one() {
    let tree = tempfile::tempdir().unwrap();
    fs::write(tree.path().join("file"), "old").unwrap();
    let (directory, archive) = place();
    pack(tree.path(), &archive).unwrap();

    fs::remove_file(tree.path().join("file")).unwrap();
    let stop = Stop::default();
    let stops = vec![Stop::default(), stop.clone()];
    let mut packer = Packer::create(directory.path(), ".unfinished-", None, stops).unwrap();
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
fn names_and_links_that_are_not_text_come_back_byte_for_byte() {
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
fn a_tree_that_is_not_there_is_an_empty_archive() {
    let (directory, archive) = place();
    pack(&directory.path().join("missing"), &archive).unwrap();
    let unpacked = unpack(&archive).unwrap();
    assert_eq!(fs::read_dir(unpacked.path()).unwrap().count(), 0);
}

/// The name of the file is in the error, and only the superuser is let through.
#[test]
fn what_cannot_be_read_is_named() {
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
