//! State copies, both ends (design §4).
//!
//! The receiver drives: it fetches page after page, merges each, and is done when the state is
//! synced. It never resumes a copy; one that breaks off is begun anew from what is durable. The
//! source keeps a snapshot for as long as pages are asked for, and the log behind it with it: that
//! also for a while after the copy, for it is what the receiver needs next.
//!
//! The source sets the pace, for it knows how long its log lasts: it rests before each page for a
//! multiple of what both took for the page before.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use quorate_protocol::ids::{History, Index, NodeId, StoreId};
use quorate_protocol::rpc::Declined;
use quorate_protocol::rpc::bulk::{
    BulkRequest, BulkResponse, CopyError, CopyOpened, Cursor, OpenCopy, PageRequest,
};
use quorate_protocol::time::{Millis, Moment};
use quorate_protocol::transport::{KnownCluster, Link, Responder, Service};
use quorate_protocol::version::Version;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::Shell;
use super::inbox::{Inbox, Input};
use crate::core::event::{CopyDone, CopyFailed, Event};
use crate::state::{LayeredState, Snapshot, StateError};

/// How many nodes may copy from this one at once; more are told to come again.
const SESSIONS_MAX: usize = 4;
/// A session that asks for nothing for this long is over.
const SESSION_IDLE: Millis = Millis(30_000);
/// About how much one page carries,
const PAGE_BYTES: u32 = 1 << 20;
/// and one of dedup rows: many stand in one row of the engine, which is read whole for each page.
const TOKENS_BYTES: u32 = 3 << 20;
/// The most a source reads for one page, whatever was asked.
const PAGE_BYTES_MAX: usize = 8 << 20;
/// Before a page is rested so many times as long as both ends took for the page before. So a copy takes
/// a sixth of one processor and of the disk, however large the state is, and less where they are
/// busy, for then a page takes longer.
const REST_FACTOR: u32 = 5;
/// The same where the log grows long, for what the copy lacks in the end must still be in it; and where
/// hardly anybody asks for anything, so that there is nobody to leave the machine to.
const REST_FACTOR_IN_HASTE: u32 = 1;
/// Fewer requests than this, in the milliseconds since the last page, are hardly any.
const REQUESTS_PER_MS: f64 = 0.1;
/// The longest rest before a page: one that waited for something else is no reason to rest on. Far
/// below [`SESSION_IDLE`] and [`TIMEOUT`].
const REST_MAX: Duration = Duration::from_secs(1);
/// How long one call of a copy may take.
pub(super) const TIMEOUT: Duration = Duration::from_secs(20);

/// One node that copies from here.
struct Session {
    snapshot: Arc<dyn Snapshot>,
    since: Version,
    touched: Moment,
    pace: Pace,
}

/// How long a copy rests.
struct Pace {
    /// When the last page was asked for, and how long that one had to wait.
    asked: Instant,
    rested: Duration,
    /// How many requests this node had heard then, as a coordinator.
    requests: u64,
}

impl Pace {
    fn begin(now: Instant, requests: u64) -> Self {
        Self { asked: now, rested: Duration::ZERO, requests }
    }

    /// Whether hardly anything was asked of this node since the page before.
    fn is_calm(&mut self, now: Instant, requests: u64) -> bool {
        let since_ms = now.saturating_duration_since(self.asked).as_secs_f64() * 1_000.0;
        let before = std::mem::replace(&mut self.requests, requests);
        ((requests - before) as f64) < since_ms * REQUESTS_PER_MS
    }

    /// A page is asked for: how long it waits. What passed since the page before but for its wait
    /// is what that page took.
    fn rest(&mut self, now: Instant, in_haste: bool) -> Duration {
        let worked = now.saturating_duration_since(self.asked).saturating_sub(self.rested);
        let factor = if in_haste { REST_FACTOR_IN_HASTE } else { REST_FACTOR };
        self.asked = now;
        self.rested = worked.saturating_mul(factor).min(REST_MAX);
        self.rested
    }
}

/// The copies that others make of this node's state, and the one that it makes of another's.
#[derive(Default)]
pub(super) struct Copies {
    sessions: BTreeMap<u64, Session>,
    /// As of when copies were that ended lately, and when. At most [`SESSIONS_MAX`].
    ended: VecDeque<(Version, Moment)>,
    next: u64,
    /// Ends the copy that comes in, if one does.
    leave: Option<oneshot::Sender<()>>,
}

