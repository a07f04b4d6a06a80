//! The thread of a recorder: takes events, redacts them, writes lines.

use std::{
    fs::File,
    io::{self, Seek, SeekFrom, Write},
    sync::{
        Arc,
        mpsc::{Receiver, TryRecvError},
    },
};

use super::{
    Item, Shared, What,
    line::{By, Dir, Line},
    redact::Secrets,
};

/// Lines are collected up to so many bytes, while there are more.
const BUFFER: usize = 256 * 1024;

/// Writes until all senders are gone, or nothing more can be written.
pub(super) fn run(file: File, items: &Receiver<Item>, mut secrets: Secrets, shared: &Arc<Shared>) {
    let mut output = Output {
        file,
        written: 0,
        buffer: Vec::new(),
    };
    let mut latest = 0;
    loop {
        let item = match items.try_recv() {
            Ok(item) => item,
            // What came up to here is in the file, however long the next takes.
            Err(TryRecvError::Empty) => {
                if let Err(error) = output.flush() {
                    shared.stop(&format!("it cannot be written: {error}"));
                }
                if shared.is_stopped() {
                    break;
                }
                match items.recv() {
                    Ok(item) => item,
                    Err(_) => break,
                }
            }
            Err(TryRecvError::Disconnected) => break,
        };
        shared.taken(item.what.bytes());
        latest = item.t;
        output.push(&line(item, &mut secrets));
        if output.buffer.len() >= BUFFER
            && let Err(error) = output.flush()
        {
            shared.stop(&format!("it cannot be written: {error}"));
            break;
        }
    }
    let mut end = Line::new(latest, "", Dir::End);
    end.error = shared.why_stopped().map(str::to_owned);
    output.push(&end);
    // Where the disk is full this fails as well; the recording then ends with its last whole line.
    let _ = output.flush();
}

fn line(item: Item, secrets: &mut Secrets) -> Line {
    let new = |dir| Line::new(item.t, &item.conn, dir);
    match item.what {
        What::Connect { path, protocol } => Line {
            path: Some(path),
            protocol: protocol.map(str::to_owned),
            ..new(Dir::Connect)
        },
        What::Refused(error) => Line {
            error: Some(error),
            ..new(Dir::Refused)
        },
        What::Send(frame) => Line {
            frame: Some(secrets.clean_frame(frame.into())),
            ..new(Dir::Send)
        },
        What::Recv(frame) => {
            let frame = String::from_utf8_lossy(&frame).into_owned();
            Line {
                frame: Some(secrets.clean_frame(frame)),
                ..new(Dir::Recv)
            }
        }
        What::Close {
            code,
            reason,
            by_client,
        } => Line {
            code: Some(code),
            reason: Some(secrets.clean(reason)),
            by: by_client.then_some(By::Client),
            ..new(Dir::Close)
        },
        What::Cut { by_client } => Line {
            by: by_client.then_some(By::Client),
            ..new(Dir::Cut)
        },
        What::Quiet => new(Dir::Quiet),
    }
}

/// A file that only ever holds whole lines.
struct Output {
    file: File,
    /// Bytes of the file that are whole lines.
    written: u64,
    buffer: Vec<u8>,
}

impl Output {
    fn push(&mut self, line: &Line) {
        // Into memory, and of plain strings and numbers: this does not fail.
        if serde_json::to_writer(&mut self.buffer, line).is_ok() {
            self.buffer.push(b'\n');
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let wrote = self.file.write_all(&self.buffer);
        match &wrote {
            Ok(()) => self.written += self.buffer.len() as u64,
            Err(_) => {
                // Half a line would make the whole recording unreadable.
                let _ = self.file.set_len(self.written);
                let _ = self.file.seek(SeekFrom::Start(self.written));
            }
        }
        self.buffer.clear();
        wrote
    }
}
