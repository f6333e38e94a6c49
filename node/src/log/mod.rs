//! The log: a node's entries and what it promised, durable before anyone is told (design §4).
//!
//! A log holds entries of contiguous indexes behind a *base* (the last entry not in it, which
//! counts as held), and a little [`Meta`]. It changes in *groups*: a slice of [`LogOp`]s given to
//! [`Log::write`] becomes durable in one step, wholly or not at all, at the price of one
//! fdatasync. A promise and the entries that raise it are therefore one step, as design §3.1
//! demands. A failed write or sync ends the log: nothing is retried, every later call is refused,
//! and the caller ends the process; what is on disk is then found out by opening anew.
//!
//! # On disk
//!
//! ```text
//! log-000000000007.seg    a segment: header of 4 KiB, then groups one behind the other
//! spare-000000000003.seg  a segment dropped, kept to be overwritten; or made ahead of its use
//! new-000000000008.seg    a file that was not finished; removed at the next open
//! lost-000000000005.seg   a segment behind damage, set aside for the operator, who may delete it
//! ```
//!
//! Segments are zero-filled when created and never change their length, so a group's sync has no
//! file metadata to write. A segment's header tells everything needed to start there: the store,
//! the segment's number and length, the number of the segment before it, the sequence number of its
//! first group, `Meta`, and the log's last version at that point. It is synced before the file gets
//! its `log-` name, so a `log-` file without a good header was damaged later. The encodings are
//! told in `segment.rs` and `group.rs`.
//!
//! # What counts at open
//!
//! 1. Segments form a *chain*: the newest names the one before it, and so on. A file that is
//!    in no chain counts for nothing.
//! 2. A segment's groups end where its successor's header says that the successor begins. Only
//!    the newest segment's end must be found by looking.
//! 3. A group counts if its salt is that of its segment, its sequence number is the next one,
//!    and its checksum is right.
//! 4. Where the newest segment's groups end and no good group of the segment follows at *any*
//!    later byte, the rest is the *torn tail* of a write that never was acknowledged, or nothing.
//! 5. Otherwise, or where a segment ends too early for its successor, or has a bad header, there is
//!    *rot*: acknowledged groups are damaged. The log is then what stands before the damage,
//!    `marked` is set in the same durable step that puts the rest aside, and the report says where
//!    it was.
//! 6. A log that begins beyond durable applied has lost the group that said so, or its oldest
//!    segments: rot likewise.
//! 7. So it is where no file is left at all of a log that was begun, as the caller knows: the first
//!    segment carries the mark.
//! 8. Where an older segment is there and one between is not, somebody removed it: an error.
//!
//! # Why stale bytes are never taken for a group
//!
//! A segment's number is higher than every number before it, and the salt is made of store and
//! number: what an overwritten file held under another number cannot pass. Within one number a
//! group is begun only after the one before it is durable, and at the place where that one ends, so
//! the only group of this salt that can be whole and yet not follow its predecessor is one whose
//! predecessor was damaged: rot by rule 4. After rot or a torn tail writing goes on in a *new*
//! segment, whose header fixes the end of the old one (rule 2): what is behind that end is never
//! looked at again, even should it become readable. Where nothing of this segment stands at the
//! end, writing goes on in place, and rule 4's search has just shown that no later group is there
//! to follow by mistake. A copy of the log's own bytes inside a value cannot deceive the search: it
//! can only hold groups of a lower sequence number than the group it is stored in.
//!
//! A group that was written but not synced may be visible to the next open and still be lost
//! later. Open therefore writes the last group once more, byte for byte, and syncs it and the
//! directory before anything is answered.
//!
//! # Limits
//!
//! * Damage to the very last group cannot be told from a torn write: the group is cut, and counted
//!   in the report's `torn_bytes` if its header can still be made out. Nor can it be told that the
//!   newest segment was removed. The server's floor for the node catches both (design §2).
//! * An overwrite may tear at any byte, but is taken not to change bytes it does not cover.
//! * Nothing here decides what to promise, append or drop, or when: that is the node's core.
//!
//! # Modules
//!
//! * [`shape`], `book`: which versions there are; what one op does to shape and metadata.
//! * [`files`], [`torn`]: the directory below, real and simulated.
//! * `frame`, `group`, `segment`: the encodings.
//! * `ledger`: where each entry is.
//! * `chain`, `replay`, [`recover`]: what is found at open.
//! * `read`, [`disk`]: reading and writing.
//! * [`memory`]: the same without a disk.

use std::io;

use bytes::Bytes;
use quorate_protocol::ids::{History, Index};
use quorate_protocol::version::{Promise, Version};
use serde::{Deserialize, Serialize};

use self::shape::Shape;

pub mod shape;
mod book;
pub mod files;
pub mod torn;
mod frame;
mod group;
mod segment;
mod ledger;
mod chain;
mod replay;
pub mod recover;
mod read;
pub mod disk;
pub mod memory;

pub use self::group::GROUP_BYTES_MAX;

/// What the log's own metadata says; as durable as the entries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Meta {
    /// The history of the entries.
    pub history: History,
    /// The newest promise (INV-3).
    pub promised: Promise,
    /// Up to where the state was on disk when the log was last told. A state that opens at an
    /// older point than this is damaged, whatever it says itself.
    pub durable_applied: Version,
    /// The node lost data it had promised (design §2): it counts in no quorum.
    pub marked: bool,
}

