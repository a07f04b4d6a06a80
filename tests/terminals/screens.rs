//! Real programs in a terminal, which tmux shows: the example `terminal` connects them.

use std::{path::PathBuf, process::Command, time::Duration};

use tokio::time::{Instant, sleep};

use crate::support::backend;

/// The longest time until a screen shows what it must.
const SHOWN_WITHIN: Duration = Duration::from_secs(60);
const LOOKED_EVERY: Duration = Duration::from_millis(20);
const PRESSED_EVERY: Duration = Duration::from_millis(500);

/// A tmux server of its own with one window, in which the example runs. Dropping it ends both.
struct Tmux {
    socket: String,
}

impl Tmux {
    /// Starts the example, unless tmux or the example is missing.
    fn start(arguments: &str) -> Option<Self> {
        let example = example();
        let has_tmux = Command::new("tmux").arg("-V").output().is_ok();
        if !has_tmux || !example.exists() {
            println!("not tried: this needs tmux and {}", example.display());
            assert!(std::env::var_os("CI_BACKENDS").is_none());
            return None;
        }
        static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let number = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let socket = format!("actix-sandbox-{}-{number}", std::process::id());
        let tmux = Self { socket };
        // The window stays after the program, so that a failure shows its last screen.
        let command = format!(
            "{} {arguments}; code=$?; echo; echo left with $code; sleep 1000",
            example.display()
        );
        let new = [
            "-f",
            "/dev/null",
            "new-session",
            "-d",
            "-x",
            "80",
            "-y",
            "24",
            &command,
        ];
        tmux.run(&new);
        Some(tmux)
    }

    fn run(&self, arguments: &[&str]) -> String {
        let mut command = Command::new("tmux");
        let output = command
            .args(["-u", "-L", &self.socket])
            .args(arguments)
            .output()
            .unwrap();
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Presses keys, each by its name for tmux, or types text.
    fn press(&self, keys: &[&str]) {
        self.run(&[&["send-keys"], keys].concat());
    }

    fn screen(&self) -> String {
        self.run(&["capture-pane", "-p"])
    }

    /// Waits until the screen is as expected. tmux has no event for that.
    async fn wait_for(&self, what: &str, is_shown: impl Fn(&str) -> bool) {
        self.press_until(&[], what, is_shown).await;
    }

    /// Presses keys until the screen is as expected. A program may not be ready for a key yet.
    async fn press_until(&self, keys: &[&str], what: &str, is_shown: impl Fn(&str) -> bool) {
        let until = Instant::now() + SHOWN_WITHIN;
        let mut press_at = Instant::now();
        loop {
            let screen = self.screen();
            if is_shown(&screen) {
                return;
            }
            let now = Instant::now();
            assert!(now < until, "{what} is not shown:\n{screen}");
            if now >= press_at && !keys.is_empty() {
                self.press(keys);
                press_at = now + PRESSED_EVERY;
            }
            sleep(LOOKED_EVERY).await;
        }
    }

    async fn wait_for_line(&self, line: &str) {
        let is_line = |screen: &str| screen.lines().any(|it| it.trim_end() == line);
        self.wait_for(line, is_line).await;
    }

    /// Waits for the prompt of a shell that was told to print `ready`.
    async fn shell(&self) {
        self.press(&["PS1='> '; clear", "Enter"]);
        self.wait_for_line(">").await;
    }
}

impl Drop for Tmux {
    fn drop(&mut self) {
        let kill = ["-L", &self.socket, "kill-server"];
        let _ = Command::new("tmux").args(kill).output();
    }
}

/// Whether the shell waits for a command.
fn has_prompt(screen: &str) -> bool {
    screen.trim_end().lines().last() == Some(">")
}

/// The example `terminal`, which `cargo test` builds, too.
fn example() -> PathBuf {
    let this = std::env::current_exe().unwrap();
    let target = this.parent().and_then(|deps| deps.parent()).unwrap();
    target.join("examples/terminal")
}

#[actix::test]
async fn the_repl_of_python_runs_in_a_terminal() {
    let Some(tmux) = Tmux::start("python3 -q") else {
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
    let Some(tmux) = Tmux::start("") else { return };
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
    let Some(tmux) = Tmux::start("") else { return };
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
    let Some(tmux) = Tmux::start("") else { return };
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
