//! What a coordinator asks of its shell.

use quorate_protocol::ids::{Epoch, NodeId};
use quorate_protocol::record::Key;
use quorate_protocol::rpc::registry::{Claim, Live, Proposal, Resignation};
use quorate_protocol::rpc::replica::{Append, CopyOrder, Fetch, Prepare, Pull, ViewAlert};
use quorate_protocol::rpc::store::{ChangeReply, ReadReply};
use quorate_protocol::version::Version;

use super::event::{Batch, Sequence, Ticket};

/// One thing to do. Calls to this node itself go to its own replica, in the same order.
///
/// Every call is answered by the event named; one that fails or times out by the same event with
/// `Unanswered`. Calls run detached: none is dropped before its answer (design §4).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Ask for a promise. Answered by `Prepared`.
    Prepare {
        /// Whom.
        to: NodeId,
        /// What.
        prepare: Prepare,
    },
    /// The next element of a member's in-order stream. Answered by `Appended`.
    Append {
        /// Whom.
        to: NodeId,
        /// Names this append.
        sequence: Sequence,
        /// What; its batch is `batch.bytes`.
        append: Append,
        /// The same batch, decoded, for the coordinator's own replica.
        batch: Batch,
    },
    /// The same, with the batch to be read from our own log after `append.prev`: about
    /// `bytes_max` of it. Answered by `Appended`.
    Feed {
        /// Whom.
        to: NodeId,
        /// Names this append.
        sequence: Sequence,
        /// What, without its batch.
        append: Append,
        /// How much to read.
        bytes_max: u32,
    },
    /// Ask the winner of a takeover for entries. Answered by `Pulled`.
    Pull {
        /// Whom.
        from: NodeId,
        /// What.
        pull: Pull,
    },
    /// Ask a member for records. Answered by `Fetched`.
    Fetch {
        /// Whom.
        from: NodeId,
        /// What.
        fetch: Fetch,
    },
    /// Tell a node to copy a state. Not answered; if it is this node itself, by `Copied`.
    CopyFrom {
        /// Whom.
        to: NodeId,
        /// The order; the shell fills in the source's address.
        order: CopyOrder,
    },
    /// Tell a node of the new view, best effort.
    Alert {
        /// Whom.
        to: NodeId,
        /// What.
        alert: ViewAlert,
    },
    /// Tell the server that the takeover goes on. Not answered.
    Progress(Claim),
    /// Ask the server to make our proposed view the active one. Answered by `Activated`.
    Activate(Claim),
    /// Ask the server for other members. Answered by `Proposed`.
    Propose(Proposal),
    /// Tell the server who lives. Answered by `Live`.
    ReportLive(Live),
    /// Tell the server that we give up, until it hears it. Not answered.
    Resign(Resignation),
    /// The answer to a change.
    Changed {
        /// Whose.
        ticket: Ticket,
        /// What.
        reply: ChangeReply,
    },
    /// The answer to a read.
    Read {
        /// Whose.
        ticket: Ticket,
        /// What.
        reply: ReadReply,
    },
    /// Our own record at this key is damaged: set it aside until it is repaired.
    Damaged(Key),
    /// A member's record differed from the majority's and is being written over.
    Repaired {
        /// Whose.
        node: NodeId,
        /// Which.
        key: Key,
    },
    /// The view of this epoch serves from now on, from this barrier.
    Serving {
        /// The epoch.
        epoch: Epoch,
        /// Its barrier.
        barrier: Version,
    },
    /// This node coordinates nothing any more.
    SteppedDown {
        /// The epoch it had.
        epoch: Epoch,
    },
}
