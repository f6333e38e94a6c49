//! The requests themselves: the keys are given their values, the clients ask, and at the end every
//! key is read once more where answers are checked.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use quorate_client::{
    ChangeOptions, Client, DEFAULT_DEADLINE, Error, Level, ReadOptions, Value, Version,
};
use tokio::task::JoinSet;

use crate::bench::book::{Book, LOADED, Violation};
use crate::bench::choose::{Chooser, Kind, Zipf};
use crate::bench::pace::Starts;
use crate::bench::plan::{Plan, key_name};
use crate::bench::tally::Tally;
use crate::bench::value::{Stamp, Values};

/// How many requests are under way while the keys are written, and while they are read at the end.
const ALL_KEYS_IN_FLIGHT: u32 = 256;

/// How many violations are kept as examples.
const EXAMPLES_MAX: usize = 10;

/// A plan with all that it takes to ask.
#[derive(Debug)]
pub(crate) struct Load {
    pub(crate) plan: Plan,
    values: Values,
    seed: u64,
    /// One for each connection.
    clients: Vec<Client>,
    /// How many keys the phase that goes over all of them has done.
    pub(crate) done: AtomicU32,
}

/// What was found to be wrong.
#[derive(Clone, Debug, Default)]
pub(crate) struct Violations {
    pub(crate) count: u64,
    pub(crate) examples: Vec<String>,
}

impl Violations {
    fn note(&mut self, outcome: Result<(), Violation>) {
        let Err(violation) = outcome else { return };
        self.count += 1;
        if self.examples.len() < EXAMPLES_MAX {
            self.examples.push(violation.to_string());
        }
    }
}

impl Load {
    pub(crate) fn new(plan: Plan, clients: Vec<Client>, seed: u64) -> Self {
        assert!(!clients.is_empty(), "there is a connection");
        let run = u32::try_from(seed >> 32).expect("half of it");
        let values = Values::new(run, plan.value_bytes);
        Self { plan, values, seed, clients, done: AtomicU32::new(0) }
    }

    /// Writes one key, to see whether the cluster takes such keys and values.
    ///
    /// # Errors
    /// When it does not, or cannot be reached.
    pub(crate) async fn try_one(&self) -> Result<(), Error> {
        self.load(0).await
    }

    /// Gives every key its first value.
    ///
    /// # Errors
    /// The first there is.
    pub(crate) async fn load_all(self: &Arc<Self>) -> Result<(), Error> {
        each_key(self, |load, key| async move { load.load(key).await }).await
    }

    async fn load(&self, key: u32) -> Result<(), Error> {
        let (client, _) = self.plan.owner(key);
        let value = self.values.make(Stamp { client, key, count: LOADED });
        self.write(self.client(key), key, value, self.patience()).await.map(|_| ())
    }

    /// How long to try what is not measured, and what everything rests on.
    fn patience(&self) -> Duration {
        self.plan.timeout.max(DEFAULT_DEADLINE)
    }

    async fn write(
        &self,
        client: &Client,
        key: u32,
        value: Vec<u8>,
        patience: Duration,
    ) -> Result<Version, Error> {
        let options = ChangeOptions::default().deadline(patience);
        client.write_with(key_name(key), value, options).await.map(|changed| changed.version)
    }

    async fn read(
        &self,
        client: &Client,
        key: u32,
        level: Level,
        patience: Duration,
    ) -> Result<Found, Error> {
        let options = ReadOptions::default().level(level).deadline(patience);
        client.read_with(key_name(key), options).await.map(|reading| reading.value)
    }

    /// The connection of a client, or one for a key.
    fn client(&self, number: u32) -> &Client {
        &self.clients[usize::try_from(number).expect("small") % self.clients.len()]
    }
}

type Found = Option<Value>;

