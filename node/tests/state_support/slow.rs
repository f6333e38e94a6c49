//! An engine whose reads, and writes, take as long as a test wants.

use std::sync::Arc;

use quorate_node::state::{Group, Marks, Scrubbed, Size, Snapshot, State, StateError, Swept};
use quorate_protocol::ids::{History, Index};
use quorate_protocol::record::{Digest, Key, Record};
use quorate_protocol::rpc::bulk::TokenRow;
use quorate_protocol::version::Version;

/// What is done between a read and its answer, on the reader's thread. An error is the answer.
type During = Arc<dyn Fn(&Key) -> Result<(), StateError> + Send + Sync>;

/// The engine.
pub(crate) struct Slow {
    engine: Arc<dyn State>,
    during: During,
    before: Option<During>,
}

impl Slow {
    /// One over another.
    pub(crate) fn over(
        engine: Arc<dyn State>,
        during: impl Fn(&Key) -> Result<(), StateError> + Send + Sync + 'static,
    ) -> Self {
        Self { engine, during: Arc::new(during), before: None }
    }

    /// The same, where something is done before a key is written, on the feeder's thread.
    #[allow(dead_code, reason = "each test binary uses a part")]
    pub(crate) fn before_writes(
        self,
        before: impl Fn(&Key) -> Result<(), StateError> + Send + Sync + 'static,
    ) -> Self {
        Self { before: Some(Arc::new(before)), ..self }
    }
}

impl State for Slow {
    fn get(&self, key: &Key) -> Result<Option<Record>, StateError> {
        let found = self.engine.get(key);
        (self.during)(key)?;
        found
    }

    fn is_changing(&self) -> bool {
        self.engine.is_changing()
    }

    fn scan(&self, after: Option<&Key>, max: usize) -> Result<Vec<(Key, Record)>, StateError> {
        self.engine.scan(after, max)
    }

    fn apply(&self, group: &Group<'_>) -> Result<(), StateError> {
        if let Some(before) = &self.before {
            group.changes.iter().try_for_each(|(key, _)| before(key))?;
        }
        self.engine.apply(group)
    }

    fn merge(&self, records: &[(Key, Record)], tokens: &[TokenRow]) -> Result<(), StateError> {
        self.engine.merge(records, tokens)
    }

    fn complete(&self, at: Version, whole: bool, forgotten: Index) -> Result<(), StateError> {
        self.engine.complete(at, whole, forgotten)
    }

    fn marks(&self) -> Marks {
        self.engine.marks()
    }

    fn sync(&self) -> Result<Version, StateError> {
        self.engine.sync()
    }

    fn snapshot(&self) -> Result<Box<dyn Snapshot>, StateError> {
        self.engine.snapshot()
    }

    fn tokens(&self) -> Result<Vec<TokenRow>, StateError> {
        self.engine.tokens()
    }

    fn sweep(&self, after: Option<&Key>, at: Version, max: usize) -> Result<Swept, StateError> {
        self.engine.sweep(after, at, max)
    }

    fn scrub(&self, after: Option<&Key>, max: usize) -> Result<Scrubbed, StateError> {
        let mut scrubbed = Scrubbed::default();
        for (key, record) in self.engine.scan(after, max)? {
            if (self.during)(&key).is_err() {
                scrubbed.damaged.push(key);
            } else if record.value.is_some() {
                let digest = Digest::of(&key, Some(&record), record.version);
                scrubbed.sound.push((key, digest));
            }
        }
        Ok(scrubbed)
    }

    fn size(&self) -> Size {
        self.engine.size()
    }

    fn history(&self) -> History {
        self.engine.history()
    }

    fn fresh(&self, history: History) -> Result<Arc<dyn State>, StateError> {
        let (engine, during) = (self.engine.fresh(history)?, Arc::clone(&self.during));
        Ok(Arc::new(Self { engine, during, before: self.before.clone() }))
    }

    fn adopt(&self) -> Result<(), StateError> {
        self.engine.adopt()
    }
}
