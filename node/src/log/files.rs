//! The directory a log lives in, as a trait: so that a simulated one can tear it.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;

use crate::dirs;

/// Makes a file, on whatever thread it is run; see [`Files::making`].
pub type Making = Box<dyn FnOnce() -> io::Result<()> + Send>;

/// A directory of files that keep their length.
pub trait Files: Send {
    /// An open file.
    type File: LogFile;

    /// Keeps everyone else out until this is dropped. `false`: somebody is in.
    ///
    /// # Errors
    /// Where the system cannot say.
    fn lock(&mut self) -> io::Result<bool>;

    /// What the directory is called in messages.
    fn place(&self) -> String;

    /// The names of the files, in any order.
    ///
    /// # Errors
    /// Where the directory cannot be read.
    fn list(&self) -> io::Result<Vec<String>>;

    /// Makes a new file of this length, all zeros, its content durable (its name is not, yet).
    /// After an error something of the file may be there.
    ///
    /// # Errors
    /// Where there is such a file, or no room.
    fn create(&self, name: &str, bytes: u64) -> io::Result<Self::File>;

    /// What [`create`](Self::create) does, for another thread to do, and gently to whoever else
    /// waits for the disk. Where it fails it takes away again what it made, if that can be.
    fn making(&self, name: String, bytes: u64) -> Making;

    /// Opens a file, for reading and for overwriting.
    ///
    /// # Errors
    /// Where that cannot be.
    fn open(&self, name: &str) -> io::Result<Self::File>;

    /// Gives a file another name; not durable before `sync_names`.
    ///
    /// # Errors
    /// Where that cannot be.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Removes a file; not durable before `sync_names`.
    ///
    /// # Errors
    /// Where that cannot be.
    fn remove(&self, name: &str) -> io::Result<()>;

    /// Makes every name durable.
    ///
    /// # Errors
    /// Where the disk fails.
    fn sync_names(&self) -> io::Result<()>;
}

/// A file that keeps its length.
pub trait LogFile: Send {
    /// Its length.
    ///
    /// # Errors
    /// Where the system cannot say.
    fn bytes(&self) -> io::Result<u64>;

    /// Fills `buffer` with what is at `offset`.
    ///
    /// # Errors
    /// Where it cannot be read, or the file is shorter.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()>;

    /// Overwrites what is at `offset`, all of it within the file; not durable before `sync`.
    ///
    /// # Errors
    /// Where it cannot be written.
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()>;

    /// Makes what was written durable (fdatasync).
    ///
    /// # Errors
    /// Where the disk fails. What was written since the last sync is then lost or not, and
    /// syncing again proves nothing.
    fn sync(&self) -> io::Result<()>;
}

/// A directory of the file system.
#[derive(Debug)]
pub struct RealFiles {
    path: PathBuf,
    /// Locked and synced; holding the lock here leaves no lock file behind.
    directory: fs::File,
    writable: bool,
}

/// How much is zero-filled in one write.
const ZEROS_BYTES: usize = 256 << 10;

impl RealFiles {
    /// The directory at `path`, which is made where it is not there (its parent must be).
    ///
    /// # Errors
    /// Where it cannot be made or opened.
    pub fn create(path: &Path) -> io::Result<Self> {
        if !path.is_dir() {
            fs::create_dir(path)?;
        }
        // Also where it was there: who made it may have ended before it was durable.
        dirs::sync(dirs::above(path))?;
        Ok(Self { writable: true, ..Self::open(path)? })
    }

    /// The directory at `path`, to be looked at: nothing in it can be changed.
    ///
    /// # Errors
    /// Where it is not there or cannot be opened.
    pub fn open(path: &Path) -> io::Result<Self> {
        let directory = fs::File::open(path)?;
        Ok(Self { path: path.to_owned(), directory, writable: false })
    }
}

impl Files for RealFiles {
    type File = RealFile;

    fn lock(&mut self) -> io::Result<bool> {
        match rustix::fs::flock(&self.directory, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(true),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    fn place(&self) -> String {
        self.path.display().to_string()
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.path)? {
            // A name that is not UTF-8 is none of the log's.
            names.extend(entry?.file_name().into_string());
        }
        Ok(names)
    }

    fn create(&self, name: &str, bytes: u64) -> io::Result<RealFile> {
        let file = make(&self.path.join(name))?;
        fill(&file, bytes, |_| Ok(()))?;
        Ok(RealFile(file))
    }

    fn making(&self, name: String, bytes: u64) -> Making {
        let path = self.path.join(name);
        Box::new(move || {
            let file = make(&path)?;
            // Piece by piece: the log's own syncs wait behind one piece at the most.
            let filled = fill(&file, bytes, fs::File::sync_data);
            if filled.is_err() {
                let _ = fs::remove_file(&path);
            }
            filled
        })
    }

    fn open(&self, name: &str) -> io::Result<RealFile> {
        let path = self.path.join(name);
        Ok(RealFile(fs::OpenOptions::new().read(true).write(self.writable).open(path)?))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.path.join(from), self.path.join(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.path.join(name))
    }

    fn sync_names(&self) -> io::Result<()> {
        self.directory.sync_all()
    }
}

fn make(path: &Path) -> io::Result<fs::File> {
    fs::OpenOptions::new().read(true).write(true).create_new(true).open(path)
}

/// Fills a new file with zeros and makes it durable, with a word after each piece.
fn fill(
    mut file: &fs::File,
    bytes: u64,
    after_piece: impl Fn(&fs::File) -> io::Result<()>,
) -> io::Result<()> {
    let zeros = vec![0; ZEROS_BYTES];
    let mut left = bytes;
    while left > 0 {
        let part = usize::try_from(left).unwrap_or(usize::MAX).min(zeros.len());
        file.write_all(&zeros[..part])?;
        after_piece(file)?;
        left -= part as u64;
    }
    file.sync_all()
}

/// A file of the file system.
#[derive(Debug)]
pub struct RealFile(fs::File);

impl LogFile for RealFile {
    fn bytes(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.0.read_exact_at(buffer, offset)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all_at(bytes, offset)
    }

    fn sync(&self) -> io::Result<()> {
        self.0.sync_data()
    }
}
