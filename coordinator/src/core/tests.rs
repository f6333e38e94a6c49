//! Runs the golden scripts in `testscripts/`: one claim a file, named by it.
//!
//! A script plays everyone around one coordinator, which is n1 unless said otherwise. Its own
//! replica is played by the runner as far as [`Records`](super::event::Records) shows it: what is
//! sent to it is in its log at once, but counts only when the script says `held n1`, and is in
//! its state when the script says `applied`. Times are in milliseconds. Every command ends with
//! `Drained`, unless it is tagged `[more]`.
//!
//! ```text
//! own NODE [log=1.1,1.2] [base=1.0] [applied=1.2]     who the coordinator is, with what log
//! appoint EPOCH MEMBER… [active=n1,n2] [nodes=n1,n2]  promised by its own replica at once
//! serve EPOCH MEMBER… [nodes=]    all of a takeover or change, with everyone answering
//! prepared NODE POSITION | fenced=e2/n2 | marked | history=h0 | notready | lost
//! held NODE [LAST] [all=] [disk=1.5] [full=]  to the oldest append that is unanswered (or all);
//!                                             `full`: it takes no more
//! gap NODE HINT, fenced NODE e2/n2, declined NODE marked|notready|history=h0, lost NODE
//! answers NODE [KEY=VALUE@VERSION …] [epoch=] [number=]     to the oldest round unanswered
//! pulled NODE [FIRST LAST] [gap=1.2] [old=1.2] [lost=]
//! copied VERSION, fetched NODE KEY=VALUE@VERSION…
//! applied [VERSION]               our own state, up to what it was told is committed
//! promised e2/n2                  our own replica promised somebody
//! record KEY=VALUE@VERSION…       what our own state holds; KEY=! is damaged, KEY= is nothing
//! coming KEY…, here KEY…          what our own state must read from its disk; it has done so
//! write TICKET KEY VALUE [token=c1.1] [born=0] [for=MS] [times=]  the value is the text so many times over
//! delete TICKET KEY [token=] [born=] [for=]
//! read TICKET KEY [for=] [times=]     the key is the text so many times over
//! activated [refused=] [lost=], proposed EPOCH MEMBER… | refused | lost
//! live [newest=e2/n2] [nodes=n1,n2] [memory=n2] [instead=n2,n4] [refused=] [lost=]
//!                                 memory: keeps nothing; instead: they share an address
//! report REPORTER SILENT [epoch=], leaving NODE [back=], stop
//! set NAME VALUE                  a setting, from the server's next answer on
//! wait MS                         ticks every 10 ms
//! own-log-lost VERSION            our own replica never took what was sent behind this
//! full, room                      whether the log and the state may take another batch
//! forgotten INDEX                 our own dedup table knows no request up to this entry
//! state                           where it stands
//! ```

mod print;
mod world;

use std::fmt::Write as _;

use goldenscript::{Command, Context};
use quorate_golden::{Args, Outcome, directory, members, parse, promise, run_all};
use quorate_protocol::entry::Token;
use quorate_protocol::ids::{ClientId, Epoch, History, Index, NodeId, RequestNumber};
use quorate_protocol::record::{Digest, Key, Value};
use quorate_protocol::rpc::Declined;
use quorate_protocol::rpc::appoint::Appointment;
use quorate_protocol::rpc::registry::{LiveAnswer, RegistryError};
use quorate_protocol::rpc::replica::{Appended, NodeReport, Prepared, Pulled, RoundAnswer};
use quorate_protocol::rpc::store::{self, Level};
use quorate_protocol::settings::Settings;
use quorate_protocol::time::{Millis, Moment};
use quorate_protocol::version::{Promise, Version};
use quorate_protocol::view::{Members, View};

use super::Core;
use super::event::{Event, Ticket, Unanswered};
use world::World;

const TICK_MS: u64 = 10;

struct Runner {
    core: Core,
    world: World,
    now: Moment,
    settings: Settings,
    requests: u64,
}

