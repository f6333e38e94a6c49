//! Who waits for the disk, so that the core does not (design §7).
//!
//! A record that only the state's engine has may take long to read. So before anything is handed
//! to a core, or asked of the state on the core's thread, its keys are looked for in memory. Where
//! one is missing the request waits here, a reader thread brings the record into memory, and the
//! request is handed on as if it had just come. Whatever is in memory passes at once: of a round the
//! digests, which stay there longer than the records they are of (`state/digests.rs`).
//!
//! # Why several threads
//!
//! One would read one record at a time, and a disk that could do many at once would stand idle; and
//! one read that takes long would hold up all the others. The runtime's blocking threads are there
//! anyway (scrubs and pages of copies use them) and end when nobody needs them. A reader takes the
//! next key of one queue until that is empty. One begins, and where the disk turns out to be slow, more
//! join it at the next tick: so slow keys hold up no other for longer than that.
//!
//! # Why keys go to and fro in bundles
//!
//! Mostly the system has the record in its memory, and waking a thread takes longer than reading. So
//! keys are handed over when the core has worked off all that was ready, and told of when the
//! queue is empty, or every [`TELL_AFTER`]; at the next tick, where a slow key came next. What
//! becomes ready together shares a round, too.
//!
//! # What may overtake what
//!
//! Requests of clients may overtake one another: while none of two is answered they are concurrent.
//! Entries never wait here, neither do acknowledgements of them: a coordinator sends its rounds in
//! appends of their own, without entries, and only the *answer* to a round waits.
//!
//! # Why a round may be answered late
//!
//! A round's answer says two things.
//!
//! 1. *This member had promised nobody else when the round was asked*: so no later coordinator can
//!    have been active when the round began, and nothing that the round does not know of was
//!    answered to anybody before. That was true when the core let the answer go, and stays true.
//! 2. *This is what the member holds as of the round's committed version.* What was applied since
//!    is newer than the round; a newer record confirms, whoever ordered it, because it was
//!    committed after the round began (design §5). But for two things the digests speak of that
//!    moment however late they are made: a tombstone that was written *and dropped* since looks
//!    like an absence, and a copy of another history is another state. Where tombstones newer than
//!    the round were dropped the answer carries no digests; where the history is another one it
//!    is declined.
//!
//! By the first, an answer under an old promise would be sound. It is declined all the same: the
//! old coordinator learns sooner that it is none.
//!
//! # Where a read still blocks
//!
//! What is read for a request may be evicted again, changed, or fed to the engine, before the core
//! gets there. Then the core's thread reads it, as it would have without all this: rarely, and of
//! a record that the system has had in its hands a moment ago. So it is with a damaged record,
//! which is never kept in memory.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use quorate_protocol::ids::History;
use quorate_protocol::record::{Digest, Key, Record};
use quorate_protocol::rpc::Declined;
use quorate_protocol::rpc::replica::{Appended, Fetch, ReplicaResponse};
use quorate_protocol::rpc::store::{
    ChangeReply, Command, Level, ReadReply, Refused, StoreRequest, StoreResponse,
};
use quorate_protocol::settings::Divergence;
use quorate_protocol::time::{Millis, Moment};
use quorate_protocol::transport::Responder;
use quorate_protocol::version::{Promise, Version};

use super::Shell;
use super::inbox::{Inbox, Input};
use super::serve::Client;
use crate::core::effect::Reply;
use crate::core::event::Caller;
use crate::state::{LayeredState, StateError, Wanted};

