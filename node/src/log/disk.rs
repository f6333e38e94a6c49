//! The log on disk: opening it for use, writing groups, dropping segments.
//!
//! How it is laid out, and why it can be trusted, is told at the head of [`super`].

use std::collections::VecDeque;
use std::io;

use bytes::Bytes;
use quorate_protocol::ids::{Index, StoreId};

use super::files::{Files, LogFile};
use super::ledger::Ledger;
use super::read::Reader;
use super::recover::{self, OpenError, OpenReport, Recovered, Segment};
use super::segment::{self, FileName, SegmentHeader};
use super::shape::Shape;
use super::{FAILED, Log, LogOp, MadeSpare, Meta, ReadError, Spare, book, group};

/// How many files are kept to be overwritten; further segments that are dropped are removed. A file
/// that is made anew is written twice, and a busy log drops many at a time: all that was written
/// between two syncs of the state.
pub const SPARES_MAX: usize = 16;

/// The shortest segment: a header and as much again.
pub const SEGMENT_BYTES_MIN: u64 = 2 * segment::HEADER_BYTES as u64;

/// The longest segment to ask for; one that a great group needs may be longer.
pub const SEGMENT_BYTES_MAX: u64 = 1 << 30;

/// The usual segment.
pub const SEGMENT_BYTES_DEFAULT: u64 = 16 << 20;

/// About so much is dropped at once: each segment that goes waits for the disk, and nothing is written
/// meanwhile. The rest goes the next time.
const DROPPED_BYTES_MAX: u64 = 48 << 20;

/// Where there is no spare, one is asked for when this part of the last segment is full.
const SPARE_AFTER: u64 = 8;

/// Segments made for one great group are a multiple of this.
const ROUND_BYTES: u64 = 4096;

/// A batch up to this is copied behind its group's head and written with it: a call more costs more
/// than that copy.
const COPIED_BYTES_MAX: usize = 256 << 10;

/// A head that grew beyond this is given back.
const HEAD_KEPT_BYTES: usize = 2 * COPIED_BYTES_MAX;

/// How a log is kept on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiskOptions {
    /// The store the log belongs to.
    pub store: StoreId,
    /// The length of a segment, from [`SEGMENT_BYTES_MIN`] to [`SEGMENT_BYTES_MAX`]. A group that
    /// is longer gets a longer segment. May differ from the last time.
    pub segment_bytes: u64,
    /// A log was begun here, and may have promised something: where there is none, it is lost.
    pub begun: bool,
}

impl DiskOptions {
    /// The usual options, for a directory where there may never have been a log.
    #[must_use]
    pub const fn new(store: StoreId) -> Self {
        Self { store, segment_bytes: SEGMENT_BYTES_DEFAULT, begun: false }
    }
}

/// A log in a directory.
#[derive(Debug)]
pub struct DiskLog<F: Files> {
    /// Before `files`, so that they are closed before the lock is let go.
    segments: VecDeque<Segment<F::File>>,
    files: F,
    options: DiskOptions,
    ledger: Ledger,
    /// The sequence number of the next group.
    sequence: u64,
    /// The highest number any segment ever had.
    newest: u64,
    /// The numbers of the spares.
    spares: Vec<u64>,
    /// The last segment for which a spare was asked for.
    asked_within: u64,
    /// A group's header and items, and batches that are written with them; kept for its memory.
    head: Vec<u8>,
    /// True from the beginning of each change until it succeeded.
    failed: bool,
}

impl<F: Files> DiskLog<F> {
    /// Opens the log in a directory, or begins one where there is none.
    ///
    /// Where the report tells of rot, the log holds what stands before the damage, and is marked:
    /// the node lost what it had promised. So it does where none is left of a log that was begun.
    ///
    /// # Errors
    /// Where the directory is in use, foreign, of another format, incomplete, or the disk fails.
    ///
    /// # Panics
    /// When the segment length is out of bounds.
    pub fn open(mut files: F, options: DiskOptions) -> Result<(Self, OpenReport), OpenError> {
        let bounds = SEGMENT_BYTES_MIN..=SEGMENT_BYTES_MAX;
        assert!(bounds.contains(&options.segment_bytes), "segments of {bounds:?} bytes");
        let found = recover::recover(&mut files, options)?;
        let place = files.place();
        Self::settle(files, options, found).map_err(|source| OpenError::Io { file: place, source })
    }

