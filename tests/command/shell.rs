//! `actix-sandbox shell`, in a terminal that tmux shows and through pipes.

use std::{io::Write, process::Stdio};

use actix_sandbox::test_util::Proxy;

use crate::{
    run::assert_nothing_left,
    support::{
        cli::{Cli, Running},
        program::Program,
        tmux::{Tmux, has_prompt},
    },
};

/// A shell command that runs `actix-sandbox` as this user.
fn line(cli: &Cli, arguments: &[&str]) -> String {
    let command = cli.command(arguments);
    let variables = command.get_envs().filter_map(|(name, value)| {
        let (name, value) = (name.to_str()?, value?.to_str()?);
        Some(format!("{name}='{value}'"))
    });
    let variables = variables.collect::<Vec<_>>().join(" ");
    let program = command.get_program().to_str().unwrap();
    format!("env {variables} '{program}' {}", arguments.join(" "))
}

#[actix::test]
async fn a_full_screen_program_runs_and_follows_the_size() {
    let server = Program::start(&[]);
    let cli = Cli::new(&server.url);
    let Some(tmux) = Tmux::start(&line(&cli, &["shell"])) else {
        return;
    };
    tmux.shell().await;
    tmux.press(&["vi -u NONE notes", "Enter"]);
    tmux.wait_for("vi", |screen| screen.lines().nth(1) == Some("~"))
        .await;
    tmux.press(&["i", "written in vi", "Escape"]);
    tmux.wait_for_line("written in vi").await;
    tmux.run(&["resize-window", "-x", "100", "-y", "40"]);
    tmux.wait_for("40 lines", |screen| screen.lines().nth(37) == Some("~"))
        .await;
    tmux.press(&[":wq", "Enter"]);
    tmux.wait_for("the prompt", has_prompt).await;
    tmux.press(&["clear; stty size; cat notes; tput colors", "Enter"]);
    tmux.wait_for_line("40 100").await;
    tmux.wait_for_line("written in vi").await;
    tmux.press(&["echo a$((1)); sleep 1000", "Enter"]);
    tmux.wait_for_line("a1").await;
    tmux.press_until(&["C-c"], "the prompt", has_prompt).await;
    tmux.press(&["exit 3", "Enter"]);
    tmux.wait_for_line("left with 3").await;
    assert_nothing_left(&server, &cli).await;
}

#[actix::test]
async fn it_reconnects_while_the_user_types() {
    let server = Program::start(&[]);
    let address = server.address().parse().unwrap();
    let proxy = Proxy::builder(address).start().await.unwrap();
    let cli = Cli::new(&proxy.url_for(&server.url));
    let Some(tmux) = Tmux::start(&line(&cli, &["shell"])) else {
        return;
    };
    tmux.shell().await;
    for number in 0..5 {
        proxy.cut();
        tmux.press(&[&format!("echo line-$(({number} + 1))"), "Enter"]);
        tmux.wait_for_line(&format!("line-{}", number + 1)).await;
    }
    tmux.press(&["exit", "Enter"]);
    tmux.wait_for_line("left with 0").await;
    assert_nothing_left(&server, &cli).await;
}

#[actix::test]
async fn a_closed_terminal_ends_the_sandbox() {
    let server = Program::start(&[]);
    let cli = Cli::new(&server.url);
    let Some(tmux) = Tmux::start(&line(&cli, &["shell"])) else {
        return;
    };
    tmux.shell().await;
    drop(tmux);
    // The command ends by SIGHUP. The test is not its parent, so it asks the server.
    while cli.stdout_of(&["list", "--output", "json"]) != "[]\n" {}
    while cli.stdout_of(&["list", "--mine", "--output", "json"]) != "[]\n" {}
}

#[actix::test]
async fn a_pipe_works_as_a_terminal() {
    let server = Program::start(&[]);
    let cli = Cli::new(&server.url);
    let id = cli.create();
    let mut command = cli.command(&[
        "shell",
        &id,
        "--",
        "bash",
        "-c",
        "stty size; read a; echo $a; exit 4",
    ]);
    command.stdin(Stdio::piped());
    let mut running = Running::start(command);
    let mut stdin = running.child().stdin.take().unwrap();
    stdin.write_all(b"typed\n").unwrap();
    let ran = running.end();
    drop(stdin);
    assert_eq!(ran.status, 4, "{ran:?}");
    assert!(ran.stdout.contains("24 80"), "{ran:?}");
    assert!(ran.stdout.ends_with("typed\r\n"), "{ran:?}");
    cli.stdout_of(&["kill", &id]);
    assert_nothing_left(&server, &cli).await;
}

#[test]
fn wrong_ids_and_options_are_refused() {
    let server = Program::start(&[]);
    let cli = Cli::new(&server.url);
    let ran = cli.run(&["shell", "missing"]);
    assert_eq!(ran.status, 125);
    assert!(ran.stderr.contains("list --mine"), "{ran:?}");
    assert_eq!(cli.run(&["shell", "id", "--snapshot", "x"]).status, 2);
    let ran = cli.run(&["shell", "--", "/missing/program"]);
    assert_eq!(ran.status, 125);
    assert!(ran.stderr.contains("/missing/program"), "{ran:?}");
}