/// How many threads read at once; more keys wait.
const READERS_MAX: usize = 8;
/// How many of them begin. Mostly the system has what is read in its memory, and waking more threads
/// takes longer than the reading; the others come where keys still wait at the next tick.
const READERS_FIRST: usize = 1;
/// A reader that goes on reading tells of what it has read after this time, and after so many keys.
const TELL_AFTER: Duration = Duration::from_micros(200);
const TELL_KEYS_MAX: usize = 64;
/// How many requests may wait for the disk, and as many keys. Past that clients are told that the
/// node is busy, a coordinator that fetches is told to come again, and a repair is left to the next
/// round.
const REQUESTS_MAX: usize = 16_384;
/// How many rounds may wait for the disk; past that the oldest is answered without its digests.
/// Well below the appends that a coordinator has in flight, so that entries go on.
const ROUNDS_MAX: usize = 8;
/// How many keys of rounds may wait to be read, those included whose round was answered without
/// them; past that a round is answered without its digests at once.
const ROUND_KEYS_MAX: usize = 16_384;
/// How long the end of a node waits for what is being read.
const READERS_END_WAIT: Duration = Duration::from_secs(5);
/// How long a round waits at the most, before it is answered without its digests: a coordinator
/// that still wants them has asked again by then, and one that waits for no answer goes on.
const ROUND_WAIT: Millis = Millis(150);

/// What waits for the disk, and for which keys.
pub(super) struct Prefetch {
    requests: Line<Late>,
    rounds: Line<LateRound>,
    readers: Readers,
}

/// Something that reads the state.
enum Late {
    Store(StoreRequest, Client),
    Fetch(Fetch, Responder<ReplicaResponse>),
    Repair(LateRepair),
}

/// A repair, with the promise it was ordered under.
pub(super) struct LateRepair {
    pub(super) key: Key,
    pub(super) found: Digest,
    pub(super) record: Option<Record>,
    pub(super) committed: Version,
    pub(super) promised: Promise,
}

/// The answer to a round but for its digests.
pub(super) struct LateRound {
    pub(super) caller: Caller,
    pub(super) reply: Appended,
    pub(super) keys: Vec<Key>,
    pub(super) committed: Version,
    /// What held when the core let it go.
    pub(super) promised: Promise,
    pub(super) history: History,
    pub(super) since: Moment,
}

impl LateRound {
    fn number(&self) -> Option<u64> {
        let Appended::Held { round, .. } = &self.reply else { return None };
        round.as_ref().map(|round| round.number)
    }

    /// The acknowledgement alone. A coordinator that needs the digests asks again.
    fn without_digests(self) -> (Caller, Reply) {
        let reply = match self.reply {
            Appended::Held { last, durable_applied, room, .. } => {
                Appended::Held { last, durable_applied, round: None, room }
            }
            other => other,
        };
        (self.caller, Reply::Appended(reply))
    }
}

impl Prefetch {
    pub(super) fn new(state: LayeredState, inbox: Inbox) -> Self {
        let readers = Readers { taken: Vec::new(), desk: Arc::default(), state, inbox };
        Self { requests: Line::default(), rounds: Line::default(), readers }
    }

    /// Whether no more requests may wait.
    fn is_full(&self) -> bool {
        self.requests.len().max(self.requests.keys()) >= REQUESTS_MAX
    }
}

/// Which key a client's request reads on the core's thread.
fn reads(request: &StoreRequest) -> Option<&Key> {
    match request {
        StoreRequest::Read { read } => Some(&read.key),
        StoreRequest::Change { change } => match &change.command {
            Command::Delete { key } => Some(key),
            Command::Write { .. } => None,
        },
        _ => None,
    }
}

impl Shell {
    /// A client's request: at once, or when what it reads is in memory.
    pub(super) fn take_store(&mut self, request: StoreRequest, client: Client) {
        let key = reads(&request).map(std::slice::from_ref);
        let lacking = key.map(|key| self.state.lacking(key)).unwrap_or_default();
        if lacking.is_empty() || !self.reads_here(&request) {
            return self.serve_store(request, client);
        }
        if self.prefetch.is_full() {
            return client.send(match request {
                StoreRequest::Read { .. } => StoreResponse::Read(ReadReply::Refused(Refused::Busy)),
                _ => StoreResponse::Change(ChangeReply::Refused(Refused::Busy)),
            });
        }
        self.hold(lacking, Late::Store(request, client));
    }

