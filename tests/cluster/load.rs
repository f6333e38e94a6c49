//! Clients that keep a book of everything they were told.
//!
//! Each key has one writer, which goes on to its next change only when the last one is decided: a
//! change whose outcome is unknown is asked for again under its token until it is known. So the
//! changes of a key have one order, and for every read, by anyone, at any time, the book knows
//! what it may answer: what the last change decided before the read began left behind, or any
//! later change begun before the read ended, but nothing older than what an earlier read saw.
//! That is linearizability of one key with one writer, exactly.
//!
//! Half of the changes overwrite and delete a few keys; the others write numbered keys that nobody
//! touches again, so that nothing lost is ever covered up.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::{Duration, Instant};

use quorate_client::{ChangeOptions, Changed, Client, Error, ReadOptions, Reading, Token, Version};
use quorate_protocol::record::Value;
use tokio::task::JoinHandle;

use crate::process::PATIENCE;

const WRITERS: usize = 4;
const READERS: usize = 2;
/// How many keys each writer overwrites.
const KEYS_EACH: usize = 6;
/// How many reads are under way at once when everything is checked.
const CHECKS_AT_ONCE: usize = 32;
/// How many keys make a sample, about.
const SAMPLE: usize = 60;

/// One change of one key.
#[derive(Clone, Debug)]
struct Op {
    /// What it leaves behind; `None` deletes.
    value: Option<Value>,
    outcome: Outcome,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    /// Under way, or not known yet.
    Open,
    Applied(Version),
    /// Certainly not.
    Never,
}

/// What happened to one key, oldest first.
#[derive(Clone, Debug, Default)]
struct History {
    ops: Vec<Op>,
    /// What a finished read saw: reads that begin later see this or something newer. Counts one
    /// more than the place in `ops`; zero is the absence before everything.
    seen: usize,
}

impl History {
    /// What a read that begins now sees at the least, counted like `seen`.
    fn floor(&self) -> usize {
        let applied = self.ops.iter().rposition(|op| matches!(op.outcome, Outcome::Applied(_)));
        applied.map_or(0, |at| at + 1).max(self.seen)
    }

    /// Which change a read that began at `floor` and ends now has seen.
    fn place(&self, floor: usize, reading: &Reading) -> Option<usize> {
        let fits = |place: usize| {
            let Some(at) = place.checked_sub(1) else { return reading.value.is_none() };
            let op = &self.ops[at];
            let version = match op.outcome {
                Outcome::Applied(version) => reading.value.is_none() || version == reading.version,
                Outcome::Open => true,
                Outcome::Never => false,
            };
            version && op.value == reading.value
        };
        (floor..=self.ops.len()).find(|place| fits(*place))
    }

    /// What is there, where nothing is open.
    fn holds(&self) -> Option<&Value> {
        self.floor().checked_sub(1).and_then(|at| self.ops[at].value.as_ref())
    }
}

/// Everything everyone was told.
#[derive(Debug, Default)]
struct Book {
    keys: BTreeMap<String, History>,
    /// When each change was acknowledged.
    acknowledged: Vec<Instant>,
    /// Requests that ended in an error, decided or not.
    errors: Vec<String>,
}

/// A load that runs until it is finished.
pub(crate) struct Load {
    book: Rc<RefCell<Book>>,
    client: Client,
    stop: Rc<Cell<bool>>,
    workers: Vec<JoinHandle<()>>,
}

impl Load {
    /// Starts writing and reading. A request gives up after `patience`, and is then asked for
    /// again or noted as an error.
    pub(crate) fn start(client: Client, patience: Duration) -> Self {
        let book = Rc::new(RefCell::new(Book::default()));
        let stop = Rc::new(Cell::new(false));
        let worker = || Worker {
            book: Rc::clone(&book),
            client: client.clone(),
            stop: Rc::clone(&stop),
            patience,
        };
        let writers = (0..WRITERS).map(|n| tokio::task::spawn_local(worker().write(n)));
        let readers = (0..READERS).map(|n| tokio::task::spawn_local(worker().read(n)));
        let workers = writers.chain(readers).collect();
        Self { book, client, stop, workers }
    }

    /// How many changes were acknowledged so far.
    pub(crate) fn acknowledged(&self) -> usize {
        self.book.borrow().acknowledged.len()
    }

    /// Waits until `more` changes were acknowledged from now on.
    pub(crate) async fn goes_on(&self, more: usize) {
        let wanted = self.acknowledged() + more;
        crate::process::until(&format!("{more} more changes are acknowledged"), async || {
            self.check_workers();
            let now = self.acknowledged();
            if now >= wanted { Ok(()) } else { Err(format!("{now} of {wanted}")) }
        })
        .await;
    }

