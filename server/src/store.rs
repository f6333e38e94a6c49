//! The server's one file: its whole state, checksummed and replaced as a whole.
//!
//! ```text
//! server.state:  magic "QUORREG\n" | version u32 LE | length u32 LE | crc32c u32 LE | body
//! ```
//!
//! The body is the [`State`] in postcard; the checksum covers it. A new state is written beside
//! the old one, synced, renamed over it, and the directory is synced: after a crash there is the
//! old state or the new one, never a part of either. A lock file keeps two servers out of one
//! directory; it is never removed, only unlocked, so that no two can hold different ones.
//!
//! Whatever is wrong with the directory is told before anything in it is changed.
//!
//! What it does not do: it keeps no history. An older copy put back looks healthy here; the
//! core finds out by the first epoch that it never issued.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use quorate_protocol::exact;
use rustix::fs::{FlockOperation, flock};

use crate::core::state::State;

const STATE_FILE: &str = "server.state";
const NEW_FILE: &str = "server.state.new";
const LOCK_FILE: &str = "server.lock";

const MAGIC: &[u8; 8] = b"QUORREG\n";
const HEADER_BYTES: usize = 20;

/// The version of the file's format.
pub const FORMAT_VERSION: u32 = 2;

/// No state is longer; far more than the most registrations take.
pub const STATE_BYTES_MAX: usize = 16 << 20;

/// Why the data directory cannot be used. Nothing in it was changed, unless it says so.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another process holds the lock.
    #[error("{} is in use by another server; stop it, or give this one its own --data", .dir.display())]
    InUse {
        /// The directory.
        dir: PathBuf,
    },
    /// There are files, but no server's.
    #[error(
        "{} holds something else ({found}) and no server's state; give an empty directory, or the one this server had before",
        .dir.display()
    )]
    Foreign {
        /// The directory.
        dir: PathBuf,
        /// One of the files in it.
        found: String,
    },
    /// There is no state here where there must be one.
    #[error("{} holds no server's state; check --data", .dir.display())]
    Empty {
        /// The directory.
        dir: PathBuf,
    },
    /// The file is not what it should be.
    #[error(
        "{} is damaged ({why}); it cannot be rebuilt, since it is what epochs and numbers rest on. If there is a copy of exactly this state, put it back; otherwise start a new cluster on an empty directory",
        .file.display()
    )]
    Damaged {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The file is of a format that this program does not know.
    #[error(
        "{} is of format {found}, this program knows {FORMAT_VERSION}; run the release that wrote it, or a newer one",
        .file.display()
    )]
    OtherVersion {
        /// The file.
        file: PathBuf,
        /// Its format.
        found: u32,
    },
    /// The system refused.
    #[error("cannot {doing} {}: {why}; check that the directory is there, writable and not full", .path.display())]
    Io {
        /// What was tried.
        doing: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        #[source]
        why: io::Error,
    },
}

/// Makes durable that a directory is there, which was made by us or by somebody else: in the one
/// above it, and so on. What is not ours to open, or of a file system that syncs no directories, was
/// not made by us.
fn keep_made(dir: &Path) -> io::Result<()> {
    let dir = dir.canonicalize()?;
    for above in dir.ancestors().skip(1) {
        use io::ErrorKind::{InvalidInput, PermissionDenied, Unsupported};
        match File::open(above).and_then(|above| above.sync_all()) {
            Err(error) if matches!(error.kind(), PermissionDenied | InvalidInput | Unsupported) => {
                break;
            }
            other => other?,
        }
    }
    Ok(())
}

/// A locked data directory.
#[derive(Debug)]
pub struct Store {
    dir: PathBuf,
    /// Held open: the lock goes with it.
    _lock: File,
}

