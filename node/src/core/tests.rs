//! Runs the golden scripts in `testscripts/`: one claim a file, named by it.
//!
//! A script plays everyone around one node, which is n1: coordinators, the server, the log and
//! the state. Calls are answered under the number they are given (`c1`). Times are in
//! milliseconds.
//!
//! ```text
//! found [log=1.1,1.2] [base=1.0] [applied=1.2] [disk=1.2] [promised=e1/n1] [history=h0] [marked=]
//!                                    what a restarted node finds; it has not registered
//! registered [newest=e1/n1] [view=e1/n1] [members=n1,n2] [nodes=n1,n2] [history=h0] [marked=]
//! prepare CALL PROMISE [history=]
//! append CALL PROMISE PREV [ENTRY…] [committed=1.2] [horizon=1.1] [history=]
//!        [round=3 keys=a,b] [repair=a]
//! pull CALL PROMISE AFTER            copy-from CALL PROMISE SOURCE [history=]
//! persisted [TICKET]                 the log is done (with all it was given)
//! applied VERSION, disk VERSION, dropped VERSION
//! copied SNAPSHOT [history=], copy-failed
//! survey CALL                        appoint CALL e2/n1 MEMBER… [active=n1,n2] [history=]
//! view e2/n2 MEMBER…                 an alert: this view is active
//! heard NODE [position=1.2] [view=e2/n2] [members=n1,n2] [leaving=] [lost-server=] [settings=2]
//! refused NODE                       its address refuses connections
//! wait MS                            ticks every 10 ms
//! stop, state
//! ```

mod print;

use std::error::Error;
use std::fmt::Write as _;
use std::str::FromStr;

use bytes::BytesMut;
use goldenscript::{ArgumentConsumer, Command, Context};
use quorate_protocol::entry::{Entry, decode_batch};
use quorate_protocol::ids::{ClusterId, History, NodeId, StoreId};
use quorate_protocol::record::{Digest, Key};
use quorate_protocol::rpc::appoint::Appointment;
use quorate_protocol::rpc::heartbeat::Beat;
use quorate_protocol::rpc::registry::Registered;
use quorate_protocol::rpc::replica::{Append, CopyOrder, Prepare, Pull, Repair, Round, ViewAlert};
use quorate_protocol::settings::Settings;
use quorate_protocol::time::{Millis, Moment};
use quorate_protocol::version::{Promise, Version};
use quorate_protocol::view::{Directory, Members, Registration, View};

use super::effect::Effect;
use super::event::{Caller, CopyDone, CopyFailed, Event, Ticket};
use super::replica::Recovered;
use super::{Core, Myself};
use crate::log::shape::Shape;

type Outcome<T> = Result<T, Box<dyn Error>>;

const CLUSTER: ClusterId = ClusterId(7);
const ME: NodeId = NodeId(1);
const TICK_MS: u64 = 10;

struct Runner {
    core: Core,
    now: Moment,
    /// The newest step given to the log.
    ticket: Ticket,
}

impl Runner {
    fn new() -> Self {
        Self { core: node(Recovered::default()), now: Moment(0), ticket: Ticket(0) }
    }

    fn step(&mut self, event: Event) -> String {
        let mut effects = Vec::new();
        self.core.step(self.now, event, &mut effects);
        let mut output = String::new();
        for effect in effects {
            if let Effect::Persist { ticket, .. } = &effect {
                self.ticket = *ticket;
            }
            writeln!(output, "{}", print::effect(&effect)).unwrap();
        }
        output
    }

    fn registered(&mut self, args: &mut ArgumentConsumer<'_>) -> Outcome<String> {
        let newest = args.take_key("newest").map(promise).transpose()?.unwrap_or_default();
        let members = args.take_key("members").map(members).transpose()?.unwrap_or_default();
        let view = args.take_key("view").map(promise).transpose()?;
        let nodes = args.take_key("nodes").map(super::tests::members).transpose()?;
        let nodes = nodes.unwrap_or(members.with(ME));
        let history = history(args)?;
        Ok(self.step(Event::Registered(Box::new(Registered {
            cluster: CLUSTER,
            node: ME,
            settings: Settings::default(),
            nodes: directory(&nodes),
            history,
            active: view.map(|promise| self::view(history, promise, &members)),
            newest: if newest == Promise::default() { view.unwrap_or_default() } else { newest },
            marked: args.take_key("marked").is_some(),
        }))))
    }

