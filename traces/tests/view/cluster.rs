//! A made-up trace of a small cluster: heartbeats, writes that go to two followers, an election after
//! the coordinator was killed, and its return as a new incarnation. The same arguments make the same trace.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use serde_json::{Value, json};

/// What to make.
pub(crate) struct Shape {
    pub(crate) nodes: usize,
    pub(crate) clients: usize,
    pub(crate) events: usize,
    /// Between an answer and the client's next request.
    pub(crate) think_us: u64,
}

/// The document of the page.
pub(crate) fn document(shape: &Shape) -> Value {
    let mut cluster = Cluster::new(shape);
    cluster.run(shape.events);
    cluster.document(shape.events)
}

struct Process {
    host: usize,
    incarnation: u64,
    killed: bool,
}

struct Event {
    at: u64,
    process: usize,
    kind: &'static str,
    level: u8,
    from: Option<usize>,
    text: String,
    request: Option<usize>,
}

struct Span {
    process: usize,
    name: &'static str,
    start: u64,
    end: u64,
    request: Option<usize>,
}

struct Request {
    client: usize,
    key: u64,
    name: String,
    began: u64,
    ordered: Option<u64>,
    acks: usize,
    done: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Call {
    Beat,
    Write,
    Append,
    Report,
    Appoint,
    Prepare,
    Activate,
    Register,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Message {
    call: Call,
    reply: bool,
    request: Option<usize>,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Step {
    Beat(usize),
    Ask(usize),
    Retry(usize),
    Deliver { sent: usize, from: usize, to: usize, message: Message },
    Synced { host: usize, from: usize, message: Message },
    Suspect(usize),
    Restart(usize),
}

struct Cluster {
    nodes: usize,
    think_us: u64,
    names: Vec<String>,
    current: Vec<Option<usize>>,
    processes: Vec<Process>,
    events: Vec<Event>,
    spans: Vec<Span>,
    requests: Vec<Request>,
    coordinator: usize,
    epoch: u64,
    prepared: usize,
    now: u64,
    seed: u64,
    steps: BinaryHeap<Reverse<(u64, u64, Step)>>,
    pushed: u64,
}

const SERVER: usize = 0;

impl Cluster {
    fn new(shape: &Shape) -> Self {
        let mut names = vec!["server".to_owned()];
        names.extend((1..=shape.nodes).map(|n| format!("node-{n}")));
        names.extend((1..=shape.clients).map(|n| format!("client-{:08x}", n * 0x0913_7a5b)));
        let mut cluster = Self {
            nodes: shape.nodes,
            think_us: shape.think_us,
            current: vec![None; names.len()],
            names,
            processes: Vec::new(),
            events: Vec::new(),
            spans: Vec::new(),
            requests: Vec::new(),
            coordinator: 1,
            epoch: 1,
            prepared: 0,
            now: 0,
            seed: 0x9e37_79b9_7f4a_7c15,
            steps: BinaryHeap::new(),
            pushed: 0,
        };
        for host in 0..cluster.names.len() {
            cluster.now = 400 * host as u64;
            cluster.start(host, 1);
        }
        cluster
    }

    fn random(&mut self, below: u64) -> u64 {
        self.seed ^= self.seed << 13;
        self.seed ^= self.seed >> 7;
        self.seed ^= self.seed << 17;
        self.seed % below
    }

    fn after(&mut self, micros: u64, step: Step) {
        self.pushed += 1;
        self.steps.push(Reverse((self.now + micros, self.pushed, step)));
    }

    fn is_node(&self, host: usize) -> bool {
        (1..=self.nodes).contains(&host)
    }

    fn start(&mut self, host: usize, incarnation: u64) {
        self.processes.push(Process { host, incarnation, killed: false });
        self.current[host] = Some(self.processes.len() - 1);
        let role = if host == SERVER {
            "server"
        } else {
            ["client", "node"][usize::from(self.is_node(host))]
        };
        let text = format!(
            "role={role} address=10.0.0.{}:4747 pid={} trace=1",
            host + 1,
            4000 + self.processes.len()
        );
        self.note(host, "start", 2, text, None);
        if self.is_node(host) {
            let call = Message { call: Call::Register, reply: false, request: None };
            self.send(host, SERVER, call);
            self.after(20_000 + 7_000 * host as u64, Step::Beat(self.processes.len() - 1));
        } else if host != SERVER {
            let wait = 30_000 + self.random(20_000);
            self.after(wait, Step::Ask(host));
        }
    }

    fn note(
        &mut self,
        host: usize,
        kind: &'static str,
        level: u8,
        text: String,
        request: Option<usize>,
    ) -> usize {
        let process = self.current[host].expect("only the living note");
        self.now += 1;
        self.events.push(Event { at: self.now, process, kind, level, from: None, text, request });
        self.events.len() - 1
    }

    fn span(
        &mut self,
        host: usize,
        name: &'static str,
        start: u64,
        end: u64,
        request: Option<usize>,
    ) {
        if let Some(process) = self.current[host] {
            self.spans.push(Span { process, name, start, end, request });
        }
    }

    fn send(&mut self, from: usize, to: usize, message: Message) {
        let text = format!("to={} {}", self.names[to], self.words(message));
        let level = if message.call == Call::Beat { 4 } else { 3 };
        let sent = self.note(from, "send", level, text, message.request);
        let wait = 150 + self.random(250);
        self.after(wait, Step::Deliver { sent, from, to, message });
    }

    fn words(&self, message: Message) -> String {
        let name = match message.call {
            Call::Beat => "node.heartbeat",
            Call::Write => "client.write",
            Call::Append => "replica.append",
            Call::Report => "server.report_coordinator",
            Call::Appoint => "node.appoint",
            Call::Prepare => "replica.prepare",
            Call::Activate => "server.activate",
            Call::Register => "server.register",
        };
        let way = if message.reply { "reply" } else { "request" };
        let mut words = format!("rpc={name} dir={way} epoch={}", self.epoch);
        if let Some(request) = message.request {
            let Request { key, name, .. } = &self.requests[request];
            words += &format!(" key=user/{key} request={name}");
        }
        words
    }

    fn run(&mut self, events: usize) {
        let mut killed = false;
        while self.events.len() < events {
            let Some(Reverse((at, _, step))) = self.steps.pop() else { break };
            self.now = self.now.max(at);
            if !killed && self.events.len() > events * 2 / 5 {
                killed = true;
                let lost = self.coordinator;
                let process = self.current[lost].take().expect("it lives until now");
                self.processes[process].killed = true;
                self.after(520_000, Step::Suspect(lost));
                self.after(1_400_000, Step::Restart(lost));
            }
            self.step(step);
        }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Beat(process) => {
                let host = self.processes[process].host;
                if self.current[host] != Some(process) {
                    return;
                }
                for other in (1..=self.nodes).filter(|&other| other != host) {
                    self.send(
                        host,
                        other,
                        Message { call: Call::Beat, reply: false, request: None },
                    );
                }
                self.after(100_000, Step::Beat(process));
            }
            Step::Ask(client) => {
                let key = self.random(7);
                let name = format!("c{:x}.{}", client * 0x1f3, self.requests.len() + 1);
                let began = self.now;
                self.requests.push(Request {
                    client,
                    key,
                    name,
                    began,
                    ordered: None,
                    acks: 0,
                    done: false,
                });
                self.ask(self.requests.len() - 1);
            }
            Step::Retry(request) => {
                if !self.requests[request].done {
                    let client = self.requests[request].client;
                    self.note(
                        client,
                        "retry",
                        1,
                        "no answer in 300ms, asking again".to_owned(),
                        Some(request),
                    );
                    self.ask(request);
                }
            }
            Step::Deliver { sent, from, to, message } => self.deliver(sent, from, to, message),
            Step::Synced { host, from, message } => self.synced(host, from, message),
            Step::Suspect(lost) => {
                for host in (1..=self.nodes).filter(|&host| host != lost) {
                    let text = format!("node={} silent for 500ms", self.names[lost]);
                    self.note(host, "suspect", 1, text, None);
                    self.send(
                        host,
                        SERVER,
                        Message { call: Call::Report, reply: false, request: None },
                    );
                }
            }
            Step::Restart(host) => self.start(host, 2),
        }
    }

    fn ask(&mut self, request: usize) {
        let client = self.requests[request].client;
        self.send(
            client,
            self.coordinator,
            Message { call: Call::Write, reply: false, request: Some(request) },
        );
        self.after(300_000, Step::Retry(request));
    }

    fn deliver(&mut self, sent: usize, from: usize, to: usize, message: Message) {
        if self.current[to].is_none() {
            return;
        }
        let stamp = &self.events[sent];
        let name = &self.processes[stamp.process];
        let text = format!(
            "from={}.{}:{sent} {}",
            self.names[name.host],
            name.incarnation,
            self.words(message)
        );
        let level = if message.call == Call::Beat { 4 } else { 3 };
        let got = self.note(to, "recv", level, text, message.request);
        self.events[got].from = Some(sent);
        let reply = Message { reply: true, ..message };
        match (message.call, message.reply) {
            (Call::Beat | Call::Register, false) => self.send(to, from, reply),
            (Call::Write, false) => self.order(to, message),
            (Call::Append | Call::Prepare, false) => {
                let wait = 300 + self.random(500);
                self.span(to, "fsync", self.now, self.now + wait, message.request);
                self.after(wait, Step::Synced { host: to, from, message });
            }
            (Call::Append, true) => self.acknowledged(to, message),
            (Call::Write, true) => self.answered(to, message),
            (Call::Report, false) => self.elect(from),
            (Call::Appoint, false) => self.take_over(to),
            (Call::Prepare, true) => {
                self.prepared += 1;
                if self.prepared == 1 {
                    self.send(
                        to,
                        SERVER,
                        Message { call: Call::Activate, reply: false, request: None },
                    );
                }
            }
            (Call::Activate, false) => self.send(to, from, reply),
            (Call::Activate, true) => {
                let text = format!("epoch={} members={}", self.epoch, self.nodes - 1);
                self.note(to, "activated", 2, text, None);
            }
            _ => {}
        }
    }

    fn order(&mut self, to: usize, message: Message) {
        let request = message.request.expect("a write has one");
        self.requests[request].ordered = Some(self.now);
        let version = format!("version=({},{request})", self.epoch);
        self.note(to, "order", 2, version, Some(request));
        for member in (1..=self.nodes).filter(|&member| member != to).take(4) {
            self.send(
                to,
                member,
                Message { call: Call::Append, reply: false, request: message.request },
            );
        }
        self.span(to, "order", self.now - 20, self.now + 30, Some(request));
    }

    fn synced(&mut self, host: usize, from: usize, message: Message) {
        if self.current[host].is_some() {
            self.note(host, "fsync", 3, "bytes=4096".to_owned(), message.request);
            self.send(host, from, Message { reply: true, ..message });
        }
    }

    fn acknowledged(&mut self, to: usize, message: Message) {
        let number = message.request.expect("an append has one");
        let Request { acks, ordered, client, .. } = &mut self.requests[number];
        *acks += 1;
        let (first, began, client) = (*acks == 1, ordered.unwrap_or_default(), *client);
        self.span(to, "append", began, self.now, Some(number));
        if first {
            self.note(to, "commit", 2, format!("version=({},{number})", self.epoch), Some(number));
            self.span(to, "commit", began, self.now, Some(number));
            self.send(
                to,
                client,
                Message { call: Call::Write, reply: true, request: Some(number) },
            );
            self.note(to, "apply", 3, "quorum of 2 holds it".to_owned(), Some(number));
        }
    }

    fn answered(&mut self, client: usize, message: Message) {
        let number = message.request.expect("a write has one");
        if !std::mem::replace(&mut self.requests[number].done, true) {
            self.span(
                client,
                "client request",
                self.requests[number].began,
                self.now,
                Some(number),
            );
            let wait = self.think_us / 2 + self.random(self.think_us + 1);
            self.after(wait, Step::Ask(client));
        }
    }

    fn elect(&mut self, reporter: usize) {
        if self.current[self.coordinator].is_some() {
            return;
        }
        self.epoch += 1;
        self.note(SERVER, "election", 2, format!("epoch={} votes=2", self.epoch), None);
        self.span(SERVER, "election", self.now - 900, self.now + 2_500, None);
        self.coordinator = reporter;
        self.prepared = 0;
        self.send(SERVER, reporter, Message { call: Call::Appoint, reply: false, request: None });
    }

    fn take_over(&mut self, host: usize) {
        self.note(host, "takeover", 2, format!("epoch={} best=here", self.epoch), None);
        self.span(host, "takeover", self.now, self.now + 1_900, None);
        for member in (1..=self.nodes).filter(|&member| member != host) {
            self.send(host, member, Message { call: Call::Prepare, reply: false, request: None });
        }
    }

    fn document(self, events: usize) -> Value {
        let mut strings = Strings::default();
        let keys: Vec<i64> =
            self.requests.iter().map(|r| strings.index(format!("user/{}", r.key))).collect();
        let tokens: Vec<i64> =
            self.requests.iter().map(|r| strings.index(r.name.clone())).collect();
        let of = |list: &[i64], request: Option<usize>| request.map_or(-1, |r| list[r]);
        let mut kinds: Vec<&str> = Vec::new();
        let made: Vec<&Event> = self.events.iter().take(events).collect();
        let kind: Vec<usize> = made
            .iter()
            .map(|event| {
                kinds.iter().position(|kind| *kind == event.kind).unwrap_or_else(|| {
                    kinds.push(event.kind);
                    kinds.len() - 1
                })
            })
            .collect();
        let text: Vec<i64> = made.iter().map(|event| strings.index(event.text.clone())).collect();
        let names: Vec<i64> =
            self.spans.iter().map(|span| strings.index(span.name.to_owned())).collect();
        let processes: Vec<Value> =
            self.processes.iter().map(|process| self.process(process)).collect();
        json!({
            "title": "three nodes, one killed",
            "start_unix_ns": "1764223200000000000",
            "processes": processes,
            "kinds": kinds,
            "events": {
                "process": made.iter().map(|event| event.process).collect::<Vec<_>>(),
                "at": made.iter().map(|event| event.at as f64).collect::<Vec<_>>(),
                "kind": kind,
                "level": made.iter().map(|event| event.level).collect::<Vec<_>>(),
                "from": made.iter().map(|event| event.from.map_or(-1, |from| from as i64)).collect::<Vec<_>>(),
                "text": text,
                "key": made.iter().map(|event| of(&keys, event.request)).collect::<Vec<_>>(),
                "request": made.iter().map(|event| of(&tokens, event.request)).collect::<Vec<_>>(),
            },
            "spans": {
                "process": self.spans.iter().map(|span| span.process).collect::<Vec<_>>(),
                "name": names,
                "start": self.spans.iter().map(|span| span.start as f64).collect::<Vec<_>>(),
                "end": self.spans.iter().map(|span| span.end as f64).collect::<Vec<_>>(),
                "request": self.spans.iter().map(|span| of(&tokens, span.request)).collect::<Vec<_>>(),
                "text": vec![-1; self.spans.len()],
            },
            "findings": ["node-1.1: the log ends in the middle of an event; that one is left out"],
            "strings": strings.list,
        })
    }

    fn process(&self, process: &Process) -> Value {
        let Process { host, incarnation, killed } = process;
        let role = if *host == SERVER {
            "server"
        } else {
            ["client", "node"][usize::from(self.is_node(*host))]
        };
        json!({
            "name": format!("{}.{incarnation}", self.names[*host]),
            "host": self.names[*host],
            "incarnation": incarnation,
            "role": role,
            "node": self.is_node(*host).then(|| format!("n{host}")),
            "lostHead": false,
            "lostTail": killed,
            "note": "",
        })
    }
}

#[derive(Default)]
struct Strings {
    list: Vec<String>,
    indexes: BTreeMap<String, i64>,
}

impl Strings {
    fn index(&mut self, text: String) -> i64 {
        *self.indexes.entry(text.clone()).or_insert_with(|| {
            self.list.push(text);
            self.list.len() as i64 - 1
        })
    }
}
