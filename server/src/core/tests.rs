//! Runs the golden scripts in `testscripts/`: one claim a file, named by it.
//!
//! A script plays everyone around the server. Times are in milliseconds; stores are named by
//! letters; every node's address is its first store's letter. By default the disk is quick:
//! each `persist` is durable before the next command; after `hold` only `persisted` makes it so.
//!
//! ```text
//! cluster N [memory=]           N nodes, registered and active as e2 (as e1 for one)
//! register STORE [address=A] [memory=] [as=n1 position=1.2 promised=e1/n1 history=h0 cluster=7
//!                             marked= restarted=] [process=9]
//! report EPOCH REPORTER VOTE    resign EPOCH NODE [leaving=]
//! propose EPOCH NODE MEMBER… [evicted=n3]
//! progress EPOCH NODE           activate EPOCH NODE
//! live EPOCH NODE [n1=1.5 …]    set NAME VALUE
//! nodes, coordinator, settings, status
//! answer NODE… [store=S position=1.2 promised=e1/n1 history=h0 marked= leaving=
//!                 unregistered=]
//! refuse NODE…                  the address refuses connections
//! timeout NODE…                 no answer in time
//! accept EPOCH                  the appointed node accepts
//! decline EPOCH refused|timeout|marked|stopping|promised=e9/n1
//! wait MS                       ticks every 10 ms
//! hold, persisted [TICKET]      restart (from what is durable), abandon, state
//! ```

use std::fmt::Write as _;

use goldenscript::{Command, Context};
use quorate_golden::{Args, Outcome, parse, promise, run_all};
use quorate_protocol::ids::{ClusterId, Epoch, History, NodeId, ProcessId, StoreId};
use quorate_protocol::rpc::appoint::{AppointRefused, Survey};
use quorate_protocol::rpc::registry::{
    Claim, Identity, Live, Proposal, Registering, Report, Resignation, SettingChange,
};
use quorate_protocol::seeded::Seeded;
use quorate_protocol::settings::Settings;
use quorate_protocol::time::{Millis, Moment};
use quorate_protocol::version::Version;
use quorate_protocol::view::Members;

use super::Core;
use super::effect::{Answer, Effect};
use super::event::{CallId, Event, NotAppointed, Request, Round, Silence, Ticket};
use super::state::{Kind, State};

const CLUSTER: ClusterId = ClusterId(7);
const TICK: Millis = Millis(10);

/// Everyone around one server.
struct Runner {
    core: Core,
    now: Moment,
    calls: u64,
    /// The last process that was started.
    process: u128,
    /// The newest survey.
    round: Round,
    hold: bool,
    issued: Vec<(Ticket, State)>,
    durable: State,
}

impl Runner {
    fn new() -> Self {
        let state = State::new(CLUSTER, Settings::default());
        Self {
            core: Core::new(state.clone(), Seeded::new(1), Moment(0)),
            now: Moment(0),
            calls: 0,
            process: 0,
            round: Round(0),
            hold: false,
            issued: Vec::new(),
            durable: state,
        }
    }

    /// One event; what comes of it, as text.
    fn step(&mut self, event: Event) -> String {
        let mut effects = Vec::new();
        self.core.step(self.now, event, &mut effects);
        let mut output = String::new();
        for effect in effects {
            let line = self.take(&effect);
            writeln!(output, "{line}").unwrap();
        }
        if !self.hold
            && let Some((ticket, _)) = self.issued.last()
        {
            let ticket = *ticket;
            output.push_str(&self.persisted(ticket));
        }
        output
    }

    fn persisted(&mut self, ticket: Ticket) -> String {
        for (_, state) in self.issued.extract_if(.., |(issued, _)| *issued <= ticket) {
            self.durable = state;
        }
        self.step(Event::Persisted { ticket })
    }

    fn next_process(&mut self) -> ProcessId {
        self.process += 1;
        ProcessId(self.process)
    }

    fn call(&mut self, request: Request) -> String {
        self.calls += 1;
        let call = CallId(self.calls);
        self.step(Event::Call { call, request })
    }