    /// What `open` would find. Changes nothing, and fails where the log is in use.
    ///
    /// # Errors
    /// As `open`, as far as it only reads.
    pub fn inspect(mut files: F, store: StoreId) -> Result<OpenReport, OpenError> {
        recover::recover(&mut files, DiskOptions::new(store)).map(|found| found.report)
    }

    /// The log as `open` would find it, to be read and not to be changed. Fails where the log is in
    /// use.
    ///
    /// # Errors
    /// As `open`, as far as it only reads.
    pub fn look(mut files: F, options: DiskOptions) -> Result<(Look<F>, OpenReport), OpenError> {
        let found = recover::recover(&mut files, options)?;
        let report = found.report.clone();
        Ok((Look(Self::of(files, options, found)), report))
    }

    fn of(files: F, options: DiskOptions, found: Recovered<F::File>) -> Self {
        Self {
            segments: found.segments.into(),
            files,
            options,
            ledger: found.ledger,
            sequence: found.sequence,
            newest: found.highest,
            spares: Vec::new(),
            asked_within: 0,
            head: Vec::new(),
            failed: false,
        }
    }

    /// Makes what was found durable, puts aside what does not count, and gets ready to write.
    fn settle(
        files: F,
        options: DiskOptions,
        mut found: Recovered<F::File>,
    ) -> io::Result<(Self, OpenReport)> {
        let (last_group, clean, report) =
            (found.last_group.take(), found.clean, std::mem::take(&mut found.report));
        let (void, others) = (std::mem::take(&mut found.void), std::mem::take(&mut found.others));
        let mut log = Self::of(files, options, found);
        if let (Some(last), Some((at, group))) = (log.segments.back(), &last_group) {
            // It may have been written and never synced, or its sync may have failed.
            last.file.write_at(*at, group)?;
            last.file.sync()?;
        }
        log.files.sync_names()?;
        log.sort_out(&others)?;
        if !clean {
            log.start_segment(0)?;
        }
        // Only now: the new segment's header has ended the chain before them.
        log.set_aside(&void, &others, report.rot.is_some())?;
        Ok((log, report))
    }

    /// Keeps segments that do not count for the operator to look at, those of the latest damage
    /// only: they must not fill the disk.
    fn set_aside(&self, void: &[u64], others: &[FileName], damaged: bool) -> io::Result<()> {
        if void.is_empty() {
            return Ok(());
        }
        if damaged {
            for lost in others.iter().filter(|name| matches!(name, FileName::Lost(_))) {
                self.files.remove(&lost.to_string())?;
            }
        }
        for number in void {
            self.rename(FileName::Segment(*number), FileName::Lost(*number))?;
        }
        self.files.sync_names()
    }

    /// Removes what was not finished, and spares that are of no use.
    fn sort_out(&mut self, others: &[FileName]) -> io::Result<()> {
        for name in others {
            match *name {
                FileName::New(_) => self.files.remove(&name.to_string())?,
                FileName::Spare(number) => {
                    let bytes = self.files.open(&name.to_string())?.bytes()?;
                    if bytes == self.options.segment_bytes && self.spares.len() < SPARES_MAX {
                        self.spares.push(number);
                    } else {
                        self.files.remove(&name.to_string())?;
                    }
                }
                FileName::Lost(_) | FileName::Segment(_) => {}
            }
        }
        Ok(())
    }

    fn rename(&self, from: FileName, to: FileName) -> io::Result<()> {
        self.files.rename(&from.to_string(), &to.to_string()).map_err(|error| at(from, &error))
    }

    fn usable(&self) -> io::Result<()> {
        if self.failed { Err(io::Error::other(FAILED)) } else { Ok(()) }
    }

