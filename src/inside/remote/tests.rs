//! Tests of the server's end of an agent, with an agent that sends what a test wants.

use std::io;

use tokio::io::DuplexStream;

use super::*;
use crate::inside::{
    frames::{Frame, WINDOW, put_credit, put_data, put_end},
    messages::{PROTOCOL, Program, Reply},
};

/// An agent that sends what a test wants.
struct Forger {
    output: DuplexStream,
    input: DuplexStream,
}

impl Forger {
    async fn send(&mut self, put: impl FnOnce(&mut BytesMut)) {
        let mut buffer = BytesMut::new();
        put(&mut buffer);
        self.output.write_all(&buffer).await.unwrap();
    }

    async fn reply(&mut self, reply: Reply) {
        self.send(|buffer| put_control(buffer, &reply).unwrap())
            .await;
    }

    /// Waits for a request of the server.
    async fn request(&mut self) -> Request {
        let mut decoder = Decoder::new(MAX_REQUEST_BYTES);
        loop {
            if let Some(Frame::Control(message)) = decoder.next_frame().unwrap() {
                return serde_json::from_slice(&message).unwrap();
            }
            let byte = self.input.read_u8().await.unwrap();
            decoder.buffer().extend_from_slice(&[byte]);
        }
    }
}

/// A connection to an agent that does not greet.
fn strange() -> (impl Future<Output = Result<Remote, String>>, Forger) {
    let (output, reader) = tokio::io::duplex(1 << 20);
    let (writer, input) = tokio::io::duplex(1 << 20);
    let connect = Remote::connect(reader, writer, Setup::default());
    (connect, Forger { output, input })
}

async fn connected() -> (Remote, Forger) {
    let (connect, mut agent) = strange();
    agent.reply(Reply::Hello { protocol: PROTOCOL }).await;
    agent.reply(Reply::Ready).await;
    let remote = connect.await.unwrap();
    assert!(matches!(agent.request().await, Request::Setup(_)));
    (remote, agent)
}

/// An exec that has started.
async fn started(remote: &Remote, agent: &mut Forger) -> Started {
    let start = Start {
        exec: 0,
        program: Program::File {
            path: "program".to_owned(),
            args: Vec::new(),
        },
        env: Vec::new(),
        cwd: String::new(),
        terminal: None,
        file: None,
    };
    let started = async {
        let Request::Start(start) = agent.request().await else {
            panic!("not a start")
        };
        agent.reply(Reply::Started { exec: start.exec }).await;
    };
    let (done, ()) = tokio::join!(remote.start(start, ()), started);
    done.unwrap_or_else(|_| panic!("not started"))
}

fn data(exec: u32, stream: Stream, bytes: usize) -> impl FnOnce(&mut BytesMut) {
    move |buffer| put_data(buffer, exec, stream, &vec![b'x'; bytes])
}

