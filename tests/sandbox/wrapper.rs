//! `Command::wrap_for_v1`, with the client, the local server limited to protocol v1, bash and
//! python.

use std::time::Duration;

use crate::support::{
    events,
    proxy::{Plan, Proxy},
    within,
};
use actix_sandbox::{
    Command, Effect, ErrorKind, Language, LocalServer, Output, OutputPolicy,
    ProcessEnd::{self, Exited, Signaled},
    ProtocolVersion, ReconnectPolicy, Sandbox, SandboxEvent,
    actor::ExecOptions,
    machine::{Nonce, wrap},
    server::ServerBuilder,
};
use futures::StreamExt;

/// The end that the wrapper reports when it can't run the code.
const FAILED: ProcessEnd = Exited(125);

async fn v1_server(builder: ServerBuilder) -> LocalServer {
    let server = builder.max_protocol_version(ProtocolVersion::V1);
    server.start().await.expect("a local server")
}

async fn v1_sandbox() -> (LocalServer, Sandbox) {
    v1_sandbox_on(LocalServer::builder()).await
}

async fn v1_sandbox_on(builder: ServerBuilder) -> (LocalServer, Sandbox) {
    let server = v1_server(builder).await;
    let sandbox = Sandbox::create(server.url()).await.expect("a sandbox");
    (server, sandbox)
}

async fn output(command: Command) -> Output {
    within("the output", command.wrap_for_v1(true).output())
        .await
        .expect("ran")
}

async fn ends(sandbox: &Sandbox, language: Language, cases: &[(&str, &str, ProcessEnd)]) {
    for (code, stdout, end) in cases {
        let output = output(sandbox.command(language.clone(), *code)).await;
        assert_eq!(
            (&*output.stdout_lossy(), &output.end),
            (*stdout, end),
            "{code}"
        );
    }
}

#[actix::test]
async fn wrapped_bash_reports_how_it_ended() {
    let (_server, sandbox) = v1_sandbox().await;
    let cases = [
        ("echo hi", "hi\n", Exited(0)),
        ("", "", Exited(0)),
        ("# a comment", "", Exited(0)),
        ("printf 'no newline'", "no newline", Exited(0)),
        ("echo hi; exit 3", "hi\n", Exited(3)),
        ("exit 255", "", Exited(255)),
        ("set -e; echo one; false; echo two", "one\n", Exited(1)),
        ("exec sh -c 'echo other; exit 4'", "other\n", Exited(4)),
        ("echo before\n)\necho after", "before\n", Exited(2)),
        ("no-such-command-there-is", "", Exited(127)),
        ("trap 'echo bye' EXIT; exit 5", "bye\n", Exited(5)),
        ("exec >&-; exit 6", "", Exited(6)),
        ("kill -KILL $$", "", Signaled(9)),
        ("kill -TERM $$", "", Signaled(15)),
        ("kill -INT $$", "", Signaled(2)),
        ("kill -SEGV $$", "", Signaled(11)),
        // An exit code over 128 stays a code, although a shell can't tell it from a signal.
        ("exit 137", "", Exited(137)),
        ("exit 130", "", Exited(130)),
        ("sh -c 'kill -KILL $$'; exit $?", "", Exited(137)),
        // The signal goes to the whole process group, the wrapper included.
        (
            "trap 'exit 7' TERM; kill -TERM 0; sleep 1000",
            "",
            Exited(7),
        ),
        ("kill -USR1 0", "", Signaled(10)),
        ("echo $LINENO\necho $LINENO $#", "1\n2 0\n", Exited(0)),
        (
            // Signals that were ignored before the code started don't count.
            r#"compgen -v | grep actix_sandbox; declare -F; trap | grep -v "^trap -- '' SIG"; jobs"#,
            "",
            Exited(0),
        ),
    ];
    ends(&sandbox, Language::Bash, &cases).await;
}

