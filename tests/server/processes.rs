//! The processes of an exec: their output, their input, their end, and what they leave behind.

use std::time::Duration;

use crate::support::{
    backend,
    raw_client::{Client, PATIENCE, eventually, processes_of},
};
use actix_sandbox::server::LocalServer;
use futures::future::join_all;
use serde_json::json;

#[tokio::test]
async fn a_kill_also_ends_children_in_other_sessions() {
    let server = backend::with_visible_processes().start().await.unwrap();
    let (mut client, identity) = Client::create(&server).await;
    client
        .exec(
            "bash",
            "for i in 1 2 3 4 5 6 7 8; do sleep 1000 & done
             setsid sleep 1000 &
             (setsid bash -c 'sleep 1000 & setsid sleep 1000; true' &)
             (trap '' TERM INT HUP; sleep 1000; true) &
             echo ready; wait",
        )
        .await;
    assert_eq!(client.line().await, "SANDBOX_EXECUTION_RUNNING");
    assert_eq!(client.line().await, "stdout: ready\n");
    eventually("all have begun", || processes_of(&identity).len() >= 14).await;
    client.action("kill_process").await;
    // The shell died before its children: otherwise it would have reported their deaths.
    assert_eq!(
        client.until("SANDBOX_EXECUTION_FORCE_KILLED").await,
        ["SANDBOX_EXECUTION_FORCE_KILLED"]
    );
    // The confirmation comes only after all of them are gone.
    assert_eq!(processes_of(&identity), [0_u32; 0]);
    assert_eq!(client.line().await, "SANDBOX_EXECUTION_DONE");
    assert_eq!(client.bash("echo next").await, "next\n");
    server.stop().await;
}

#[tokio::test]
async fn a_killed_sandbox_takes_its_background_processes_with_it() {
    let server = backend::with_visible_processes().start().await.unwrap();
    let (mut client, identity) = Client::create(&server).await;
    // One process clears its environment: the server finds it by its directory. One names another
    // exec in its environment. The unusual sleep time identifies the former on this machine.
    let unlike = format!("987.{}", std::process::id());
    let code = format!(
        "exec > log 2>&1; sleep 1000 & setsid sleep 1000 & env -i setsid sleep {unlike} &
        cd /; ACTIX_SANDBOX_EXEC=x setsid sleep 1000 &"
    );
    assert_eq!(client.bash(&code).await, "");
    let count = format!(
        "cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' ' ' | grep -o 'slee[p] {unlike}' | wc -l"
    );
    let all = format!("until [ $({count}) = 1 ]; do sleep 0.01; done");
    assert_eq!(client.bash(&all).await, "");
    eventually("three are marked", || processes_of(&identity).len() == 3).await;
    client.kill_sandbox().await;
    assert_eq!(processes_of(&identity), [0_u32; 0]);

    let (mut other, _) = Client::create(&server).await;
    assert_eq!(other.bash(&count).await, "0\n");
    server.stop().await;
}

#[tokio::test]
async fn a_background_child_that_holds_the_output_lives_on() {
    let server = backend::with_visible_processes()
        .max_run_time(backend::LONG_ENOUGH_TO_BEGIN)
        .start()
        .await
        .unwrap();
    let (mut client, identity) = Client::create(&server).await;
    let code = "(until [ -e go ]; do sleep 0.01; done; echo ignored; touch survived; exec sleep 1000) & echo now";
    assert_eq!(client.bash(code).await, "now\n");
    // The child still writes to a pipe that is no longer read. That must not kill it.
    assert_eq!(
        client
            .bash("touch go; until [ -e survived ]; do sleep 0.01; done; echo it did")
            .await,
        "it did\n"
    );
    // `touch` may still be ending.
    eventually("only the child is left", || {
        processes_of(&identity).len() == 1
    })
    .await;
    client.kill_sandbox().await;
    server.stop().await;
}

#[tokio::test]
async fn pieces_written_close_together_leave_as_one_message() {
    let server = LocalServer::start().await.unwrap();
    let (mut client, _) = Client::create(&server).await;
    let code = "import sys, time
for word in ['one ', 'two ', 'three']: sys.stdout.write(word); sys.stdout.flush()
time.sleep(0.3)
print('later')";
    let mut joined = false;
    // On a busy machine, the writes may be far apart. One of the attempts must succeed.
    for _ in 0..100 {
        client.exec("python", code).await;
        assert_eq!(client.line().await, "SANDBOX_EXECUTION_RUNNING");
        let first = client.line().await;
        let rest = client.until("SANDBOX_EXECUTION_DONE").await;
        joined = first == "stdout: one two three" && rest[0] == "stdout: later\n";
        if joined {
            break;
        }
    }
    assert!(joined);
    server.stop().await;
}

