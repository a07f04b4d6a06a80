//! Records sessions with the local server, and plays them back to the same program, which gets the
//! same results. Recordings contain no secret, and a full disk doesn't disturb the session.

use std::{future::Future, os::unix::fs::PermissionsExt, path::Path, time::Duration};

use crate::support::{
    LONG, attach_when_free, events,
    proxy::Proxy,
    recording,
    scripted::{self, ID, Scripted, TOKEN},
    within,
};
use actix_sandbox::{
    BearerToken, Error, ErrorKind, Language, LocalServer, OutputPolicy, Overflow, ProtocolVersion,
    ReconnectPolicy, Sandbox, SandboxBuilder, SandboxEvent, SandboxState,
    test_util::{Deviation, Event, Player, Recording, Side},
};
use futures::{
    StreamExt,
    future::{join, join_all, try_join_all},
};

const HEADER: &str = "header-3a9b66cafe";
const BEARER: &str = "bearer-8c1e7f00d5";
const COOKIE: &str = "cookie-b1d24cad77";

fn builder(url: &str, version: ProtocolVersion) -> SandboxBuilder {
    Sandbox::create(url)
        .max_protocol_version(version)
        .header("x-secret", HEADER)
        .bearer_token_source(|| async { Ok(BearerToken::new(BEARER)) })
        .enable_auto_reconnect(true)
        .reconnect_policy(ReconnectPolicy {
            initial: Duration::from_millis(1),
            ..ReconnectPolicy::default()
        })
}

/// Records a program behind a proxy, and plays the recording back to the same program. Returns both
/// results and the recording.
async fn twice<T, F: Future<Output = Result<T, Error>>>(
    version: ProtocolVersion,
    program: impl Fn(SandboxBuilder, Option<Proxy>) -> F,
) -> (T, T, Recording) {
    let server = LocalServer::start().await.unwrap();
    let proxy = Proxy::plain(&server).await;
    let file = tempfile::tempdir().unwrap();
    let file = file.path().join("session.jsonl");

    let recorded = builder(&proxy.url(), version).record_to(&file);
    let first = within("the program", program(recorded, Some(proxy))).await;
    let recording = Recording::load_complete(&file, LONG).await.unwrap();
    assert!(recording.is_complete());
    no_secret_in(&file, &[HEADER, BEARER]);

    let player = Player::start(recording.clone()).await.unwrap();
    let second = program(builder(&player.url(), version), None);
    let second = within("the program, once more", second).await;
    let played = within("the rest of the recording", player.finish()).await;
    if let Err(deviation) = played {
        let text = std::fs::read_to_string(&file).unwrap();
        panic!("{deviation}\n{}", &text[..text.len().min(20_000)]);
    }
    (first.unwrap(), second.unwrap(), recording)
}

fn no_secret_in(file: &Path, secrets: &[&str]) {
    let bytes = std::fs::read(file).unwrap();
    let text = String::from_utf8(bytes).unwrap();
    for secret in secrets {
        assert!(!text.contains(secret), "{secret} is in the recording");
    }
    assert!(!text.to_lowercase().contains("authorization"));
}

async fn is_back(events: &mut tokio::sync::mpsc::Receiver<SandboxEvent>) {
    while within("the link is back", events.recv()).await.unwrap() != SandboxEvent::Reconnected {}
}

/// A session with operations on files, whose bytes travel in binary frames, and a cut between them.
async fn with_files(builder: SandboxBuilder, proxy: Option<Proxy>) -> Result<Vec<String>, Error> {
    let sandbox = builder.await?;
    let mut events = events(&sandbox).await;
    let files = sandbox.files();
    let content: Vec<u8> = (0..=255).cycle().take(5_000).collect();
    files.write("a/bytes", content.clone()).await?;
    if let Some(proxy) = &proxy {
        proxy.cut();
    }
    is_back(&mut events).await;
    let mut told = vec![(files.read("a/bytes").await? == content).to_string()];
    for entry in files.list("a").await? {
        told.push(format!("{} {}", entry.path, entry.metadata.size));
    }
    told.push(files.read("missing").await.unwrap_err().to_string());
    let output = sandbox.program("echo").arg("argv").output().await?;
    told.push(output.stdout_lossy().into_owned());
    sandbox.kill().await?;
    Ok(told)
}

