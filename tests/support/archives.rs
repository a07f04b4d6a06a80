//! Archives as an attacker would craft them, and directory trees that take minutes to pack.

use std::{
    fs,
    io::{self, Read},
    path::Path,
    process::Command,
};

use lz4_flex::frame::{FrameDecoder, FrameEncoder};

/// Compresses a tar archive as the server does.
pub(crate) fn compress(mut from: impl Read, to: fs::File) {
    let mut encoder = FrameEncoder::new(to);
    io::copy(&mut from, &mut encoder).unwrap();
    encoder.finish().unwrap();
}

/// The tar archive in a file of the server. Fails if the file holds no archive.
pub(crate) fn decompress(archive: &Path) -> io::Result<Vec<u8>> {
    let mut plain = Vec::new();
    decoder(archive)?.read_to_end(&mut plain)?;
    Ok(plain)
}

pub(crate) fn decoder(archive: &Path) -> io::Result<FrameDecoder<fs::File>> {
    Ok(FrameDecoder::new(fs::File::open(archive)?))
}

/// Writes an archive with these entries. Each entry is a name, the name of a type in Python's
/// `tarfile`, and the text of the file or the target of the link.
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
    io::Seek::rewind(&mut &input).unwrap();
    let made = Command::new("python3")
        .args(["-c", make])
        .stdin(input)
        .stdout(output.try_clone().unwrap())
        .status();
    assert!(made.unwrap().success());
    io::Seek::rewind(&mut &output).unwrap();
    compress(output, fs::File::create(archive).unwrap());
}

/// Changes one entry of an archive. `change` is Python code that runs instead of the copy of the
/// entry. Its variables are `entry`, the header with the size 10, and `archive`, the new archive.
pub(crate) fn change(archive: &Path, name: &str, change: &str) {
    let code = format!(
        "
import io, sys, tarfile
archive = tarfile.open(fileobj=sys.stdout.buffer, mode='w|', format=tarfile.PAX_FORMAT)
for entry in tarfile.open(sys.argv[1]):
    if entry.name == sys.argv[2]:
        entry.size = 10
        {change}
    else: archive.addfile(entry, tarfile.open(sys.argv[1]).extractfile(entry.name) if entry.isreg() else None)
archive.close()"
    );
    let plain = tempfile::NamedTempFile::new().unwrap();
    fs::write(plain.path(), decompress(archive).unwrap()).unwrap();
    let mut python = Command::new("python3");
    python.args(["-c", &code]).arg(plain.path()).arg(name);
    compress_output(python, archive);
}

/// Writes the output of a command to an archive.
fn compress_output(mut command: Command, archive: &Path) {
    let mut made = command
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let file = fs::File::create(archive).unwrap();
    compress(made.stdout.take().unwrap(), file);
    assert!(made.wait().unwrap().success());
}

/// Writes an archive of about 4 MB that unpacks to 1 GiB.
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

/// Writes an archive with one entry, whose name is 1 GiB long.
pub(crate) fn long_name(archive: &Path) {
    written_by(
        archive,
        "name = tarfile.TarInfo('././@LongLink')
name.type, name.size = tarfile.GNUTYPE_LONGNAME, 1 << 30
write(name.tobuf())
for _ in range(1 << 10): write(b'a' * (1 << 20))",
    );
}

/// Writes an archive from the tar stream that this Python code prints with `write`.
fn written_by(archive: &Path, code: &str) {
    let code = format!("import sys, tarfile; write = sys.stdout.buffer.write\n{code}");
    let mut python = Command::new("python3");
    python.args(["-c", &code]);
    compress_output(python, archive);
}

/// An OCI bundle with a `prestart` hook, which `runsc` runs as a program on the host: it creates
/// this file. In commit f587439, a restored archive could replace the bundle of the backend
/// `gvisor`.
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

/// Python that makes a tree of one 16 MiB file with 4,000 hard links. It takes little disk, but
/// minutes to pack.
pub(crate) const ENDLESS: &str = "import os
with open('large', 'wb') as file: file.write(bytes(16 << 20))
for number in range(4_000): os.link('large', str(number))";
