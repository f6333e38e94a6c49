//! Clients: when they wake, what they ask, what they hear.

use quorate_protocol::ids::NodeId;

use super::{CLIENT_WAITS_MS, Due, World};
use crate::chance::Chance;
use crate::client::{self, Around, Client};
use crate::message::{End, Party, Response, Then};

impl World {
    pub(super) fn wake(&mut self, client: usize, ms: u64) {
        self.wakes[client] += 1;
        let wake = self.wakes[client];
        self.after_ms(ms, Due::Client { client, wake });
    }

    pub(super) fn with_client<T>(
        &mut self,
        client: usize,
        act: impl FnOnce(&mut Client, &mut Around<'_>) -> T,
    ) -> T {
        self.stamp += 1;
        let mut around = Around {
            now: self.now,
            stamp: self.stamp,
            keys: self.plan.keys,
            hosts: self.hosts.len() as u32,
            chance: &mut self.chance,
            checks: &mut self.checks,
            figures: &mut self.figures,
        };
        act(&mut self.clients[client], &mut around)
    }

    pub(super) fn client_acts(&mut self, client: usize) {
        let Some(ask) = self.with_client(client, Client::act) else {
            return self.wake(client, 50);
        };
        // Now and then it asks again without waiting for the answer.
        let waits = if self.chance.percent(15) { 40 } else { CLIENT_WAITS_MS };
        self.wake(client, waits);
        let party = Party { end: End::Client(client), life: 0 };
        let then = Then::Client(ask.attempt);
        match ask.to {
            Some(host) => {
                let to = crate::host::address(host);
                self.call_node(party, &to, NodeId(0), ask.request, then, CLIENT_WAITS_MS);
            }
            None => {
                let request = quorate_server::core::event::Request::Coordinator;
                self.call_server(party, request, then);
            }
        }
    }

    pub(super) fn client_hears(&mut self, client: usize, attempt: u64, response: Option<Response>) {
        let failed = response.is_none();
        self.with_client(client, |client, around| client.hear(attempt, response, around));
        let pause = if failed { 25 } else { self.chance.below(self.plan.think_ms + 1) };
        self.wake(client, pause);
    }

    pub(super) fn say_farewell(&mut self) {
        let keys: Vec<_> = (0..self.plan.keys).map(client::key).collect();
        for client in &mut self.clients {
            client.say_farewell(keys.clone());
        }
    }
}
