//! Promises never go back: not while a process runs, nor over its end, however it ended. Only
//! damage that the log noticed takes one away, and that marks the node.

use quorate_node::log::Meta;
use quorate_protocol::ids::NodeId;
use quorate_protocol::version::Promise;

use super::Wrong;

/// Watches every log's metadata.
#[derive(Debug, Default)]
pub(crate) struct Promises {
    pub(super) wrong: Wrong,
}

impl Promises {
    /// A log was written.
    pub(crate) fn kept(&mut self, node: NodeId, before: Promise, now: Promise) {
        let kept = now == before || now.epoch > before.epoch;
        self.wrong.unless(kept, || format!("{node} promised {before}, and then {now}"));
    }

    /// A process starts on what an earlier one left. One that is marked lost some.
    pub(crate) fn found(&mut self, host: &str, left: &Meta, found: &Meta) {
        let kept = found.promised.epoch >= left.promised.epoch || found.marked;
        self.wrong.unless(kept, || {
            format!("{host} left {} behind, and starts with {}", left.promised, found.promised)
        });
    }
}
