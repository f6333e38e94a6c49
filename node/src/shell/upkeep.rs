//! Slow, recurring work in the background: shortening the log, dropping old tombstones, verifying
//! what is on disk.

use std::time::Duration;

use quorate_protocol::record::Key;
use quorate_protocol::rpc::store::{Level, Read, StoreRequest, StoreResponse};
use quorate_protocol::time::{Millis, Moment};
use quorate_protocol::transport::{Link, Service};
use quorate_protocol::version::Version;

use super::Shell;
use super::inbox::Input;
use super::retention::Ages;
use crate::log::Keep;

/// How often it is looked whether anything is to be done.
pub(super) const UPKEEP: Millis = Millis(500);
/// How much is verified each time: 512 KiB/s, so that a gigabyte takes about half an hour. A step is
/// short, for it takes a processor from the requests.
const SCRUB_BYTES: usize = 256 << 10;
/// A pass over all records begins this long after the one before began, or when that has ended.
const SCRUB_EVERY: Millis = Millis(10 * 60 * 1_000);
/// How many damaged records are healed at once; the scrub comes by again.
const HEAL_MAX: usize = 64;
/// How long a read that heals may take.
const HEAL_TIMEOUT: Duration = Duration::from_secs(5);

/// What the background work remembers.
#[derive(Default)]
pub(super) struct Upkeep {
    at: Moment,
    ages: Ages,
    scrub_after: Option<Key>,
    scrubbing: bool,
    /// When the next pass of the scrub may begin.
    next_pass: Moment,
    /// A sync that [`Shell::make_room`] asked for is under way.
    syncing: bool,
}

/// What one step of the scrub came to.
pub(crate) struct Scrub {
    damaged: Vec<Key>,
    next: Option<Key>,
}

impl Shell {
    /// Does what is due.
    pub(super) fn keep_up(&mut self) {
        let now = self.now();
        if now.since(self.upkeep.at) < UPKEEP {
            return;
        }
        self.upkeep.at = now;
        self.copies.expire(now);
        self.background.reap();
        self.expire_requests();
        if self.node.is_registered() {
            self.state.set_dedup_window(self.node.settings().dedup_window);
            self.state.set_log_bytes_max(self.node.settings().log_bytes_max);
        }
        self.shorten_log();
        self.make_room();
        self.sweep(now);
        self.scrub();
    }

    /// Drops the log that the state has on disk, but for a tail for peers that lag.
    fn shorten_log(&mut self) {
        let settings = self.node.settings();
        let keep = Keep { tail_bytes: settings.log_tail_bytes, bytes_max: settings.log_bytes_max };
        if self.log_bytes <= keep.tail_bytes {
            return;
        }
        let durable = self.node.replica().durable_applied().index;
        // A copy pins the log behind its snapshot, but not beyond half of what the log may take:
        // past that, another pass of the copy carries the difference (design §4).
        let pinned = self.copies.pinned().filter(|_| self.log_bytes <= settings.log_bytes_max / 2);
        let through = pinned.map_or(durable, |version| version.index.min(durable));
        self.logger.shorten(through, keep);
    }

    /// Writes wait while the log takes more than it may, and it keeps what the state lacks on disk
    /// (INV-7): then the state is synced at once, not when its time has come.
    fn make_room(&mut self) {
        let is_full = self.log_bytes > self.node.settings().log_bytes_max;
        let is_synced = self.node.replica().durable_applied() >= self.state.applied();
        if !is_full || is_synced || self.upkeep.syncing {
            return;
        }
        self.upkeep.syncing = true;
        let inbox = self.inbox.clone();
        self.state.sync(move |synced| {
            inbox.put(match synced {
                Ok(_) => Input::Synced,
                Err(error) => Input::StateFailed(error),
            });
        });
    }

    /// The sync of [`Shell::make_room`] is done: what it made durable can leave the log.
    pub(super) fn synced(&mut self) {
        self.upkeep.syncing = false;
        self.shorten_log();
    }

    /// Drops tombstones that every member has on disk and that are older than the retention.
    fn sweep(&mut self, now: Moment) {
        let retention = self.node.settings().tombstone_retention_ms;
        let old_enough = self.upkeep.ages.old_enough(now, retention, self.state.applied());
        let horizon = self.node.replica().horizon().min(old_enough);
        if horizon > Version::ZERO {
            self.state.sweep(horizon, |swept| match swept {
                Ok(dropped) => tracing::debug!(dropped, "tombstones were dropped"),
                Err(error) => tracing::warn!(%error, "tombstones were not dropped"),
            });
        }
    }

    /// Verifies some records, on a thread of its own; begins anew when that is due.
    fn scrub(&mut self) {
        if self.upkeep.scrubbing || self.engine == "memory" {
            return;
        }
        if self.upkeep.scrub_after.is_none() {
            let now = self.now();
            if now < self.upkeep.next_pass {
                return;
            }
            self.upkeep.next_pass = now + SCRUB_EVERY;
        }
        self.upkeep.scrubbing = true;
        let (state, inbox) = (self.state.clone(), self.inbox.clone());
        let after = self.upkeep.scrub_after.take();
        self.background.spawn_blocking(move || {
            let input = match state.scrub_some(after.as_ref(), SCRUB_BYTES) {
                Ok(scrubbed) => {
                    let (damaged, next) = (scrubbed.damaged, scrubbed.next);
                    Input::Scrubbed(Scrub { damaged, next })
                }
                Err(error) => Input::StateFailed(error),
            };
            inbox.put(input);
        });
    }

    /// Has damaged records healed: a majority read finds the odd one and replaces it.
    pub(super) fn scrubbed(&mut self, scrub: Scrub) {
        self.upkeep.scrubbing = false;
        self.upkeep.scrub_after = scrub.next;
        if scrub.damaged.is_empty() {
            return;
        }
        for key in &scrub.damaged {
            tracing::error!(%key, "the scrub found a damaged record; asking for the majority's");
        }
        let coordinator = self.node.view().map(|view| view.coordinator);
        let known = coordinator.and_then(|node| self.node.nodes().get(&node));
        let Some(address) = known.map(|known| known.address.clone()) else { return };
        let link =
            Link::<StoreRequest, StoreResponse>::new(address, Service::Store, self.cluster.clone());
        tokio::spawn(async move {
            for key in scrub.damaged.into_iter().take(HEAL_MAX) {
                let read = Read { key, level: Level::Stored };
                if let Err(error) = link.call(StoreRequest::Read { read }, HEAL_TIMEOUT).await {
                    tracing::warn!(%error, "a damaged record was not healed yet");
                }
            }
        });
    }
}
