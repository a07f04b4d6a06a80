//! [`Browser`]: headless Chromium, driven by the DevTools protocol.

use std::{env, path::Path, process::Stdio};

use futures::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    net::TcpStream,
    process::{Child, Command},
};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async, tungstenite::Message};

use crate::support::{LONG, within};

/// The names of the program.
const PROGRAMS: [&str; 3] = ["chromium", "chromium-browser", "google-chrome"];

pub(crate) struct Browser {
    /// Killed when it is dropped.
    _child: Child,
    /// The profile and the downloads.
    directory: TempDir,
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    calls: u64,
}

/// A tab of a browser.
pub(crate) struct Tab {
    browser: Browser,
    target: Value,
    session: String,
}

impl Browser {
    /// Returns `None` if Chromium is not installed.
    pub(crate) async fn start() -> Option<Self> {
        let path = env::var_os("PATH").unwrap_or_default();
        let mut programs = PROGRAMS
            .iter()
            .flat_map(|name| env::split_paths(&path).map(move |directory| directory.join(name)));
        let Some(program) = programs.find(|program| program.exists()) else {
            println!("not tried: this needs Chromium");
            assert!(env::var_os("CI_BACKENDS").is_none());
            return None;
        };
        let directory = tempfile::tempdir().unwrap();
        let mut child = Command::new(program)
            .args([
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-quic",
                "--disable-dev-shm-usage",
                "--no-first-run",
                "--disable-background-networking",
                "--disable-component-update",
                "--disable-sync",
                "--remote-debugging-port=0",
            ])
            .arg(format!("--user-data-dir={}", directory.path().display()))
            .arg("about:blank")
            // Chromium leaves files there when it is killed.
            .env("TMPDIR", directory.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let url = within("Chromium", async {
            loop {
                let line = lines.next_line().await.unwrap().expect("a line");
                if let Some(url) = line.strip_prefix("DevTools listening on ") {
                    return url.to_owned();
                }
            }
        })
        .await;
        // Chromium must not block on a full pipe.
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        let (socket, _) = within("DevTools", connect_async(url)).await.unwrap();
        Some(Self {
            _child: child,
            directory,
            socket,
            calls: 0,
        })
    }

    async fn call(&mut self, method: &str, params: Value, session: Option<&str>) -> Value {
        self.calls += 1;
        let mut call = json!({"id": self.calls, "method": method, "params": params});
        if let Some(session) = session {
            call["sessionId"] = json!(session);
        }
        let text = call.to_string();
        within(method, async {
            self.socket.send(Message::text(text)).await.unwrap();
            loop {
                let Message::Text(text) = self.socket.next().await.unwrap().unwrap() else {
                    continue;
                };
                let mut answer: Value = serde_json::from_str(&text).unwrap();
                // Everything else is an event.
                if answer["id"] == self.calls {
                    assert!(answer["error"].is_null(), "{method}: {answer}");
                    return answer["result"].take();
                }
            }
        })
        .await
    }

    /// Opens a page in a new tab.
    pub(crate) async fn open(mut self, url: &str) -> Tab {
        let downloads = json!({"behavior": "allow", "downloadPath": self.directory.path()});
        self.call("Browser.setDownloadBehavior", downloads, None)
            .await;
        let blank = json!({"url": "about:blank"});
        let opened = self.call("Target.createTarget", blank, None).await;
        let target = opened["targetId"].clone();
        let attach = json!({"targetId": target, "flatten": true});
        let attached = self.call("Target.attachToTarget", attach, None).await;
        let session = attached["sessionId"].as_str().unwrap().to_owned();
        let page = json!({"url": url});
        self.call("Page.navigate", page, Some(&session)).await;
        Tab {
            browser: self,
            target,
            session,
        }
    }
}

impl Tab {
    pub(crate) async fn call(&mut self, method: &str, params: Value) -> Value {
        let session = self.session.clone();
        self.browser.call(method, params, Some(&session)).await
    }

