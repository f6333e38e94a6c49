//! What is checked before fjall sees its files, and what `quorate verify` checks.
//!
//! fjall's tree keeps, per keyspace, a file `current` that names the list of tables in force and
//! its checksum, but does not compare that checksum; and it *deletes* what a list does not name:
//! tables, and whole keyspaces when `current` is missing. So a damaged `current` could open an
//! older state in silence, or destroy what should be kept for the operator. Here the comparison
//! is made, reading only, and fjall is not let near a directory that fails it.
//!
//! ```text
//! version                  "FJL", 3
//! keyspaces/N/current      list id u64 | xxh3-128 of the list's file u128 | 0
//! keyspaces/N/vID          the list: an sfa archive; its section "tables" holds
//!                          levels u8, each: runs u8, each: tables u32, each:
//!                          id u64 | 0 | xxh3-128 of the table's file u128 | sequence number u64
//! keyspaces/N/tables/ID    a table; keyspace 0 holds fjall's own names and options
//! ```

use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use xxhash_rust::xxh3::{Xxh3, xxh3_128};

use super::home;

/// What fjall's own keyspace is called.
const NAMES: &str = "0";

/// What the state's keyspace is called: the first that was made.
const ROWS: &str = "1";

/// Something wrong with a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The file.
    pub file: PathBuf,
    /// What is wrong.
    pub why: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.file.display(), self.why)
    }
}

impl Finding {
    fn new(file: &Path, why: impl Into<String>) -> Self {
        Self { file: file.to_owned(), why: why.into() }
    }
}

/// Checks all files of the closed state under `root`, and changes none. Returns what is wrong
/// with them.
///
/// Journals are not looked at: nothing rests on them.
#[must_use]
pub fn verify(root: &Path) -> Vec<Finding> {
    let dir = home::state_dir(root);
    let head = match home::read_head(&dir) {
        Ok(head) => head,
        Err(error) => return vec![Finding::new(&dir, error.to_string())],
    };
    every_table(&home::generation_dir(&dir, head.generation))
}

/// What is wrong with the files of one generation.
pub(super) fn every_table(database: &Path) -> Vec<Finding> {
    let mut findings = Vec::new();
    check_database(database, Depth::EveryTable, &mut findings);
    findings
}

/// The first thing that fjall must not be shown, if any. Reads the lists, and fjall's own small
/// tables; of the large ones what says where things are, for they are checked block by block as they
/// are read.
pub(super) fn before_open(database: &Path) -> Option<Finding> {
    let mut findings = Vec::new();
    check_database(database, Depth::OwnTables, &mut findings);
    findings.into_iter().next()
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Depth {
    OwnTables,
    EveryTable,
}

fn check_database(database: &Path, depth: Depth, findings: &mut Vec<Finding>) {
    let marker = database.join("version");
    match fs::read(&marker) {
        Ok(bytes) if bytes == *b"FJL\x03" => {}
        Ok(_) => findings.push(Finding::new(&marker, "not the marker of a fjall 3 database")),
        Err(error) => findings.push(Finding::new(&marker, error.to_string())),
    }
    for keyspace in [NAMES, ROWS] {
        let dir = database.join("keyspaces").join(keyspace);
        let thorough = depth == Depth::EveryTable || keyspace == NAMES;
        if let Err(finding) = check_keyspace(&dir, thorough, findings) {
            findings.push(finding);
        }
    }
}

/// A table as a list names it.
pub(super) struct Listed {
    id: u64,
    checksum: u128,
}

fn check_keyspace(dir: &Path, thorough: bool, findings: &mut Vec<Finding>) -> Result<(), Finding> {
    let (list_path, list) = read_list(dir)?;
    for table in parse_list(&list).map_err(|why| Finding::new(&list_path, why))? {
        let path = dir.join("tables").join(table.id.to_string());
        let found = if thorough {
            file_checksum(&path).map(|found| found == table.checksum)
        } else {
            has_sound_contents(&path)
        };
        match found {
            Ok(true) => {}
            Ok(false) => findings.push(Finding::new(&path, "its checksum is wrong")),
            Err(error) => findings.push(Finding::new(&path, error.to_string())),
        }
    }
    Ok(())
}

/// The list of tables in force, compared with its checksum.
fn read_list(dir: &Path) -> Result<(PathBuf, Vec<u8>), Finding> {
    let current = dir.join("current");
    let bytes = fs::read(&current).map_err(|error| Finding::new(&current, error.to_string()))?;
    let mut rest = bytes.as_slice();
    let fields = (|| Some((take_u64(&mut rest)?, take_u128(&mut rest)?, take_u8(&mut rest)?)))();
    let Some((id, checksum, 0)) = fields.filter(|_| rest.is_empty()) else {
        return Err(Finding::new(&current, "it names no list of tables"));
    };
    let path = dir.join(format!("v{id}"));
    let list = fs::read(&path).map_err(|error| Finding::new(&path, error.to_string()))?;
    if xxh3_128(&list) != checksum {
        return Err(Finding::new(&path, "not the list of tables that 'current' names"));
    }
    Ok((path, list))
}

/// The tables that a list names. The list's checksum was right, so what is wrong here is another
/// version of fjall.
pub(super) fn parse_list(list: &[u8]) -> Result<Vec<Listed>, &'static str> {
    const UNREADABLE: &str = "a list of tables that cannot be read";
    if !has_its_sections(list) {
        return Err(UNREADABLE);
    }
    let archive = sfa::Reader::from_reader(&mut io::Cursor::new(list)).map_err(|_| UNREADABLE)?;
    let section = archive.toc().section(b"tables").ok_or(UNREADABLE)?;
    let from = usize::try_from(section.pos()).map_err(|_| UNREADABLE)?;
    let mut rest = list.get(from..).ok_or(UNREADABLE)?;
    parse_tables(&mut rest).ok_or(UNREADABLE)
}