#[actix::test]
async fn wrapped_python_reports_how_it_ended() {
    let (_server, sandbox) = v1_sandbox().await;
    let cases = [
        ("print('hi')", "hi\n", Exited(0)),
        ("", "", Exited(0)),
        ("print('no newline', end='')", "no newline", Exited(0)),
        ("import sys; sys.exit(3)", "", Exited(3)),
        ("import os; os._exit(4)", "", Exited(4)),
        ("raise SystemExit('reason')", "", Exited(1)),
        ("print(1)\n1/0\nprint(2)", "1\n", Exited(1)),
        ("x = (", "", Exited(1)),
        (
            "import os\nos.execvp('sh', ['sh', '-c', 'exit 5'])",
            "",
            Exited(5),
        ),
        ("import os, sys\nos.close(1)\nsys.exit(6)", "", Exited(6)),
        ("import os; os.kill(os.getpid(), 9)", "", Signaled(9)),
        ("import os; os.killpg(0, 15)", "", Signaled(15)),
        ("import os; os.abort()", "", Signaled(6)),
        ("raise KeyboardInterrupt", "", Signaled(2)),
        ("import sys; sys.exit(137)", "", Exited(137)),
        (
            "import atexit\natexit.register(print, 'bye')",
            "bye\n",
            Exited(0),
        ),
        (
            "'doc'\nfrom __future__ import annotations\nprint(__doc__, __name__)",
            "doc __main__\n",
            Exited(0),
        ),
        (
            "print([it for it in dir() if it[:2] != '__'])",
            "[]\n",
            Exited(0),
        ),
        // `spawn` starts Python anew, which imports the program to find `square`.
        (
            "import multiprocessing as m\ndef square(x): return x * x\nif __name__ == '__main__':\n  m.set_start_method('spawn')\n  with m.Pool(2) as pool: print(pool.map(square, [2, 3]))",
            "[4, 9]\n",
            Exited(0),
        ),
    ];
    ends(&sandbox, Language::Python, &cases).await;
}

#[actix::test]
async fn errors_read_as_without_a_wrapper() {
    let (_server, sandbox) = v1_sandbox().await;
    let code = "def f():\n  raise ValueError('é')\n\nf()";
    let stderr = output(sandbox.command(Language::Python, code)).await.stderr;
    let expected = "Traceback (most recent call last):\n  File \"<code>\", line 4, in <module>\n  File \"<code>\", line 2, in f\nValueError: é\n";
    assert_eq!(stderr, expected);
    let failed = output(sandbox.command(Language::Bash, "\nno-such-command-there-is")).await;
    assert!(
        failed
            .stderr
            .ends_with(b"line 2: no-such-command-there-is: command not found\n"),
        "{failed:?}"
    );
    let failed = output(sandbox.command(Language::Bash, "kill -SEGV $$")).await;
    assert_eq!(failed.stderr, "");
    let error = failed.error_for_status().expect_err("a signal");
    assert_eq!(error.kind(), ErrorKind::ProcessFailed);
}

#[actix::test]
async fn arguments_and_variables_arrive_as_they_are() {
    let (_server, sandbox) = v1_sandbox().await;
    let every: String = (1..=127).map(char::from).collect();
    let args = [
        "a b",
        "",
        "q'\"\\'$HOME`id`",
        "two\nlines\n",
        "-n",
        "--",
        "é✓😀@@code@@",
        &every,
    ];
    let expected: String = args.map(|arg| format!("<{arg}>")).concat();
    let vars = [
        ("PLAIN", "it's \"quoted\"\n$HOME é"),
        ("dotted.name", "1"),
        ("EMPTY", ""),
        ("UID", "x"),
        ("POSIXLY_CORRECT", "1"),
    ];
    let bash = (
        Language::Bash,
        r#"printf '<%s>' "$@"; printf '|%s' "$PLAIN" "${EMPTY-unset}"; printenv -0 dotted.name | tr '\0' '!'"#,
    );
    let python = (
        Language::Python,
        "import os, sys\nsys.stdout.write(''.join('<%s>' % arg for arg in sys.argv[1:]) + '|' + os.environ['PLAIN'] + '|' + os.environ['EMPTY'] + os.environ['dotted.name'] + '!')",
    );
    for (language, code) in [bash, python] {
        let command = sandbox.command(language, code).args(args).envs(vars);
        let output = output(command).await;
        let expected = format!("{expected}|{}|1!", vars[0].1);
        assert_eq!(
            (output.stdout, output.stderr, output.end),
            (expected.into(), "".into(), Exited(0))
        );
    }
    // Larger than the kernel's limit for one argument.
    for (language, code) in [
        (Language::Bash, "echo ran"),
        (Language::Python, "print('ran')"),
    ] {
        let output = output(sandbox.command(language, code).arg("x".repeat(200_000))).await;
        let stderr = output.stderr_lossy();
        assert!(
            stderr.contains("rgument list too long")
                // The error on gVisor.
                || stderr.contains("File name too long"),
            "{stderr}"
        );
        assert_eq!(output.stdout, "");
        assert!(matches!(output.end, Exited(125 | 126)), "{:?}", output.end);
    }
}