    fn write_group(&mut self, ops: &[LogOp]) -> io::Result<()> {
        let next = self.sequence.checked_add(1).ok_or_else(no_number_left)?;
        let bytes = group::lay_out(&mut self.head, ops) as u64;
        if self.segments.back().is_none_or(|segment| segment.bytes - segment.used < bytes) {
            self.start_segment(bytes)?;
        }
        let segment = self.segments.back_mut().expect("one was started if there was none");
        group::seal(&mut self.head, ops, segment.salt, self.sequence);
        let batches_at = segment.used + self.head.len() as u64;
        if let Err(rule) = self.ledger.apply(ops, segment.number, batches_at) {
            panic!("{rule}");
        }
        let written = segment.append(&mut self.head, ops);
        written.map_err(|error| at(FileName::Segment(segment.number), &error))?;
        self.sequence = next;
        self.head.shrink_to(HEAD_KEPT_BYTES);
        Ok(())
    }

    /// Begins the next segment, with room for a group of this length.
    fn start_segment(&mut self, group_bytes: u64) -> io::Result<()> {
        let needed = (segment::HEADER_BYTES as u64 + group_bytes).next_multiple_of(ROUND_BYTES);
        let number = self.newest.checked_add(1).ok_or_else(no_number_left)?;
        let header = SegmentHeader {
            store: self.options.store,
            number,
            previous: self.segments.back().map_or(0, |segment| segment.number),
            bytes: needed.max(self.options.segment_bytes),
            sequence: self.sequence,
            meta: self.ledger.book.meta,
            last: self.ledger.book.shape.last(),
        };
        let name = FileName::Segment(number);
        let file = self.make_segment(&header).map_err(|error| at(name, &error))?;
        self.newest = number;
        self.segments.push_back(Segment {
            number,
            salt: segment::salt(self.options.store, number),
            file,
            bytes: header.bytes,
            used: segment::HEADER_BYTES as u64,
        });
        Ok(())
    }

    /// Makes the file for a segment. It gets its name last, when its header is durable.
    fn make_segment(&mut self, header: &SegmentHeader) -> io::Result<F::File> {
        let fits = header.bytes == self.options.segment_bytes;
        let (was, file) = match self.spares.pop_if(|_| fits) {
            Some(number) => {
                let spare = FileName::Spare(number);
                (spare, self.files.open(&spare.to_string())?)
            }
            None => {
                let new = FileName::New(header.number);
                (new, self.files.create(&new.to_string(), header.bytes)?)
            }
        };
        file.write_at(0, &header.encode())?;
        file.sync()?;
        self.rename(was, FileName::Segment(header.number))?;
        self.files.sync_names()?;
        Ok(file)
    }

    fn drop_segments(&mut self, index: Index) -> io::Result<()> {
        let mut dropped = 0;
        while self.segments.len() > 1 && dropped < DROPPED_BYTES_MAX {
            let oldest = self.segments.front().expect("there are two at least");
            let (number, bytes) = (oldest.number, oldest.bytes);
            if self.ledger.last_within(number).is_some_and(|last| last > index) {
                break;
            }
            self.ledger.drop_segments(number);
            self.segments.pop_front();
            if bytes == self.options.segment_bytes && self.spares.len() < SPARES_MAX {
                self.rename(FileName::Segment(number), FileName::Spare(number))?;
                self.spares.push(number);
            } else {
                let name = FileName::Segment(number);
                self.files.remove(&name.to_string()).map_err(|error| at(name, &error))?;
            }
            // One by one: a gap between segments must always mean that one is missing, and a
            // spare is overwritten only when it has no other name any more.
            self.files.sync_names()?;
            dropped += bytes;
        }
        Ok(())
    }
}

/// A log that is looked at.
pub struct Look<F: Files>(DiskLog<F>);

impl<F: Files> Look<F> {
    /// Which versions it holds.
    #[must_use]
    pub fn shape(&self) -> &Shape {
        self.0.shape()
    }

    /// Its metadata.
    #[must_use]
    pub fn meta(&self) -> &Meta {
        self.0.meta()
    }

    /// See [`Log::read`].
    ///
    /// # Errors
    /// Where the entries are gone or damaged.
    pub fn read(&self, after: Index, bytes_max: usize) -> Result<Bytes, ReadError> {
        self.0.read(after, bytes_max)
    }
}

