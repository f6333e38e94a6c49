//! What is written and read: the keys and values of a run, the same for every store, and how a store is
//! filled with them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use bytes::Bytes;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::store::{Connection, Store};

/// How many keys there are, unless a row is about that.
pub(crate) const KEYS: usize = 20_000;

/// How long a value is.
pub(crate) const VALUE_BYTES: usize = 256;

/// How many values there are, each used for many keys.
const VALUES: usize = 64;

/// The longest that filling may take: this, and more for each key.
const FILL_PATIENCE: Duration = Duration::from_secs(120);
const FILL_PATIENCE_PER_KEY: Duration = Duration::from_micros(150);

/// Filling tells how far it is after each of so many keys.
const FILL_TELLS_AFTER: usize = 1_000_000;

/// The keys and values of a run.
#[derive(Debug)]
pub(crate) struct Data {
    /// All keys behind one another, each as long as the others: ten million strings would be far more.
    text: String,
    key_bytes: usize,
    keys: usize,
    values: Vec<Bytes>,
}

impl Data {
    /// That many keys.
    pub(crate) fn of(keys: usize) -> Self {
        let digits = keys.saturating_sub(1).to_string().len().max(5);
        let text: String = (0..keys).map(|at| format!("key-{at:0digits$}")).collect();
        let mut chance = Chance(0x5eed);
        // Letters, so that no store has anything to object.
        let letter = |chance: &mut Chance| b'a' + u8::try_from(chance.below(26)).unwrap_or(0);
        let values = (0..VALUES).map(|_| (0..VALUE_BYTES).map(|_| letter(&mut chance)).collect());
        Self { text, key_bytes: 4 + digits, keys, values: values.collect() }
    }

    /// One of the keys.
    pub(crate) fn key(&self, chance: &mut Chance) -> &str {
        self.key_at(chance.below(self.keys))
    }

    /// One of the values.
    pub(crate) fn value(&self, chance: &mut Chance) -> Bytes {
        self.values[chance.below(self.values.len())].clone()
    }

    fn key_at(&self, at: usize) -> &str {
        &self.text[at * self.key_bytes..(at + 1) * self.key_bytes]
    }
}

/// Numbers that look random (xorshift).
#[derive(Debug)]
pub(crate) struct Chance(pub(crate) u64);

impl Chance {
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % bound as u64).unwrap_or(0)
    }
}

/// Through how many connections a store is filled.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Filling {
    /// 64 with one request under way on each.
    Separate,
    /// One with 256 under way.
    Shared,
}

/// Writes every key once, in their order, and tells how long that took.
pub(crate) async fn fill<S: Store>(
    store: &S,
    data: &Arc<Data>,
    filling: Filling,
) -> Result<Duration> {
    let (connections, in_flight) = match filling {
        Filling::Separate => (64, 1),
        Filling::Shared => (1, 256),
    };
    let began = Instant::now();
    let next = Arc::new(AtomicUsize::new(0));
    let mut workers = JoinSet::<Result<()>>::new();
    for _ in 0..connections {
        let connection = store.connect().await?;
        for _ in 0..in_flight {
            workers.spawn(fill_from(connection.clone(), next.clone(), data.clone()));
        }
    }
    let all = async {
        while let Some(ended) = workers.join_next().await {
            ended??;
        }
        Ok::<_, anyhow::Error>(())
    };
    let each = FILL_PATIENCE_PER_KEY * u32::try_from(data.keys).unwrap_or(u32::MAX);
    let filled = timeout(FILL_PATIENCE + each, all).await;
    let reached = || format!("filling, at key {}", next.load(Ordering::Relaxed));
    filled.context("it took too long").and_then(|filled| filled).with_context(reached)?;
    Ok(began.elapsed())
}

async fn fill_from<C: Connection>(
    mut connection: C,
    next: Arc<AtomicUsize>,
    data: Arc<Data>,
) -> Result<()> {
    loop {
        let at = next.fetch_add(1, Ordering::Relaxed);
        if at >= data.keys {
            return Ok(());
        }
        if at > 0 && at.is_multiple_of(FILL_TELLS_AFTER) {
            eprintln!("filling: {at} keys");
        }
        connection.create(data.key_at(at), data.values[at % VALUES].clone()).await?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_as_long_as_one_another() {
        let few = Data::of(20_000);
        assert_eq!((few.key_at(0), few.key_at(19_999)), ("key-00000", "key-19999"));
        let many = Data::of(1_000_001);
        assert_eq!((many.key_at(7), many.key_at(1_000_000)), ("key-0000007", "key-1000000"));
    }
}
