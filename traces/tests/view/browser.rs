//! A headless Chromium, driven over a pipe: as much of the DevTools protocol as the tests need.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};

/// No answer takes longer, not even on a machine with other work and from a large page.
const PATIENCE: Duration = Duration::from_secs(120);

/// Closing takes no longer; after that it is killed.
const CLOSING: Duration = Duration::from_secs(10);

/// A browser with one page. It ends when this is dropped.
pub(crate) struct Browser {
    child: Child,
    to: ChildStdin,
    from: Receiver<Value>,
    session: String,
    sent: u64,
    problems: Vec<Value>,
    _profile: tempfile::TempDir,
}

/// The browser of this machine: `QUORATE_BROWSER_PATH`, or Chromium from the path.
pub(crate) fn find() -> Option<PathBuf> {
    if let Some(named) = std::env::var_os("QUORATE_BROWSER_PATH") {
        return Some(named.into());
    }
    let path = std::env::var_os("PATH")?;
    let names = ["chromium", "chromium-browser", "google-chrome"];
    std::env::split_paths(&path)
        .flat_map(|dir| names.map(|name| dir.join(name)))
        .find(|file| file.is_file())
}

impl Browser {
    pub(crate) fn start(program: &Path) -> Self {
        let profile = tempfile::tempdir().unwrap();
        // The protocol is spoken on the descriptors 3 and 4: the shell puts the pipes there.
        let mut child = Command::new("sh")
            .args(["-c", r#"exec "$0" "$@" 3<&0 4>&1 </dev/null >/dev/null 2>&1"#])
            .arg(program)
            .args([
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-quic",
                "--no-first-run",
            ])
            .args([
                "--disable-background-networking",
                "--disable-component-update",
                "--disable-sync",
            ])
            .args(["--hide-scrollbars", "--force-color-profile=srgb", "--remote-debugging-pipe"])
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .arg("about:blank")
            .env("HOME", profile.path())
            .env("TMPDIR", profile.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("a shell is there");
        let to = child.stdin.take().expect("piped");
        let from = answers(child.stdout.take().expect("piped"));
        let mut browser = Self {
            child,
            to,
            from,
            session: String::new(),
            sent: 0,
            problems: Vec::new(),
            _profile: profile,
        };
        let target = browser.call("Target.createTarget", &json!({ "url": "about:blank" }));
        let attach = json!({ "targetId": target["targetId"], "flatten": true });
        let attached = browser.call("Target.attachToTarget", &attach);
        browser.session = attached["sessionId"].as_str().unwrap().to_owned();
        for domain in ["Page", "Runtime", "Log"] {
            browser.call(&format!("{domain}.enable"), &json!({}));
        }
        browser
    }

    /// Calls a method and waits for its result.
    pub(crate) fn call(&mut self, method: &str, params: &Value) -> Value {
        self.sent += 1;
        let mut call = json!({ "id": self.sent, "method": method, "params": params });
        if !self.session.is_empty() {
            call["sessionId"] = self.session.clone().into();
        }
        self.to.write_all(format!("{call}\0").as_bytes()).expect("the browser lives");
        loop {
            let answer = self.from.recv_timeout(PATIENCE).expect("the browser answers");
            if answer["id"] == self.sent {
                assert!(answer["error"].is_null(), "{method}: {}", answer["error"]);
                return answer["result"].clone();
            }
            let event = answer["method"].as_str().unwrap_or_default();
            let of_the_log =
                event == "Log.entryAdded" && answer["params"]["entry"]["level"] == "error";
            if event == "Runtime.exceptionThrown" || of_the_log {
                self.problems.push(answer["params"].clone());
            }
        }
    }

    pub(crate) fn size(&mut self, width: u32, height: u32, mobile: bool) {
        let size =
            json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": mobile });
        self.call("Emulation.setDeviceMetricsOverride", &size);
    }

    /// Opens a page of this crate, and waits until it is ready.
    pub(crate) fn open(&mut self, file: &Path, hash: &str) -> Value {
        // Another address first: a new fragment alone loads nothing.
        self.call("Page.navigate", &json!({ "url": "about:blank" }));
        let url = format!("file://{}{hash}", file.display());
        self.call("Page.navigate", &json!({ "url": url }));
        // The new page's own script is there when its frame has been parsed.
        self.run(
            "new Promise((resolve) => {
               const look = () => window.quorate ? resolve(quorate.ready) : setTimeout(look, 5);
               look();
             })",
        )
    }

    /// The value of an expression, awaited where it is a promise.
    pub(crate) fn run(&mut self, expression: &str) -> Value {
        let params =
            json!({ "expression": expression, "awaitPromise": true, "returnByValue": true });
        let result = self.call("Runtime.evaluate", &params);
        assert!(result["exceptionDetails"].is_null(), "{expression}: {result:#}");
        result["result"]["value"].clone()
    }

    /// Presses and releases a key, named as in `KeyboardEvent.key`.
    pub(crate) fn key(&mut self, key: &str) {
        let text = if key.chars().count() == 1 { key } else { "" };
        // What the browser itself does on a key goes by its number.
        let number = [("Escape", 27), ("Enter", 13)].iter().find(|(name, _)| *name == key);
        for (kind, text) in [("keyDown", text), ("keyUp", "")] {
            let mut event = json!({ "type": kind, "key": key, "text": text });
            event["windowsVirtualKeyCode"] = number.map_or(0, |(_, number)| *number).into();
            self.call("Input.dispatchKeyEvent", &event);
        }
    }

    pub(crate) fn mouse(&mut self, kind: &str, x: f64, y: f64, more: &Value) {
        let mut event = json!({ "type": kind, "x": x, "y": y });
        for (name, value) in more.as_object().unwrap() {
            event[name] = value.clone();
        }
        self.call("Input.dispatchMouseEvent", &event);
    }

    pub(crate) fn click(&mut self, x: f64, y: f64) {
        self.mouse("mouseMoved", x, y, &json!({}));
        self.mouse("mousePressed", x, y, &json!({ "button": "left", "clickCount": 1 }));
        self.mouse("mouseReleased", x, y, &json!({ "button": "left", "clickCount": 1 }));
    }

    /// What went wrong in the pages so far, and told nobody.
    pub(crate) fn problems(&self) -> &[Value] {
        &self.problems
    }

    /// A picture of the page, as PNG.
    pub(crate) fn picture(&mut self) -> Vec<u8> {
        let shot = self.call("Page.captureScreenshot", &json!({ "format": "png" }));
        BASE64_STANDARD.decode(shot["data"].as_str().unwrap()).unwrap()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // Asked to close it ends its helpers first, so that nobody writes to the profile any more.
        let close = json!({ "id": 0, "method": "Browser.close" });
        if self.to.write_all(format!("{close}\0").as_bytes()).is_ok() {
            while self.from.recv_timeout(CLOSING).is_ok() {}
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The messages of the browser, each ended by a zero byte, as they come.
fn answers(pipe: ChildStdout) -> Receiver<Value> {
    let (to, from) = mpsc::channel();
    std::thread::spawn(move || {
        let mut pipe = BufReader::new(pipe);
        loop {
            let mut message = Vec::new();
            if pipe.read_until(0, &mut message).unwrap_or(0) == 0 || message.pop() != Some(0) {
                return;
            }
            let message = serde_json::from_slice(&message).expect("the protocol is JSON");
            if to.send(message).is_err() {
                return;
            }
        }
    });
    from
}
