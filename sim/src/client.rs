//! Clients: they write, delete, read and count, and ask again under the same token, to whomever
//! they take for the coordinator, until they are answered or lose patience.

use quorate_protocol::entry::{Answer, Token};
use quorate_protocol::ids::{ClientId, Index, RequestNumber};
use quorate_protocol::record::{Key, Value};
use quorate_protocol::rpc::store::{
    Change, ChangeReply, Command, CommittedReply, Level, Read, ReadReply, Refused,
};
use quorate_protocol::seeded::Seeded;
use quorate_protocol::time::{Millis, Moment};

use crate::chance::Chance;
use crate::check::Checks;
use crate::check::linear::{Did, Operation};
use crate::figures::Figures;
use crate::host;
use crate::message::{Request, Response};

/// What a client is about.
#[derive(Clone, Debug)]
enum Task {
    /// It asks how far things are, before it sends its first change.
    Born,
    Change(Change),
    Read(Read),
}

/// One operation under way.
#[derive(Clone, Debug)]
struct Doing {
    task: Task,
    begun: u64,
    /// It is given up after this.
    patience: Moment,
    /// Names the attempt that is waited for.
    attempt: u64,
    /// A change is out, and not answered.
    out: bool,
    /// An attempt went unanswered: whether it happened nobody knows.
    uncertain: bool,
}

impl Doing {
    /// The attempt that is out is not waited for any longer.
    fn doubt(&mut self) {
        self.uncertain |= std::mem::take(&mut self.out);
    }
}

/// A client.
pub(crate) struct Client {
    id: ClientId,
    next: u64,
    born: Option<Index>,
    doing: Option<Doing>,
    attempts: u64,
    /// The machine it takes for the coordinator's.
    at: Option<u32>,
    /// Its own counter: what it wrote last, and was told so.
    count: u64,
    /// It writes no more; what it does it ends.
    pub(crate) is_done: bool,
    /// Keys to read and to write once, at the end.
    farewell: Vec<Key>,
}

/// What a client sees and touches of the world.
pub(crate) struct Around<'a> {
    pub(crate) now: Moment,
    /// Orders what clients did and heard.
    pub(crate) stamp: u64,
    pub(crate) keys: u64,
    pub(crate) hosts: u32,
    pub(crate) chance: &'a mut Seeded,
    pub(crate) checks: &'a mut Checks,
    pub(crate) figures: &'a mut Figures,
}

/// What a client asks, and of whom: a machine, or the server.
pub(crate) struct Ask {
    pub(crate) to: Option<u32>,
    pub(crate) request: Request,
    pub(crate) attempt: u64,
}

impl Client {
    pub(crate) fn new(number: usize) -> Self {
        Self {
            id: ClientId(number as u128 + 1),
            next: 1,
            born: None,
            doing: None,
            attempts: 0,
            at: None,
            count: 0,
            is_done: false,
            farewell: Vec::new(),
        }
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.doing.is_none() && self.farewell.is_empty()
    }

    /// The end: each of these is read once more.
    pub(crate) fn say_farewell(&mut self, keys: Vec<Key>) {
        self.is_done = true;
        self.farewell = keys;
    }

    fn counter(&self) -> Key {
        Key::from(format!("c{}", self.id.0).as_str())
    }

    /// Something to do next, or again. `None`: it rests.
    pub(crate) fn act(&mut self, world: &mut Around<'_>) -> Option<Ask> {
        let now = world.now;
        if let Some(doing) = &mut self.doing {
            doing.doubt();
            if now >= doing.patience && !matches!(doing.task, Task::Born) {
                self.give_up(world);
            }
        }
        if self.doing.is_none() {
            let task = self.next_task(world.keys, world.chance)?;
            let patience = world.chance.one_of(&[400, 3_000, 9_000]);
            let patience = now + Millis(if self.is_done { 60_000 } else { patience });
            let begun = world.stamp;
            let doing = Doing { task, begun, patience, attempt: 0, out: false, uncertain: false };
            self.doing = Some(doing);
        }
        self.attempts += 1;
        let attempt = self.attempts;
        let doing = self.doing.as_mut()?;
        doing.attempt = attempt;
        let anyone = 1 + u32::try_from(world.chance.below(u64::from(world.hosts))).unwrap_or(0);
        let is_weak = matches!(doing.task, Task::Read(Read { level: Level::Weak, .. }));
        let to = if is_weak { Some(anyone) } else { self.at };
        if to.is_none() {
            // It asks the server who coordinates, or, where that does not answer, any node.
            let to = attempt.is_multiple_of(3).then_some(anyone);
            return Some(Ask { to, request: Request::Coordinator, attempt });
        }
        doing.out = matches!(doing.task, Task::Change(_));
        let request = match &doing.task {
            Task::Born => Request::Committed,
            Task::Change(change) => Request::Change(change.clone()),
            Task::Read(read) => Request::Read(read.clone()),
        };
        Some(Ask { to, request, attempt })
    }

