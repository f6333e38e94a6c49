//! Spans: one Chrome trace file a process, for `chrome://tracing`, Perfetto and [`merge`].
//!
//! tracing-chrome does the writing, in a thread of its own. This module stands around it where a
//! process that is to run for long, and to be killed, needs more:
//!
//! * Its thread waits for each span, and whoever ends one has to wake it, which costs more than the
//!   span: here it rests in its own flush, for [`FLUSH_EVERY`] at a time, and finds at once what
//!   came meanwhile.
//! * Its queue has no end: here what is under way is counted, and over a bound whole spans are
//!   left out, and counted too.
//! * It keeps the last 8 KiB to itself: here it is told to write every [`FLUSH_EVERY`], so that
//!   a process that is killed loses no more than that.
//! * It panics where it cannot write: here the file swallows what comes after a failure, and the
//!   failure is said once.
//! * Its file has no bound: here it is followed by the next, and the oldest is removed.
//! * Its times are counted from a start that it does not write: here the first line of every file
//!   has it, and the name of the process.
//! * Spans within one root share an id, and melt into one bar where they overlap: spans are to be
//!   made as roots (`parent: None`), with what connects them as fields.
//!
//! ```
//! use quorate_traces::{ChromeTrace, Identity, Options, Recorder, chrome::SpanOptions};
//! use tracing_subscriber::prelude::*;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let dir = tempfile::tempdir()?;
//! # let dir = dir.path();
//! let recorder = Recorder::start(dir, "node", Identity::default(), Options::default())?;
//! let (layer, trace) = ChromeTrace::beside(&recorder, SpanOptions::default())?;
//! let subscriber = tracing_subscriber::registry().with(layer);
//! tracing::subscriber::with_default(subscriber, || {
//!     drop(tracing::info_span!(parent: None, "step", request = "c1..0.7"));
//! });
//! let file = trace.file();
//! assert!(file.ends_with("node.1.trace.json"));
//! drop(trace); // writes the rest and closes the file
//! assert!(std::fs::read_to_string(file)?.contains("c1..0.7"));
//! # Ok(())
//! # }
//! ```
//!
//! [`merge`]: crate::print::merge

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tracing::{Event, Subscriber, span};
use tracing_chrome::{ChromeLayer, ChromeLayerBuilder, FlushGuard, TraceStyle};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;
use tracing_subscriber::registry::LookupSpan;

use crate::record::{Bounds, OnTrouble, Parts, Recorder};

/// How the files end.
pub(crate) const SPANS_KIND: &str = "trace.json";

/// How often the file is brought up to date.
pub const FLUSH_EVERY: Duration = Duration::from_millis(100);

/// Where more beginnings and ends of spans wait to be written, new spans are left out.
pub const WAITING_MAX: u64 = 64 * 1024;

/// Why there is no trace.
#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    /// The directory or the file cannot be made.
    #[error("cannot write a trace to {}: {why}; name a directory this user may write to", path.display())]
    Unwritable {
        /// What could not be made.
        path: PathBuf,
        /// Why not.
        #[source]
        why: io::Error,
    },
    /// The name cannot be part of a file's name.
    #[error(
        "{name:?} cannot be part of a file's name: use letters, digits, '.', '_', '-', '@', ':', \
        '%', '[' and ']'"
    )]
    BadName {
        /// The name as given.
        name: String,
    },
}

/// How spans are written.
#[derive(Clone)]
pub struct SpanOptions {
    /// How large the files become; the one that is written may be larger by what waits.
    pub bounds: Bounds,
    /// How many beginnings and ends of spans may wait to be written.
    pub waiting_max: u64,
    /// Told why writing ends, and that spans are left out.
    pub on_trouble: Option<OnTrouble>,
}

impl Default for SpanOptions {
    fn default() -> Self {
        Self { bounds: Bounds::default(), waiting_max: WAITING_MAX, on_trouble: None }
    }
}

/// A trace being written. Keep it for as long as the process runs: dropping it writes the rest
/// and closes the file.
pub struct ChromeTrace {
    shared: Arc<Shared>,
    keeper: Option<JoinHandle<()>>,
}

/// What the layer, the file and the thread that looks after both know of each other.
struct Shared {
    file: Mutex<PathBuf>,
    /// Beginnings and ends that went into the queue, and that came out of it.
    sent: AtomicU64,
    written: AtomicU64,
    left_out: AtomicU64,
    /// Of the file that is written now.
    bytes: AtomicU64,
    failed: AtomicBool,
    pace: Mutex<Pace>,
    paces: Condvar,
}

/// How the writing thread and the one that looks after it go on together.
#[derive(Default)]
struct Pace {
    ended: bool,
    /// The writing thread has rested, and wants to be told to again.
    asked: bool,
    /// How many flushes are in its line: one for each time that it is told to rest, and one for each
    /// file that it is to leave.
    told: u32,
}