#[actix::test]
async fn operations_on_files_are_recorded_and_played() {
    let (first, second, recording) = twice(ProtocolVersion::V2, with_files).await;
    assert_eq!(first, second);
    assert_eq!(first[..2], ["true", "bytes 5000"]);
    let text = format!("{recording:?}");
    assert!(
        text.contains("data_b64"),
        "binary frames are recorded as text"
    );
}

/// A session with stdin, a cut while a process runs, a kill, and another process.
async fn eventful(builder: SandboxBuilder, proxy: Option<Proxy>) -> Result<Vec<String>, Error> {
    let sandbox = builder.await?;
    let mut events = events(&sandbox).await;
    let code = "import sys\nfor line in sys.stdin: print('got', line.strip(), flush=True)";
    let process = sandbox.exec(Language::Python, code).await?;
    let mut lines = process.stdout().lines();
    let mut told = Vec::new();
    for word in ["one", "two", "three"] {
        process.write_to_stdin(format!("{word}\n")).await?;
        told.push(lines.next().await.unwrap()?);
        if word == "two" {
            // During playback, the player cuts the link.
            if let Some(proxy) = &proxy {
                proxy.cut();
            }
            is_back(&mut events).await;
        }
    }
    process.kill().await?;
    told.push(process.wait().await?.to_string());
    let output = sandbox.run(Language::Bash, "echo out; echo err >&2; exit 3");
    let output = output.await?;
    told.push(format!(
        "{} {} {}",
        output.end,
        output.stdout_lossy(),
        output.stderr_lossy()
    ));
    sandbox.kill().await?;
    Ok(told)
}

