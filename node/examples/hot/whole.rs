//! Three nodes in one thread: from a client's request to its answer. Every message goes through its
//! frame; nothing goes through a socket, and there is no shell, nor a client library.

use std::collections::VecDeque;

use bytes::BytesMut;
use quorate_coordinator::core::Core;
use quorate_coordinator::core::effect::Effect;
use quorate_coordinator::core::event::{Event, Records, Sequence, Ticket, Unreadable};
use quorate_node::core::effect::Reply;
use quorate_protocol::entry::{Answer, TokenId, decode_batch};
use quorate_protocol::ids::{Index, NodeId};
use quorate_protocol::record::{Key, Record};
use quorate_protocol::rpc::replica::{Append, Appended, ReplicaRequest, ReplicaResponse};
use quorate_protocol::rpc::store::{Change, Command, StoreRequest, StoreResponse};
use quorate_protocol::settings::Settings;
use quorate_protocol::version::{Promise, Version};
use tarpc::ClientMessage;

use crate::Path;
use crate::codec::{PROMISE, answer, body, cross, request};
use crate::coordinator::{NEVER, NODES, NOW, appointment, view};
use crate::load::{KEYS, Load, key};
use crate::node::{Disk, Machine};

/// How many keys one burst fills.
const FILL: u64 = 512;

/// What the coordinator reads of its own node.
struct Here<'a>(&'a Machine);

impl Here<'_> {
    fn disk(&self) -> &Disk {
        self.0.disk.as_ref().expect("every node here has one")
    }
}

impl Records for Here<'_> {
    fn get(&self, key: &Key) -> Result<Option<Record>, Unreadable> {
        self.disk().state.get(key).map_err(|_| Unreadable)
    }

    fn token(&self, id: TokenId) -> Option<(Version, Answer)> {
        self.disk().state.token(&id)
    }

    fn forgotten(&self) -> Index {
        self.disk().state.forgotten()
    }

    fn applied(&self) -> Version {
        self.disk().state.applied()
    }

    fn promised(&self) -> Promise {
        self.0.core.replica().promised()
    }

    fn log_base(&self) -> Version {
        self.0.core.replica().shape().base()
    }

    fn log_last(&self) -> Version {
        self.0.core.replica().shape().last()
    }

    fn log_hint(&self, other: Version) -> Version {
        self.0.core.replica().shape().hint(other)
    }

    fn has_room(&self) -> bool {
        !self.disk().state.is_full()
    }
}

struct Cluster {
    coordinator: Core,
    /// The first is the coordinator's own.
    machines: Vec<Machine>,
    effects: Vec<Effect>,
    events: VecDeque<Event>,
    /// What a connection writes into and reads from.
    wire: BytesMut,
    answered: usize,
}

impl Cluster {
    /// One that serves, and holds every key.
    fn new() -> Self {
        let machine = |node| Machine::new(node, Some(Disk::new()));
        let mut cluster = Self {
            coordinator: Core::new(PROMISE.coordinator, Settings::default()),
            machines: NODES.into_iter().map(machine).collect(),
            effects: Vec::new(),
            events: VecDeque::from([appointment()]),
            wire: BytesMut::with_capacity(1 << 20),
            answered: 0,
        };
        cluster.settle();
        assert!(cluster.coordinator.is_serving(), "everybody agreed");
        let mut load = Load::new();
        for first in (0..KEYS).step_by(FILL as usize) {
            for at in first..first + FILL {
                let mut token = load.token();
                // Not those of the requests to come.
                token.client.0 += 1;
                let command = Command::Write { key: key(at), value: load.value() };
                let change = Change { token, command };
                cluster.take(request(0, StoreRequest::Change { change }));
            }
            cluster.settle();
        }
        cluster.answered = 0;
        cluster
    }

    /// A client's request comes.
    fn take(&mut self, call: ClientMessage<StoreRequest>) {
        let (ticket, deadline) = (Ticket(0), NEVER);
        let event = match body(cross(call, &mut self.wire)) {
            StoreRequest::Change { change } => Event::Change { ticket, change, deadline },
            StoreRequest::Read { read } => Event::Read { ticket, read, deadline },
            _ => panic!("nothing else is asked here"),
        };
        self.step(event);
    }

