//! A coordinator's core. Its members are played: each holds what it is sent, at once, and says of
//! every key that it holds what the coordinator holds.

use std::collections::VecDeque;
use std::hint::black_box;

use quorate_coordinator::core::Core;
use quorate_coordinator::core::effect::Effect;
use quorate_coordinator::core::event::{Batch, Event, Records, Sequence, Ticket, Unreadable};
use quorate_protocol::entry::{Answer, TokenId};
use quorate_protocol::ids::{ClusterId, History, Index, NodeId, StoreId};
use quorate_protocol::record::{Digest, Key, Record};
use quorate_protocol::rpc::appoint::Appointment;
use quorate_protocol::rpc::replica::{Append, Appended, Prepared, RoundAnswer};
use quorate_protocol::settings::Settings;
use quorate_protocol::time::Moment;
use quorate_protocol::version::{Promise, Version};
use quorate_protocol::view::{Directory, Members, Registration, View};

use crate::Path;
use crate::codec::PROMISE;
use crate::load::{KEYS, Load, key, number, record};

/// Nobody waits in vain.
pub(crate) const NEVER: Moment = Moment(u64::MAX);
/// Nothing here takes any time.
pub(crate) const NOW: Moment = Moment(1_000_000);

pub(crate) const NODES: [NodeId; 3] = [NodeId(1), NodeId(2), NodeId(3)];

pub(crate) fn directory() -> Directory {
    let known = |node: NodeId| {
        let registration = Registration {
            address: format!("127.0.0.1:700{}", node.0),
            store: StoreId(u128::from(node.0)),
            durable: true,
            floor: Version::ZERO,
            marked: false,
        };
        (node, registration)
    };
    NODES.into_iter().map(known).collect()
}

pub(crate) fn view() -> View {
    let members: Members = NODES.into_iter().collect();
    View { history: History(0), epoch: PROMISE.epoch, coordinator: PROMISE.coordinator, members }
}

/// The first of the cluster.
pub(crate) fn appointment() -> Event {
    Event::Appointed(Box::new(Appointment {
        cluster: ClusterId(9),
        view: view(),
        active: Members::default(),
        nodes: directory(),
        settings: Settings::default(),
    }))
}

/// What the coordinator's own replica has.
struct Played {
    record: Record,
    last: Version,
    applied: Version,
}

impl Records for Played {
    fn get(&self, _: &Key) -> Result<Option<Record>, Unreadable> {
        Ok(Some(self.record.clone()))
    }

    fn token(&self, _: TokenId) -> Option<(Version, Answer)> {
        None
    }

    fn forgotten(&self) -> Index {
        Index(0)
    }

    fn applied(&self) -> Version {
        self.applied
    }

    fn promised(&self) -> Promise {
        PROMISE
    }

    fn log_base(&self) -> Version {
        Version::ZERO
    }

    fn log_last(&self) -> Version {
        self.last
    }

    fn log_hint(&self, other: Version) -> Version {
        other.min(self.last)
    }

    fn has_room(&self) -> bool {
        true
    }
}

/// A coordinator and its members.
struct Cluster {
    core: Core,
    played: Played,
    /// What each key's record comes to.
    digests: Vec<Digest>,
    effects: Vec<Effect>,
    events: VecDeque<Event>,
    answered: usize,
}

impl Cluster {
    /// One that serves.
    fn new() -> Self {
        let record = record(&Load::new().value());
        let digest = |at| Digest::of(&key(at), Some(&record), Version::ZERO);
        let digests = (0..KEYS).map(digest).collect();
        let played = Played { record, last: Version::ZERO, applied: Version::ZERO };
        let mut cluster = Self {
            core: Core::new(PROMISE.coordinator, Settings::default()),
            played,
            digests,
            effects: Vec::new(),
            events: VecDeque::from([appointment()]),
            answered: 0,
        };
        cluster.settle();
        assert!(cluster.core.is_serving(), "everybody agreed");
        cluster
    }

    fn step(&mut self, event: Event) {
        self.core.step(NOW, event, &self.played, &mut self.effects);
    }

    /// A burst of a shell is over, and every answer comes as a burst of its own.
    fn settle(&mut self) {
        loop {
            self.step(Event::Drained);
            self.carry_out();
            let Some(event) = self.events.pop_front() else { return };
            self.step(event);
        }
    }

    fn carry_out(&mut self) {
        for effect in std::mem::take(&mut self.effects) {
            match effect {
                Effect::Append { to, sequence, append, batch } => {
                    self.append(to, sequence, append, &batch);
                }
                Effect::Changed { .. } | Effect::Read { .. } => {
                    black_box(effect);
                    self.answered += 1;
                }
                Effect::Prepare { to, .. } => {
                    let nothing = Version::ZERO;
                    let prepared =
                        Prepared { position: nothing, log_base: nothing, applied: nothing };
                    let (epoch, answer) = (PROMISE.epoch, Ok(Ok(prepared)));
                    self.events.push_back(Event::Prepared { from: to, epoch, answer });
                }
                Effect::Activate(claim) => {
                    let answer = Ok(Ok(view()));
                    self.events.push_back(Event::Activated { epoch: claim.epoch, answer });
                }
                _ => {}
            }
        }
    }

    fn append(&mut self, to: NodeId, sequence: Sequence, append: Append, batch: &Batch) {
        let last = batch.last().unwrap_or(append.prev);
        if to == PROMISE.coordinator {
            self.played.last = self.played.last.max(last);
            if append.committed > self.played.applied {
                self.played.applied = append.committed;
                self.events.push_back(Event::Applied(append.committed));
            }
        }
        let round = append.round.map(|round| RoundAnswer {
            epoch: PROMISE.epoch,
            number: round.number,
            digests: round.keys.iter().map(|key| self.digests[number(key)]).collect(),
        });
        let answer = Appended::Held { last, durable_applied: Version::ZERO, round, room: true };
        let (epoch, answer) = (PROMISE.epoch, Ok(answer));
        self.events.push_back(Event::Appended { from: to, sequence, epoch, answer });
    }
}

/// From the requests to their answers, so many in a burst.
fn run(path: &Path, times: usize, mut event: impl FnMut(&mut Load, Ticket) -> Event) {
    let mut load = Load::new();
    let tickets = 0..path.times_max * path.operations;
    let events: Vec<_> = tickets.map(|number| event(&mut load, Ticket(number as u64))).collect();
    let mut events = events.into_iter();
    let mut cluster = Cluster::new();
    for _ in 0..times {
        for event in events.by_ref().take(path.operations) {
            cluster.step(event);
        }
        cluster.settle();
    }
    assert_eq!(cluster.answered, times * path.operations, "every request is answered");
    // Not to be let go of in one run and not in the other.
    std::mem::forget((cluster, events));
}

pub(crate) fn write(path: &Path, times: usize) {
    run(path, times, |load, ticket| {
        let change = load.change();
        Event::Change { ticket, change, deadline: NEVER }
    });
}

pub(crate) fn read(path: &Path, times: usize) {
    run(path, times, |load, ticket| {
        let read = load.read();
        Event::Read { ticket, read, deadline: NEVER }
    });
}
