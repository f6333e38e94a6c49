//! The processes of a cluster: started, killed, and what they cost, from `/proc`.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::ground::Ground;

/// What one tick of `utime` and `stime` is: `USER_HZ` is 100 on every Linux that people run.
const TICK: Duration = Duration::from_millis(10);

/// All processes of one cluster. They end with it.
#[derive(Debug)]
pub(crate) struct Processes {
    ground: Ground,
    all: Vec<Process>,
}

#[derive(Debug)]
struct Process {
    program: PathBuf,
    args: Vec<String>,
    dir: PathBuf,
    child: Child,
}

/// What the processes take of memory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Resident {
    pub(crate) largest_kb: u64,
    /// Of the one with most of it: without the pages of files.
    pub(crate) largest_own_kb: u64,
    pub(crate) total_kb: u64,
}

impl Processes {
    pub(crate) fn new(ground: &Ground) -> Self {
        Self { ground: ground.clone(), all: Vec::new() }
    }

    /// Starts one more; what it says goes to a file in its directory, where it also runs.
    pub(crate) fn start(&mut self, program: &Path, args: &[String], dir: &Path) -> Result<()> {
        let child = spawn(&self.ground, program, args, dir)?;
        let (program, dir) = (program.to_owned(), dir.to_owned());
        self.all.push(Process { program, args: args.to_vec(), dir, child });
        Ok(())
    }

    /// `kill -9`.
    pub(crate) fn kill(&mut self, which: usize) -> Result<()> {
        let child = &mut self.all[which].child;
        child.kill()?;
        child.wait()?;
        Ok(())
    }

    /// SIGTERM, and no wait: it may take its time.
    pub(crate) fn terminate(&self, which: usize) -> Result<()> {
        let pid = rustix::process::Pid::from_child(&self.all[which].child);
        Ok(rustix::process::kill_process(pid, rustix::process::Signal::TERM)?)
    }

    /// Whether one has ended.
    pub(crate) fn has_ended(&mut self, which: usize) -> Result<bool> {
        Ok(self.all[which].child.try_wait()?.is_some())
    }

    /// What one has said since it was first started.
    pub(crate) fn said(&self, which: usize) -> String {
        fs::read_to_string(self.all[which].dir.join("said")).unwrap_or_default()
    }

    /// Starts one that has ended as it was started before.
    pub(crate) fn restart(&mut self, which: usize) -> Result<()> {
        let Process { program, args, dir, child } = &mut self.all[which];
        *child = spawn(&self.ground, program, args, dir)?;
        Ok(())
    }

    /// An error where one of them has ended by itself, with the last it said.
    pub(crate) fn check(&mut self) -> Result<()> {
        for process in &mut self.all {
            if let Some(status) = process.child.try_wait()? {
                let said = fs::read_to_string(process.dir.join("said")).unwrap_or_default();
                let lines: Vec<_> = said.lines().rev().take(5).collect();
                let name = process.program.display();
                bail!("{name} ended with {status}: {}", lines.join(" | "));
            }
        }
        Ok(())
    }

    /// The processor time they all took since they started, user and system.
    pub(crate) fn cpu(&self) -> Duration {
        let ticks = |process: &Process| cpu_ticks(&process.child.id().to_string()).unwrap_or(0);
        TICK * u32::try_from(self.all.iter().map(ticks).sum::<u64>()).unwrap_or(u32::MAX)
    }

    pub(crate) fn resident(&self) -> Resident {
        let kb = |name| {
            let of = move |process: &Process| status_kb(process.child.id(), name).unwrap_or(0);
            self.all.iter().map(of)
        };
        Resident {
            largest_kb: kb("VmRSS:").max().unwrap_or(0),
            largest_own_kb: kb("RssAnon:").max().unwrap_or(0),
            total_kb: kb("VmRSS:").sum(),
        }
    }
}

impl Drop for Processes {
    fn drop(&mut self) {
        for process in &mut self.all {
            // One that has ended already is what is wanted.
            let _ = process.child.kill();
            let _ = process.child.wait();
        }
    }
}

/// The processor time of this process.
pub(crate) fn own_cpu() -> Duration {
    TICK * u32::try_from(cpu_ticks("self").unwrap_or(0)).unwrap_or(u32::MAX)
}

/// The processor time that the whole machine spent on anything but waiting.
pub(crate) fn machine_cpu() -> Duration {
    let text = fs::read_to_string("/proc/stat").unwrap_or_default();
    let fields = text.lines().next().unwrap_or_default().split_whitespace().skip(1);
    let times: Vec<u64> = fields.filter_map(|field| field.parse().ok()).collect();
    // user nice system idle iowait irq softirq steal
    let busy: u64 = times
        .iter()
        .take(8)
        .enumerate()
        .filter(|(at, _)| ![3, 4].contains(at))
        .map(|(_, t)| t)
        .sum();
    Duration::from_millis(10 * busy)
}

fn spawn(ground: &Ground, program: &Path, args: &[String], dir: &Path) -> Result<Child> {
    let said = File::options().create(true).append(true).open(dir.join("said"))?;
    let child = Command::new(program)
        .args(args)
        .current_dir(dir)
        .stdin(Stdio::null())
        .stdout(said.try_clone()?)
        .stderr(said)
        .spawn()
        .with_context(|| format!("starting {}", program.display()))?;
    ground.note(child.id())?;
    Ok(child)
}

fn cpu_ticks(pid: &str) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in brackets, may hold anything.
    let fields: Vec<_> = text.rsplit_once(')')?.1.split_whitespace().collect();
    Some(fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?)
}

fn status_kb(pid: u32, name: &str) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = text.lines().find(|line| line.starts_with(name))?;
    line.split_whitespace().nth(1)?.parse().ok()
}
