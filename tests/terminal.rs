//! The shell on a terminal: `script` gives it one, and the keys are pressed here.

#![allow(clippy::unwrap_used, reason = "a test's helpers are test code")]

use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// How long anything may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

const PROMPT: &str = "quorate> ";

/// A program on a terminal.
struct Terminal {
    script: Child,
    keys: ChildStdin,
    screen: mpsc::Receiver<Vec<u8>>,
    seen: String,
}

impl Terminal {
    /// Starts `quorate`; `None` where there is no `script` on this machine.
    fn start(home: &Path, args: &str) -> Option<Self> {
        let line = format!("{} {args}", env!("CARGO_BIN_EXE_quorate"));
        let mut command = Command::new("script");
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("QUORATE_") {
                command.env_remove(name);
            }
        }
        command.args(["-q", "-e", "-c", &line, "/dev/null"]).current_dir(home);
        command.env("HOME", home).env_remove("XDG_STATE_HOME").env("TERM", "xterm");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut script = match command.spawn() {
            Ok(script) => script,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return None,
            Err(error) => panic!("{error}"),
        };
        let keys = script.stdin.take().unwrap();
        let mut out = script.stdout.take().unwrap();
        let (sender, screen) = mpsc::channel();
        std::thread::spawn(move || {
            let mut bytes = [0; 4_096];
            while let Ok(read @ 1..) = out.read(&mut bytes) {
                if sender.send(bytes[..read].to_vec()).is_err() {
                    return;
                }
            }
        });
        Some(Self { script, keys, screen, seen: String::new() })
    }

    /// Waits until this is shown behind what was waited for before; gives what came before it.
    #[track_caller]
    fn wait_for(&mut self, text: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(at) = self.seen.find(text) {
                let rest = self.seen.split_off(at + text.len());
                return std::mem::replace(&mut self.seen, rest);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            let Ok(bytes) = self.screen.recv_timeout(left) else {
                panic!("never shown: {text:?}, but {:?}", self.seen);
            };
            self.seen.push_str(&String::from_utf8_lossy(&bytes));
        }
    }

    fn press(&mut self, keys: &str) {
        self.keys.write_all(keys.as_bytes()).unwrap();
    }

    /// The code the program ended with.
    fn end(mut self) -> Option<i32> {
        self.script.wait().unwrap().code()
    }
}

#[test]
fn lines_are_edited_completed_and_remembered() {
    const UP: &str = "\x1b[A";
    let home = tempfile::tempdir().unwrap();
    let Some(mut terminal) = Terminal::start(home.path(), "up --memory --nodes 1") else { return };
    terminal.wait_for(PROMPT);
    terminal.press("wri\tkey valu\r");
    terminal.wait_for("(written)");
    terminal.wait_for(PROMPT);
    // A letter taken back, then the line once more by its history.
    terminal.press("read keyy\x7f\r");
    terminal.wait_for("valu\r\n");
    terminal.wait_for(PROMPT);
    terminal.press(UP);
    terminal.wait_for("read key");
    terminal.press("\r");
    terminal.wait_for("valu\r\n");
    terminal.wait_for(PROMPT);
    terminal.press(" write secret word\r");
    terminal.wait_for("(written)");
    terminal.wait_for(PROMPT);
    terminal.press("read\r");
    terminal.wait_for("write: read KEY");
    terminal.wait_for(PROMPT);
    // Ctrl-C at the prompt ends the shell, and with it the cluster, in order.
    terminal.press("\x03");
    assert_eq!(terminal.end(), Some(0), "what went wrong in a shell is no failure of it");

    let history = home.path().join(".local/state/quorate/history");
    let kept = std::fs::read_to_string(&history).unwrap();
    assert!(kept.contains("write key valu\nread key\n"), "{kept}");
    assert!(!kept.contains("secret"), "{kept}");
    assert_eq!(history.metadata().unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn a_history_that_cannot_be_kept_is_no_failure() {
    let home = tempfile::tempdir().unwrap();
    std::fs::write(home.path().join(".local"), "in the way").unwrap();
    let Some(mut terminal) = Terminal::start(home.path(), "up --memory --nodes 1") else { return };
    terminal.wait_for(PROMPT);
    terminal.press("write k v\r");
    terminal.wait_for("(written)");
    terminal.wait_for(PROMPT);
    terminal.press("quit\r");
    assert_eq!(terminal.end(), Some(0));
}
