//! Effects as one line each.

use std::fmt::Write as _;

use quorate_golden::print;
use quorate_protocol::entry::{Entry, Frames, Mutation};
use quorate_protocol::ids::NodeId;
use quorate_protocol::rpc::replica::Append;
use quorate_protocol::rpc::store::{ChangeReply, ReadReply, Refused};
use quorate_protocol::version::Version;
use quorate_protocol::view::Members;

use crate::core::Core;
use crate::core::effect::Effect;
use crate::core::event::Batch;

/// `None` for what the script need not see: an append without entries to our own replica only
/// tells it what is committed.
pub(super) fn effect(effect: &Effect, me: NodeId) -> Option<String> {
    Some(match effect {
        Effect::Prepare { to, prepare } => format!("prepare {to} {}", prepare.promise),
        Effect::Append { to, append, batch, .. } => {
            let silent =
                batch.places.is_empty() && append.round.is_none() && append.repairs.is_empty();
            if *to == me && silent {
                return None;
            }
            format!("append {to} after {}{}{}", append.prev, entries(batch), head(append))
        }
        Effect::Feed { to, append, .. } => {
            format!("feed {to} after {}{}", append.prev, head(append))
        }
        Effect::Pull { from, pull } => format!("pull {from} after {}", pull.after),
        Effect::Fetch { from, fetch } => format!("fetch {from} {:?}", fetch.keys),
        Effect::CopyFrom { to, order } => format!("copy {to} from {}", order.source),
        Effect::Alert { to, alert } if alert.evicted.is_empty() => {
            format!("alert {to} {}", alert.view)
        }
        Effect::Alert { to, alert } => {
            let evicted: Members = alert.evicted.iter().copied().collect();
            format!("alert {to} {} evicted {evicted}", alert.view)
        }
        Effect::Progress(claim) => format!("progress {}", claim.epoch),
        Effect::Activate(claim) => format!("activate {}", claim.epoch),
        Effect::Propose(it) if it.evicted.is_empty() => {
            format!("propose {} {}", it.epoch, it.members)
        }
        Effect::Propose(it) => {
            format!("propose {} {} evicting {}", it.epoch, it.members, it.evicted)
        }
        Effect::ReportLive(live) => {
            let floors: Vec<_> =
                live.positions.iter().map(|(node, floor)| format!("{node}={floor}")).collect();
            format!("live {} {}", live.claim.epoch, floors.join(" "))
        }
        Effect::Resign(it) if it.leaving => format!("resign {} leaving", it.epoch),
        Effect::Resign(it) => format!("resign {}", it.epoch),
        Effect::Changed { ticket, reply } => format!("t{}: {}", ticket.0, change(reply)),
        Effect::Read { ticket, reply } => format!("t{}: {}", ticket.0, read(reply)),
        Effect::Damaged(key) => format!("damaged {key:?}"),
        Effect::Repaired { node, key } => format!("repaired {key:?} at {node}"),
        Effect::Serving { epoch, barrier } => format!("serving {epoch} from {barrier}"),
        Effect::SteppedDown { epoch } => format!("stepped down from {epoch}"),
    })
}

fn entries(batch: &Batch) -> String {
    let frames = Frames::new(batch.bytes.clone());
    let texts: Vec<_> = frames.map(|frame| entry(&frame.unwrap().entry)).collect();
    assert_eq!(texts.len(), batch.places.len());
    if texts.is_empty() { String::new() } else { format!(" [{}]", texts.join(", ")) }
}

fn entry(entry: &Entry) -> String {
    let mutations = entry.mutations.iter().map(|mutation| match mutation {
        Mutation::Put { key, value, .. } => format!(" {key}={value}"),
        Mutation::Delete { key } => format!(" {key}="),
    });
    format!("{}{} {:?}", entry.version, mutations.collect::<String>(), entry.answer)
}

fn head(append: &Append) -> String {
    let mut text = format!(" committed {}", append.committed);
    if append.horizon > Version::ZERO {
        write!(text, " horizon {}", append.horizon).unwrap();
    }
    if let Some(round) = &append.round {
        write!(text, " round {} {:?}", round.number, round.keys).unwrap();
    }
    for repair in &append.repairs {
        write!(text, " repair {}", print::repair(repair)).unwrap();
    }
    text
}

fn change(reply: &ChangeReply) -> String {
    match reply {
        ChangeReply::Applied { version, answer } => format!("applied {version} {answer:?}"),
        ChangeReply::Refused(why) => refused(why),
        ChangeReply::Unknown => "unknown".to_owned(),
        ChangeReply::Expired => "expired".to_owned(),
    }
}

fn read(reply: &ReadReply) -> String {
    match reply {
        ReadReply::Found { value: Some(value), version, applied, .. } => {
            format!("found {value}@{version} applied {applied}")
        }
        ReadReply::Found { value: None, applied, .. } => format!("found nothing applied {applied}"),
        ReadReply::Refused(why) => refused(why),
    }
}

fn refused(why: &Refused) -> String {
    match why {
        Refused::NoMajority { holders } => {
            let holders: Vec<_> = holders
                .iter()
                .map(|(node, held)| format!("{node} {}", print::digest(held)))
                .collect();
            format!("no majority: {}", holders.join(", "))
        }
        Refused::NotCoordinator { hint: Some((node, at)) } => {
            format!("refused: not coordinator, {node} at {at} may be")
        }
        Refused::NotCoordinator { hint: None } => "refused: not coordinator".to_owned(),
        Refused::NotServing => "refused: not serving".to_owned(),
        Refused::Busy => "refused: busy".to_owned(),
        Refused::Damaged => "refused: damaged".to_owned(),
        Refused::InvalidKey { why } => format!("refused: invalid key: {why}"),
        Refused::InvalidValue { why } => format!("refused: invalid value: {why}"),
    }
}

pub(super) fn core(core: &Core) -> String {
    let role = if core.is_serving() {
        "serving"
    } else if core.is_taking_over() {
        "taking over"
    } else {
        "idle"
    };
    let server = if core.has_lost_server() { ", lost the server" } else { "" };
    format!("{role} {} committed {}{server}\n", core.view(), core.committed())
}
