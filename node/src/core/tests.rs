//! Runs the golden scripts in `testscripts/`: one claim a file, named by it.
//!
//! A script plays everyone around one node, which is n2 unless said otherwise: the server, the
//! coordinators, its own log, state and clock. Calls are named `c1`, `c2`, ...; their answers
//! appear under that name. Entries are written `3.6` or, a run of them, `3.6..3.8`. Times are in
//! milliseconds. A list is in quotes where it has a comma.
//!
//! ```text
//! new [node=n2] [base=1.3] [log="1.4..1.5,2.6"] [applied=] [disk=] [promised=e1/n1] [history=h1]
//!     [remembered=] [half-copied=] [marked=] [unknown=]
//!                                 what it found; `unknown`: it never registered
//! registered [newest=e3/n1] [active="e3/n1 n1,n2,n3"] [nodes="n1,n2"] [history=h1] [marked=]
//! prepare CALL e4/n3 [history=]
//! append CALL e3/n1 prev=3.6 [3.7..3.8] [committed=3.6] [round="k1,k2"] [repair=k1] [history=]
//!     [horizon=] [full=]          `full`: our state takes no more before some of it is written
//! pull CALL e4/n1 after=3.5 [history=]
//! copy-from CALL e3/n1 source=n3 [history=]
//! copied VERSION [history=] | failed
//! persisted [STEP], applied [VERSION], disk VERSION, dropped VERSION
//! beat NODE [position=] [view="e3/n1 n1,n2"] [settings=2] [leaving=] [lost=] [address=] [store=]
//! refused NODE
//! appoint CALL e4/n2 MEMBER... [active="n1,n2"] [history=] [cluster=]
//! announce e4/n1 MEMBER..., alert e4/n1 MEMBER... [history=], survey CALL
//! set NAME VALUE                  a setting, by the server
//! wait MS                         ticks every 10 ms
//! stop, state
//! ```
//!
//! `persisted` and `applied` without an argument do all that was asked. Who says no `history` has
//! the node's own. Views of history 0 do not say so.

mod print;

use std::fmt::Write as _;

use bytes::{Bytes, BytesMut};
use goldenscript::{Command, Context};
use quorate_golden::{Args, Outcome, directory, list, members, parse, promise, run_all, view};
use quorate_protocol::entry::{Entry, Frame, decode_batch};
use quorate_protocol::ids::{ClusterId, History, Index, NodeId, StoreId};
use quorate_protocol::record::{Digest, Key};
use quorate_protocol::rpc::appoint::{Announcement, Appointment};
use quorate_protocol::rpc::heartbeat::Beat;
use quorate_protocol::rpc::registry::Registered;
use quorate_protocol::rpc::replica::{Append, CopyOrder, Prepare, Pull, Repair, Round, ViewAlert};
use quorate_protocol::settings::Settings;
use quorate_protocol::time::{Millis, Moment};
use quorate_protocol::version::{Promise, Version};
use quorate_protocol::view::{Members, View};

use super::effect::Effect;
use super::event::{Caller, CopyDone, CopyFailed, Event, Ticket};
use super::replica::Recovered;
use super::{Core, Myself};
use crate::log::shape::Shape;

const TICK_MS: u64 = 10;
const CLUSTER: u128 = 7;
const ME: NodeId = NodeId(2);

struct Runner {
    core: Core,
    now: Moment,
    settings: Settings,
    rounds: u64,
    /// The last step and the last application asked for.
    step: Ticket,
    apply: Version,
}

impl Runner {
    fn new() -> Self {
        let settings = Settings::default();
        Self {
            core: Core::new(myself(ME, true), settings.clone(), Recovered::default()),
            now: Moment(0) + Millis(10_000),
            settings,
            rounds: 0,
            step: Ticket(0),
            apply: Version::ZERO,
        }
    }

    /// One event; what comes of it, as text.
    fn take(&mut self, event: Event) -> String {
        let mut effects = Vec::new();
        self.core.step(self.now, event, &mut effects);
        let mut output = String::new();
        for effect in effects {
            writeln!(output, "{}", print::effect(&effect)).unwrap();
            match effect {
                Effect::Persist { ticket, .. } => self.step = ticket,
                Effect::Apply { through } => self.apply = through,
                _ => {}
            }
        }
        output
    }

    fn found(&mut self, args: &mut Args<'_>) -> Outcome<()> {
        let me = args.key("node")?.unwrap_or(ME);
        let base = args.key("base")?.unwrap_or_default();
        let applied = args.key("applied")?.unwrap_or(base);
        let mut shape = Shape::empty(base);
        for version in args.key_as("log", versions)?.unwrap_or_default() {
            shape.push(version);
        }
        let disk = args.key("disk")?.unwrap_or(applied);
        let found = Recovered {
            shape,
            history: args.key("history")?.unwrap_or_default(),
            promised: args.key_as("promised", promise)?.unwrap_or_default(),
            marked: args.flag("marked"),
            applied,
            durable_applied: disk,
            remembered: args.key("remembered")?.unwrap_or(disk),
            half_copied: args.flag("half-copied"),
        };
        let known = !args.flag("unknown");
        self.core = Core::new(myself(me, known), self.settings.clone(), found);
        Ok(())
    }