#[actix::test]
async fn code_runs_in_its_directory_or_the_error_names_it() {
    let (_server, sandbox) = v1_sandbox_on(crate::support::backend::on_the_host()).await;
    let directory = tempfile::tempdir().unwrap();
    let real = directory.path().canonicalize().unwrap();
    let odd = real.join("it's a\n\"dir\"");
    std::fs::create_dir(&odd).unwrap();
    let made = "mkdir -p -- sub/deep -; echo made";
    assert_eq!(
        output(sandbox.command(Language::Bash, made)).await.stdout,
        "made\n"
    );
    let home = output(sandbox.command(Language::Bash, "printf %s \"$PWD\"")).await;
    let home = home.stdout_lossy();
    let bash = (
        Language::Bash,
        "echo ran >&2; printf %s \"$PWD\"; printf %s \"${OLDPWD-}\"",
    );
    let python = (
        Language::Python,
        "import os, sys; print('ran', file=sys.stderr); print(os.getcwd(), end='')",
    );
    for (language, code) in [bash, python] {
        let command = |cwd: &str| output(sandbox.command(language.clone(), code).cwd(cwd));
        let text = |path: &std::path::Path| path.to_str().unwrap().to_owned();
        for (cwd, expected) in [
            (text(&real), text(&real)),
            (text(&odd), text(&odd)),
            ("sub/deep".into(), format!("{home}/sub/deep")),
            ("-".into(), format!("{home}/-")),
            (String::new(), home.to_string()),
        ] {
            let output = command(&cwd).await;
            assert_eq!(
                (output.stdout, output.end),
                (expected.into(), Exited(0)),
                "{cwd}"
            );
        }
        for cwd in ["not-there", "/not/there", "it's not there"] {
            let output = command(cwd).await;
            let stderr = output.stderr_lossy();
            assert!(
                stderr.contains(cwd) && stderr.contains("the code did not run"),
                "{stderr}"
            );
            assert_eq!((&*output.stdout, output.end), (&b""[..], FAILED), "{cwd}");
        }
    }
}

#[actix::test]
async fn the_code_reads_its_input() {
    let (_server, sandbox) = v1_sandbox().await;
    let bash = (Language::Bash, "read a; read b; echo \"$a-$b\"; exit 3");
    let python = (
        Language::Python,
        "import sys\nprint(input() + '-' + input())\nsys.exit(3)",
    );
    for (language, code) in [bash, python] {
        let command = sandbox.command(language, code).wrap_for_v1(true);
        let process = within("the start", command.spawn()).await.expect("started");
        for text in ["o", "ne\ntwo", "\n"] {
            process.write_to_stdin(text).await.expect("written");
        }
        let stdout = within("its output", process.stdout().read_all()).await;
        assert_eq!(stdout.expect("whole"), "one-two\n");
        assert_eq!(within("the end", process.wait()).await.unwrap(), Exited(3));
    }
}

/// 1 MiB of code with characters that need quoting.
#[actix::test]
async fn large_code_runs() {
    let (_server, sandbox) = v1_sandbox().await;
    let lines = |line: &str| line.repeat(1024 * 1024 / line.len());
    let bash = (Language::Bash, lines(": 'it'\\''s é \\ \"$HOME\" $(:'\n"));
    let python = (Language::Python, lines("x = 'it\\'s é \\\\'\n"));
    for (language, text) in [bash, python] {
        let last = match language {
            Language::Bash => "echo \"done $(( LINENO ))\"; exit 9",
            _ => "import sys\nprint('done', sys._getframe().f_lineno)\nsys.exit(9)",
        };
        let count = text.lines().count() + if language == Language::Bash { 1 } else { 2 };
        let output = output(sandbox.command(language, format!("{text}{last}"))).await;
        assert_eq!((&*output.stderr_lossy(), &output.end), ("", &Exited(9)));
        assert_eq!(output.stdout, format!("done {count}\n"));
    }
}

