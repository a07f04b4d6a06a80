//! Real programs in a terminal, which tmux shows: the example `terminal` connects them.

use std::path::PathBuf;

use crate::support::{
    backend,
    tmux::{Tmux, has_prompt},
};

/// The example `terminal`, which `cargo test` builds, too.
fn example() -> PathBuf {
    let this = std::env::current_exe().unwrap();
    let target = this.parent().and_then(|deps| deps.parent()).unwrap();
    target.join("examples/terminal")
}

/// Runs the example in tmux, unless one of them is missing.
fn start(arguments: &str) -> Option<Tmux> {
    let example = example();
    if !example.exists() {
        println!("not tried: this needs {}", example.display());
        assert!(std::env::var_os("CI_BACKENDS").is_none());
        return None;
    }
    Tmux::start(&format!("{} {arguments}", example.display()))
}

#[actix::test]
async fn the_repl_of_python_runs_in_a_terminal() {
    let Some(tmux) = start("python3 -q") else {
        return;
    };
    tmux.wait_for("the prompt", |screen| screen.contains(">>>"))
        .await;
    tmux.press(&["6 * 7", "Enter"]);
    tmux.wait_for_line("42").await;
    // The history of the line editor, by a key that sends several bytes.
    tmux.press(&["Up", "BSpace", "8", "Enter"]);
    tmux.wait_for_line("48").await;
    tmux.press(&["while True: pass", "Enter", "Enter"]);
    tmux.press_until(&["C-c"], "KeyboardInterrupt", |screen| {
        screen.contains("KeyboardInterrupt")
    })
    .await;
    tmux.press(&["exit(5)", "Enter"]);
    tmux.wait_for_line("left with 1").await;
}

#[actix::test]
async fn vi_edits_a_file_and_follows_the_size_of_the_window() {
    let Some(tmux) = start("") else { return };
    tmux.shell().await;
    tmux.press(&["vi -u NONE notes", "Enter"]);
    tmux.wait_for("vi", |screen| screen.lines().nth(1) == Some("~"))
        .await;
    tmux.press(&["i", "first line", "Enter", "zweite Zeile: ä", "Escape"]);
    tmux.wait_for_line("zweite Zeile: ä").await;
    tmux.run(&["resize-window", "-x", "100", "-y", "40"]);
    tmux.wait_for("40 lines", |screen| screen.lines().nth(37) == Some("~"))
        .await;
    tmux.press(&[":wq", "Enter"]);
    // vi drops the keys that come while it ends.
    tmux.wait_for("the prompt", has_prompt).await;
    tmux.press(&["clear; stty size; cat notes", "Enter"]);
    tmux.wait_for_line("40 100").await;
    tmux.wait_for_line("zweite Zeile: ä").await;
}

#[actix::test]
async fn top_shows_what_runs_and_ends_by_a_key() {
    if backend::is("gvisor") {
        // `top` needs TCSETSF, a request to a terminal that Debian's runsc does not know.
        return;
    }
    let Some(tmux) = start("") else { return };
    tmux.shell().await;
    tmux.press(&["top -d 0.5", "Enter"]);
    tmux.wait_for("top", |screen| {
        screen.starts_with("top - ") && screen.contains("COMMAND")
    })
    .await;
    tmux.press(&["q"]);
    tmux.wait_for("the prompt", has_prompt).await;
    tmux.press(&["clear; echo back in $((40 + 2))", "Enter"]);
    tmux.wait_for_line("back in 42").await;
}

#[actix::test]
async fn keys_stop_and_end_what_runs_in_the_foreground() {
    let Some(tmux) = start("") else { return };
    tmux.shell().await;
    tmux.press(&["echo a$((1)); sleep 1000; echo ended with $?", "Enter"]);
    tmux.wait_for_line("a1").await;
    tmux.press_until(&["C-c"], "the prompt", has_prompt).await;
    tmux.press(&["clear; echo b$((1)); sleep 1001", "Enter"]);
    tmux.wait_for_line("b1").await;
    tmux.press_until(&["C-z"], "the stop", |screen| screen.contains("Stopped"))
        .await;
    tmux.press(&["bg; jobs", "Enter"]);
    tmux.wait_for("the job", |screen| screen.contains("Running"))
        .await;
    tmux.press(&["fg", "Enter"]);
    // A signal key discards the keys that were not read.
    tmux.wait_for("the job in the foreground", |screen| {
        screen.trim_end().ends_with("\nsleep 1001")
    })
    .await;
    tmux.press_until(&["C-\\"], "the end of the job", |screen| {
        screen.contains("Quit")
    })
    .await;
    tmux.press(&["exit 0", "Enter"]);
    tmux.wait_for_line("left with 0").await;
}