    fn next_task(&mut self, keys: u64, chance: &mut Seeded) -> Option<Task> {
        if let Some(key) = self.farewell.pop() {
            return Some(Task::Read(Read { key, level: Level::Majority }));
        }
        if self.is_done {
            return None;
        }
        let key = key(chance.below(keys));
        if chance.percent(45) {
            let level = if chance.percent(25) { Level::Weak } else { Level::Majority };
            return Some(Task::Read(Read { key, level }));
        }
        let Some(born) = self.born else { return Some(Task::Born) };
        let token = Token { client: self.id, request: RequestNumber(self.next), born };
        self.next += 1;
        let command = match chance.below(100) {
            0..25 => Command::Delete { key },
            25..35 => Command::Write {
                key: self.counter(),
                value: Value::from(format!("{}", self.count + 1).as_str()),
            },
            _ => {
                let value = Value::from(format!("{}.{}", self.id.0, token.request.0).as_str());
                Command::Write { key, value }
            }
        };
        Some(Task::Change(Change { token, command }))
    }

    /// The network repeats what it asked last: a refusal of one copy says nothing of the other.
    pub(crate) fn is_sent_twice(&mut self) {
        if let Some(doing) = &mut self.doing {
            doing.uncertain |= doing.out;
        }
    }

    /// An attempt was answered, or was not.
    pub(crate) fn hear(
        &mut self,
        attempt: u64,
        response: Option<Response>,
        world: &mut Around<'_>,
    ) {
        let Some(doing) = &mut self.doing else { return };
        if doing.attempt != attempt {
            return;
        }
        if response.is_some() {
            doing.out = false;
        }
        match (response, doing.task.clone()) {
            (Some(Response::Coordinator(known)), _) => {
                let told = known.coordinator.filter(|_| !known.electing);
                self.at = told.and_then(|(_, address)| host::host_of(&address));
            }
            (Some(Response::Committed(CommittedReply::Index(index))), Task::Born) => {
                self.born = Some(index);
                self.doing = None;
            }
            (Some(Response::Committed(CommittedReply::Refused(refused))), _) => {
                self.turned_away(&refused);
            }
            (Some(Response::Read(reply)), Task::Read(read)) => self.hear_read(&read, reply, world),
            (Some(Response::Changed(reply)), Task::Change(change)) => {
                self.hear_change(&change, reply, world);
            }
            _ => {
                doing.doubt();
                self.at = None;
            }
        }
    }

    /// Somebody else coordinates, perhaps.
    fn turned_away(&mut self, refused: &Refused) {
        let hint = match refused {
            Refused::NotCoordinator { hint: Some((_, address)) } => host::host_of(address),
            _ => None,
        };
        self.at = hint.filter(|hint| self.at != Some(*hint));
    }

    fn hear_read(&mut self, read: &Read, reply: ReadReply, world: &mut Around<'_>) {
        let (value, version) = match reply {
            ReadReply::Found { value, version, .. } => (value, version),
            ReadReply::Refused(Refused::NoMajority { .. }) => {
                world.figures.count("no majority");
                self.at = None;
                return;
            }
            ReadReply::Refused(refused) => return self.turned_away(&refused),
        };
        let Some(doing) = self.doing.take() else { return };
        world.figures.reads += 1;
        if read.level == Level::Weak {
            if let Some(value) = &value {
                world.checks.weak.read(&read.key, version, value);
            }
            return;
        }
        let ended = Some(world.stamp);
        let operation = Operation { begun: doing.begun, ended, did: Did::Read(value) };
        world.checks.linear.add(&read.key, operation);
    }

    fn hear_change(&mut self, change: &Change, reply: ChangeReply, world: &mut Around<'_>) {
        let Some(doing) = &mut self.doing else { return };
        match reply {
            ChangeReply::Applied { version, answer } => {
                let did = match (&change.command, answer) {
                    (Command::Write { value, .. }, _) => Did::Wrote(value.clone()),
                    (Command::Delete { .. }, Answer::Missing) => Did::Missing,
                    (Command::Delete { .. }, _) => Did::Deleted,
                };
                let ended = Some(world.stamp);
                let operation = Operation { begun: doing.begun, ended, did };
                world.checks.linear.add(change.command.key(), operation);
                world.checks.acknowledged.told(change.token.id(), version, answer);
                world.figures.acknowledged += 1;
                self.born = self.born.max(Some(version.index));
                if *change.command.key() == self.counter() {
                    self.count += 1;
                }
                self.doing = None;
            }
            ChangeReply::Unknown => {
                doing.uncertain = true;
                self.at = None;
            }
            ChangeReply::Expired => {
                world.figures.count("expired");
                doing.uncertain = true;
                self.give_up(world);
            }
            ChangeReply::Refused(refused) => self.turned_away(&refused),
        }
    }

    /// It waits no longer. What may have happened is remembered as such; what was refused each
    /// time certainly has not.
    fn give_up(&mut self, world: &mut Around<'_>) {
        let Some(doing) = self.doing.take() else { return };
        world.figures.given_up += 1;
        let Task::Change(change) = doing.task else { return };
        if !doing.uncertain {
            return world.checks.once.refused(change.token.id());
        }
        if *change.command.key() == self.counter() {
            // Counted on: should it have happened, the next must not write the same.
            self.count += 1;
        }
        let did = Did::Unknown(change.token.id());
        let operation = Operation { begun: doing.begun, ended: None, did };
        world.checks.linear.add(change.command.key(), operation);
    }

    /// What it still does at the end counts as given up.
    pub(crate) fn end(&mut self, world: &mut Around<'_>) {
        if let Some(doing) = &mut self.doing {
            doing.doubt();
            self.give_up(world);
        }
    }
}

pub(crate) fn key(number: u64) -> Key {
    Key::from(format!("k{number}").as_str())
}
