//! Runs the golden scripts in `core/scripts/`: one claim a file, named by it.
//!
//! A script plays everyone around one node, which is n2 unless said otherwise: the server, the
//! coordinators, its own log, state and clock. Calls are named `c1`, `c2`, ...; their answers
//! appear under that name. A version list is `3.6` or `3.6..3.8`, one word for each run.
//!
//! ```text
//! new [node=n2] [base=1.3] [log="1.4..1.5 2.6"] [applied=] [disk=] [promised=e1/n1] [history=h1]
//!     [marked=] [unknown=]        what it found; `unknown`: it never registered
//! registered [newest=e3/n1] [active="e3/n1 n1 n2 n3"] [nodes="n1 n2"] [history=h1] [marked=]
//! prepare CALL e4/n3 [history=]
//! append CALL e3/n1 prev=3.6 [3.7..3.8] [committed=3.6] [round="k1 k2"] [repair=k1] [history=]
//!     [horizon=]
//! pull CALL e4/n1 after=3.5 [history=]
//! copy-from CALL e3/n1 source=n3 [history=]
//! copied VERSION [history=] | failed
//! persisted [STEP], applied [VERSION], disk VERSION, dropped VERSION
//! beat NODE [position=] [view="e3/n1 n1 n2"] [settings=2] [leaving=] [lost=] [address=] [store=]
//! refused NODE
//! appoint CALL e4/n2 MEMBER... [active="n1 n2"] [history=] [cluster=]
//! announce e4/n1 MEMBER..., alert e4/n1 MEMBER... [history=], survey CALL
//! set NAME VALUE                  a setting, by the server
//! wait MS                         ticks every 10 ms
//! stop, state
//! ```
//!
//! `persisted` and `applied` without an argument do all that was asked. Views of history 0 do not
//! say so.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "core/print.rs"]
mod print;

use std::error::Error;
use std::fmt::Write as _;
use std::str::FromStr;

use bytes::{Bytes, BytesMut};
use goldenscript::{ArgumentConsumer, Command, Context};
use quorate_node::core::effect::Effect;
use quorate_node::core::event::{Caller, CopyDone, CopyFailed, Event, Ticket};
use quorate_node::core::replica::Recovered;
use quorate_node::core::{Core, Myself};
use quorate_node::log::shape::Shape;
use quorate_protocol::entry::{Entry, Frame, decode_batch};
use quorate_protocol::ids::{ClusterId, Epoch, History, Index, NodeId, StoreId};
use quorate_protocol::record::{Digest, Key};
use quorate_protocol::rpc::appoint::{Announcement, Appointment};
use quorate_protocol::rpc::heartbeat::Beat;
use quorate_protocol::rpc::registry::Registered;
use quorate_protocol::rpc::replica::{Append, CopyOrder, Prepare, Pull, Repair, Round, ViewAlert};
use quorate_protocol::settings::Settings;
use quorate_protocol::time::{Millis, Moment};
use quorate_protocol::version::{Promise, Version};
use quorate_protocol::view::{Directory, Members, Registration, View};

type Outcome<T> = Result<T, Box<dyn Error>>;
type Arguments<'a, 'b> = &'a mut ArgumentConsumer<'b>;

