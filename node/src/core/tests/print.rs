//! Effects as one line each.

use quorate_golden::print;
use quorate_protocol::entry::decode_batch;
use quorate_protocol::rpc::Declined;
use quorate_protocol::rpc::replica::{Appended, Pulled, Repair};
use quorate_protocol::version::Version;

use crate::core::Core;
use crate::core::effect::{Effect, Reply};
use crate::log::LogOp;

pub(super) fn effect(effect: &Effect) -> String {
    match effect {
        Effect::Identify { node, .. } => format!("identify {node}"),
        Effect::Persist { ticket, ops, frames } => {
            let appends = ops.iter().any(|op| matches!(op, LogOp::Append { .. }));
            assert_eq!(appends, !frames.is_empty(), "what is written is there to be applied");
            let ops: Vec<_> = ops.iter().map(op).collect();
            format!("persist {}: {}", ticket.0, ops.join(", "))
        }
        Effect::Apply { through } => format!("apply {through}"),
        Effect::Repair { key, found, record, committed } => {
            let repair = Repair { key: key.clone(), found: *found, record: record.clone() };
            format!("repair {} as of {committed}", print::repair(&repair))
        }
        Effect::Reply { caller, reply: answer } => format!("c{}: {}", caller.0, reply(answer)),
        Effect::ReadLog { caller, after, .. } => format!("c{}: log after {after}", caller.0),
        Effect::AnswerRound { caller, reply, keys, committed } => {
            format!("c{}: {} digests {keys:?} as of {committed}", caller.0, appended(reply))
        }
        Effect::Copy { source, history, whole, .. } => {
            format!(
                "copy from {source}{}",
                if *whole { format!(" whole {history}") } else { String::new() }
            )
        }
        Effect::LeaveCopy => "leave the copy".to_owned(),
        Effect::Appointed(it) => format!("appointed {}", it.view),
        Effect::Leaving { node, leaving: true } => format!("{node} is leaving"),
        Effect::Leaving { node, leaving: false } => format!("{node} stays"),
        Effect::ReportCoordinator(it) => {
            format!("report the coordinator of {}, vote {}", it.epoch, it.vote)
        }
        Effect::ReportNode { to, report } => {
            format!("report {} to {to} in {}", report.silent, report.epoch)
        }
        Effect::AskSettings => "ask for settings".to_owned(),
        Effect::Peers(nodes) => {
            let nodes: Vec<_> =
                nodes.iter().map(|(node, at)| format!("{node}={}", at.address)).collect();
            format!("peers {}", nodes.join(" "))
        }
        Effect::Stop { why } => format!("stop: {why}"),
    }
}

/// The entries are read from the bytes that go to the log.
fn op(op: &LogOp) -> String {
    match op {
        LogOp::Promise(promise) => format!("promise {promise}"),
        LogOp::Append { prev, batch, last } => {
            let frames = decode_batch(*prev, batch).unwrap();
            let versions: Vec<_> =
                frames.iter().map(|frame| frame.entry.version.to_string()).collect();
            assert_eq!(frames.last().map_or(*prev, |frame| frame.entry.version), *last);
            format!("append after {prev} [{}]", versions.join(" "))
        }
        LogOp::Rebase(base) => format!("empty from {base}"),
        LogOp::DurableApplied(version) => format!("disk {version}"),
        LogOp::Mark(true) => "mark".to_owned(),
        LogOp::Mark(false) => "unmark".to_owned(),
        LogOp::History(history) => format!("history {history}"),
    }
}

fn reply(reply: &Reply) -> String {
    match reply {
        Reply::Prepared(Ok(it)) => {
            format!("prepared {} base {} applied {}", it.position, it.log_base, it.applied)
        }
        Reply::Prepared(Err(why)) => declined(why),
        Reply::Appended(it) => appended(it),
        Reply::Pulled(Pulled::Entries { .. }) => "entries".to_owned(),
        Reply::Pulled(Pulled::Gap { hint }) => format!("gap {hint}"),
        Reply::Pulled(Pulled::TooOld { base }) => format!("too old, base {base}"),
        Reply::Pulled(Pulled::Declined(why)) => declined(why),
        Reply::CopyFrom(Ok(())) => "will copy".to_owned(),
        Reply::CopyFrom(Err(why)) => declined(why),
        Reply::Survey(it) => {
            let node = it.node.map_or("nobody".to_owned(), |node| node.to_string());
            let marked = if it.marked { " marked" } else { "" };
            let leaving = if it.leaving { " leaving" } else { "" };
            format!("{node} promised {} at {}{marked}{leaving}", it.promised, it.position)
        }
        Reply::Appoint(Ok(())) => "accepted".to_owned(),
        Reply::Appoint(Err(why)) => format!("refused: {why}"),
    }
}

fn appended(appended: &Appended) -> String {
    match appended {
        Appended::Held { last, durable_applied, round, room } => {
            let disk = if *durable_applied == Version::ZERO {
                String::new()
            } else {
                format!(" disk {durable_applied}")
            };
            let round = round.as_ref().map(|it| format!(" round {} of {}", it.number, it.epoch));
            let full = if *room { "" } else { " full" };
            format!("held {last}{disk}{}{full}", round.unwrap_or_default())
        }
        Appended::Gap { hint } => format!("gap {hint}"),
        Appended::Declined(why) => declined(why),
    }
}

fn declined(why: &Declined) -> String {
    match why {
        Declined::Fenced { promised } => format!("fenced by {promised}"),
        Declined::Marked => "marked".to_owned(),
        Declined::OtherHistory { mine } => format!("of history {mine}"),
        Declined::NotReady => "not ready".to_owned(),
    }
}

pub(super) fn core(core: &Core) -> String {
    let replica = core.replica();
    let shape = replica.shape();
    let mut text = format!(
        "promised {} log {}..{} durable {} applied {} disk {}",
        replica.promised(),
        shape.base(),
        shape.last(),
        replica.position(),
        replica.applied(),
        replica.durable_applied()
    );
    if replica.horizon() > Version::ZERO {
        text += &format!(" horizon {}", replica.horizon());
    }
    if replica.history().0 > 0 {
        text += &format!(" {}", replica.history());
    }
    if replica.marked() {
        text += " marked";
    }
    if replica.is_copying() {
        text += " copying";
    }
    match core.view() {
        Some(view) => format!("{text}\nview {view}\n"),
        None => format!("{text}\n"),
    }
}