    fn append(&mut self, args: &mut ArgumentConsumer<'_>) -> Outcome<String> {
        let (caller, promise) = (call(args)?, self::promise(pos(args)?)?);
        let prev: Version = parse(pos(args)?)?;
        let keys = args.take_key("keys").unwrap_or_default();
        let round = args.take_key("round").map(parse).transpose()?;
        let mut repairs = Vec::new();
        if let Some(key) = args.take_key("repair") {
            repairs.push(Repair { key: Key::from(key), found: Digest::ABSENT, record: None });
        }
        let history = history(args)?;
        let committed = version(args, "committed")?;
        let horizon = version(args, "horizon")?;
        let mut bytes = BytesMut::new();
        while let Some(entry) = args.next_pos() {
            Entry::barrier(parse(entry)?).encode(&mut bytes);
        }
        let batch = bytes.freeze();
        let frames = decode_batch(prev, &batch)?;
        let round = round.map(|number| Round {
            number,
            keys: keys.split(',').filter(|key| !key.is_empty()).map(Key::from).collect(),
        });
        let append = Append { history, promise, prev, batch, committed, horizon, round, repairs };
        Ok(self.step(Event::Append { caller, append, frames }))
    }

    fn heard(&mut self, args: &mut ArgumentConsumer<'_>) -> Outcome<String> {
        let node: NodeId = parse(pos(args)?)?;
        let members = args.take_key("members").map(members).transpose()?.unwrap_or_default();
        let view = match args.take_key("view").map(promise).transpose()? {
            Some(promise) => self::view(History(0), promise, &members),
            None => View::default(),
        };
        Ok(self.step(Event::Heard(Box::new(Beat {
            node,
            store: StoreId(node.0.into()),
            address: format!("host{}", node.0),
            history: History(0),
            promised: view.promise(),
            view,
            position: version(args, "position")?,
            leaving: args.take_key("leaving").is_some(),
            lost_server: args.take_key("lost-server").is_some(),
            settings: args.take_key("settings").map(parse).transpose()?.unwrap_or(1),
        }))))
    }

    fn appoint(&mut self, args: &mut ArgumentConsumer<'_>) -> Outcome<String> {
        let (caller, promise) = (call(args)?, self::promise(pos(args)?)?);
        let active = args.take_key("active").map(members).transpose()?.unwrap_or_default();
        let history = history(args)?;
        let members: Members = rest(args)?.into_iter().collect();
        let appointment = Box::new(Appointment {
            cluster: CLUSTER,
            view: view(history, promise, &members),
            active,
            nodes: directory(&members),
            settings: Settings::default(),
        });
        Ok(self.step(Event::Appoint { caller, appointment }))
    }

    fn wait(&mut self, span: u64) -> String {
        let mut output = String::new();
        for _ in 0..span / TICK_MS {
            self.now = self.now + Millis(TICK_MS);
            output += &self.step(Event::Tick);
        }
        output
    }

    fn dispatch(&mut self, command: &Command) -> Outcome<String> {
        let mut args = command.consume_args();
        let args = &mut args;
        let output = match command.name.as_str() {
            "found" => {
                self.core = node(found(args)?);
                String::new()
            }
            "registered" => self.registered(args)?,
            "prepare" => {
                let (caller, promise) = (call(args)?, promise(pos(args)?)?);
                let prepare = Prepare { history: history(args)?, promise };
                self.step(Event::Prepare { caller, prepare })
            }
            "append" => self.append(args)?,
            "pull" => {
                let (caller, promise) = (call(args)?, promise(pos(args)?)?);
                let (history, after) = (history(args)?, parse(pos(args)?)?);
                let pull = Pull { history, promise, after, bytes_max: 1 << 20 };
                self.step(Event::Pull { caller, pull })
            }
            "copy-from" => {
                let (caller, promise) = (call(args)?, promise(pos(args)?)?);
                let (history, source) = (history(args)?, parse(pos(args)?)?);
                let order = CopyOrder { history, promise, source, address: String::new() };
                self.step(Event::CopyFrom { caller: Some(caller), order })
            }
            "persisted" => {
                let ticket = args.next_pos().map(|text| text.trim_start_matches('#'));
                let ticket = ticket.map(parse).transpose()?.map_or(self.ticket, Ticket);
                self.step(Event::Persisted(ticket))
            }
            "applied" => self.step(Event::Applied(parse(pos(args)?)?)),
            "disk" => self.step(Event::DurableApplied(parse(pos(args)?)?)),
            "dropped" => self.step(Event::LogDropped(parse(pos(args)?)?)),
            "copied" => {
                let (snapshot, history) = (parse(pos(args)?)?, history(args)?);
                self.step(Event::Copied(Ok(CopyDone { snapshot, history })))
            }
            "copy-failed" => self.step(Event::Copied(Err(CopyFailed))),
            "survey" => {
                let caller = call(args)?;
                self.step(Event::Survey { caller })
            }
            "appoint" => self.appoint(args)?,
            "view" => {
                let promise = promise(pos(args)?)?;
                let members: Members = rest(args)?.into_iter().collect();
                let view = view(History(0), promise, &members);
                self.step(Event::Alert(Box::new(ViewAlert { view, evicted: Vec::new() })))
            }
            "heard" => self.heard(args)?,
            "refused" => self.step(Event::RefusedBy(parse(pos(args)?)?)),
            "wait" => self.wait(parse(pos(args)?)?),
            "stop" => self.step(Event::Stop),
            "state" => print::core(&self.core),
            other => return Err(format!("no command {other}").into()),
        };
        args.reject_next()?;
        Ok(output)
    }
}