    fn take(&mut self, effect: &Effect) -> String {
        match effect {
            Effect::Persist { ticket, state } => {
                let before = self.issued.last().map_or(&self.durable, |(_, state)| state);
                let text = format!("persist t{}{}", ticket.0, difference(before, state));
                self.issued.push((*ticket, (**state).clone()));
                text
            }
            Effect::Survey { round, nodes } => {
                self.round = *round;
                format!("survey s{} {}", round.0, places(nodes))
            }
            Effect::Reply { call, answer } => format!("reply #{} {}", call.0, describe(answer)),
            Effect::Appoint { node, address, appointment } => format!(
                "appoint {node}@{address} {} reading from {}",
                appointment.view, appointment.active
            ),
            Effect::Announce { nodes, announcement } => {
                let active = show(announcement.active.as_ref());
                let mut text = format!(
                    "announce to {}: active {active}, newest {}",
                    places(nodes),
                    announcement.newest
                );
                if !announcement.evicted.is_empty() {
                    write!(text, ", evicted {}", announcement.evicted).unwrap();
                }
                text
            }
            Effect::Stop(reason) => format!("stop: {reason}"),
        }
    }

    /// A whole cluster at once, without output.
    fn cluster(&mut self, args: &mut Args<'_>) -> Outcome<String> {
        let size: u32 = args.take()?;
        let memory = args.flag("memory");
        let nodes: Members = (1..=size).map(NodeId).collect();
        for node in nodes.iter() {
            let store = char::from(b'a' + u8::try_from(node.0 - 1)?);
            let process = self.next_process();
            self.call(Request::Register(Registering {
                address: format!("{store}:1"),
                store: StoreId(u128::from(u32::from(store))),
                durable: !memory,
                process,
                identity: None,
            }));
        }
        let coordinator = NodeId(1);
        self.step(Event::AppointAnswer { epoch: Epoch(1), result: Ok(()) });
        self.call(Request::Activate(Claim { epoch: Epoch(1), coordinator }));
        let mut epoch = Epoch(1);
        if size > 1 {
            let evicted = Members::default();
            self.call(Request::ProposeMembers(Proposal {
                epoch,
                coordinator,
                members: nodes.clone(),
                evicted,
            }));
            epoch = Epoch(2);
            self.call(Request::Activate(Claim { epoch, coordinator }));
        }
        let positions = nodes.iter().map(|node| (node, Version::ZERO)).collect();
        let claim = Claim { epoch, coordinator };
        self.call(Request::ReportLive(Live { claim, positions }));
        Ok(format!("active {}", show(self.core.state().active.as_ref())))
    }

    fn answer(&mut self, args: &mut Args<'_>) -> Outcome<String> {
        let store: Option<String> = args.key("store")?;
        let position = args.key("position")?;
        let promised = args.key_as("promised", promise)?.unwrap_or_default();
        let history = args.key("history")?.unwrap_or(self.core.state().history);
        let (marked, leaving) = (args.flag("marked"), args.flag("leaving"));
        let unregistered = args.flag("unregistered");
        let mut output = String::new();
        for node in args.rest::<NodeId, Vec<_>>()? {
            let known = self.core.state().directory.get(&node);
            let survey = Survey {
                node: (!unregistered).then_some(node),
                store: match &store {
                    Some(store) => store_id(store)?,
                    None => known.map(|known| known.store).unwrap_or_default(),
                },
                history,
                promised,
                position: position.or(known.map(|known| known.floor)).unwrap_or_default(),
                marked,
                leaving,
            };
            let round = self.round;
            output += &self.step(Event::SurveyAnswer { round, node, result: Ok(survey) });
        }
        Ok(output)
    }

    fn silent(&mut self, args: &mut Args<'_>, silence: Silence) -> Outcome<String> {
        let mut output = String::new();
        for node in args.rest::<NodeId, Vec<_>>()? {
            let round = self.round;
            output += &self.step(Event::SurveyAnswer { round, node, result: Err(silence) });
        }
        Ok(output)
    }

    fn wait(&mut self, span: Millis) -> String {
        let until = self.now + span;
        let mut output = String::new();
        while self.now < until {
            self.now = until.min(self.now + TICK);
            let stepped = self.step(Event::Tick);
            if !stepped.is_empty() {
                write!(output, "at {}ms:\n{stepped}", self.now.0 / 1_000).unwrap();
            }
        }
        output
    }

    fn restart(&mut self) -> String {
        self.issued.clear();
        self.hold = false;
        self.core = Core::new(self.durable.clone(), Seeded::new(1), self.now);
        self.step(Event::Tick)
    }

    fn state(&self) -> String {
        let state = self.core.state();
        let mut text = format!(
            "{} next {} newest {}\nactive {} proposed {} ended {}\n",
            state.history,
            state.next_node,
            state.newest,
            show(state.active.as_ref()),
            show(state.proposed.as_ref().map(|it| &it.view)),
            ended(state),
        );
        for (node, known) in state.directory.iter() {
            let kind = if known.durable { "disk" } else { "memory" };
            let marked = if known.marked { " marked" } else { "" };
            writeln!(text, "{node}@{} {kind} floor {}{marked}", known.address, known.floor)
                .unwrap();
        }
        text
    }

