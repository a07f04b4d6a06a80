//! `forward`: its connections and its ends.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
};

use crate::support::{
    cli::{Cli, Running},
    port::Port,
    program::Program,
};

/// Starts an HTTP server in a sandbox. Returns the id of the sandbox and the port. It is
/// reserved, because with the backend `host` it is a port of this machine.
fn http_server(cli: &Cli) -> (String, Port) {
    let id = cli.create();
    let reserved = Port::reserve();
    let port = reserved.address().port();
    let number = port.to_string();
    let serve = ["exec", "--detach", &id, "python3", "-m", "http.server"];
    cli.stdout_of(&[&serve[..], &["--bind", "127.0.0.1", &number]].concat());
    let wait = format!("until (: < /dev/tcp/127.0.0.1/{port}) 2> /dev/null; do sleep 0.05; done");
    cli.stdout_of(&["exec", &id, "bash", "-c", &wait]);
    (id, reserved)
}

/// Starts `forward` and reads the local address of each port.
fn forward(cli: &Cli, id: &str, ports: &[&str]) -> (Running, Vec<String>) {
    let mut forward = cli.spawn(&[&["forward", id][..], ports].concat());
    let mut stdout = BufReader::new(forward.child().stdout.take().unwrap());
    let addresses = ports.iter().map(|port| {
        let mut line = String::new();
        stdout.read_line(&mut line).unwrap();
        let rest = line.strip_prefix("forwarding ").unwrap();
        let (address, to) = rest.trim().split_once(" to port ").unwrap();
        assert!(port.ends_with(to), "{line}");
        address.to_owned()
    });
    let addresses = addresses.collect();
    (forward, addresses)
}

#[test]
fn local_ports_lead_to_the_sandbox_until_ctrl_c() {
    let program = Program::start(&[]);
    let cli = Cli::new(&program.url);
    let (id, reserved) = http_server(&cli);
    let port = reserved.address().port();
    for (signal, status) in [("INT", 130), ("TERM", 143)] {
        let ports = [format!("0:{port}"), format!("[::1]:0:{port}")];
        let (forward, addresses) = forward(&cli, &id, &[&ports[0], &ports[1]]);
        assert!(addresses[0].starts_with("127.0.0.1:"), "{addresses:?}");
        for address in &addresses {
            let mut stream = TcpStream::connect(address).unwrap();
            stream.write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).unwrap();
            assert!(answer.starts_with("HTTP/1.0 200"), "{answer}");
        }
        forward.signal(signal);
        let ran = forward.end();
        assert_eq!(ran.status, status, "{ran:?}");
        assert_eq!(ran.stderr.is_empty(), signal == "INT", "{ran:?}");
        assert!(TcpStream::connect(&addresses[0]).is_err());
    }
}

#[test]
fn a_local_port_that_is_taken_is_reported() {
    let program = Program::start(&[]);
    let cli = Cli::new(&program.url);
    let id = cli.create();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let ran = cli.run(&["forward", &id, "0:80", &format!("{}:80", address.port())]);
    assert_eq!((ran.status, &*ran.stdout), (1, ""));
    let expected = format!(
        "actix-sandbox: cannot listen on {address}: Address already in use (os error 98); choose \
         another local port, or 0 for a free one\n"
    );
    assert_eq!(ran.stderr, expected);
}

#[test]
fn a_forward_ends_with_the_sandbox() {
    let program = Program::start(&[]);
    let cli = Cli::new(&program.url);
    let id = cli.create();
    let (forward, _) = forward(&cli, &id, &["0:80"]);
    program.signal("TERM");
    let ran = forward.end();
    assert_eq!(ran.status, 1);
    let expected = "actix-sandbox: the sandbox has ended: the server deleted it";
    assert!(ran.stderr.starts_with(expected), "{ran:?}");
}
