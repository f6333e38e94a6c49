//! Calls between processes: late, twice, out of order, or never.

use quorate_coordinator::core::event::{Batch, Event as Coordination, Unanswered};
use quorate_node::core::event::Event;
use quorate_protocol::entry::decode_batch;
use quorate_protocol::ids::NodeId;
use quorate_protocol::rpc::replica::Pulled;
use quorate_protocol::time::Millis;

use super::registry::{self, ToServer};
use super::{
    CALL_TIMEOUT, CallId, Cluster, Due, FromServer, Open, Place, Request, Response, process,
};

impl Cluster {
    pub(super) fn call(&mut self, from: Place, to: NodeId, request: &Request) {
        let call = self.next_call;
        self.next_call += 1;
        self.open.insert(call, Open { from, to, request: request.clone() });
        let patience = match request {
            Request::Change(_) | Request::Read(_) => Millis(1_000),
            _ => CALL_TIMEOUT,
        };
        self.after(patience.0, Due::TimesOut { call });
        let copies = match (self.healed, self.random.below(100)) {
            (false, 0..3) => 0,
            (false, 3..6) => 2,
            _ => 1,
        };
        for _ in 0..copies {
            let latency = self.latency();
            let life = self.life(to);
            self.after(latency, Due::Arrives { call, from, to, life, request: request.clone() });
        }
    }

    pub(super) fn arrives(
        &mut self,
        call: CallId,
        from: Place,
        to: NodeId,
        life: u64,
        request: Request,
    ) {
        let cut = match from {
            Place::Node(from, _) => self.is_cut(from, to),
            Place::Server => self.lonely.contains(&to),
            Place::Client(_) => false,
        };
        if cut || !self.is_up(to) || self.life(to) != life {
            return;
        }
        self.with(to, |process, now| process.request(now, call, request));
    }

    pub(super) fn answer(&mut self, node: NodeId, call: CallId, response: Response) {
        let Some(open) = self.open.get(&call) else { return };
        let to = open.from;
        let cut = match to {
            Place::Node(to, _) => self.is_cut(to, node),
            Place::Server => self.lonely.contains(&node),
            Place::Client(_) => false,
        };
        let lost = !self.healed && self.chance(3);
        if !cut && !lost {
            let latency = self.latency();
            self.after(latency, Due::Returns { call, to, from: node, response });
        }
    }

    pub(super) fn unanswered(&mut self, call: CallId, open: Open) {
        let Open { from, to, request } = open;
        match from {
            Place::Node(node, life) if self.life(node) == life && self.is_up(node) => {
                let event = match request {
                    Request::Prepare(prepare) => Some(Coordination::Prepared {
                        from: to,
                        epoch: prepare.promise.epoch,
                        answer: Err(Unanswered),
                    }),
                    Request::Append(sequence, append) => Some(Coordination::Appended {
                        from: to,
                        sequence,
                        epoch: append.promise.epoch,
                        answer: Err(Unanswered),
                    }),
                    Request::Pull(pull) => Some(Coordination::Pulled {
                        from: to,
                        epoch: pull.promise.epoch,
                        answer: Err(Unanswered),
                    }),
                    Request::Fetch(fetch) => Some(Coordination::Fetched {
                        from: to,
                        epoch: fetch.promise.epoch,
                        answer: None,
                    }),
                    _ => None,
                };
                if let Some(event) = event {
                    self.with(node, |process, _| process.coordinate(event));
                }
            }
            Place::Client(client) => self.client_hears(client, call, None),
            Place::Node(..) | Place::Server => {}
        }
    }

    pub(super) fn returns(
        &mut self,
        call: CallId,
        to: Place,
        from: NodeId,
        response: Option<Response>,
    ) {
        match (to, response) {
            (Place::Node(node, life), Some(response)) => {
                if self.life(node) == life && self.is_up(node) {
                    let event = coordination(from, response);
                    self.with(node, |process, _| process.coordinate(event));
                }
            }
            (Place::Client(client), response) => self.client_hears(client, call, response),
            (Place::Server, Some(Response::Appointed(accepted))) => {
                self.registry.answered(from, accepted);
            }
            (Place::Server | Place::Node(..), _) => {}
        }
    }

    pub(super) fn hear(&mut self, from: NodeId, request: ToServer) {
        let position = self.processes[&from].position();
        let answers = self.registry.hear(self.now, from, request, position, &mut self.random);
        self.carry_out_server(answers);
    }

    pub(super) fn server_tick(&mut self) {
        let answering: Vec<NodeId> = self
            .processes
            .keys()
            .copied()
            .filter(|node| self.is_up(*node) && !self.lonely.contains(node))
            .collect();
        let registered: Vec<NodeId> =
            answering.into_iter().filter(|node| self.processes[node].is_candidate()).collect();
        let out = self.registry.tick(self.now, &registered, &mut self.random);
        self.carry_out_server(out);
    }

    pub(super) fn carry_out_server(&mut self, out: Vec<registry::Out>) {
        for out in out {
            match out {
                registry::Out::Tell(to, what) => {
                    if let FromServer::Activated(_, Ok(_)) = &what {
                        self.figures.views += 1;
                    }
                    if !self.chance(if self.healed { 0 } else { 5 }) {
                        let (latency, life) = (self.latency(), self.life(to));
                        self.after(latency, Due::FromServer { to, life, what });
                    }
                }
                registry::Out::Appoint(to, appointment) => {
                    self.call(Place::Server, to, &Request::Appoint(appointment));
                }
            }
        }
    }

    pub(super) fn told(&mut self, to: NodeId, what: FromServer) {
        self.with(to, |process, _| match what {
            FromServer::Registered(registered) => process.node(Event::Registered(registered)),
            FromServer::Announce(announcement) => process.node(Event::Announce(announcement)),
            FromServer::Activated(epoch, answer) => {
                process.coordinate(Coordination::Activated { epoch, answer: Ok(answer) });
            }
            FromServer::Proposed(epoch, answer) => {
                process.coordinate(Coordination::Proposed { epoch, answer: Ok(answer) });
            }
            FromServer::Live(epoch, answer) => {
                process.coordinate(Coordination::Live { epoch, answer: Ok(Ok(answer)) });
            }
        });
    }
}

pub(super) fn coordination(from: NodeId, response: Response) -> Coordination {
    match response {
        Response::Prepared(epoch, answer) => {
            Coordination::Prepared { from, epoch, answer: Ok(answer) }
        }
        Response::Appended(sequence, epoch, answer) => {
            Coordination::Appended { from, sequence, epoch, answer: Ok(answer) }
        }
        Response::Pulled(pull, pulled) => {
            let batch = match &pulled {
                Pulled::Entries { batch } => match decode_batch(pull.after, batch) {
                    Ok(frames) => process::batch(batch.clone(), frames),
                    Err(_) => {
                        let (epoch, answer) = (pull.promise.epoch, Err(Unanswered));
                        return Coordination::Pulled { from, epoch, answer };
                    }
                },
                _ => Batch::default(),
            };
            Coordination::Pulled { from, epoch: pull.promise.epoch, answer: Ok((pulled, batch)) }
        }
        Response::Fetched(epoch, records) => {
            Coordination::Fetched { from, epoch, answer: Some(records) }
        }
        Response::Appointed(_) | Response::Changed(_) | Response::Read(_) => {
            unreachable!("no node asks for it")
        }
    }
}