impl ChromeTrace {
    /// Begins the span file of a process that has a log, `HOST.trace.json` beside it. The layer
    /// is to be added to the process's subscriber, beside whatever else is there.
    ///
    /// # Errors
    /// When the file cannot be made.
    pub fn beside<S>(
        recorder: &Recorder,
        options: SpanOptions,
    ) -> Result<(SpanLayer<S>, Self), TraceError>
    where
        S: Subscriber + for<'span> LookupSpan<'span> + Send + Sync,
    {
        let dir = recorder.file().parent().map(Path::to_owned).unwrap_or_default();
        let parts = Parts::new(&dir, recorder.host(), SPANS_KIND, options.bounds);
        let path = parts.path();
        let file = File::options().append(true).create_new(true).open(&path);
        let file = file.map_err(|why| TraceError::Unwritable { path: path.clone(), why })?;
        let shared = Arc::new(Shared::new(path));
        let before = Instant::now();
        let head =
            SpanHead { host: recorder.host().to_string(), unix_ns: recorder.time().at(before) };
        let writer = SpanFile::new(file, &head, &shared);
        let builder = ChromeLayerBuilder::new().include_args(true).include_locations(false);
        let (inner, guard) = builder.trace_style(TraceStyle::Async).writer(writer).build();
        let layer = SpanLayer { inner, shared: shared.clone(), waiting_max: options.waiting_max };
        let keeper = Keeper { guard, shared: shared.clone(), parts, head, options };
        Ok((layer, Self::keep(shared, move || keeper.run())))
    }

    fn keep(shared: Arc<Shared>, run: impl FnOnce() + Send + 'static) -> Self {
        let named = std::thread::Builder::new().name("trace".to_owned());
        // Without the thread the rest is written at the end, all the same.
        Self { shared, keeper: named.spawn(run).ok() }
    }

    /// The file that is written now.
    #[must_use]
    pub fn file(&self) -> PathBuf {
        self.shared.file.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How many spans and events were left out because too many waited to be written.
    #[must_use]
    pub fn left_out(&self) -> u64 {
        self.shared.left_out.load(Ordering::Relaxed)
    }
}

impl Drop for ChromeTrace {
    fn drop(&mut self) {
        self.shared.pace().ended = true;
        self.shared.paces.notify_all();
        if let Some(keeper) = self.keeper.take() {
            // It panics only where tracing-chrome's thread has; then the trace is what it is.
            let _ = keeper.join();
        }
    }
}

impl Shared {
    fn new(file: PathBuf) -> Self {
        Self {
            file: Mutex::new(file),
            sent: AtomicU64::new(0),
            written: AtomicU64::new(0),
            left_out: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            failed: AtomicBool::new(false),
            pace: Mutex::new(Pace { asked: true, ..Pace::default() }),
            paces: Condvar::new(),
        }
    }

    fn pace(&self) -> MutexGuard<'_, Pace> {
        self.pace.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a while, or for less where this holds.
    fn wait_for(&self, mut holds: impl FnMut(&Pace) -> bool) -> MutexGuard<'_, Pace> {
        let waits = |pace: &mut Pace| !pace.ended && !holds(pace);
        let waited = self.paces.wait_timeout_while(self.pace(), FLUSH_EVERY, waits);
        waited.unwrap_or_else(PoisonError::into_inner).0
    }

    /// The writing thread rests, so that nobody has to wake it, and goes on when the next rest is in
    /// its line.
    fn rest(&self) {
        {
            let mut pace = self.pace();
            if pace.ended {
                return;
            }
            debug_assert!(pace.told > 0, "no flush but those that were told");
            pace.told = pace.told.saturating_sub(1);
        }
        let mut pace = self.wait_for(|_| false);
        if pace.told == 0 && !pace.ended {
            pace.asked = true;
            drop(pace);
            self.paces.notify_all();
            drop(self.wait_for(|pace| pace.told > 0));
        }
    }

    /// Counts one message into the queue, where there is room.
    fn enter(&self, waiting_max: u64) -> bool {
        let waiting = self.sent.load(Ordering::Relaxed);
        let waiting = waiting.saturating_sub(self.written.load(Ordering::Relaxed));
        if waiting >= waiting_max || self.failed.load(Ordering::Relaxed) {
            self.left_out.fetch_add(1, Ordering::Relaxed);
            return false;
        }
        self.sent.fetch_add(1, Ordering::Relaxed);
        true
    }
}

/// The thread that looks after a trace.
struct Keeper {
    guard: FlushGuard,
    shared: Arc<Shared>,
    parts: Parts,
    head: SpanHead,
    options: SpanOptions,
}

impl Keeper {
    fn run(mut self) {
        let (mut failed, mut short) = (false, false);
        loop {
            {
                let mut pace = self.shared.wait_for(|pace| pace.asked);
                if pace.ended {
                    break;
                }
                if std::mem::take(&mut pace.asked) {
                    self.guard.flush();
                    pace.told += 1;
                    self.shared.paces.notify_all();
                }
            }
            if self.parts.full(self.shared.bytes.load(Ordering::Relaxed)) {
                self.next_file();
            }
            if !short && self.shared.left_out.load(Ordering::Relaxed) > 0 && !self.has_failed() {
                short = true;
                self.tell(
                    "spans are left out of the trace: they come faster than they are written",
                );
            }
            if !failed && self.has_failed() {
                failed = true;
                self.tell("no more spans are written: the file cannot be; the process goes on");
            }
        }
        let Self { guard, shared, head, options, .. } = self;
        drop(guard);
        let left_out = shared.left_out.load(Ordering::Relaxed);
        if short && let Some(tell) = &options.on_trouble {
            tell(&format!("{}: {left_out} spans were left out of the trace", head.host));
        }
    }

