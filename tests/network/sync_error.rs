//! A disk that fails to make things durable: fdatasync or fsync of a running process answers with EIO,
//! once. A node's log uses the first, its state the second.
//!
//! strace does it, which takes the right to attach to a process. Where there is none, a scenario that
//! needs it is skipped and says so.

use std::io::Read as _;
use std::process::{Child, Command, Stdio};

use crate::process::within;

/// strace at a process. Taken off when dropped.
#[derive(Debug)]
pub(crate) struct SyncError(Child);

impl SyncError {
    /// The `when`th such call of every thread of that process from now on fails.
    pub(crate) async fn attach(pid: u32, call: &str, when: u64) -> Result<Self, String> {
        let (trace, inject) =
            (format!("trace={call}"), format!("inject={call}:error=EIO:when={when}"));
        let mut command = Command::new("strace");
        command.args(["-f", "-qq", "-o", "/dev/null", "-e", &trace, "-e", &inject, "-p"]);
        command.arg(pid.to_string()).stdin(Stdio::null()).stderr(Stdio::piped());
        let child = command.spawn().map_err(|error| format!("strace: {error}"))?;
        let mut strace = Self(child);
        let tracer = format!("TracerPid:\t{}\n", strace.0.id());
        within(crate::process::PATIENCE, "strace is at every thread", async || {
            if strace.0.try_wait().unwrap().is_some() {
                let mut said = String::new();
                let _ = strace.0.stderr.take().map(|mut err| err.read_to_string(&mut said));
                return Ok(Err(said.trim().to_owned()));
            }
            let threads = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
            for thread in threads.map(|thread| thread.unwrap().path().join("status")) {
                // A thread may have ended meanwhile.
                if std::fs::read_to_string(&thread).is_ok_and(|status| !status.contains(&tracer)) {
                    return Err(format!("not at {}", thread.display()));
                }
            }
            Ok(Ok(()))
        })
        .await?;
        Ok(strace)
    }
}

impl Drop for SyncError {
    fn drop(&mut self) {
        // It has ended already if the process has.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