    /// Whether the request is not for another node.
    fn reads_here(&self, request: &StoreRequest) -> bool {
        let weak = matches!(request, StoreRequest::Read { read } if read.level == Level::Weak);
        weak || self.not_here().is_none()
    }

    /// A coordinator wants records: at once, or when they are in memory.
    pub(super) fn take_fetch(&mut self, fetch: Fetch, responder: Responder<ReplicaResponse>) {
        let lacking = self.state.lacking(&fetch.keys);
        if lacking.is_empty() {
            return responder.send(ReplicaResponse::Fetch(self.fetch(&fetch)));
        }
        if self.prefetch.is_full() {
            return responder.send(ReplicaResponse::Fetch(Err(Declined::NotReady)));
        }
        self.hold(lacking, Late::Fetch(fetch, responder));
    }

    /// The core has a record repaired: at once, or when ours is in memory.
    pub(super) fn take_repair(&mut self, repair: LateRepair) {
        let lacking = self.state.lacking(std::slice::from_ref(&repair.key));
        if lacking.is_empty() {
            self.repair(repair);
        } else if !self.prefetch.is_full() {
            self.hold(lacking, Late::Repair(repair));
        }
    }

    /// The core has a round answered: at once, or when what it asks for is in memory.
    pub(super) fn take_round(&mut self, round: LateRound) {
        let exact = self.tells_of_records();
        if !exact && let Some(digests) = self.state.digests(&round.keys, round.committed) {
            return self.answer_round(round, Some(digests));
        }
        let (lacking, wanted) = if exact {
            (self.state.lacking(&round.keys), Wanted::Record)
        } else {
            (self.state.lacking_digests(&round.keys, round.committed), Wanted::Digest)
        };
        if lacking.is_empty() {
            return self.answer_round(round, None);
        }
        // Asked again: the later answer will do for both.
        let (promised, number) = (round.promised, round.number());
        let same = |held: &LateRound| held.promised == promised && held.number() == number;
        for earlier in self.prefetch.rounds.release(same) {
            self.answer_without_digests(earlier);
        }
        while self.prefetch.rounds.len() >= ROUNDS_MAX
            && let Some(oldest) = self.prefetch.rounds.release_oldest()
        {
            self.answer_without_digests(oldest);
        }
        if self.prefetch.rounds.keys() >= ROUND_KEYS_MAX {
            return self.answer_without_digests(round);
        }
        let keys = self.prefetch.rounds.hold(lacking, round);
        self.prefetch.readers.take(keys, wanted);
    }

    /// Whether digests in memory will not do, where the records themselves are not there: one that is
    /// another key's looks like a difference, by which nothing must be deleted.
    fn tells_of_records(&self) -> bool {
        self.node.settings().divergence == Divergence::Delete
    }

    fn hold(&mut self, lacking: Vec<Key>, late: Late) {
        let keys = self.prefetch.requests.hold(lacking, late);
        self.prefetch.readers.take(keys, Wanted::Record);
    }

    /// All that was ready is worked off: what it lacks is read.
    pub(super) fn read_lacking(&mut self) {
        self.prefetch.readers.read();
    }

    /// Keys were read: what waited for nothing else goes on.
    pub(super) fn were_read(&mut self, keys: &[Key]) {
        keys.iter().for_each(|key| self.was_read(key));
    }

    fn was_read(&mut self, key: &Key) {
        for late in self.prefetch.requests.read(key) {
            match late {
                Late::Store(request, client) => self.serve_store(request, client),
                Late::Fetch(fetch, responder) => {
                    responder.send(ReplicaResponse::Fetch(self.fetch(&fetch)));
                }
                Late::Repair(repair) => self.repair(repair),
            }
        }
        for round in self.prefetch.rounds.read(key) {
            self.answer_round(round, None);
        }
    }

