//! Clients whose every operation is written down, with its beginning and its end, for the checker of
//! the simulator to judge.
//!
//! Most keys are used for a while and then left alone, so that nothing lost is covered up and no key
//! has more operations than can be judged; a few are used all the time. Every value is written once
//! only. A change whose outcome is unknown is asked for again under its token, or given up and then
//! may have happened at any time later.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs::File;
use std::io::{self, BufWriter, Write as _};
use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, Instant};

use quorate_client::{ChangeOptions, Client, Error, ReadOptions};
use quorate_protocol::record::{Key, Value};
use quorate_protocol::seeded::Seeded;
use quorate_sim::linear::{self, Did, Operation};
use tokio::task::JoinHandle;

use crate::cluster::{Cluster, HEALED_MAX};
use crate::process::within;

const CLIENTS: u64 = 3;
const WORKERS_EACH: u64 = 2;
/// How many keys are in use at a time, and for how many operations.
const KEYS: u64 = 6;
const OPERATIONS_OF_KEYS: u64 = 240;
/// How many keys are used all the time, and by which part of all operations.
const LASTING_KEYS: u64 = 12;
const LASTING_ONE_OF: u64 = 16;
/// How long a client waits for an operation, in milliseconds.
const PATIENCE_MS: [u64; 3] = [150, 1_500, 10_000];
/// How many reads are under way at once when everything is read.
const READS_AT_ONCE: usize = 32;

/// Everything that every client did and was told.
#[derive(Debug, Default)]
struct Book {
    /// Counts beginnings and ends: all clients are on one thread, so that this is their order.
    clock: u64,
    begun: u64,
    operations: Vec<(Key, Operation)>,
    keys: BTreeSet<String>,
    /// When each change was acknowledged.
    acknowledged: Vec<Instant>,
    reads: usize,
    /// Changes given up without knowing what became of them.
    unknown: usize,
    /// Operations that were certainly not done.
    unavailable: usize,
}

impl Book {
    fn now(&mut self) -> u64 {
        self.clock += 1;
        self.clock
    }

    /// Every operation, one a line, as they ended: `key begun ended what`, and `-` for no end.
    fn write_down(&self, path: &Path) -> io::Result<()> {
        let mut file = BufWriter::new(File::create(path)?);
        for (key, Operation { begun, ended, did }) in &self.operations {
            let ended = ended.map_or("-".to_owned(), |ended| ended.to_string());
            writeln!(file, "{key} {begun} {ended} {did:?}")?;
        }
        file.flush()
    }

    fn add(&mut self, key: &str, begun: u64, ended: Option<u64>, did: Did) {
        self.operations.push((Key::from(key), Operation { begun, ended, did }));
    }
}

/// How much there was of everything.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Figures {
    pub(crate) changes: usize,
    pub(crate) reads: usize,
    pub(crate) unknown: usize,
    pub(crate) unavailable: usize,
    pub(crate) longest_gap: Duration,
}

impl Figures {
    /// These as well.
    pub(crate) fn add(&mut self, other: &Self) {
        self.changes += other.changes;
        self.reads += other.reads;
        self.unknown += other.unknown;
        self.unavailable += other.unavailable;
        self.longest_gap = self.longest_gap.max(other.longest_gap);
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { changes, reads, unknown, unavailable, longest_gap } = self;
        write!(f, "{changes} changes and {reads} reads answered, {unknown} changes unknown, ")?;
        write!(
            f,
            "{unavailable} operations not done, longest gap {:.1} s",
            longest_gap.as_secs_f64()
        )
    }
}

/// A load that runs until it is finished.
pub(crate) struct Load {
    hand: Hand,
    stop: Rc<Cell<bool>>,
    begun: Instant,
    workers: Vec<JoinHandle<()>>,
}

