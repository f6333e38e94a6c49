//! What happens to a coordinator.

use std::sync::Arc;

use bytes::Bytes;
use quorate_protocol::entry::{Answer, Frame, TokenId};
use quorate_protocol::ids::{Epoch, Index, NodeId};
use quorate_protocol::record::{Key, Record};
use quorate_protocol::rpc::Declined;
use quorate_protocol::rpc::appoint::Appointment;
use quorate_protocol::rpc::registry::{LiveAnswer, RegistryError};
use quorate_protocol::rpc::replica::{Appended, NodeReport, Prepared, Pulled};
use quorate_protocol::rpc::store::{Change, Read};
use quorate_protocol::settings::Settings;
use quorate_protocol::time::Moment;
use quorate_protocol::version::{Promise, Version};
use quorate_protocol::view::View;

/// Names a client's request until it is answered. Minted by the shell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub u64);

/// Names one append, so that a late answer is not taken for the answer to a later one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sequence(pub u64);

/// Entries as encoded once. Our own replica is sent the same as any other, and decodes it: so nothing
/// of the requests is kept here but these bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// The bytes: the same to every member and in every log.
    pub bytes: Bytes,
    /// The entries in them, in order.
    pub places: Arc<[Place]>,
}

/// An entry of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Its version.
    pub version: Version,
    /// Where its frame begins.
    pub start: usize,
}

impl Batch {
    /// A batch of these bytes, which have been decoded.
    #[must_use]
    pub fn of(bytes: Bytes, frames: &[Frame]) -> Self {
        let place = |frame: &Frame| Place { version: frame.entry.version, start: frame.start };
        Self { bytes, places: frames.iter().map(place).collect() }
    }

    /// The version of the first entry.
    #[must_use]
    pub fn first(&self) -> Option<Version> {
        self.places.first().map(|place| place.version)
    }

    /// The version of the last entry.
    #[must_use]
    pub fn last(&self) -> Option<Version> {
        self.places.last().map(|place| place.version)
    }
}

/// A call that was not answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unanswered;

/// One thing that happens. The shell hands over everything that is ready and then says
/// [`Event::Drained`], at which batches and read rounds leave.
#[derive(Clone, Debug)]
pub enum Event {
    /// From the server (directly, or as the answer to a proposal of ours): take this over.
    Appointed(Box<Appointment>),
    /// From a client: change a key. Answered by [`Effect::Changed`](super::Effect::Changed).
    Change {
        /// Names the request.
        ticket: Ticket,
        /// What to do.
        change: Change,
        /// After this nobody waits for the answer any more.
        deadline: Moment,
    },
    /// From a client: a majority read. Answered by [`Effect::Read`](super::Effect::Read).
    Read {
        /// Names the request.
        ticket: Ticket,
        /// What to read.
        read: Read,
        /// After this nobody waits for the answer any more.
        deadline: Moment,
    },
    /// A node's answer to `prepare`.
    Prepared {
        /// Who answers.
        from: NodeId,
        /// For which epoch it was asked.
        epoch: Epoch,
        /// Its answer.
        answer: Result<Result<Prepared, Declined>, Unanswered>,
    },
    /// A node's answer to an append.
    Appended {
        /// Who answers.
        from: NodeId,
        /// To which append.
        sequence: Sequence,
        /// The epoch it was sent in.
        epoch: Epoch,
        /// Its answer.
        answer: Result<Appended, Unanswered>,
    },
    /// The winner's answer to `pull`, its batch checked and decoded by the shell.
    Pulled {
        /// Who answers.
        from: NodeId,
        /// For which epoch it was asked.
        epoch: Epoch,
        /// Its answer; a batch that does not decode counts as unanswered.
        answer: Result<(Pulled, Batch), Unanswered>,
    },
    /// A member's records, where this coordinator was the odd one of a round.
    Fetched {
        /// Who answers.
        from: NodeId,
        /// For which epoch it was asked.
        epoch: Epoch,
        /// The records, in the order asked for.
        answer: Option<Vec<(Key, Option<Record>)>>,
    },
    /// Our own replica's state copy ended.
    Copied {
        /// Whether the copy is here; otherwise it was given up.
        done: bool,
    },
    /// Our own state is complete up to here.
    Applied(Version),
    /// The server's answer to `activate`.
    Activated {
        /// For which epoch it was asked.
        epoch: Epoch,
        /// Its answer.
        answer: Result<Result<View, RegistryError>, Unanswered>,
    },
    /// The server's answer to `propose_members`.
    Proposed {
        /// The epoch in which it was asked.
        epoch: Epoch,
        /// Its answer.
        answer: Result<Result<View, RegistryError>, Unanswered>,
    },
    /// The server's answer to `report_live`.
    Live {
        /// The epoch in which it was asked.
        epoch: Epoch,
        /// Its answer.
        answer: Result<Result<Box<LiveAnswer>, RegistryError>, Unanswered>,
    },
    /// From a node, this one included: another one is silent.
    Reported(NodeReport),
    /// From the heartbeats: a node announced that it is about to stop, or is back and does not.
    Leaving {
        /// Which.
        node: NodeId,
        /// Whether it stops.
        leaving: bool,
    },
    /// The settings changed. Heard before our own state follows them, so that no request is
    /// looked for further back than the state remembers.
    Settings(Box<Settings>),
    /// This process was asked to stop.
    Stop,
    /// Everything that was ready has been handed over.
    Drained,
    /// Time has passed.
    Tick,
}

/// What the coordinator reads of its own replica. Nothing here may wait for a disk: the shell
/// brings the record of a read or a delete into memory before it hands the request over.
pub trait Records {
    /// What the state holds at `key`; an error where its checksum is wrong.
    ///
    /// # Errors
    /// The record is damaged.
    fn get(&self, key: &Key) -> Result<Option<Record>, Unreadable>;
    /// Whether what is at `key` is being read from a disk, so that [`get`](Self::get) would wait for
    /// it. Once it is here, [`Event::Drained`] follows.
    fn is_coming(&self, _key: &Key) -> bool {
        false
    }
    /// These are asked for next, by [`token`](Self::token): who waits for memory may wait once for all
    /// of them.
    fn expect_tokens(&self, _ids: impl Iterator<Item = TokenId>) {}
    /// What a request was told, if the dedup table has it.
    fn token(&self, id: TokenId) -> Option<(Version, Answer)>;
    /// The dedup table may lack requests among the entries at or below this; it has every one
    /// behind it, up to `applied`. At least what the window leaves out, and more where the state
    /// was copied from a node that knew less. Zero where nothing was ever forgotten.
    fn forgotten(&self) -> Index;
    /// Up to where the state is complete.
    fn applied(&self) -> Version;
    /// The newest promise of our own replica, durable or on its way to be. Once it is another
    /// coordinator's, our own replica counts for us no more than any other that promised.
    fn promised(&self) -> Promise;
    /// Where the log starts: it can give out entries after this one.
    fn log_base(&self) -> Version;
    /// The last entry of the log.
    fn log_last(&self) -> Version;
    /// The last entry of the log that may be common with a log that ends in `other`.
    fn log_hint(&self, other: Version) -> Version;
    /// Whether another batch may be taken: the state keeps up and the log is within its bound.
    fn has_room(&self) -> bool;
}

/// A record that fails its checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unreadable;
