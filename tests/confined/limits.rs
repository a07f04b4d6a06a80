//! The disk limit of a sandbox, which only the backend `namespace` has.

use std::time::Duration;

use actix_sandbox::{
    Language, LocalServer, ProcessEnd, Sandbox,
    server::{Backend, NamespaceOptions},
};

use crate::support::{backend::start_if_possible, within};

const LIMIT: u64 = 64 << 20;

async fn server() -> Option<LocalServer> {
    let options = NamespaceOptions::default().disk(LIMIT);
    let backend = Backend::Namespace(options);
    start_if_possible(LocalServer::builder().backend(backend)).await
}

/// Python that fills the disk, each in another way, and then waits for its end.
const FILLS: [(&str, &str); 4] = [
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
    (
        "a background process of an exec that has ended",
        "
import os
if os.fork() > 0: os._exit(0)
os.setsid()
with open('large', 'wb', 0) as file:
    for _ in range(96): file.write(bytes(1 << 20))",
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