impl Runner {
    fn new() -> Self {
        let settings = Settings::default();
        Self {
            core: Core::new(NodeId(1), settings.clone()),
            world: World::new(NodeId(1)),
            now: Moment(0),
            settings,
            requests: 0,
        }
    }

    /// One event; what comes of it, as text.
    fn step(&mut self, event: Event) -> String {
        let mut effects = Vec::new();
        self.core.step(self.now, event, &self.world, &mut effects);
        let mut output = String::new();
        for effect in effects {
            if let Some(line) = print::effect(&effect, self.world.me) {
                writeln!(output, "{line}").unwrap();
            }
            self.world.carry_out(effect);
        }
        output
    }

    fn view(&self, epoch: Epoch, members: &Members) -> View {
        View { history: History(0), epoch, coordinator: self.world.me, members: members.clone() }
    }

    fn appoint(
        &mut self,
        epoch: Epoch,
        members: &Members,
        active: &Members,
        nodes: &Members,
    ) -> String {
        let view = self.view(epoch, members);
        self.step(Event::Appointed(Box::new(Appointment {
            cluster: quorate_protocol::ids::ClusterId(7),
            view,
            active: active.clone(),
            nodes: directory(nodes),
            settings: self.settings.clone(),
        })))
    }

    /// A takeover in which everyone answers at once and holds what we hold.
    fn serve(&mut self, args: &mut Args<'_>) -> Outcome<String> {
        let epoch = args.take()?;
        let nodes = args.key_as("nodes", members)?;
        let members: Members = args.rest()?;
        let active =
            if self.core.view().epoch.0 == 0 { &members } else { &self.core.view().members };
        let active = active.clone();
        let mut output = self.appoint(epoch, &members, &active, &nodes.unwrap_or(members.clone()));
        let position = self.world.last();
        for node in members.union(&active).iter() {
            output += &self.prepared(node, Ok(Ok(position)));
        }
        for _ in 0..2 {
            output += &self.step(Event::Drained);
            for node in members.iter() {
                output += &self.held(node, None, true, Version::ZERO, true)?;
            }
        }
        let view = self.view(epoch, &members);
        output += &self.step(Event::Activated { epoch, answer: Ok(Ok(view)) });
        for node in members.iter() {
            output += &self.held(node, None, true, Version::ZERO, true)?;
        }
        output += &self.applied(None);
        Ok(output)
    }

    fn prepared(
        &mut self,
        from: NodeId,
        answer: Result<Result<Version, Declined>, Unanswered>,
    ) -> String {
        let epoch = self.core.view().epoch;
        let full =
            |position| Prepared { position, log_base: Version::ZERO, applied: Version::ZERO };
        self.step(Event::Prepared { from, epoch, answer: answer.map(|it| it.map(full)) })
    }

    /// Answers the oldest unanswered append of a node, or all of them.
    fn held(
        &mut self,
        from: NodeId,
        last: Option<Version>,
        all: bool,
        disk: Version,
        room: bool,
    ) -> Outcome<String> {
        let mut output = String::new();
        loop {
            let sent = match self.world.oldest(from) {
                Some(sent) => sent,
                None if all => return Ok(output),
                None => return Err("nothing is unanswered".into()),
            };
            let last = last.unwrap_or(sent.last);
            let held = Appended::Held { last, durable_applied: disk, round: None, room };
            let (sequence, epoch) = (sent.sequence, sent.epoch);
            output += &self.step(Event::Appended { from, sequence, epoch, answer: Ok(held) });
            if !all {
                return Ok(output);
            }
        }
    }

    fn appended(&mut self, from: NodeId, answer: Result<Appended, Unanswered>) -> Outcome<String> {
        let sent = self.world.oldest(from).ok_or("nothing is unanswered")?;
        let (sequence, epoch) = (sent.sequence, sent.epoch);
        Ok(self.step(Event::Appended { from, sequence, epoch, answer }))
    }

