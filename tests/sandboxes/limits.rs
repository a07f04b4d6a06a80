//! Limits that a client sets for its own sandbox, on each backend.

use actix_sandbox::{
    Error, ErrorKind, Language, LocalServer, ProcessEnd, Sandbox, SandboxBuilder,
    server::{Backend, GvisorOptions, NamespaceOptions},
};

use crate::support::{
    backend::{on_the_host, start_if_possible},
    patient, within,
};

const MEBIBYTE: u64 = 1 << 20;

/// The server's own limits.
const MEMORY: u64 = 512 * MEBIBYTE;
const PROCESSES: u64 = 64;
const DISK: u64 = 256 * MEBIBYTE;

async fn confined() -> Vec<LocalServer> {
    let namespace = NamespaceOptions::default().memory(MEMORY);
    let namespace = namespace.processes(PROCESSES).disk(DISK);
    let gvisor = GvisorOptions::default().memory(MEMORY).processes(PROCESSES);
    let mut servers = Vec::new();
    for backend in [Backend::Namespace(namespace), Backend::Gvisor(gvisor)] {
        let server = LocalServer::builder().backend(backend).warm(1);
        servers.extend(start_if_possible(server).await);
    }
    servers
}

/// Whether a Python program can use this much memory.
async fn can_use(sandbox: &Sandbox, bytes: u64) -> bool {
    // The agent of gVisor measures the memory of processes, so keep it for a while.
    let code = format!("import time\nkept = b'x' * {bytes}\ntime.sleep(5)\nprint(len(kept))");
    let output = within("python", sandbox.run(Language::Python, code)).await;
    output.expect("ran").stdout == format!("{bytes}\n")
}

/// How many processes the code of a sandbox can start, of 40.
async fn processes(sandbox: &Sandbox) -> usize {
    let code = "
import os, signal
children = []
try:
    for _ in range(40):
        child = os.fork()
        if child == 0:
            signal.pause()
        children.append(child)
except OSError:
    pass
print(len(children))
for child in children:
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
";
    let output = within("forks", sandbox.run(Language::Python, code)).await;
    let output = output.expect("ran");
    let count = output.stdout_lossy().trim().parse();
    count.unwrap_or_else(|_| panic!("{}", output.stderr_lossy()))
}

#[actix::test]
async fn a_sandbox_has_the_limits_that_its_client_set() {
    for server in confined().await {
        let name = server.backend();
        let create = || patient(server.url()).checkpoint(true);
        let free = within("create", create()).await.unwrap();
        let bytes = 200 * MEBIBYTE;
        assert!(can_use(&free, bytes).await, "{name}");
        assert_eq!(processes(&free).await, 40, "{name}");

        let limited = create().memory_limit(100 * MEBIBYTE).process_limit(20);
        let limited = within("create", limited).await.unwrap();
        assert!(!can_use(&limited, bytes).await, "{name}");
        let count = processes(&limited).await;
        assert!((10..=20).contains(&count), "{name}: {count}");

        // A checkpoint keeps the limits.
        within("checkpoint", limited.checkpoint()).await.unwrap();
        let (id, token) = (
            limited.sandbox_id().clone(),
            limited.sandbox_token().clone(),
        );
        let attach = Sandbox::attach(server.url(), id, token);
        let restored = within("attach", attach).await.unwrap();
        assert!(!can_use(&restored, bytes).await, "{name}");
        let count = processes(&restored).await;
        assert!((10..=20).contains(&count), "{name}: {count}");
        within("stop", server.stop()).await;
    }
}

#[actix::test]
async fn a_sandbox_that_exceeds_its_own_disk_limit_ends() {
    for server in confined().await {
        if server.backend() != "namespace" {
            within("stop", server.stop()).await;
            continue;
        }
        let create = || patient(server.url());
        let free = within("create", create()).await.unwrap();
        let limited = within("create", create().disk_limit(8 * MEBIBYTE)).await;
        let limited = limited.unwrap();
        let code = "head -c 64M /dev/zero > large; sleep 3; echo done";
        let other = free.exec(Language::Bash, code).await.unwrap();
        let code = "head -c 64M /dev/zero > large; sleep 1000";
        let process = limited.exec(Language::Bash, code).await.unwrap();
        let end = within("the end", process.wait()).await.unwrap();
        assert!(matches!(end, ProcessEnd::SandboxLost { .. }), "{end}");
        assert!(end.to_string().contains("disk limit of 8 MiB"), "{end}");
        let output = within("the other sandbox", other.stdout().read_all()).await;
        assert_eq!(output.unwrap(), "done\n");
        within("stop", server.stop()).await;
    }
}

async fn refused(builder: SandboxBuilder) -> Error {
    let error = within("the refusal", builder).await.expect_err("refused");
    assert!(error.is_safe_to_retry(), "{error}");
    error
}

#[actix::test]
async fn limits_that_cannot_be_applied_are_refused() {
    let mut servers = confined().await;
    servers.push(on_the_host().start().await.unwrap());
    for server in servers {
        let name = server.backend();
        let create = || Sandbox::create(server.url());
        let cases = [
            (create().memory_limit(MEMORY + 1), "memory", name != "host"),
            (create().memory_limit(1), "memory", name != "host"),
            (
                create().process_limit(PROCESSES + 1),
                "processes",
                name != "host",
            ),
            (
                create().process_limit(u64::MAX),
                "processes",
                name != "host",
            ),
            (create().disk_limit(DISK + 1), "disk", name == "namespace"),
        ];
        for (builder, limit, has_limit) in cases {
            let error = refused(builder).await;
            assert_eq!(error.kind(), ErrorKind::CreationFailed, "{error}");
            let reason = error.server_reason().unwrap();
            assert!(reason.contains(&format!("`{limit}`")), "{name}: {reason}");
            let part = if has_limit {
                "this server allows"
            } else {
                "can't limit"
            };
            assert!(reason.contains(part), "{name}: {reason}");
        }
        assert_eq!(server.sandbox_count(), 0);
        within("stop", server.stop()).await;
    }
    let error = refused(Sandbox::create("ws://127.0.0.1:1").process_limit(0)).await;
    assert_eq!(error.kind(), ErrorKind::InvalidOption, "{error}");
}
