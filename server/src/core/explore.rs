//! Random calls, answers, disks and restarts against the core, with its promises checked.
//!
//! The golden scripts say what each rule does; this says that no order of events breaks what
//! everything else rests on. A failure names its seed; `SEED=n cargo test -p quorate-server
//! explore` runs that one alone,
//! `SEEDS=n` the first `n`.

use std::collections::BTreeMap;

use quorate_protocol::ids::{ClusterId, Epoch, History, NodeId, ProcessId, StoreId};
use quorate_protocol::rpc::appoint::{AppointRefused, Survey};
use quorate_protocol::rpc::registry::{
    Claim, Identity, Live, Proposal, Registering, Report, Resignation,
};
use quorate_protocol::seeded::Seeded;
use quorate_protocol::settings::Settings;
use quorate_protocol::time::{Millis, Moment};
use quorate_protocol::version::{Promise, Version};
use quorate_protocol::view::View;

use super::Core;
use super::effect::{Answer, Effect};
use super::event::{CallId, Event, NotAppointed, Request, Round, Silence, Ticket};
use super::state::{Kind, State};

const SEEDS: u64 = 400;
const STEPS: usize = 400;
const STORES: u64 = 7;

struct World {
    chance: Seeded,
    now: Moment,
    core: Core,
    durable: State,
    /// Snapshots on their way to the disk.
    writing: Vec<(Ticket, State)>,
    surveys: Vec<(Round, NodeId)>,
    appointed: Vec<Epoch>,
    next_call: u64,
    open_calls: Vec<CallId>,
    /// Who was told which number, over every life of the server.
    numbers: BTreeMap<NodeId, StoreId>,
    /// Which view each epoch stands for, over every life of the server.
    views: BTreeMap<Epoch, View>,
    promises: BTreeMap<Epoch, NodeId>,
    activated: u64,
}

impl World {
    fn new(seed: u64) -> Self {
        let durable = State::new(ClusterId(7), Settings::default());
        Self {
            core: Core::new(durable.clone(), Seeded::new(seed), Moment(0)),
            chance: Seeded::new(seed ^ 0x5eed),
            now: Moment(0),
            durable,
            writing: Vec::new(),
            surveys: Vec::new(),
            appointed: Vec::new(),
            next_call: 0,
            open_calls: Vec::new(),
            numbers: BTreeMap::new(),
            views: BTreeMap::new(),
            promises: BTreeMap::new(),
            activated: 0,
        }
    }

    fn odds(&mut self, one_in: u64) -> bool {
        self.chance.below(one_in) == 0
    }

    fn node(&mut self) -> NodeId {
        let known: Vec<_> = self.durable.directory.keys().copied().collect();
        self.chance.pick(&known).copied().unwrap_or(NodeId(1))
    }

    /// An epoch that somebody may name: the active or the newest, and its coordinator.
    fn claim(&mut self) -> Claim {
        let state = &self.durable;
        let newest = Claim { epoch: state.newest.epoch, coordinator: state.newest.coordinator };
        let active = state.active.as_ref().map(View::promise);
        let active = active.map(|it| Claim { epoch: it.epoch, coordinator: it.coordinator });
        if self.odds(2) { newest } else { active.unwrap_or(newest) }
    }

    fn step(&mut self, event: Event) {
        let mut effects = Vec::new();
        let before = self.core.state().clone();
        self.core.step(self.now, event, &mut effects);
        self.check_state(&before);
        for effect in effects {
            self.take(effect);
        }
    }

    fn check_state(&mut self, before: &State) {
        let state = self.core.state();
        assert!(state.newest.epoch >= before.newest.epoch, "epochs only rise");
        assert!(state.next_node >= before.next_node && state.history >= before.history);
        if let (Some(old), Some(new)) = (&before.active, &state.active)
            && old != new
        {
            let proposed = before.proposed.as_ref().map(|it| &it.view);
            assert_eq!(proposed, Some(new), "only a proposed view becomes active (INV-S3)");
            self.activated += 1;
        }
        let Some(proposed) = &state.proposed else { return };
        let view = &proposed.view;
        assert!(view.epoch <= state.newest.epoch);
        assert!(view.members.iter().all(|node| state.directory.contains_key(&node)));
        let is_new = before.proposed.as_ref().is_none_or(|old| old.view.epoch != view.epoch);
        if proposed.kind == Kind::Elected && is_new {
            let active = state.active.as_ref().expect("an election replaces a view");
            assert!(view.members.len() >= active.members.takeover_quorum(), "INV-S4");
            for node in view.members.iter() {
                assert!(active.members.contains(node) && !state.directory[&node].marked, "INV-S4");
            }
        }
    }

