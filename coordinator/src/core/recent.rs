//! The batches that left last, for streams that lag a little.

use std::collections::VecDeque;
use std::sync::Arc;

use quorate_protocol::entry::Frame;
use quorate_protocol::version::Version;

use super::event::Batch;

/// How many batches are kept in memory for streams that lag a little; older ones are fed from
/// the log.
pub const RECENT_BATCHES_MAX: usize = 256;
/// How many bytes of batches are kept for the same purpose.
pub const RECENT_BYTES_MAX: usize = 16 << 20;

/// The batches that left last, oldest first. The newest is always among them, however large:
/// our own log does not have it yet.
#[derive(Clone, Debug, Default)]
pub(super) struct Recent {
    batches: VecDeque<(Version, Batch)>,
    bytes: usize,
}

impl Recent {
    pub(super) fn push(&mut self, prev: Version, batch: Batch) {
        self.bytes += batch.bytes.len();
        self.batches.push_back((prev, batch));
        while self.batches.len() > RECENT_BATCHES_MAX
            || self.bytes > RECENT_BYTES_MAX && self.batches.len() > 1
        {
            let Some((_, oldest)) = self.batches.pop_front() else { break };
            self.bytes -= oldest.bytes.len();
        }
    }

    /// What follows `sent`, within one batch.
    pub(super) fn after(&self, sent: Version) -> Option<Batch> {
        let at = self
            .batches
            .partition_point(|(_, batch)| batch.last().is_none_or(|last| last.index <= sent.index));
        let (prev, batch) = self.batches.get(at)?;
        if *prev == sent {
            return Some(batch.clone());
        }
        let skip = batch.frames.iter().position(|frame| frame.entry.version == sent)? + 1;
        let start = batch.frames.get(skip)?.start;
        let frames: Arc<[Frame]> = batch.frames[skip..]
            .iter()
            .map(|frame| Frame {
                entry: frame.entry.clone(),
                start: frame.start - start,
                end: frame.end - start,
            })
            .collect();
        Some(Batch { bytes: batch.bytes.slice(start..), frames })
    }
}
