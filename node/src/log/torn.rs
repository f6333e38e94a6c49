//! A simulated disk that loses and tears what was not synced.
//!
//! Deterministic: all chance comes from the seeded generator handed to [`TornDisk::crash`]. It is
//! rougher than a real disk in what it loses, and kinder in two ways: names are lost in order (as
//! a journaling file system loses them), and a tear changes no byte outside the write.
//!
//! One [`TornDisk`] is one directory. It outlives the processes that use it: each takes
//! [`TornDisk::files`] of its own, which a crash or a kill makes useless.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use quorate_protocol::seeded::Seeded;

use super::files::{Files, LogFile, Making};

/// A simulated directory; clones are the same directory.
#[derive(Clone, Debug, Default)]
pub struct TornDisk(Arc<Mutex<Disk>>);

/// One process's way into a [`TornDisk`].
#[derive(Debug)]
pub struct TornFiles {
    disk: TornDisk,
    process: u64,
    locked: bool,
}

/// An open file of a [`TornDisk`].
#[derive(Debug)]
pub struct TornFile {
    disk: TornDisk,
    process: u64,
    file: u64,
}

#[derive(Debug, Default)]
struct Disk {
    /// The process that runs; handles of others are useless.
    process: u64,
    locked: bool,
    faults: Faults,
    syncs: u64,
    files: BTreeMap<u64, Content>,
    names: BTreeMap<String, u64>,
    names_durable: BTreeMap<String, u64>,
    /// What happened to names since they were synced.
    names_unsynced: Vec<Renaming>,
}

#[derive(Debug, Default)]
struct Faults {
    /// How many more changes happen before the power fails.
    changes_left: Option<u64>,
    /// The power has failed.
    dark: bool,
    /// How many more syncs succeed before one fails.
    syncs_left: Option<u64>,
    /// How many bytes of files there is room for.
    room_bytes: Option<u64>,
}

#[derive(Debug)]
enum Renaming {
    Add(String, u64),
    Remove(String),
    Move(String, String),
}

#[derive(Debug, Default)]
struct Content {
    /// What a read sees.
    seen: Vec<u8>,
    durable: Vec<u8>,
    /// What was written since the last sync.
    unsynced: Vec<(usize, Vec<u8>)>,
}

impl TornDisk {
    /// A way in for a new process. One runs at a time: an earlier one is not stopped by this, and
    /// holds its lock.
    #[must_use]
    pub fn files(&self) -> TornFiles {
        TornFiles { disk: self.clone(), process: self.disk().process, locked: false }
    }

    /// The power fails and comes back: of every write, and of every change of a name, that was
    /// not synced, nothing, all, or any part is kept. Injected faults end.
    pub fn crash(&self, chance: &mut Seeded) {
        let mut disk = self.disk();
        disk.end_process();
        let kept = below(chance, disk.names_unsynced.len() + 1);
        let mut names = std::mem::take(&mut disk.names_durable);
        for renaming in disk.names_unsynced.drain(..).take(kept) {
            renaming.apply(&mut names);
        }
        disk.names.clone_from(&names);
        disk.names_durable = names;
        let named = disk.names.clone();
        disk.files.retain(|file, _| named.values().any(|it| it == file));
        for content in disk.files.values_mut() {
            content.crash(chance);
        }
    }

    /// The process is killed and the machine goes on: nothing is lost yet. Injected faults end.
    pub fn kill(&self) {
        self.disk().end_process();
    }

    /// The power fails at the change of files or names after the next `changes`: that one may
    /// happen in part, and every call after it is an error until [`TornDisk::crash`], or
    /// [`TornDisk::kill`], where it was but the process that ended there.
    pub fn fail_power_after(&self, changes: u64) {
        self.disk().faults.changes_left = Some(changes);
    }

    /// Whether the power has failed.
    #[must_use]
    pub fn is_dark(&self) -> bool {
        self.disk().faults.dark
    }

    /// The sync of a file after the next `syncs` fails, as Linux fails it: what it should have
    /// saved can still be read, and is never saved.
    pub fn fail_sync_after(&self, syncs: u64) {
        self.disk().faults.syncs_left = Some(syncs);
    }

    /// How many syncs of files there were.
    #[must_use]
    pub fn syncs(&self) -> u64 {
        self.disk().syncs
    }

    /// Files may take so many bytes together; `None` is no bound.
    pub fn set_room(&self, bytes: Option<u64>) {
        self.disk().faults.room_bytes = bytes;
    }

    /// Changes bits of a byte, as a medium does that rots. `false`: there is no such byte.
    #[must_use]
    pub fn flip(&self, name: &str, offset: usize, bits: u8) -> bool {
        let mut disk = self.disk();
        let Some(content) = disk.named(name) else { return false };
        for bytes in [&mut content.seen, &mut content.durable] {
            let Some(byte) = bytes.get_mut(offset) else { return false };
            *byte ^= bits;
        }
        true
    }

