//! Looking at a stopped node's files: what is wrong with them, and what the next start does
//! about it.
//!
//! Everything is read that anything rests on: who the node is, every group and entry of the log,
//! every table and record of the state, and whether log and state fit together. Journals of the
//! state are not: nothing rests on them.
//!
//! Nothing is changed. The log is opened for reading only; the state is shown to fjall through a
//! scratch directory in the system's place for temporary files; the lock that is there is shared,
//! and none is made.
//!
//! What this does not do: it mends nothing, and it compares nothing with the peers. Damage to the
//! very last write cannot be told from a write that a crash cut short; the server's floor for the
//! node can (design §2).

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use quorate_protocol::entry::decode_batch;
use quorate_protocol::ids::{ClusterId, History, NodeId, StoreId};
use quorate_protocol::version::Version;

use crate::core::recover::reconcile;
use crate::log::disk::{DiskLog, DiskOptions, Look as LogLook};
use crate::log::files::RealFiles;
use crate::log::recover::{OpenError as LogError, Rot, Rotten};
use crate::log::{LogOp, Meta, ReadError};
use crate::shell::directory::{DirectoryError, Look as Identified};
use crate::state::{self, Contents, Identity, OpenError as StateError};

/// How much of the log is read at once.
const READ_BYTES: usize = 8 << 20;

/// How many damaged records are named; the others are counted.
const RECORDS_TOLD_MAX: usize = 20;

const LOG_GONE: &str = "begins an empty log behind what the state holds";

const MARKS: &str = "marks the node, which then counts in no quorum until it has healed from its \
                     peers";

const REFUSES: &str = "the next start ends with this error and changes nothing";

/// What a look at a stopped node came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// The store, if its name can be read.
    pub store: Option<StoreId>,
    /// The node, if it ever registered.
    pub identity: Option<(ClusterId, NodeId)>,
    /// The last entry of the log, if that can be read.
    pub position: Option<Version>,
    /// Up to where the state is complete, if it can be read.
    pub applied: Option<Version>,
    /// How many records the state holds, tombstones included.
    pub records: Option<u64>,
    /// What is wrong.
    pub findings: Vec<Finding>,
    /// What is not wrong, but worth knowing.
    pub notes: Vec<Finding>,
}

/// One thing that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The file or directory.
    pub file: PathBuf,
    /// What is wrong with it.
    pub why: String,
    /// What the next start does about it.
    pub next: String,
}

/// Why nothing could be said.
#[derive(Debug, thiserror::Error)]
pub enum VerifyFailed {
    /// A process uses the directory.
    #[error("{dir} is in use by another process; stop it first")]
    InUse {
        /// The directory.
        dir: PathBuf,
    },
    /// It is something else.
    #[error("{dir} is not a node's directory")]
    NotANode {
        /// The directory.
        dir: PathBuf,
    },
    /// A file cannot be read, or there is no room for temporary files.
    #[error("cannot use {path}: {why}; check permissions, and free space or set TMPDIR")]
    Io {
        /// What was tried.
        path: PathBuf,
        /// What the system says.
        why: String,
    },
}

impl VerifyFailed {
    fn io(path: &Path, why: &impl ToString) -> Self {
        Self::Io { path: path.to_owned(), why: why.to_string() }
    }
}

impl From<DirectoryError> for VerifyFailed {
    fn from(error: DirectoryError) -> Self {
        match error {
            DirectoryError::InUse { dir } => Self::InUse { dir },
            DirectoryError::Io { path, source } => Self::io(&path, &source),
            DirectoryError::Foreign { dir, .. } => Self::NotANode { dir },
            DirectoryError::Unreadable { file, why } => Self::Io { path: file, why },
        }
    }
}

impl Report {
    fn find(&mut self, file: &Path, why: impl Into<String>, next: impl Into<String>) {
        self.findings.push(Finding { file: file.into(), why: why.into(), next: next.into() });
    }