    /// Time has passed: more readers come where keys still wait, and rounds that waited too long go.
    pub(super) fn tick_prefetch(&mut self) {
        self.prefetch.readers.start(READERS_MAX);
        let read = self.prefetch.readers.desk.untold();
        self.were_read(&read);
        let now = self.now();
        for round in self.prefetch.rounds.release(|round| now >= round.since + ROUND_WAIT) {
            self.answer_without_digests(round);
        }
    }

    /// Lets go of requests that nobody waits for any more: the disk took too long.
    pub(super) fn expire_requests(&mut self) {
        let instant = tokio::time::Instant::now().into_std();
        drop(self.prefetch.requests.release(|late| match late {
            Late::Store(_, client) => client.deadline() <= instant,
            Late::Fetch(_, responder) => responder.deadline() <= instant,
            Late::Repair(_) => false,
        }));
    }

    fn answer_without_digests(&mut self, round: LateRound) {
        let (caller, reply) = round.without_digests();
        self.reply(caller, reply);
    }

    /// Answers with these digests, or with what they are by now.
    fn answer_round(&mut self, mut round: LateRound, known: Option<Vec<Digest>>) {
        let replica = self.node.replica();
        let (mine, promised) = (replica.history(), replica.promised());
        let declined = if mine != round.history {
            Some(Declined::OtherHistory { mine })
        } else if promised != round.promised {
            Some(Declined::Fenced { promised })
        } else {
            None
        };
        if let Some(declined) = declined {
            return self.reply(round.caller, Reply::Appended(Appended::Declined(declined)));
        }
        if self.state.swept() > round.committed {
            return self.answer_without_digests(round);
        }
        let exact = self.tells_of_records();
        let digest = |key: &Key| {
            if exact {
                self.state.digest_of_record(key, round.committed)
            } else {
                self.state.digest(key, round.committed)
            }
        };
        let all = || round.keys.iter().map(digest).collect::<Result<Vec<_>, StateError>>();
        match known.map_or_else(all, Ok) {
            Ok(digests) => {
                if let Appended::Held { round: Some(answer), .. } = &mut round.reply {
                    answer.digests = digests;
                }
                self.reply(round.caller, Reply::Appended(round.reply));
            }
            Err(error) => {
                tracing::error!(%error, "the state cannot be read");
                self.answer_without_digests(round);
            }
        }
    }

    fn repair(&mut self, repair: LateRepair) {
        let LateRepair { key, found, record, committed, promised } = repair;
        if promised != self.node.replica().promised() {
            // What its coordinator found the next one finds again.
            return;
        }
        match self.state.repair(&key, found, record, committed) {
            Ok(true) => {
                self.repairs += 1;
                tracing::warn!(%key, "a record differed from the majority's; replaced");
            }
            Ok(false) => {}
            Err(error) => tracing::error!(%key, %error, "a record cannot be repaired"),
        }
    }
}

/// Things in a line, each waiting for some keys.
struct Line<T> {
    /// Who waits for a key that is being read.
    wanted: BTreeMap<Key, Vec<u64>>,
    /// What waits, oldest first, and for how many keys still.
    held: BTreeMap<u64, (usize, T)>,
    next: u64,
}

impl<T> Default for Line<T> {
    fn default() -> Self {
        Self { wanted: BTreeMap::new(), held: BTreeMap::new(), next: 0 }
    }
}

impl<T> Line<T> {
    fn len(&self) -> usize {
        self.held.len()
    }

    /// How many keys are to be read, also those that nothing waits for any more.
    fn keys(&self) -> usize {
        self.wanted.len()
    }

    /// Takes something in line. Gives back the keys that nothing waited for before.
    fn hold(&mut self, keys: Vec<Key>, what: T) -> Vec<Key> {
        let number = self.next;
        self.next += 1;
        self.held.insert(number, (keys.len(), what));
        let mut fresh = Vec::new();
        for key in keys {
            let waiting = self.wanted.entry(key.clone()).or_default();
            if waiting.is_empty() {
                fresh.push(key);
            }
            waiting.push(number);
        }
        fresh
    }

