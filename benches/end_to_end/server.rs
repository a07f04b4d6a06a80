//! [`Server`]: a scripted server that answers at once. It parses as little as possible, because
//! both sides of each ratio include its cost.
//!
//! It simulates these scripts: `true` ends at once, `cat` echoes its stdin, and `print COUNT SIZE`
//! prints COUNT messages of SIZE bytes.

use std::{io, thread};

use bytes::{Buf, BytesMut};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::{oneshot, watch},
};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::cores;

/// Number of bytes to collect before a write.
const BATCH: usize = 64 * 1024;
/// Maximum number of unacknowledged bytes of output: the window that the client requests by
/// default.
pub(crate) const WINDOW: u64 = 4 * 1024 * 1024 + 4;

/// A server on its own thread.
pub(crate) struct Server {
    url: String,
    open: watch::Receiver<usize>,
    /// Dropping it stops the server.
    _stop: oneshot::Sender<()>,
}

impl Server {
    /// Starts a server on a free port.
    pub(crate) fn start() -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        listener.set_nonblocking(true).expect("a listener");
        let url = format!("ws://{}", listener.local_addr().expect("an address"));
        let (stop, stopped) = oneshot::channel();
        let (count, open) = watch::channel(0);
        thread::spawn(move || {
            cores::of_the_server();
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a runtime");
            runtime.block_on(async {
                let listener = TcpListener::from_std(listener).expect("a listener");
                tokio::spawn(accept(listener, count));
                let _ = stopped.await;
            });
        });
        Self {
            url,
            open,
            _stop: stop,
        }
    }

    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// Waits until at most `connections` connections are open.
    pub(crate) async fn at_most(&self, connections: usize) {
        let mut open = self.open.clone();
        let waited = open.wait_for(|open| *open <= connections).await;
        waited.expect("a server");
    }
}

async fn accept(listener: TcpListener, open: watch::Sender<usize>) {
    loop {
        let (stream, _) = listener.accept().await.expect("a connection");
        open.send_modify(|open| *open += 1);
        let open = open.clone();
        tokio::spawn(async move {
            // Ignore the error of a client that disconnects.
            let _ = Session::serve(stream).await;
            open.send_modify(|open| *open -= 1);
        });
    }
}

#[derive(Default)]
struct Session {
    configured: bool,
    printing: Option<Printing>,
}

/// Output that is being sent.
struct Printing {
    /// The id of the exec; empty in v1.
    exec: String,
    left: u64,
    data: Vec<u8>,
    sent: u64,
    acknowledged: u64,
}

impl Session {
    async fn serve(mut stream: TcpStream) -> io::Result<()> {
        stream.set_nodelay(true)?;
        let mut input = BytesMut::with_capacity(4096);
        upgrade(&mut stream, &mut input).await?;
        let mut session = Self::default();
        let mut output = Vec::new();
        loop {
            while let Some((opcode, payload)) = next_frame(&mut input) {
                match opcode {
                    1 => session.handle(&payload, &mut output),
                    8 => {
                        frame(&mut output, 8, &[&payload]);
                        return stream.write_all(&output).await;
                    }
                    9 => frame(&mut output, 10, &[&payload]),
                    _ => {}
                }
            }
            session.print(&mut output);
            if !output.is_empty() {
                stream.write_all(&output).await?;
                output.clear();
                if session.printing.as_ref().is_some_and(Printing::may_go_on) {
                    continue;
                }
            }
            if stream.read_buf(&mut input).await? == 0 {
                return Ok(());
            }
        }
    }