    /// Answers the oldest unanswered round of a node.
    fn answers(&mut self, args: &mut Args<'_>) -> Outcome<String> {
        let from: NodeId = args.take()?;
        let (epoch, number) = (args.key("epoch")?, args.key("number")?);
        let sent = self.world.oldest_round(from).ok_or("no round is unanswered")?;
        let round = sent.round.expect("it is a round");
        let held = world::parse_records(args)?;
        let digests = round
            .keys
            .iter()
            .map(|key| match held.get(key) {
                Some(Some(record)) => Digest::of(key, record.as_ref(), sent.committed),
                Some(None) => Digest::DAMAGED,
                None => Digest::ABSENT,
            })
            .collect();
        let answer = Appended::Held {
            last: sent.last,
            durable_applied: Version::ZERO,
            round: Some(RoundAnswer {
                epoch: epoch.unwrap_or(sent.epoch),
                number: number.unwrap_or(round.number),
                digests,
            }),
            room: true,
        };
        let (sequence, epoch) = (sent.sequence, sent.epoch);
        Ok(self.step(Event::Appended { from, sequence, epoch, answer: Ok(answer) }))
    }

    fn pulled(&mut self, args: &mut Args<'_>) -> Outcome<String> {
        let from = args.take()?;
        let epoch = self.core.view().epoch;
        let empty = super::event::Batch::default();
        let answer = if args.flag("lost") {
            Err(Unanswered)
        } else if let Some(hint) = args.text("gap") {
            Ok((Pulled::Gap { hint: parse(hint)? }, empty))
        } else if let Some(base) = args.text("old") {
            Ok((Pulled::TooOld { base: parse(base)? }, empty))
        } else {
            let batch = world::batch(args.take()?, args.take()?);
            Ok((Pulled::Entries { batch: batch.bytes.clone() }, batch))
        };
        Ok(self.step(Event::Pulled { from, epoch, answer }))
    }

    fn applied(&mut self, through: Option<Version>) -> String {
        let applied = self.world.apply(through);
        self.step(Event::Applied(applied))
    }

    fn change(&mut self, command: &str, args: &mut Args<'_>) -> Outcome<String> {
        self.requests += 1;
        let (client, request) = match args.text("token") {
            Some(token) => token.split_once('.').ok_or("a token is CLIENT.REQUEST")?,
            None => ("c9", &*self.requests.to_string()),
        };
        let token = Token {
            client: ClientId(parse(client.trim_start_matches('c'))?),
            request: RequestNumber(parse(request)?),
            born: Index(args.key("born")?.unwrap_or(0)),
        };
        let (ticket, deadline) = self.request(args)?;
        let key = Key::from(args.word().ok_or("no key")?);
        let command = match command {
            "write" => {
                let times = args.key("times")?.unwrap_or(1);
                let value = args.word().ok_or("no value")?.repeat(times);
                store::Command::Write { key, value: Value::from(value) }
            }
            _ => store::Command::Delete { key },
        };
        let change = store::Change { token, command };
        Ok(self.step(Event::Change { ticket, change, deadline }))
    }

    fn request(&self, args: &mut Args<'_>) -> Outcome<(Ticket, Moment)> {
        let patience = args.key("for")?.unwrap_or(60_000);
        let ticket = args.word().ok_or("no ticket")?;
        Ok((Ticket(parse(ticket.trim_start_matches('t'))?), self.now + Millis(patience)))
    }