    /// A key is here: takes out what waits for nothing more.
    fn read(&mut self, key: &Key) -> Vec<T> {
        let mut ready = Vec::new();
        for number in self.wanted.remove(key).unwrap_or_default() {
            let Some((missing, _)) = self.held.get_mut(&number) else { continue };
            *missing -= 1;
            if *missing == 0 {
                ready.extend(self.held.remove(&number).map(|(_, what)| what));
            }
        }
        ready
    }

    /// Takes out what need not wait any more, whatever it waits for.
    fn release(&mut self, may_go: impl Fn(&T) -> bool) -> Vec<T> {
        let going = self.held.iter().filter(|(_, (_, what))| may_go(what));
        let going: Vec<_> = going.map(|(number, _)| *number).collect();
        going.iter().filter_map(|number| self.held.remove(number)).map(|(_, what)| what).collect()
    }

    fn release_oldest(&mut self) -> Option<T> {
        self.held.pop_first().map(|(_, (_, what))| what)
    }
}

/// The threads that wait for the disk.
struct Readers {
    /// For the desk, as soon as the core has nothing else to do.
    taken: Vec<(Key, Wanted)>,
    desk: Arc<Desk>,
    state: LayeredState,
    inbox: Inbox,
}

/// Where readers get their keys.
#[derive(Default)]
struct Desk {
    queue: Mutex<Queue>,
    ended: Condvar,
}

/// Bounded as the keys of the two lines are.
#[derive(Default)]
struct Queue {
    keys: VecDeque<(Key, Wanted)>,
    /// What was read, and not told of. At most [`TELL_KEYS_MAX`].
    read: Vec<Key>,
    /// How many threads take keys; each goes on until there is none left.
    readers: usize,
    /// How many threads have not let go of the state yet.
    alive: usize,
}

impl Desk {
    /// Nothing under this lock panics.
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A reader has read a key, and takes the next; with none it ends. Gives back what is to be told
    /// of by now: all that was read, where the reader has been at it `long` enough.
    fn turn(&self, was_read: Option<Key>, long: bool) -> (Option<(Key, Wanted)>, Vec<Key>) {
        let mut queue = self.lock();
        queue.read.extend(was_read);
        let key = queue.keys.pop_front();
        if key.is_none() {
            queue.readers -= 1;
        }
        let due = long || key.is_none() || queue.read.len() >= TELL_KEYS_MAX;
        let told = if due { std::mem::take(&mut queue.read) } else { Vec::new() };
        (key, told)
    }

    /// What was read and not told of: the reader may be at a slow key by now.
    fn untold(&self) -> Vec<Key> {
        std::mem::take(&mut self.lock().read)
    }

    fn leave(&self) {
        self.lock().alive -= 1;
        self.ended.notify_all();
    }
}

impl Readers {
    fn take(&mut self, keys: Vec<Key>, wanted: Wanted) {
        self.taken.extend(keys.into_iter().map(|key| (key, wanted)));
    }

    /// Has read what was taken.
    fn read(&mut self) {
        if !self.taken.is_empty() {
            self.desk.lock().keys.extend(self.taken.drain(..));
            self.start(READERS_FIRST);
        }
    }

    /// Starts readers for the keys that wait, until there are so many.
    fn start(&self, readers_max: usize) {
        let mut queue = self.desk.lock();
        let more = readers_max.saturating_sub(queue.readers).min(queue.keys.len());
        queue.readers += more;
        queue.alive += more;
        drop(queue);
        for _ in 0..more {
            let desk = Arc::clone(&self.desk);
            let (state, inbox) = (self.state.clone(), self.inbox.clone());
            tokio::task::spawn_blocking(move || {
                read_all(&desk, &state, &inbox);
                drop(state);
                desk.leave();
            });
        }
    }
}

