//! Clients: they write, read, and ask again with the same token until they are answered.

use quorate_protocol::entry::Token;
use quorate_protocol::ids::{ClientId, Index, NodeId, RequestNumber};
use quorate_protocol::record::{Key, Value};
use quorate_protocol::rpc::store::{Change, ChangeReply, Command, Level, Read, ReadReply, Refused};
use quorate_protocol::version::Version;

use super::{CallId, Cluster, Due, KEYS, Place, Request, Response};

pub(super) struct Client {
    pub(super) next: u64,
    /// The change that is not acknowledged yet.
    pub(super) change: Option<Change>,
    /// What a read must at least return, and its key.
    pub(super) read: Option<(Key, Version)>,
    pub(super) waiting: Option<CallId>,
    pub(super) born: Index,
    /// Whom it asks: the one that answered last, as long as it does.
    pub(super) at: Option<NodeId>,
}

impl Cluster {
    pub(super) fn client_acts(&mut self, client: usize) {
        if self.clients[client].waiting.is_some() || self.healed {
            return;
        }
        if self.clients[client].change.is_none() && self.clients[client].read.is_none() {
            if self.chance(50) {
                let key = key(self.random.below(KEYS));
                self.clients[client].read = Some((key.clone(), self.checks.known(&key)));
            } else {
                let change = self.new_change(client);
                self.clients[client].change = Some(change);
            }
        }
        let at = &self.clients[client];
        let request = match (&at.change, &at.read) {
            (Some(change), _) => Request::Change(change.clone()),
            (None, Some((key, _))) => {
                Request::Read(Read { key: key.clone(), level: Level::Majority })
            }
            (None, None) => return,
        };
        let told = self.registry.coordinator().filter(|_| self.random.below(10) > 0);
        let to = self.clients[client].at.or(told).unwrap_or_else(|| self.any_node());
        self.clients[client].at = Some(to);
        self.clients[client].waiting = Some(self.next_call);
        self.call(Place::Client(client), to, &request);
    }

    pub(super) fn new_change(&mut self, client: usize) -> Change {
        let doomed = self.chance(15);
        let at = &mut self.clients[client];
        let request = RequestNumber(at.next);
        at.next += 1;
        let token = Token { client: ClientId(client as u128), request, born: at.born };
        let command = if doomed {
            Command::Delete { key: Key::from("doomed") }
        } else {
            let value = Value::from(format!("{client}.{}", request.0).as_str());
            Command::Write { key: key(self.random.below(KEYS)), value }
        };
        Change { token, command }
    }

    pub(super) fn client_hears(&mut self, client: usize, call: CallId, response: Option<Response>) {
        if self.clients[client].waiting != Some(call) {
            return;
        }
        self.clients[client].waiting = None;
        let mut pause = 1 + self.random.below(30);
        match response {
            Some(Response::Changed(ChangeReply::Applied { version, answer })) => {
                let change = self.clients[client].change.take().expect("it asked");
                self.clients[client].born = version.index;
                self.checks.acknowledged(&change, version, answer);
                self.figures.acknowledged += 1;
            }
            Some(Response::Changed(ChangeReply::Expired)) => panic!("a token cannot expire here"),
            Some(Response::Read(ReadReply::Found { value, version, .. })) => {
                let (key, least) = self.clients[client].read.take().expect("it asked");
                self.checks.read(&key, least, version, value.as_ref());
                self.figures.reads += 1;
            }
            Some(Response::Read(ReadReply::Refused(Refused::NoMajority { holders }))) => {
                panic!("states diverged: {holders:?}")
            }
            Some(Response::Read(ReadReply::Refused(Refused::Damaged))) => {
                panic!("a state was found odd")
            }
            // Asked again: a change with the same token, a read as what it was.
            Some(_) | None => {
                self.clients[client].at = None;
                pause += 20;
            }
        }
        self.after(pause, Due::ClientActs { client });
    }
}

pub(super) fn key(number: u64) -> Key {
    Key::from(format!("k{number}").as_str())
}
