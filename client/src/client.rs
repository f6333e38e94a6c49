//! The client itself.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use quorate_protocol::entry::{Answer, Token};
use quorate_protocol::ids::{ClientId, Index, RequestNumber};
use quorate_protocol::record::{Key, Value};
use quorate_protocol::rpc::store::{
    Change, ChangeReply, Command, CommittedReply, Level, Read, ReadReply, Refused,
};
use quorate_protocol::seeded::Seeded;
use quorate_protocol::version::Version;
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tracing::debug_span;

use crate::address::{BadAddress, parse_address};
use crate::answer::{Changed, Reading};
use crate::drive::{Drive, End, Failed, Verdict};
use crate::error::Error;
use crate::finder::Finder;
use crate::options::{ChangeOptions, ReadOptions};
use crate::wire::{Fault, StoreLink};

/// The most requests of one client, with all its clones, that are under way at once; more wait
/// for a place, within their deadlines.
pub const REQUESTS_IN_FLIGHT_MAX: usize = 4_096;

/// How long [`Client::connect`] goes on when nobody answers: a server that is being restarted is
/// back by then.
pub const CONNECT_PATIENCE: Duration = Duration::from_secs(2);

/// The most addresses a client is given.
pub const ADDRESSES_MAX: usize = 64;

/// How long a weak read waits for one node before it asks another.
const WEAK_PATIENCE: Duration = Duration::from_millis(500);

/// Why there is no client.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConnectError {
    /// An address that cannot be one.
    #[error(transparent)]
    BadAddress(#[from] BadAddress),
    /// No address was given, or far too many.
    #[error(
        "{0} addresses were given; give the server's, or up to {ADDRESSES_MAX} of it and its nodes"
    )]
    AddressCount(usize),
    /// Nobody answered.
    #[error("nobody answers: {why}")]
    Unavailable {
        /// What each address came to.
        why: String,
    },
}

/// A connection to a cluster. Cheap to clone; all clones share their connections.
///
/// Lives in the tokio runtime it was made in.
#[derive(Clone, Debug)]
pub struct Client {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    finder: Arc<Finder>,
    /// Ends with the last clone.
    finder_task: tokio::task::AbortHandle,
    id: ClientId,
    /// The last request number given out.
    requests: AtomicU64,
    /// The newest committed index known; zero is none.
    newest: AtomicU64,
    places: Semaphore,
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.finder_task.abort();
    }
}

impl Client {
    /// Finds a cluster. The addresses are those of the server, of nodes, or of both; one that
    /// answers is enough, and a host without a port means port 4747.
    ///
    /// Succeeds as soon as anybody answers, even if nobody coordinates yet.
    ///
    /// # Errors
    /// When an address cannot be one, or when nobody answers within [`CONNECT_PATIENCE`].
    pub async fn connect<I>(servers: I) -> Result<Self, ConnectError>
    where
        I: IntoIterator,
        I::Item: AsRef<str>,
    {
        let client = Self::unconnected(servers)?;
        client.wait_for_anyone().await?;
        Ok(client)
    }

    /// As [`Client::connect`], but waits for nobody: for looking at a cluster that may not answer.
    ///
    /// # Errors
    /// When an address cannot be one.
    pub fn unconnected<I>(servers: I) -> Result<Self, ConnectError>
    where
        I: IntoIterator,
        I::Item: AsRef<str>,
    {
        let given = servers.into_iter().map(|address| parse_address(address.as_ref()));
        let given = given.collect::<Result<Vec<_>, _>>()?;
        if given.is_empty() || given.len() > ADDRESSES_MAX {
            return Err(ConnectError::AddressCount(given.len()));
        }
        let finder = Arc::new(Finder::new(given));
        let finder_task = tokio::spawn(finder.clone().run()).abort_handle();
        Ok(Self {
            shared: Arc::new(Shared {
                finder,
                finder_task,
                id: ClientId(random()),
                requests: AtomicU64::new(0),
                newest: AtomicU64::new(0),
                places: Semaphore::new(REQUESTS_IN_FLIGHT_MAX),
            }),
        })
    }