impl Store {
    /// Opens `dir`, and creates it if it is not there. Gives back the state in it; `None` in an
    /// empty one.
    ///
    /// # Errors
    /// When the directory is in use, holds something else, or its state cannot be read.
    pub fn open(dir: &Path) -> Result<(Self, Option<State>), StoreError> {
        fs::create_dir_all(dir).map_err(|why| failed("create", dir, why))?;
        if !dir.join(STATE_FILE).exists() {
            check_empty(dir)?;
            keep_made(dir).map_err(|why| failed("sync what is above", dir, why))?;
        }
        let store = Self { dir: dir.to_owned(), _lock: lock(dir)? };
        let state = read(dir)?;
        Ok((store, state))
    }

    /// Opens a directory that must hold a state.
    ///
    /// # Errors
    /// As [`Store::open`], and when there is no state.
    pub fn open_existing(dir: &Path) -> Result<(Self, State), StoreError> {
        if !dir.join(STATE_FILE).exists() {
            return Err(StoreError::Empty { dir: dir.to_owned() });
        }
        let (store, state) = Self::open(dir)?;
        let state = state.ok_or_else(|| StoreError::Empty { dir: dir.to_owned() })?;
        Ok((store, state))
    }

    /// Makes `state` durable in place of the one before.
    ///
    /// # Errors
    /// When the system refuses. Which of the two states is on disk is then not known: the
    /// process must end and read it again.
    pub fn save(&self, state: &State) -> Result<(), StoreError> {
        let (new, file) = (self.dir.join(NEW_FILE), self.dir.join(STATE_FILE));
        let bytes = encode(state);
        let written = File::create(&new).and_then(|mut out| {
            out.write_all(&bytes)?;
            out.sync_all()
        });
        written.map_err(|why| failed("write", &new, why))?;
        fs::rename(&new, &file).map_err(|why| failed("replace", &file, why))?;
        let synced = File::open(&self.dir).and_then(|dir| dir.sync_all());
        synced.map_err(|why| failed("sync", &self.dir, why))
    }
}

/// Whether `dir` holds a server's files, or what is left of them.
#[must_use]
pub fn is_server(dir: &Path) -> bool {
    [STATE_FILE, NEW_FILE, LOCK_FILE].iter().any(|name| dir.join(name).is_file())
}

/// Looks at a stopped server's directory and changes nothing. Gives back the state in it; `None`
/// where none was ever saved, or it is gone.
///
/// # Errors
/// When the directory is in use, or its state cannot be read.
pub fn inspect(dir: &Path) -> Result<Option<State>, StoreError> {
    let path = dir.join(LOCK_FILE);
    let _lock = match File::open(&path) {
        // A shared lock is all that a file opened for reading gets everywhere.
        Ok(file) => Some(take(file, FlockOperation::NonBlockingLockShared, dir)?),
        Err(why) if why.kind() == io::ErrorKind::NotFound => None,
        Err(why) => return Err(failed("open", &path, why)),
    };
    read(dir)
}

fn read(dir: &Path) -> Result<Option<State>, StoreError> {
    let path = dir.join(STATE_FILE);
    let mut bytes = Vec::new();
    let read = File::open(&path).and_then(|file| {
        file.take((HEADER_BYTES + STATE_BYTES_MAX + 1) as u64).read_to_end(&mut bytes)
    });
    match read {
        Ok(_) => decode(&path, &bytes).map(Some),
        Err(why) if why.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(why) => Err(failed("read", &path, why)),
    }
}

/// Checks that there is nothing but what an interrupted first start leaves.
fn check_empty(dir: &Path) -> Result<(), StoreError> {
    let entries = fs::read_dir(dir).map_err(|why| failed("read", dir, why))?;
    for entry in entries {
        let name = entry.map_err(|why| failed("read", dir, why))?.file_name();
        if name != LOCK_FILE && name != NEW_FILE {
            let found = name.to_string_lossy().into_owned();
            return Err(StoreError::Foreign { dir: dir.to_owned(), found });
        }
    }
    Ok(())
}

fn lock(dir: &Path) -> Result<File, StoreError> {
    let path = dir.join(LOCK_FILE);
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
    let file = file.map_err(|why| failed("open", &path, why))?;
    take(file, FlockOperation::NonBlockingLockExclusive, dir)
}

