//! Properties of the backends `namespace` and `gvisor` that the other tests don't cover. A backend
//! is skipped if it doesn't work on this machine; CI has both.

use std::fs;

use crate::support::{processes_with, within};
use actix_sandbox::{
    Language, LocalServer, ProcessEnd, Sandbox,
    server::{Backend, GvisorOptions, NamespaceOptions, ServerBuilder},
};

/// A server on each confined backend that works on this machine.
async fn each(with: impl Fn(ServerBuilder) -> ServerBuilder) -> Vec<LocalServer> {
    let namespace = NamespaceOptions::default();
    let gvisor = GvisorOptions::default();
    of(
        [Backend::Namespace(namespace), Backend::Gvisor(gvisor)],
        with,
    )
    .await
}

async fn of(
    backends: impl IntoIterator<Item = Backend>,
    with: impl Fn(ServerBuilder) -> ServerBuilder,
) -> Vec<LocalServer> {
    let mut servers = Vec::new();
    for backend in backends {
        let builder = with(LocalServer::builder().backend(backend));
        servers.extend(crate::support::backend::start_if_possible(builder).await);
    }
    servers
}

async fn bash(sandbox: &Sandbox, code: &str) -> String {
    let output = within("the code", sandbox.run(Language::Bash, code))
        .await
        .unwrap();
    assert_eq!(output.stderr, "", "of {code}");
    output.stdout_lossy().into_owned()
}

#[actix::test]
async fn a_snapshot_holds_what_was_written_anywhere() {
    for server in each(|it| it).await {
        let first = Sandbox::create(server.url()).await.unwrap();
        let write = "mkdir /made; for file in /tmp/a /b /made/c /var/tmp/d ~/e; do echo $file > $file; done";
        bash(&first, write).await;
        within("the snapshot", first.snapshot_filesystem("all"))
            .await
            .unwrap();
        let second = Sandbox::create(server.url()).filesystem_snapshot_name("all");
        let read = "cat /tmp/a /b /made/c /var/tmp/d ~/e; echo more >> /b";
        let seen = bash(&second.await.unwrap(), read).await;
        assert_eq!(
            seen,
            "/tmp/a\n/b\n/made/c\n/var/tmp/d\n/home/sandbox/e\n",
            "{}",
            server.backend()
        );
        server.stop().await;
    }
}

#[actix::test]
async fn no_process_list_shows_the_environment_of_a_sandbox() {
    for server in each(|it| it).await {
        let sandbox = Sandbox::create(server.url()).await.unwrap();
        let secret = format!("secret-{}-{}", std::process::id(), server.backend());
        let command = sandbox.command(Language::Bash, "echo $MINE; read line; echo $line");
        let process = command.env("MINE", &*secret).spawn().await.unwrap();
        let mut lines = process.stdout().lines();
        let line = within("a line", futures::StreamExt::next(&mut lines)).await;
        assert_eq!(line.unwrap().unwrap(), secret);
        assert_eq!(processes_with(&secret), Vec::<String>::new());
        process.write_to_stdin("on\n").await.unwrap();
        assert_eq!(process.wait().await.unwrap(), ProcessEnd::Exited(0));
        server.stop().await;
    }
}

#[actix::test]
async fn limits_hold() {
    let namespace = NamespaceOptions::default()
        .memory(256 << 20)
        .file_size(1 << 20);
    let gvisor = GvisorOptions::default()
        .memory(256 << 20)
        .file_size(1 << 20);
    let namespace = namespace.processes(32).open_files(32);
    let gvisor = gvisor.processes(32).open_files(32);
    let code = "import os, signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
def tried(name, what):
    try: what(); print(name, 'went on')
    except (MemoryError, OSError): print(name, 'stopped')
def files(): return [open('/dev/null') for _ in range(100)]
def write(): open('large', 'wb', 0).write(bytes(4 << 20)) == 4 << 20 or open('large', 'ab', 0).write(b'x')
def processes():
    for _ in range(100):
        if os.fork() == 0: signal.pause()
child = os.fork()
if child == 0:
    try: b'x' * (1536 << 20)
    except MemoryError: os._exit(1)
    os._exit(0)
print('memory', 'stopped' if os.waitpid(child, 0)[1] else 'went on')
tried('file', write)
tried('files', files)
tried('processes', processes)
print('end', flush=True)
os._exit(0)";
    for server in of(
        [Backend::Namespace(namespace), Backend::Gvisor(gvisor)],
        |it| it,
    )
    .await
    {
        let sandbox = Sandbox::create(server.url()).await.unwrap();
        let output = within("the code", sandbox.run(Language::Python, code))
            .await
            .unwrap();
        assert_eq!(
            output.stdout,
            "memory stopped\nfile stopped\nfiles stopped\nprocesses stopped\nend\n",
            "{}: {}",
            server.backend(),
            output.stderr_lossy()
        );
        within("the kill", sandbox.kill()).await.unwrap();
        server.stop().await;
    }
}

