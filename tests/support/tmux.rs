//! [`Tmux`]: a terminal that shows what a command draws, and in which keys can be pressed.

use std::{process::Command, time::Duration};

use tokio::time::{Instant, sleep};

/// The longest time until a screen shows what it must.
const SHOWN_WITHIN: Duration = Duration::from_secs(60);
const LOOKED_EVERY: Duration = Duration::from_millis(20);
const PRESSED_EVERY: Duration = Duration::from_millis(500);

/// A tmux server of its own with one window, in which a command runs. Dropping it ends both.
pub(crate) struct Tmux {
    socket: String,
}

impl Tmux {
    /// Runs a shell command in a window of 80 × 24. `None` if tmux is missing.
    pub(crate) fn start(command: &str) -> Option<Self> {
        if Command::new("tmux").arg("-V").output().is_err() {
            println!("not tried: this needs tmux");
            assert!(std::env::var_os("CI_BACKENDS").is_none());
            return None;
        }
        static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let number = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let socket = format!("actix-sandbox-{}-{number}", std::process::id());
        let tmux = Self { socket };
        // The window stays after the program, so that a failure shows its last screen.
        let command = format!("{command}; code=$?; echo; echo left with $code; sleep 1000");
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

    pub(crate) fn run(&self, arguments: &[&str]) -> String {
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
    pub(crate) fn press(&self, keys: &[&str]) {
        self.run(&[&["send-keys"], keys].concat());
    }

    pub(crate) fn screen(&self) -> String {
        self.run(&["capture-pane", "-p"])
    }

    /// Waits until the screen is as expected. tmux has no event for that.
    pub(crate) async fn wait_for(&self, what: &str, is_shown: impl Fn(&str) -> bool) {
        self.press_until(&[], what, is_shown).await;
    }

    /// Presses keys until the screen is as expected. A program may not be ready for a key yet.
    pub(crate) async fn press_until(
        &self,
        keys: &[&str],
        what: &str,
        is_shown: impl Fn(&str) -> bool,
    ) {
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

    pub(crate) async fn wait_for_line(&self, line: &str) {
        let is_line = |screen: &str| screen.lines().any(|it| it.trim_end() == line);
        self.wait_for(line, is_line).await;
    }

    /// Waits for the prompt of a shell that was told to print `ready`.
    pub(crate) async fn shell(&self) {
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

/// Whether the shell of [`Tmux::shell`] waits for a command.
pub(crate) fn has_prompt(screen: &str) -> bool {
    screen.trim_end().lines().last() == Some(">")
}
