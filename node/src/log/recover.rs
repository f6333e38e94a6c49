//! Finding out what a directory holds. Nothing on disk is changed here.
//!
//! The rules are told at the head of [`super`] ("What counts at open").

use std::fmt;
use std::io;

use bytes::Bytes;
use quorate_protocol::ids::StoreId;

use super::book::Book;
use super::chain::{Chain, Found};
use super::disk::DiskOptions;
use super::files::Files;
use super::ledger::Ledger;
use super::replay::Replay;
use super::segment::{self, FileName};

/// Why a log cannot be opened. Where it is any but `Io`, nothing on disk was changed.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it.
    #[error("the log in {place} is in use; stop the process that uses it first")]
    InUse {
        /// The directory.
        place: String,
    },
    /// A file is of another format.
    #[error(
        "{file} is of log format {found}, and this program knows format {known} only; \
         run the version of quorate that wrote it",
        known = segment::FORMAT
    )]
    Format {
        /// The file.
        file: String,
        /// Its format.
        found: u32,
    },
    /// A file belongs to another store.
    #[error(
        "{file} belongs to store {found}, and this is store {expected}; \
         put the store's own files back, or start the node in an empty directory"
    )]
    ForeignStore {
        /// The file.
        file: String,
        /// The store it belongs to.
        found: StoreId,
        /// The store that was opened.
        expected: StoreId,
    },
    /// A file does not have the name it was written under.
    #[error("{file} was written as {written}; give it that name back")]
    Misnamed {
        /// The file.
        file: String,
        /// The name it was written under.
        written: String,
    },
    /// A file is not there.
    #[error(
        "{file} is missing; put it back, or start the node in an empty directory: \
         it then joins as a new node"
    )]
    Missing {
        /// The file.
        file: String,
    },
    /// A file holds what no log writes, and its checksums are right.
    #[error(
        "{file} holds what does not belong there, at byte {offset} ({rule}); \
         put the store's own files back, or start the node in an empty directory"
    )]
    Broken {
        /// The file.
        file: String,
        /// Where.
        offset: u64,
        /// The rule it breaks.
        rule: &'static str,
    },
    /// The system refuses.
    #[error("cannot use {file}: {source}")]
    Io {
        /// The file, or the directory.
        file: String,
        /// What the system says.
        source: io::Error,
    },
}

/// What was found at open.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OpenReport {
    /// How many groups were read.
    pub groups: u64,
    /// How many bytes of a write that was not finished were cut off.
    pub torn_bytes: u64,
    /// The first damage among what had been acknowledged. The log ends before it and is marked.
    pub rot: Option<Rot>,
    /// Files that do not count any more, by the name they are kept under; opening renames them.
    pub set_aside: Vec<String>,
}

/// Damage to what had been acknowledged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rot {
    /// The file.
    pub file: String,
    /// Where in it the first damaged thing begins.
    pub offset: u64,
    /// What is damaged.
    pub what: Rotten,
}

/// What is damaged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rotten {
    /// The segment's header.
    Header,
    /// The file is shorter or longer than it was.
    Length,
    /// A group, with acknowledged ones behind it.
    Group,
    /// Nothing in this file, the oldest: it begins beyond durable applied. What says so, at the
    /// log's end, is damaged, or an older file is missing.
    Start,
    /// Nothing: every file is missing, and there was one.
    Gone,
}

impl fmt::Display for Rot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { file, offset, what } = self;
        match what {
            Rotten::Header => write!(f, "{file} is damaged: its header"),
            Rotten::Length => write!(f, "{file} is damaged: it ends at byte {offset}"),
            Rotten::Group => write!(f, "{file} is damaged at byte {offset}"),
            Rotten::Start => {
                write!(f, "the log's end is damaged, or a file older than {file} is missing")
            }
            Rotten::Gone => write!(f, "the log is gone: every file of it is missing"),
        }
    }
}

/// A segment that counts.
#[derive(Debug)]
pub(super) struct Segment<File> {
    pub(super) number: u64,
    pub(super) salt: u64,
    pub(super) file: File,
    pub(super) bytes: u64,
    /// Where its last group ends.
    pub(super) used: u64,
}

/// What a directory holds.
#[derive(Debug)]
pub(super) struct Recovered<File> {
    pub(super) ledger: Ledger,
    /// The chain, oldest first, as far as it counts.
    pub(super) segments: Vec<Segment<File>>,
    /// The sequence number of the next group.
    pub(super) sequence: u64,
    /// The last group of the last segment, and where it begins.
    pub(super) last_group: Option<(u64, Bytes)>,
    /// Whether the last segment may be written on.
    pub(super) clean: bool,
    /// The highest number that any file has.
    pub(super) highest: u64,
    /// Segments that do not count.
    pub(super) void: Vec<u64>,
    /// The other files of the log.
    pub(super) others: Vec<FileName>,
    pub(super) report: OpenReport,
}

/// Locks the directory and reads everything in it.
pub(super) fn recover<F: Files>(
    files: &mut F,
    DiskOptions { store, begun, .. }: DiskOptions,
) -> Result<Recovered<F::File>, OpenError> {
    let place = files.place();
    if !files.lock().map_err(|source| io_error(&place, source))? {
        return Err(OpenError::InUse { place });
    }
    let names = files.list().map_err(|source| io_error(&place, source))?;
    let mut names: Vec<FileName> = names.iter().filter_map(|it| FileName::parse(it)).collect();
    names.sort_unstable();
    let highest = names.iter().map(|name| name.number()).max().unwrap_or(0);

    let mut found = Vec::new();
    let mut others = Vec::new();
    for name in names {
        match name {
            FileName::Segment(number) => found.push(Found::open(files, number, store)?),
            other => others.push(other),
        }
    }
    let chain = Chain::find(&found, &others)?;
    let mut replay = Replay::run(&found, &chain, store)?;
    let rot = replay.rot.take().or(chain.rot.clone()).or_else(|| replay.check_base(&chain, &found));
    let gone = || Rot { file: FileName::Segment(1).to_string(), offset: 0, what: Rotten::Gone };
    let rot = rot.or_else(|| (begun && found.is_empty()).then(gone));
    if rot.is_some() {
        // In the same step as the loss: whatever is written next begins with the mark.
        let Book { meta, shape } = &mut replay.ledger.book;
        meta.marked = true;
        // Durable applied had risen to the base before the base did; the group that said so is
        // among the damaged.
        meta.durable_applied = meta.durable_applied.max(shape.base());
    }
    let counted = replay.used.len();
    let mut used = replay.used.into_iter();
    let (mut segments, mut void) = (Vec::new(), Vec::new());
    for (at, found) in found.into_iter().enumerate() {
        if chain.members[..counted].contains(&at) {
            let used = used.next().expect("one for each segment that counts");
            segments.push(found.into_segment(store, used));
        } else {
            void.push(found.number);
        }
    }
    let report = OpenReport {
        groups: replay.groups,
        torn_bytes: replay.torn_bytes,
        set_aside: void.iter().map(|number| FileName::Lost(*number).to_string()).collect(),
        rot,
    };
    Ok(Recovered {
        ledger: replay.ledger,
        segments,
        sequence: replay.sequence,
        last_group: replay.last_group,
        clean: counted > 0 && report.rot.is_none() && report.torn_bytes == 0,
        highest,
        void,
        others,
        report,
    })
}

pub(super) fn io_error(file: &str, source: io::Error) -> OpenError {
    OpenError::Io { file: file.to_owned(), source }
}