/// Does something with every key, many at once, until all is done or something fails.
async fn each_key<Done>(
    load: &Arc<Load>,
    act: impl Fn(Arc<Load>, u32) -> Done + Clone + Send + 'static,
) -> Result<(), Error>
where
    Done: Future<Output = Result<(), Error>> + Send,
{
    load.done.store(0, Ordering::Relaxed);
    let next = Arc::new(AtomicU32::new(0));
    let mut workers = JoinSet::new();
    for _ in 0..ALL_KEYS_IN_FLIGHT.min(load.plan.keys) {
        let (load, next, act) = (Arc::clone(load), Arc::clone(&next), act.clone());
        workers.spawn(async move {
            loop {
                let key = next.fetch_add(1, Ordering::Relaxed);
                if key >= load.plan.keys {
                    return Ok(());
                }
                act(Arc::clone(&load), key).await?;
                load.done.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
    while let Some(ended) = workers.join_next().await {
        ended.expect("no worker panics")?;
    }
    Ok(())
}

/// The books of all clients, by number; one that was cut short has none.
pub(crate) type Books = Vec<Option<Book>>;

/// Reads every key once more by majority, and checks it.
///
/// # Errors
/// The first request that failed.
pub(crate) async fn check_all(run: &Arc<Run>, books: Books) -> Result<(), Error> {
    let books = Arc::new(Mutex::new(books));
    let run = Arc::clone(run);
    let load = Arc::clone(&run.load);
    let act = move |load: Arc<Load>, key| {
        let (run, books) = (Arc::clone(&run), Arc::clone(&books));
        async move {
            let found = load.read(load.client(key), key, Level::Majority, load.patience()).await?;
            let (client, place) = load.plan.owner(key);
            let mut books = books.lock().expect("no holder panics");
            if let Some(book) = &mut books[usize::try_from(client).expect("small")] {
                let value = found.as_ref().map(Value::as_bytes);
                run.violations().note(book.check_read(
                    place,
                    key,
                    Level::Majority,
                    value,
                    &load.values,
                ));
            }
            Ok(())
        }
    };
    each_key(&load, act).await
}

/// One run of all clients.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) load: Arc<Load>,
    /// When the warm-up began.
    pub(crate) first: Instant,
    /// When the measuring begins, and when it ends.
    pub(crate) begin: Instant,
    pub(crate) end: Instant,
    /// One for each client.
    zipfs: Vec<Option<Zipf>>,
    /// Of the open loop.
    starts: Option<Arc<Starts>>,
    stop: AtomicBool,
    tally: Mutex<Tally>,
    violations: Mutex<Violations>,
}

impl Run {
    /// Begins now.
    ///
    /// # Errors
    /// When the thread that keeps the rate cannot be started.
    pub(crate) fn begin(load: Arc<Load>) -> std::io::Result<Arc<Self>> {
        // Before the clock starts: it takes a while for many keys.
        let zipfs = Zipf::of(&load.plan);
        let first = Instant::now();
        let begin = first + load.plan.warmup;
        let end = begin + load.plan.duration;
        let rate = load.plan.rate;
        let starts = rate.map(|rate| Starts::begin(first, end, rate)).transpose()?;
        let (tally, violations) = (Mutex::new(Tally::new(begin, end)), Mutex::default());
        let stop = AtomicBool::new(false);
        Ok(Arc::new(Self { load, first, begin, end, zipfs, starts, stop, tally, violations }))
    }

    /// All clients, each until the run is over; they end with their books.
    pub(crate) fn clients(self: &Arc<Self>) -> JoinSet<(u32, Option<Book>)> {
        let mut clients = JoinSet::new();
        for (number, zipf) in (0..).zip(&self.zipfs) {
            clients.spawn(Arc::clone(self).ask(number, *zipf));
        }
        clients
    }

    /// No request is begun any more, and what ends from now on is not counted.
    pub(crate) fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(starts) = &self.starts {
            starts.stop();
        }
        self.tally().cut(Instant::now());
    }

    pub(crate) fn tally(&self) -> MutexGuard<'_, Tally> {
        self.tally.lock().expect("no holder panics")
    }

    pub(crate) fn violations(&self) -> MutexGuard<'_, Violations> {
        self.violations.lock().expect("no holder panics")
    }

    /// Waits for the next request's turn: when it was meant to start, where that is not now.
    /// `None` when there is no next.
    async fn turn(&self) -> Option<Option<Instant>> {
        match &self.starts {
            Some(starts) => starts.next().await.map(Some),
            None => {
                let goes_on = Instant::now() < self.end && !self.stop.load(Ordering::Relaxed);
                goes_on.then_some(None)
            }
        }
    }

    async fn ask(self: Arc<Self>, number: u32, zipf: Option<Zipf>) -> (u32, Option<Book>) {
        let load = &self.load;
        let client = load.client(number);
        let mut chooser = Chooser::new(&load.plan, number, load.seed, zipf);
        let keys = load.plan.keys_of(number).count;
        let mut book = load.plan.verify.then(|| Book::new(number, keys));
        let mut written = LOADED;
        while let Some(start) = self.turn().await {
            let (kind, place) = chooser.next();
            let key = chooser.key(place);
            let ((sent, ended), error) = match kind {
                Kind::Read => {
                    let level = self.load.plan.level.into();
                    let sent = Instant::now();
                    let found = load.read(client, key, level, load.plan.timeout).await;
                    let ended = Instant::now();
                    if let (Some(book), Ok(found)) = (&mut book, &found) {
                        let value = found.as_ref().map(Value::as_bytes);
                        let checked = book.check_read(place, key, level, value, &load.values);
                        self.violations().note(checked);
                    }
                    ((sent, ended), found.err())
                }
                Kind::Write => {
                    written += 1;
                    let count = book.as_mut().map_or(written, |book| book.begin_write(place));
                    let value = load.values.make(Stamp { client: number, key, count });
                    let sent = Instant::now();
                    let outcome = load.write(client, key, value, load.plan.timeout).await;
                    let ended = Instant::now();
                    if let Some(book) = &mut book {
                        let outcome = outcome.as_ref().copied();
                        self.violations().note(book.end_write(place, key, outcome));
                    }
                    ((sent, ended), outcome.err())
                }
            };
            let times = (start.unwrap_or(sent), sent, ended);
            self.tally().count(kind, times, error.as_ref());
        }
        (number, book)
    }
}