    /// Changes a file's content, as a person does. A new name makes a new file.
    pub fn put(&self, name: &str, bytes: &[u8]) {
        let mut disk = self.disk();
        let content = Content { seen: bytes.into(), durable: bytes.into(), unsynced: Vec::new() };
        let file = disk.add(content);
        disk.names.insert(name.to_owned(), file);
        disk.names_durable.insert(name.to_owned(), file);
    }

    /// Removes a file, as a person does. `false`: there is none.
    #[must_use]
    pub fn take(&self, name: &str) -> bool {
        let mut disk = self.disk();
        disk.names_durable.remove(name);
        disk.names.remove(name).is_some()
    }

    /// Every file as a read sees it.
    #[must_use]
    pub fn contents(&self) -> BTreeMap<String, Vec<u8>> {
        let disk = self.disk();
        let seen = |file| disk.files.get(file).map(|content| content.seen.clone());
        let named = disk.names.iter();
        named.map(|(name, file)| (name.clone(), seen(file).unwrap_or_default())).collect()
    }

    fn disk(&self) -> MutexGuard<'_, Disk> {
        self.0.lock().expect("no call on the disk panics")
    }

    /// The disk, for a call of this process that changes nothing.
    fn reading(&self, process: u64) -> io::Result<MutexGuard<'_, Disk>> {
        let disk = self.disk();
        if disk.process != process {
            return Err(io::Error::other("the process was killed"));
        }
        if disk.faults.dark {
            return Err(io::Error::other("the power has failed"));
        }
        Ok(disk)
    }

    /// The disk, for a call of this process that changes something, and whether the power fails
    /// meanwhile.
    fn changing(&self, process: u64) -> io::Result<(MutexGuard<'_, Disk>, bool)> {
        let mut disk = self.reading(process)?;
        let dark = match &mut disk.faults.changes_left {
            None => false,
            Some(0) => true,
            Some(left) => {
                *left -= 1;
                false
            }
        };
        disk.faults.dark = dark;
        Ok((disk, dark))
    }
}

impl Disk {
    fn end_process(&mut self) {
        self.process += 1;
        self.locked = false;
        self.faults = Faults::default();
    }

    fn named(&mut self, name: &str) -> Option<&mut Content> {
        let file = self.names.get(name)?;
        self.files.get_mut(file)
    }

    fn add(&mut self, content: Content) -> u64 {
        let file = self.files.last_key_value().map_or(0, |(file, _)| file + 1);
        self.files.insert(file, content);
        file
    }

    fn rename(&mut self, renaming: Renaming) {
        renaming.apply(&mut self.names);
        self.names_unsynced.push(renaming);
    }

    fn room_left(&self) -> u64 {
        let Some(room) = self.faults.room_bytes else { return u64::MAX };
        let taken = self.names.values().filter_map(|file| self.files.get(file));
        room.saturating_sub(taken.map(|content| content.seen.len() as u64).sum())
    }
}

impl Renaming {
    fn apply(&self, names: &mut BTreeMap<String, u64>) {
        match self {
            Self::Add(name, file) => {
                names.insert(name.clone(), *file);
            }
            Self::Remove(name) => {
                names.remove(name);
            }
            Self::Move(from, to) => {
                if let Some(file) = names.remove(from) {
                    names.insert(to.clone(), file);
                }
            }
        }
    }
}

impl Content {
    fn write(&mut self, offset: usize, bytes: &[u8]) -> io::Result<()> {
        let end = offset.checked_add(bytes.len());
        let Some(place) = end.and_then(|end| self.seen.get_mut(offset..end)) else {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "beyond the end of the file"));
        };
        place.copy_from_slice(bytes);
        self.unsynced.push((offset, bytes.to_vec()));
        Ok(())
    }

    fn sync(&mut self) {
        // Not simply what is seen: what an earlier failed sync gave up stays lost.
        for (offset, bytes) in self.unsynced.drain(..) {
            self.durable[offset..offset + bytes.len()].copy_from_slice(&bytes);
        }
    }

    fn crash(&mut self, chance: &mut Seeded) {
        for (offset, bytes) in std::mem::take(&mut self.unsynced) {
            let mut keep = |from: usize, to: usize| {
                self.durable[offset + from..offset + to].copy_from_slice(&bytes[from..to]);
            };
            let cut = below(chance, bytes.len() + 1);
            match chance.below(5) {
                0 => {}
                1 => keep(0, bytes.len()),
                2 => keep(0, cut),
                3 => keep(cut, bytes.len()),
                _ => {
                    for block in (0..bytes.len()).step_by(SCATTERED_BYTES) {
                        if chance.below(2) == 0 {
                            keep(block, bytes.len().min(block + SCATTERED_BYTES));
                        }
                    }
                }
            }
        }
        self.seen.clone_from(&self.durable);
    }
}

/// The blocks in which a write that tears all over is kept or lost.
const SCATTERED_BYTES: usize = 16;

fn below(chance: &mut Seeded, bound: usize) -> usize {
    usize::try_from(chance.below(bound as u64)).expect("below a usize")
}

