//! State copies between simulated nodes, both ends: page by page, and broken off at any of them.

use quorate_coordinator::core::event::Event as Coordination;
use quorate_node::core::event::{CopyDone, CopyFailed, Event};
use quorate_protocol::ids::{History, Index, NodeId};
use quorate_protocol::rpc::Declined;
use quorate_protocol::rpc::bulk::{CopyError, CopyOpened, Cursor, OpenCopy, Page, PageRequest};
use quorate_protocol::version::Version;

use super::process::{Count, Out, Process};
use super::state::State;
use crate::message::{CallId, Request, Response, Then};

/// How many copies may be made of one node at once.
const SESSIONS_MAX: usize = 4;
/// How long one call of a copy may take.
const PATIENCE_MS: u64 = 2_000;

/// One node that copies from here.
pub(crate) struct Session {
    snapshot: State,
    since: Version,
}

impl Session {
    pub(super) fn applied(&self) -> Version {
        self.snapshot.applied
    }
}

/// A copy that is being received.
pub(crate) struct Copying {
    /// Rises with each: what is said of an earlier one is for nobody.
    number: u64,
    /// A page is on its way.
    awaited: bool,
    node: NodeId,
    source: String,
    history: History,
    whole: bool,
    session: u64,
    snapshot: Version,
    /// Where a whole copy goes, until it takes the place of the state.
    second: Option<State>,
    /// What the source had forgotten.
    forgotten: Index,
    /// The page that is asked for next.
    after: Cursor,
}

impl Process {
    /// Begins to copy the state of another node into our own.
    pub(super) fn copy_from(
        &mut self,
        node: NodeId,
        source: String,
        history: History,
        whole: bool,
    ) {
        let since = if whole { Version::ZERO } else { self.node.replica().durable_applied() };
        let me = self.node.node().unwrap_or_default();
        self.copies += 1;
        let number = self.copies;
        self.copying = Some(Copying {
            number,
            awaited: false,
            node,
            source: source.clone(),
            history,
            whole,
            session: 0,
            snapshot: Version::ZERO,
            second: None,
            forgotten: Index(0),
            after: Cursor::Start,
        });
        self.out.push(Out::Counted(Count::Copy));
        let request = Request::OpenCopy(OpenCopy { node: me, history, since });
        let then = Then::CopyOpened(number);
        self.out.push(Out::Call { to: source, node, request, then, patience_ms: PATIENCE_MS });
    }

    /// Somebody wants to copy from here.
    pub(super) fn open_copy(&mut self, call: CallId, open: OpenCopy) {
        let mine = self.node.replica().history();
        let refused = if !self.node.is_registered() || self.node.replica().is_copying() {
            Some(CopyError::Declined(Declined::NotReady))
        } else if open.history != mine {
            Some(CopyError::Declined(Declined::OtherHistory { mine }))
        } else {
            None
        };
        let opened = match refused {
            Some(refused) => Err(refused),
            None => {
                if self.sessions.len() >= SESSIONS_MAX {
                    self.sessions.pop_first();
                }
                let snapshot = self.state.clone();
                let whole = open.since < snapshot.swept;
                let since = if whole { Version::ZERO } else { open.since };
                let applied = snapshot.applied;
                let session = self.next_session;
                self.next_session += 1;
                self.sessions.insert(session, Session { snapshot, since });
                Ok(CopyOpened { session, snapshot: applied, whole })
            }
        };
        self.out.push(Out::Answer(call, Response::CopyOpened(opened)));
    }

    /// Somebody who copies from here wants a page.
    pub(super) fn send_page(&mut self, call: CallId, page: &PageRequest) {
        let page = match self.sessions.get(&page.session) {
            None => Err(CopyError::NoSession),
            Some(session) => session
                .snapshot
                .page(session.since, &page.after)
                .map_err(|_| CopyError::Damaged { why: "a record".to_owned() }),
        };
        self.out.push(Out::Answer(call, Response::CopyPage(page)));
    }

    /// The source answered, or did not.
    pub(crate) fn copy_opened(&mut self, number: u64, opened: Option<CopyOpened>) {
        let Some(copying) = self.copying.as_mut().filter(|it| it.number == number) else { return };
        let Some(opened) = opened else { return self.end_copy(false) };
        copying.session = opened.session;
        copying.snapshot = opened.snapshot;
        copying.whole |= opened.whole;
        if copying.whole {
            copying.second = Some(State::empty(copying.history));
            self.out.push(Out::Counted(Count::WholeCopy));
        }
        self.next_page();
    }

    /// Asks for the next page.
    pub(crate) fn next_page(&mut self) {
        // A rest may be one of an earlier copy.
        let ready = |it: &&mut Copying| it.session > 0 && !it.awaited;
        let Some(copying) = self.copying.as_mut().filter(ready) else { return };
        copying.awaited = true;
        let page =
            PageRequest { session: copying.session, after: copying.after.clone(), bytes_max: 1 };
        self.out.push(Out::Call {
            to: copying.source.clone(),
            node: copying.node,
            request: Request::CopyPage(page),
            then: Then::CopyPage(copying.number),
            patience_ms: PATIENCE_MS,
        });
    }

    /// A page is here, or is not.
    pub(crate) fn copy_page(&mut self, number: u64, page: Option<Page>) {
        let Some(copying) = self.copying.as_mut().filter(|it| it.number == number) else { return };
        copying.awaited = false;
        let Some(page) = page else { return self.end_copy(false) };
        copying.forgotten = copying.forgotten.max(page.forgotten);
        copying.second.as_mut().unwrap_or(&mut self.state).merge(&page);
        self.dirty = true;
        match page.next {
            Some(next) => {
                copying.after = next;
                // What was merged so far may be on disk when the process ends.
                if copying.second.is_none() {
                    self.out.push(Out::Fed { sync: false });
                }
                self.out.push(Out::CopyRests);
            }
            None => self.end_copy(true),
        }
    }

    pub(super) fn end_copy(&mut self, here: bool) {
        let Some(mut copying) = self.copying.take() else { return };
        let outcome = if here {
            let (snapshot, history, whole) = (copying.snapshot, copying.history, copying.whole);
            if let Some(second) = copying.second.take() {
                self.state = second;
            }
            self.state.complete(snapshot, whole, copying.forgotten);
            (self.dirty, self.synced) = (false, self.state.applied);
            self.out.push(Out::Adopted);
            Ok(CopyDone { snapshot, history })
        } else {
            Err(CopyFailed)
        };
        self.node_event(Event::Copied(outcome));
        self.coordinate(Coordination::Copied { done: here });
    }
}
