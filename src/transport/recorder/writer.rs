//! The writer thread of a recorder. It redacts events and writes them as lines.

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

/// Bytes to buffer before a write, as long as the queue has more events.
const BUFFER: usize = 256 * 1024;

/// Writes events until all senders are dropped or the recording stops.
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
            // The queue is empty. Flush now, because the next event may take long to arrive.
            Err(TryRecvError::Empty) => {
                if let Err(error) = output.flush() {
                    shared.stop(&format!("cannot write to the file: {error}"));
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
            shared.stop(&format!("cannot write to the file: {error}"));
            break;
        }
    }
    let mut end = Line::new(latest, "", Dir::End);
    end.error = shared.why_stopped().map(str::to_owned);
    output.push(&end);
    // If the disk is full, this fails too. Then the recording ends with its last complete line.
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

/// An output file that contains complete lines only.
struct Output {
    file: File,
    /// Length of the complete lines in the file, in bytes.
    written: u64,
    buffer: Vec<u8>,
}

impl Output {
    fn push(&mut self, line: &Line) {
        // Serializing strings and numbers into memory does not fail.
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
                // A partial line would make the whole recording unreadable.
                let _ = self.file.set_len(self.written);
                let _ = self.file.seek(SeekFrom::Start(self.written));
            }
        }
        self.buffer.clear();
        wrote
    }
}