/// The code prints the wrapper's source (`$0`, `__file__`) and a text that looks like a trailer.
#[actix::test]
async fn a_program_that_prints_its_own_source_is_no_trailer() {
    let (_server, sandbox) = v1_sandbox().await;
    let bash = (
        Language::Bash,
        "cat -- \"$0\"; printf '\\036actix-sandbox %032d exit 0\\036' 0; printf '\\036actix'; exit 3",
    );
    let python = (
        Language::Python,
        "import sys\nsys.stdout.write(open(__file__).read() + '\\036actix-sandbox ' + '0' * 32 + ' exit 0\\036\\036actix')\nsys.exit(3)",
    );
    for (language, code) in [bash, python] {
        let output = output(sandbox.command(language, code)).await;
        assert_eq!(output.end, Exited(3));
        let zeros = "0".repeat(32);
        let printed = format!("\u{1e}actix-sandbox {zeros} exit 0\u{1e}\u{1e}actix");
        let stdout = output.stdout_lossy();
        assert!(stdout.ends_with(&printed), "{stdout}");
        assert!(stdout.starts_with("# The code"), "{stdout}");
    }
}

#[actix::test]
async fn wrapped_code_can_be_killed() {
    let (_server, sandbox) = v1_sandbox_on(crate::support::backend::on_the_host()).await;
    let bash = (Language::Bash, "echo $$; while :; do :; done");
    let python = (
        Language::Python,
        "import os\nprint(os.getpid())\nwhile True: pass",
    );
    for (language, code) in [bash, python] {
        let command = sandbox.command(language, code).wrap_for_v1(true);
        let process = within("the start", command.spawn()).await.expect("started");
        let pid = within("its pid", process.stdout().lines().next())
            .await
            .unwrap()
            .unwrap();
        within("the kill", process.kill()).await.expect("killed");
        assert_eq!(
            within("the end", process.wait()).await.unwrap(),
            ProcessEnd::Killed
        );
        is_gone(&pid).await;
    }
}

/// Deployed servers kill only the process that they started, which is the wrapper. Here the code
/// itself kills the wrapper.
#[actix::test]
async fn code_dies_with_its_wrapper_and_the_end_is_unknown() {
    let (_server, sandbox) = v1_sandbox_on(crate::support::backend::on_the_host()).await;
    let bash = (
        Language::Bash,
        "echo $$; kill -KILL $PPID; while :; do :; done",
    );
    let python = (
        Language::Python,
        "import os\nprint(os.getpid())\nos.kill(os.getppid(), 9)\nwhile True: pass",
    );
    for (language, code) in [bash, python] {
        let output = output(sandbox.command(language, code)).await;
        assert_eq!(output.end, ProcessEnd::Unknown);
        is_gone(output.stdout_lossy().trim()).await;
    }
    // The wrapper passes SIGTERM on to the code.
    let code = "trap 'echo asked; exit 8' TERM; kill -TERM $PPID; while :; do sleep 0.01; done";
    ends(&sandbox, Language::Bash, &[(code, "asked\n", Exited(8))]).await;
}