    fn note(&mut self, file: &Path, why: impl Into<String>, next: impl Into<String>) {
        self.notes.push(Finding { file: file.into(), why: why.into(), next: next.into() });
    }
}

/// Whether `dir` holds a node's files, or what is left of them.
#[must_use]
pub fn is_node(dir: &Path) -> bool {
    dir.join("node").is_file() || dir.join("state/head").is_file() || has_segment(&dir.join("log"))
}

fn has_segment(log: &Path) -> bool {
    let names = fs::read_dir(log).into_iter().flatten().flatten();
    names.map(|entry| entry.file_name()).any(|name| {
        let name = name.to_string_lossy();
        name.starts_with("log-") && name.ends_with(".seg")
    })
}

/// Looks at everything in a stopped node's directory and changes nothing.
///
/// # Errors
/// When it is in use, not a node's, or cannot be read.
pub fn verify(dir: &Path) -> Result<Report, VerifyFailed> {
    if !is_node(dir) {
        return Err(VerifyFailed::NotANode { dir: dir.to_owned() });
    }
    // Held until the end: no node starts meanwhile.
    let identified = Identified::at(dir)?;
    let mut report = Report::default();
    tell_kept(dir, &mut report)?;
    match &identified.who {
        Ok((store, identity)) => {
            (report.store, report.identity) = (Some(*store), *identity);
            let log = check_log(dir, *store, &mut report)?;
            check_state(dir, *store, log.as_ref(), &mut report)?;
        }
        Err(why) => {
            report.find(
                &dir.join("node"),
                why,
                format!(
                    "{REFUSES}; restore the file, or give the node an empty directory and it \
                     copies everything from its peers under a new number. The log was not \
                     checked: whose it must be is not known"
                ),
            );
            for found in state::verify(dir) {
                report.find(&found.file, found.why, "no start comes that far");
            }
        }
    }
    Ok(report)
}

/// Tells of what earlier damage left for the operator.
fn tell_kept(dir: &Path, report: &mut Report) -> Result<(), VerifyFailed> {
    for (place, prefix) in [(dir.to_owned(), "state.damaged-"), (dir.join("log"), "lost-")] {
        let names = match fs::read_dir(&place) {
            Ok(names) => names,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(VerifyFailed::io(&place, &error)),
        };
        let mut kept: Vec<_> = names.flatten().map(|entry| entry.path()).collect();
        kept.retain(|path| {
            path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(prefix))
        });
        kept.sort();
        for path in kept {
            report.note(
                &path,
                "set aside after earlier damage",
                "nothing uses it; it may be deleted",
            );
        }
    }
    Ok(())
}

type Log = LogLook<RealFiles>;

/// The log as the next start would find it.
struct Checked {
    log: Log,
    /// It ends early, at damage that was told.
    is_rotten: bool,
}

