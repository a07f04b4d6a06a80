//! Writes single entries: directories, links and files, with exact times and with holes. Reads
//! their times.

use std::{
    fs,
    io::{self, Read, Write},
    path::Path,
    time::{Duration, SystemTime},
};

use tar::{Builder, Entry, EntryType, Header};

use super::sparse::{self, Pieces, Shrunk};

/// The PAX key of an entry's modification time, in seconds with a fraction (POSIX.1-2017, pax).
const MTIME: &str = "mtime";

pub(crate) fn append_directory<W: Write>(
    to: &mut Builder<W>,
    stored: &Path,
    meta: &fs::Metadata,
) -> io::Result<()> {
    let mut header = begin(to, meta, EntryType::Directory)?;
    to.append_data(&mut header, stored, io::empty())
}

pub(crate) fn append_link<W: Write>(
    to: &mut Builder<W>,
    stored: &Path,
    meta: &fs::Metadata,
    target: &Path,
) -> io::Result<()> {
    let mut header = begin(to, meta, EntryType::Symlink)?;
    to.append_link(&mut header, stored, target)
}

/// Appends an open file. Preserves the holes of the file. The size of the entry is that of `meta`,
/// even if the file grows meanwhile.
pub(crate) fn append_file<W: Write>(
    to: &mut Builder<W>,
    stored: &Path,
    file: &fs::File,
    meta: &fs::Metadata,
    shrunk: Shrunk,
) -> io::Result<()> {
    let mut header = begin(to, meta, EntryType::Regular)?;
    let pieces = sparse::pieces(file, meta);
    let list = match pieces.as_slice() == std::slice::from_ref(&(0..meta.len())) {
        true => {
            header.set_size(meta.len());
            Vec::new()
        }
        false => sparse::describe(&mut header, &pieces, meta.len())?,
    };
    let data = list.as_slice().chain(Pieces::new(file, pieces, shrunk));
    to.append_data(&mut header, stored, data)
}

/// Appends the exact time of an entry, and returns the header to append next. A tar header stores
/// only whole seconds since 1970, but `make` compares fractions of seconds.
fn begin<W: Write>(
    to: &mut Builder<W>,
    meta: &fs::Metadata,
    kind: EntryType,
) -> io::Result<Header> {
    let mut header = Header::new_gnu();
    header.set_metadata(meta);
    header.set_entry_type(kind);
    header.set_size(0);
    let time = meta.modified()?;
    if time < SystemTime::UNIX_EPOCH {
        header.set_mtime(0);
    }
    if let Some(time) = format_time(time) {
        to.append_pax_extensions([(MTIME, time.as_bytes())])?;
    }
    Ok(header)
}

/// The modification time of an entry. `None` if this system can't represent it.
pub(crate) fn modified(entry: &mut Entry<'_, impl Read>) -> io::Result<Option<SystemTime>> {
    let mut exact = None;
    for extension in entry.pax_extensions()?.into_iter().flatten() {
        let extension = extension?;
        if extension.key() == Ok(MTIME) {
            exact = extension.value().ok().and_then(parse_time);
        }
    }
    let whole = || {
        let seconds = Duration::from_secs(entry.header().mtime().ok()?);
        SystemTime::UNIX_EPOCH.checked_add(seconds)
    };
    Ok(exact.or_else(whole))
}

/// `None` if the header can represent the time.
fn format_time(time: SystemTime) -> Option<String> {
    let (sign, distance) = match time.duration_since(SystemTime::UNIX_EPOCH) {
        Ok(after) if after.subsec_nanos() == 0 => return None,
        Ok(after) => ("", after),
        Err(before) => ("-", before.duration()),
    };
    let (seconds, nanoseconds) = (distance.as_secs(), distance.subsec_nanos());
    Some(format!("{sign}{seconds}.{nanoseconds:09}"))
}

/// Parses seconds with a fraction of at most nine digits.
fn parse_time(text: &str) -> Option<SystemTime> {
    let (is_before, text) = match text.strip_prefix('-') {
        Some(text) => (true, text),
        None => (false, text),
    };
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    let is_fraction = fraction.len() <= 9 && fraction.bytes().all(|byte| byte.is_ascii_digit());
    let nanoseconds = is_fraction.then(|| format!("{fraction:0<9}").parse().ok())??;
    let distance = Duration::new(seconds.parse().ok()?, nanoseconds);
    match is_before {
        true => SystemTime::UNIX_EPOCH.checked_sub(distance),
        false => SystemTime::UNIX_EPOCH.checked_add(distance),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_survive_their_text() {
        let epoch = SystemTime::UNIX_EPOCH;
        for nanoseconds in [1, 1_500_000_000, 999_999_999, 4_000_000_000_000_000_001] {
            let distance = Duration::from_nanos(nanoseconds);
            for time in [epoch + distance, epoch - distance] {
                let text = format_time(time).unwrap();
                assert_eq!(parse_time(&text), Some(time), "{text}");
            }
        }
        assert_eq!(format_time(epoch + Duration::from_secs(5)), None);
        assert_eq!(
            parse_time("-1.25"),
            Some(epoch - Duration::from_millis(1250))
        );
        for wrong in [
            "",
            "-",
            "x",
            "1.x",
            "1.0000000001",
            "--1",
            "99999999999999999999",
        ] {
            assert_eq!(parse_time(wrong), None, "{wrong}");
        }
    }
}
