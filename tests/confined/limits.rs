//! The limits on a whole sandbox, which only the backend `namespace` has.

use std::time::Duration;

use actix_sandbox::{
    Language, LocalServer, ProcessEnd, Sandbox,
    server::{Backend, NamespaceOptions},
};

use crate::support::{backend::start_if_possible, program::Program, within};

const LIMIT: u64 = 64 << 20;

async fn server() -> Option<LocalServer> {
    let options = NamespaceOptions::default().disk(LIMIT);
    let backend = Backend::Namespace(options);
    start_if_possible(LocalServer::builder().backend(backend)).await
}

/// Python that fills the disk, each in another way, and then waits for its end.
const FILLS: [(&str, &str); 3] = [
    (
        "one large file",
        "
with open('large', 'wb', 0) as file:
    for _ in range(96): file.write(bytes(1 << 20))",
    ),
    (
        "many small files, deep in `/tmp`",
        "
import os
os.chdir('/tmp')
for _ in range(100):
    os.mkdir('deep'); os.chdir('deep')
for number in range(20_000): open(str(number), 'x').close()",
    ),
    (
        "a file outside of the home directory, with two names",
        "
with open('/large', 'wb', 0) as file:
    for _ in range(96): file.write(bytes(1 << 20))
import os
os.link('/large', '/other')",
    ),
];

#[actix::test]
async fn a_sandbox_that_exceeds_its_disk_limit_ends_with_the_reason() {
    let Some(server) = server().await else { return };
    let other = Sandbox::create(server.url()).await.unwrap();
    let code = "head -c 32M /dev/zero > half; read line; echo $line; stat -c %s half";
    let lasting = other.exec(Language::Bash, code).await.unwrap();
    for (name, code) in FILLS {
        let sandbox = Sandbox::create(server.url()).await.unwrap();
        let code = format!("{code}\nimport time\ntime.sleep(1000)");
        let process = sandbox.exec(Language::Python, code).await.unwrap();
        let end = within(name, process.wait()).await.unwrap();
        let ProcessEnd::SandboxLost { end } = end else {
            panic!("{name}: {end}");
        };
        let said = end.to_string();
        assert!(said.contains("disk limit of 64 MiB"), "{name}: {said}");
        let error = within(name, sandbox.run(Language::Bash, "echo again")).await;
        let said = error.unwrap_err().to_string();
        assert!(said.contains("disk limit of 64 MiB"), "{name}: {said}");
        if name == FILLS[0].0 {
            within("the snapshot", sandbox.snapshot_filesystem("large"))
                .await
                .unwrap();
        }
        within(name, sandbox.kill()).await.unwrap();
    }
    // The snapshot holds more than a sandbox may.
    let restored = Sandbox::create(server.url()).filesystem_snapshot_name("large");
    let restored = restored.await.unwrap();
    let code = "stat -c %s large; sleep 1000";
    let process = restored.exec(Language::Bash, code).await.unwrap();
    let end = within("the end", process.wait()).await.unwrap();
    assert!(end.to_string().contains("disk limit"), "{end}");

    let sandbox = Sandbox::create(server.url()).await.unwrap();
    let idle = sandbox.exec(Language::Bash, "sleep 1000").await.unwrap();
    let code = "(head -c 96M /dev/zero > large; sleep 1000) > /dev/null 2>&1 &";
    let ended = sandbox.run(Language::Bash, code).await.unwrap();
    assert_eq!(ended.end, ProcessEnd::Exited(0));
    let end = within("the idle process", idle.wait()).await.unwrap();
    assert!(end.to_string().contains("disk limit"), "{end}");

    lasting.write_to_stdin("still here\n").await.unwrap();
    let output = lasting.stdout().read_all();
    let output = within("the other sandbox", output).await.unwrap();
    assert_eq!(output, "still here\n33554432\n");
    server.stop().await;
}

#[actix::test]
async fn holes_and_links_do_not_count_against_the_disk_limit() {
    let Some(server) = server().await else { return };
    let sandbox = Sandbox::create(server.url()).await.unwrap();
    let code = "
import os, time
open('sparse', 'w').truncate(1 << 30)
with open('file', 'wb', 0) as file: file.write(bytes(24 << 20))
for number in range(10): os.link('file', f'name-{number}')
os.symlink('/usr', 'programs')
os.symlink('.', 'loop')
time.sleep(3.5)
print('still here')";
    let run = sandbox.command(Language::Python, code);
    let output = run.timeout(Duration::from_secs(60)).output();
    let output = within("the code", output).await.unwrap();
    assert_eq!(output.stdout, "still here\n", "{}", output.stderr_lossy());
    server.stop().await;
}

/// No test runs with a cgroup, so this only checks what happens without one.
#[actix::test]
async fn options_that_need_a_cgroup_are_refused_without_one() {
    let Some(server) = server().await else { return };
    server.stop().await;
    let options = NamespaceOptions::default;
    for (options, option, flag) in [
        (options().cpus(0.5), "`cpus`", "`--cpus`"),
        (
            options().sandbox_memory(1 << 30),
            "`sandbox_memory`",
            "`--sandbox-memory`",
        ),
    ] {
        let backend = Backend::Namespace(options);
        match LocalServer::builder().backend(backend).start().await {
            Ok(server) => {
                println!("not tried: this machine has a cgroup");
                server.stop().await;
            }
            Err(error) => {
                let said = error.to_string();
                for word in [option, flag, "cgroup", "`Delegate=yes`"] {
                    assert!(said.contains(word), "{word}: {said}");
                }
            }
        }
    }
}

#[actix::test]
async fn the_limits_that_hold_are_logged_at_the_start() {
    let Some(server) = server().await else { return };
    server.stop().await;
    let arguments = ["--backend", "namespace", "--disk", "1GiB"];
    let program = Program::start_with(&arguments, &[("RUST_LOG", "info")]);
    let log = program.log_at_the_end().await;
    print!("{log}");
    let lines: Vec<_> = log
        .lines()
        .filter(|line| line.contains("1024 MiB"))
        .collect();
    assert_eq!(lines.len(), 1, "{log}");
    assert!(
        lines[0].contains("INFO") && lines[0].contains("cgroup"),
        "{log}"
    );
}