const TICK_MS: u64 = 10;
const CLUSTER: u128 = 7;

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
            core: Core::new(myself(NodeId(2), true), settings.clone(), Recovered::default()),
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

    fn found(&mut self, args: Arguments<'_, '_>) -> Outcome<()> {
        let me: NodeId = key(args, "node")?.unwrap_or(NodeId(2));
        let applied = key(args, "applied")?.unwrap_or_default();
        let mut shape = Shape::empty(key(args, "base")?.unwrap_or_default());
        for version in versions(args.take_key("log").unwrap_or_default())? {
            shape.push(version);
        }
        let found = Recovered {
            shape,
            history: key(args, "history")?.unwrap_or_default(),
            promised: args.take_key("promised").map(promise).transpose()?.unwrap_or_default(),
            marked: args.take_key("marked").is_some(),
            applied,
            durable_applied: key(args, "disk")?.unwrap_or(applied),
        };
        let known = args.take_key("unknown").is_none();
        self.core = Core::new(myself(me, known), self.settings.clone(), found);
        Ok(())
    }

    fn history(&self, args: Arguments<'_, '_>) -> Outcome<History> {
        Ok(key(args, "history")?.unwrap_or(self.core.replica().history()))
    }

    fn registered(&self, args: Arguments<'_, '_>) -> Outcome<Event> {
        let history = self.history(args)?;
        let node = self.core.node().unwrap_or(NodeId(2));
        let active = args.take_key("active").map(|text| view(history, text)).transpose()?;
        let of_view = active.as_ref().map(|view| view.members.with(node)).unwrap_or_default();
        let newest = args.take_key("newest").map(promise).transpose()?;
        Ok(Event::Registered(Box::new(Registered {
            cluster: ClusterId(CLUSTER),
            node,
            settings: self.settings.clone(),
            nodes: directory(&args.take_key("nodes").map(members).transpose()?.unwrap_or(of_view)),
            history,
            newest: newest.unwrap_or(self.core.replica().promised()),
            active,
            marked: args.take_key("marked").is_some(),
        })))
    }

    fn append(&mut self, args: Arguments<'_, '_>) -> Outcome<Event> {
        let (caller, promise) = (caller(args)?, promise(args.next_pos().ok_or("who?")?)?);
        let history = self.history(args)?;
        let prev = key(args, "prev")?.ok_or("after what?")?;
        let keys = |text: &str| text.split(' ').map(Key::from).collect::<Vec<_>>();
        let round = args.take_key("round").map(keys).map(|keys| {
            self.rounds += 1;
            Round { number: self.rounds, keys }
        });
        let repair = |key| Repair { key, found: Digest::DAMAGED, record: None };
        let repairs = args.take_key("repair").map(keys).unwrap_or_default();
        let (committed, horizon) = (key(args, "committed")?, key(args, "horizon")?);
        let mut entries = Vec::new();
        while let Some(text) = args.next_pos() {
            entries.extend(versions(text)?);
        }
        let (batch, frames) = batch(prev, &entries);
        let append = Append {
            history,
            promise,
            prev,
            batch,
            committed: committed.unwrap_or_default(),
            horizon: horizon.unwrap_or_default(),
            round,
            repairs: repairs.into_iter().map(repair).collect(),
        };
        Ok(Event::Append { caller, append, frames })
    }

    fn beat(&self, args: Arguments<'_, '_>) -> Outcome<Event> {
        let node: NodeId = next(args)?;
        let history = self.history(args)?;
        let view = args.take_key("view").map(|text| view(history, text)).transpose()?;
        Ok(Event::Heard(Box::new(Beat {
            node,
            store: StoreId(key(args, "store")?.unwrap_or(u128::from(node.0))),
            address: args.take_key("address").map_or(format!("host{}", node.0), str::to_owned),
            history,
            promised: Promise::default(),
            view: view.unwrap_or_default(),
            position: key(args, "position")?.unwrap_or_default(),
            leaving: args.take_key("leaving").is_some(),
            settings: key(args, "settings")?.unwrap_or_default(),
            lost_server: args.take_key("lost").is_some(),
        })))
    }

    fn appoint(&self, args: Arguments<'_, '_>) -> Outcome<Event> {
        let caller = caller(args)?;
        let view = view_of(self.history(args)?, args)?;
        let active = args.take_key("active").map(members).transpose()?.unwrap_or_default();
        Ok(Event::Appoint {
            caller,
            appointment: Box::new(Appointment {
                cluster: ClusterId(key(args, "cluster")?.unwrap_or(CLUSTER)),
                nodes: directory(&view.members.union(&active)),
                view,
                active,
                settings: self.settings.clone(),
            }),
        })
    }

    /// Calls from coordinators, as events.
    fn call(&mut self, name: &str, args: Arguments<'_, '_>) -> Outcome<Event> {
        if name == "append" {
            return self.append(args);
        }
        let (caller, promise) = (caller(args)?, promise(args.next_pos().ok_or("who?")?)?);
        let history = self.history(args)?;
        Ok(match name {
            "prepare" => Event::Prepare { caller, prepare: Prepare { history, promise } },
            "pull" => {
                let after = key(args, "after")?.ok_or("after what?")?;
                Event::Pull { caller, pull: Pull { history, promise, after, bytes_max: 1 } }
            }
            _ => {
                let source = key(args, "source")?.ok_or("from whom?")?;
                let order = CopyOrder { history, promise, source, address: String::new() };
                Event::CopyFrom { caller: Some(caller), order }
            }
        })
    }

    /// Everything else that is one event.
    fn event(&mut self, name: &str, args: Arguments<'_, '_>) -> Outcome<Event> {
        Ok(match name {
            "registered" => self.registered(args)?,
            "prepare" | "append" | "pull" | "copy-from" => self.call(name, args)?,
            "persisted" => {
                let step = args.next_pos().map(parse).transpose()?;
                Event::Persisted(step.map_or(self.step, Ticket))
            }
            "applied" => {
                let through = args.next_pos().map(parse).transpose()?;
                Event::Applied(through.unwrap_or(self.apply))
            }
            "disk" => Event::DurableApplied(next(args)?),
            "dropped" => Event::LogDropped(next(args)?),
            "copied" => {
                let history = self.history(args)?;
                let text = args.next_pos().ok_or("up to where?")?;
                Event::Copied(if text == "failed" {
                    Err(CopyFailed)
                } else {
                    Ok(CopyDone { snapshot: parse(text)?, history })
                })
            }
            "beat" => self.beat(args)?,
            "refused" => Event::RefusedBy(next(args)?),
            "appoint" => self.appoint(args)?,
            "announce" => {
                let view = view_of(self.history(args)?, args)?;
                Event::Announce(Box::new(Announcement {
                    newest: view.promise(),
                    nodes: self.core.nodes().clone(),
                    active: Some(view),
                    evicted: Members::default(),
                }))
            }
            "alert" => {
                let view = view_of(self.history(args)?, args)?;
                Event::Alert(Box::new(ViewAlert { view, evicted: Vec::new() }))
            }
            "survey" => Event::Survey { caller: caller(args)? },
            "set" => {
                let (name, value) =
                    (args.next_pos().ok_or("name")?, args.next_pos().ok_or("value")?);
                self.settings.set(name, value)?;
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
        let mut args = command.consume_args();
        let output = match command.name.as_str() {
            "new" => {
                self.found(&mut args)?;
                String::new()
            }
            "wait" => self.wait(next(&mut args)?),
            "state" => print::core(&self.core),
            name => {
                let event = self.event(name, &mut args)?;
                self.take(event)
            }
        };
        args.reject_next()?;
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

fn parse<T: FromStr<Err: Error + 'static>>(text: &str) -> Outcome<T> {
    Ok(text.parse::<T>().map_err(|error| format!("{text}: {error}"))?)
}

fn next<T: FromStr<Err: Error + 'static>>(args: Arguments<'_, '_>) -> Outcome<T> {
    parse(args.next_pos().ok_or("an argument is missing")?)
}

fn key<T: FromStr<Err: Error + 'static>>(args: Arguments<'_, '_>, key: &str) -> Outcome<Option<T>> {
    args.take_key(key).map(parse).transpose()
}

fn caller(args: Arguments<'_, '_>) -> Outcome<Caller> {
    Ok(Caller(parse(args.next_pos().ok_or("which call?")?.trim_start_matches('c'))?))
}

fn members(text: &str) -> Outcome<Members> {
    text.split(' ').map(parse::<NodeId>).collect()
}

fn promise(text: &str) -> Outcome<Promise> {
    let (epoch, coordinator) = text.split_once('/').ok_or("a promise is EPOCH/NODE")?;
    Ok(Promise { epoch: parse(epoch)?, coordinator: parse(coordinator)? })
}

/// `e3/n1 n1 n2 n3`.
fn view(history: History, text: &str) -> Outcome<View> {
    let (text, of) = text.split_once(' ').ok_or("a view is EPOCH/NODE MEMBER...")?;
    let Promise { epoch, coordinator } = promise(text)?;
    Ok(View { history, epoch, coordinator, members: members(of)? })
}

/// The same, as words of the command.
fn view_of(history: History, args: Arguments<'_, '_>) -> Outcome<View> {
    let words: Vec<_> = std::iter::from_fn(|| args.next_pos()).collect();
    view(history, &words.join(" "))
}

/// `3.6`, `3.6..3.8`, or several of them.
fn versions(text: &str) -> Outcome<Vec<Version>> {
    let mut versions = Vec::new();
    for run in text.split(' ').filter(|run| !run.is_empty()) {
        let (first, last) = run.split_once("..").unwrap_or((run, run));
        let (first, last): (Version, Version) = (parse(first)?, parse(last)?);
        let entry = |index| Version { epoch: Epoch(first.epoch.0), index: Index(index) };
        versions.extend((first.index.0..=last.index.0).map(entry));
    }
    Ok(versions)
}

/// Entries that mutate nothing.
fn batch(prev: Version, versions: &[Version]) -> (Bytes, Vec<Frame>) {
    let mut bytes = BytesMut::new();
    for version in versions {
        Entry::barrier(*version).encode(&mut bytes);
    }
    let bytes = bytes.freeze();
    let frames = decode_batch(prev, &bytes).unwrap();
    (bytes, frames)
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
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/core/scripts");
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