impl Copies {
    /// Ends the sessions that were left, and forgets those that ended.
    pub(super) fn expire(&mut self, now: Moment) {
        self.sessions.retain(|_, session| now < session.touched + SESSION_IDLE);
        self.ended.retain(|(_, at)| now < *at + SESSION_IDLE);
    }

    /// A receiver has all of it.
    fn close(&mut self, session: u64, now: Moment) {
        if let Some(session) = self.sessions.remove(&session) {
            self.ended.push_back((session.snapshot.applied(), now));
            if self.ended.len() > SESSIONS_MAX {
                self.ended.pop_front();
            }
        }
    }

    /// Ends the copy that comes in where it waits for its source. It says so itself.
    pub(super) fn leave(&mut self) {
        // Dropping it is the word.
        self.leave = None;
    }

    /// The log behind this must stay: a copy that is being made, or just was, needs it next.
    pub(super) fn pinned(&self) -> Option<Version> {
        let made = self.sessions.values().map(|session| session.snapshot.applied());
        made.chain(self.ended.iter().map(|(applied, _)| *applied)).min()
    }
}

/// A snapshot that was asked for, and for whom.
pub(crate) struct SnapshotTaken {
    open: OpenCopy,
    responder: Responder<BulkResponse>,
    snapshot: Result<Box<dyn Snapshot>, StateError>,
}

fn failed(error: &StateError) -> CopyError {
    match error {
        StateError::Busy { .. } => CopyError::Busy,
        error => CopyError::Damaged { why: error.to_string() },
    }
}

impl Shell {
    pub(super) fn take_bulk(&mut self, request: BulkRequest, responder: Responder<BulkResponse>) {
        match request {
            BulkRequest::Open { open } => self.open_copy(open, responder),
            BulkRequest::Page { page } => self.send_page(page, responder),
            BulkRequest::Close { session } => {
                let now = self.now();
                self.copies.close(session, now);
                responder.send(BulkResponse::Close(()));
            }
        }
    }

    fn open_copy(&mut self, open: OpenCopy, responder: Responder<BulkResponse>) {
        let mine = self.node.replica().history();
        let refused = if !self.node.is_registered() || self.node.replica().is_copying() {
            Some(CopyError::Declined(Declined::NotReady))
        } else if open.history != mine {
            Some(CopyError::Declined(Declined::OtherHistory { mine }))
        } else if self.copies.sessions.len() >= SESSIONS_MAX {
            Some(CopyError::Busy)
        } else {
            None
        };
        if let Some(refused) = refused {
            return responder.send(BulkResponse::Open(Err(refused)));
        }
        let inbox = self.inbox.clone();
        self.state.snapshot(move |snapshot| {
            inbox.put(Input::Snapshot(Box::new(SnapshotTaken { open, responder, snapshot })));
        });
    }

    pub(super) fn snapshot_taken(&mut self, taken: SnapshotTaken) {
        let SnapshotTaken { open, responder, snapshot } = taken;
        let opened = snapshot.map_err(|error| failed(&error)).map(|snapshot| {
            let snapshot: Arc<dyn Snapshot> = Arc::from(snapshot);
            let whole = open.since < snapshot.swept();
            let since = if whole { Version::ZERO } else { open.since };
            self.copies.next += 1;
            let (session, applied) = (self.copies.next, snapshot.applied());
            tracing::info!(to = %open.node, %applied, %since, "a state copy begins");
            let touched = self.now();
            let pace = Pace::begin(Instant::now(), self.next_ticket);
            self.copies.sessions.insert(session, Session { snapshot, since, touched, pace });
            CopyOpened { session, snapshot: applied, whole }
        });
        responder.send(BulkResponse::Open(opened));
    }