    async fn wait_for_anyone(&self) -> Result<(), ConnectError> {
        let deadline = Instant::now() + CONNECT_PATIENCE;
        loop {
            if self.finder().next_round().await {
                return Ok(());
            }
            if Instant::now() >= deadline || self.finder().hopeless() {
                return Err(ConnectError::Unavailable { why: self.finder().why_none() });
            }
        }
    }

    /// Reads a key from a majority: linearizable.
    ///
    /// # Errors
    /// See [`Error`]; never `Unknown` or `Expired`.
    pub async fn read(&self, key: impl Into<Key>) -> Result<Reading, Error> {
        self.read_with(key, ReadOptions::default()).await
    }

    /// Writes a value.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn write(
        &self,
        key: impl Into<Key>,
        value: impl Into<Value>,
    ) -> Result<Changed, Error> {
        self.write_with(key, value, ChangeOptions::default()).await
    }

    /// Deletes a key. Deleting nothing is an answer: [`Changed::found`] is then `false`.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn delete(&self, key: impl Into<Key>) -> Result<Changed, Error> {
        self.delete_with(key, ChangeOptions::default()).await
    }

    /// Reads a key, in general.
    ///
    /// # Errors
    /// See [`Error`]; never `Unknown` or `Expired`.
    pub async fn read_with(
        &self,
        key: impl Into<Key>,
        options: ReadOptions,
    ) -> Result<Reading, Error> {
        let deadline = Instant::now() + options.deadline;
        let read = Read { key: key.into(), level: options.level };
        let _span = debug_span!(parent: None, "client request", call = "read", key = %read.key);
        let _place = self.place(deadline).await?;
        match options.level {
            Level::Majority | Level::Stored => self.read_coordinator(read, deadline).await,
            Level::Weak => self.read_any(read, deadline).await,
        }
    }

    /// Writes a value, in general.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn write_with(
        &self,
        key: impl Into<Key>,
        value: impl Into<Value>,
        options: ChangeOptions,
    ) -> Result<Changed, Error> {
        self.change(Command::Write { key: key.into(), value: value.into() }, options).await
    }

    /// Deletes a key, in general.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn delete_with(
        &self,
        key: impl Into<Key>,
        options: ChangeOptions,
    ) -> Result<Changed, Error> {
        self.change(Command::Delete { key: key.into() }, options).await
    }

    /// A fresh token, for [`ChangeOptions::token`]. Asks the coordinator if this client knows no
    /// committed index yet (design §1).
    ///
    /// # Errors
    /// `Unavailable`, when the coordinator had to be asked and did not answer in time.
    pub async fn token(&self, deadline: Duration) -> Result<Token, Error> {
        self.mint(Instant::now() + deadline.min(crate::DEADLINE_MAX)).await
    }

    /// Asks the coordinator for the newest committed index: that a coordinator answers it means
    /// that the cluster serves.
    ///
    /// # Errors
    /// `Unavailable`, when nobody answered in time.
    pub async fn committed(&self, deadline: Duration) -> Result<Index, Error> {
        self.ask_committed(Instant::now() + deadline.min(crate::DEADLINE_MAX)).await
    }

    pub(crate) fn finder(&self) -> &Finder {
        &self.shared.finder
    }
}

// Changes.
impl Client {
    async fn change(&self, command: Command, options: ChangeOptions) -> Result<Changed, Error> {
        let deadline = Instant::now() + options.deadline;
        let _place = self.place(deadline).await?;
        let mut token = match options.token {
            Some(token) => token,
            None => self.mint(deadline).await?,
        };
        let call = if matches!(command, Command::Write { .. }) { "write" } else { "delete" };
        let (key, request) = (command.key(), token.id());
        let _span = debug_span!(parent: None, "client request", call, %key, %request);
        loop {
            let change = Change { token, command: command.clone() };
            match self.try_change(change, deadline, options.sent_before).await {
                Ok(changed) => return Ok(changed),
                // It was never sent before, so it was certainly not applied: `born` is merely too
                // old, because this client slept while others wrote. A new token may go instead.
                Err(Failed { end: End::Expired, unanswered: false }) if options.token.is_none() => {
                    self.ask_committed(deadline).await?;
                    token = self.mint(deadline).await?;
                }
                Err(failed) => return Err(change_error(failed, token)),
            }
        }
    }