impl Load {
    /// Starts writing, deleting and reading.
    pub(crate) async fn start(cluster: &Cluster, seed: u64) -> Self {
        let (book, stop) = (Rc::default(), Rc::new(Cell::new(false)));
        let value_bytes = Rc::new(Cell::new(64));
        let hand = Hand { book, client: cluster.client().await, value_bytes };
        let mut workers = Vec::new();
        for n in 0..CLIENTS {
            let client = cluster.client().await;
            for m in 0..WORKERS_EACH {
                let hand = Hand { client: client.clone(), ..hand.clone() };
                let (stop, me) = (Rc::clone(&stop), n * WORKERS_EACH + m);
                let chance = Seeded::new(seed.wrapping_mul(64) + me);
                workers.push(tokio::task::spawn_local(hand.work(me, chance, stop)));
            }
        }
        Self { hand, stop, begun: Instant::now(), workers }
    }

    /// How long values are from now on.
    pub(crate) fn value_bytes(&self, bytes: usize) {
        self.hand.value_bytes.set(bytes);
    }

    /// How many changes were acknowledged so far.
    pub(crate) fn acknowledged(&self) -> usize {
        self.hand.book.borrow().acknowledged.len()
    }

    /// Waits until `more` changes were acknowledged from now on.
    pub(crate) async fn goes_on(&self, more: usize) {
        let wanted = self.acknowledged() + more;
        within(HEALED_MAX, &format!("{more} more changes are acknowledged"), async || {
            let ended = self.workers.iter().any(JoinHandle::is_finished);
            assert!(!ended, "a client met something impossible");
            let now = self.acknowledged();
            if now >= wanted { Ok(()) } else { Err(format!("{now} of {wanted}")) }
        })
        .await;
    }

    /// Stops, reads everything, and has all that was ever answered judged. Gives what some of the
    /// keys hold, and the figures. The history is written down in `dir` first.
    pub(crate) async fn finish(mut self, dir: &Path) -> (BTreeMap<String, Option<Value>>, Figures) {
        self.stop.set(true);
        let ended = Instant::now();
        for worker in self.workers.drain(..) {
            tokio::time::timeout(HEALED_MAX, worker).await.expect("every change ends").unwrap();
        }
        let contents = self.hand.read_everything().await;
        let every = (contents.len() / 60).max(1);
        let mut book = self.hand.book.borrow_mut();
        book.write_down(&dir.join("history")).unwrap();
        if let Err(violation) = linear::check(std::mem::take(&mut book.operations)) {
            panic!("not linearizable: {}", violation.what);
        }
        let times = std::iter::once(self.begun)
            .chain(book.acknowledged.iter().copied().filter(|at| *at < ended))
            .chain([ended]);
        let times: Vec<_> = times.collect();
        let figures = Figures {
            changes: book.acknowledged.len(),
            reads: book.reads,
            unknown: book.unknown,
            unavailable: book.unavailable,
            longest_gap: times.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or_default(),
        };
        (contents.into_iter().step_by(every).collect(), figures)
    }
}

/// What one client does, and writes down.
#[derive(Clone)]
struct Hand {
    book: Rc<RefCell<Book>>,
    client: Client,
    value_bytes: Rc<Cell<usize>>,
}

impl Hand {
    async fn work(self, me: u64, mut chance: Seeded, stop: Rc<Cell<bool>>) {
        let mut n = 0;
        while !stop.get() {
            n += 1;
            let key = self.next_key(&mut chance);
            let patience = *chance.pick(&PATIENCE_MS).expect("there are some");
            let patience = Duration::from_millis(patience);
            match chance.below(10) {
                0..4 => self.read(&key, patience).await.map(drop).unwrap_or_default(),
                4..6 => self.change(&key, None, patience, &mut chance).await,
                _ => self.change(&key, Some(format!("{me}.{n}")), patience, &mut chance).await,
            }
        }
    }