    fn send_page(&mut self, page: PageRequest, responder: Responder<BulkResponse>) {
        let now = self.now();
        // Past half of what it may take, the log is not kept for copies any more.
        let is_long = self.log_bytes > self.node.settings().log_bytes_max / 8 * 3;
        let requests = self.next_ticket;
        let Some(session) = self.copies.sessions.get_mut(&page.session) else {
            return responder.send(BulkResponse::Page(Err(CopyError::NoSession)));
        };
        session.touched = now;
        let asked = Instant::now();
        let is_calm = session.pace.is_calm(asked, requests);
        let rest = session.pace.rest(asked, is_long || is_calm);
        let inbox = self.inbox.clone();
        self.background.spawn(async move {
            tokio::time::sleep(rest).await;
            inbox.put(Input::Page(page, responder));
        });
    }

    /// The rest before a page is over.
    pub(super) fn read_page(&mut self, page: PageRequest, responder: Responder<BulkResponse>) {
        let Some(session) = self.copies.sessions.get(&page.session) else {
            return responder.send(BulkResponse::Page(Err(CopyError::NoSession)));
        };
        let (snapshot, since) = (Arc::clone(&session.snapshot), session.since);
        // Reading a page may wait for the disk: not on the core's thread.
        self.background.spawn_blocking(move || {
            let bytes_max = (page.bytes_max as usize).min(PAGE_BYTES_MAX);
            let read = snapshot.page(since, &page.after, bytes_max);
            responder.send(BulkResponse::Page(read.map_err(|error| failed(&error))));
        });
    }

    /// Copies the state of another node into our own.
    pub(super) fn copy_from(
        &mut self,
        source: NodeId,
        address: String,
        history: History,
        whole: bool,
    ) {
        let Some(known) = self.node.nodes().get(&source) else {
            // Whose data it must be is not known yet: the order comes again.
            tracing::warn!(from = %source, "asked to copy from a node that is not known here");
            return ended(&self.inbox, Err(CopyFailed));
        };
        // The order says where the source listens by now; the directory, which store that is.
        let address = if address.is_empty() { known.address.clone() } else { address };
        let store = known.store;
        let since = if whole { Version::ZERO } else { self.node.replica().durable_applied() };
        let order = Order {
            me: self.node.node().unwrap_or_default(),
            address,
            store,
            history,
            since,
            whole,
            cluster: self.cluster.clone(),
        };
        tracing::info!(from = %source, %since, whole, "copying a state");
        let (leave, left) = oneshot::channel();
        self.copies.leave = Some(leave);
        self.background.spawn(receive(self.state.clone(), order, self.inbox.clone(), left));
    }
}

/// What is to be copied, from where.
struct Order {
    me: NodeId,
    address: String,
    store: StoreId,
    history: History,
    since: Version,
    whole: bool,
    cluster: KnownCluster,
}

/// Copies, and says how it ended. `left` resolves where it is to end early.
async fn receive(state: LayeredState, order: Order, inbox: Inbox, left: oneshot::Receiver<()>) {
    let link =
        Link::to_store(order.store, order.address.clone(), Service::Bulk, order.cluster.clone());
    let mut source = Source { link, left };
    let span = tracing::info_span!(parent: None, "state copy", from = %order.address, since = %order.since);
    let outcome = fetch_all(&state, &order, &mut source).await;
    drop(span);
    match outcome {
        Ok(CopyOpened { session, snapshot, .. }) => {
            tracing::info!(%snapshot, "the state is copied");
            ended(&inbox, Ok(CopyDone { snapshot, history: order.history }));
            let _ = source.link.call(BulkRequest::Close { session }, TIMEOUT).await;
        }
        Err(why) => {
            tracing::warn!(%why, "the state copy failed; the coordinator orders another");
            state.abandon_copy();
            ended(&inbox, Err(CopyFailed));
        }
    }
}

/// Where a copy comes from, for as long as it is wanted.
struct Source {
    link: Link<BulkRequest, BulkResponse>,
    left: oneshot::Receiver<()>,
}

impl Source {
    /// Asks for something. Only here a copy ends early: what the state is doing is waited for.
    async fn ask(&mut self, request: BulkRequest) -> Result<BulkResponse, String> {
        tokio::select! {
            answer = self.link.call(request, TIMEOUT) => answer.map_err(|error| error.to_string()),
            _ = &mut self.left => Err("another coordinator has taken over".to_owned()),
        }
    }

    fn wrong_answer(&self) -> String {
        self.link.wrong_answer().to_string()
    }
}

