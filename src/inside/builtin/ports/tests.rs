//! Tests of listing ports and waiting for them.

use std::{net::TcpListener, thread};

use serde_json::json;

use super::{
    super::{
        run,
        testing::{Home, closed_port, ends, parse as builtin},
    },
    *,
};

#[test]
fn lines_of_the_tables_are_parsed() {
    let title = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt";
    let listens = "   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000";
    let connected = "   1: 0100007F:1F90 0100007F:8C4E 01 00000000:00000000 00:00000000 00000000";
    let six =
        "   0: 00000000000000000000000001000000:0050 00000000000000000000000000000000:0000 0A 0";
    assert_eq!(parse(title), None);
    assert_eq!(parse(connected), None);
    for broken in [
        "",
        "0:",
        "0: 0100007F 0 0A",
        "0: 01:50 0 0A",
        "0: é100007F:50 0 0A",
    ] {
        assert_eq!(parse(broken), None, "{broken}");
    }
    if cfg!(target_endian = "little") {
        let expected = ListeningPort::new(Ipv4Addr::LOCALHOST.into(), 8080);
        assert_eq!(parse(listens), Some(expected));
        let expected = ListeningPort::new(Ipv6Addr::LOCALHOST.into(), 80);
        assert_eq!(parse(six), Some(expected));
    }
}

#[test]
fn ports_that_listen_are_listed_with_their_address() {
    let home = Home::new();
    let listeners =
        ["127.0.0.1:0", "0.0.0.0:0", "[::1]:0"].map(|it| TcpListener::bind(it).unwrap());
    let (result, output) = home.run(&builtin(&json!({"op": "ports"})), b"");
    assert_eq!(result.unwrap(), json!({}));
    let output = String::from_utf8(output).unwrap();
    let ports: Vec<ListeningPort> = output
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    for listener in listeners {
        let address = listener.local_addr().unwrap();
        let port = ListeningPort::new(address.ip(), address.port());
        assert!(ports.contains(&port), "{port:?} in {ports:?}");
    }
}

#[test]
fn a_wait_for_a_port_ends_when_a_program_listens() {
    let (socket, port) = closed_port();
    let wait = builtin(&json!({"op": "wait_for_port", "port": port}));
    let waiting = thread::spawn(move || Home::new().run(&wait, b"").0);
    socket.listen(1).unwrap();
    assert_eq!(waiting.join().unwrap().unwrap(), json!({}));
}

#[test]
fn a_stop_ends_a_wait_for_a_port() {
    let (_socket, port) = closed_port();
    let (mut streams, mut ends) = ends();
    let wait = builtin(&json!({"op": "wait_for_port", "port": port}));
    let home = Home::new();
    let waiting = thread::spawn(move || run(&wait, home.0.path(), &mut streams));
    ends.stopper.take();
    assert!(waiting.join().unwrap().is_err());
}

#[test]
fn a_wait_for_a_port_ends_at_its_timeout() {
    let listener = TcpListener::bind("127.0.0.2:0").unwrap();
    // `connect` can't reach this address.
    let port = listener.local_addr().unwrap().port();
    let error = Home::new().call(&json!({"op": "wait_for_port", "port": port, "timeout_ms": 20}));
    let error = error.unwrap_err();
    assert_eq!(error.kind, BuiltinErrorKind::TimedOut, "{error}");
    assert!(error.message.contains("within 20ms"), "{error}");
}

#[test]
fn a_wait_for_port_0_is_refused() {
    let error = Home::new().call(&json!({"op": "wait_for_port", "port": 0}));
    assert_eq!(error.unwrap_err().kind, BuiltinErrorKind::InvalidInput);
}