    fn history(&self, args: &mut Args<'_>) -> Outcome<History> {
        Ok(args.key("history")?.unwrap_or(self.core.replica().history()))
    }

    fn registered(&self, args: &mut Args<'_>) -> Outcome<Event> {
        let history = self.history(args)?;
        let node = self.core.node().unwrap_or(ME);
        let active = args.key_as("active", |text| one_view(history, text))?;
        let of_view = active.as_ref().map(|view| view.members.with(node)).unwrap_or_default();
        Ok(Event::Registered(Box::new(Registered {
            cluster: ClusterId(CLUSTER),
            node,
            settings: self.settings.clone(),
            nodes: directory(&args.key_as("nodes", members)?.unwrap_or(of_view)),
            history,
            newest: args.key_as("newest", promise)?.unwrap_or(self.core.replica().promised()),
            active,
            marked: args.flag("marked"),
        })))
    }

    fn append(&mut self, args: &mut Args<'_>) -> Outcome<Event> {
        let (caller, promise) = (caller(args)?, args.take_as(promise)?);
        let history = self.history(args)?;
        let prev = args.key("prev")?.ok_or("after what?")?;
        let round = args.key_as("round", keys)?.map(|keys| {
            self.rounds += 1;
            Round { number: self.rounds, keys }
        });
        let repairs = args.key_as("repair", keys)?.unwrap_or_default();
        let repair = |key| Repair { key, found: Digest::DAMAGED, record: None };
        let committed = args.key("committed")?.unwrap_or_default();
        let room = !args.flag("full");
        let horizon = args.key("horizon")?.unwrap_or_default();
        let mut entries = Vec::new();
        while let Some(text) = args.word() {
            entries.extend(versions(text)?);
        }
        let (batch, frames) = batch(prev, &entries)?;
        let repairs = repairs.into_iter().map(repair).collect();
        let append = Append { history, promise, prev, batch, committed, horizon, round, repairs };
        Ok(Event::Append { caller, append, frames, room })
    }

    fn beat(&self, args: &mut Args<'_>) -> Outcome<Event> {
        let node: NodeId = args.take()?;
        let history = self.history(args)?;
        let view = args.key_as("view", |text| one_view(history, text))?.unwrap_or_default();
        Ok(Event::Heard(Box::new(Beat {
            node,
            store: StoreId(args.key("store")?.unwrap_or(u128::from(node.0))),
            address: args.text("address").map_or(format!("host{}", node.0), str::to_owned),
            history,
            promised: view.promise(),
            view,
            position: args.key("position")?.unwrap_or_default(),
            leaving: args.flag("leaving"),
            settings: args.key("settings")?.unwrap_or_default(),
            lost_server: args.flag("lost"),
        })))
    }

    fn appoint(&self, args: &mut Args<'_>) -> Outcome<Event> {
        let caller = caller(args)?;
        let active = args.key_as("active", members)?.unwrap_or_default();
        let cluster = ClusterId(args.key("cluster")?.unwrap_or(CLUSTER));
        let view = self.view(args)?;
        let nodes = directory(&view.members.union(&active));
        let settings = self.settings.clone();
        let appointment = Box::new(Appointment { cluster, view, active, nodes, settings });
        Ok(Event::Appoint { caller, appointment })
    }

    /// `e4/n1 n1 n2`, as words of the command.
    fn view(&self, args: &mut Args<'_>) -> Outcome<View> {
        Ok(view(self.history(args)?, args.take_as(promise)?, args.rest()?))
    }

    /// What coordinators ask, as events.
    fn call(&mut self, name: &str, args: &mut Args<'_>) -> Outcome<Event> {
        if name == "append" {
            return self.append(args);
        }
        let (caller, promise): (_, Promise) = (caller(args)?, args.take_as(promise)?);
        let history = self.history(args)?;
        Ok(match name {
            "prepare" => Event::Prepare { caller, prepare: Prepare { history, promise } },
            "pull" => {
                let after = args.key("after")?.ok_or("after what?")?;
                Event::Pull { caller, pull: Pull { history, promise, after, bytes_max: 1 } }
            }
            _ => {
                let source = args.key("source")?.ok_or("from whom?")?;
                let order = CopyOrder { history, promise, source, address: String::new() };
                Event::CopyFrom { caller: Some(caller), order }
            }
        })
    }