    fn next_key(&self, chance: &mut Seeded) -> String {
        let mut book = self.book.borrow_mut();
        book.begun += 1;
        let key = match chance.below(LASTING_ONE_OF) {
            0 => format!("lasting-{}", chance.below(LASTING_KEYS)),
            _ => format!("k{}-{}", book.begun / OPERATIONS_OF_KEYS, chance.below(KEYS)),
        };
        book.keys.insert(key.clone());
        key
    }

    /// Reads from a majority. An error changes nothing, and tells nothing.
    async fn read(&self, key: &str, patience: Duration) -> Result<Option<Value>, Error> {
        let begun = self.book.borrow_mut().now();
        let options = ReadOptions::default().deadline(patience);
        let reading = self.client.read_with(key, options).await;
        let mut book = self.book.borrow_mut();
        let Ok(reading) = reading else {
            book.unavailable += 1;
            return Err(reading.expect_err("it is none"));
        };
        book.reads += 1;
        let ended = Some(book.now());
        book.add(
            key,
            begun,
            ended,
            Did::Read(reading.value.as_ref().map(|value| short(key, value))),
        );
        Ok(reading.value)
    }

    /// Writes `name`, or deletes.
    async fn change(
        &self,
        key: &str,
        name: Option<String>,
        patience: Duration,
        chance: &mut Seeded,
    ) {
        let begun = self.book.borrow_mut().now();
        let value = name.as_deref().map(|name| long(name, self.value_bytes.get()));
        let mut options = ChangeOptions::default().deadline(patience);
        let changed = loop {
            let changed = match value.clone() {
                Some(value) => self.client.write_with(key, value, options).await,
                None => self.client.delete_with(key, options).await,
            };
            match changed {
                Err(Error::Unknown { token, .. }) if chance.below(2) == 0 => {
                    options = options.again(token);
                }
                changed => break changed,
            }
        };
        let wrote = name.map_or(Did::Deleted, |name| Did::Wrote(name.as_str().into()));
        let mut book = self.book.borrow_mut();
        match changed {
            Ok(changed) => {
                let did = if changed.found { wrote } else { Did::Missing };
                let ended = Some(book.now());
                book.add(key, begun, ended, did);
                book.acknowledged.push(Instant::now());
            }
            Err(Error::Unknown { .. } | Error::Expired { .. }) => {
                book.unknown += 1;
                book.add(key, begun, None, wrote);
            }
            Err(Error::Unavailable { .. }) => book.unavailable += 1,
            Err(error @ Error::Refused(_)) => panic!("{key}: {error}"),
        }
    }

    /// Reads every key there ever was, from a majority.
    async fn read_everything(&self) -> BTreeMap<String, Option<Value>> {
        let keys: Rc<Vec<String>> = Rc::new(self.book.borrow().keys.iter().cloned().collect());
        assert!(!keys.is_empty());
        let reads = (0..READS_AT_ONCE).map(|n| {
            let (hand, keys) = (self.clone(), Rc::clone(&keys));
            tokio::task::spawn_local(async move {
                let mut held = Vec::new();
                for key in keys.iter().skip(n).step_by(READS_AT_ONCE) {
                    held.push((key.clone(), hand.read(key, HEALED_MAX).await.unwrap()));
                }
                held
            })
        });
        let mut contents = BTreeMap::new();
        for read in reads.collect::<Vec<_>>() {
            contents.extend(read.await.unwrap());
        }
        contents
    }
}

/// A value of about that length, which is its name again and again.
fn long(name: &str, bytes: usize) -> Value {
    let name = format!("{name} ");
    name.repeat((bytes / name.len()).max(1)).into()
}

/// The name of a value, which must be whole: what the checker is told.
fn short(key: &str, value: &Value) -> Value {
    let bytes = value.as_bytes();
    let length = bytes.iter().position(|byte| *byte == b' ').map_or(0, |at| at + 1);
    let is_whole = length > 1 && bytes.chunks(length).all(|chunk| chunk == &bytes[..length]);
    assert!(is_whole, "{key} holds what nobody wrote: {value:?}");
    bytes[..length - 1].to_vec().into()
}
