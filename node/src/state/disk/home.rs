//! Where a state lives: whose it is, which generation counts, and who has it open.
//!
//! `head` is one small checksummed file. Naming another generation in it is one atomic rename,
//! and that is the whole of swapping a state for a copy: before it the old state counts, after
//! it the new one, and what `head` does not name is removed at the next open. Directories of
//! open databases are never renamed.
//!
//! A state is made under another name and renamed when it is whole, so a `state` directory
//! without a good `head` is a damaged one, not a young one.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use quorate_protocol::exact;
use quorate_protocol::ids::{ClusterId, History, StoreId};
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use super::rows;
use super::tree::Tree;
use crate::dirs;
use crate::state::{OpenError, StateError};

/// The format this program writes.
pub(in crate::state) const FORMAT: u32 = 1;

const DIRECTORY: &str = "state";
const MAKING: &str = "state.making";
const HEAD: &str = "head";
const HEAD_NEXT: &str = "head.next";
const LOCK: &str = "lock";
const GENERATION: &str = "gen-";
const MAGIC: &[u8; 8] = b"QRTSTATE";

/// Whose state it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The store.
    pub store: StoreId,
    /// The cluster.
    pub cluster: ClusterId,
    /// The history a *new* state gets; one that is there keeps its own, see
    /// [`State::history`](crate::state::State::history).
    pub history: History,
}

/// What `head` says, behind magic and format.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct Head {
    pub(super) store: StoreId,
    pub(super) cluster: ClusterId,
    /// The state's history.
    pub(super) history: History,
    /// The generation that counts.
    pub(super) generation: u64,
}

/// The state's directory, locked.
pub(super) struct Home {
    dir: PathBuf,
    identity: Identity,
    /// For the states that are made here.
    memtable_bytes: u64,
    _lock: File,
}

impl Home {
    /// Finds the state under `root`, or makes an empty one.
    pub(super) fn open(
        root: &Path,
        identity: &Identity,
        memtable_bytes: u64,
    ) -> Result<(Arc<Self>, Head), OpenError> {
        let dir = root.join(DIRECTORY);
        let io = |error| OpenError::Io { dir: dir.clone(), error };
        if !dir.try_exists().map_err(io)? {
            make(root, identity, memtable_bytes).map_err(io)?;
        }
        let head = read_head(&dir)?;
        check_identity(&dir, &head, identity)?;
        let lock = lock(&dir).map_err(io)?.ok_or_else(|| OpenError::InUse { dir: dir.clone() })?;
        // Who made it may have ended before it was durable.
        dirs::sync(root).map_err(io)?;
        // Again, now that nobody else can change it.
        let head = read_head(&dir)?;
        let home = Self { dir, identity: *identity, memtable_bytes, _lock: lock };
        Ok((Arc::new(home), head))
    }

    /// The state's directory.
    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Where a generation is.
    pub(super) fn generation_dir(&self, generation: u64) -> PathBuf {
        generation_dir(&self.dir, generation)
    }

    /// Makes the empty tree of a generation.
    pub(super) fn make_generation(&self, generation: u64) -> Result<Tree, StateError> {
        let dir = self.generation_dir(generation);
        remove_if_there(&dir)?;
        fs::create_dir(&dir)?;
        Tree::create(&dir, self.memtable_bytes)
    }

    /// From here on `generation` counts.
    pub(super) fn adopt(&self, generation: u64, history: History) -> io::Result<()> {
        dirs::sync(&self.dir)?;
        write_head(&self.dir, &Identity { history, ..self.identity }, generation)
    }

    /// Removes every generation but the one that counts.
    pub(super) fn clear_leftovers(&self, generation: u64) -> io::Result<()> {
        let kept = self.generation_dir(generation);
        for entry in fs::read_dir(&self.dir)? {
            let entry = entry?;
            let name = entry.file_name();
            let leftover = name.to_string_lossy().starts_with(GENERATION) && entry.path() != kept;
            if leftover {
                fs::remove_dir_all(entry.path())?;
            }
        }
        Ok(())
    }
}

/// Renames a state's directory to `state.damaged-N`, where it is kept for the operator. The
/// next open makes an empty state. The state must be closed.
///
/// # Errors
/// When the rename fails; the state is then where it was.
pub fn set_aside(root: &Path) -> io::Result<PathBuf> {
    let aside = (1u32..)
        .map(|n| root.join(format!("{DIRECTORY}.damaged-{n}")))
        .find(|path| !path.exists())
        .expect("fewer than 2^32 damaged states are kept");
    fs::rename(root.join(DIRECTORY), &aside)?;
    dirs::sync(root)?;
    Ok(aside)
}

/// Whether what is under `root` is of a format that this program knows, and of this store and
/// cluster, as far as can be told: for those who put something else in order before it is opened.
///
/// # Errors
/// What [`State`](crate::state::State) engines say at open, but of damage.
pub fn may_open(root: &Path, identity: &Identity) -> Result<(), OpenError> {
    let dir = state_dir(root);
    if !dir.try_exists().map_err(|error| OpenError::Io { dir: dir.clone(), error })? {
        return Ok(());
    }
    match read_head(&dir).and_then(|head| check_identity(&dir, &head, identity)) {
        Err(OpenError::Damaged { .. }) => Ok(()),
        other => other,
    }
}