fn ended(inbox: &Inbox, outcome: Result<CopyDone, CopyFailed>) {
    let done = outcome.is_ok();
    inbox.put(Input::Node(Event::Copied(outcome)));
    inbox.put(Input::Coordinator(quorate_coordinator::core::event::Event::Copied { done }));
}

async fn fetch_all(
    state: &LayeredState,
    order: &Order,
    source: &mut Source,
) -> Result<CopyOpened, String> {
    let open = OpenCopy { node: order.me, history: order.history, since: order.since };
    let opened = match source.ask(BulkRequest::Open { open }).await? {
        BulkResponse::Open(opened) => opened.map_err(|error| error.to_string())?,
        _ => return Err(source.wrong_answer()),
    };
    if opened.snapshot.index == Index(u64::MAX) {
        return Err("the source says that its state is complete for ever".to_owned());
    }
    let whole = (order.whole || opened.whole).then_some(order.history);
    settle(|done| state.begin_copy(whole, done)).await?;
    let mut after = Cursor::Start;
    loop {
        let bytes_max = if matches!(after, Cursor::Token(_)) { TOKENS_BYTES } else { PAGE_BYTES };
        let page = PageRequest { session: opened.session, after, bytes_max };
        let mut page = match source.ask(BulkRequest::Page { page }).await? {
            BulkResponse::Page(page) => page.map_err(|error| error.to_string())?,
            _ => return Err(source.wrong_answer()),
        };
        let next = page.next.take();
        settle(|done| state.merge(page, done)).await?;
        match next {
            Some(next) => after = next,
            None => break,
        }
    }
    settle(|done| state.finish_copy(opened.snapshot, done)).await?;
    Ok(opened)
}

/// What a job of the state's feeder is answered with.
type Done = Box<dyn FnOnce(Result<(), StateError>) + Send>;

/// Waits for a job of the state's feeder.
async fn settle(ask: impl FnOnce(Done)) -> Result<(), String> {
    let (answer, answered) = oneshot::channel();
    ask(Box::new(move |result| {
        let _ = answer.send(result);
    }));
    match answered.await {
        Ok(result) => result.map_err(|error| error.to_string()),
        Err(_) => Err("the state was closed".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;
    use crate::state::{MemoryState, State};

    #[test]
    fn a_copy_takes_the_same_share_of_a_large_state_as_of_a_small_one() {
        let ms = Duration::from_millis;
        let begun = Instant::now();
        let (mut pace, mut now) = (Pace::begin(begun, 7), begun);
        for worked in [ms(1), ms(20), ms(199)] {
            now += worked;
            let rest = pace.rest(now, false);
            assert_eq!(rest, 5 * worked, "a sixth of the time is work, a rest is none");
            now += rest;
        }
        now += ms(20);
        assert_eq!(pace.rest(now, true), ms(20), "no longer than that where the log is long");
        now += ms(20) + TIMEOUT;
        let idle = Duration::from_millis(SESSION_IDLE.0);
        assert!(pace.rest(now, false) < TIMEOUT.min(idle) / 10, "the session goes on");

        assert!(pace.is_calm(now + ms(100), 16), "nine in 100 ms");
        assert!(!pace.is_calm(now + ms(100), 26), "ten more");
    }

    #[test]
    fn the_log_behind_a_copy_is_kept_for_a_while_after_it() {
        let session = || {
            let snapshot = Arc::from(MemoryState::new(History(0)).snapshot().unwrap());
            let (since, pace) = (Version::ZERO, Pace::begin(Instant::now(), 0));
            Session { snapshot, since, touched: Moment::default(), pace }
        };
        let mut copies = Copies::default();
        copies.sessions.insert(1, session());
        let applied = copies.pinned();
        assert!(applied.is_some());
        copies.close(1, Moment::default());
        assert!(copies.sessions.is_empty(), "the snapshot is let go");
        copies.expire(Moment::default() + Millis(1_000));
        assert_eq!(copies.pinned(), applied);
        copies.expire(Moment::default() + SESSION_IDLE);
        assert_eq!(copies.pinned(), None);
        for number in 0..2 * SESSIONS_MAX as u64 {
            copies.sessions.insert(number, session());
            copies.close(number, Moment::default());
        }
        assert_eq!(copies.ended.len(), SESSIONS_MAX);
    }
}