    /// Evaluates an expression of JavaScript. Waits for its promise.
    pub(crate) async fn evaluate(&mut self, expression: &str) -> Value {
        let params = json!({
            "expression": expression, "awaitPromise": true, "returnByValue": true,
        });
        let mut answer = self.call("Runtime.evaluate", params).await;
        let thrown = &answer["exceptionDetails"];
        assert!(thrown.is_null(), "{expression}: {thrown}");
        answer["result"]["value"].take()
    }

    /// Waits until an expression of JavaScript is true.
    pub(crate) async fn wait_for(&mut self, condition: &str) {
        let waited = tokio::time::timeout(LONG, async {
            while self.evaluate(&format!("Boolean({condition})")).await != true {
                // Let the page work.
                let frame = "new Promise((done) => setTimeout(done, 20))";
                self.evaluate(frame).await;
            }
        });
        if waited.await.is_err() {
            let page = self.evaluate("document.body.innerText").await;
            panic!(
                "not within {LONG:?}: {condition}. The page:\n{}",
                page.as_str().unwrap()
            );
        }
    }

    /// Clicks what a selector names, if it is enabled.
    pub(crate) async fn click(&mut self, selector: &str) {
        self.wait_for(&format!("!document.querySelector('{selector}').disabled"))
            .await;
        self.evaluate(&format!("document.querySelector('{selector}').click()"))
            .await;
    }

    /// Types text into the element that has the focus.
    pub(crate) async fn type_text(&mut self, text: &str) {
        for character in text.chars() {
            self.press(&character.to_string()).await;
        }
    }

    /// Presses a key: a character, or a name such as `Enter`.
    pub(crate) async fn press(&mut self, key: &str) {
        let mut down = json!({"type": "keyDown", "key": key});
        if key.chars().count() == 1 {
            down["text"] = json!(key);
        }
        self.call("Input.dispatchKeyEvent", down).await;
        self.call(
            "Input.dispatchKeyEvent",
            json!({"type": "keyUp", "key": key}),
        )
        .await;
    }

    /// Chooses a local file for a file input.
    pub(crate) async fn choose_file(&mut self, selector: &str, file: &Path) {
        let document = self.call("DOM.getDocument", json!({})).await;
        let root = &document["root"]["nodeId"];
        let found = json!({"nodeId": root, "selector": selector});
        let found = self.call("DOM.querySelector", found).await;
        let files = json!({"nodeId": found["nodeId"], "files": [file]});
        self.call("DOM.setFileInputFiles", files).await;
    }

    /// Waits for a downloaded file, and returns its content.
    pub(crate) async fn downloaded(&self, name: &str) -> String {
        let file = self.browser.directory.path().join(name);
        within("the download", async {
            loop {
                // Chromium creates an empty file, and replaces it when the download is complete.
                match std::fs::read_to_string(&file) {
                    Ok(content) if !content.is_empty() => return content,
                    _ => tokio::task::yield_now().await,
                }
            }
        })
        .await
    }

    /// Emulates a screen.
    pub(crate) async fn resize(&mut self, width: u32, height: u32, is_mobile: bool) {
        let scale = if is_mobile { 2 } else { 1 };
        let metrics = json!({
            "width": width, "height": height, "deviceScaleFactor": scale, "mobile": is_mobile,
        });
        self.call("Emulation.setDeviceMetricsOverride", metrics)
            .await;
    }

    /// The window's content, or the whole page, as a PNG file in base64.
    pub(crate) async fn screenshot(&mut self, is_whole: bool) -> String {
        let shot = json!({"captureBeyondViewport": is_whole});
        let shot = self.call("Page.captureScreenshot", shot).await;
        shot["data"].as_str().unwrap().to_owned()
    }

    /// Closes the tab as a user does. The browser keeps running.
    pub(crate) async fn close(mut self) -> Browser {
        let target = json!({"targetId": self.target});
        self.browser.call("Target.closeTarget", target, None).await;
        self.browser
    }
}
