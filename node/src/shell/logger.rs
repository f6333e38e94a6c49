//! The log thread: the only one that waits for the disk under the log. (A second one, now and then,
//! makes a file for it ahead of its use.)
//!
//! Steps that came while a sync ran become durable together in the next one. A failed write or
//! sync is said once and nothing is tried again: the process ends (design §4).

use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use bytes::Bytes;
use quorate_protocol::ids::Index;
use quorate_protocol::settings::LOG_BYTES_MAX_MIN;
use quorate_protocol::version::Version;

use super::inbox::{Inbox, Input};
use crate::core::event::{Event, Ticket};
use crate::log::{self, GROUP_BYTES_MAX, Keep, Log, LogOp, MadeSpare, ReadError};

/// How much is written in one group at the most, one step of that size aside.
const GATHER_BYTES_MAX: usize = GROUP_BYTES_MAX / 4;

const _: () = assert!(
    2 * GATHER_BYTES_MAX as u64 <= LOG_BYTES_MAX_MIN,
    "a log of one segment, however long, has room for what is written next"
);

/// What is asked of the log thread.
enum Request {
    Write {
        ticket: Ticket,
        ops: Vec<LogOp>,
    },
    Read {
        after: Index,
        bytes_max: usize,
        then: Reader,
    },
    /// Drop what the state has on disk, but for so much.
    Drop {
        durable_applied: Index,
        keep: Keep,
    },
    Close,
}

/// Takes what was read.
pub(crate) type Reader = Box<dyn FnOnce(Result<Bytes, ReadError>) + Send>;