#[tokio::test]
async fn output_comes_while_the_process_runs() {
    let server = LocalServer::start().await.unwrap();
    let (mut client, _) = Client::create(&server).await;
    client
        .exec("python", "print('before'); input(); print('after')")
        .await;
    assert_eq!(client.line().await, "SANDBOX_EXECUTION_RUNNING");
    client.hears("before\n").await;
    client.stdin("\n").await;
    client.hears("after\n").await;
    server.stop().await;
}

#[tokio::test]
async fn code_points_are_never_split_and_other_bytes_are_replaced() {
    let server = LocalServer::start().await.unwrap();
    let (mut client, _) = Client::create(&server).await;
    let slow = "import sys, time
for byte in 'é€😀'.encode():
    sys.stdout.buffer.write(bytes([byte])); sys.stdout.buffer.flush(); time.sleep(0.02)";
    assert_eq!(client.run("python", slow).await[1], "stdout: é€😀");
    assert_eq!(
        client.bash(r"printf '\xff\xfe'; echo END").await,
        "\u{FFFD}\u{FFFD}END\n"
    );
    assert_eq!(
        client.bash(r"printf 'half \xe2\x82'").await,
        "half \u{FFFD}"
    );
    let lines = client
        .run(
            "python",
            "import sys; sys.stdout.write('a' + 'é' * 500_000 + 'END')",
        )
        .await;
    assert_eq!(lines[1], format!("stdout: a{}END", "é".repeat(500_000)));
    server.stop().await;
}

#[tokio::test]
async fn any_code_runs_or_says_why_not() {
    let server = LocalServer::start().await.unwrap();
    let (mut client, _) = Client::create(&server).await;
    for language in ["bash", "python"] {
        assert_eq!(
            client.run(language, "").await,
            ["SANDBOX_EXECUTION_RUNNING", "SANDBOX_EXECUTION_DONE"]
        );
        let long = format!("{}\necho=1\nprint=2\n", "# ten mebibytes\n".repeat(655_360));
        assert!(long.len() > 10 << 20);
        assert_eq!(client.run(language, &long).await.len(), 2);
    }
    let lines = client.run("python", "print('a\0b')").await;
    assert!(
        lines[1].contains("null byte")
            || lines[1].contains("a\0b")
            || lines[1].contains("unterminated string"),
        "{lines:?}"
    );
    let lines = client.run("bash", "echo a\0b").await;
    assert!(
        lines[1].contains("binary") || lines[1].contains("ab"),
        "{lines:?}"
    );
    assert_eq!(client.bash("echo alive").await, "alive\n");
    server.stop().await;
}