    fn take(&mut self, effect: Effect) {
        match effect {
            Effect::Persist { ticket, state } => self.writing.push((ticket, *state)),
            Effect::Survey { round, nodes } => {
                self.surveys.extend(nodes.iter().map(|(node, _)| (round, *node)));
            }
            Effect::Appoint { appointment, .. } => {
                self.told_view(&appointment.view);
                let proposed = self.durable.proposed.as_ref().map(|it| &it.view);
                if proposed == Some(&appointment.view) {
                    assert_eq!(appointment.active, self.durable.members());
                }
                self.appointed.push(appointment.view.epoch);
            }
            Effect::Announce { announcement, .. } => self.told_promise(announcement.newest),
            Effect::Reply { call, answer } => {
                let at = self.open_calls.iter().position(|open| *open == call);
                self.open_calls.remove(at.expect("each call is answered once"));
                self.told(&answer);
            }
            Effect::Stop(reason) => panic!("nothing was lost: {reason}"),
        }
    }

    fn told(&mut self, answer: &Answer) {
        match answer {
            Answer::Registered(Ok(it)) => {
                assert!(it.node < self.durable.next_node, "told before durable (INV-S1)");
                let store = it.nodes[&it.node].store;
                let bound = *self.numbers.entry(it.node).or_insert(store);
                assert_eq!(bound, store, "{} was handed out twice", it.node);
                self.told_promise(it.newest);
            }
            Answer::View(Ok(view)) => self.told_view(view),
            Answer::Live(Ok(it)) => self.told_promise(it.newest),
            _ => {}
        }
    }

    fn told_view(&mut self, view: &View) {
        let known = self.views.entry(view.epoch).or_insert_with(|| view.clone());
        assert_eq!(known, view, "an epoch is issued once (INV-S2)");
        self.told_promise(view.promise());
    }

    fn told_promise(&mut self, promise: Promise) {
        assert!(promise.epoch <= self.durable.newest.epoch, "told before durable (INV-S1)");
        let known = *self.promises.entry(promise.epoch).or_insert(promise.coordinator);
        assert_eq!(known, promise.coordinator, "an epoch is issued once (INV-S2)");
    }

    fn call(&mut self, request: Request) {
        self.next_call += 1;
        let call = CallId(self.next_call);
        self.open_calls.push(call);
        self.step(Event::Call { call, request });
    }

    /// One thing happens.
    fn turn(&mut self) {
        match self.chance.below(20) {
            0..=2 => self.persist(),
            3 | 4 => self.wait(),
            5..=8 => self.answer_survey(),
            9 | 10 => self.answer_appointment(),
            11 | 12 => self.register(),
            13 if self.odds(8) => self.restart(),
            13 if self.odds(30) => self.step(Event::AbandonData),
            14 => self.propose(),
            15 => self.report(),
            _ => self.claim_something(),
        }
    }

    fn persist(&mut self) {
        if self.writing.is_empty() {
            return;
        }
        let upto = self.chance.below(self.writing.len() as u64);
        let upto = usize::try_from(upto).unwrap();
        let (ticket, state) = self.writing.drain(..=upto).next_back().unwrap();
        self.durable = state;
        self.step(Event::Persisted { ticket });
    }

    fn wait(&mut self) {
        let span = [10, 100, 600, 2_000][usize::try_from(self.chance.below(4)).unwrap()];
        self.now = self.now + Millis(span);
        self.step(Event::Tick);
    }

    fn restart(&mut self) {
        // The newest snapshot may have reached the disk without the core being told.
        if self.odds(2)
            && let Some((_, state)) = self.writing.pop()
        {
            self.durable = state;
        }
        self.writing.clear();
        self.surveys.clear();
        self.appointed.clear();
        self.open_calls.clear();
        let seed = self.chance.next_u64();
        self.core = Core::new(self.durable.clone(), Seeded::new(seed), self.now);
        self.step(Event::Tick);
    }

