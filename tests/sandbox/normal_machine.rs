//! A sandbox offers what programs expect of a machine: users, names, terminals, imports, limits.

use crate::support::within;
use actix_sandbox::{Error, Language, LocalServer, ProtocolVersion, Sandbox};

async fn started() -> (LocalServer, Sandbox) {
    let server = LocalServer::start().await.unwrap();
    let sandbox = Sandbox::create(server.url()).await.unwrap();
    (server, sandbox)
}

/// Runs code. Returns its stdout and stderr, and its end unless that is exit code 0.
async fn said(sandbox: &Sandbox, language: Language, code: &str) -> String {
    let output = within("the code", sandbox.run(language, code))
        .await
        .unwrap();
    let end = match output.end.to_string().as_str() {
        "exited with code 0" => String::new(),
        end => end.to_owned(),
    };
    format!("{}{}{end}", output.stdout_lossy(), output.stderr_lossy())
}

#[actix::test]
async fn python_imports_from_its_working_directory() {
    let (server, sandbox) = started().await;
    let made = "mkdir sub; echo X=1 > helper.py; echo X=2 > sub/other.py";
    assert_eq!(said(&sandbox, Language::Bash, made).await, "");
    let code = "import helper; print(helper.X)";
    assert_eq!(said(&sandbox, Language::Python, code).await, "1\n");
    // A `PYTHONPATH` of the caller works as well.
    let command = sandbox
        .command(
            Language::Python,
            "import helper, other; print(helper.X, other.X)",
        )
        .env("PYTHONPATH", "sub");
    let output = within("the code", command.output()).await.unwrap();
    assert_eq!(
        (&*output.stdout_lossy(), &*output.stderr_lossy()),
        ("1 2\n", "")
    );
    let command = sandbox
        .command(Language::Python, "import other; print(other.X)")
        .cwd("sub");
    let output = within("the code", command.output()).await.unwrap();
    assert_eq!(
        (&*output.stdout_lossy(), &*output.stderr_lossy()),
        ("2\n", "")
    );
    server.stop().await;
}

/// If child processes also searched the working directory, `json.py` there would break tools.
#[actix::test]
async fn only_the_code_itself_imports_from_its_working_directory() {
    let (server, sandbox) = started().await;
    let made = "mkdir tools; echo 'import json; print(json.dumps([]))' > tools/tool.py; echo X=1 > json.py";
    assert_eq!(said(&sandbox, Language::Bash, made).await, "");
    let code = "import os, subprocess, sys
print('PYTHONPATH' in os.environ, os.getcwd() in sys.path, flush=True)
subprocess.run([sys.executable, 'tools/tool.py'])";
    assert_eq!(
        said(&sandbox, Language::Python, code).await,
        "False True\n[]\n"
    );
    let command = sandbox
        .command(
            Language::Python,
            "import os; print(os.environ['PYTHONPATH'])",
        )
        .env("PYTHONPATH", "/one:/two");
    let output = within("the code", command.output()).await.unwrap();
    assert_eq!(output.stdout, "/one:/two\n");
    server.stop().await;
}

#[actix::test]
async fn under_v1_python_imports_from_its_working_directory() {
    let server = LocalServer::builder()
        .max_protocol_version(ProtocolVersion::V1)
        .start()
        .await
        .unwrap();
    let sandbox = Sandbox::create(server.url()).await.unwrap();
    let made = within(
        "the code",
        sandbox.run(Language::Bash, "echo X=1 > helper.py"),
    )
    .await;
    made.unwrap();
    let command = sandbox.command(Language::Python, "import helper; print(helper.X)");
    let output = within("the code", command.output()).await.unwrap();
    assert_eq!(
        (&*output.stdout_lossy(), &*output.stderr_lossy()),
        ("1\n", "")
    );
    server.stop().await;
}

#[actix::test]
async fn streams_can_be_opened_by_their_paths() {
    let (server, sandbox) = started().await;
    let code =
        "echo a > /dev/stdout; echo b | tee /dev/stderr > /dev/null; cat /dev/stdin < /dev/null";
    assert_eq!(said(&sandbox, Language::Bash, code).await, "a\nb\n");
    server.stop().await;
}