    /// What our own log and state have done, as events.
    fn done(&self, name: &str, args: &mut Args<'_>) -> Outcome<Event> {
        Ok(match name {
            "persisted" => {
                Event::Persisted(args.word().map(parse).transpose()?.map_or(self.step, Ticket))
            }
            "applied" => Event::Applied(args.word().map(parse).transpose()?.unwrap_or(self.apply)),
            "disk" => Event::DurableApplied(args.take()?),
            "dropped" => Event::LogDropped(args.take()?),
            _ => {
                let history = self.history(args)?;
                Event::Copied(match args.word().ok_or("up to where?")? {
                    "failed" => Err(CopyFailed),
                    snapshot => Ok(CopyDone { snapshot: parse(snapshot)?, history }),
                })
            }
        })
    }

    fn event(&mut self, name: &str, args: &mut Args<'_>) -> Outcome<Event> {
        Ok(match name {
            "registered" => self.registered(args)?,
            "prepare" | "append" | "pull" | "copy-from" => self.call(name, args)?,
            "persisted" | "applied" | "disk" | "dropped" | "copied" => self.done(name, args)?,
            "beat" => self.beat(args)?,
            "refused" => Event::RefusedBy(args.take()?),
            "appoint" => self.appoint(args)?,
            "announce" => {
                let view = self.view(args)?;
                Event::Announce(Box::new(Announcement {
                    newest: view.promise(),
                    nodes: self.core.nodes().clone(),
                    active: Some(view),
                    evicted: Members::default(),
                }))
            }
            "alert" => {
                let view = self.view(args)?;
                Event::Alert(Box::new(ViewAlert { view, evicted: Vec::new() }))
            }
            "survey" => Event::Survey { caller: caller(args)? },
            "set" => {
                self.settings.set(&args.take::<String>()?, &args.take::<String>()?)?;
                Event::Settings(Box::new(self.settings.clone()))
            }
            "stop" => Event::Stop,
            other => return Err(format!("no command {other}").into()),
        })
    }

    fn wait(&mut self, span: u64) -> String {
        let mut output = String::new();
        for _ in 0..span / TICK_MS {
            self.now = self.now + Millis(TICK_MS);
            output += &self.take(Event::Tick);
        }
        output
    }
}

impl goldenscript::Runner for Runner {
    type Command = Command;

    fn run(&mut self, command: &Command, _: &Context) -> Outcome<String> {
        let mut args = Args::of(command);
        let output = match command.name.as_str() {
            "new" => {
                self.found(&mut args)?;
                String::new()
            }
            "wait" => self.wait(args.take()?),
            "state" => print::core(&self.core),
            name => {
                let event = self.event(name, &mut args)?;
                self.take(event)
            }
        };
        args.finish()?;
        Ok(output)
    }
}

fn myself(node: NodeId, known: bool) -> Myself {
    Myself {
        address: format!("host{}", node.0),
        store: StoreId(node.0.into()),
        durable: true,
        identity: known.then_some((ClusterId(CLUSTER), node)),
    }
}

fn caller(args: &mut Args<'_>) -> Outcome<Caller> {
    args.take_as(|text| Ok(Caller(parse(text.trim_start_matches('c'))?)))
}

/// `e3/n1 n1,n2,n3`, as one argument.
fn one_view(history: History, text: &str) -> Outcome<View> {
    let (by, of) = text.split_once(' ').ok_or("a view is EPOCH/NODE MEMBERS")?;
    Ok(view(history, promise(by)?, members(of)?))
}

fn keys(text: &str) -> Outcome<Vec<Key>> {
    Ok(list::<String, Vec<_>>(text)?.iter().map(|key| Key::from(key.as_str())).collect())
}

/// `3.6`, `3.6..3.8`, or several of them.
fn versions(text: &str) -> Outcome<Vec<Version>> {
    let mut versions = Vec::new();
    for run in list::<String, Vec<_>>(text)? {
        let (first, last) = run.split_once("..").unwrap_or((&run, &run));
        let (first, last): (Version, Version) = (parse(first)?, parse(last)?);
        let entry = |index| Version { index: Index(index), ..first };
        versions.extend((first.index.0..=last.index.0).map(entry));
    }
    Ok(versions)
}

/// Entries that mutate nothing.
fn batch(prev: Version, versions: &[Version]) -> Outcome<(Bytes, Vec<Frame>)> {
    let mut bytes = BytesMut::new();
    for version in versions {
        Entry::barrier(*version).encode(&mut bytes);
    }
    let bytes = bytes.freeze();
    let frames = decode_batch(prev, &bytes)?;
    Ok((bytes, frames))
}

#[test]
fn scripts() {
    run_all(concat!(env!("CARGO_MANIFEST_DIR"), "/src/core/testscripts"), Runner::new);
}