    fn request(&mut self, name: &str, args: &mut Args<'_>) -> Outcome<Option<Request>> {
        Ok(Some(match name {
            "register" => {
                // By default each registration comes from a process of its own.
                let process = args.key("process")?.map(ProcessId);
                let process = process.unwrap_or_else(|| self.next_process());
                Request::Register(registering(args, process)?)
            }
            "nodes" => Request::Nodes,
            "coordinator" => Request::Coordinator,
            "report" => Request::ReportCoordinator(Report {
                epoch: args.take()?,
                reporter: args.take()?,
                vote: args.take()?,
            }),
            "resign" => Request::Resign(Resignation {
                epoch: args.take()?,
                node: args.take()?,
                leaving: args.flag("leaving"),
            }),
            "propose" => Request::ProposeMembers(Proposal {
                epoch: args.take()?,
                coordinator: args.take()?,
                evicted: args.key("evicted")?.into_iter().collect(),
                members: args.rest()?,
            }),
            "progress" => Request::Progress(claim(args)?),
            "activate" => Request::Activate(claim(args)?),
            "live" => {
                let claim = claim(args)?;
                Request::ReportLive(Live { claim, positions: positions(args)? })
            }
            "settings" => Request::Settings,
            "set" => Request::Set(SettingChange { name: args.take()?, value: args.take()? }),
            "status" => Request::Status,
            _ => return Ok(None),
        }))
    }

    fn event(&mut self, name: &str, args: &mut Args<'_>) -> Outcome<String> {
        Ok(match name {
            "cluster" => self.cluster(args)?,
            "answer" => self.answer(args)?,
            "refuse" => self.silent(args, Silence::Refused)?,
            "timeout" => self.silent(args, Silence::Timeout)?,
            "accept" => {
                let epoch = args.take()?;
                self.step(Event::AppointAnswer { epoch, result: Ok(()) })
            }
            "decline" => {
                let epoch = args.take()?;
                let result = Err(not_appointed(args)?);
                self.step(Event::AppointAnswer { epoch, result })
            }
            "wait" => {
                let span = Millis(args.take()?);
                self.wait(span)
            }
            "abandon" => self.step(Event::AbandonData),
            "hold" => {
                self.hold = true;
                String::new()
            }
            "persisted" => {
                let newest = self.issued.last().map(|(ticket, _)| ticket.0);
                let ticket = args.take().ok().or(newest).ok_or("nothing waits")?;
                self.persisted(Ticket(ticket))
            }
            "restart" => self.restart(),
            "state" => self.state(),
            other => return Err(format!("no command {other}").into()),
        })
    }
}

impl goldenscript::Runner for Runner {
    type Command = Command;

    fn run(&mut self, command: &Command, _: &Context) -> Outcome<String> {
        let mut args = Args::of(command);
        let output = match self.request(&command.name, &mut args)? {
            Some(request) => self.call(request),
            None => self.event(&command.name, &mut args)?,
        };
        args.finish()?;
        Ok(output)
    }
}

fn claim(args: &mut Args<'_>) -> Outcome<Claim> {
    Ok(Claim { epoch: args.take()?, coordinator: args.take()? })
}

fn positions(args: &mut Args<'_>) -> Outcome<Vec<(NodeId, Version)>> {
    std::iter::from_fn(|| args.pair())
        .map(|(node, version)| Ok((parse(node)?, parse(version)?)))
        .collect()
}

fn not_appointed(args: &mut Args<'_>) -> Outcome<NotAppointed> {
    if let Some(promised) = args.key_as("promised", promise)? {
        return Ok(NotAppointed::Refused(AppointRefused::Promised { promised }));
    }
    Ok(match args.take::<String>()?.as_str() {
        "refused" => NotAppointed::Unreachable(Silence::Refused),
        "timeout" => NotAppointed::Unreachable(Silence::Timeout),
        "marked" => NotAppointed::Refused(AppointRefused::Marked),
        "stopping" => NotAppointed::Refused(AppointRefused::Stopping),
        other => return Err(format!("no way to decline: {other}").into()),
    })
}