impl<File: LogFile> Segment<File> {
    /// Writes a group, from its head and from the batches of its ops, and syncs it. The head may
    /// become longer.
    fn append(&mut self, head: &mut Vec<u8>, ops: &[LogOp]) -> io::Result<()> {
        let mut batches = group::batches(ops).peekable();
        while let Some(batch) =
            batches.next_if(|batch| head.len() + batch.len() <= COPIED_BYTES_MAX)
        {
            head.extend_from_slice(batch);
        }
        self.file.write_at(self.used, head)?;
        let mut end = self.used + head.len() as u64;
        for batch in batches.filter(|batch| !batch.is_empty()) {
            self.file.write_at(end, batch)?;
            end += batch.len() as u64;
        }
        self.file.sync()?;
        self.used = end;
        Ok(())
    }
}

/// No log counts that far: somebody put a file there, or wrote one.
fn no_number_left() -> io::Error {
    io::Error::other("there is no number left for what comes next; start in an empty directory")
}

/// Says which file it was.
fn at(name: FileName, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{name}: {error}"))
}

impl<F: Files> Log for DiskLog<F> {
    fn shape(&self) -> &Shape {
        &self.ledger.book.shape
    }

    fn meta(&self) -> &Meta {
        &self.ledger.book.meta
    }

    fn write(&mut self, ops: &[LogOp]) -> io::Result<()> {
        self.usable()?;
        if ops.is_empty() {
            return Ok(());
        }
        book::debug_check(ops);
        self.failed = true;
        self.write_group(ops)?;
        self.failed = false;
        Ok(())
    }

    fn read(&self, after: Index, bytes_max: usize) -> Result<Bytes, ReadError> {
        self.usable().map_err(|_| ReadError::Failed)?;
        let shape = self.shape();
        if after < shape.base().index {
            return Err(ReadError::Dropped { base: shape.base() });
        }
        let mut reader = Reader::new(shape, after, bytes_max);
        for extent in self.ledger.from(Index(after.0.saturating_add(1))) {
            let at = self.segments.partition_point(|segment| segment.number < extent.segment);
            if !reader.read(&self.segments[at], extent)? {
                break;
            }
        }
        Ok(reader.finish())
    }

    fn drop_through(&mut self, index: Index) -> io::Result<()> {
        self.usable()?;
        let applied = self.meta().durable_applied.index;
        assert!(index <= applied, "only what is durably applied is dropped (design §4)");
        self.failed = true;
        self.drop_segments(index)?;
        self.failed = false;
        Ok(())
    }

    fn needs_spare(&mut self) -> Option<Spare> {
        let last = self.segments.back()?;
        let enough = !self.spares.is_empty() || last.number <= self.asked_within;
        let header_bytes = segment::HEADER_BYTES as u64;
        let early = last.used - header_bytes < (last.bytes - header_bytes) / SPARE_AFTER;
        if self.failed || enough || early {
            return None;
        }
        // No file has had that number, and none gets it besides: a segment that is begun meanwhile
        // has a higher one.
        let number = self.newest.checked_add(1)?;
        self.newest = number;
        self.asked_within = last.number;
        let name = FileName::New(number).to_string();
        Some(Spare { number, making: self.files.making(name, self.options.segment_bytes) })
    }

    fn take_spare(&mut self, MadeSpare { number, made }: MadeSpare) -> io::Result<()> {
        self.usable()?;
        if made.is_err() {
            return Ok(());
        }
        self.failed = true;
        self.rename(FileName::New(number), FileName::Spare(number))?;
        self.spares.push(number);
        self.failed = false;
        Ok(())
    }

    fn tail_after(&self, bytes: u64) -> Index {
        let mut kept = 0;
        for segment in self.segments.iter().rev() {
            if kept >= bytes {
                let last = self.ledger.last_within(segment.number);
                return last.unwrap_or(self.shape().base().index);
            }
            kept += segment.used - segment::HEADER_BYTES as u64;
        }
        self.shape().base().index
    }

    /// The lengths of its segments; up to [`SPARES_MAX`] spares come on top.
    fn bytes(&self) -> u64 {
        self.segments.iter().map(|segment| segment.bytes).sum()
    }

    fn close(self: Box<Self>) {}
}