#[actix::test]
async fn pseudo_terminals_can_be_opened() {
    let (server, sandbox) = started().await;
    let code = "import os, pty
main, terminal = pty.openpty()
os.write(terminal, b'hello')
print(os.read(main, 5), os.isatty(terminal))";
    assert_eq!(
        said(&sandbox, Language::Python, code).await,
        "b'hello' True\n"
    );
    server.stop().await;
}

#[actix::test]
async fn the_user_has_a_name_and_a_home() {
    let (server, sandbox) = started().await;
    let code = "import getpass, grp, os, pwd
user = pwd.getpwuid(os.getuid())
print(user.pw_name == getpass.getuser() == os.environ['USER'] == os.environ['LOGNAME'])
print(bool(grp.getgrgid(os.getgid()).gr_name))
print(os.path.isdir(os.environ['HOME']), all(os.environ[it] for it in ['PATH', 'LANG', 'TMPDIR']))";
    let all = "True\nTrue\nTrue True\n";
    assert_eq!(said(&sandbox, Language::Python, code).await, all);
    if server.backend() != "host" {
        let code = "whoami; echo ~ ~sandbox";
        let all = "sandbox\n/home/sandbox /home/sandbox\n";
        assert_eq!(said(&sandbox, Language::Bash, code).await, all);
    }
    server.stop().await;
}

#[actix::test]
async fn names_of_the_machine_itself_resolve() {
    let (server, sandbox) = started().await;
    let code = "import socket
print(socket.gethostbyname('localhost'))";
    assert_eq!(said(&sandbox, Language::Python, code).await, "127.0.0.1\n");
    server.stop().await;
}

#[actix::test]
async fn arguments_that_are_too_large_are_refused_everywhere_alike() {
    let (server, sandbox) = started().await;
    let largest = 128 * 1024 - 1;
    let refused = async |args: Vec<String>, env: Vec<(String, String)>| -> Error {
        let command = sandbox
            .command(Language::Bash, "echo ran")
            .args(args)
            .envs(env);
        within("the refusal", command.output()).await.unwrap_err()
    };
    for (args, env) in [
        (vec!["x".repeat(largest + 1)], Vec::new()),
        (vec!["x".repeat(largest); 16], Vec::new()),
        (Vec::new(), vec![("NAME".to_owned(), "x".repeat(largest))]),
    ] {
        let error = refused(args, env).await.to_string();
        assert!(
            error.contains("The arguments and environment variables are too large:"),
            "{error}"
        );
    }
    let most = sandbox
        .command(Language::Bash, "echo ${#1} $#")
        .args(vec!["x".repeat(largest); 15]);
    let output = within("the code", most.output()).await.unwrap();
    assert_eq!(output.stdout, format!("{largest} 15\n"));
    server.stop().await;
}

#[actix::test]
async fn variables_of_the_caller_reach_the_code_alone() {
    let (server, sandbox) = started().await;
    let command = sandbox
        .command(Language::Bash, "echo $PATH $LANG $PERL5OPT")
        .env("PATH", "/opt/venv/bin")
        .env("LANG", "tlh")
        .env("PERL5OPT", "-Mnot::there");
    let output = within("the code", command.output()).await.unwrap();
    let all = ("/opt/venv/bin tlh -Mnot::there\n", "");
    assert_eq!((&*output.stdout_lossy(), &*output.stderr_lossy()), all);
    server.stop().await;
}

#[actix::test]
async fn times_survive_a_snapshot_to_the_nanosecond() {
    let (server, sandbox) = started().await;
    let code = "import os
os.mkdir('directory')
open('directory/file', 'w').close()
for name, time in [('directory/file', 1_577_934_245_123_456_789), ('directory', 1_000_000_007)]:
    os.utime(name, ns=(time, time))";
    assert_eq!(said(&sandbox, Language::Python, code).await, "");
    let stored = within("the snapshot", sandbox.snapshot_filesystem("times")).await;
    stored.unwrap();
    let restored = Sandbox::create(server.url()).filesystem_snapshot_name("times");
    let restored = restored.await.unwrap();
    let code = "import os
print(*[os.stat(name).st_mtime_ns for name in ['directory/file', 'directory']])";
    let times = "1577934245123456789 1000000007\n";
    assert_eq!(said(&restored, Language::Python, code).await, times);
    server.stop().await;
}