impl goldenscript::Runner for Runner {
    type Command = Command;

    fn run(&mut self, command: &Command, _: &Context) -> Outcome<String> {
        self.dispatch(command)
    }
}

fn node(found: Recovered) -> Core {
    let myself = Myself {
        address: "host1".to_owned(),
        store: StoreId(1),
        durable: true,
        identity: Some((CLUSTER, ME)),
    };
    Core::new(myself, Settings::default(), found)
}

fn found(args: &mut ArgumentConsumer<'_>) -> Outcome<Recovered> {
    let base = version(args, "base")?;
    let mut shape = Shape::empty(base);
    for entry in args.take_key("log").unwrap_or_default().split(',') {
        if !entry.is_empty() {
            shape.push(parse(entry)?);
        }
    }
    let applied = args.take_key("applied").map(parse).transpose()?.unwrap_or(base);
    Ok(Recovered {
        shape,
        history: history(args)?,
        promised: args.take_key("promised").map(promise).transpose()?.unwrap_or_default(),
        marked: args.take_key("marked").is_some(),
        applied,
        durable_applied: args.take_key("disk").map(parse).transpose()?.unwrap_or(applied),
    })
}

fn parse<T: FromStr<Err: Error + 'static>>(text: &str) -> Outcome<T> {
    Ok(text.parse::<T>().map_err(|error| format!("{text}: {error}"))?)
}

fn pos<'a>(args: &mut ArgumentConsumer<'a>) -> Outcome<&'a str> {
    args.next_pos().ok_or_else(|| "an argument is missing".into())
}

fn rest<T: FromStr<Err: Error + 'static>>(args: &mut ArgumentConsumer<'_>) -> Outcome<Vec<T>> {
    std::iter::from_fn(|| args.next_pos()).map(parse).collect()
}

fn call(args: &mut ArgumentConsumer<'_>) -> Outcome<Caller> {
    Ok(Caller(parse(pos(args)?.trim_start_matches('c'))?))
}

fn version(args: &mut ArgumentConsumer<'_>, key: &str) -> Outcome<Version> {
    Ok(args.take_key(key).map(parse).transpose()?.unwrap_or_default())
}

fn history(args: &mut ArgumentConsumer<'_>) -> Outcome<History> {
    Ok(args.take_key("history").map(parse).transpose()?.unwrap_or_default())
}

fn members(text: &str) -> Outcome<Members> {
    text.split(',').map(parse::<NodeId>).collect()
}

fn promise(text: &str) -> Outcome<Promise> {
    let (epoch, coordinator) = text.split_once('/').ok_or("a promise is EPOCH/NODE")?;
    Ok(Promise { epoch: parse(epoch)?, coordinator: parse(coordinator)? })
}

fn view(history: History, promise: Promise, members: &Members) -> View {
    let Promise { epoch, coordinator } = promise;
    View { history, epoch, coordinator, members: members.clone() }
}

fn directory(nodes: &Members) -> Directory {
    let registration = |node: NodeId| Registration {
        address: format!("host{}", node.0),
        store: StoreId(node.0.into()),
        durable: true,
        floor: Version::ZERO,
        marked: false,
    };
    nodes.iter().map(|node| (node, registration(node))).collect()
}

#[test]
fn scripts() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/src/core/testscripts");
    let mut failed = Vec::new();
    let mut scripts: Vec<_> =
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    scripts.sort();
    assert!(!scripts.is_empty());
    for script in scripts {
        let name = script.file_name().unwrap().to_owned();
        let run = || goldenscript::run(&mut Runner::new(), &script).unwrap();
        if std::panic::catch_unwind(run).is_err() {
            failed.push(name);
        }
    }
    assert!(failed.is_empty(), "these scripts failed: {failed:?}");
}
