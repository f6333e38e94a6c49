//! `quorate` as a person runs it, for tests: in a directory of its own, without the environment of
//! whoever runs the tests.

#![allow(dead_code, reason = "each of the tests uses its own part")]

use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value as Json;

/// How long anything may take on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) fn quorate(dir: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_quorate"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("QUORATE_") {
            command.env_remove(name);
        }
    }
    command.args(args).current_dir(dir).stdin(Stdio::null());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Runs `quorate` with this script on its standard input.
pub(crate) fn script(dir: &Path, args: &[&str], script: impl AsRef<[u8]>) -> Output {
    let mut child = quorate(dir, args).stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(script.as_ref()).unwrap();
    child.wait_with_output().unwrap()
}

/// Runs `quorate` and expects it to be done.
#[track_caller]
pub(crate) fn done(dir: &Path, args: &[&str]) -> String {
    let output = quorate(dir, args).output().unwrap();
    assert!(output.status.success(), "{args:?}: {}", talk(&output));
    data(&output)
}

pub(crate) fn data(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

pub(crate) fn talk(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

pub(crate) fn runtime(dir: &Path) -> Option<Json> {
    let text = std::fs::read_to_string(dir.join(".quorate/cluster.json")).ok()?;
    serde_json::from_str(&text).ok()
}

/// The process numbers in the runtime file: the server's, then the nodes'.
pub(crate) fn pids(dir: &Path) -> Vec<u32> {
    let runtime = runtime(dir).expect("a cluster runs");
    let nodes = runtime["nodes"].as_array().unwrap().iter();
    let all = std::iter::once(&runtime["server"]).chain(nodes);
    all.map(|entry| u32::try_from(entry["process"]["pid"].as_u64().unwrap()).unwrap()).collect()
}

/// Whether any thread of a process runs. A killed process is gone thread by thread, the first not
/// last, and holds its locks until the last is.
pub(crate) fn is_alive(pid: u32) -> bool {
    let Ok(threads) = std::fs::read_dir(format!("/proc/{pid}/task")) else { return false };
    threads.filter_map(Result::ok).any(|thread| {
        let stat = std::fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
        stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with(['Z', 'X']))
    })
}

#[track_caller]
pub(crate) fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        std::thread::yield_now();
    }
}

/// A detached cluster that is stopped with the test, however that ends.
pub(crate) struct Detached(tempfile::TempDir);

impl Detached {
    pub(crate) fn start(args: &[&str]) -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), args)
    }

    pub(crate) fn start_in(dir: tempfile::TempDir, args: &[&str]) -> Self {
        let cluster = Self(dir);
        done(cluster.dir(), &[&["up", "--detach"], args].concat());
        cluster
    }

    pub(crate) fn dir(&self) -> &Path {
        self.0.path()
    }

    /// Stops it, and gives what it leaves.
    pub(crate) fn stop(mut self) -> tempfile::TempDir {
        done(self.dir(), &["down"]);
        std::mem::replace(&mut self.0, tempfile::tempdir().unwrap())
    }
}

impl Drop for Detached {
    fn drop(&mut self) {
        let _ = quorate(self.dir(), &["down"]).output();
    }
}
