//! Processes by number: whether they live, and signals to them.
//!
//! A number is used again after its process is gone, so where the system tells, the time at which
//! the process began is kept with it and compared before anything is done to it.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};
use serde::{Deserialize, Serialize};

/// How often a process that should end is looked at.
pub(crate) const LOOK_INTERVAL: Duration = Duration::from_millis(20);

/// One process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Process {
    pub(crate) pid: u32,
    /// When it began, in the system's own count; `None` where the system does not tell.
    began: Option<u64>,
}

impl Process {
    /// The process that has this number now.
    pub(crate) fn of(pid: u32) -> Self {
        Self { pid, began: stat(pid).map(|stat| stat.began) }
    }

    /// This process.
    pub(crate) fn this() -> Self {
        Self::of(std::process::id())
    }

    /// Whether it runs. One that has ended and was not collected yet does not.
    pub(crate) fn is_alive(&self) -> bool {
        match (stat(self.pid), self.began) {
            (Some(stat), Some(began)) => stat.began == began && !stat.ended,
            (None, Some(_)) => false,
            (_, None) => {
                self.number().is_some_and(|pid| rustix::process::test_kill_process(pid).is_ok())
            }
        }
    }

    /// Sends a signal, if the process lives.
    pub(crate) fn signal(&self, signal: Signal) {
        if let Some(pid) = self.number().filter(|_| self.is_alive()) {
            // It may end between the two: then there is nothing to do.
            let _ = rustix::process::kill_process(pid, signal);
        }
    }

    fn number(&self) -> Option<Pid> {
        Pid::from_raw(i32::try_from(self.pid).ok()?)
    }
}

/// Waits until none of `processes` lives, at most `patience`; gives those that still do.
pub(crate) async fn wait_gone<'a>(
    processes: impl IntoIterator<Item = &'a Process>,
    patience: Duration,
    mut collect: impl FnMut(),
) -> Vec<Process> {
    let deadline = Instant::now() + patience;
    let mut left: Vec<Process> = processes.into_iter().copied().collect();
    loop {
        collect();
        left.retain(Process::is_alive);
        if left.is_empty() || Instant::now() >= deadline {
            // What ended between the two looks is dead and not collected yet.
            collect();
            return left;
        }
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
}

/// The servers and nodes that have one of these files open. Empty where the system does not tell.
pub(crate) fn holders(files: &[PathBuf]) -> Vec<Process> {
    let files: Vec<_> = files.iter().filter_map(|file| file.canonicalize().ok()).collect();
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    // Others may look at the files, such as `quorate verify`.
    let role = |pid: &u32| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        matches!(line.split(|byte| *byte == 0).nth(1), Some(b"server" | b"node"))
    };
    let holds = |pid: &u32| {
        let open = std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        let mut open = open.filter_map(|entry| std::fs::read_link(entry.path()).ok());
        open.any(|path| files.contains(&path))
    };
    pids.filter(role).filter(holds).map(Process::of).collect()
}

/// What the system says of a process.
struct Stat {
    began: u64,
    ended: bool,
}

/// From `/proc/PID/stat`: after the name in parentheses, the first field is the state and the
/// twentieth the time of its start. Systems without it know nothing.
fn stat(pid: u32) -> Option<Stat> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, fields) = text.rsplit_once(')')?;
    let mut fields = fields.split_whitespace();
    let ended = matches!(fields.next()?, "Z" | "X") && !has_threads(pid);
    let began = fields.nth(18)?.parse().ok()?;
    Some(Stat { began, ended })
}

/// Whether a process whose first thread has ended has others that have not: a killed process is
/// gone thread by thread, and holds its locks and ports until the last is.
fn has_threads(pid: u32) -> bool {
    let Ok(threads) = std::fs::read_dir(format!("/proc/{pid}/task")) else { return false };
    threads.filter_map(Result::ok).any(|thread| {
        let stat = std::fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
        stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with(['Z', 'X']))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_process_is_alive_until_it_ends() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let process = Process::of(child.id());
        assert!(process.is_alive() && Process::this().is_alive());
        assert_eq!(wait_gone([&process], Duration::ZERO, || {}).await, [process]);
        process.signal(Signal::KILL);
        let collect = || drop(child.try_wait());
        assert!(wait_gone([&process], Duration::from_secs(10), collect).await.is_empty());
    }

    #[test]
    fn another_process_of_the_same_number_is_not_it() {
        let mut other = Process::this();
        let Some(began) = other.began else { return };
        other.began = Some(began + 1);
        assert!(!other.is_alive());
    }
}
