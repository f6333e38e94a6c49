//! The batches that left last, for streams that lag a little.

use std::collections::VecDeque;

use quorate_protocol::version::Version;

use super::event::{Batch, Place};
use super::order::BATCH_BYTES_MAX;

/// How many batches are kept in memory for streams that lag a little; older ones are fed from
/// the log.
pub const RECENT_BATCHES_MAX: usize = 1_024;
/// How many bytes of batches are kept for the same purpose.
pub const RECENT_BYTES_MAX: usize = 16 << 20;

/// How many batches our own log may lack when another one is ordered: the others may have a majority
/// while our disk stalls.
pub const UNLOGGED_BATCHES_MAX: usize = RECENT_BATCHES_MAX / 2;
/// How many bytes of batches it may lack then.
pub const UNLOGGED_BYTES_MAX: usize = RECENT_BYTES_MAX / 2;

// One more batch must fit, with its last entry, so that what our own log lacks is always here.
const _: () = assert!(UNLOGGED_BYTES_MAX + 2 * BATCH_BYTES_MAX <= RECENT_BYTES_MAX);

/// The batches that left last, oldest first. Those that our own log lacks are always among them: it
/// is the coordinator's to see that they are not too many ([`Recent::is_much_behind`]).
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

    /// Whether a log that ends with `held` lacks as much as it may: then nothing more is ordered until
    /// it has caught up.
    pub(super) fn is_much_behind(&self, held: Version) -> bool {
        let lacking = self.batches.len() - self.first_after(held);
        let newest = self.batches.iter().rev().take(lacking);
        lacking >= UNLOGGED_BATCHES_MAX
            || newest.map(|(_, batch)| batch.bytes.len()).sum::<usize>() >= UNLOGGED_BYTES_MAX
    }

    /// What follows `sent`, within one batch.
    pub(super) fn after(&self, sent: Version) -> Option<Batch> {
        let (prev, batch) = self.batches.get(self.first_after(sent))?;
        if *prev == sent {
            return Some(batch.clone());
        }
        let skip = batch.places.iter().position(|place| place.version == sent)? + 1;
        let start = batch.places.get(skip)?.start;
        let places = batch.places[skip..].iter();
        let places = places.map(|place| Place { start: place.start - start, ..*place }).collect();
        Some(Batch { bytes: batch.bytes.slice(start..), places })
    }

    /// Where the first batch is that has more than a log which ends with `held`.
    fn first_after(&self, held: Version) -> usize {
        let is_held = |batch: &Batch| batch.last().is_none_or(|last| last.index <= held.index);
        self.batches.partition_point(|(_, batch)| is_held(batch))
    }
}
