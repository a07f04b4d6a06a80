//! Tests of connections.

use std::{
    io::{Read, Write},
    net::TcpListener,
    thread::{self, JoinHandle},
};

use serde_json::{Value, json};

use super::{
    super::{
        run,
        testing::{Ends, Home, closed_port, ends, parse},
    },
    *,
};

const CONNECTED: &str = "{\"event\":\"connected\"}\n";

type Result = std::result::Result<Value, BuiltinError>;

/// Starts a connection to a port.
fn start(port: u16) -> (Ends, JoinHandle<Result>) {
    let (mut streams, ends) = ends();
    let builtin = parse(&json!({"op": "connect", "port": port}));
    let home = Home::new();
    let running = thread::spawn(move || run(&builtin, home.0.path(), &mut streams));
    (ends, running)
}

fn listen(address: &str) -> (TcpListener, u16) {
    let listener = TcpListener::bind(address).unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, port)
}

fn read_connected(ends: &mut Ends) {
    let mut line = vec![0; CONNECTED.len()];
    ends.stdout.read_exact(&mut line).unwrap();
    assert_eq!(line, CONNECTED.as_bytes());
}

#[test]
fn both_directions_move_bytes_until_they_end() {
    for address in ["127.0.0.1:0", "[::1]:0"] {
        let (listener, port) = listen(address);
        let (mut ends, running) = start(port);
        let (mut peer, _) = listener.accept().unwrap();
        read_connected(&mut ends);
        ends.stdin.take().unwrap().write_all(b"ping").unwrap();
        let mut received = String::new();
        peer.read_to_string(&mut received).unwrap();
        assert_eq!(received, "ping");
        // The direction from the peer is still open.
        peer.write_all(b"pong").unwrap();
        drop(peer);
        let mut output = String::new();
        ends.stdout.read_to_string(&mut output).unwrap();
        assert_eq!(output, "pong");
        assert_eq!(running.join().unwrap().unwrap(), json!({}));
    }
}

#[test]
fn the_end_of_the_peers_direction_ends_the_output_alone() {
    let (listener, port) = listen("127.0.0.1:0");
    let (mut ends, running) = start(port);
    let (mut peer, _) = listener.accept().unwrap();
    read_connected(&mut ends);
    peer.write_all(b"all").unwrap();
    peer.shutdown(std::net::Shutdown::Write).unwrap();
    let mut output = String::new();
    ends.stdout.read_to_string(&mut output).unwrap();
    assert_eq!(output, "all");
    ends.stdin.take().unwrap().write_all(b"more").unwrap();
    let mut received = String::new();
    peer.read_to_string(&mut received).unwrap();
    assert_eq!(received, "more");
    assert_eq!(running.join().unwrap().unwrap(), json!({}));
}

#[test]
fn neither_direction_waits_for_the_other() {
    const BYTES: usize = 8 << 20;
    let (listener, port) = listen("127.0.0.1:0");
    let (mut ends, running) = start(port);
    let (mut peer, _) = listener.accept().unwrap();
    read_connected(&mut ends);
    // Each side writes more than any buffer holds before it reads.
    let mut sender = peer.try_clone().unwrap();
    let sending = thread::spawn(move || {
        sender.write_all(&vec![1; BYTES]).unwrap();
        sender.shutdown(std::net::Shutdown::Write).unwrap();
    });
    let mut stdin = ends.stdin.take().unwrap();
    let writing = thread::spawn(move || stdin.write_all(&vec![2; BYTES]).unwrap());
    let mut received = Vec::new();
    peer.read_to_end(&mut received).unwrap();
    assert!(received == vec![2; BYTES], "{}", received.len());
    writing.join().unwrap();
    let mut output = Vec::new();
    ends.stdout.read_to_end(&mut output).unwrap();
    assert!(output == vec![1; BYTES], "{}", output.len());
    sending.join().unwrap();
    assert_eq!(running.join().unwrap().unwrap(), json!({}));
}

#[test]
fn a_port_on_which_nothing_listens_is_refused() {
    let (_socket, port) = closed_port();
    let error = start(port).1.join().unwrap().unwrap_err();
    assert_eq!(error.kind, BuiltinErrorKind::ConnectionRefused, "{error}");
    assert!(error.message.contains(&format!("port {port}")), "{error}");
    let error = start(0).1.join().unwrap().unwrap_err();
    assert_eq!(error.kind, BuiltinErrorKind::InvalidInput, "{error}");
}

#[test]
fn a_reset_is_an_error_and_follows_the_bytes_before_it() {
    let (listener, port) = listen("127.0.0.1:0");
    let (mut ends, running) = start(port);
    let (mut peer, _) = listener.accept().unwrap();
    read_connected(&mut ends);
    peer.write_all(b"part").unwrap();
    let mut part = [0; 4];
    ends.stdout.read_exact(&mut part).unwrap();
    assert_eq!(&part, b"part");
    // With this option, the drop resets the connection.
    let linger = SockRef::from(&peer).set_linger(Some(Duration::ZERO));
    linger.unwrap();
    drop(peer);
    let error = running.join().unwrap().unwrap_err();
    assert_eq!(error.kind, BuiltinErrorKind::ConnectionReset, "{error}");
}

#[test]
fn a_stop_resets_an_idle_connection() {
    let (listener, port) = listen("127.0.0.1:0");
    let (mut ends, running) = start(port);
    let (mut peer, _) = listener.accept().unwrap();
    read_connected(&mut ends);
    ends.stopper.take();
    assert!(running.join().unwrap().is_err());
    let reset = peer.read(&mut [0; 1]).unwrap_err();
    assert_eq!(reset.kind(), io::ErrorKind::ConnectionReset);
}

#[test]
fn a_connection_that_is_not_accepted_times_out() {
    let (streams, _ends) = ends();
    let listener = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP)).unwrap();
    let any: SocketAddr = (Ipv4Addr::LOCALHOST, 0).into();
    listener.bind(&any.into()).unwrap();
    listener.listen(0).unwrap();
    let address = listener.local_addr().unwrap().as_socket().unwrap();
    // These fill the queue of the listener.
    let mut waiting = Vec::new();
    let error = loop {
        match dial_address(address, PollTimeout::from(200_u16), &streams) {
            Ok(socket) => waiting.push(socket),
            Err(error) => break error,
        }
        assert!(waiting.len() < 100, "the queue has no end");
    };
    let error = not_connected(address.port(), &error);
    assert_eq!(error.kind, BuiltinErrorKind::TimedOut, "{error}");
    assert!(error.message.contains("within 10 seconds"), "{error}");
}

#[test]
fn a_reset_while_the_connection_opens_is_reported_as_a_reset() {
    let error = not_connected(80, &io::ErrorKind::ConnectionReset.into());
    assert_eq!(error.kind, BuiltinErrorKind::ConnectionReset, "{error}");
}