    fn has_failed(&self) -> bool {
        self.shared.failed.load(Ordering::Relaxed)
    }

    fn next_file(&mut self) {
        match self.parts.next() {
            Ok(file) => {
                let path = self.parts.path();
                *self.shared.file.lock().unwrap_or_else(PoisonError::into_inner) = path;
                self.shared.bytes.store(0, Ordering::Relaxed);
                let file = SpanFile::new(file, &self.head, &self.shared);
                // The old file is flushed too, and rests once more.
                let mut pace = self.shared.pace();
                self.guard.start_new(Some(Box::new(file)));
                pace.told += 1;
            }
            Err(_) => self.shared.failed.store(true, Ordering::Relaxed),
        }
    }

    fn tell(&self, words: &str) {
        if let Some(tell) = &self.options.on_trouble {
            tell(&format!("{}: {words}", self.head.host));
        }
    }
}

/// The layer that hands spans to tracing-chrome, each with an id of its own.
pub struct SpanLayer<S>
where
    S: Subscriber + for<'span> LookupSpan<'span> + Send + Sync,
{
    inner: ChromeLayer<S>,
    shared: Arc<Shared>,
    waiting_max: u64,
}

/// Marks a span whose beginning was written, so that its end is too.
struct Kept;

impl<S> Layer<S> for SpanLayer<S>
where
    S: Subscriber + for<'span> LookupSpan<'span> + Send + Sync,
{
    fn on_new_span(&self, attrs: &span::Attributes<'_>, id: &span::Id, ctx: Context<'_, S>) {
        if !self.shared.enter(self.waiting_max) {
            return;
        }
        if let Some(span) = ctx.span(id) {
            span.extensions_mut().insert(Kept);
        }
        self.inner.on_new_span(attrs, id, ctx);
    }

    fn on_record(&self, id: &span::Id, values: &span::Record<'_>, ctx: Context<'_, S>) {
        self.inner.on_record(id, values, ctx);
    }

    fn on_event(&self, event: &Event<'_>, ctx: Context<'_, S>) {
        if self.shared.enter(self.waiting_max) {
            self.inner.on_event(event, ctx);
        }
    }

    fn on_close(&self, id: span::Id, ctx: Context<'_, S>) {
        if ctx.span(&id).is_some_and(|span| span.extensions().get::<Kept>().is_some()) {
            self.shared.sent.fetch_add(1, Ordering::Relaxed);
            self.inner.on_close(id, ctx);
        }
    }
}

/// What the first line of a file says.
#[derive(Clone, Default)]
struct SpanHead {
    host: String,
    /// What the times are counted from.
    unix_ns: u64,
}

impl SpanHead {
    fn line(&self) -> String {
        let Self { host, unix_ns } = self;
        format!(
            r#"{{"ph":"M","pid":1,"tid":0,"name":"process_name","args":{{"name":"{host}","start_unix_ns":"{unix_ns}"}}}}"#
        )
    }
}

/// A file that swallows everything from its first failure on: the thread that writes the trace
/// would panic on an error, and a trace is not worth that.
struct SpanFile {
    file: Option<File>,
    /// To be written behind the bracket that opens the file.
    head: Option<String>,
    /// The head is there, and nothing behind it yet.
    bare: bool,
    shared: Arc<Shared>,
}

/// How tracing-chrome opens a file.
const OPENING: &[u8] = b"[\n";

impl SpanFile {
    fn new(file: File, head: &SpanHead, shared: &Arc<Shared>) -> Self {
        Self { file: Some(file), head: Some(head.line()), bare: false, shared: shared.clone() }
    }

    fn put(&mut self, bytes: &[u8]) {
        if let Some(file) = &mut self.file {
            if file.write_all(bytes).is_ok() {
                self.shared.bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
            } else {
                self.file = None;
                self.shared.failed.store(true, Ordering::Relaxed);
            }
        }
    }
}

impl Write for SpanFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut rest = bytes;
        if rest.starts_with(OPENING)
            && let Some(head) = self.head.take()
        {
            rest = &rest[OPENING.len()..];
            self.put(OPENING);
            self.put(head.as_bytes());
            self.bare = true;
        }
        if self.bare
            && let Some(&first) = rest.first()
        {
            self.bare = false;
            if first == b'{' {
                self.put(b",\n");
            }
        }
        self.put(rest);
        // One line an entry, whether the file still takes it or not.
        let lines = rest.iter().filter(|&&b| b == b'\n').count();
        self.shared.written.fetch_add(lines as u64, Ordering::Relaxed);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        // A file has nothing to flush: every write has reached the system.
        self.shared.rest();
        Ok(())
    }
}

#[cfg(test)]
mod tests;