/// The head of the state in `dir`, for those who only look.
pub(super) fn read_head(dir: &Path) -> Result<Head, OpenError> {
    let damaged = |why: &str| OpenError::Damaged { dir: dir.to_owned(), why: why.to_owned() };
    let bytes = match fs::read(dir.join(HEAD)) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(damaged("its file 'head' is missing"));
        }
        Err(error) => return Err(OpenError::Io { dir: dir.to_owned(), error }),
    };
    decode_head(dir, &bytes)
}

/// What the bytes of `head` say, in the state in `dir`.
pub(super) fn decode_head(dir: &Path, bytes: &[u8]) -> Result<Head, OpenError> {
    let damaged = |why: &str| OpenError::Damaged { dir: dir.to_owned(), why: why.to_owned() };
    let body = rows::unsealed(bytes).ok_or_else(|| damaged("its file 'head' is damaged"))?;
    let body = body.strip_prefix(MAGIC).ok_or_else(|| damaged("its file 'head' is not one"))?;
    let (format, body) =
        body.split_first_chunk().ok_or_else(|| damaged("its file 'head' is too short"))?;
    let found = u32::from_le_bytes(*format);
    if found != FORMAT {
        return Err(OpenError::UnknownFormat { dir: dir.to_owned(), found });
    }
    exact::decode(body).ok_or_else(|| damaged("its file 'head' cannot be read"))
}

/// Where a generation is.
pub(super) fn generation_dir(dir: &Path, generation: u64) -> PathBuf {
    dir.join(format!("{GENERATION}{generation}"))
}

/// The directory of the state under `root`.
pub(super) fn state_dir(root: &Path) -> PathBuf {
    root.join(DIRECTORY)
}

pub(super) fn check_identity(
    dir: &Path,
    head: &Head,
    identity: &Identity,
) -> Result<(), OpenError> {
    let foreign = |what, found: String, expected: String| OpenError::Foreign {
        dir: dir.to_owned(),
        what,
        found,
        expected,
    };
    if head.cluster != identity.cluster {
        let (found, expected) = (head.cluster.to_string(), identity.cluster.to_string());
        return Err(foreign("cluster", found, expected));
    }
    if head.store != identity.store {
        let (found, expected) = (head.store.to_string(), identity.store.to_string());
        return Err(foreign("store", found, expected));
    }
    Ok(())
}

/// Makes an empty state, whole before it gets its name.
fn make(root: &Path, identity: &Identity, memtable_bytes: u64) -> io::Result<()> {
    let making = root.join(MAKING);
    remove_if_there(&making)?;
    let first = generation_dir(&making, 1);
    fs::create_dir_all(&first)?;
    File::create(making.join(LOCK))?.sync_all()?;
    drop(Tree::create(&first, memtable_bytes).map_err(io::Error::other)?);
    write_head(&making, identity, 1)?;
    fs::rename(&making, root.join(DIRECTORY))?;
    dirs::sync(root)
}

/// A head as bytes.
pub(super) fn encode_head(head: &Head) -> Vec<u8> {
    let mut body = MAGIC.to_vec();
    body.extend_from_slice(&FORMAT.to_le_bytes());
    body.extend(postcard::to_stdvec(head).expect("encoding into memory cannot fail"));
    rows::sealed(&body)
}

fn write_head(dir: &Path, identity: &Identity, generation: u64) -> io::Result<()> {
    let Identity { store, cluster, history } = *identity;
    let next = dir.join(HEAD_NEXT);
    let mut file = File::create(&next)?;
    file.write_all(&encode_head(&Head { store, cluster, history, generation }))?;
    file.sync_all()?;
    fs::rename(next, dir.join(HEAD))?;
    dirs::sync(dir)
}

/// Takes the lock; `None` when somebody else has it.
fn lock(dir: &Path) -> io::Result<Option<File>> {
    let file = File::options().create(true).truncate(false).write(true).open(dir.join(LOCK))?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Some(file)),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn remove_if_there(dir: &Path) -> io::Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head() -> Vec<u8> {
        let (store, cluster, history) = (StoreId(7), ClusterId(9), History(2));
        super::super::decode::encode_head(&Identity { store, cluster, history }, 5)
    }

    fn is_damaged(bytes: &[u8]) -> bool {
        matches!(decode_head(Path::new("state"), bytes), Err(OpenError::Damaged { .. }))
    }

    #[test]
    fn a_byte_behind_head_is_damage() {
        let head = head();
        assert_eq!(decode_head(Path::new("state"), &head).unwrap().generation, 5);
        for body in [[&head[8..], &[0]].concat(), head[8..head.len() - 1].to_vec()] {
            let sum = xxhash_rust::xxh3::xxh3_64(&body).to_le_bytes();
            assert!(is_damaged(&[&sum[..], &body].concat()), "its checksum is right");
        }
    }

    #[test]
    fn a_head_that_is_cut_short_or_flipped_is_damage() {
        let head = head();
        for at in 0..head.len() {
            assert!(is_damaged(&head[..at]), "cut at {at}");
            let mut flipped = head.clone();
            flipped[at] ^= 1;
            assert!(is_damaged(&flipped), "flipped at {at}");
        }
    }
}