    fn handle(&mut self, text: &[u8], output: &mut Vec<u8>) {
        if !self.configured {
            self.configured = true;
            status(output, "SANDBOX_CREATING", "");
            let id: &[u8] =
                br#"{"event":"sandbox_id","sandbox_id":"sandbox-9182","sandbox_token":"t-0123456789"}"#;
            frame(output, 1, &[id]);
            status(output, "SANDBOX_RUNNING", "");
        } else if text.starts_with(br#"{"language""#) {
            let exec = field(text, r#""exec":""#, b'"');
            let running = match exec {
                "" => String::new(),
                exec => format!(r#","exec":"{exec}","stdin":0,"window":{WINDOW}"#),
            };
            status(output, "SANDBOX_EXECUTION_RUNNING", &running);
            let code = field(text, r#""code":""#, b'"');
            if let Some(what) = code.strip_prefix("print ") {
                let (count, size) = what.split_once(' ').expect("two numbers");
                self.printing = Some(Printing {
                    exec: exec.to_owned(),
                    left: count.parse().expect("a count"),
                    data: vec![b'x'; size.parse().expect("a size")],
                    sent: 0,
                    acknowledged: 0,
                });
            } else if code == "true" {
                done(output, exec, 0);
            }
        } else if text.starts_with(br#"{"event":"stdin""#) {
            let exec = field(text, r#""exec":""#, b'"');
            let data = field(text, r#""data":""#, b'"');
            let offset: usize = field(text, r#""offset":"#, b',')
                .parse()
                .expect("an offset");
            let taken = offset + data.len();
            let taken = format!(r#"{{"event":"stdin_ack","exec":"{exec}","offset":{taken}}}"#);
            frame(output, 1, &[taken.as_bytes()]);
            piece(output, exec, offset as u64, data.as_bytes());
        } else if text.starts_with(br#"{"event":"ack""#)
            && let Some(printing) = &mut self.printing
            && field(text, r#""exec":""#, b'"') == printing.exec
        {
            printing.acknowledged = field(text, r#""stdout":"#, b',')
                .parse()
                .expect("an offset");
        }
    }

    /// Appends as much output as the window and the batch size permit.
    fn print(&mut self, output: &mut Vec<u8>) {
        let Some(printing) = &mut self.printing else {
            return;
        };
        while output.len() < BATCH && printing.may_go_on() {
            piece(output, &printing.exec, printing.sent, &printing.data);
            printing.sent += printing.data.len() as u64;
            printing.left -= 1;
        }
        if printing.left == 0 {
            done(output, &printing.exec, printing.sent);
            self.printing = None;
        }
    }
}

impl Printing {
    fn may_go_on(&self) -> bool {
        let next = self.sent + self.data.len() as u64;
        self.left > 0 && (self.exec.is_empty() || next - self.acknowledged <= WINDOW)
    }
}

/// Reads the upgrade request, and accepts it.
async fn upgrade(stream: &mut TcpStream, input: &mut BytesMut) -> io::Result<()> {
    let end = loop {
        if let Some(end) = input.windows(4).position(|it| it == b"\r\n\r\n") {
            break end + 4;
        }
        if stream.read_buf(input).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    };
    let head = input.split_to(end);
    let head = String::from_utf8_lossy(&head).into_owned();
    let header = |name: &str| {
        let mut lines = head.lines().filter_map(|line| line.split_once(": "));
        lines.find_map(|(key, value)| key.eq_ignore_ascii_case(name).then_some(value))
    };
    let key = header("sec-websocket-key").unwrap_or_default();
    let accept = derive_accept_key(key.as_bytes());
    let protocol = match header("sec-websocket-protocol") {
        Some(protocol) => format!("Sec-WebSocket-Protocol: {protocol}\r\n"),
        None => String::new(),
    };
    let answer = format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {accept}\r\n{protocol}\r\n"
    );
    stream.write_all(answer.as_bytes()).await
}

/// Removes a complete frame of a client from the input. Returns its opcode and its payload.
fn next_frame(input: &mut BytesMut) -> Option<(u8, BytesMut)> {
    let (&first, &second) = (input.first()?, input.get(1)?);
    let (header, length) = match second & 0x7f {
        126 => {
            let length = [*input.get(2)?, *input.get(3)?];
            (4, usize::from(u16::from_be_bytes(length)))
        }
        127 => panic!("a frame over 64 KiB, which no script needs"),
        length => (2, usize::from(length)),
    };
    if input.len() < header + 4 + length {
        return None;
    }
    input.advance(header);
    let mask = input.split_to(4);
    let mut payload = input.split_to(length);
    for (at, byte) in payload.iter_mut().enumerate() {
        *byte ^= mask[at % 4];
    }
    Some((first & 0x0f, payload))
}

/// Appends a frame with this payload.
fn frame(output: &mut Vec<u8>, opcode: u8, payload: &[&[u8]]) {
    output.push(0x80 | opcode);
    let length: usize = payload.iter().map(|part| part.len()).sum();
    match u16::try_from(length) {
        Ok(length @ 0..126) => output.push(length as u8),
        Ok(length) => {
            output.push(126);
            output.extend(length.to_be_bytes());
        }
        Err(_) => {
            output.push(127);
            output.extend((length as u64).to_be_bytes());
        }
    }
    for part in payload {
        output.extend_from_slice(part);
    }
}

fn status(output: &mut Vec<u8>, status: &str, more: &str) {
    let text = format!(r#"{{"event":"status_update","status":"{status}"{more}}}"#);
    frame(output, 1, &[text.as_bytes()]);
}

fn done(output: &mut Vec<u8>, exec: &str, length: u64) {
    let end = match exec {
        "" => String::new(),
        exec => format!(
            r#","exec":"{exec}","exit_code":0,"stdout":{length},"stderr":0,"reason":"exited""#
        ),
    };
    status(output, "SANDBOX_EXECUTION_DONE", &end);
}

fn piece(output: &mut Vec<u8>, exec: &str, offset: u64, data: &[u8]) {
    if exec.is_empty() {
        return frame(
            output,
            1,
            &[br#"{"event":"stdout","data":""#, data, br#""}"#],
        );
    }
    let mut digits = [0; 20];
    frame(
        output,
        1,
        &[
            br#"{"event":"stdout","exec":""#,
            exec.as_bytes(),
            br#"","offset":"#,
            decimal(offset, &mut digits),
            br#","data":""#,
            data,
            br#""}"#,
        ],
    );
}

/// Formats a number as text, faster than `format!`.
fn decimal(mut number: u64, digits: &mut [u8; 20]) -> &[u8] {
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            return &digits[at..];
        }
    }
}

/// Returns the text between `begin` and `end`, or an empty text if `begin` is absent.
fn field<'a>(text: &'a [u8], begin: &str, end: u8) -> &'a str {
    let at = text
        .windows(begin.len())
        .position(|it| it == begin.as_bytes());
    let value = at.map_or(&text[..0], |at| &text[at + begin.len()..]);
    let end = value.iter().position(|&byte| byte == end || byte == b'}');
    std::str::from_utf8(&value[..end.unwrap_or(0)]).expect("UTF-8")
}
