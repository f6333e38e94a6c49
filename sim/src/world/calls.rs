//! Calls between processes: late, twice, out of order, or never; and what the caller hears of it.

use quorate_protocol::ids::{NodeId, StoreId};
use quorate_protocol::time::Millis;
use quorate_server::core::event::{Event as ServerEvent, NotAppointed, Silence};

use super::{Context, Due, World};
use crate::host;
use crate::message::{CallId, End, Failure, Party, Request, Response, Then};

/// How long one call to the server may take.
const SERVER_CALL_MS: u64 = 1_000;

impl World {
    /// Whether this life of a process goes on.
    pub(super) fn lives(&self, party: Party) -> bool {
        match party.end {
            End::Client(_) => true,
            End::Server => self.server.is_up() && self.server.life == party.life,
            End::Host(host) => {
                let host = &self.hosts[&host];
                host.process.is_some() && host.life == party.life
            }
        }
    }

    pub(super) fn call_node(
        &mut self,
        caller: Party,
        address: &str,
        node: NodeId,
        request: Request,
        then: Then,
        patience_ms: u64,
    ) {
        if let Some(host) = host::host_of(address).filter(|host| self.hosts.contains_key(host)) {
            self.call(caller, (End::Host(host), node), request, then, patience_ms);
        }
    }

    pub(super) fn call_server(
        &mut self,
        caller: Party,
        request: quorate_server::core::event::Request,
        then: Then,
    ) {
        let request = Request::Registry(Box::new(request));
        self.call(caller, (End::Server, NodeId(0)), request, then, SERVER_CALL_MS);
    }

    #[expect(clippy::needless_pass_by_value, reason = "the network keeps what it is given")]
    fn call(
        &mut self,
        caller: Party,
        (to, node): (End, NodeId),
        request: Request,
        then: Then,
        patience_ms: u64,
    ) {
        let call = CallId(self.next_call);
        self.next_call += 1;
        // A heartbeat that goes unanswered says nothing; the next one follows.
        let is_awaited = !matches!(then, Then::Nothing | Then::Beat(_));
        let context = Context { call, caller, then, node, is_awaited };
        if is_awaited {
            self.open.insert(call, (context.clone(), to));
            let failure = Failure::Late;
            let at = self.now + Millis(patience_ms);
            self.at(at, Due::Fails { context: context.clone(), to, failure });
        }
        // A peer's connection says which store it is for (INV-9); whoever asks who is there does not.
        let store = self.store_of(&context.caller, node).filter(|_| !is_open(&request));
        let life = self.life(to);
        let generation = self.net.generation(caller.end, to);
        let arrivals = self.net.arrivals(self.now, caller.end, to, &mut self.chance);
        if let (End::Client(client), 2..) = (caller.end, arrivals.len()) {
            self.clients[client].is_sent_twice();
        }
        for at in arrivals {
            let (context, request) = (context.clone(), request.clone());
            let due = Due::Request { call, context, to, life, store, generation, request };
            self.at(at, due);
        }
    }

    /// The store that the caller takes `node` to have.
    fn store_of(&self, caller: &Party, node: NodeId) -> Option<StoreId> {
        let directory = match caller.end {
            End::Server => &self.server.state()?.directory,
            End::Host(host) => self.hosts[&host].process.as_ref()?.node().nodes(),
            End::Client(_) => return None,
        };
        directory.get(&node).map(|known| known.store)
    }

    fn life(&self, end: End) -> u64 {
        match end {
            End::Client(_) => 0,
            End::Server => self.server.life,
            End::Host(host) => self.hosts[&host].life,
        }
    }

    #[expect(clippy::too_many_arguments, reason = "one due thing, taken apart")]
    pub(super) fn request_arrives(
        &mut self,
        call: CallId,
        context: Context,
        to: End,
        life: u64,
        store: Option<StoreId>,
        generation: u64,
        request: Request,
    ) {
        let from = context.caller.end;
        if self.net.is_cut(from, to) || self.net.generation(from, to) != generation {
            return;
        }
        let (is_up, is_off) = match to {
            End::Server => (self.server.is_up(), false),
            End::Host(host) => (self.hosts[&host].process.is_some(), self.hosts[&host].is_off),
            End::Client(_) => return,
        };
        if is_off {
            return;
        }
        if !is_up || self.life(to) != life {
            // The machine says that nobody listens, or that the connection is not known any more.
            let failure = if is_up { Failure::Lost } else { Failure::Refused };
            return self.say_failure(context, to, failure);
        }
        if let End::Host(host) = to
            && let Some(until) = self.hosts[&host].frozen_until.filter(|until| *until > self.now)
        {
            let due = Due::Request { call, context, to, life, store, generation, request };
            return self.at(until, due);
        }
        if let End::Host(host) = to
            && store.is_some_and(|store| store != self.hosts[&host].store())
        {
            return self.say_failure(context, to, Failure::Lost);
        }
        self.inbound.insert(call, context);
        match (to, request) {
            (End::Server, Request::Registry(request)) => {
                let now = self.now;
                self.checks.story.say(|| format!("{now} server <- {request:?} from {from:?}"));
                let out = self.server.call(now, call, *request);
                self.carry_out_server(out);
            }
            (End::Host(host), request) => {
                self.with(host, |process, _, now, _| process.request(now, call, request));
            }
            _ => {}
        }
    }

    /// The caller hears that its call failed, if that way is not cut.
    fn say_failure(&mut self, context: Context, to: End, failure: Failure) {
        let caller = context.caller.end;
        if self.net.is_cut(to, caller) {
            return;
        }
        let arrivals = self.net.arrivals(self.now, to, caller, &mut self.chance);
        if let Some(at) = arrivals.first() {
            self.at(*at, Due::Fails { context, to, failure });
        }
    }