    fn live(&mut self, args: &mut Args<'_>) -> Outcome<String> {
        let epoch = self.core.view().epoch;
        let newest = args.key_as("newest", promise)?;
        let newest = newest.unwrap_or(self.core.view().promise());
        let nodes = args.key_as("nodes", members)?;
        let nodes = nodes.unwrap_or(self.core.view().members.clone());
        let answer = if args.flag("lost") {
            Err(Unanswered)
        } else if args.flag("refused") {
            Ok(Err(RegistryError::Stale { epoch, newest }))
        } else {
            let (settings, mut nodes) = (self.settings.clone(), directory(&nodes));
            for node in args.key_as("memory", members)?.unwrap_or_default().iter() {
                nodes.entry(node).and_modify(|known| known.durable = false);
            }
            let instead = args.key_as("instead", members)?.unwrap_or_default();
            if let Some(first) = instead.iter().next() {
                let address = nodes[&first].address.clone();
                for node in instead.iter() {
                    nodes.entry(node).and_modify(|known| known.address.clone_from(&address));
                }
            }
            Ok(Ok(Box::new(LiveAnswer { settings, nodes, newest })))
        };
        Ok(self.step(Event::Live { epoch, answer }))
    }

    fn server_answers(&mut self, command: &str, args: &mut Args<'_>) -> Outcome<String> {
        let epoch = self.core.view().epoch;
        let refusal = Ok(Err(RegistryError::Stale {
            epoch,
            newest: Promise { epoch: epoch.next(), coordinator: NodeId(9) },
        }));
        let lost = args.flag("lost");
        let refused = args.flag("refused");
        if command == "activated" {
            let view = self.core.view().clone();
            let answer = if lost {
                Err(Unanswered)
            } else if refused {
                refusal
            } else {
                Ok(Ok(view))
            };
            return Ok(self.step(Event::Activated { epoch, answer }));
        }
        let answer = if lost {
            Err(Unanswered)
        } else if refused {
            refusal
        } else {
            Ok(Ok(self.view(args.take()?, &args.rest()?)))
        };
        Ok(self.step(Event::Proposed { epoch, answer }))
    }

    fn wait(&mut self, span: u64) -> String {
        let mut output = String::new();
        for _ in 0..span / TICK_MS {
            self.now = self.now + Millis(TICK_MS);
            output += &self.step(Event::Tick);
            output += &self.step(Event::Drained);
        }
        output
    }

    fn dispatch(&mut self, name: &str, args: &mut Args<'_>) -> Outcome<String> {
        Ok(match name {
            "own" => {
                let me = args.take()?;
                self.core = Core::new(me, self.settings.clone());
                self.world = World::with(me, args)?;
                String::new()
            }
            "appoint" => {
                let epoch = args.take()?;
                let active = args.key_as("active", members)?;
                let nodes = args.key_as("nodes", members)?;
                let members: Members = args.rest()?;
                let active = active.unwrap_or(members.clone());
                self.appoint(epoch, &members, &active, &nodes.unwrap_or(members.union(&active)))
            }
            "serve" => self.serve(args)?,
            "applied" => {
                let through = args.word().map(parse).transpose()?;
                self.applied(through)
            }
            "forgotten" => {
                self.world.forgotten = Index(args.take()?);
                String::new()
            }
            "promised" => {
                self.world.promised = promise(args.word().ok_or("whom?")?)?;
                String::new()
            }
            "record" => {
                self.world.records.extend(world::parse_records(args)?);
                String::new()
            }
            "coming" | "here" => {
                while let Some(key) = args.word().map(Key::from) {
                    match name {
                        "coming" => self.world.coming.insert(key),
                        _ => self.world.coming.remove(&key),
                    };
                }
                String::new()
            }
            "write" | "delete" => self.change(name, args)?,
            "read" => {
                let (ticket, deadline) = self.request(args)?;
                let times = args.key("times")?.unwrap_or(1);
                let key = Key::from(args.word().ok_or("no key")?.repeat(times));
                let level = if args.flag("stored") { Level::Stored } else { Level::Majority };
                let read = store::Read { key, level };
                self.step(Event::Read { ticket, read, deadline })
            }
            "activated" | "proposed" => self.server_answers(name, args)?,
            "live" => self.live(args)?,
            "report" => {
                let (reporter, silent) = (args.take()?, args.take()?);
                let epoch = args.key("epoch")?;
                let epoch = epoch.unwrap_or(self.core.view().epoch);
                self.step(Event::Reported(NodeReport { epoch, reporter, silent }))
            }
            "leaving" => {
                let node = args.take()?;
                let leaving = !args.flag("back");
                self.step(Event::Leaving { node, leaving })
            }
            "stop" => self.step(Event::Stop),
            "set" => {
                let (name, value) = (args.word().ok_or("name")?, args.word().ok_or("value")?);
                self.settings.set(name, value)?;
                String::new()
            }
            "wait" => self.wait(args.take()?),
            "own-log-lost" => {
                self.world.truncate(args.take()?);
                String::new()
            }
            "full" | "room" => {
                self.world.room = name == "room";
                String::new()
            }
            "state" => print::core(&self.core),
            other => self.node_answers(other, args)?,
        })
    }