fn registering(args: &mut Args<'_>, process: ProcessId) -> Outcome<Registering> {
    let store: String = args.take()?;
    let identity = match args.key("as")? {
        None => None,
        Some(node) => Some(Identity {
            node,
            cluster: args.key::<u128>("cluster")?.map_or(CLUSTER, ClusterId),
            history: args.key("history")?.unwrap_or(History(0)),
            promised: args.key_as("promised", promise)?.unwrap_or_default(),
            position: args.key("position")?.unwrap_or_default(),
            marked: args.flag("marked"),
            restarted: args.flag("restarted"),
        }),
    };
    Ok(Registering {
        address: args.key("address")?.unwrap_or_else(|| format!("{store}:1")),
        store: store_id(&store)?,
        durable: !args.flag("memory"),
        process,
        identity,
    })
}

fn store_id(text: &str) -> Outcome<StoreId> {
    let letter = text.chars().next().ok_or("a store is a letter")?;
    Ok(StoreId(u128::from(u32::from(letter))))
}

fn show<T: std::fmt::Display>(view: Option<T>) -> String {
    view.map_or("none".to_owned(), |view| view.to_string())
}

fn places(nodes: &[(NodeId, String)]) -> String {
    nodes.iter().map(|(node, address)| format!("{node}@{address}")).collect::<Vec<_>>().join(" ")
}

fn ended(state: &State) -> String {
    state.ended.map_or("none".to_owned(), |ended| format!("{ended:?}").to_lowercase())
}

/// What a snapshot changes, where it matters.
fn difference(before: &State, after: &State) -> String {
    let mut text = String::new();
    if before.history != after.history {
        write!(text, " history {}", after.history).unwrap();
    }
    if before.active != after.active {
        write!(text, " active {}", show(after.active.as_ref())).unwrap();
    }
    if before.proposed.as_ref().map(|it| &it.view) != after.proposed.as_ref().map(|it| &it.view) {
        write!(text, " proposed {}", show(after.proposed.as_ref().map(|it| &it.view))).unwrap();
        match after.proposed.as_ref().map(|it| &it.kind) {
            Some(Kind::Change { evicted, clears }) if !evicted.is_empty() || !clears.is_empty() => {
                write!(text, " (evicts {evicted}, clears {clears})").unwrap();
            }
            Some(Kind::Back) => text.push_str(" (back)"),
            _ => {}
        }
    }
    if before.ended != after.ended {
        write!(text, " ended {}", ended(after)).unwrap();
    }
    let marked = |state: &State| -> Members {
        state.directory.iter().filter(|(_, known)| known.marked).map(|(node, _)| *node).collect()
    };
    if marked(before) != marked(after) {
        write!(text, " marked {}", marked(after)).unwrap();
    }
    text
}

fn describe(answer: &Answer) -> String {
    fn or_error<T, E: std::fmt::Display>(
        result: &Result<T, E>,
        text: impl FnOnce(&T) -> String,
    ) -> String {
        result.as_ref().map_or_else(|error| format!("error: {error}"), text)
    }
    match answer {
        Answer::Registered(result) => or_error(result, |it| {
            let marked = if it.marked { " marked" } else { "" };
            let (active, nodes) = (show(it.active.as_ref()), it.nodes.len());
            format!(
                "{}{marked} of {nodes}, {} active {active} newest {}",
                it.node, it.history, it.newest
            )
        }),
        Answer::Nodes(nodes) => {
            let nodes: Vec<_> = nodes.iter().map(|(id, it)| (*id, it.address.clone())).collect();
            places(&nodes)
        }
        Answer::Coordinator(it) => {
            let who = it.coordinator.as_ref().map(|(node, address)| format!("{node}@{address}"));
            let electing = if it.electing { " electing" } else { "" };
            format!("{} {}{electing}", show(who), it.epoch)
        }
        Answer::Done(result) => or_error(result, |()| "done".to_owned()),
        Answer::View(result) => or_error(result, ToString::to_string),
        Answer::Live(result) => or_error(result, |it| format!("newest {}", it.newest)),
        Answer::Settings(it) => format!("settings version {}", it.version),
        Answer::Set(result) => or_error(result, |it| format!("settings version {}", it.version)),
        Answer::Status(it) => {
            let heard = it.heard_ms_ago.iter().map(|(node, ago)| format!(" {node}:{ago}ms"));
            let reporters: Members = it.reporters.iter().copied().collect();
            format!(
                "active {}, proposed {}, reporters {reporters}, heard{}\nwaiting for {}",
                show(it.active.as_ref()),
                show(it.proposed.as_ref()),
                heard.collect::<String>(),
                show(it.waiting_for.as_ref()),
            )
        }
    }
}

#[test]
fn scripts() {
    run_all(concat!(env!("CARGO_MANIFEST_DIR"), "/src/core/testscripts"), Runner::new);
}
