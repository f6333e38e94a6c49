//! Who waits for the disk, so that the core does not (design §7).
//!
//! A record that only the state's engine has may take long to read. So before anything is handed
//! to a core, or asked of the state on the core's thread, its keys are looked for in memory. Where
//! one is missing the request waits here, the record is brought into memory, and the request is
//! handed on as if it had just come. A client's read in a round waits in the core instead: the members
//! are asked while our own record is read ([`Prefetch::is_coming`] says how long). Who reads is told
//! in `readers.rs`: threads, and the core's own where it has nothing else to do and the system most
//! likely has the record in its memory. Whatever is in ours passes at once: of a round the digests,
//! which stay there longer than the records they are of (`state/digests.rs`).
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
//! Where the core's thread has nothing else to do and reads a record that the system turns out not to
//! have in its memory: `readers.rs` tells what that may cost others.
//!
//! And what is read for a request may be evicted again, changed, or fed to the engine, before the core
//! gets there. Then the core's thread reads it, as it would have without all this: rarely, and of
//! a record that the system has had in its hands a moment ago. So it is with a damaged record,
//! which is never kept in memory.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

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
use super::inbox::Inbox;
use super::readers::Readers;
use super::serve::Client;
use crate::core::effect::Reply;
use crate::core::event::Caller;
use crate::state::{LayeredState, StateError, Wanted};

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
/// How long a round waits at the most, before it is answered without its digests: a coordinator
/// that still wants them has asked again by then, and one that waits for no answer goes on.
const ROUND_WAIT: Millis = Millis(150);

/// What waits for the disk, and for which keys.
pub(super) struct Prefetch {
    requests: Line<Late>,
    /// Keys that were read in this turn. They are here, even where they are asked for again and
    /// nothing keeps them in memory: else whoever waits for them could wait for ever.
    came: BTreeSet<Key>,
    rounds: Line<LateRound>,
    readers: Readers,
}

/// Something that reads the state.
enum Late {
    Store(StoreRequest, Client),
    /// A client's read, which the core has already, and until when somebody waits for it.
    Read(Instant),
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
        let readers = Readers::new(state, inbox);
        Self { requests: Line::default(), came: BTreeSet::new(), rounds: Line::default(), readers }
    }

    /// Whether a record is being read for some request, and was not in this turn.
    pub(super) fn is_coming(&self, key: &Key) -> bool {
        self.requests.wants(key) && !self.came.contains(key)
    }

    /// A key was read: gives back the requests that wait for nothing else.
    fn take_read(&mut self, key: &Key) -> Vec<Late> {
        self.came.insert(key.clone());
        self.requests.read(key)
    }

    /// The turn is over: what it lacks is read.
    fn end_turn(&mut self) {
        self.came.clear();
        self.readers.read();
    }

    /// Whether the core's thread may read something, if it has nothing else to do.
    pub(super) fn wants_a_hand(&self) -> bool {
        self.readers.want_a_hand()
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
        match &request {
            StoreRequest::Read { read } if read.level != Level::Weak => {
                self.hold(lacking, Late::Read(client.deadline()));
                self.serve_store(request, client);
            }
            _ => self.hold(lacking, Late::Store(request, client)),
        }
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
        self.prefetch.end_turn();
    }

    /// Nothing else is ready: the core's thread reads some of it itself.
    pub(super) fn lend_a_hand(&mut self) {
        let read = self.prefetch.readers.lend_a_hand();
        self.were_read(&read);
    }

    /// Keys were read: what waited for nothing else goes on.
    pub(super) fn were_read(&mut self, keys: &[Key]) {
        keys.iter().for_each(|key| self.was_read(key));
    }

    fn was_read(&mut self, key: &Key) {
        for late in self.prefetch.take_read(key) {
            match late {
                Late::Store(request, client) => self.serve_store(request, client),
                // The round looks for its record when all that is ready is worked off.
                Late::Read(_) => {}
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
        let read = self.prefetch.readers.tick();
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
            Late::Read(deadline) => *deadline <= instant,
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

    /// Whether a key is being read.
    fn wants(&self, key: &Key) -> bool {
        self.wanted.contains_key(key)
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use std::sync::Arc;

    use super::*;
    use crate::state::{Limits, MemoryState};

    fn key(n: u32) -> Key {
        Key::from(n.to_string())
    }

    /// Else a round of a record that nothing keeps, a damaged one, waits as long as it is asked for.
    #[test]
    fn what_came_is_here_for_a_turn_though_it_is_asked_for_again() {
        let engine = Arc::new(MemoryState::new(History(0)));
        let state = LayeredState::new(engine, Limits::default(), 1, |_| {}).unwrap();
        let mut prefetch = Prefetch::new(state, Inbox::new().0);
        let read = || Late::Read(Instant::now());
        let _ = prefetch.requests.hold(vec![key(1), key(2)], read());
        assert!(prefetch.is_coming(&key(1)) && prefetch.is_coming(&key(2)));
        assert_eq!(prefetch.take_read(&key(1)).len(), 0, "it waits for the other too");
        assert_eq!(prefetch.requests.hold(vec![key(1)], read()), [key(1)]);
        assert!(!prefetch.is_coming(&key(1)) && prefetch.is_coming(&key(2)));
        prefetch.end_turn();
        assert!(prefetch.is_coming(&key(1)), "for those who came later");
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