    fn answer_survey(&mut self) {
        if self.surveys.is_empty() {
            return;
        }
        let at = usize::try_from(self.chance.below(self.surveys.len() as u64)).unwrap();
        let (round, node) = self.surveys.swap_remove(at);
        let known = self.durable.directory.get(&node).cloned();
        let result = match (self.chance.below(8), known) {
            (0, _) | (_, None) => Err(Silence::Refused),
            (1, _) => Err(Silence::Timeout),
            (_, Some(known)) => Ok(Survey {
                node: (!self.odds(10)).then_some(node),
                store: if self.odds(20) { StoreId(99) } else { known.store },
                history: self.durable.history,
                promised: self.durable.newest,
                position: known.floor,
                marked: self.odds(15),
                leaving: self.odds(10),
            }),
        };
        self.step(Event::SurveyAnswer { round, node, result });
    }

    fn answer_appointment(&mut self) {
        let Some(epoch) = self.appointed.pop() else { return };
        let result = match self.chance.below(6) {
            0 => Err(NotAppointed::Unreachable(Silence::Refused)),
            1 => Err(NotAppointed::Unreachable(Silence::Timeout)),
            2 => Err(NotAppointed::Refused(AppointRefused::Stopping)),
            _ => Ok(()),
        };
        self.step(Event::AppointAnswer { epoch, result });
    }

    fn register(&mut self) {
        let store = StoreId(u128::from(self.chance.below(STORES)));
        let mut numbers = self.numbers.iter();
        let number = numbers.find(|(_, bound)| **bound == store).map(|(node, _)| *node);
        let identity = number.filter(|_| self.chance.below(4) > 0).map(|node| Identity {
            node,
            cluster: self.durable.cluster,
            history: History(self.chance.below(self.durable.history.0 + 1)),
            promised: Promise::default(),
            position: self.durable.directory.get(&node).map(|it| it.floor).unwrap_or_default(),
            marked: self.chance.below(10) == 0,
            restarted: self.chance.below(2) == 0,
        });
        let (address, durable) = (format!("host:{}", store.0 + 1), !store.0.is_multiple_of(3));
        let process = ProcessId(self.chance.below(40).into());
        self.call(Request::Register(Registering { address, store, process, durable, identity }));
    }

    fn propose(&mut self) {
        let Claim { epoch, coordinator } = self.claim();
        let nodes: Vec<_> = self.durable.directory.keys().copied().collect();
        let members = nodes.into_iter().filter(|_| self.chance.below(2) == 0);
        let members = members.chain([coordinator]).collect();
        let evicted = Default::default();
        self.call(Request::ProposeMembers(Proposal { epoch, coordinator, members, evicted }));
    }

    fn report(&mut self) {
        let epoch = self.claim().epoch;
        for _ in 0..3 {
            let (reporter, vote) = (self.node(), self.node());
            self.call(Request::ReportCoordinator(Report { epoch, reporter, vote }));
        }
    }

    fn claim_something(&mut self) {
        let claim = self.claim();
        let Claim { epoch, coordinator: node } = claim;
        match self.chance.below(8) {
            0 => {
                let leaving = self.odds(2);
                self.call(Request::Resign(Resignation { epoch, node, leaving }));
            }
            1 => self.call(Request::Progress(claim)),
            2 | 3 => {
                let floor = Version { epoch, index: quorate_protocol::ids::Index(self.now.0) };
                let positions = vec![(self.node(), floor), (node, floor)];
                self.call(Request::ReportLive(Live { claim, positions }));
            }
            4 => self.call(Request::Status),
            _ => self.call(Request::Activate(claim)),
        }
    }
}

#[test]
fn no_order_of_events_breaks_a_promise() {
    let number = |name| std::env::var(name).ok().map(|text: String| text.parse::<u64>().unwrap());
    let alone = number("SEED");
    let many = number("SEEDS").unwrap_or(SEEDS);
    let seeds = alone.map_or(0..many, |seed| seed..seed + 1);
    let mut activated = 0;
    for seed in seeds {
        let run = || {
            let mut world = World::new(seed);
            for _ in 0..STEPS {
                world.turn();
            }
            world.activated
        };
        activated += std::panic::catch_unwind(run).unwrap_or_else(|_| {
            panic!("replay with SEED={seed} cargo test -p quorate-server explore")
        });
    }
    assert!(alone.is_some() || activated > SEEDS, "the exploration got nowhere: {activated}");
}