/// The core's end of the log thread.
pub(crate) struct Logger {
    requests: Sender<Request>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Logger {
    /// Starts the thread.
    pub(crate) fn start(log: Box<dyn Log>, inbox: Inbox) -> std::io::Result<Self> {
        let (requests, receiver) = channel();
        let thread = thread::Builder::new().name("log".to_owned()).spawn(move || {
            // Any other end than by `Close` or a panic says itself why.
            let _sentinel = inbox.sentinel("the log thread");
            Worker { log, inbox, base: Version::ZERO, bytes: 0, maker: None }.run(&receiver);
        })?;
        Ok(Self { requests, thread: Some(thread) })
    }

    pub(crate) fn write(&self, ticket: Ticket, ops: Vec<LogOp>) {
        self.ask(Request::Write { ticket, ops });
    }

    pub(crate) fn read(&self, after: Index, bytes_max: usize, then: Reader) {
        self.ask(Request::Read { after, bytes_max, then });
    }

    pub(crate) fn shorten(&self, durable_applied: Index, keep: Keep) {
        self.ask(Request::Drop { durable_applied, keep });
    }

    fn ask(&self, request: Request) {
        // Fails when the thread has ended; it has said why, and the process is ending.
        let _ = self.requests.send(request);
    }

    /// Lets the thread finish what it was asked, and waits for it.
    pub(crate) fn close(&mut self) {
        self.ask(Request::Close);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Worker {
    log: Box<dyn Log>,
    inbox: Inbox,
    base: Version,
    /// As told.
    bytes: u64,
    /// Makes the next file of the log ahead of its use.
    maker: Option<thread::JoinHandle<MadeSpare>>,
}

impl Worker {
    fn run(mut self, requests: &Receiver<Request>) {
        self.base = self.log.shape().base();
        let mut held_back = None;
        while let Some(request) = held_back.take().or_else(|| requests.recv().ok()) {
            let done = match request {
                Request::Write { ticket, ops } => {
                    let (ticket, ops) = gather(ticket, ops, requests, &mut held_back);
                    self.write(ticket, &ops)
                }
                Request::Read { after, bytes_max, then } => {
                    let read = self.log.read(after, bytes_max);
                    if let Err(error @ ReadError::Damaged { .. }) = &read {
                        self.inbox.put(Input::LogDamaged(error.to_string()));
                    }
                    then(read);
                    Ok(())
                }
                Request::Drop { durable_applied, keep } => self.shorten(durable_applied, keep),
                Request::Close => break,
            };
            if let Err(why) = done {
                let why = format!(
                    "the log cannot be written: {why}; free the disk or replace it, then start the node again"
                );
                self.inbox.put(Input::Failed(why));
                return;
            }
        }
        if let Some(maker) = self.maker.take() {
            // It must not go on in a directory that somebody else may open.
            let _ = maker.join();
        }
        self.log.close();
    }

    /// Sees to it that the log's next file is there when it is needed.
    fn look_ahead(&mut self) -> std::io::Result<()> {
        if let Some(maker) = self.maker.take_if(|maker| maker.is_finished())
            && let Ok(made) = maker.join()
        {
            self.log.take_spare(made)?;
        }
        if self.maker.is_none()
            && let Some(spare) = self.log.needs_spare()
        {
            let make = || spare.make();
            // Without another thread the log makes its files by itself.
            self.maker = thread::Builder::new().name("log-spare".to_owned()).spawn(make).ok();
        }
        Ok(())
    }

    fn write(&mut self, ticket: Ticket, ops: &[LogOp]) -> std::io::Result<()> {
        let span = tracing::debug_span!(parent: None, "fsync", ops = ops.len());
        self.log.write(ops)?;
        drop(span);
        if let Some((prev, last)) = appended(ops) {
            tracing::debug!(%prev, version = %last, "fsync");
        }
        self.inbox.put(Input::Node(Event::Persisted(ticket)));
        self.tell_base();
        self.tell_bytes();
        self.look_ahead()
    }

    fn shorten(&mut self, durable_applied: Index, keep: Keep) -> std::io::Result<()> {
        log::shorten(&mut *self.log, durable_applied, keep)?;
        self.tell_base();
        self.tell_bytes();
        Ok(())
    }

    /// How long the log is, where that changed.
    fn tell_bytes(&mut self) {
        let bytes = self.log.bytes();
        if bytes != self.bytes {
            self.bytes = bytes;
            self.inbox.put(Input::LogBytes(bytes));
        }
    }

    fn tell_base(&mut self) {
        let base = self.log.shape().base();
        if base != self.base {
            self.base = base;
            self.inbox.put(Input::Node(Event::LogDropped(base)));
        }
    }
}

/// Takes the steps that wait into one, as far as a group can hold them.
fn gather(
    mut ticket: Ticket,
    mut ops: Vec<LogOp>,
    requests: &Receiver<Request>,
    held_back: &mut Option<Request>,
) -> (Ticket, Vec<LogOp>) {
    let mut bytes = size(&ops);
    while let Ok(request) = requests.try_recv() {
        match request {
            Request::Write { ticket: next, ops: more }
                if bytes + size(&more) <= GATHER_BYTES_MAX =>
            {
                bytes += size(&more);
                ticket = next;
                ops.extend(more);
            }
            other => {
                *held_back = Some(other);
                break;
            }
        }
    }
    (ticket, ops)
}

/// Between which versions the entries of a step are, where it has any.
fn appended(ops: &[LogOp]) -> Option<(Version, Version)> {
    let appends = || {
        ops.iter().filter_map(|op| match op {
            LogOp::Append { prev, last, .. } => Some((*prev, *last)),
            _ => None,
        })
    };
    let (prev, _) = appends().next()?;
    Some((prev, appends().last()?.1))
}

fn size(ops: &[LogOp]) -> usize {
    ops.iter()
        .map(|op| match op {
            LogOp::Append { batch, .. } => batch.len() + 64,
            _ => 64,
        })
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::memory::MemoryLog;
    use crate::log::shape::Shape;
    use crate::log::{LogOp, Meta};

    /// A log that panics when it is written to.
    struct Breaks(MemoryLog);

    impl Log for Breaks {
        fn shape(&self) -> &Shape {
            self.0.shape()
        }

        fn meta(&self) -> &Meta {
            self.0.meta()
        }

        fn write(&mut self, _: &[LogOp]) -> std::io::Result<()> {
            panic!("broken");
        }

        fn read(&self, after: Index, bytes_max: usize) -> Result<Bytes, ReadError> {
            self.0.read(after, bytes_max)
        }

        fn drop_through(&mut self, index: Index) -> std::io::Result<()> {
            self.0.drop_through(index)
        }

        fn tail_after(&self, bytes: u64) -> Index {
            self.0.tail_after(bytes)
        }

        fn bytes(&self) -> u64 {
            self.0.bytes()
        }

        fn close(self: Box<Self>) {}
    }

    #[test]
    fn a_log_thread_that_panics_ends_the_node() {
        let (inbox, mut inputs) = Inbox::new();
        let logger = Logger::start(Box::new(Breaks(MemoryLog::new())), inbox).unwrap();
        logger.write(Ticket(1), Vec::new());
        let input = inputs.blocking_recv().unwrap();
        assert!(matches!(&input, Input::Failed(why) if why.contains("the log thread panicked")));
    }

    #[test]
    fn a_log_thread_that_is_closed_says_nothing() {
        let (inbox, mut inputs) = Inbox::new();
        let mut logger = Logger::start(Box::new(MemoryLog::new()), inbox).unwrap();
        logger.close();
        assert!(inputs.blocking_recv().is_none());
    }
}