/// Reads keys until there are none left, and tells of them.
fn read_all(desk: &Desk, state: &LayeredState, inbox: &Inbox) {
    let (mut was_read, mut since) = (None, Instant::now());
    loop {
        let long = since.elapsed() >= TELL_AFTER;
        let (next, told) = desk.turn(was_read.take(), long);
        if !told.is_empty() {
            inbox.put(Input::Read(told));
            since = Instant::now();
        }
        let Some((key, wanted)) = next else { break };
        state.prefetch(&key, wanted);
        was_read = Some(key);
    }
}

impl Drop for Readers {
    /// The node ends, and may open its state anew right away: nobody must have it open then.
    fn drop(&mut self) {
        let mut queue = self.desk.lock();
        queue.keys.clear();
        let alive = |queue: &mut Queue| queue.alive > 0;
        drop(self.desk.ended.wait_timeout_while(queue, READERS_END_WAIT, alive));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(n: u32) -> Key {
        Key::from(n.to_string())
    }

    #[test]
    fn what_waits_for_several_keys_goes_with_the_last() {
        let mut line = Line::default();
        assert_eq!(line.hold(vec![key(1), key(2)], "both"), [key(1), key(2)]);
        assert_eq!(line.hold(vec![key(2), key(3)], "other"), [key(3)], "2 is being read");
        assert_eq!(line.hold(vec![key(3), key(3)], "twice"), [] as [Key; 0]);
        assert_eq!(line.read(&key(2)), [] as [&str; 0]);
        assert_eq!(line.read(&key(3)), ["other", "twice"]);
        assert_eq!(line.hold(vec![key(3)], "later"), [key(3)], "it may be gone again");
        assert_eq!(line.read(&key(1)), ["both"]);
        assert_eq!(line.read(&key(3)), ["later"]);
        assert!(line.held.is_empty() && line.wanted.is_empty());
    }

    #[test]
    fn what_is_read_is_told_of_together_and_no_slow_key_holds_it_up() {
        let desk = Desk::default();
        let next = |n| Some((key(n), Wanted::Record));
        desk.lock().readers = 1;
        desk.lock().keys.extend((0..5).map(|n| (key(n), Wanted::Record)));
        assert_eq!(desk.turn(None, false), (next(0), vec![]));
        assert_eq!(desk.turn(Some(key(0)), false), (next(1), vec![]));
        assert_eq!(desk.turn(Some(key(1)), true), (next(2), vec![key(0), key(1)]), "in time");
        assert_eq!(desk.turn(Some(key(2)), false), (next(3), vec![]));
        assert_eq!(desk.untold(), [key(2)], "the tick has it, whatever the next key takes");
        assert_eq!(desk.turn(Some(key(3)), false), (next(4), vec![]));
        assert_eq!(desk.turn(Some(key(4)), false), (None, vec![key(3), key(4)]), "the last");
        assert_eq!(desk.lock().readers, 0);
        assert_eq!(desk.untold(), []);

        desk.lock().readers = 1;
        let keys = (0..=TELL_KEYS_MAX as u32).map(|n| (key(n), Wanted::Record));
        desk.lock().keys.extend(keys);
        let (mut was_read, mut told) = (None, Vec::new());
        while told.is_empty() {
            let (next, read) = desk.turn(was_read, false);
            (was_read, told) = (next.map(|(key, _)| key), read);
        }
        assert_eq!((told.len(), was_read.is_some()), (TELL_KEYS_MAX, true), "bounded");
    }

    #[test]
    fn what_was_let_go_is_not_waited_for() {
        let mut line = Line::default();
        let _ = line.hold(vec![key(1)], 1);
        let _ = line.hold(vec![key(1), key(2)], 2);
        let _ = line.hold(vec![key(1)], 3);
        assert_eq!(line.release(|what| *what == 3), [3]);
        assert_eq!(line.release_oldest(), Some(1));
        assert_eq!((line.len(), line.keys()), (1, 2), "the keys are read all the same");
        assert_eq!(line.read(&key(1)), [] as [i32; 0]);
        assert_eq!(line.read(&key(2)), [2]);
        assert_eq!((line.len(), line.keys()), (0, 0));
    }
}