#[tokio::test(start_paused = true)]
async fn an_agent_of_another_version_is_refused() {
    let (connect, mut agent) = strange();
    agent.reply(Reply::Hello { protocol: 99 }).await;
    let error = connect.await.err().unwrap();
    assert!(error.contains("version 99"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_restored_agent_is_asked_to_greet() {
    let (output, reader) = tokio::io::duplex(1 << 20);
    let (writer, input) = tokio::io::duplex(1 << 20);
    let resume = tokio::spawn(Remote::resume(reader, writer, Setup::default()));
    let mut agent = Forger { output, input };
    assert_eq!(agent.request().await, Request::Resume);
    agent.reply(Reply::Hello { protocol: 99 }).await;
    let error = resume.await.unwrap().err().unwrap();
    assert!(error.contains("version 99"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_suspended_agent_is_sent_nothing_more() {
    let (remote, mut agent) = connected().await;
    let exec = started(&remote, &mut agent).await;
    let suspended = async {
        assert_eq!(agent.request().await, Request::Suspend);
        // The drop would send a kill and two requests to close a stream.
        drop(exec);
        let has_processes = true;
        agent.reply(Reply::Suspended { has_processes }).await;
    };
    let (has_processes, ()) = tokio::join!(remote.suspend(), suspended);
    assert_eq!(has_processes, Ok(true));
    let start = remote.check().err();
    assert!(matches!(start, Some(NotStarted::Failed(why)) if why.contains("checkpointed")));
    drop(remote);
    let mut rest = Vec::new();
    agent.input.read_to_end(&mut rest).await.unwrap();
    assert!(rest.is_empty(), "{rest:?}");
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_does_not_suspend_is_given_up() {
    let (remote, agent) = connected().await;
    let error = remote.suspend().await.unwrap_err();
    assert!(error.contains("did not end within"), "{error}");
    drop(agent);
    let error = remote.suspend().await.unwrap_err();
    assert!(error.contains("has ended"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_says_nothing_is_given_up() {
    let (connect, _agent) = strange();
    let error = connect.await.err().unwrap();
    assert!(error.contains("not ready within"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn forged_frames_end_the_sandbox_with_a_reason() {
    type Put = Box<dyn FnOnce(&mut BytesMut)>;
    let reply =
        |reply: Reply| -> Put { Box::new(move |buffer| put_control(buffer, &reply).unwrap()) };
    let (code, signal) = (Some(0), None);
    let forged: Vec<(&str, Put)> = vec![
        (
            "a frame",
            Box::new(|buffer| buffer.extend_from_slice(&[255; 10])),
        ),
        (
            "it sent an invalid reply",
            Box::new(|buffer| put_control(buffer, &"text").unwrap()),
        ),
        ("there is no exec 7", Box::new(data(7, Stream::Stdout, 1))),
        (
            "it sent bytes of stdin",
            Box::new(data(0, Stream::Stdin, 1)),
        ),
        (
            "more output than",
            Box::new(data(0, Stream::Stdout, WINDOW as usize + 1)),
        ),
        (
            "more input than",
            Box::new(|buffer| put_credit(buffer, 0, Stream::Stdin, 1)),
        ),
        (
            "it granted credit for output",
            Box::new(|buffer| put_credit(buffer, 0, Stream::Stderr, 1)),
        ),
        (
            "it greeted twice",
            reply(Reply::Hello { protocol: PROTOCOL }),
        ),
        ("it greeted twice", reply(Reply::Ready)),
        (
            "it answered a start twice",
            reply(Reply::Started { exec: 0 }),
        ),
        (
            "an exec that has not ended",
            reply(Reply::Killed { exec: 0 }),
        ),
        (
            "an exec ended twice",
            Box::new(move |buffer| {
                for _ in 0..2 {
                    let exited = Reply::Exited {
                        exec: 0,
                        code,
                        signal,
                    };
                    put_control(buffer, &exited).unwrap();
                }
            }),
        ),
        (
            "output after the end",
            Box::new(|buffer| {
                put_end(buffer, 0, Stream::Stdout);
                put_data(buffer, 0, Stream::Stdout, b"x");
            }),
        ),
    ];
    for (reason, put) in forged {
        let (remote, mut agent) = connected().await;
        let mut exec = started(&remote, &mut agent).await;
        agent.send(put).await;
        let ended = remote.ended().await;
        assert!(
            ended.contains("broke the protocol") && ended.contains(reason),
            "{ended}"
        );
        if reason != "an exec ended twice" {
            exec.process.wait().await.unwrap_err();
        }
        exec.process.kill().await.unwrap_err();
        let mut rest = Vec::new();
        let cut = exec.stdout.read_to_end(&mut rest).await;
        assert_eq!(cut.is_err(), reason != "output after the end", "{reason}");
        let error = exec.stdin.write_all(b"x").await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    }
}

#[tokio::test(start_paused = true)]
async fn output_that_arrived_before_the_end_is_read() {
    let (remote, mut agent) = connected().await;
    let mut exec = started(&remote, &mut agent).await;
    agent.send(data(0, Stream::Stdout, 1_000)).await;
    drop(agent);
    let ended = remote.ended().await;
    assert!(ended.contains("has ended"), "{ended}");
    let mut read = Vec::new();
    let error = exec.stdout.read_to_end(&mut read).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionAborted);
    assert_eq!(read.len(), 1_000);
}

#[tokio::test(start_paused = true)]
async fn input_waits_for_credit_and_output_grants_it() {
    let (remote, mut agent) = connected().await;
    let mut exec = started(&remote, &mut agent).await;
    let input = vec![b'x'; WINDOW as usize + 1];
    let mut written = 0;
    let write = async {
        while written < input.len() {
            written += exec.stdin.write(&input[written..]).await.unwrap();
        }
    };
    timeout(Duration::from_secs(1), write).await.unwrap_err();
    assert_eq!(written, WINDOW as usize);
    agent
        .send(|buffer| put_credit(buffer, 0, Stream::Stdin, 1))
        .await;
    exec.stdin.write_all(b"y").await.unwrap();

    agent.send(data(0, Stream::Stderr, WINDOW as usize)).await;
    let mut read = vec![0; WINDOW as usize];
    exec.stderr.read_exact(&mut read).await.unwrap();
    let mut granted = 0;
    let mut decoder = Decoder::new(MAX_REPLY_BYTES);
    while granted < WINDOW {
        let read = agent.input.read_buf(decoder.buffer()).await.unwrap();
        assert!(read > 0);
        while let Some(frame) = decoder.next_frame().unwrap() {
            if let Frame::Credit { bytes, .. } = frame {
                granted += bytes;
            }
        }
    }
    assert_eq!(granted, WINDOW);
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_does_not_read_is_ended() {
    let (remote, mut agent) = connected().await;
    let exec = started(&remote, &mut agent).await;
    let kill = Request::Start(Start {
        exec: 1,
        program: Program::File {
            path: "x".repeat(1 << 20),
            args: Vec::new(),
        },
        env: Vec::new(),
        cwd: String::new(),
        terminal: None,
        file: None,
    });
    for _ in 0..=MAX_OUTGOING_BYTES >> 20 {
        remote.shared.send(&kill);
    }
    let ended = remote.ended().await;
    assert!(ended.contains("does not read"), "{ended}");
    drop(exec);
}

#[tokio::test(start_paused = true)]
async fn dropped_handles_kill_and_close() {
    let (remote, mut agent) = connected().await;
    let Started {
        stdin,
        stdout,
        stderr,
        process,
    } = started(&remote, &mut agent).await;
    drop(process);
    assert_eq!(agent.request().await, Request::Kill { exec: 0 });
    drop(stderr);
    assert_eq!(
        agent.request().await,
        Request::Close {
            exec: 0,
            stderr: true
        }
    );
    drop((stdin, stdout));
    let close = Request::Close {
        exec: 0,
        stderr: false,
    };
    assert_eq!(agent.request().await, close);
    assert!(remote.shared.lock().execs.is_empty());
    // The server ignores later frames about this exec.
    agent.send(data(0, Stream::Stdout, 10)).await;
    agent.reply(Reply::Killed { exec: 0 }).await;
    started(&remote, &mut agent).await;
    assert!(remote.shared.ended.borrow().is_none());
}