    async fn try_change(
        &self,
        change: Change,
        deadline: Instant,
        sent_before: bool,
    ) -> Result<Changed, Failed> {
        let seed = self.shared.requests.load(Ordering::Relaxed);
        let send = |link: StoreLink| {
            let change = change.clone();
            async move { link.change(change, deadline).await.map(judge_change) }
        };
        let drive = Drive { finder: self.finder(), deadline, seed: self.seed(seed), send };
        let (by, (version, answer)) = drive.run(sent_before).await?;
        self.learn(version.index);
        Ok(Changed { version, found: answer != Answer::Missing, by })
    }

    /// A token with the next request number.
    async fn mint(&self, deadline: Instant) -> Result<Token, Error> {
        let newest = self.shared.newest.load(Ordering::Relaxed);
        let born = if newest == 0 { self.ask_committed(deadline).await? } else { Index(newest) };
        let request = RequestNumber(self.shared.requests.fetch_add(1, Ordering::Relaxed) + 1);
        Ok(Token { client: self.shared.id, request, born })
    }

    async fn ask_committed(&self, deadline: Instant) -> Result<Index, Error> {
        let send = |link: StoreLink| async move {
            Ok(match link.committed(deadline).await? {
                CommittedReply::Index(index) => Verdict::Done(index),
                CommittedReply::Refused(refused) => Verdict::Refused(refused),
            })
        };
        let drive = Drive { finder: self.finder(), deadline, seed: self.seed(0), send };
        let (_, index) = drive.run(false).await.map_err(read_error)?;
        self.learn(index);
        Ok(index)
    }

    /// Remembers that everything up to `index` is committed.
    fn learn(&self, index: Index) {
        self.shared.newest.fetch_max(index.0, Ordering::Relaxed);
    }

    /// A seed for a backoff: different for every request and client.
    fn seed(&self, request: u64) -> u64 {
        let [low, high] = [self.shared.id.0, self.shared.id.0 >> 64].map(|half| half as u64);
        low ^ high ^ request
    }

    async fn place(&self, deadline: Instant) -> Result<tokio::sync::SemaphorePermit<'_>, Error> {
        match tokio::time::timeout_at(deadline, self.shared.places.acquire()).await {
            Ok(place) => Ok(place.expect("the semaphore is never closed")),
            Err(_) => Err(Error::Unavailable {
                why: format!("{REQUESTS_IN_FLIGHT_MAX} requests of this client are under way"),
            }),
        }
    }
}

// Reads.
impl Client {
    async fn read_coordinator(&self, read: Read, deadline: Instant) -> Result<Reading, Error> {
        let send = |link: StoreLink| {
            let read = read.clone();
            async move { link.read(read, deadline).await.map(judge_read) }
        };
        let seed = self.shared.newest.load(Ordering::Relaxed);
        let drive = Drive { finder: self.finder(), deadline, seed: self.seed(seed), send };
        let (_, reading) = drive.run(false).await.map_err(read_error)?;
        self.learn_from(&reading);
        Ok(reading)
    }

