//! One process: its start, signals to it, its log.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{BufRead, BufReader, Read as _};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// How long anything is waited for. Generous: a machine that builds at the same time is slow.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// How long it is waited before a condition is looked at again.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// How many lines of each log are shown when a test fails.
const SHOWN_LINES: usize = 60;

/// Waits until `look` finds what it looks for; panics with the last reason why not.
pub(crate) async fn until<T>(what: &str, look: impl AsyncFnMut() -> Result<T, String>) -> T {
    within(PATIENCE, what, look).await
}

/// The same, with another patience.
pub(crate) async fn within<T>(
    patience: Duration,
    what: &str,
    mut look: impl AsyncFnMut() -> Result<T, String>,
) -> T {
    let deadline = Instant::now() + patience;
    loop {
        match look().await {
            Ok(found) => return found,
            Err(why) => assert!(Instant::now() < deadline, "not in time: {what}: {why}"),
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

/// `quorate` with nothing said by the environment.
pub(crate) fn quorate<A: AsRef<OsStr>>(args: impl IntoIterator<Item = A>) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_quorate"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("QUORATE_") {
            command.env_remove(name);
        }
    }
    command.args(args).stdin(Stdio::null());
    command
}

/// A process that listens. Killed when dropped.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    /// Where it listens.
    pub(crate) address: String,
}

impl Process {
    /// Starts `quorate` with `args` and waits until it listens. Its log is appended to `log`.
    pub(crate) async fn start(args: Vec<OsString>, log: &Path) -> Self {
        Self::start_by(quorate(args), log).await
    }

    /// The same, with a command that becomes `quorate`.
    pub(crate) async fn start_by(mut command: Command, log: &Path) -> Self {
        let talk = File::options().create(true).append(true).open(log).unwrap();
        // Standard input is held for as long as this test lives: whatever becomes of the test,
        // the process does not outlive it.
        let mut child = command
            .args(["--announce", "--parent-pipe"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(talk)
            .spawn()
            .unwrap();
        let out = child.stdout.take().unwrap();
        let line = tokio::task::spawn_blocking(move || {
            let mut line = String::new();
            BufReader::new(out).read_line(&mut line).map(|_| line)
        });
        let line = line.await.unwrap().unwrap();
        assert!(!line.is_empty(), "it ended before it listened:\n{}", tail(log));
        Self { child, address: line.trim().to_owned() }
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).unwrap()).unwrap();
        kill_process(pid, signal).unwrap();
    }

    /// Stops it where it is, until it is told to continue. Returns once every thread stands still.
    pub(crate) async fn pause(&self) {
        self.signal(Signal::STOP);
        let threads = format!("/proc/{}/task", self.child.id());
        until("every thread stands still", async || {
            for thread in std::fs::read_dir(&threads).unwrap() {
                let stat = std::fs::read_to_string(thread.unwrap().path().join("stat"));
                let stat = stat.unwrap_or_default();
                let state = stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next());
                if state != Some('T') {
                    return Err(stat);
                }
            }
            Ok(())
        })
        .await;
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits for its end.
    pub(crate) async fn ended(&mut self) -> ExitStatus {
        until("the process ends", async || self.end().ok_or_else(|| "it runs".to_owned())).await
    }

    /// How it ended, if it has.
    pub(crate) fn end(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    /// Whether it runs, paused or not.
    pub(crate) fn is_alive(&mut self) -> bool {
        self.end().is_none()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// How much memory of its own a process has in use (RssAnon); nothing once it is gone.
pub(crate) fn rss_anon_bytes(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    kib.unwrap_or_default() << 10
}

/// Runs a process that must end by itself; gives its exit code and what it said.
pub(crate) async fn refused(args: Vec<OsString>) -> (Option<i32>, String) {
    let log = tempfile::NamedTempFile::new().unwrap();
    let talk = log.reopen().unwrap();
    let child = quorate(args).stdout(Stdio::null()).stderr(talk).spawn().unwrap();
    let status = Process { child, address: String::new() }.ended().await;
    (status.code(), read_log(log.path()))
}

/// It ended with this code, and said all of that.
#[track_caller]
pub(crate) fn assert_told((code, said): &(Option<i32>, String), expected: i32, words: &[&str]) {
    assert_eq!(*code, Some(expected), "{said}");
    for word in words {
        assert!(said.contains(word), "'{word}' is not in: {said}");
    }
    assert!(!said.contains("panicked"), "{said}");
}

/// A whole log; empty where there is none.
pub(crate) fn read_log(path: &Path) -> String {
    let mut bytes = Vec::new();
    let _ = File::open(path).and_then(|mut file| file.read_to_end(&mut bytes));
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The end of a log.
pub(crate) fn tail(path: &Path) -> String {
    let log = read_log(path);
    let lines: Vec<_> = log.lines().collect();
    lines[lines.len().saturating_sub(SHOWN_LINES)..].join("\n")
}
