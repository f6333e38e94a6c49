//! Where a run happens: a directory on a disk, programs, and ports that are free.

use std::fs;
use std::io::Write;
use std::net::TcpListener;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// The scratch directory and what stands in it.
#[derive(Clone, Debug)]
pub(crate) struct Ground {
    scratch: PathBuf,
    quorate: PathBuf,
}

impl Ground {
    pub(crate) fn new(scratch: &Path, quorate: &Path) -> Result<Self> {
        fs::create_dir_all(scratch).with_context(|| format!("making {}", scratch.display()))?;
        let scratch = scratch.canonicalize()?;
        let quorate = quorate.canonicalize().with_context(|| format!("{}", quorate.display()))?;
        Ok(Self { scratch, quorate })
    }

    pub(crate) fn scratch(&self) -> &Path {
        &self.scratch
    }

    pub(crate) fn quorate(&self) -> &Path {
        &self.quorate
    }

    /// An empty directory of that name.
    pub(crate) fn empty(&self, name: &str) -> Result<PathBuf> {
        let dir = self.scratch.join(name);
        if dir.exists() {
            fs::remove_dir_all(&dir)?;
        }
        fs::create_dir_all(&dir)?;
        Ok(dir)
    }

    /// Notes a process that was started: whoever cleans up behind a run that was killed reads it.
    pub(crate) fn note(&self, pid: u32) -> Result<()> {
        let path = self.scratch.join("pids");
        let mut file = fs::OpenOptions::new().create(true).append(true).open(path)?;
        writeln!(file, "{pid}")?;
        Ok(())
    }
}

/// That many ports of loopback that nobody uses now.
pub(crate) fn free_ports(count: usize) -> Result<Vec<u16>> {
    let bound: Vec<_> =
        (0..count).map(|_| TcpListener::bind("127.0.0.1:0")).collect::<Result<_, _>>()?;
    bound.iter().map(|listener| Ok(listener.local_addr()?.port())).collect()
}