/// Whether a list is long enough for the sections that it says it has: the reader takes memory for
/// all of them before it looks.
fn has_its_sections(list: &[u8]) -> bool {
    const MAGIC_BYTES: usize = 4;
    // Where they begin stands in the last sixteen bytes, before how long that is.
    let sections = list.last_chunk::<16>().and_then(|end| {
        let at = usize::try_from(take_u64(&mut &end[..])?).ok()?;
        let mut from = list.get(at.checked_add(MAGIC_BYTES)?..)?;
        take(&mut from).map(u32::from_le_bytes)
    });
    sections.is_some_and(|sections| sections as usize <= list.len())
}

/// Whether what ends a table is as it was written: where its sections are. The reader takes memory for
/// as many as it says there are before it compares the checksum, and a process that asks for too much
/// ends at once.
fn has_sound_contents(table: &Path) -> io::Result<bool> {
    const TRAILER_BYTES: u64 = 38;
    const CONTENTS_BYTES_MAX: u64 = 1 << 16;
    let mut file = File::open(table)?;
    let Some(end) = file.metadata()?.len().checked_sub(TRAILER_BYTES) else { return Ok(false) };
    let mut trailer = Vec::new();
    file.seek(SeekFrom::Start(end))?;
    file.read_to_end(&mut trailer)?;
    // A magic word, a version and a kind, the checksum, where the contents begin and how long they are.
    let mut rest = trailer.get(6..).unwrap_or_default();
    let fields = (|| Some((take_u128(&mut rest)?, take_u64(&mut rest)?)))();
    let Some((checksum, at)) = fields else { return Ok(false) };
    let Some(bytes) = end.checked_sub(at).filter(|bytes| *bytes <= CONTENTS_BYTES_MAX) else {
        return Ok(false);
    };
    let mut contents = Vec::new();
    file.seek(SeekFrom::Start(at))?;
    file.take(bytes).read_to_end(&mut contents)?;
    Ok(xxh3_128(&contents) == checksum)
}

fn parse_tables(rest: &mut &[u8]) -> Option<Vec<Listed>> {
    let mut tables = Vec::new();
    for _level in 0..take_u8(rest)? {
        for _run in 0..take_u8(rest)? {
            let count = u32::from_le_bytes(take(rest)?);
            for _table in 0..count {
                let id = take_u64(rest)?;
                let _kind = take_u8(rest)?;
                let checksum = take_u128(rest)?;
                let _sequence_number = take_u64(rest)?;
                tables.push(Listed { id, checksum });
            }
        }
    }
    Some(tables)
}

fn file_checksum(path: &Path) -> io::Result<u128> {
    let mut file = File::open(path)?;
    let mut hash = Xxh3::new();
    let mut buffer = vec![0; 1 << 16];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hash.digest128()),
            read => hash.update(&buffer[..read]),
        }
    }
}

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (head, tail) = rest.split_first_chunk::<N>()?;
    *rest = tail;
    Some(*head)
}

fn take_u8(rest: &mut &[u8]) -> Option<u8> {
    take::<1>(rest).map(|[byte]| byte)
}

fn take_u64(rest: &mut &[u8]) -> Option<u64> {
    take(rest).map(u64::from_le_bytes)
}

fn take_u128(rest: &mut &[u8]) -> Option<u128> {
    take(rest).map(u128::from_le_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_of_more_sections_than_bytes_is_refused() {
        let trailer = [&b"SFA!"[..], &[1, 0], &[0; 16], &0u64.to_le_bytes(), &8u64.to_le_bytes()];
        let list =
            |sections: u32| [&b"TOC!"[..], &sections.to_le_bytes(), &trailer.concat()].concat();
        for list in [list(u32::MAX), list(0), Vec::new(), vec![0xff; 40]] {
            assert!(parse_list(&list).is_err());
        }
    }
}