    /// Some of the numbered keys that are there for good, oldest and newest among them.
    pub(crate) fn numbered(&self) -> BTreeMap<String, Option<Value>> {
        let book = self.book.borrow();
        let settled = book.keys.iter().filter(|(key, history)| {
            key.starts_with('n')
                && matches!(history.ops[..], [Op { outcome: Outcome::Applied(_), .. }])
        });
        let all: Vec<_> = settled.collect();
        let every = (all.len() / SAMPLE).max(1);
        let some = all.into_iter().step_by(every);
        some.map(|(key, history)| (key.clone(), history.holds().cloned())).collect()
    }

    /// The requests that ended in an error.
    pub(crate) fn errors(&self) -> Vec<String> {
        self.book.borrow().errors.clone()
    }

    /// The longest time without an acknowledged change since `from`.
    pub(crate) fn longest_gap(&self, from: Instant) -> Duration {
        let book = self.book.borrow();
        let after = book.acknowledged.iter().copied().filter(|at| *at >= from);
        let times: Vec<_> = std::iter::once(from).chain(after).collect();
        times.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or_default()
    }

    /// Reads every key there ever was, from a majority, and holds the answers against the book.
    pub(crate) async fn everything_is_there(&self) {
        self.check_workers();
        let keys: Vec<_> = self.book.borrow().keys.keys().cloned().collect();
        assert!(!keys.is_empty());
        let checker = Worker {
            book: Rc::clone(&self.book),
            client: self.client.clone(),
            stop: Rc::clone(&self.stop),
            patience: PATIENCE,
        };
        let checks = (0..CHECKS_AT_ONCE).map(|n| {
            let (checker, keys) = (checker.clone(), keys.clone());
            tokio::task::spawn_local(async move {
                for key in keys.iter().skip(n).step_by(CHECKS_AT_ONCE) {
                    checker.check(key).await.unwrap();
                }
            })
        });
        for check in checks.collect::<Vec<_>>() {
            check.await.unwrap();
        }
    }

    /// Stops, once everything is decided, and checks everything. Gives what every key holds.
    pub(crate) async fn finish(mut self) -> BTreeMap<String, Option<Value>> {
        self.stop.set(true);
        for worker in self.workers.drain(..) {
            tokio::time::timeout(PATIENCE, worker).await.expect("every change is decided").unwrap();
        }
        self.everything_is_there().await;
        let book = self.book.borrow();
        book.keys.iter().map(|(key, history)| (key.clone(), history.holds().cloned())).collect()
    }

    /// The same; and no request ended in an error.
    pub(crate) async fn finish_without_error(self) -> BTreeMap<String, Option<Value>> {
        assert_eq!(self.errors(), [""; 0], "no client met an error");
        self.finish().await
    }

    /// A worker that ended found something wrong.
    fn check_workers(&self) {
        let ended = self.workers.iter().any(JoinHandle::is_finished);
        assert!(self.stop.get() || !ended, "a client of the load met something impossible");
    }
}

/// One client of the load.
#[derive(Clone)]
struct Worker {
    book: Rc<RefCell<Book>>,
    client: Client,
    stop: Rc<Cell<bool>>,
    patience: Duration,
}

impl Worker {
    async fn write(self, me: usize) {
        let mut n = 0;
        while !self.stop.get() {
            n += 1;
            let numbered = format!("n{me}-{n}");
            self.change(&numbered, Some(numbered.as_str().into())).await;
            let reused = format!("k{me}-{}", n % KEYS_EACH);
            let value = (n % 4 != 3).then(|| format!("{reused} for the {n}th time").into());
            self.change(&reused, value).await;
            if n % 3 == 0 {
                self.note(self.check(&reused).await);
            }
        }
    }

    async fn read(self, me: usize) {
        let mut n = me;
        while !self.stop.get() {
            n += 1;
            let key = format!("k{}-{}", n % WRITERS, n / WRITERS % KEYS_EACH);
            self.note(self.check(&key).await);
        }
    }

    fn note<T>(&self, outcome: Result<T, Error>) {
        if let Err(error) = outcome {
            self.book.borrow_mut().errors.push(error.to_string());
        }
    }