/// Files in a tmpfs are memory of no process, so limits of processes don't bound them.
#[actix::test]
async fn files_in_memory_are_bounded() {
    let code = "written = 0
for place in ['/dev/shm', '/run/code', '/dev']:
    try:
        with open(place + '/file', 'wb', 0) as file:
            for _ in range(100): written += file.write(bytes(1 << 20))
        print(place, 'went on')
    except OSError: pass
print('stopped after', written >> 20)";
    for server in each(|it| it).await {
        let sandbox = Sandbox::create(server.url()).await.unwrap();
        let output = within("the code", sandbox.run(Language::Python, code))
            .await
            .unwrap();
        // `/dev/shm` holds 64 MiB.
        let said = output.stdout_lossy();
        let said: Vec<_> = said.split_whitespace().collect();
        assert_eq!(said[..2], ["stopped", "after"], "{output:?}");
        let written: u32 = said[2].parse().unwrap();
        assert!((60..=64).contains(&written), "{output:?}");
        server.stop().await;
    }
}

/// Each name takes kernel memory, even for an empty file.
#[actix::test]
async fn the_number_of_files_in_memory_is_bounded() {
    let code = "import os
open('/dev/shm/file', 'w').close()
for number in range(150_000):
    try: os.link('/dev/shm/file', f'/dev/shm/{number}')
    except OSError as error: print('stopped:', error.strerror, number < 20_000); break";
    let namespace = [Backend::Namespace(NamespaceOptions::default())];
    for server in of(namespace, |it| it).await {
        let sandbox = Sandbox::create(server.url()).await.unwrap();
        let output = within("the code", sandbox.run(Language::Python, code));
        let said = output.await.unwrap().stdout;
        assert_eq!(said, "stopped: No space left on device True\n");
        server.stop().await;
    }
}

#[actix::test]
async fn a_directory_that_is_made_readable_is_read_and_no_other() {
    let shown = tempfile::Builder::new()
        .permissions(mode(0o755))
        .tempdir_in("/var/tmp")
        .unwrap();
    let hidden = tempfile::Builder::new()
        .permissions(mode(0o755))
        .tempdir_in("/var/tmp")
        .unwrap();
    for folder in [&shown, &hidden] {
        fs::write(folder.path().join("file"), "of the machine\n").unwrap();
    }
    let namespace = NamespaceOptions::default().readable(shown.path());
    let gvisor = GvisorOptions::default().readable(shown.path());
    for server in of(
        [Backend::Namespace(namespace), Backend::Gvisor(gvisor)],
        |it| it,
    )
    .await
    {
        let sandbox = Sandbox::create(server.url()).await.unwrap();
        let (shown, hidden) = (shown.path().display(), hidden.path().display());
        let code = format!(
            "cat {shown}/file; echo x 2>&- > {shown}/more || echo closed; [ -e {hidden} ] || echo hidden"
        );
        let output = sandbox.run(Language::Bash, code).await.unwrap();
        assert_eq!(
            output.stdout,
            "of the machine\nclosed\nhidden\n",
            "{}",
            server.backend()
        );
        server.stop().await;
    }
    assert_eq!(fs::read_dir(shown.path()).unwrap().count(), 1);
}

