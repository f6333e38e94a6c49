//! Starting one process of the cluster and waiting until it listens.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::Context;

use super::process::Process;
use crate::exit::Failure;

/// How long a process may take from its start until it listens: a node replays its log first.
const READY_TIMEOUT: Duration = Duration::from_secs(60);

/// A log that grew beyond this is started over; else the next start goes on below it.
const LOG_BYTES_KEPT: u64 = 1 << 20;

/// How much of a log is shown when its process fails.
const TAIL_BYTES: u64 = 4_096;
const TAIL_LINES: usize = 8;

/// How to start a process.
#[derive(Debug)]
pub(crate) struct Spec {
    /// What it is called, in what is told to people.
    pub(crate) name: String,
    /// Which node's directory it has; none for the server.
    pub(crate) slot: Option<u32>,
    /// Its command line after the program.
    pub(crate) args: Vec<OsString>,
    /// Where its standard error goes.
    pub(crate) log: PathBuf,
    /// Whether it outlives this process.
    pub(crate) detached: bool,
}

/// A process that was started here.
#[derive(Debug)]
pub(crate) struct Started {
    pub(crate) name: String,
    pub(crate) slot: Option<u32>,
    pub(crate) child: Child,
    pub(crate) process: Process,
    pub(crate) address: String,
    pub(crate) log: PathBuf,
    /// The child stops when this end is closed, also by our sudden death.
    _alive: Option<ChildStdin>,
}

/// Starts a process and waits until it says where it listens.
///
/// # Errors
/// When it cannot be started, ends early, or takes too long; with the end of its log.
pub(crate) fn start(spec: Spec) -> Result<Started, Failure> {
    let program = std::env::current_exe().context("cannot find this program's own file")?;
    let log = open_log(&spec.log)
        .with_context(|| format!("cannot write the log {}", spec.log.display()))?;
    let mut command = Command::new(program);
    command.args(&spec.args).arg("--announce").stdout(Stdio::piped()).stderr(log);
    for (name, _) in std::env::vars_os() {
        // What the environment says to `up` is not meant for its children: they get flags.
        if name.to_string_lossy().starts_with("QUORATE_") {
            command.env_remove(name);
        }
    }
    if spec.detached {
        command.arg("--own-session").stdin(Stdio::null());
    } else {
        // A group of its own, so that Ctrl-C reaches us alone and the stop goes in order.
        command.arg("--parent-pipe").stdin(Stdio::piped()).process_group(0);
    }
    let mut child = command.spawn().with_context(|| format!("cannot start {}", spec.name))?;
    let out = child.stdout.take().expect("standard output is piped");
    let alive = child.stdin.take();
    let process = Process::of(child.id());
    let mut started = Started {
        name: spec.name,
        slot: spec.slot,
        child,
        process,
        address: String::new(),
        log: spec.log,
        _alive: alive,
    };
    match wait_ready(&mut started, out) {
        Ok(address) => Ok(Started { address, ..started }),
        Err(why) => {
            process.signal(rustix::process::Signal::KILL);
            // It was killed, so it ends.
            let _ = started.child.wait();
            Err(started.failed(&why))
        }
    }
}

/// Waits for the one line that says where the child listens.
fn wait_ready(started: &mut Started, out: ChildStdout) -> Result<String, String> {
    let (lines, line) = mpsc::channel();
    std::thread::spawn(move || {
        let mut first = String::new();
        // An end without a line is told by the channel's end.
        if BufReader::new(out.take(1_024)).read_line(&mut first).is_ok() {
            let _ = lines.send(first);
        }
    });
    match line.recv_timeout(READY_TIMEOUT) {
        Ok(line) if !line.trim().is_empty() => Ok(line.trim().to_owned()),
        Err(mpsc::RecvTimeoutError::Timeout) => {
            Err(format!("does not listen after {} s", READY_TIMEOUT.as_secs()))
        }
        Ok(_) | Err(mpsc::RecvTimeoutError::Disconnected) => {
            let deadline = Instant::now() + Duration::from_secs(1);
            while Instant::now() < deadline {
                if let Ok(Some(status)) = started.child.try_wait() {
                    return Err(format!("ended at once ({status})"));
                }
                std::thread::sleep(super::process::LOOK_INTERVAL);
            }
            Err("does not say where it listens".to_owned())
        }
    }
}

impl Started {
    /// Fails if the process has ended.
    ///
    /// # Errors
    /// That it has, with the end of its log.
    pub(crate) fn check(&mut self) -> Result<(), Failure> {
        match self.child.try_wait() {
            Ok(Some(status)) => Err(self.failed(&format!("ended ({status})"))),
            _ => Ok(()),
        }
    }

    /// "This process failed", with the end of its log.
    pub(crate) fn failed(&self, why: &str) -> Failure {
        let tail = tail(&self.log);
        let tail = if tail.is_empty() { "(nothing)".to_owned() } else { tail };
        Failure::unavailable(format!(
            "{} {why}; the end of {}:\n{tail}",
            self.name,
            self.log.display()
        ))
    }
}

fn open_log(path: &Path) -> std::io::Result<File> {
    let log = OpenOptions::new().create(true).append(true).open(path)?;
    if log.metadata()?.len() > LOG_BYTES_KEPT {
        log.set_len(0)?;
    }
    Ok(log)
}

/// The last lines of a log; empty where there are none.
pub(crate) fn tail(path: &Path) -> String {
    let read = || -> std::io::Result<Vec<u8>> {
        let mut file = File::open(path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES)))?;
        let mut bytes = Vec::new();
        file.take(TAIL_BYTES).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let bytes = read().unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().collect();
    let last = &lines[lines.len().saturating_sub(TAIL_LINES)..];
    last.iter().map(|line| format!("  {line}")).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tail_of_a_log_is_its_last_lines() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        assert_eq!(tail(&path), "");
        let text: String = (0..2_000).map(|n| format!("line {n}\n")).collect();
        std::fs::write(&path, text).unwrap();
        let tail = tail(&path);
        assert_eq!(tail.lines().count(), TAIL_LINES);
        assert!(tail.ends_with("line 1999"));
    }

    #[test]
    fn a_log_is_kept_up_to_a_bound() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        std::fs::write(&path, "before\n").unwrap();
        drop(open_log(&path).unwrap());
        assert_eq!(std::fs::read(&path).unwrap(), b"before\n");
        std::fs::write(&path, vec![b'x'; LOG_BYTES_KEPT as usize + 1]).unwrap();
        drop(open_log(&path).unwrap());
        assert!(std::fs::read(&path).unwrap().is_empty());
    }
}