fn take(file: File, how: FlockOperation, dir: &Path) -> Result<File, StoreError> {
    match flock(&file, how) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(StoreError::InUse { dir: dir.to_owned() }),
        Err(errno) => Err(failed("lock", &dir.join(LOCK_FILE), errno.into())),
    }
}

/// A state as its file holds it.
///
/// # Panics
/// When it is longer than [`STATE_BYTES_MAX`]: registrations are bounded.
#[must_use]
pub fn encode(state: &State) -> Vec<u8> {
    let body = postcard::to_stdvec(state).expect("encoding into memory cannot fail");
    assert!(body.len() <= STATE_BYTES_MAX, "registrations are bounded");
    let length = u32::try_from(body.len()).expect("bounded above");
    let mut bytes = Vec::with_capacity(HEADER_BYTES + body.len());
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
    bytes.extend_from_slice(&length.to_le_bytes());
    bytes.extend_from_slice(&crc32c::crc32c(&body).to_le_bytes());
    bytes.extend_from_slice(&body);
    bytes
}

/// The state that a file holds, which errors call `path`.
///
/// # Errors
/// When these bytes are none that `encode` made.
pub fn decode(path: &Path, bytes: &[u8]) -> Result<State, StoreError> {
    let damaged = |why: &str| StoreError::Damaged { file: path.to_owned(), why: why.to_owned() };
    let Some((header, body)) = bytes.split_first_chunk::<HEADER_BYTES>() else {
        return Err(damaged("it is too short"));
    };
    let (magic, numbers) = header.split_at(MAGIC.len());
    if magic != MAGIC {
        return Err(damaged("it does not begin as a server's state does"));
    }
    let number = |at: usize| {
        let bytes = numbers[at * 4..at * 4 + 4].try_into().expect("the header has three numbers");
        u32::from_le_bytes(bytes)
    };
    let (version, length, checksum) = (number(0), number(1), number(2));
    if version != FORMAT_VERSION {
        return Err(StoreError::OtherVersion { file: path.to_owned(), found: version });
    }
    if body.len() != length as usize {
        return Err(damaged("its length is not what it says"));
    }
    if crc32c::crc32c(body) != checksum {
        return Err(damaged("its checksum does not match"));
    }
    exact::decode(body).ok_or_else(|| damaged("its contents make no sense"))
}

fn failed(doing: &'static str, path: &Path, why: io::Error) -> StoreError {
    StoreError::Io { doing, path: path.to_owned(), why }
}

#[cfg(test)]
mod tests {
    use quorate_protocol::ids::{ClusterId, NodeId};
    use quorate_protocol::settings::Settings;

    use super::*;

    fn state() -> State {
        State::new(ClusterId(7), Settings::default())
    }