/// One change of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogOp {
    /// A promise; only ever upward.
    Promise(Promise),
    /// Entries behind `prev`.
    ///
    /// The log must hold `prev`, at or behind durable applied. What it has behind `prev` is cut
    /// first, also where the batch is empty (then `last` is `prev`).
    Append {
        /// The entry they follow.
        prev: Version,
        /// Their frames, checked by the caller (`decode_batch`) and kept verbatim.
        batch: Bytes,
        /// The last of them.
        last: Version,
    },
    /// A state was copied and is on disk up to exactly here: the log becomes empty with this
    /// base, and durable applied is the base, be it higher or lower than before.
    Rebase(Version),
    /// The state is on disk up to here; only ever upward, and not beyond the log's last entry.
    DurableApplied(Version),
    /// The mark is set or lifted.
    Mark(bool),
    /// A higher history begins. Everything else stays: one who copied the history also says
    /// `Rebase`, one who begins it goes on from what it has.
    History(History),
}

/// Why entries cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// They were dropped.
    #[error("the log starts behind {base}; what is older comes by a state copy")]
    Dropped {
        /// Where the log starts.
        base: Version,
    },
    /// An entry was damaged since it was written. Nothing of it was returned.
    #[error("entry {index} is damaged: byte {offset} of {file}; copy it from a peer")]
    Damaged {
        /// The entry.
        index: Index,
        /// The file it is in.
        file: String,
        /// Where its frame begins, or should.
        offset: u64,
    },
    /// The file cannot be read.
    #[error("cannot read {file}: {source}")]
    Io {
        /// The file.
        file: String,
        /// What the system says.
        source: io::Error,
    },
    /// A write failed before; nothing the log says can be relied on.
    #[error("{FAILED}")]
    Failed,
}

/// What a log that failed says to everything.
const FAILED: &str = "the log failed earlier and takes no more calls; restart the node";

/// How much of a log is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keep {
    /// The tail for peers that lag.
    pub tail_bytes: u64,
    /// What the log may take: where it would take more, there is no tail.
    pub bytes_max: u64,
}

/// Frees what is at or below `durable_applied`, but for what is to be kept: some of it, where that is
/// much and there is room.
///
/// Segments may be far from full, where large groups come between small ones: then even a tail
/// within its bound takes more than the log may, and would keep every write waiting for ever.
///
/// # Errors
/// Where the disk fails.
pub fn shorten(log: &mut dyn Log, durable_applied: Index, keep: Keep) -> io::Result<()> {
    let behind_tail = log.tail_after(keep.tail_bytes).min(durable_applied);
    if behind_tail > log.shape().base().index {
        log.drop_through(behind_tail)?;
    }
    while log.bytes() > keep.bytes_max && durable_applied > log.shape().base().index {
        let before = log.bytes();
        log.drop_through(durable_applied)?;
        if log.bytes() == before {
            break;
        }
    }
    Ok(())
}

/// A file that the log will need before long. Zero-filling one takes as long as hundreds of groups,
/// all of which would wait, so it is made meanwhile, on a thread of its own.
pub struct Spare {
    number: u64,
    making: files::Making,
}

/// A spare that was made, or was not.
#[derive(Debug)]
pub struct MadeSpare {
    number: u64,
    made: io::Result<()>,
}

impl Spare {
    /// Makes it; waits for the disk.
    #[must_use]
    pub fn make(self) -> MadeSpare {
        MadeSpare { number: self.number, made: (self.making)() }
    }
}

/// A node's log.
///
/// After any call but `read` returned an error, the log refuses every further call, and what
/// `shape` and `meta` say counts for nothing: the caller must end the process (never retry an
/// fsync).
pub trait Log: Send {
    /// Which versions it holds.
    fn shape(&self) -> &Shape;

    /// Its metadata.
    fn meta(&self) -> &Meta;

    /// Makes all of `ops` durable, in order, in one step: when this returns they are, and a crash
    /// before leaves all or none of them. No ops cost nothing.
    ///
    /// # Errors
    /// Where the disk fails. Whether the ops are durable is then unknown.
    ///
    /// # Panics
    /// When an op breaks the rule told at [`LogOp`], or the group is over [`GROUP_BYTES_MAX`].
    fn write(&mut self, ops: &[LogOp]) -> io::Result<()>;

    /// The frames of the entries that follow `after`: at most `bytes_max` of them, but one
    /// entry at least, where there is any; nothing at the end of the log.
    ///
    /// # Errors
    /// Where the entries are gone or damaged.
    fn read(&self, after: Index, bytes_max: usize) -> Result<Bytes, ReadError>;

    /// Frees what is at or below `index`, as far as it can be freed, or some of it, if that is much; the
    /// base moves along.
    ///
    /// # Errors
    /// Where the disk fails.
    ///
    /// # Panics
    /// When `index` is beyond durable applied (design §4).
    fn drop_through(&mut self, index: Index) -> io::Result<()>;

    /// What is worth making by now for what is written next. Asked after a write; asks for one at a
    /// time. Where nobody makes it, the log does when it has to.
    fn needs_spare(&mut self) -> Option<Spare> {
        None
    }

    /// Takes in what was made. That it could not be made is no failure: the log tries by itself when
    /// it has to.
    ///
    /// # Errors
    /// Where the disk fails.
    fn take_spare(&mut self, spare: MadeSpare) -> io::Result<()> {
        let _ = spare;
        Ok(())
    }

    /// The highest index to give to `drop_through` that leaves about `bytes` of log, or more:
    /// how the tail for peers that lag is kept. The base where there is less.
    fn tail_after(&self, bytes: u64) -> Index;

    /// How many bytes it takes.
    fn bytes(&self) -> u64;

    /// Lets go of its files. What was acknowledged is durable already.
    fn close(self: Box<Self>);
}