/// Checks every group and every entry; the log as the next start would find it.
fn check_log(
    dir: &Path,
    store: StoreId,
    report: &mut Report,
) -> Result<Option<Checked>, VerifyFailed> {
    let dir = dir.join("log");
    // A node has a first segment before it registers.
    let begun = report.identity.is_some();
    let files = match RealFiles::open(&dir) {
        Ok(files) => files,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            if begun {
                report.find(
                    &dir,
                    "it is missing",
                    format!("the next start {LOG_GONE} and {MARKS}"),
                );
            }
            return Ok(None);
        }
        Err(error) => return Err(VerifyFailed::io(&dir, &error)),
    };
    let (log, found) = match DiskLog::look(files, DiskOptions { begun, ..DiskOptions::new(store) })
    {
        Ok(found) => found,
        Err(LogError::InUse { .. }) => return Err(VerifyFailed::InUse { dir }),
        Err(error) => {
            report.find(&dir.join(file_of(&error)), error.to_string(), REFUSES);
            return Ok(None);
        }
    };
    if found.torn_bytes > 0 {
        // What every crash may leave. Where it is damage instead, the server's floor tells.
        report.note(
            &dir,
            format!(
                "its last write of {} bytes is cut short, as by a crash before it was acknowledged",
                found.torn_bytes
            ),
            "the next start cuts it off; the server knows if it was promised, and the node then \
             heals from its peers",
        );
    }
    if let Some(rot) = &found.rot {
        let (file, kept) = match rot.what {
            Rotten::Gone => (dir.clone(), LOG_GONE),
            _ => (dir.join(&rot.file), "keeps what stands before it"),
        };
        let mut next = format!("the next start {kept} and {MARKS}");
        if !found.set_aside.is_empty() {
            next.push_str(&format!("; it keeps {} for you", found.set_aside.join(", ")));
        }
        report.find(&file, say_rot(rot), next);
    } else if log.meta().marked {
        report.find(
            &dir,
            "the node is marked: it lost data it had promised, as an earlier start found",
            "it counts in no quorum until it has healed from its peers",
        );
    }
    report.position = Some(log.shape().last());
    check_entries(&dir, &log, report);
    Ok(Some(Checked { log, is_rotten: found.rot.is_some() }))
}

/// The file an error speaks of.
fn file_of(error: &LogError) -> &str {
    match error {
        LogError::Format { file, .. }
        | LogError::ForeignStore { file, .. }
        | LogError::Misnamed { file, .. }
        | LogError::Missing { file }
        | LogError::Broken { file, .. }
        | LogError::Io { file, .. } => file,
        LogError::InUse { .. } => "",
    }
}

fn say_rot(rot: &Rot) -> String {
    match rot.what {
        Rotten::Header => "its header is damaged".to_owned(),
        Rotten::Length => format!("it is {} bytes long, and was of another length", rot.offset),
        Rotten::Group => format!("damaged at byte {}, with acknowledged writes there", rot.offset),
        Rotten::Start => {
            "it begins beyond what is known to be applied: the log's end is damaged, or an older \
             file is missing"
                .to_owned()
        }
        Rotten::Gone => "its segments are missing".to_owned(),
    }
}

/// Reads the entries one by one. Their groups were whole, so what is found here was written so.
fn check_entries(dir: &Path, log: &Log, report: &mut Report) {
    let mut after = log.shape().base();
    loop {
        let batch = match log.read(after.index, READ_BYTES) {
            Ok(batch) => batch,
            Err(error) => {
                let file = match &error {
                    ReadError::Damaged { file, .. } | ReadError::Io { file, .. } => dir.join(file),
                    ReadError::Dropped { .. } | ReadError::Failed => dir.to_owned(),
                };
                return report.find(&file, error.to_string(), REFUSES);
            }
        };
        match decode_batch(after, &batch) {
            Ok(frames) => match frames.last() {
                Some(last) => after = last.entry.version,
                None => return,
            },
            Err(error) => {
                let why = format!("an entry behind {after} is none: {error}");
                return report.find(dir, why, REFUSES);
            }
        }
    }
}