/// An acknowledgement usually travels with the next message. Here no message follows.
#[actix::test]
async fn the_last_end_is_acknowledged_before_the_connection_closes() {
    let server = LocalServer::start().await.unwrap();
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("session.jsonl");
    let sandbox = builder(server.url(), ProtocolVersion::V2).record_to(&file);
    let sandbox = within("the sandbox", sandbox).await.unwrap();
    let process = within("the exec", sandbox.exec(Language::Bash, "true")).await;
    let process = process.unwrap();
    // Read the output to its end first: the client acknowledges the process only after that.
    let output = within("the output", process.stdout().read_all()).await;
    assert_eq!(output.unwrap(), "");
    drop((process, sandbox));

    let recording = Recording::load_complete(&file, LONG).await.unwrap();
    let mut sent = recording
        .lines()
        .iter()
        .filter_map(|line| match &line.event {
            Event::Send(text) => Some(text.as_str()),
            _ => None,
        });
    let last = sent.next_back().unwrap();
    assert!(last.contains(r#""done":true"#), "{last}");
    let end = &recording.lines().last().unwrap().event;
    assert_eq!(*end, Event::Close(1000, Side::Client));
}

#[actix::test]
async fn a_v1_session_with_a_cut_and_a_kill_is_replayed() {
    let (first, second, recording) = twice(ProtocolVersion::V1, eventful).await;
    assert_eq!(first, second);
    assert_eq!(first[2], "got three");
    let cuts = recording.lines().iter();
    let cuts = cuts.filter(|line| line.event == Event::Cut(Side::Server));
    assert_eq!(cuts.count(), 1);
}

#[actix::test]
async fn a_v2_session_with_a_cut_and_a_kill_is_replayed() {
    let (first, second, recording) = twice(ProtocolVersion::V2, eventful).await;
    assert_eq!(first, second);
    assert_eq!(first[2], "got three");
    assert!(
        first[4].contains("exit code 3") || first[4].contains('3'),
        "{first:?}"
    );
    let Event::Connect { protocol, .. } = &recording.lines()[0].event else {
        panic!("{:?}", recording.lines()[0]);
    };
    assert_eq!(protocol.as_deref(), Some("sandbox.v2"));
}

/// The split of stdin into messages, the order of the processes and the times of acknowledgements
/// differ between runs. The window is small, so that all three occur.
#[actix::test]
async fn concurrent_processes_are_replayed_in_any_order() {
    let (first, second, _) = twice(ProtocolVersion::V2, async |builder: SandboxBuilder, _| {
        let sandbox = builder
            .output_policy(OutputPolicy {
                budget: 5_000,
                overflow: Overflow::default(),
            })
            .await?;
        let all = (0..3).map(|number| {
            let command = sandbox.command(Language::Bash, r#"cat; echo "$1" >&2; exit "$1""#);
            let input: String = (0..30_000).map(|i| format!("é{i}{number}")).collect();
            command.arg(number.to_string()).stdin(input).output()
        });
        let outputs = try_join_all(all).await?;
        sandbox.kill().await?;
        let told = |output: &actix_sandbox::Output| {
            format!(
                "{} {} {}",
                output.end,
                output.stderr_lossy(),
                output.stdout_lossy()
            )
        };
        Ok(outputs.iter().map(told).collect::<Vec<_>>())
    })
    .await;
    assert!(first == second, "the outputs differ");
    assert!(first[2].len() > 200_000);
}

/// The player accepts any token, because the recording doesn't contain the real one.
#[actix::test]
async fn an_attach_is_played_to_any_token() {
    let server = LocalServer::start().await.unwrap();
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("attach.jsonl");
    let sandbox = Sandbox::create(server.url()).await.unwrap();
    let (id, token) = (
        sandbox.sandbox_id().clone(),
        sandbox.sandbox_token().clone(),
    );
    drop(sandbox);
    let program = async |builder: SandboxBuilder<actix_sandbox::ExistingSandbox>| {
        let sandbox = attach_when_free(builder).await;
        let output = sandbox.run(Language::Bash, "echo attached").await.unwrap();
        sandbox.kill().await.unwrap();
        output.stdout
    };
    let attach = Sandbox::attach(server.url(), id.clone(), token.clone());
    assert_eq!(program(attach.record_to(&file)).await, "attached\n");
    let recording = Recording::load_complete(&file, LONG).await.unwrap();
    no_secret_in(&file, &[token.expose_secret()]);

    let player = Player::start(recording).await.unwrap();
    let attach = Sandbox::attach(player.url(), id, "some other token");
    assert_eq!(program(attach).await, "attached\n");
    player.finish().await.unwrap();
}

#[actix::test]
async fn no_secret_is_recorded() {
    let server = Scripted::bind().await;
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("session.jsonl");
    let script = async {
        let stream = server.tcp().await;
        let cookie = format!("session={COOKIE}");
        let mut peer = scripted::Peer::upgrade_with(stream, &[&cookie]).await;
        peer.run().await;
        peer.error(&format!("the token is {TOKEN}, you know")).await;
        let hidden = TOKEN.replace('t', "\\u0074");
        peer.text(format!(r#"{{"event":"error","message":"{hidden}"}}"#))
            .await;
        peer.text(format!(r#"{{"event":"news","{TOKEN}":["{TOKEN}"]}}"#))
            .await;
        drop(peer);
        let mut peer = server.peer().await;
        assert!(peer.path.contains(TOKEN));
        assert_eq!(peer.header("cookie"), Some(cookie.as_str()));
        peer.status("SANDBOX_RUNNING").await;
        peer.text(format!("not JSON: {TOKEN}")).await;
        peer.close(4000, &format!("no {TOKEN}")).await;
    };
    let client = async {
        let builder = builder(&server.url(), ProtocolVersion::V1).record_to(&file);
        let sandbox = builder.await.unwrap();
        while !matches!(sandbox.state(), SandboxState::Ended(_)) {
            tokio::task::yield_now().await;
        }
    };
    within("both", join(script, client)).await;

    Recording::load_complete(&file, LONG).await.unwrap();
    no_secret_in(&file, &[TOKEN, HEADER, BEARER, COOKIE, "5e1f0c7a9b"]);
    let text = std::fs::read_to_string(&file).unwrap();
    assert!(text.contains(ID) && text.contains("the token is recorded-token, you know"));
}

#[actix::test]
async fn an_uncreatable_recording_is_an_error_before_dialling() {
    let server = Scripted::bind().await;
    let directory = tempfile::tempdir().unwrap();
    let pipe = directory.path().join("pipe");
    let made = std::process::Command::new("mkfifo").arg(&pipe).status();
    assert!(made.unwrap().success());
    for path in [
        directory.path().join("not/there.jsonl"),
        directory.path().to_owned(),
        pipe,
    ] {
        let error = Sandbox::create(server.url()).record_to(&path).await;
        let error = error.expect_err("refused");
        assert_eq!(error.kind(), ErrorKind::InvalidOption);
        let text = error.to_string();
        assert!(text.contains("`record_to`"), "{text}");
        assert!(text.contains(path.to_str().unwrap()), "{text}");
    }
    server.assert_not_dialled().await;
}

#[actix::test]
async fn only_the_owner_can_read_a_recording() {
    let server = LocalServer::start().await.unwrap();
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("session.jsonl");
    std::fs::write(&file, "x".repeat(1 << 20)).unwrap();
    std::fs::set_permissions(&file, PermissionsExt::from_mode(0o644)).unwrap();
    for _ in 0..2 {
        let sandbox = Sandbox::create(server.url())
            .record_to(&file)
            .await
            .unwrap();
        sandbox.kill().await.unwrap();
        drop(sandbox);
        let recording = Recording::load_complete(&file, LONG).await.unwrap();
        assert!(recording.lines().len() > 5);
        let mode = std::fs::metadata(&file).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        std::fs::remove_file(&file).unwrap();
    }
}

#[cfg(target_os = "linux")]
#[actix::test]
async fn a_full_disk_ends_the_recording_and_not_the_session() {
    let server = LocalServer::start().await.unwrap();
    let sandbox = Sandbox::create(server.url()).record_to("/dev/full");
    let sandbox = sandbox.await.unwrap();
    let numbers: String = (1..=100_000).map(|number| format!("{number}\n")).collect();
    for _ in 0..3 {
        let output = sandbox.run(Language::Bash, "seq 100000").await.unwrap();
        assert!(output.stdout == numbers, "{} bytes", output.stdout.len());
    }
    sandbox.kill().await.unwrap();
}

/// Plays a recording to a client that behaves differently, and returns the player's error.
async fn deviation<F: Future<Output = ()>>(
    name: &str,
    program: impl FnOnce(String) -> F,
) -> Deviation {
    let builder = Player::builder(recording::load(name)).patience(Duration::from_secs(10));
    let player = builder.start().await.unwrap();
    within(name, program(player.url())).await;
    let deviation = within(name, player.finish())
        .await
        .expect_err("a deviation");
    println!("{deviation}");
    deviation
}

#[actix::test]
async fn a_deviation_says_where_what_was_expected_and_what_came() {
    // The client sends other code.
    let other = deviation("exec_python_and_bash", async |url| {
        let sandbox = Sandbox::create(&url).await.unwrap();
        let _ = sandbox.run(Language::Python, "print('other')").await;
    });
    let other = other.await;
    assert_eq!(other.line(), Some(6));
    let text = other.to_string();
    assert!(text.contains("exec_python_and_bash.jsonl, line 6 (connection A)"));
    assert!(other.expected().contains("print('hi')"), "{text}");
    assert!(other.found().contains("print('other')"), "{text}");

    // The client writes other stdin.
    let other = deviation("stdin_and_kill_process", async |url| {
        let sandbox = Sandbox::create(&url).await.unwrap();
        let code = "import sys\nfor l in sys.stdin: print('got', l.strip(), flush=True)";
        let process = sandbox.exec(Language::Python, code).await.unwrap();
        let _ = process.write_to_stdin("line 7\n").await;
        let _ = process.wait().await;
    });
    let other = other.await;
    assert!(other.expected().contains("line 0"), "{other}");
    assert!(other.found().contains("line 7"), "{other}");

    // The client sends nothing and disconnects.
    let gone = deviation("exec_python_and_bash", async |url| {
        drop(Sandbox::create(&url).await.unwrap());
    });
    let gone = gone.await;
    assert!(gone.found().contains("ended the connection"), "{gone}");

    // The client sends nothing and stays connected.
    let url = deviation("exec_python_and_bash", async |url| {
        let sandbox = Sandbox::create(&url).await.unwrap();
        tokio::spawn(async move {
            std::future::pending::<()>().await;
            drop(sandbox);
        });
    });
    let silent = url.await;
    assert!(silent.found().contains("nothing came for 10s"), "{silent}");

    // The client never dials.
    let never = deviation("idle_timeout_delete", async |_| {}).await;
    assert_eq!(never.line(), Some(1));
    assert!(never.found().contains("did not dial"), "{never}");
}

#[actix::test]
async fn more_than_was_recorded_is_a_deviation() {
    let mut short = recording::load("exec_python_and_bash");
    let kill = |line: &actix_sandbox::test_util::Line| matches!(&line.event, Event::Send(frame) if frame.contains("kill_sandbox"));
    let end = short.lines().iter().position(kill).unwrap();
    let numbers: Vec<usize> = short.lines()[end..].iter().map(|it| it.number).collect();
    short.retain(|line| !numbers.contains(&line.number));
    let player = Player::start(short).await.unwrap();
    let sandbox = Sandbox::create(player.url()).await.unwrap();
    let code = "print('hi'); import sys; print('err', file=sys.stderr)";
    sandbox.run(Language::Python, code).await.unwrap();
    let code = "echo a; echo b >&2; exit 3";
    sandbox.run(Language::Bash, code).await.unwrap();
    let code = "raise ValueError('boom')";
    sandbox.run(Language::Python, code).await.unwrap();
    // The player closes the connection, because the recording has no line for this request.
    assert!(sandbox.kill().await.is_err());
    let deviation = player.finish().await.unwrap_err();
    assert_eq!(deviation.line(), None);
    assert!(deviation.found().contains("kill_sandbox"), "{deviation}");
}

#[actix::test]
async fn a_refusal_is_played_with_its_status() {
    let recording = Recording::parse(
        "refused",
        r#"{"t":0,"conn":"A","dir":"connect","path":"/create"}
{"t":1,"conn":"A","dir":"refused","error":"server rejected WebSocket connection: HTTP 403"}
{"t":2,"conn":"B","dir":"connect","path":"/create"}
{"t":3,"conn":"B","dir":"refused","error":"no connection: connection refused"}"#,
    );
    let player = Player::start(recording.unwrap()).await.unwrap();
    let error = Sandbox::create(player.url()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::UpgradeRefused);
    assert!(error.to_string().contains("403"), "{error}");
    let error = Sandbox::create(player.url()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::LinkLost, "{error}");
    player.finish().await.unwrap();
}

/// Failed dials are recorded and played back as failed dials.
#[actix::test]
async fn an_outage_is_played() {
    let program = async |builder: SandboxBuilder, proxy: Option<Proxy>| {
        let sandbox = builder.await?;
        let mut events = events(&sandbox).await;
        sandbox.run(Language::Bash, "echo before").await?;
        let mut proxy = proxy;
        if let Some(proxy) = &mut proxy {
            proxy.refuse().await;
            proxy.cut();
        }
        let mut attempts = 0;
        loop {
            match within("the link is back", events.recv()).await.unwrap() {
                SandboxEvent::Reconnecting { attempt, .. } => attempts = attempt,
                SandboxEvent::Reconnected => break,
                _ => {}
            }
            if attempts == 3
                && let Some(mut proxy) = proxy.take()
            {
                proxy.accept().await;
                std::mem::forget(proxy);
            }
        }
        let output = sandbox.run(Language::Bash, "echo after").await?;
        sandbox.kill().await?;
        Ok((output.stdout, attempts))
    };
    let (first, second, recording) = twice(ProtocolVersion::V2, program).await;
    assert_eq!(first, second);
    let refused = recording.lines().iter();
    let refused = refused.filter(|line| line.event == Event::Refused(None));
    assert!(refused.count() >= 2);
}

#[test]
fn the_recordings_of_a_deployed_server_load() {
    for name in recording::names() {
        let recording = recording::load(&name);
        assert!(recording.lines().len() > 5);
        assert!(!recording.is_complete());
    }
}

#[actix::test]
async fn each_sandbox_has_its_own_recording() {
    let server = LocalServer::start().await.unwrap();
    let directory = tempfile::tempdir().unwrap();
    let all = (0..8).map(|number| {
        let file = directory.path().join(format!("{number}.jsonl"));
        let url = server.url().to_owned();
        async move {
            let sandbox = Sandbox::create(url).record_to(&file).await.unwrap();
            let code = format!("echo number {number}");
            sandbox.run(Language::Bash, code).await.unwrap();
            sandbox.kill().await.unwrap();
            drop(sandbox);
            Recording::load_complete(&file, LONG).await.unwrap();
            let text = std::fs::read_to_string(&file).unwrap();
            (0..8)
                .filter(|it| text.contains(&format!("number {it}")))
                .count()
        }
    });
    assert_eq!(join_all(all).await, [1; 8]);
}
