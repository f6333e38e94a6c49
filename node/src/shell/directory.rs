//! The data directory: whose it is, and that nobody else uses it.
//!
//! ```text
//! DIR/node     who the node is: a line of text, with a checksum, replaced as a whole
//! DIR/lock     held while a process uses the directory
//! DIR/log/     the log
//! DIR/state/   the state
//! ```

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use quorate_protocol::ids::{ClusterId, NodeId, StoreId};
use rustix::fs::{FlockOperation, flock};

use super::identity::{parse, print};
use crate::dirs;

/// Why a data directory cannot be used. Nothing in it was changed.
#[derive(Debug, thiserror::Error)]
pub enum DirectoryError {
    /// Another process uses it.
    #[error(
        "{dir} is in use by another process; stop it, or give this node a directory of its own"
    )]
    InUse {
        /// The directory.
        dir: PathBuf,
    },
    /// It holds something else.
    #[error(
        "{dir} holds files that are not a node's ({found} among them); give the node an empty directory"
    )]
    Foreign {
        /// The directory.
        dir: PathBuf,
        /// One of the files.
        found: String,
    },
    /// Its identity cannot be read.
    #[error(
        "{file} is damaged or of another version ({why}); restore it, or give the node an empty directory and it copies everything from its peers under a new number"
    )]
    Unreadable {
        /// The identity file.
        file: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The system refuses.
    #[error(
        "cannot use {path}: {source}; give the node a directory that its user may write to, on a disk with room"
    )]
    Io {
        /// What was tried.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
}

fn io_at(path: &Path) -> impl FnOnce(io::Error) -> DirectoryError + '_ {
    |source| DirectoryError::Io { path: path.to_owned(), source }
}

/// An open data directory. Dropping it lets others use it.
#[derive(Debug)]
pub(crate) struct Directory {
    dir: PathBuf,
    _lock: File,
    pub(crate) store: StoreId,
    pub(crate) identity: Option<(ClusterId, NodeId)>,
}

impl Directory {
    /// Opens a node's directory, or makes one where there is nothing. `mint` names a new store.
    pub(crate) fn open(dir: &Path, mint: StoreId) -> Result<Self, DirectoryError> {
        let file = dir.join("node");
        let fresh = !file.exists();
        if fresh && dir.exists() {
            let mut entries = fs::read_dir(dir).map_err(io_at(dir))?;
            let foreign = entries.find_map(|entry| {
                let name = entry.ok()?.file_name().to_string_lossy().into_owned();
                (name != "lock").then_some(name)
            });
            if let Some(found) = foreign {
                return Err(DirectoryError::Foreign { dir: dir.to_owned(), found });
            }
        }
        if fresh {
            dirs::make(dir).map_err(io_at(dir))?;
            // It may have been made by a process that ended before it was durable. Where somebody
            // else made it, what it is in may not be ours to open.
            let _ = dirs::sync(dirs::above(dir));
        }
        let lock = lock(dir)?;
        if fresh {
            let made = Self { dir: dir.to_owned(), _lock: lock, store: mint, identity: None };
            made.write()?;
            return Ok(made);
        }
        let text = fs::read_to_string(&file).map_err(io_at(&file))?;
        let (store, identity) =
            parse(&text).map_err(|why| DirectoryError::Unreadable { file, why })?;
        Ok(Self { dir: dir.to_owned(), _lock: lock, store, identity })
    }

    /// Remembers who the node is.
    pub(crate) fn identify(
        &mut self,
        cluster: ClusterId,
        node: NodeId,
    ) -> Result<(), DirectoryError> {
        self.identity = Some((cluster, node));
        self.write()
    }

    /// Replaces the identity file as a whole, durably.
    fn write(&self) -> Result<(), DirectoryError> {
        let (file, new) = (self.dir.join("node"), self.dir.join("node.new"));
        let text = print(self.store, self.identity);
        let written = File::create(&new).and_then(|mut out| {
            out.write_all(text.as_bytes())?;
            out.sync_all()
        });
        written.map_err(io_at(&new))?;
        fs::rename(&new, &file).map_err(io_at(&file))?;
        dirs::sync(&self.dir).map_err(io_at(&self.dir))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.dir
    }

    pub(crate) fn log(&self) -> PathBuf {
        self.dir.join("log")
    }
}

/// A data directory that is looked at and not changed. Nobody can use it meanwhile.
#[derive(Debug)]
pub(crate) struct Look {
    /// None where no node has ever been here.
    _lock: Option<File>,
    /// What the identity file says, or what is wrong with it.
    pub(crate) who: Result<(StoreId, Option<(ClusterId, NodeId)>), String>,
}

impl Look {
    /// Looks at a node's directory.
    ///
    /// # Errors
    /// When it is in use or cannot be read; not when its identity file is damaged or missing.
    pub(crate) fn at(dir: &Path) -> Result<Self, DirectoryError> {
        let path = dir.join("lock");
        let lock = match File::open(&path) {
            // A shared lock is all that a file opened for reading gets everywhere.
            Ok(file) => Some(take(file, FlockOperation::NonBlockingLockShared, dir)?),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(io_at(&path)(error)),
        };
        let file = dir.join("node");
        let who = match fs::read(&file) {
            Ok(bytes) => parse(&String::from_utf8_lossy(&bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err("it is missing".to_owned())
            }
            Err(error) => return Err(io_at(&file)(error)),
        };
        Ok(Self { _lock: lock, who })
    }
}

fn lock(dir: &Path) -> Result<File, DirectoryError> {
    let path = dir.join("lock");
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(io_at(&path))?;
    take(file, FlockOperation::NonBlockingLockExclusive, dir)
}

fn take(file: File, how: FlockOperation, dir: &Path) -> Result<File, DirectoryError> {
    match flock(&file, how) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(DirectoryError::InUse { dir: dir.to_owned() }),
        Err(error) => Err(io_at(&dir.join("lock"))(error.into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_remembers_who_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let mut opened = Directory::open(dir.path(), StoreId(7)).unwrap();
        assert_eq!((opened.store, opened.identity), (StoreId(7), None));
        opened.identify(ClusterId(9), NodeId(3)).unwrap();
        let in_use = Directory::open(dir.path(), StoreId(8)).unwrap_err();
        assert!(matches!(in_use, DirectoryError::InUse { .. }), "{in_use}");
        drop(opened);
        let again = Directory::open(dir.path(), StoreId(8)).unwrap();
        assert_eq!(again.store, StoreId(7));
        assert_eq!(again.identity, Some((ClusterId(9), NodeId(3))));
    }

    #[test]
    fn what_is_not_a_node_s_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("thesis.tex"), "precious").unwrap();
        let error = Directory::open(dir.path(), StoreId(7)).unwrap_err();
        assert!(error.to_string().contains("thesis.tex"), "{error}");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn every_flipped_byte_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        drop(Directory::open(dir.path(), StoreId(7)).unwrap());
        let file = dir.path().join("node");
        let good = fs::read(&file).unwrap();
        for at in 0..good.len() - 1 {
            let mut bad = good.clone();
            bad[at] ^= 1;
            fs::write(&file, &bad).unwrap();
            let error = Directory::open(dir.path(), StoreId(8)).unwrap_err();
            assert!(matches!(error, DirectoryError::Unreadable { .. }), "byte {at}: {error}");
            assert_eq!(fs::read(&file).unwrap(), bad);
        }
    }
}