    fn step(&mut self, event: Event) {
        let here = Here(&self.machines[0]);
        self.coordinator.step(NOW, event, &here, &mut self.effects);
    }

    /// A burst of the shell is over, and every answer comes as a burst of its own.
    fn settle(&mut self) {
        loop {
            self.step(Event::Drained);
            for effect in std::mem::take(&mut self.effects) {
                self.carry_out(effect);
            }
            let Some(event) = self.events.pop_front() else { return };
            self.step(event);
        }
    }

    fn carry_out(&mut self, effect: Effect) {
        match effect {
            Effect::Append { to, sequence, append, .. } if to == PROMISE.coordinator => {
                let frames = decode_batch(append.prev, &append.batch).expect("it is whole");
                let before = self.machines[0].applied;
                self.machines[0].append(append, frames);
                let applied = self.machines[0].applied;
                if applied != before {
                    self.events.push_back(Event::Applied(applied));
                }
                for reply in std::mem::take(&mut self.machines[0].replies) {
                    self.appended(to, sequence, reply);
                }
            }
            Effect::Append { to, sequence, append, .. } => self.send(to, sequence, append),
            Effect::Changed { reply, .. } => self.answer(StoreResponse::Change(reply)),
            Effect::Read { reply, .. } => self.answer(StoreResponse::Read(reply)),
            Effect::Prepare { to, prepare } => {
                let machine = &mut self.machines[to.0 as usize - 1];
                machine.prepare(prepare);
                for reply in machine.replies.drain(..) {
                    let Reply::Prepared(answer) = reply else { continue };
                    let (epoch, answer) = (PROMISE.epoch, Ok(answer));
                    self.events.push_back(Event::Prepared { from: to, epoch, answer });
                }
            }
            Effect::Activate(claim) => {
                let answer = Ok(Ok(view()));
                self.events.push_back(Event::Activated { epoch: claim.epoch, answer });
            }
            _ => {}
        }
    }

    /// An append to another node, and its answer.
    fn send(&mut self, to: NodeId, sequence: Sequence, append: Append) {
        let call = request(0, ReplicaRequest::Append { append });
        let ReplicaRequest::Append { append } = body(cross(call, &mut self.wire)) else {
            panic!("it was an append");
        };
        let frames = decode_batch(append.prev, &append.batch).expect("it is whole");
        let machine = &mut self.machines[to.0 as usize - 1];
        machine.append(append, frames);
        for reply in std::mem::take(&mut machine.replies) {
            let Reply::Appended(appended) = reply else { continue };
            let response = answer(0, ReplicaResponse::Append(appended));
            let Ok(ReplicaResponse::Append(appended)) = cross(response, &mut self.wire).message
            else {
                panic!("it was the answer to an append");
            };
            self.appended(to, sequence, Reply::Appended(appended));
        }
    }

    fn appended(&mut self, from: NodeId, sequence: Sequence, reply: Reply) {
        let Reply::Appended(appended) = reply else { return };
        assert!(matches!(appended, Appended::Held { .. }), "nothing goes wrong here");
        let (epoch, answer) = (PROMISE.epoch, Ok(appended));
        self.events.push_back(Event::Appended { from, sequence, epoch, answer });
    }

    /// A client hears.
    fn answer(&mut self, response: StoreResponse) {
        std::hint::black_box(cross(answer(0, response), &mut self.wire));
        self.answered += 1;
    }
}

fn run(path: &Path, times: usize, mut asked: impl FnMut(&mut Load) -> StoreRequest) {
    let mut load = Load::new();
    let calls = 0..path.times_max * path.operations;
    let calls: Vec<_> = calls.map(|id| request(id, asked(&mut load))).collect();
    let mut calls = calls.into_iter();
    let mut cluster = Cluster::new();
    for _ in 0..times {
        for call in calls.by_ref().take(path.operations) {
            cluster.take(call);
        }
        cluster.settle();
    }
    assert_eq!(cluster.answered, times * path.operations, "every request is answered");
    // Directories and their files go with it.
    drop(cluster.machines);
    std::mem::forget(calls);
}

pub(crate) fn write(path: &Path, times: usize) {
    run(path, times, |load| StoreRequest::Change { change: load.change() });
}

pub(crate) fn read(path: &Path, times: usize) {
    run(path, times, |load| StoreRequest::Read { read: load.read() });
}
