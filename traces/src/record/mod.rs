//! Writing down what one process does: its sends, its receipts and its own steps, each with the
//! clock it had.
//!
//! The log of a process is a file in the format of GoVector: two lines an event, of which the
//! first has the time, the process and its clock, and the second what happened:
//!
//! ```text
//! 1764222000123456789 node-1.1 {"client-5f0c.1":2, "node-1.1":7}
//! DEBUG append from=client-5f0c.1:2 rpc=replica.append dir=request key=k
//! ```
//!
//! Events are gathered in memory and written by [`Recorder::flush`], in one write for all of them.
//! A transport calls it before it lets messages leave; then a process that is killed leaves every
//! event that another process can have heard of.
//!
//! What is deliberately absent: a thread, a queue, and any way to fail. Where the log cannot be
//! written the recorder says so once and stops; the process goes on.

mod fields;
mod known;
mod parts;
mod time;

use std::cell::Cell;
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub use fields::{EVENT_BYTES_MAX, Fields, VALUE_BYTES_MAX};
pub use parts::Bounds;

pub(crate) use parts::Parts;
#[cfg(test)]
pub(crate) use parts::file_name;
pub(crate) use time::Time;

use crate::chrome::TraceError;
use crate::clock::Host;
use crate::level::Level;
use crate::stamp::Stamp;
use known::{DIGITS_MAX, Known, decimal};

/// The number of this format, in the first event of every log.
pub const FORMAT: u32 = 1;

/// How the files end.
pub(crate) const LOG_KIND: &str = "govec";

/// No more is gathered: an event that goes over it writes what there is.
const BUFFER_BYTES_MAX: usize = 256 * 1024;

/// Called with a sentence when a recorder has to stop, at most once.
pub type OnTrouble = Arc<dyn Fn(&str) + Send + Sync>;

/// Who a process is. It is in the first event of its log and again in the first of every file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// What it does: `node`, `server`, `client`.
    pub role: String,
    /// Where others reach it.
    pub address: Option<String>,
    /// The cluster it belongs to.
    pub cluster: Option<String>,
    /// Its name there, where it has one: `n3`.
    pub node: Option<String>,
}

/// How a log is written.
#[derive(Clone)]
pub struct Options {
    /// Local events that matter less are left out.
    pub level: Level,
    /// How large the log becomes.
    pub bounds: Bounds,
    /// Told why recording ends, where it has to.
    pub on_trouble: Option<OnTrouble>,
}

impl Default for Options {
    fn default() -> Self {
        Self { level: Level::Debug, bounds: Bounds::default(), on_trouble: None }
    }
}

/// The log of one process. Clones write to the same log; threads may share it.
///
/// Dropping the last clone, or [`Recorder::stop`], writes the rest and the event `stop`, by which
/// a reader knows that nothing is missing at the end.
#[derive(Clone)]
pub struct Recorder(Arc<Shared>);

struct Shared {
    host: Host,
    level: Level,
    time: Time,
    on_trouble: Option<OnTrouble>,
    /// Nothing is written any more.
    off: AtomicBool,
    /// Taken before `state` where both are needed, and held while the file is written: a flush
    /// that finds nothing to write has then waited for the one that is writing it.
    files: Mutex<Files>,
    state: Mutex<State>,
}

struct State {
    known: Known,
    /// Events not yet written.
    buffer: Vec<u8>,
    identity: Identity,
}

struct Files {
    parts: Parts,
    file: File,
    bytes: u64,
    /// The buffer that is not in use.
    spare: Vec<u8>,
}