fn absent(name: &str) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, format!("there is no {name}"))
}

fn dark() -> io::Error {
    io::Error::other("the power fails")
}

impl TornFiles {
    fn handle(&self, file: u64) -> TornFile {
        TornFile { disk: self.disk.clone(), process: self.process, file }
    }

    /// A change of names that the power cut may lose, but not halve.
    fn rename_as(&self, name: &str, renaming: Renaming) -> io::Result<()> {
        let (mut disk, power_fails) = self.disk.changing(self.process)?;
        if !disk.names.contains_key(name) {
            return Err(absent(name));
        }
        disk.rename(renaming);
        if power_fails { Err(dark()) } else { Ok(()) }
    }
}

impl Drop for TornFiles {
    fn drop(&mut self) {
        let mut disk = self.disk.disk();
        if self.locked && disk.process == self.process {
            disk.locked = false;
        }
    }
}

impl Files for TornFiles {
    type File = TornFile;

    fn lock(&mut self) -> io::Result<bool> {
        let mut disk = self.disk.reading(self.process)?;
        if disk.locked && !self.locked {
            return Ok(false);
        }
        disk.locked = true;
        self.locked = true;
        Ok(true)
    }

    fn place(&self) -> String {
        "the simulated disk".to_owned()
    }

    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.disk.reading(self.process)?.names.keys().cloned().collect())
    }

    fn create(&self, name: &str, bytes: u64) -> io::Result<TornFile> {
        let (mut disk, power_fails) = self.disk.changing(self.process)?;
        if disk.names.contains_key(name) {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, format!("{name} exists")));
        }
        let room = disk.room_left();
        let length = if power_fails { bytes / 2 } else { bytes.min(room) };
        let zeros = vec![0; usize::try_from(length).map_err(io::Error::other)?];
        let content = Content { seen: zeros.clone(), durable: zeros, unsynced: Vec::new() };
        let file = disk.add(content);
        disk.rename(Renaming::Add(name.to_owned(), file));
        if power_fails {
            return Err(dark());
        }
        if bytes > room {
            return Err(io::Error::new(io::ErrorKind::StorageFull, "no space left"));
        }
        Ok(self.handle(file))
    }

    fn making(&self, name: String, bytes: u64) -> Making {
        let files = Self { disk: self.disk.clone(), process: self.process, locked: false };
        Box::new(move || {
            let made = files.create(&name, bytes).map(drop);
            if made.is_err() {
                let _ = files.remove(&name);
            }
            made
        })
    }

    fn open(&self, name: &str) -> io::Result<TornFile> {
        let disk = self.disk.reading(self.process)?;
        let file = disk.names.get(name).ok_or_else(|| absent(name))?;
        Ok(self.handle(*file))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.rename_as(from, Renaming::Move(from.to_owned(), to.to_owned()))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.rename_as(name, Renaming::Remove(name.to_owned()))
    }

    fn sync_names(&self) -> io::Result<()> {
        let (mut disk, power_fails) = self.disk.changing(self.process)?;
        if power_fails {
            return Err(dark());
        }
        disk.names_unsynced.clear();
        disk.names_durable = disk.names.clone();
        Ok(())
    }
}

impl LogFile for TornFile {
    fn bytes(&self) -> io::Result<u64> {
        let disk = self.disk.reading(self.process)?;
        let content = disk.files.get(&self.file).ok_or_else(|| absent("that file"))?;
        Ok(content.seen.len() as u64)
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let disk = self.disk.reading(self.process)?;
        let content = disk.files.get(&self.file).ok_or_else(|| absent("that file"))?;
        let from = usize::try_from(offset).map_err(io::Error::other)?;
        let place = from.checked_add(buffer.len()).and_then(|end| content.seen.get(from..end));
        buffer.copy_from_slice(place.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let (mut disk, power_fails) = self.disk.changing(self.process)?;
        let content = disk.files.get_mut(&self.file).ok_or_else(|| absent("that file"))?;
        // As far as it has come when the power fails, or the process is killed.
        let written = if power_fails { bytes.len() / 2 } else { bytes.len() };
        content.write(usize::try_from(offset).map_err(io::Error::other)?, &bytes[..written])?;
        if power_fails { Err(dark()) } else { Ok(()) }
    }

    fn sync(&self) -> io::Result<()> {
        let (mut disk, power_fails) = self.disk.changing(self.process)?;
        if power_fails {
            return Err(dark());
        }
        disk.syncs += 1;
        let fails = match &mut disk.faults.syncs_left {
            None => false,
            Some(0) => true,
            Some(left) => {
                *left -= 1;
                false
            }
        };
        let content = disk.files.get_mut(&self.file).ok_or_else(|| absent("that file"))?;
        if fails {
            // The pages count as clean from now on; only writing them again can save them.
            content.unsynced.clear();
            return Err(io::Error::other("the sync failed"));
        }
        content.sync();
        Ok(())
    }
}
