//! Reading a closed state without changing anything of it.
//!
//! fjall has no way to open a database for reading only: it writes journals, removes what no list
//! of tables names, and may compact. So it is shown a scratch directory instead, in which the small
//! files are copies and each table, which is never written again once it is there, is a symbolic
//! link. Whatever fjall removes or writes, it does there.
//!
//! What this does not do: it takes no lock. The caller holds the node's.

use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::Path;

use quorate_protocol::ids::{History, Index};
use quorate_protocol::record::Key;

use super::check::{self, Finding};
use super::home::{self, Identity};
use super::tree::Tree;
use super::{DiskState, MEMTABLE_BYTES_DEFAULT, Marks, OpenError, StateError};

/// The folder of a keyspace that holds its tables.
const TABLES: &str = "tables";

/// What a look at a closed state came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Look {
    /// What is wrong with its files.
    pub findings: Vec<Finding>,
    /// What is in it; `None` where the findings keep it from being opened.
    pub contents: Option<Contents>,
}

/// What a closed state holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contents {
    /// Its history.
    pub history: History,
    /// How far it is.
    pub marks: Marks,
    /// How many records there are, tombstones included.
    pub records: u64,
    /// The keys whose records fail their checksum.
    pub damaged: Vec<Key>,
}

/// Checks the closed state under `root`, every file and every record, and changes nothing.
/// `scratch` is an empty directory on any file system; it is for the caller to remove.
///
/// # Errors
/// When the state would not open for another reason than damage to its tables, or a disk fails.
pub fn look(root: &Path, identity: &Identity, scratch: &Path) -> Result<Look, OpenError> {
    let dir = home::state_dir(root);
    let head = home::read_head(&dir)?;
    home::check_identity(&dir, &head, identity)?;
    let database = home::generation_dir(&dir, head.generation);
    let findings = check::every_table(&database);
    if !findings.is_empty() {
        return Ok(Look { findings, contents: None });
    }
    let io = |error| OpenError::Io { dir: scratch.to_owned(), error };
    mirror(&database, scratch).map_err(io)?;
    match contents(scratch, head.history) {
        Ok(contents) => Ok(Look { findings, contents: Some(contents) }),
        Err(StateError::Io { why }) => Err(io(io::Error::other(why))),
        Err(error) => {
            let findings = vec![Finding { file: database, why: error.to_string() }];
            Ok(Look { findings, contents: None })
        }
    }
}

fn contents(dir: &Path, history: History) -> Result<Contents, StateError> {
    let (tree, marks, _) = DiskState::load(Tree::open(dir, MEMTABLE_BYTES_DEFAULT)?)?;
    let view = tree.view();
    let (mut records, mut damaged) = (0, Vec::new());
    view.records(None, |_, found| {
        records += 1;
        match found {
            Ok(_) => {}
            Err(StateError::Record { key }) => damaged.push(key),
            Err(error) => return Err(error),
        }
        Ok(true)
    })?;
    for row in view.token_rows(Index(0))? {
        row?;
    }
    Ok(Contents { history, marks, records, damaged })
}

/// Makes `to` look like the database in `from`, as far as anything rests on its files: journals
/// stay behind.
fn mirror(from: &Path, to: &Path) -> io::Result<()> {
    // Links lead from anywhere.
    let from = from.canonicalize()?;
    fs::copy(from.join("version"), to.join("version"))?;
    if from.join("lock").try_exists()? {
        fs::File::create(to.join("lock"))?;
    }
    for keyspace in fs::read_dir(from.join("keyspaces"))? {
        let keyspace = keyspace?;
        let there = to.join("keyspaces").join(keyspace.file_name());
        fs::create_dir_all(there.join(TABLES))?;
        for file in fs::read_dir(keyspace.path())? {
            let file = file?;
            if file.file_type()?.is_file() {
                fs::copy(file.path(), there.join(file.file_name()))?;
            }
        }
        for table in fs::read_dir(keyspace.path().join(TABLES))? {
            let table = table?;
            symlink(table.path(), there.join(TABLES).join(table.file_name()))?;
        }
    }
    Ok(())
}
