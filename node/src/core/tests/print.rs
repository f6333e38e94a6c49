//! Effects as one line each.

use quorate_protocol::entry::decode_batch;
use quorate_protocol::ids::NodeId;
use quorate_protocol::rpc::replica::{Appended, Pulled};
use quorate_protocol::version::Version;
use quorate_protocol::view::Members;

use crate::core::Core;
use crate::core::effect::{Effect, Reply};
use crate::log::LogOp;

pub(super) fn effect(effect: &Effect) -> String {
    match effect {
        Effect::Identify { node, .. } => format!("identify {node}"),
        Effect::Persist { ticket, ops, frames } => {
            let ops: Vec<_> = ops.iter().map(op).collect();
            let entries = ops.iter().any(|op| op.starts_with("append"));
            assert_eq!(entries, !frames.is_empty(), "frames are there to be applied later");
            format!("persist #{} {}", ticket.0, ops.join(" + "))
        }
        Effect::Apply { through } => format!("apply {through}"),
        Effect::Repair { key, committed, .. } => format!("repair {key:?} as of {committed}"),
        Effect::Reply { caller, reply } => format!("c{}: {}", caller.0, self::reply(reply)),
        Effect::ReadLog { caller, after, .. } => format!("c{}: read log after {after}", caller.0),
        Effect::AnswerRound { caller, reply, keys, committed } => {
            format!("c{}: {} at {keys:?} as of {committed}", caller.0, appended(reply))
        }
        Effect::Copy { source, history, whole, .. } => {
            let how = if *whole { ", whole" } else { "" };
            format!("copy from {source} {history}{how}")
        }
        Effect::Appointed(appointment) => format!("appointed {}", appointment.view),
        Effect::Leaving { node, leaving } => {
            format!("{node} {}", if *leaving { "leaves" } else { "is back" })
        }
        Effect::ReportCoordinator(it) => {
            format!("report coordinator of {}, vote {}", it.epoch, it.vote)
        }
        Effect::ReportNode { to, report } => {
            format!("report to {to}: {} is silent in {}", report.silent, report.epoch)
        }
        Effect::AskSettings => "ask settings".to_owned(),
        Effect::Peers(nodes) => format!("peers {}", nodes.keys().copied().collect::<Members>()),
        Effect::Stop { why } => format!("stop: {why}"),
    }
}

fn op(op: &LogOp) -> String {
    match op {
        LogOp::Promise(promise) => format!("promise {promise}"),
        LogOp::Append { prev, batch, last } => {
            let frames = decode_batch(*prev, batch).expect("the log checks it again");
            let first = frames.first().map_or(Version::ZERO, |frame| frame.entry.version);
            format!("append {first}..{last} after {prev}")
        }
        LogOp::Rebase(base) => format!("rebase {base}"),
        LogOp::DurableApplied(applied) => format!("durable applied {applied}"),
        LogOp::Mark(true) => "mark".to_owned(),
        LogOp::Mark(false) => "unmark".to_owned(),
        LogOp::History(history) => format!("history {history}"),
    }
}

fn reply(reply: &Reply) -> String {
    match reply {
        Reply::Prepared(Ok(it)) => {
            format!("prepared at {}, log from {}, applied {}", it.position, it.log_base, it.applied)
        }
        Reply::Prepared(Err(declined)) => format!("declined: {declined}"),
        Reply::Appended(it) => appended(it),
        Reply::Pulled(Pulled::Declined(declined)) => format!("declined: {declined}"),
        Reply::Pulled(Pulled::Gap { hint }) => format!("gap, perhaps {hint}"),
        Reply::Pulled(Pulled::TooOld { base }) => format!("log from {base}"),
        Reply::Pulled(Pulled::Entries { .. }) => "entries".to_owned(),
        Reply::CopyFrom(Ok(())) => "will copy".to_owned(),
        Reply::CopyFrom(Err(declined)) => format!("declined: {declined}"),
        Reply::Survey(it) => {
            let node = it.node.map_or("nobody".to_owned(), |node: NodeId| node.to_string());
            let marked = if it.marked { ", marked" } else { "" };
            let leaving = if it.leaving { ", leaving" } else { "" };
            format!("{node} at {}, promised {}{marked}{leaving}", it.position, it.promised)
        }
        Reply::Appoint(Ok(())) => "accepted".to_owned(),
        Reply::Appoint(Err(refused)) => format!("refused: {refused}"),
    }
}

fn appended(appended: &Appended) -> String {
    match appended {
        Appended::Held { last, durable_applied, round } => {
            let round = match round {
                Some(round) => format!(", round {} of {}", round.number, round.epoch),
                None => String::new(),
            };
            format!("held {last}, on disk {durable_applied}{round}")
        }
        Appended::Gap { hint } => format!("gap, perhaps {hint}"),
        Appended::Declined(declined) => format!("declined: {declined}"),
    }
}

pub(super) fn core(core: &Core) -> String {
    let it = core.replica();
    let view = core.view().map_or("no view".to_owned(), ToString::to_string);
    format!(
        "promised {}, log {}..{}, position {}, applied {}, on disk {}, {view}\n",
        it.promised(),
        it.shape().base(),
        it.last(),
        it.position(),
        it.applied(),
        it.durable_applied(),
    )
}