    /// Changes a key, and asks again for as long as it is not known whether it was done.
    async fn change(&self, key: &str, value: Option<Value>) {
        let (at, found) = {
            let mut book = self.book.borrow_mut();
            let history = book.keys.entry(key.to_owned()).or_default();
            let found = value.is_some() || history.holds().is_some();
            history.ops.push(Op { value: value.clone(), outcome: Outcome::Open });
            (history.ops.len() - 1, found)
        };
        let mut options = ChangeOptions::default().deadline(self.patience);
        let outcome = loop {
            match self.send(key, value.clone(), options).await {
                Ok(changed) => {
                    assert_eq!(changed.found, found, "what was there before {changed:?} of {key}");
                    break Outcome::Applied(changed.version);
                }
                Err(Error::Unavailable { why }) => {
                    self.book.borrow_mut().errors.push(format!("unavailable: {why}"));
                    break Outcome::Never;
                }
                Err(Error::Unknown { token, why }) => {
                    self.book.borrow_mut().errors.push(format!("unknown: {why}"));
                    options = options.again(token);
                }
                Err(error @ (Error::Refused(_) | Error::Expired { .. })) => {
                    panic!("{key}: {error}");
                }
            }
        };
        let mut book = self.book.borrow_mut();
        let history = book.keys.get_mut(key).unwrap();
        history.ops[at].outcome = outcome;
        if outcome == Outcome::Never {
            assert!(history.seen <= at, "{key} was read after a change that was never made");
        } else {
            book.acknowledged.push(Instant::now());
        }
    }

    async fn send(
        &self,
        key: &str,
        value: Option<Value>,
        options: ChangeOptions,
    ) -> Result<Changed, Error> {
        match value {
            Some(value) => self.client.write_with(key, value, options).await,
            None => self.client.delete_with(key, options).await,
        }
    }

    /// Reads a key from a majority; panics where the answer is one that must not be.
    async fn check(&self, key: &str) -> Result<(), Error> {
        let floor = self.book.borrow().keys.get(key).map_or(0, History::floor);
        let options = ReadOptions::default().deadline(self.patience);
        let reading = self.client.read_with(key, options).await?;
        let mut book = self.book.borrow_mut();
        let history = book.keys.entry(key.to_owned()).or_default();
        let Some(place) = history.place(floor, &reading) else {
            let may = &history.ops[floor.saturating_sub(1)..];
            panic!("{key} was read as {reading:?}; it may be (from {floor}) {may:?}");
        };
        history.seen = history.seen.max(place);
        Ok(())
    }
}

/// A token, for requests that are named by hand.
pub(crate) async fn token(client: &Client) -> Token {
    client.token(PATIENCE).await.unwrap()
}

/// The book itself: what it takes for true and what not.
mod the_book {
    use quorate_protocol::ids::NodeId;

    use super::*;

    fn op(value: Option<&str>, outcome: Outcome) -> Op {
        Op { value: value.map(Value::from), outcome }
    }

    fn applied(index: u64) -> Outcome {
        Outcome::Applied(Version::new(1, index))
    }

    fn reading(value: Option<&str>, index: u64) -> Reading {
        let version = if value.is_some() { Version::new(1, index) } else { Version::ZERO };
        let (by, applied) = (NodeId(1), version);
        Reading { value: value.map(Value::from), version, applied, by, heard_ms_ago: None }
    }

    #[test]
    fn accepts_what_may_be_and_nothing_else() {
        let mut history = History::default();
        assert_eq!((history.floor(), history.place(0, &reading(None, 0))), (0, Some(0)));
        assert_eq!(history.place(0, &reading(Some("a"), 2)), None, "nobody wrote that");
        history.ops.push(op(Some("a"), applied(2)));
        history.ops.push(op(Some("b"), Outcome::Never));
        history.ops.push(op(Some("c"), Outcome::Open));
        assert_eq!((history.floor(), history.holds()), (1, Some(&"a".into())));
        assert_eq!(history.place(1, &reading(None, 0)), None, "an acknowledged write is lost");
        assert_eq!(history.place(1, &reading(Some("a"), 3)), None, "not of that version");
        assert_eq!(history.place(1, &reading(Some("b"), 3)), None, "certainly not applied");
        assert_eq!(history.place(1, &reading(Some("a"), 2)), Some(1));
        assert_eq!(history.place(1, &reading(Some("c"), 4)), Some(3), "perhaps applied");
        history.seen = 3;
        let floor = history.floor();
        assert_eq!(history.place(floor, &reading(Some("a"), 2)), None, "a read goes back");
        history.ops[2].outcome = applied(4);
        history.ops.push(op(None, applied(5)));
        let floor = history.floor();
        assert_eq!(history.place(floor, &reading(Some("c"), 4)), None, "stale");
        assert_eq!((history.place(floor, &reading(None, 0)), history.holds()), (Some(4), None));
    }
}