thread_local! {
    /// Where a thread writes what is said of an event, before it takes the lock.
    static SAID: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

impl Recorder {
    /// Begins the log of a process in `dir`, which is made where it is missing. The process's
    /// host in all clocks is `NAME.1`, or the first `NAME.N` that no file there has.
    ///
    /// # Errors
    /// When the directory or the file cannot be made, or could not be of that name.
    pub fn start(
        dir: &Path,
        name: &str,
        identity: Identity,
        options: Options,
    ) -> Result<Self, TraceError> {
        Self::start_at(dir, name, identity, options, Time::start())
    }

    pub(crate) fn start_at(
        dir: &Path,
        name: &str,
        identity: Identity,
        options: Options,
        time: Time,
    ) -> Result<Self, TraceError> {
        let (host, file) = parts::claim(dir, name, LOG_KIND)?;
        let parts = Parts::new(dir, &host, LOG_KIND, options.bounds);
        let path = parts.path();
        let recorder = Self(Arc::new(Shared {
            host: host.clone(),
            level: options.level,
            time,
            on_trouble: options.on_trouble,
            off: AtomicBool::new(false),
            files: Mutex::new(Files { parts, file, bytes: 0, spare: Vec::new() }),
            state: Mutex::new(State { known: Known::new(host), buffer: Vec::new(), identity }),
        }));
        recorder.0.introduce("start", &mut lock(&recorder.0.state));
        // The first write is where a full disk shows; better at the start than later.
        if recorder.0.flush_whole().is_err() {
            recorder.0.off.store(true, Ordering::Relaxed);
            let why = io::Error::other("its first line cannot be written");
            return Err(TraceError::Unwritable { path, why });
        }
        Ok(recorder)
    }

    /// The process's name in all clocks.
    #[must_use]
    pub fn host(&self) -> &Host {
        &self.0.host
    }

    /// The file that is written now.
    #[must_use]
    pub fn file(&self) -> PathBuf {
        lock(&self.0.files).parts.path()
    }

    /// Whether local events of this level are recorded.
    #[must_use]
    pub fn records(&self, level: Level) -> bool {
        level <= self.0.level && !self.0.is_off()
    }

    /// Counts the sending of a message as an event and returns what the message is to carry;
    /// `None` when recording has ended, and then the message carries nothing.
    ///
    /// `kind` is one word. Call [`Recorder::flush`] before the message leaves.
    #[must_use = "the message is to carry the stamp, or the receipt cannot be paired"]
    pub fn prepare_send(
        &self,
        level: Level,
        kind: &str,
        say: impl FnOnce(&mut Fields<'_>),
    ) -> Option<Stamp> {
        if self.0.is_off() {
            return None;
        }
        self.0.record(level, kind, None, true, say)
    }

    /// Counts the receipt of a message as an event, and learns what its sender knew.
    pub fn unpack_receive(
        &self,
        stamp: &Stamp,
        level: Level,
        kind: &str,
        say: impl FnOnce(&mut Fields<'_>),
    ) {
        if !self.0.is_off() {
            self.0.record(level, kind, Some(stamp), false, say);
        }
    }

    /// Records a step of the process itself, where its level is recorded.
    pub fn local_event(&self, level: Level, kind: &str, say: impl FnOnce(&mut Fields<'_>)) {
        if self.records(level) {
            self.0.record(level, kind, None, false, say);
        }
    }

    /// Records the cluster that the process belongs to, and its name there where it has one.
    pub fn named(&self, node: Option<&str>, cluster: &str) {
        if self.0.is_off() {
            return;
        }
        {
            let identity = &mut lock(&self.0.state).identity;
            identity.node = node.map(str::to_owned);
            identity.cluster = Some(cluster.to_owned());
        }
        self.0.record(Level::Info, "named", None, false, |out| {
            if let Some(node) = node {
                out.field("node", node);
            }
            out.field("cluster", cluster);
        });
    }

    /// Brings every event so far to the file, in one write. When it returns, a process that is
    /// killed does not lose them.
    pub fn flush(&self) {
        self.0.flush();
    }

    /// Writes the rest and the event `stop`. Nothing is recorded afterwards.
    pub fn stop(&self) {
        self.0.stop();
    }

    pub(crate) fn time(&self) -> &Time {
        &self.0.time
    }
}

impl Shared {
    fn is_off(&self) -> bool {
        self.off.load(Ordering::Relaxed)
    }

    fn record(
        &self,
        level: Level,
        kind: &str,
        received: Option<&Stamp>,
        send: bool,
        say: impl FnOnce(&mut Fields<'_>),
    ) -> Option<Stamp> {
        // Said before the lock is taken: whatever `say` does, it keeps nobody waiting.
        let mut said = SAID.take();
        said.clear();
        say(&mut Fields::new(&mut said));
        let (stamp, gathered) = {
            let mut state = lock(&self.state);
            // It may have been stopped since it was asked.
            if self.is_off() {
                SAID.set(said);
                return None;
            }
            self.write(&mut state, level, kind, received, &said);
            (send.then(|| state.known.stamp()), state.buffer.len())
        };
        SAID.set(said);
        if gathered > BUFFER_BYTES_MAX {
            self.flush();
        }
        stamp
    }

    /// Appends one event to the buffer.
    fn write(
        &self,
        state: &mut State,
        level: Level,
        kind: &str,
        received: Option<&Stamp>,
        said: &[u8],
    ) {
        let State { known, buffer, .. } = state;
        if let Some(stamp) = received {
            known.learn(stamp.clock());
        }
        known.tick();
        // Read within the lock, so that the times of a log do not run backwards.
        let now = self.time.unix_ns();
        let mut digits = [0; DIGITS_MAX];
        buffer.extend_from_slice(decimal(now, &mut digits));
        buffer.push(b' ');
        buffer.extend_from_slice(self.host.as_str().as_bytes());
        buffer.push(b' ');
        buffer.extend_from_slice(known.text());
        buffer.push(b'\n');
        buffer.extend_from_slice(level.as_str().as_bytes());
        buffer.push(b' ');
        let word = |b: u8| if b.is_ascii_graphic() && b != b'=' { b } else { b'_' };
        buffer.extend(kind.bytes().map(word));
        if let Some(stamp) = received {
            buffer.extend_from_slice(b" from=");
            buffer.extend_from_slice(stamp.host().as_str().as_bytes());
            buffer.push(b':');
            buffer.extend_from_slice(decimal(stamp.count(), &mut digits));
        }
        buffer.extend_from_slice(said);
        buffer.push(b'\n');
    }

    /// Appends the event that says who the process is.
    fn introduce(&self, kind: &str, state: &mut State) {
        let mut said = Vec::new();
        let mut out = Fields::new(&mut said);
        let identity = &state.identity;
        out.field("role", &identity.role);
        let optional = [
            ("address", &identity.address),
            ("cluster", &identity.cluster),
            ("node", &identity.node),
        ];
        for (name, value) in optional {
            if let Some(value) = value {
                out.field(name, value);
            }
        }
        out.field("pid", std::process::id());
        for (name, file) in
            [("machine", "/proc/sys/kernel/hostname"), ("boot", "/proc/sys/kernel/random/boot_id")]
        {
            // Processes on one machine share its clock; where this is not known, none is shared.
            if let Ok(text) = std::fs::read_to_string(file) {
                out.field(name, text.trim());
            }
        }
        out.field("trace", FORMAT);
        self.write(state, Level::Info, kind, None, &said);
    }

    fn flush(&self) {
        if !self.is_off()
            && let Err(error) = self.flush_whole()
            && !self.off.swap(true, Ordering::Relaxed)
            && let Some(tell) = &self.on_trouble
        {
            tell(&format!("the trace of {} ends here: {error}; the process goes on", self.host));
        }
    }

    fn flush_whole(&self) -> io::Result<()> {
        let mut files = lock(&self.files);
        self.write_gathered(&mut files)?;
        if self.is_off() || !files.parts.full(files.bytes) {
            return Ok(());
        }
        // Made, and the oldest removed, while events are still gathered: that may take its time.
        let next = files.parts.next()?;
        // What came meanwhile belongs to this file; the next begins with who the process is.
        let mut state = lock(&self.state);
        let rest = std::mem::take(&mut state.buffer);
        files.write(&rest)?;
        files.file = next;
        files.bytes = 0;
        state.buffer = rest;
        state.buffer.clear();
        self.introduce("part", &mut state);
        Ok(())
    }

    fn write_gathered(&self, files: &mut Files) -> io::Result<()> {
        let mut gathered = std::mem::take(&mut files.spare);
        std::mem::swap(&mut lock(&self.state).buffer, &mut gathered);
        let outcome = files.write(&gathered);
        gathered.clear();
        files.spare = gathered;
        outcome
    }

    fn stop(&self) {
        {
            // One step, so that nothing is recorded behind the last word.
            let mut state = lock(&self.state);
            if self.off.swap(true, Ordering::Relaxed) {
                return;
            }
            self.write(&mut state, Level::Info, "stop", None, &[]);
        }
        if let Err(error) = self.flush_whole()
            && let Some(tell) = &self.on_trouble
        {
            tell(&format!("the end of the trace of {} is lost: {error}", self.host));
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Files {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        let written = self.file.write_all(bytes);
        match &written {
            Ok(()) => self.bytes += bytes.len() as u64,
            // Half an event is worth less than none. Where it stays, readers leave it out.
            Err(_) => drop(self.file.set_len(self.bytes)),
        }
        let why = |error| {
            let path = self.parts.path();
            io::Error::new(io::Error::kind(&error), format!("{}: {error}", path.display()))
        };
        written.map_err(why)
    }
}

/// A thread that panicked while it held the lock left whole events behind.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
