//! What a process does for its coordinator.

use bytes::{Bytes, BytesMut};
use quorate_coordinator::core::effect::Effect as Ordered;
use quorate_coordinator::core::event::Event as Coordination;
use quorate_node::core::event::Event;
use quorate_protocol::ids::NodeId;
use quorate_protocol::time::Moment;
use quorate_protocol::version::Version;

use super::process::{Out, Process, Waits};
use super::registry::ToServer;
use super::state::Here;
use super::{Request, Response};

impl Process {
    pub(super) fn step_coordinator(&mut self, now: Moment, event: Coordination) {
        let mut effects = Vec::new();
        let here = Here { state: &self.state, replica: self.node.replica() };
        let idle = matches!(event, Coordination::Tick | Coordination::Drained);
        if !idle {
            super::trace(|| format!("{now} {} coordinator <- {event:?}", self.me));
        }
        self.coordinator.step(now, event, &here, &mut effects);
        for effect in effects {
            super::trace(|| format!("{now} {}   -> {effect:?}", self.me));
            self.order(effect);
        }
    }

    fn order(&mut self, effect: Ordered) {
        match effect {
            Ordered::Prepare { to, prepare } if to == self.me => {
                let caller = self.wait(Waits::OwnPrepare(prepare.promise.epoch));
                self.node(Event::Prepare { caller, prepare });
            }
            Ordered::Append { to, sequence, append, batch } if to == self.me => {
                let caller = self.wait(Waits::OwnAppend(sequence, append.promise.epoch));
                let frames = batch.frames.to_vec();
                self.node(Event::Append { caller, append, frames });
            }
            Ordered::CopyFrom { to, order } if to == self.me => {
                self.node(Event::CopyFrom { caller: None, order });
            }
            Ordered::Alert { to, alert } if to == self.me => {
                self.node(Event::Alert(Box::new(alert)));
            }
            Ordered::Prepare { to, prepare } => self.call(to, Request::Prepare(prepare)),
            Ordered::Append { to, sequence, append, .. } => {
                self.call(to, Request::Append(sequence, append));
            }
            Ordered::Feed { to, sequence, mut append, .. } => {
                append.batch = self.feed(append.prev);
                self.call(to, Request::Append(sequence, append));
            }
            Ordered::Pull { from, pull } => self.call(from, Request::Pull(pull)),
            Ordered::Fetch { from, fetch } => self.call(from, Request::Fetch(fetch)),
            Ordered::CopyFrom { to, order } => self.call(to, Request::CopyFrom(order)),
            Ordered::Alert { to, alert } => self.call(to, Request::Alert(alert)),
            Ordered::Progress(claim) => self.server(ToServer::Progress(claim)),
            Ordered::Activate(claim) => self.server(ToServer::Activate(claim)),
            Ordered::Propose(proposal) => self.server(ToServer::Propose(proposal)),
            Ordered::ReportLive(live) => self.server(ToServer::Live(live)),
            Ordered::Resign(resignation) => self.server(ToServer::Resign(resignation)),
            Ordered::Changed { ticket, reply } => {
                self.out.push(Out::Answer(ticket.0, Response::Changed(reply)));
            }
            Ordered::Read { ticket, reply } => {
                self.out.push(Out::Answer(ticket.0, Response::Read(reply)));
            }
            Ordered::Damaged(_) | Ordered::Repaired { .. } => panic!("a state was found odd"),
            Ordered::Serving { .. } | Ordered::SteppedDown { .. } => {}
        }
    }

    /// A few entries after `prev`.
    fn feed(&self, prev: Version) -> Bytes {
        let mut batch = BytesMut::new();
        for (_, entry) in self.entries.range(prev.index.0 + 1..).take(20) {
            entry.encode(&mut batch);
        }
        batch.freeze()
    }

    fn call(&mut self, to: NodeId, request: Request) {
        self.out.push(Out::Call(to, request));
    }

    fn server(&mut self, request: ToServer) {
        self.out.push(Out::ToServer(request));
    }
}
