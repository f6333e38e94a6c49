//! The runtime file: which processes of a cluster run here, and where.
//!
//! `DIR/cluster.json` is there while a cluster runs, replaced whole at each change. `quorate up`
//! writes it; `down`, `up kill`, `up restart` and everything that looks for a cluster read it.
//!
//! The directory itself is locked. Every child inherits the lock, so the directory is in use for
//! as long as one of them lives, also when `quorate up` was killed or has detached.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use anyhow::Context;
use rustix::fs::FlockOperation;

pub(crate) use super::entries::{NodeEntry, Runtime, ServerEntry};
use super::process::Process;
use crate::exit::Failure;

const FILE: &str = "cluster.json";

impl Runtime {
    /// The cluster that runs in `dir`; `None` where the file is not there.
    ///
    /// # Errors
    /// When the file is there and cannot be understood.
    pub(crate) fn read(dir: &Path) -> Result<Option<Self>, Failure> {
        let path = dir.join(FILE);
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if is_absent(&error) => return Ok(None),
            Err(error) => {
                return Err(Failure::usage(format!("cannot read {}: {error}", path.display())));
            }
        };
        let wrong = |why: String| {
            Failure::usage(format!(
                "{} is no runtime file of this release ({why}); if no cluster runs there, remove it",
                path.display()
            ))
        };
        Self::parse(&text).map(Some).map_err(wrong)
    }

    /// Replaces the file.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(crate) fn write(&self, dir: &Path) -> Result<(), Failure> {
        let next = dir.join(format!("{FILE}.new"));
        std::fs::write(&next, self.print())
            .and_then(|()| std::fs::rename(&next, dir.join(FILE)))
            .with_context(|| format!("cannot write {}", dir.join(FILE).display()))?;
        Ok(())
    }

    /// Removes the file: nothing runs any more.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub(crate) fn remove(dir: &Path) -> Result<(), Failure> {
        match std::fs::remove_file(dir.join(FILE)) {
            Err(error) if !is_absent(&error) => {
                Err(anyhow::Error::new(error).context("cannot remove the runtime file").into())
            }
            _ => Ok(()),
        }
    }

    /// Where to look for the cluster: the server first, then the nodes.
    pub(crate) fn addresses(&self) -> Vec<String> {
        let nodes = self.nodes.iter().map(|node| node.address.clone());
        std::iter::once(self.server.address.clone()).chain(nodes).collect()
    }

    /// Every process but the supervisor.
    pub(crate) fn processes(&self) -> impl Iterator<Item = &Process> {
        self.nodes.iter().map(|node| &node.process).chain([&self.server.process])
    }

    /// The process that listens at `address`, if it lives.
    pub(crate) fn pid_at(&self, address: &str) -> Option<u32> {
        let nodes = self.nodes.iter().map(|node| (&node.address, node.process));
        let mut all = nodes.chain([(&self.server.address, self.server.process)]);
        let found = all.find(|(at, process)| *at == address && process.is_alive());
        found.map(|(_, process)| process.pid)
    }

    #[cfg(test)]
    pub(crate) fn example() -> Self {
        let server = ServerEntry { address: "127.0.0.1:1".to_owned(), process: Process::this() };
        let mut runtime = Self::new(None, None, "info".to_owned(), None, server);
        runtime.nodes.push(NodeEntry {
            slot: 1,
            id: Some(quorate_protocol::ids::NodeId(1)),
            address: "127.0.0.1:2".to_owned(),
            process: Process::this(),
        });
        runtime
    }
}

/// The lock on a cluster's directory. Given on to every child that is started while it is held.
#[derive(Debug)]
pub(crate) struct Lock {
    /// Not closed on exec, on purpose.
    _inherited: OwnedFd,
}

impl Lock {
    /// Takes the lock.
    ///
    /// # Errors
    /// When a cluster runs in `dir`, or the directory cannot be used.
    pub(crate) fn take(dir: &Path) -> Result<Self, Failure> {
        let cannot = |error: io::Error| {
            Failure::usage(format!(
                "cannot use {}: {error}; name another with --data DIR",
                dir.display()
            ))
        };
        std::fs::create_dir_all(dir).map_err(cannot)?;
        let handle = File::open(dir).map_err(cannot)?;
        let inherited = rustix::io::dup(&handle).map_err(|error| cannot(error.into()))?;
        match rustix::fs::flock(&inherited, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => return Err(in_use(dir)),
            Err(error) => return Err(cannot(error.into())),
        }
        // A node that was started again from outside holds no lock, but is in the file.
        let runs = Runtime::read(dir)?.is_some_and(|runtime| {
            runtime.processes().chain(&runtime.supervisor).any(Process::is_alive)
        });
        if runs { Err(in_use(dir)) } else { Ok(Self { _inherited: inherited }) }
    }
}

fn in_use(dir: &Path) -> Failure {
    let runtime = Runtime::read(dir).ok().flatten();
    let pid = runtime.as_ref().and_then(|runtime| {
        let mut all = runtime.supervisor.iter().chain(runtime.processes());
        all.find(|process| process.is_alive()).map(|process| process.pid)
    });
    let who = pid.map(|pid| format!(" (process {pid})")).unwrap_or_default();
    let flag = match dir == Path::new(crate::args::DATA_DEFAULT) {
        true => String::new(),
        false => format!(" --data {}", dir.display()),
    };
    let serverless = runtime.is_some_and(|runtime| !runtime.server.process.is_alive());
    let mend = match serverless {
        true => format!("start its server, which is gone, with `quorate up restart server{flag}`"),
        false => "use it with `quorate shell`".to_owned(),
    };
    Failure::usage(format!(
        "a cluster is running in {} already{who}; {mend}, or stop it with `quorate down{flag}`",
        dir.display()
    ))
}

fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exit::Code;

    #[test]
    fn what_is_written_is_read() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Runtime::read(dir.path()).unwrap(), None);
        let runtime = Runtime::example();
        runtime.write(dir.path()).unwrap();
        assert_eq!(Runtime::read(dir.path()).unwrap(), Some(runtime.clone()));
        assert_eq!(runtime.addresses(), ["127.0.0.1:1", "127.0.0.1:2"]);
        assert_eq!(runtime.pid_at("127.0.0.1:2"), Some(std::process::id()));
        Runtime::remove(dir.path()).unwrap();
        Runtime::remove(dir.path()).unwrap();
        assert_eq!(Runtime::read(dir.path()).unwrap(), None);
    }

    #[test]
    fn a_file_that_is_none_is_told() {
        let dir = tempfile::tempdir().unwrap();
        for text in ["{", "{}", r#"{"format": 2}"#] {
            std::fs::write(dir.path().join(FILE), text).unwrap();
            assert_eq!(Runtime::read(dir.path()).unwrap_err().code, Code::Usage);
        }
    }

    #[test]
    fn a_directory_is_locked_once() {
        let dir = tempfile::tempdir().unwrap();
        let lock = Lock::take(dir.path()).unwrap();
        let failure = Lock::take(dir.path()).unwrap_err();
        assert!(failure.to_string().contains("quorate down"), "{failure}");
        drop(lock);
        drop(Lock::take(dir.path()).unwrap());
    }

    #[test]
    fn a_directory_is_in_use_while_a_process_of_its_cluster_lives() {
        let dir = tempfile::tempdir().unwrap();
        Runtime::example().write(dir.path()).unwrap();
        let failure = Lock::take(dir.path()).unwrap_err();
        assert!(failure.to_string().contains(&std::process::id().to_string()), "{failure}");
    }
}
