//! Archives made by hand, as an attacker puts them into the storage of a server, and trees without end.

use std::{fs, path::Path, process::Command};

/// Writes an archive with these entries, each in Python: a name, a type of `tarfile`, the target of a link
/// or the text of a file.
pub(crate) fn by_hand(archive: &Path, entries: &[(&str, &str, &str)]) {
    let make = "
import io, json, sys, tarfile
archive = tarfile.open(fileobj=sys.stdout.buffer, mode='w|', format=tarfile.GNU_FORMAT)
for name, kind, text in json.load(sys.stdin):
    entry = tarfile.TarInfo(name)
    entry.type, entry.mode = getattr(tarfile, kind), 0o755
    if kind == 'REGTYPE': entry.size = len(text.encode())
    else: entry.linkname = text
    archive.addfile(entry, io.BytesIO(text.encode()))
archive.close()";
    let (input, output) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
    serde_json::to_writer(&input, entries).unwrap();
    std::io::Seek::rewind(&mut &input).unwrap();
    let made = Command::new("python3")
        .args(["-c", make])
        .stdin(input)
        .stdout(output.try_clone().unwrap())
        .status();
    assert!(made.unwrap().success());
    std::io::Seek::rewind(&mut &output).unwrap();
    fs::write(archive, zstd::encode_all(output, 1).unwrap()).unwrap();
}

/// An archive of some 33 KB that unpacks to a gigabyte.
pub(crate) fn bomb(archive: &Path) {
    written_by(
        archive,
        "home, bomb = tarfile.TarInfo('home'), tarfile.TarInfo('home/bomb')
home.type, home.mode, bomb.size = tarfile.DIRTYPE, 0o755, 1 << 30
write(home.tobuf() + bomb.tobuf())
for _ in range(1 << 10): write(bytes(1 << 20))
write(bytes(1024))",
    );
}

/// An archive with a name of a gigabyte.
pub(crate) fn long_name(archive: &Path) {
    written_by(
        archive,
        "name = tarfile.TarInfo('././@LongLink')
name.type, name.size = tarfile.GNUTYPE_LONGNAME, 1 << 30
write(name.tobuf())
for _ in range(1 << 10): write(b'a' * (1 << 20))",
    );
}

/// An archive that this Python writes.
fn written_by(archive: &Path, code: &str) {
    let code = format!("import sys, tarfile; write = sys.stdout.buffer.write\n{code}");
    let mut made = Command::new("python3")
        .args(["-c", &code])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let file = fs::File::create(archive).unwrap();
    zstd::stream::copy_encode(made.stdout.take().unwrap(), file, 1).unwrap();
    assert!(made.wait().unwrap().success());
}

/// What takes over the host, on f587439 by the backend `gvisor`: a program that `runsc` runs outside of the
/// sandbox makes this file.
pub(crate) fn bundle_that_makes(file: &Path) -> String {
    serde_json::json!({
        "ociVersion": "1.0.2",
        "process": {
            "terminal": false, "user": { "uid": 0, "gid": 0 }, "cwd": "/",
            "args": ["/bin/sleep", "1000"], "env": ["PATH=/usr/bin:/bin"],
        },
        "root": { "path": "/", "readonly": true },
        "hooks": { "prestart": [{
            "path": "/bin/sh", "args": ["sh", "-c", format!("id > {}", file.display())],
        }] },
        "linux": { "namespaces": [{ "type": "pid" }, { "type": "mount" }] },
    })
    .to_string()
}

/// Python that makes a tree of which an archive takes minutes, and hardly any disk: one file with many names.
pub(crate) const ENDLESS: &str = "import os
with open('large', 'wb') as file: file.write(bytes(16 << 20))
for number in range(4_000): os.link('large', str(number))";