#[tokio::test]
async fn a_sandbox_has_a_place_of_its_own_and_a_clean_environment() {
    let server = LocalServer::start().await.unwrap();
    let (mut one, identity) = Client::create(&server).await;
    let (mut other, _) = Client::create(&server).await;
    assert_eq!(
        one.bash(r#"[ "$PWD" = "$HOME" ] && [ -z "$(find -mindepth 1)" ] && touch mine && find "$HOME" "$TMPDIR" -maxdepth 0 -printf '%m\n'"#)
            .await,
        "700\n700\n"
    );
    assert_eq!(one.bash("find -mindepth 1").await, "./mine\n");
    assert_eq!(other.bash("find -mindepth 1").await, "");
    let environment = one.bash("env | cut -d= -f1 | sort | tr '\\n' ' '").await;
    // An agent needs no markers to find the processes of its sandbox.
    let [exec, names] = match backend::is("namespace") || backend::is("gvisor") {
        true => ["", ""],
        false => [
            "ACTIX_SANDBOX_EXEC ",
            "ACTIX_SANDBOX_NAME ACTIX_SANDBOX_SERVER ",
        ],
    };
    assert_eq!(
        environment,
        format!(
            "{exec}ACTIX_SANDBOX_ID {names}HOME LANG LOGNAME PATH PWD PYTHONUNBUFFERED SHLVL TMPDIR \
             USER _ "
        )
    );
    assert!(!one.bash("env").await.contains(&identity.token));
    one.bash("mkdir -p locked/deep; touch locked/deep/file; chmod 0 locked/deep locked")
        .await;
    let home = one.bash("echo -n $HOME").await;
    one.kill_sandbox().await;
    assert!(!std::path::Path::new(&home).exists());
    server.stop().await;
}

#[tokio::test]
async fn a_process_that_never_reads_can_be_killed_behind_much_input() {
    let server = LocalServer::builder()
        .stdin_buffer(2 << 20)
        .start()
        .await
        .unwrap();
    let (mut client, _) = Client::create(&server).await;
    client.exec("bash", "sleep 1000").await;
    assert_eq!(client.line().await, "SANDBOX_EXECUTION_RUNNING");
    let chunk = "x".repeat(256 * 1024);
    for _ in 0..12 {
        client.stdin(&chunk).await;
    }
    client.action("kill_process").await;
    let lines = client.until("SANDBOX_EXECUTION_DONE").await;
    assert_eq!(lines[lines.len() - 2], "SANDBOX_EXECUTION_FORCE_KILLED");
    // Input that didn't fit is reported, not lost silently.
    assert!(
        lines.contains(&"SANDBOX_STDIN_ERROR".to_owned()),
        "{lines:?}"
    );
    assert!(
        lines
            .iter()
            .any(|line| line.starts_with("error: The input was not accepted: ")),
        "{lines:?}"
    );
    server.stop().await;
}

#[tokio::test]
async fn much_input_reaches_a_process_that_reads() {
    let server = LocalServer::builder()
        .stdin_buffer(2 << 20)
        .start()
        .await
        .unwrap();
    let (mut client, _) = Client::create(&server).await;
    let code = "import sys, hashlib
print('reading', flush=True)
print(hashlib.md5(sys.stdin.buffer.read(16 << 20)).hexdigest())";
    client.exec("python", code).await;
    assert_eq!(client.line().await, "SANDBOX_EXECUTION_RUNNING");
    // The server drops input that a process doesn't begin to read within a second.
    client.hears("reading\n").await;
    let chunk = "x".repeat(64 * 1024);
    for _ in 0..256 {
        client.stdin(&chunk).await;
    }
    let lines = client.until("SANDBOX_EXECUTION_DONE").await;
    assert_eq!(
        lines,
        [
            "stdout: d4760a6c6500b8c7fbb09e4c65bc558a\n",
            "SANDBOX_EXECUTION_DONE"
        ]
    );
    server.stop().await;
}

#[tokio::test]
async fn an_exec_that_runs_too_long_is_killed_and_the_client_told() {
    let server = LocalServer::builder()
        .max_run_time(backend::LONG_ENOUGH_TO_BEGIN)
        .start()
        .await
        .unwrap();
    let (mut client, identity) = Client::create(&server).await;
    client
        .exec("bash", "echo begun; sleep 1000 & sleep 1000")
        .await;
    let lines = client.until("SANDBOX_EXECUTION_DONE").await;
    assert_eq!(
        lines,
        [
            "SANDBOX_EXECUTION_RUNNING",
            "stdout: begun\n",
            "SANDBOX_EXECUTION_ERROR",
            "error: The execution was killed: it ran longer than the 5 seconds that this server allows.",
            "SANDBOX_EXECUTION_FORCE_KILLED",
            "SANDBOX_EXECUTION_DONE"
        ]
    );
    assert_eq!(processes_of(&identity), [0_u32; 0]);
    assert_eq!(client.bash("echo next").await, "next\n");
    server.stop().await;
}

#[tokio::test]
async fn a_client_that_does_not_read_pauses_only_its_process() {
    let server = backend::with_visible_processes()
        .output_buffer(256 * 1024)
        .start()
        .await
        .unwrap();
    let (mut deaf, identity) = Client::create(&server).await;
    deaf.exec(
        "bash",
        "yes 0123456789abcdef | head -c 500000000 & sleep 1000",
    )
    .await;

    // Other sandboxes are not affected.
    let (mut other, other_identity) = Client::create(&server).await;
    assert_eq!(other.bash("echo fine").await, "fine\n");
    // The writer is paused: it sleeps in a write to a full pipe.
    let writer_sleeps = || {
        processes_of(&identity).into_iter().any(|pid| {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            stat.contains("(head) S")
                && std::fs::read_to_string(format!("/proc/{pid}/wchan"))
                    .is_ok_and(|wchan| wchan.contains("pipe") || wchan == "0")
        })
    };
    eventually("the writer is paused", writer_sleeps).await;

    // The kill gets through, although its answer can't be delivered yet.
    deaf.action("kill_process").await;
    eventually("the process is dead", || processes_of(&identity).is_empty()).await;
    other.kill_sandbox().await;
    assert_eq!(processes_of(&other_identity), [0_u32; 0]);

    // When the client starts to read, it gets the earlier output, then the answer.
    let lines = tokio::time::timeout(PATIENCE, deaf.until("SANDBOX_EXECUTION_DONE"))
        .await
        .unwrap();
    assert_eq!(lines[lines.len() - 2], "SANDBOX_EXECUTION_FORCE_KILLED");
    assert!(lines[1].len() < 64 << 20, "{}", lines[1].len());
    server.stop().await;
}

#[tokio::test]
async fn a_client_that_does_not_read_can_kill_its_sandbox() {
    let server = backend::with_visible_processes().start().await.unwrap();
    let (mut deaf, identity) = Client::create(&server).await;
    deaf.exec("bash", "yes").await;
    eventually("it runs", || processes_of(&identity).len() >= 2).await;
    deaf.action("kill_sandbox").await;
    eventually("the processes are dead", || {
        processes_of(&identity).is_empty()
    })
    .await;
    let lines = deaf.until("close 1000").await;
    assert_eq!(lines[lines.len() - 2], "SANDBOX_KILLED");
    server.stop().await;
}

#[tokio::test]
async fn a_client_that_does_not_read_runs_into_the_limits_too() {
    let server = LocalServer::builder()
        .max_run_time(Duration::from_millis(300))
        .max_idle_timeout(backend::LONG_ENOUGH_TO_BEGIN)
        .start()
        .await
        .unwrap();
    let (mut deaf, identity) = Client::create(&server).await;
    deaf.exec("bash", "yes").await;
    // Wait for the status: on a busy machine, the kill may come before the process is seen.
    assert_eq!(deaf.line().await, "SANDBOX_EXECUTION_RUNNING");
    eventually("it was killed", || processes_of(&identity).is_empty()).await;
    let mut late = Client::connect(&server, &identity.attach_path()).await;
    while late.line().await == "SANDBOX_IN_USE" {
        assert_eq!(late.line().await, "close 1011");
        tokio::time::sleep(Duration::from_millis(50)).await;
        late = Client::connect(&server, &identity.attach_path()).await;
    }
    assert_eq!(late.line().await, "SANDBOX_NOT_FOUND");
    server.stop().await;
}

#[tokio::test]
async fn many_sandboxes_are_killed_at_once() {
    let server = LocalServer::start().await.unwrap();
    let clients = join_all((0..60).map(|i| {
        let server = &server;
        async move {
            // The first sandbox may be idle until the last one is created.
            let config = json!({"idle_timeout": 1_800});
            let (mut client, identity) = Client::create_with(server, config).await;
            let lines = client
                .run("bash", &format!("sleep 1000 > log 2>&1 & echo {i}"))
                .await;
            assert!(lines.contains(&format!("stdout: {i}\n")), "{lines:?}");
            (client, identity)
        }
    }))
    .await;
    let (clients, identities): (Vec<_>, Vec<_>) = clients.into_iter().unzip();
    join_all(clients.into_iter().map(Client::kill_sandbox)).await;
    for identity in &identities {
        assert_eq!(processes_of(identity), [0_u32; 0]);
    }
    server.stop().await;
}

#[tokio::test]
async fn a_failed_start_gives_the_reason_and_keeps_the_sandbox() {
    let server = backend::on_the_host().start().await.unwrap();
    let (mut client, _) = Client::create(&server).await;
    // The server can no longer store the code of an exec.
    assert_eq!(
        client.bash("rm -r ../code; touch ../code; echo gone").await,
        "gone\n"
    );
    client.exec("bash", "echo never").await;
    let lines = client.until("SANDBOX_EXECUTION_DONE").await;
    assert_eq!(lines[0], "SANDBOX_EXECUTION_ERROR");
    assert!(
        lines[1].starts_with("error: Failed to store the code: "),
        "{lines:?}"
    );
    client.kill_sandbox().await;
    server.stop().await;
}

#[tokio::test]
async fn a_sandbox_survives_the_removal_of_its_directories() {
    let server = backend::on_the_host().start().await.unwrap();
    let (mut client, _) = Client::create(&server).await;
    assert_eq!(
        client
            .bash("rm -rf ../code ../home ../tmp; echo gone")
            .await,
        "gone\n"
    );
    assert_eq!(
        client
            .bash("pwd | xargs basename; touch $TMPDIR/x && echo fine")
            .await,
        "home\nfine\n"
    );
    client.kill_sandbox().await;
    server.stop().await;
}
