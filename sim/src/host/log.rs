//! The log thread of a process: one piece of work after the other, each as slow as its disk.

use quorate_coordinator::core::event::Sequence;
use quorate_node::core::event::{Caller, Event, Ticket};
use quorate_node::log::{LogOp, ReadError};
use quorate_protocol::ids::{Epoch, Index, NodeId};
use quorate_protocol::rpc::replica::{Append, Pulled};
use quorate_protocol::seeded::Seeded;
use quorate_protocol::version::Version;

use super::carry::LONG_CALL_MS;
use super::process::{Count, Out, Process};
use crate::chance::Chance;
use crate::check::Checks;
use crate::message::{Request, Response, Then};

/// What the log thread does, in order.
#[derive(Debug)]
pub(crate) enum LogWork {
    Write { ticket: Ticket, ops: Vec<LogOp>, versions: Vec<Version> },
    Pull { caller: Caller, after: Index, bytes_max: usize },
    Feed { to: NodeId, sequence: Sequence, epoch: Epoch, append: Box<Append>, bytes_max: usize },
    Drop { through: Index, tail_bytes: u64 },
}

impl Process {
    pub(super) fn log_work(&mut self, work: LogWork) {
        self.log_work.push_back(work);
        self.log_begin();
    }

    /// The disk takes up what waits: steps that came while it was busy become one group.
    fn log_begin(&mut self) {
        if self.log_busy > 0 || self.log_work.is_empty() {
            return;
        }
        let writes =
            self.log_work.iter().take_while(|work| matches!(work, LogWork::Write { .. })).count();
        self.log_busy = writes.max(1);
        self.out.push(Out::LogBusy);
    }

    pub(super) fn shorten_log(&mut self) {
        let settings = self.node.settings();
        let (tail_bytes, most) = (settings.log_tail_bytes, settings.log_bytes_max);
        if self.log.bytes() <= tail_bytes {
            return;
        }
        let durable = self.node.replica().durable_applied().index;
        let pinned = self.sessions.values().map(|session| session.applied().index).min();
        let pinned = pinned.filter(|_| self.log.bytes() <= most / 2);
        let through = pinned.map_or(durable, |index| index.min(durable));
        self.log_work(LogWork::Drop { through, tail_bytes });
    }

    /// The disk is done with what it was busy with.
    pub(crate) fn log_done(&mut self, checks: &mut Checks) {
        let busy = std::mem::take(&mut self.log_busy);
        let mut group = Vec::new();
        let mut written = Vec::new();
        let mut last = None;
        for work in self.log_work.drain(..busy).collect::<Vec<_>>() {
            match work {
                LogWork::Write { ticket, ops, versions } => {
                    group.extend(ops);
                    written.extend(versions);
                    last = Some(ticket);
                }
                other => self.log_other(other),
            }
        }
        if let Some(ticket) = last {
            let promised = self.log.meta().promised;
            match self.write(&group) {
                Ok(()) => {
                    if let Some(node) = self.node.node() {
                        checks.durable.written(node, &written);
                        let now = self.log.meta().promised;
                        checks.promises.kept(node, promised, now);
                    }
                    self.node_event(Event::Persisted(ticket));
                    self.tell_base();
                }
                // Never tried again (design §4): the process ends.
                Err(why) => return self.fail(format!("the log cannot be written: {why}")),
            }
        }
        self.log_begin();
    }

    /// Writes a group, and makes the log's next file when it asks for one.
    fn write(&mut self, group: &[LogOp]) -> std::io::Result<()> {
        self.log.write(group)?;
        match self.log.needs_spare() {
            Some(spare) => self.log.take_spare(spare.make()),
            None => Ok(()),
        }
    }

    fn log_other(&mut self, work: LogWork) {
        match work {
            LogWork::Write { .. } => {}
            LogWork::Pull { caller, after, bytes_max } => match self.log.read(after, bytes_max) {
                Ok(batch) => self.answer(caller, Response::Pulled(Pulled::Entries { batch })),
                Err(ReadError::Damaged { .. }) => self.fail("the log is damaged".to_owned()),
                Err(_) => drop(self.callers.remove(&caller)),
            },
            LogWork::Feed { to, sequence, epoch, mut append, bytes_max } => {
                match self.log.read(append.prev.index, bytes_max) {
                    Ok(batch) => {
                        append.batch = batch;
                        let request = Request::Append(*append);
                        let then = Then::Appended(sequence, epoch);
                        self.send(to, request, then, LONG_CALL_MS);
                    }
                    Err(ReadError::Damaged { .. }) => self.fail("the log is damaged".to_owned()),
                    Err(_) => self.outcome(to, Then::Appended(sequence, epoch), None),
                }
            }
            LogWork::Drop { through, tail_bytes } => {
                let through = self.log.tail_after(tail_bytes).min(through);
                if through > self.log.shape().base().index {
                    match self.log.drop_through(through) {
                        Ok(()) => self.tell_base(),
                        Err(why) => self.fail(format!("the log cannot be shortened: {why}")),
                    }
                }
            }
        }
    }

    fn tell_base(&mut self) {
        let base = self.log.shape().base();
        if base != self.log_base {
            self.log_base = base;
            self.out.push(Out::Counted(Count::LogDropped));
            self.node_event(Event::LogDropped(base));
        }
    }

    /// The process ends in the middle of its work: some of it is done, perhaps in part.
    pub(super) fn log_some(&mut self, chance: &mut Seeded) {
        let done = chance.between(0, self.log_work.len() as u64);
        let mut group = Vec::new();
        for work in self.log_work.drain(..).take(usize::try_from(done).unwrap_or(0)) {
            if let LogWork::Write { ops, .. } = work {
                group.extend(ops);
            }
        }
        if !group.is_empty() {
            // It fails where the power does.
            let _ = self.log.write(&group);
        }
    }
}
