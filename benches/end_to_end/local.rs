//! The overhead of the local server over starting a process directly.

use std::process::Stdio;

use actix_sandbox::{Language, LocalServer, Sandbox, server::Backend};
use tokio::{io::AsyncReadExt, process::Command};

use super::{
    Scale, cores,
    table::{Pairs, Row, Target, interleave},
};

/// Runs `true` in bash, from a file: in a sandbox, and directly.
pub(crate) fn exec(scale: Scale) -> Row {
    // Processes of the server inherit its cores, and must not share one core with it.
    cores::all();
    let row = actix::System::new().block_on(async {
        let server = LocalServer::builder().backend(Backend::Host).start().await;
        let server = server.expect("a local server");
        let sandbox = Sandbox::create(server.url()).await.expect("a sandbox");
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("code.sh");
        std::fs::write(&file, "true").expect("a file");
        let count = scale.of(10);
        let times = interleave(
            scale.samples(),
            async || {
                for _ in 0..count {
                    let process = sandbox.exec(Language::Bash, "true").await;
                    let end = process.expect("a process").wait().await;
                    assert_eq!(end.expect("an end").code(), Some(0));
                }
            },
            async || {
                for _ in 0..count {
                    let mut command = Command::new("bash");
                    command.arg(&file).current_dir(directory.path());
                    spawn(command).await;
                }
            },
        )
        .await;
        sandbox.kill().await.expect("killed");
        server.stop().await;
        let pairs = Pairs::new(&times, count as f64);
        let each = |rate: f64| format!("{:.2} ms", 1e3 / rate);
        let what = "local server: exec of `true`; comparison: spawning it directly";
        Row::new(what, each(pairs.ours), each(pairs.beside))
            .ratio(1.0 / pairs.ratio, Target::AtMost(1.5))
    });
    cores::of_the_client();
    row
}

/// Runs a process until its output has ended and it has exited, as the server does.
async fn spawn(mut command: Command) {
    let mut child = command
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("LANG", "C.UTF-8")
        .process_group(0)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("a process");
    let (mut stdout, mut stderr) = (child.stdout.take(), child.stderr.take());
    let mut output = Vec::new();
    for pipe in [
        stdout
            .as_mut()
            .map(|it| it as &mut (dyn tokio::io::AsyncRead + Unpin)),
        stderr.as_mut().map(|it| it as _),
    ] {
        let pipe = pipe.expect("a pipe");
        pipe.read_to_end(&mut output).await.expect("output");
    }
    let status = child.wait().await.expect("its end");
    assert!(status.success() && output.is_empty(), "{status}");
}