    /// Asks the nodes, in an order of chance, until one answers; over and over until the deadline.
    async fn read_any(&self, read: Read, deadline: Instant) -> Result<Reading, Error> {
        let mut chance = Seeded::new(random() as u64);
        let mut backoff = crate::backoff::Backoff::new(chance.next_u64());
        let mut why = self.finder().why_none();
        loop {
            let mut nodes: Vec<_> = self.finder().nodes().into_iter().collect();
            while !nodes.is_empty() {
                let at = usize::try_from(chance.below(nodes.len() as u64)).expect("below a usize");
                let (node, address) = nodes.swap_remove(at);
                match self.read_one(&address, read.clone(), deadline).await {
                    Ok(reading) => {
                        self.learn_from(&reading);
                        return Ok(reading);
                    }
                    Err(Trouble::Refused(
                        refused @ (Refused::InvalidKey { .. } | Refused::NoMajority { .. }),
                    )) => return Err(Error::Refused(refused)),
                    Err(trouble) => why = format!("{node} at {address}: {trouble}"),
                }
                if Instant::now() >= deadline {
                    return Err(Error::Unavailable { why });
                }
            }
            self.finder().look();
            tokio::time::sleep_until(deadline.min(Instant::now() + backoff.wait())).await;
            if Instant::now() >= deadline {
                return Err(Error::Unavailable { why });
            }
        }
    }

    async fn read_one(
        &self,
        address: &str,
        read: Read,
        deadline: Instant,
    ) -> Result<Reading, Trouble> {
        let deadline = deadline.min(Instant::now() + WEAK_PATIENCE);
        match self.finder().wire.store(address).read(read, deadline).await {
            Ok(reply) => match judge_read(reply) {
                Verdict::Done(reading) => Ok(reading),
                Verdict::Refused(refused) => Err(Trouble::Refused(refused)),
                Verdict::Unknown | Verdict::Expired => Err(Trouble::Silent(Fault::Nonsense)),
            },
            Err(fault) => Err(Trouble::Silent(fault)),
        }
    }

    fn learn_from(&self, reading: &Reading) {
        self.learn(reading.applied.max(reading.version).index);
    }
}

/// Why one node did not answer a weak read.
#[derive(Debug, thiserror::Error)]
enum Trouble {
    #[error("{0}")]
    Refused(Refused),
    #[error("{0}")]
    Silent(Fault),
}

fn judge_change(reply: ChangeReply) -> Verdict<(Version, Answer)> {
    match reply {
        ChangeReply::Applied { version, answer } => Verdict::Done((version, answer)),
        ChangeReply::Refused(refused) => Verdict::Refused(refused),
        ChangeReply::Unknown => Verdict::Unknown,
        ChangeReply::Expired => Verdict::Expired,
    }
}

fn judge_read(reply: ReadReply) -> Verdict<Reading> {
    match reply {
        ReadReply::Found { value, version, applied, by, heard_ms_ago } => {
            Verdict::Done(Reading { value, version, applied, by, heard_ms_ago })
        }
        ReadReply::Refused(refused) => Verdict::Refused(refused),
    }
}

/// A refusal speaks of one attempt; where another is unanswered, the request is unknown
/// (design §4).
fn change_error(failed: Failed, token: Token) -> Error {
    match (failed.end, failed.unanswered) {
        (End::Expired, _) => Error::Expired { token },
        (End::Unsendable(why), false) => Error::Refused(Refused::InvalidValue { why }),
        (End::Unsendable(why), true) => Error::Unknown { token, why },
        (End::Refused(refused), false) => Error::Refused(refused),
        (End::Refused(refused), true) => Error::Unknown {
            token,
            why: format!("an earlier attempt had no answer, a later one was refused: {refused}"),
        },
        (End::Late(why), false) => Error::Unavailable { why },
        (End::Late(why), true) => Error::Unknown { token, why },
    }
}

/// A read changes nothing, so whatever is not refused is merely unavailable.
fn read_error(failed: Failed) -> Error {
    match failed.end {
        End::Refused(refused) => Error::Refused(refused),
        End::Unsendable(why) => Error::Refused(Refused::InvalidKey { why }),
        End::Late(why) => Error::Unavailable { why },
        End::Expired => Error::Unavailable { why: "an answer that fits no read".to_owned() },
    }
}

fn random() -> u128 {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).expect("the operating system gives random bytes");
    u128::from_le_bytes(bytes)
}