    #[expect(clippy::needless_pass_by_value, reason = "the network keeps what it is given")]
    pub(super) fn answer(&mut self, from: End, call: CallId, response: Response) {
        let Some(context) = self.inbound.remove(&call) else { return };
        let to = context.caller.end;
        let generation = self.net.generation(from, to);
        for at in self.net.arrivals(self.now, from, to, &mut self.chance) {
            let (context, response) = (context.clone(), response.clone());
            self.at(at, Due::Response { context, from, generation, response });
        }
    }

    pub(super) fn response_arrives(
        &mut self,
        context: Context,
        from: End,
        generation: u64,
        response: Response,
    ) {
        let to = context.caller.end;
        if self.net.is_cut(from, to) || self.net.generation(from, to) != generation {
            return;
        }
        if !self.lives(context.caller) {
            return;
        }
        if let End::Host(host) = to
            && let Some(until) = self.hosts[&host].frozen_until.filter(|until| *until > self.now)
        {
            return self.at(until, Due::Response { context, from, generation, response });
        }
        if context.is_awaited && self.open.remove(&context.call).is_none() {
            return;
        }
        self.outcome(context, from, Ok(response));
    }

    pub(super) fn call_fails(&mut self, context: Context, to: End, failure: Failure) {
        if context.is_awaited && self.open.remove(&context.call).is_none() {
            return;
        }
        if !self.lives(context.caller) {
            return;
        }
        if let End::Host(host) = context.caller.end
            && let Some(until) = self.hosts[&host].frozen_until.filter(|until| *until > self.now)
        {
            if context.is_awaited {
                self.open.insert(context.call, (context.clone(), to));
            }
            return self.at(until, Due::Fails { context, to, failure });
        }
        self.outcome(context, to, Err(failure));
    }

    /// A process ended: whoever waits for it sees the connection close, unless something on the
    /// way keeps that from him.
    pub(super) fn connections_close(&mut self, end: End) {
        let waiting: Vec<Context> = self
            .open
            .values()
            .filter(|(context, to)| *to == end && context.caller.end != end)
            .map(|(context, _)| context.clone())
            .collect();
        for context in waiting {
            self.say_failure(context, end, Failure::Lost);
        }
    }

    /// The connections between two machines break, and both see it.
    pub(crate) fn reset(&mut self, a: End, b: End) {
        self.net.reset(a, b);
        let waiting: Vec<(Context, End)> = self
            .open
            .values()
            .filter(|(context, to)| {
                let from = context.caller.end;
                (from, *to) == (a, b) || (from, *to) == (b, a)
            })
            .cloned()
            .collect();
        for (context, to) in waiting {
            let failure = Failure::Lost;
            let at = self.now + Millis(1);
            self.at(at, Due::Fails { context, to, failure });
        }
    }

    /// The caller hears what became of its call.
    fn outcome(&mut self, context: Context, other: End, outcome: Result<Response, Failure>) {
        let (then, node) = (context.then, context.node);
        match context.caller.end {
            End::Server => self.server_hears(then, outcome),
            End::Client(client) => {
                if let Then::Client(attempt) = then {
                    let response = outcome.ok().map(unwrap_registry);
                    self.client_hears(client, attempt, response);
                }
            }
            End::Host(host) => match (other, then) {
                (End::Server, then) => {
                    let answer = match outcome {
                        Ok(Response::Registry(answer)) => Some(*answer),
                        _ => None,
                    };
                    self.with(host, |process, _, _, _| process.server_said(then, answer));
                }
                (_, Then::Beat(node)) if matches!(outcome, Err(Failure::Refused)) => {
                    self.with(host, |process, _, _, _| {
                        let event = quorate_node::core::event::Event::RefusedBy(node);
                        process.node_event(event);
                    });
                }
                (End::Host(_), then) => {
                    let answered = outcome.ok();
                    self.with(host, |process, _, _, _| process.outcome(node, then, answered));
                }
                (End::Client(_), _) => {}
            },
        }
    }

    fn server_hears(&mut self, then: Then, outcome: Result<Response, Failure>) {
        let silence = |failure| match failure {
            Failure::Refused => Silence::Refused,
            Failure::Lost | Failure::Late => Silence::Timeout,
        };
        let event = match (then, outcome) {
            (Then::Surveyed(round, node), outcome) => {
                let result = match outcome {
                    Ok(Response::Survey(survey)) => Ok(survey),
                    Ok(_) => Err(Silence::Timeout),
                    Err(failure) => Err(silence(failure)),
                };
                ServerEvent::SurveyAnswer { round, node, result }
            }
            (Then::Appointed(epoch), outcome) => {
                let result = match outcome {
                    Ok(Response::Appointed(result)) => result.map_err(NotAppointed::Refused),
                    Ok(_) => Err(NotAppointed::Unreachable(Silence::Timeout)),
                    Err(failure) => Err(NotAppointed::Unreachable(silence(failure))),
                };
                ServerEvent::AppointAnswer { epoch, result }
            }
            _ => return,
        };
        let now = self.now;
        self.checks.story.say(|| format!("{now} server <- {event:?}"));
        let out = self.server.step(now, event);
        self.carry_out_server(out);
    }
}

/// Whether a request is for whoever is there.
fn is_open(request: &Request) -> bool {
    matches!(request, Request::Survey | Request::Read(_))
}

/// A client hears the same from the server as from a node.
fn unwrap_registry(response: Response) -> Response {
    match response {
        Response::Registry(answer) => match *answer {
            quorate_server::core::effect::Answer::Coordinator(known) => {
                Response::Coordinator(known)
            }
            other => Response::Registry(Box::new(other)),
        },
        other => other,
    }
}