    /// A directory with a state in it.
    fn dir() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let (store, none) = Store::open(dir.path()).unwrap();
        assert_eq!(none, None);
        store.save(&state()).unwrap();
        dir
    }

    fn files(dir: &Path) -> Vec<(String, Vec<u8>)> {
        let mut files: Vec<_> = fs::read_dir(dir)
            .unwrap()
            .map(|entry| {
                let entry = entry.unwrap();
                let name = entry.file_name().to_string_lossy().into_owned();
                (name, fs::read(entry.path()).unwrap_or_default())
            })
            .collect();
        files.sort();
        files
    }

    #[test]
    fn a_byte_behind_the_state_is_damage() {
        let mut file = encode(&state());
        file.push(0);
        let length = u32::try_from(file.len() - HEADER_BYTES).unwrap();
        file[12..16].copy_from_slice(&length.to_le_bytes());
        let checksum = crc32c::crc32c(&file[HEADER_BYTES..]);
        file[16..20].copy_from_slice(&checksum.to_le_bytes());
        let error = decode(Path::new(STATE_FILE), &file).unwrap_err();
        assert!(error.to_string().contains("make no sense"), "{error}");
    }

    #[test]
    fn a_state_comes_back_as_it_was_saved_last() {
        let dir = dir();
        let mut changed = state();
        changed.next_node = NodeId(9);
        {
            let (store, found) = Store::open(dir.path()).unwrap();
            assert_eq!(found, Some(state()));
            store.save(&changed).unwrap();
        }
        let (_, found) = Store::open_existing(dir.path()).unwrap();
        assert_eq!(found, changed);
    }

    #[test]
    fn a_directory_has_one_server_at_a_time() {
        let dir = dir();
        let (first, _) = Store::open(dir.path()).unwrap();
        assert!(matches!(Store::open(dir.path()), Err(StoreError::InUse { .. })));
        drop(first);
        Store::open(dir.path()).unwrap();
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_noticed_and_changes_nothing() {
        let dir = dir();
        let path = dir.path().join(STATE_FILE);
        let good = fs::read(&path).unwrap();
        let mut bad: Vec<Vec<u8>> = (0..good.len()).map(|end| good[..end].to_vec()).collect();
        bad.push([&good[..], b"x"].concat());
        for at in 0..good.len() {
            let mut flipped = good.clone();
            flipped[at] ^= 1 << (at % 8);
            bad.push(flipped);
        }
        for bytes in bad {
            fs::write(&path, &bytes).unwrap();
            let error = Store::open(dir.path()).unwrap_err();
            assert!(
                matches!(error, StoreError::Damaged { .. } | StoreError::OtherVersion { .. }),
                "{error}"
            );
            let inspected = inspect(dir.path()).unwrap_err();
            assert_eq!(inspected.to_string(), error.to_string());
            assert_eq!(fs::read(&path).unwrap(), bytes);
        }
    }

    #[test]
    fn looking_changes_nothing() {
        let dir = dir();
        let before = files(dir.path());
        assert!(is_server(dir.path()));
        assert_eq!(inspect(dir.path()).unwrap(), Some(state()));
        let (_store, _) = Store::open(dir.path()).unwrap();
        assert!(matches!(inspect(dir.path()), Err(StoreError::InUse { .. })));
        assert_eq!(files(dir.path()), before);

        let other = tempfile::tempdir().unwrap();
        assert!(!is_server(other.path()));
        assert_eq!(inspect(other.path()).unwrap(), None);
        assert_eq!(files(other.path()), []);
    }

    #[test]
    fn a_torn_write_beside_the_state_is_ignored() {
        let dir = dir();
        fs::write(dir.path().join(NEW_FILE), b"half a st").unwrap();
        let (store, found) = Store::open(dir.path()).unwrap();
        assert_eq!(found, Some(state()));
        store.save(&state()).unwrap();
        assert!(!dir.path().join(NEW_FILE).exists());
    }

    #[test]
    fn a_first_start_that_was_interrupted_is_no_obstacle() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(NEW_FILE), b"half a st").unwrap();
        fs::write(dir.path().join(LOCK_FILE), b"").unwrap();
        let (_, found) = Store::open(dir.path()).unwrap();
        assert_eq!(found, None);
    }

    #[test]
    fn a_directory_of_something_else_is_left_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("thesis.tex"), b"years of work").unwrap();
        let before = files(dir.path());
        let error = Store::open(dir.path()).unwrap_err();
        assert!(matches!(&error, StoreError::Foreign { found, .. } if found == "thesis.tex"));
        assert_eq!(files(dir.path()), before);
    }

    #[test]
    fn a_state_that_must_be_there_is_not_made_up() {
        let dir = tempfile::tempdir().unwrap();
        let missing = dir.path().join("nothing/here");
        assert!(matches!(Store::open_existing(&missing), Err(StoreError::Empty { .. })));
        assert!(!missing.exists());
    }

    #[test]
    fn what_cannot_be_a_directory_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        fs::write(&file, b"").unwrap();
        let error = Store::open(&file.join("below")).unwrap_err();
        assert!(matches!(error, StoreError::Io { .. }), "{error}");
    }
}