/// Waits until a process is gone or is a zombie.
async fn is_gone(pid: &str) {
    let number: u32 = pid.parse().expect("a pid");
    let runs = || {
        let stat = std::fs::read_to_string(format!("/proc/{number}/stat")).unwrap_or_default();
        stat.rsplit(") ")
            .next()
            .is_some_and(|rest| !rest.is_empty() && !rest.starts_with('Z'))
    };
    let gone = async {
        while runs() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    within("the end of the code", gone).await;
}

#[actix::test]
async fn output_after_the_end_of_wrapped_code_is_delivered() {
    let (_server, sandbox) = v1_sandbox().await;
    let code = "wrapper=$PPID; (while kill -0 $wrapper; do :; done; echo late) 2>/dev/null & echo first; exit 4";
    for _ in 0..10 {
        let output = output(sandbox.command(Language::Bash, code)).await;
        assert_eq!(output.end, Exited(4));
        assert_eq!(output.stdout, "first\nlate\n");
    }
}

/// A child fills the stdout pipe and makes it non-blocking.
#[actix::test]
async fn a_full_pipe_takes_the_trailer_when_it_is_read() {
    let (_server, sandbox) = v1_sandbox().await;
    let code = "python3 -c '\nimport os\nos.set_blocking(1, False)\ntry:\n  while True: os.write(1, b\"y\" * 999)\nexcept BlockingIOError: pass\n'; exit 3";
    let policy = OutputPolicy {
        budget: 4096,
        ..OutputPolicy::default()
    };
    let command = sandbox.command(Language::Bash, code).output_policy(policy);
    let process = within("the start", command.wrap_for_v1(true).spawn())
        .await
        .expect("started");
    let stdout = within("its output", process.stdout().read_all())
        .await
        .expect("whole");
    assert!(
        stdout.iter().all(|&byte| byte == b'y') && stdout.len() >= 4096,
        "{}",
        stdout.len()
    );
    assert_eq!(within("the end", process.wait()).await.unwrap(), Exited(3));
}

#[actix::test]
async fn impossible_requests_are_refused_and_run_nothing() {
    let (_server, sandbox) = v1_sandbox().await;
    let directory = tempfile::tempdir().unwrap();
    let trace = directory.path().join("ran");
    let command = || sandbox.command(Language::Bash, format!("touch '{}'", trace.display()));
    let ruby = sandbox.command("ruby", "puts 1");
    for (command, feature) in [
        (command().arg("x"), "arguments"),
        (command().env("A", "b"), "environment variables"),
        (command().cwd("/"), "working directory"),
        (
            command().timeout(Duration::from_secs(1)),
            "timeout of a process",
        ),
        (command().stdin("x"), "end of input"),
        (
            command().timeout(Duration::from_secs(1)).wrap_for_v1(true),
            "timeout of a process",
        ),
        (command().stdin("x").wrap_for_v1(true), "end of input"),
        (command().arg("a\0b").wrap_for_v1(true), "NUL byte"),
        (
            command().env("A=B", "c").wrap_for_v1(true),
            "environment variable",
        ),
        (
            ruby.wrap_for_v1(true),
            "other languages than bash and python",
        ),
    ] {
        let error = within("the answer", command.spawn())
            .await
            .expect_err(feature);
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
        assert_eq!(error.effect(), Effect::NotApplied);
        assert!(error.to_string().contains(feature), "{error}");
    }
    let plain = within(
        "the output",
        sandbox.command(Language::Bash, "exit 3").output(),
    )
    .await;
    assert_eq!(
        plain.expect("ran").end,
        ProcessEnd::Unknown,
        "not asked for"
    );
    assert!(!trace.exists());
    sandbox.kill().await.expect("killed");
    let error = command()
        .timeout(Duration::from_secs(1))
        .wrap_for_v1(true)
        .spawn()
        .await;
    assert_eq!(error.expect_err("over").kind(), ErrorKind::WrongState);
}

/// v2 has all of these options in the protocol.
#[actix::test]
async fn on_v2_nothing_is_wrapped() {
    let (_server, sandbox) = crate::support::sandbox().await;
    let code = "echo \"${BASH_EXECUTION_STRING-as it is} $1\"; cat; exit 3";
    let command = sandbox.command(Language::Bash, code).arg("x").stdin("in");
    let output = output(command.timeout(Duration::from_secs(60))).await;
    assert_eq!(
        (&*output.stdout_lossy(), &output.end),
        ("as it is x\nin", &Exited(3))
    );
}

/// One cut while the code runs, and one during which the code ends.
#[actix::test]
async fn the_exit_code_survives_reconnects() {
    let server = v1_server(crate::support::backend::on_the_host()).await;
    let mut proxy = Proxy::start(&server, |_| Plan::default()).await;
    let sandbox = Sandbox::create(proxy.url())
        .enable_auto_reconnect(true)
        .reconnect_policy(ReconnectPolicy {
            initial: Duration::from_millis(2),
            max: Duration::from_millis(20),
            ..ReconnectPolicy::default()
        })
        .await
        .expect("a sandbox");
    let mut events = events(&sandbox).await;
    let mut next = async |wanted: fn(&SandboxEvent) -> bool| {
        while !wanted(&within("an event", events.recv()).await.expect("an event")) {}
    };
    let directory = tempfile::tempdir().unwrap();
    let (go, done) = (directory.path().join("go"), directory.path().join("done"));
    let code = format!(
        "echo ready; read line; echo \"got $line\"; until [ -e {} ]; do sleep 0.01; done; seq 1 1000; touch {}; exit 5",
        go.display(),
        done.display()
    );
    let command = sandbox.command(Language::Bash, code).wrap_for_v1(true);
    let process = within("the start", command.spawn()).await.expect("started");
    let mut lines = process.stdout().lines();
    assert_eq!(
        within("a line", lines.next()).await.unwrap().unwrap(),
        "ready"
    );

    proxy.cut();
    next(|event| *event == SandboxEvent::Reconnected).await;
    process.write_to_stdin("it\n").await.expect("written");
    assert_eq!(
        within("a line", lines.next()).await.unwrap().unwrap(),
        "got it"
    );

    proxy.refuse().await;
    proxy.cut();
    next(|event| matches!(event, SandboxEvent::Reconnecting { .. })).await;
    std::fs::write(&go, "").unwrap();
    let ended = async {
        while !done.exists() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    within("the script's end", ended).await;
    proxy.accept().await;
    for number in 1..=1000 {
        let line = within("a line", lines.next()).await.unwrap().unwrap();
        assert_eq!(line, number.to_string());
    }
    assert!(within("the end", lines.next()).await.is_none());
    assert_eq!(within("the end", process.wait()).await.unwrap(), Exited(5));
}

/// Runs a wrapped program directly, as a file or as an argument, with only `PATH` in its
/// environment.
fn run_alone(interpreter: &str, program: &str, path: &str, as_argument: bool) -> (String, String) {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("main");
    std::fs::write(&file, program).unwrap();
    let found = std::env::split_paths(&std::env::var_os("PATH").unwrap())
        .map(|directory| directory.join(interpreter))
        .find(|file| file.exists());
    let mut command = std::process::Command::new(found.expect(interpreter));
    match as_argument {
        true => command.arg("-c").arg(program),
        false => command.arg(&file),
    };
    let output = command
        .env_clear()
        .env("PATH", path)
        .stdin(std::process::Stdio::null())
        .output()
        .expect("ran");
    let text = |bytes| String::from_utf8(bytes).expect("text");
    (text(output.stdout), text(output.stderr))
}

#[test]
fn wrapped_code_cannot_find_the_nonce() {
    let path = std::env::var("PATH").unwrap();
    let nonce = Nonce::new(0xfeed_beef_0123_4567_89ab_cdef_dead_c0de);
    let options = ExecOptions {
        args: vec!["an argument".into()],
        env: vec![("A_VARIABLE".into(), "x".into())],
        ..ExecOptions::default()
    };
    let bash = (
        "bash",
        "set; declare -f; tr '\\0' '\\n' < /proc/$$/environ; tr '\\0' '\\n' < /proc/$$/cmdline; ls -l /proc/$$/fd >&2",
    );
    let python = (
        "python3",
        "import gc, os\nprint(gc.get_objects(), globals(), os.environ, open('/proc/self/cmdline').read())",
    );
    for ((interpreter, code), language) in [(bash, "bash"), (python, "python")] {
        let program = wrap(language, code, &options, &nonce).expect("wrapped");
        for as_argument in [false, true] {
            let (stdout, stderr) = run_alone(interpreter, &program, &path, as_argument);
            let trailer = format!("\u{1e}actix-sandbox {nonce} exit 0\u{1e}");
            let printed = stdout.strip_suffix(&trailer).expect(&stdout);
            assert!(printed.contains("an argument") && printed.contains("A_VARIABLE"));
            assert!(!printed.contains(&nonce.to_string()), "{printed}");
            // Python sets `LC_CTYPE`, and its children would inherit it.
            assert!(
                language == "python" || !printed.contains("LC_CTYPE"),
                "{printed}"
            );
            // The descriptor through which bash got the code is closed.
            assert!(!stderr.contains(" 9 -> "), "{stderr}");
        }
    }
}

#[test]
fn without_python_bash_says_what_it_can() {
    let nowhere = tempfile::tempdir().unwrap();
    let path = nowhere.path().to_str().unwrap();
    let nonce = Nonce::new(1);
    let with = |code: &str, options: &ExecOptions| {
        let program = wrap("bash", code, options, &nonce).expect("wrapped");
        run_alone("bash", &program, path, false)
    };
    let ending = |end: &str| format!("\u{1e}actix-sandbox {nonce} exit {end}\u{1e}");
    let options = ExecOptions {
        args: vec!["it's".into()],
        ..ExecOptions::default()
    };
    for (code, printed, end) in [
        ("echo \"$1\"; exit 3", "it's\n", "3"),
        ("exec >&-; exit 4", "", "4"),
        ("kill -KILL $$", "", "137"),
    ] {
        let (stdout, _) = with(code, &options);
        assert_eq!(stdout, format!("{printed}{}", ending(end)), "{code}");
    }
    let cwd = Some("/not/there".to_owned());
    let (stdout, stderr) = with("echo ran", &ExecOptions { cwd, ..options });
    assert_eq!(stdout, ending("125"));
    assert!(stderr.contains("/not/there"), "{stderr}");
}