/// The state and the sandboxes of the server are below a directory that sandboxes can read.
#[actix::test]
async fn the_servers_directories_look_empty_inside_a_readable_one() {
    let shown = tempfile::Builder::new()
        .permissions(mode(0o755))
        .tempdir_in("/var/tmp")
        .unwrap();
    fs::write(shown.path().join("file"), "of the machine\n").unwrap();
    let own = ["state", "sandboxes"].map(|name| shown.path().join(name));
    let [state, sandboxes] = &own;
    let namespace = NamespaceOptions::default().readable(shown.path());
    let gvisor = GvisorOptions::default().readable(shown.path());
    for backend in [Backend::Namespace(namespace), Backend::Gvisor(gvisor)] {
        let builder = LocalServer::builder().backend(backend);
        let builder = builder.state_directory(state).directory(sandboxes);
        let Some(server) = crate::support::backend::start_if_possible(builder).await else {
            continue;
        };
        let sandbox = Sandbox::create(server.url()).await.unwrap();
        let shown = shown.path().display();
        let code = format!(
            "shopt -s dotglob; cat {shown}/file
             for one in {shown}/state {shown}/sandboxes/*; do [ -r $one ] && echo ${{one##*/}}: $one/*; done"
        );
        let seen = bash(&sandbox, &code).await;
        let own = fs::read_dir(sandboxes).unwrap().next().unwrap().unwrap();
        let own = own.file_name().into_string().unwrap();
        assert_eq!(
            seen,
            format!("of the machine\nstate: {shown}/state/*\n{own}: {shown}/sandboxes/{own}/*\n"),
            "{}",
            server.backend()
        );
        server.stop().await;
    }
    for options in [state, &state.join("snapshots")] {
        let options = NamespaceOptions::default().readable(options);
        let builder = LocalServer::builder().backend(Backend::Namespace(options));
        let error = builder.state_directory(state).start().await.unwrap_err();
        let said = error.to_string();
        assert!(said.contains("server's own"), "{said}");
        assert!(said.contains(state.to_str().unwrap()), "{said}");
    }
}

fn mode(mode: u32) -> fs::Permissions {
    std::os::unix::fs::PermissionsExt::from_mode(mode)
}

/// A counter in memory keeps counting on another server, although its output is no longer read.
#[actix::test]
async fn a_checkpoint_of_gvisor_holds_what_runs_in_the_background() {
    let state = tempfile::tempdir().unwrap();
    let with = |it: ServerBuilder| it.state_directory(state.path());
    let gvisor = || [Backend::Gvisor(GvisorOptions::default())];
    let (Some(one), Some(two)) = (
        of(gvisor(), with).await.pop(),
        of(gvisor(), with).await.pop(),
    ) else {
        return;
    };
    let sandbox = Sandbox::create(one.url())
        .enable_sandbox_checkpoint(true)
        .enable_sandbox_handoff(true)
        .await
        .unwrap();
    let count = "(while :; do echo $((++i)) > new; mv new count; echo unread; sleep 0.01; done) & until [ -s count ]; do :; done";
    within("the counter", sandbox.run(Language::Bash, count))
        .await
        .unwrap();
    let reached: u64 = bash(&sandbox, "cat count").await.trim().parse().unwrap();
    // The handoff stores a checkpoint and restores it.
    let (id, token) = (
        sandbox.sandbox_id().clone(),
        sandbox.sandbox_token().clone(),
    );
    let again = within(
        "the handoff",
        Sandbox::attach(two.url(), id, token).into_future(),
    );
    let again = again.await.unwrap();
    // The restored sandbox already had execs: new ones must not collide with them.
    let process = again.exec(Language::Bash, "sleep 1000").await.unwrap();
    within("the kill", process.kill()).await.unwrap();
    let goes_on = format!(
        "until [ $(cat count) -gt {} ]; do :; done; echo goes on",
        reached + 50
    );
    assert_eq!(bash(&again, &goes_on).await, "goes on\n");
    for server in [one, two] {
        server.stop().await;
    }
}

#[actix::test]
async fn an_unusable_backend_names_the_failed_command_and_its_output() {
    for (options, says) in [
        (
            GvisorOptions::default().binary("/no/runsc"),
            vec!["/no/runsc", "Debian's package `runsc`"],
        ),
        (
            GvisorOptions::default().binary("no-runsc"),
            vec!["no-runsc"],
        ),
        (
            GvisorOptions::default().binary("/bin/false"),
            vec!["/bin/false", "run --detach", "exit status: 1"],
        ),
        (
            GvisorOptions::default().readable("relative"),
            vec!["relative", "absolute"],
        ),
    ] {
        let error = LocalServer::builder()
            .backend(Backend::Gvisor(options))
            .start()
            .await;
        let error = error.unwrap_err().to_string();
        for word in says.iter().chain(&["gvisor", "Backend::Auto"]) {
            assert!(error.contains(word), "{error}");
        }
    }
    let platform = GvisorOptions::default().platform("abacus");
    let builder = LocalServer::builder().backend(Backend::Gvisor(platform));
    let error = builder.start().await.unwrap_err().to_string();
    assert!(error.contains("gvisor"), "{error}");
    let auto = LocalServer::builder()
        .backend(Backend::Auto)
        .start()
        .await
        .unwrap();
    assert!(["host", "namespace", "gvisor"].contains(&auto.backend()));
    auto.stop().await;
}

#[actix::test]
async fn confined_never_means_the_host() {
    match LocalServer::builder()
        .backend(Backend::Confined)
        .start()
        .await
    {
        Ok(server) => {
            assert!(["namespace", "gvisor"].contains(&server.backend()));
            server.stop().await;
        }
        Err(error) => {
            let error = error.to_string();
            assert!(
                error.contains("`gvisor`: ") && error.contains("`namespace`: "),
                "{error}"
            );
        }
    }
}

/// Code leaves symlinks at mount points, and its own `mount` in a directory that may be on the
/// PATH. Neither may redirect the start of a sandbox from that tree.
#[actix::test]
async fn links_in_a_restored_tree_lead_nowhere() {
    for server in each(|it| it).await {
        let first = Sandbox::create(server.url()).await.unwrap();
        // Any user may write there.
        let outside = tempfile::tempdir_in("/var/tmp").unwrap();
        fs::set_permissions(outside.path(), mode(0o777)).unwrap();
        let prepare = format!(
            "mkdir -p ~/bin; printf '#!/bin/sh\\necho taken > {0}/taken\\n' > ~/bin/mount; chmod 755 ~/bin/mount
             mv /home /h && mkdir /home && ln -s /usr /home/sandbox || rm -rf /home
             mv /var /v && ln -s {0} /var; mv /sys /s; ln -s {0} /sys; echo prepared",
            outside.path().display()
        );
        let prepared = within("the code", first.run(Language::Bash, prepare))
            .await
            .unwrap();
        assert!(prepared.stdout.ends_with(b"prepared\n"), "{prepared:?}");
        within("the snapshot", first.snapshot_filesystem("links"))
            .await
            .unwrap();
        let second = Sandbox::create(server.url()).filesystem_snapshot_name("links");
        if let Ok(second) = within("the creation", second.into_future()).await {
            // The sandbox works or reports an error, but its home is never `/usr`.
            let code = "[ ! -e ~/lib ] && echo own home";
            if let Ok(output) = within("the code", second.run(Language::Bash, code)).await {
                let fails = matches!(output.end, ProcessEnd::Unknown | ProcessEnd::Exited(1));
                assert!(output.stdout == "own home\n" || fails, "{output:?}");
            }
        }
        let left = fs::read_dir(outside.path()).unwrap().count();
        assert_eq!(left, 0, "{}", server.backend());
        server.stop().await;
    }
}

/// Code can't ptrace the first process of its sandbox, and doesn't get the server's terminal.
#[actix::test]
async fn the_first_process_is_out_of_reach() {
    let code = "import ctypes
libc = ctypes.CDLL(None, use_errno=True)
seized = libc.ptrace(0x4206, 1, 0, 0)
print('attached' if seized == 0 else 'refused')
try: open('/dev/tty'); print('terminal')
except OSError: print('no terminal')";
    let namespace = Backend::Namespace(NamespaceOptions::default());
    for server in of([namespace], |it| it).await {
        let sandbox = Sandbox::create(server.url()).await.unwrap();
        let output = sandbox.run(Language::Python, code).await.unwrap();
        assert_eq!(output.stdout, "refused\nno terminal\n", "{output:?}");
        server.stop().await;
    }
}
