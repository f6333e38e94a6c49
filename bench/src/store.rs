//! What a store is to the generator: three processes on loopback that connections can be made to.

use std::time::Duration;

use anyhow::Result;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::ground::Ground;
use crate::processes::Processes;

/// A cluster of three, started for this measurement alone.
pub(crate) trait Store: Sized + Send + Sync {
    /// What its adapter speaks through.
    type Connection: Connection;

    /// Its name on the command line and in the results.
    const NAME: &'static str;

    /// When the leader is killed: how long a write waits before the writer tries again, where its client
    /// does not do so by itself. Short beside what these stores take to elect: a gap is longer by at most
    /// that.
    const ATTEMPT_PATIENCE: Duration = Duration::from_millis(300);

    /// What is told of it in the document: its version, how it was started, how durable it is.
    fn facts(ground: &Ground) -> Result<Facts>;

    /// Starts its processes and returns once the cluster serves.
    async fn start(ground: &Ground) -> Result<Self>;

    /// Its processes, for what they cost.
    fn processes(&mut self) -> &mut Processes;

    /// One more connection, to the leader where there is one: the shortest way for every store.
    async fn connect(&self) -> Result<Self::Connection>;

    /// Which of its processes leads: the one that the rounds of failover kill. A store that cannot
    /// lose its leader without more set-up says so.
    async fn leader(&self) -> Result<usize>;

    /// Whether all three are back and caught up.
    async fn is_whole(&self) -> bool;

    /// A connection that may outlive the leader, where that is not the plain one.
    async fn connect_lasting(&self) -> Result<Self::Connection> {
        self.connect().await
    }
}

/// One connection; clones share it.
pub(crate) trait Connection: Clone + Send + 'static {
    /// Writes a value, which must be as durable as the store allows when this returns.
    fn write(&mut self, key: &str, value: Bytes) -> impl Future<Output = Result<()>> + Send;

    /// Reads a key: how many bytes it holds.
    fn read(&mut self, key: &str) -> impl Future<Output = Result<usize>> + Send;

    /// Writes a key that is not there yet, where that is another call.
    fn create(&mut self, key: &str, value: Bytes) -> impl Future<Output = Result<()>> + Send {
        self.write(key, value)
    }

    /// After an error: connects anew, to whoever serves, where the connection does not by itself.
    fn renew(&mut self) -> impl Future<Output = Result<()>> + Send {
        async { Ok(()) }
    }
}

/// What the document tells of a store.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Facts {
    /// What it is called on the command line and in the samples.
    pub(crate) name: String,
    pub(crate) store: String,
    pub(crate) version: String,
    /// How its processes were started, without addresses and directories.
    pub(crate) flags: String,
    /// What an acknowledged write rests on.
    pub(crate) durability: String,
    /// What a read promises.
    pub(crate) reads: String,
}