/// Checks every table and every record, and whether log and state fit together.
fn check_state(
    dir: &Path,
    store: StoreId,
    log: Option<&Checked>,
    report: &mut Report,
) -> Result<(), VerifyFailed> {
    let place = dir.join("state");
    // Without a log that can be read, the next start ends or begins an empty one.
    let (meta, shape) =
        log.map_or_else(Default::default, |Checked { log, .. }| (*log.meta(), log.shape().clone()));
    let without = || {
        let ops = reconcile(&meta, &shape, (meta.history, Version::ZERO), true);
        match ops.is_empty() {
            true => "the log still holds every entry and is replayed over it",
            false => {
                "the log no longer holds every entry, so the node is marked and copies everything \
                 from its peers"
            }
        }
    };
    if !place.exists() {
        if shape.last() > Version::ZERO {
            let next = format!("the next start makes an empty one; {}", without());
            report.find(&place, "it is missing", next);
        }
        return Ok(());
    }
    let aside = "sets the state aside as state.damaged-N and makes an empty one";
    let scratch = tempfile::Builder::new().prefix("quorate-verify-").tempdir();
    let scratch = scratch.map_err(|error| VerifyFailed::io(&std::env::temp_dir(), &error))?;
    // The directory's own file binds the store to its cluster.
    let identity = Identity { store, cluster: ClusterId::default(), history: History(0) };
    let look = match state::look(dir, &identity, scratch.path()) {
        Ok(look) => look,
        Err(StateError::Damaged { why, .. }) => {
            report.find(&place, why, format!("the next start {aside}; {}", without()));
            return Ok(());
        }
        Err(StateError::Io { dir, error }) => return Err(VerifyFailed::io(&dir, &error)),
        Err(StateError::InUse { dir }) => return Err(VerifyFailed::InUse { dir }),
        Err(error) => {
            report.find(&place, error.to_string(), REFUSES);
            return Ok(());
        }
    };
    for found in &look.findings {
        let when = match found.file.parent().is_some_and(|dir| dir.ends_with("keyspaces/1/tables"))
        {
            // Tables are large: they are checked block by block as they are read.
            true => "the first to read the damaged place, at the next start or later,",
            false => "the next start",
        };
        report.find(&found.file, &found.why, format!("{when} {aside}; {}", without()));
    }
    if let Some(contents) = &look.contents {
        tell_records(&place, contents, report);
        if let Some(log) = log {
            check_fit(dir, log, contents, report);
        }
    }
    Ok(())
}

fn tell_records(place: &Path, contents: &Contents, report: &mut Report) {
    report.applied = Some(contents.marks.applied);
    report.records = Some(contents.records);
    const NEXT: &str = "a read or the scrub replaces it by what the majority of the members hold";
    for key in contents.damaged.iter().take(RECORDS_TOLD_MAX) {
        let why = format!("the record at key {key} is damaged: its checksum is wrong");
        report.find(place, why, NEXT);
    }
    let more = contents.damaged.len().saturating_sub(RECORDS_TOLD_MAX);
    if more > 0 {
        report.find(place, format!("{more} more records are damaged"), NEXT);
    }
    if contents.marks.newest > contents.marks.applied {
        report.note(
            place,
            "a copy from a peer was interrupted",
            "the node serves no weak read until it has applied past what the copy brought",
        );
    }
}

/// Whether the log goes on where the state ends.
fn check_fit(
    dir: &Path,
    Checked { log, is_rotten }: &Checked,
    contents: &Contents,
    report: &mut Report,
) {
    let place = dir.join("log");
    let Meta { durable_applied, history, .. } = *log.meta();
    let applied = contents.marks.applied;
    let ops = reconcile(log.meta(), log.shape(), (contents.history, applied), false);
    match ops.as_slice() {
        [] if applied < durable_applied => report.find(
            &dir.join("state"),
            format!("it is at {applied}, and was on disk up to {durable_applied} once"),
            "the next start replays the log over it, which still holds what is missing",
        ),
        [] => {}
        [LogOp::History(_), ..] if !*is_rotten => report.note(
            &place,
            format!("it is of history {history}, and the state of {}", contents.history),
            "a copy was finished just before the end; the next start begins an empty log behind it",
        ),
        [LogOp::Mark(true), ..] => report.find(
            &dir.join("state"),
            format!(
                "it is at {applied}, was on disk up to {durable_applied} once, and the log begins \
                 at {}",
                log.shape().base()
            ),
            "the next start marks the node, which copies what is missing from its peers",
        ),
        // What becomes of a rotten log was told with the rot.
        _ if *is_rotten => {}
        _ => report.note(
            &place,
            format!("it ends at {}, before the state, which is at {applied}", log.shape().last()),
            "the next start begins an empty log behind the state: a copy was finished just before \
             the end",
        ),
    }
}

#[cfg(test)]
mod tests;