    /// The answers of nodes to what the coordinator asked.
    fn node_answers(&mut self, name: &str, args: &mut Args<'_>) -> Outcome<String> {
        Ok(match name {
            "prepared" => {
                let from = args.take()?;
                let answer = if let Some(answer) = declined(args)? {
                    Ok(Err(answer))
                } else {
                    let position = args.word().ok_or("no position")?;
                    if position == "lost" { Err(Unanswered) } else { Ok(Ok(parse(position)?)) }
                };
                self.prepared(from, answer)
            }
            "held" => {
                let (from, all) = (args.take()?, args.flag("all"));
                let disk = args.key("disk")?.unwrap_or_default();
                let room = !args.flag("full");
                let last = args.word().map(parse).transpose()?;
                self.held(from, last, all, disk, room)?
            }
            "gap" => {
                let (from, hint) = (args.take()?, args.take()?);
                self.appended(from, Ok(Appended::Gap { hint }))?
            }
            "declined" => {
                let from = args.take()?;
                let answer = declined(args)?.ok_or("declined how?")?;
                self.appended(from, Ok(Appended::Declined(answer)))?
            }
            "lost" => {
                let from = args.take()?;
                self.appended(from, Err(Unanswered))?
            }
            "answers" => self.answers(args)?,
            "pulled" => self.pulled(args)?,
            "copied" => {
                // To a version; or, without one, the copy was given up.
                let to = args.word().map(parse).transpose()?;
                let done = to.is_some();
                if let Some(to) = to {
                    self.world.copied(to);
                }
                self.step(Event::Copied { done })
            }
            "fetched" => {
                let from = args.take()?;
                let epoch = self.core.view().epoch;
                let records = world::parse_records(args)?;
                let answer = records.into_iter().map(|(key, it)| (key, it.flatten())).collect();
                self.step(Event::Fetched { from, epoch, answer: Some(answer) })
            }
            other => return Err(format!("no command {other}").into()),
        })
    }
}

impl goldenscript::Runner for Runner {
    type Command = Command;

    fn run(&mut self, command: &Command, context: &Context) -> Outcome<String> {
        let mut args = Args::of(command);
        let mut output = self.dispatch(&command.name, &mut args)?;
        args.finish()?;
        if !context.tags.contains("more") {
            output += &self.step(Event::Drained);
        }
        Ok(output)
    }
}

fn declined(args: &mut Args<'_>) -> Outcome<Option<Declined>> {
    Ok(if let Some(promised) = args.text("fenced") {
        Some(Declined::Fenced { promised: promise(promised)? })
    } else if let Some(mine) = args.text("history") {
        Some(Declined::OtherHistory { mine: parse(mine)? })
    } else if args.flag("marked") {
        Some(Declined::Marked)
    } else if args.flag("notready") {
        Some(Declined::NotReady)
    } else {
        None
    })
}

#[test]
fn scripts() {
    run_all(concat!(env!("CARGO_MANIFEST_DIR"), "/src/core/testscripts"), Runner::new);
}
