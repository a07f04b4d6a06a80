//! The cost of parsing and encoding each message of the protocol.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a benchmark fails by panicking"
)]

use std::{hint::black_box, time::Duration};

use actix_sandbox::protocol::{
    ClientMessage, EndReason, ExecEnd, ExecId, ExecOptions, ExecRequest, ExecUpdate, NamedMessage,
    OutputPlace, Program, SandboxId, SandboxToken, ServerMessage, Status, StdStream, Version,
};
use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

fn exec() -> ExecId {
    ExecId::new("0123456789abcdef-17")
}

fn output(data: impl Into<Bytes>) -> ServerMessage {
    ServerMessage::output(StdStream::Stdout, data)
}

fn output_at(data: impl Into<Bytes>) -> ServerMessage {
    let place = OutputPlace {
        exec: exec(),
        offset: 1_234_567,
    };
    ServerMessage::output_at(StdStream::Stdout, data, place)
}

fn server_messages() -> Vec<(&'static str, Version, ServerMessage)> {
    let update = |end| ExecUpdate {
        stdin_window: None,
        exec: exec(),
        stdin: None,
        window: None,
        end,
    };
    let running = ExecUpdate {
        stdin: Some(0),
        window: Some(4_194_308),
        ..update(None)
    };
    let end = ExecEnd {
        reason: EndReason::Exited,
        exit_code: Some(0),
        signal: None,
        lengths: Some([123, 45]),
        output_cut: false,
        outcome: None,
    };
    let taken = ServerMessage::StdinAck {
        exec: exec(),
        offset: 123_456,
    };
    let identity = ServerMessage::identity(
        SandboxId::new("sandbox-9182"),
        SandboxToken::new("b1f3c9a0d7e64f0c8a2b"),
    );
    let bytes = vec![0xff; 16 * 1024];
    vec![
        (
            "status",
            Version::V1,
            ServerMessage::status(Status::SandboxRunning),
        ),
        ("identity", Version::V1, identity),
        (
            "error",
            Version::V1,
            ServerMessage::error("no such file or directory"),
        ),
        ("output_64", Version::V1, output(vec![b'x'; 64])),
        ("output_16384", Version::V1, output(vec![b'x'; 16 * 1024])),
        (
            "output_16384_lines",
            Version::V1,
            output("a line of output\n".repeat(963)),
        ),
        (
            "exec_running",
            Version::V2,
            ServerMessage::exec_status(Status::ExecutionRunning, running, None),
        ),
        (
            "exec_done",
            Version::V2,
            ServerMessage::exec_status(Status::ExecutionDone, update(Some(end)), None),
        ),
        ("named_output_64", Version::V2, output_at(vec![b'x'; 64])),
        (
            "named_output_16384",
            Version::V2,
            output_at(vec![b'x'; 16 * 1024]),
        ),
        ("named_output_16384_base64", Version::V2, output_at(bytes)),
        ("stdin_ack", Version::V2, taken),
    ]
}

fn client_messages() -> Vec<(&'static str, ClientMessage<'static>)> {
    let named = |message| ClientMessage::Named(exec(), message);
    let options = ExecOptions {
        binary: false,
        args: vec!["--fast".to_owned(), "file.txt".to_owned()],
        env: vec![("KEY".to_owned(), "value".to_owned())],
        cwd: Some("src".to_owned()),
        timeout_ms: Some(5_000),
        output_grace_ms: None,
        window: Some(4_194_308),
        terminal: None,
    };
    let request = || ExecRequest::new("python", "print(input())");
    let stdin = NamedMessage::Stdin {
        offset: 123_456,
        data: b"a line of input\n".into(),
        eof: false,
    };
    let acknowledgement = NamedMessage::Ack {
        offsets: [123_456, 789],
        done: false,
    };
    vec![
        ("exec", ClientMessage::Exec(request())),
        ("stdin", ClientMessage::stdin("a line of input\n")),
        ("kill_process", ClientMessage::KillProcess),
        ("kill_sandbox", ClientMessage::KillSandbox),
        (
            "snapshot_filesystem",
            ClientMessage::SnapshotFilesystem {
                name: Some("prepared".into()),
            },
        ),
        ("checkpoint", ClientMessage::Checkpoint),
        ("reconnect", ClientMessage::Reconnect),
        (
            "named_exec",
            named(NamedMessage::Exec(
                Program::Code(request()),
                ExecOptions::default(),
            )),
        ),
        (
            "named_exec_with_options",
            named(NamedMessage::Exec(Program::Code(request()), options)),
        ),
        ("named_stdin", named(stdin)),
        ("named_ack", named(acknowledgement)),
        ("named_kill", named(NamedMessage::Kill)),
        (
            "named_reconnect",
            named(NamedMessage::Reconnect {
                offsets: [123_456, 789],
            }),
        ),
    ]
}

fn from_server(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("codec/server");
    for (name, version, message) in server_messages() {
        let frame = Bytes::from(message.encode());
        assert_eq!(
            ServerMessage::parse_as(&frame, version),
            Ok(message.clone())
        );
        group.throughput(Throughput::Bytes(frame.len() as u64));
        group.bench_function(format!("parse/{name}"), |bencher| {
            bencher.iter(|| ServerMessage::parse_as(black_box(&frame), version));
        });
        group.bench_function(format!("print/{name}"), |bencher| {
            bencher.iter(|| black_box(&message).encode());
        });
    }
    group.finish();
}

fn from_client(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("codec/client");
    for (name, message) in client_messages() {
        let text = message.encode();
        let parsed = ClientMessage::parse_as(text.as_bytes(), Version::V2);
        assert_eq!(parsed.as_ref(), Ok(&message));
        group.throughput(Throughput::Bytes(text.len() as u64));
        group.bench_function(format!("parse/{name}"), |bencher| {
            bencher
                .iter(|| ClientMessage::parse_as(black_box(text.as_bytes()), Version::V2).is_ok());
        });
        group.bench_function(format!("print/{name}"), |bencher| {
            bencher.iter(|| black_box(&message).encode());
        });
    }
    group.finish();
}

fn short() -> Criterion {
    Criterion::default()
        .sample_size(30)
        .warm_up_time(Duration::from_millis(150))
        .measurement_time(Duration::from_millis(500))
}

criterion_group!(name = codec; config = short(); targets = from_server, from_client);
criterion_main!(codec);
