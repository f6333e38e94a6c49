//! What a traced process writes down of each message: the names that its readers look for, and
//! the few numbers by which one message can be told from the next.

use quorate_traces::{Fields, Level};

use super::Declined;
use super::appoint::{AppointeeRequest, AppointeeResponse};
use super::bulk::{BulkRequest, BulkResponse};
use super::heartbeat::{Beat, HeartbeatRequest, HeartbeatResponse};
use super::registry::{RegistryRequest, RegistryResponse, Whereabouts};
use super::replica::{Append, Appended, Pulled, ReplicaRequest, ReplicaResponse};
use super::store::{ChangeReply, Command, CommittedReply, ReadReply, StoreRequest, StoreResponse};
use crate::entry::{Token, count_frames};
use crate::record::Key;
use crate::transport::Told;

impl Told for StoreRequest {
    fn rpc(&self) -> &'static str {
        match self {
            Self::Read { .. } => "store.read",
            Self::Change { change } => match change.command {
                Command::Write { .. } => "store.write",
                Command::Delete { .. } => "store.delete",
            },
            Self::Committed {} => "store.committed",
            Self::Coordinator {} => "store.coordinator",
            Self::Status {} => "store.status",
        }
    }

    fn key(&self) -> Option<&Key> {
        match self {
            Self::Read { read } => Some(&read.key),
            Self::Change { change } => Some(change.command.key()),
            _ => None,
        }
    }

    fn token(&self) -> Option<Token> {
        match self {
            Self::Change { change } => Some(change.token),
            _ => None,
        }
    }

    fn tell(&self, out: &mut Fields<'_>) {
        match self {
            Self::Read { read } => {
                out.field("level", format_args!("{:?}", read.level));
            }
            Self::Change { change } => {
                if let Command::Write { value, .. } = &change.command {
                    out.field("bytes", value.len());
                }
            }
            _ => {}
        }
    }
}

impl Told for StoreResponse {
    fn tell(&self, out: &mut Fields<'_>) {
        match self {
            Self::Read(ReadReply::Found { value, version, .. }) => {
                out.field("version", version).field("found", value.is_some());
            }
            Self::Read(ReadReply::Refused(why)) | Self::Change(ChangeReply::Refused(why)) => {
                out.field("refused", why);
            }
            Self::Change(ChangeReply::Applied { version, .. }) => {
                out.field("version", version);
            }
            Self::Change(ChangeReply::Unknown) => {
                out.field("outcome", "unknown");
            }
            Self::Change(ChangeReply::Expired) => {
                out.field("outcome", "expired");
            }
            Self::Committed(CommittedReply::Index(index)) => {
                out.field("index", index);
            }
            Self::Committed(CommittedReply::Refused(why)) => {
                out.field("refused", why);
            }
            Self::Coordinator(whereabouts) => tell_whereabouts(whereabouts, out),
            Self::Status(status) => {
                out.field("role", format_args!("{:?}", status.role));
            }
        }
    }
}

impl Told for ReplicaRequest {
    fn rpc(&self) -> &'static str {
        match self {
            Self::Prepare { .. } => "replica.prepare",
            Self::Append { append } if append.round.is_some() => "replica.confirm",
            Self::Append { .. } => "replica.append",
            Self::Pull { .. } => "replica.pull",
            Self::Fetch { .. } => "replica.fetch",
            Self::CopyFrom { .. } => "replica.copy_from",
            Self::ReportNode { .. } => "replica.report_node",
            Self::Alert { .. } => "replica.alert",
        }
    }

    fn tell(&self, out: &mut Fields<'_>) {
        match self {
            Self::Prepare { prepare } => {
                out.field("epoch", prepare.promise.epoch);
            }
            Self::Append { append } => tell_append(append, out),
            Self::Pull { pull } => {
                out.field("epoch", pull.promise.epoch).field("after", pull.after);
            }
            Self::Fetch { fetch } => {
                out.field("epoch", fetch.promise.epoch).field("keys", fetch.keys.len());
            }
            Self::CopyFrom { order } => {
                out.field("epoch", order.promise.epoch).field("source", order.source);
            }
            Self::ReportNode { report } => {
                out.field("epoch", report.epoch).field("silent", report.silent);
            }
            Self::Alert { alert } => {
                out.field("epoch", alert.view.epoch).field("view", &alert.view);
            }
        }
    }
}

fn tell_append(append: &Append, out: &mut Fields<'_>) {
    out.field("epoch", append.promise.epoch).field("prev", append.prev);
    out.field("entries", count_frames(&append.batch)).field("committed", append.committed);
    if let Some(round) = &append.round {
        out.field("round", round.number).field("keys", round.keys.len());
    }
    if !append.repairs.is_empty() {
        out.field("repairs", append.repairs.len());
    }
}

impl Told for ReplicaResponse {
    fn tell(&self, out: &mut Fields<'_>) {
        match self {
            Self::Prepare(Ok(prepared)) => {
                out.field("position", prepared.position);
            }
            Self::Append(Appended::Held { last, room, .. }) => {
                out.field("held", last);
                if !room {
                    out.field("room", room);
                }
            }
            Self::Append(Appended::Gap { hint }) | Self::Pull(Pulled::Gap { hint }) => {
                out.field("gap", hint);
            }
            Self::Pull(Pulled::Entries { batch }) => {
                out.field("entries", count_frames(batch));
            }
            Self::Pull(Pulled::TooOld { base }) => {
                out.field("base", base);
            }
            Self::Fetch(Ok(fetched)) => {
                out.field("records", fetched.0.len());
            }
            Self::Prepare(Err(why))
            | Self::Append(Appended::Declined(why))
            | Self::Pull(Pulled::Declined(why))
            | Self::Fetch(Err(why))
            | Self::CopyFrom(Err(why)) => tell_declined(why, out),
            Self::CopyFrom(Ok(())) | Self::ReportNode(()) | Self::Alert(()) => {}
        }
    }
}

fn tell_declined(why: &Declined, out: &mut Fields<'_>) {
    out.field("declined", why);
}

impl Told for HeartbeatRequest {
    fn rpc(&self) -> &'static str {
        "heartbeat.beat"
    }

    fn level(&self) -> Level {
        Level::Trace
    }

    fn tell(&self, out: &mut Fields<'_>) {
        let Self::Beat { beat } = self;
        tell_beat(beat, out);
    }
}

impl Told for HeartbeatResponse {
    fn tell(&self, out: &mut Fields<'_>) {
        let Self::Beat(beat) = self;
        tell_beat(beat, out);
    }
}

fn tell_beat(beat: &Beat, out: &mut Fields<'_>) {
    out.field("of", beat.node).field("epoch", beat.view.epoch);
    if beat.leaving {
        out.field("leaving", true);
    }
}

impl Told for AppointeeRequest {
    fn rpc(&self) -> &'static str {
        match self {
            Self::Survey {} => "appointee.survey",
            Self::Appoint { .. } => "appointee.appoint",
            Self::Announce { .. } => "appointee.announce",
        }
    }

    fn tell(&self, out: &mut Fields<'_>) {
        match self {
            Self::Survey {} => {}
            Self::Appoint { appointment } => {
                out.field("epoch", appointment.view.epoch).field("view", &appointment.view);
            }
            Self::Announce { announcement } => {
                out.field("epoch", announcement.newest.epoch);
                if let Some(view) = &announcement.active {
                    out.field("view", view);
                }
            }
        }
    }
}

impl Told for AppointeeResponse {
    fn tell(&self, out: &mut Fields<'_>) {
        match self {
            Self::Survey(survey) => {
                out.field("promised", survey.promised).field("position", survey.position);
            }
            Self::Appoint(Err(why)) => {
                out.field("refused", why);
            }
            Self::Appoint(Ok(())) | Self::Announce(()) => {}
        }
    }
}

impl Told for BulkRequest {
    fn rpc(&self) -> &'static str {
        match self {
            Self::Open { .. } => "bulk.open",
            Self::Page { .. } => "bulk.page",
            Self::Close { .. } => "bulk.close",
        }
    }

    fn tell(&self, out: &mut Fields<'_>) {
        match self {
            Self::Open { open } => {
                out.field("node", open.node).field("since", open.since);
            }
            Self::Page { page } => {
                out.field("session", page.session);
            }
            Self::Close { session } => {
                out.field("session", session);
            }
        }
    }
}

impl Told for BulkResponse {
    fn tell(&self, out: &mut Fields<'_>) {
        match self {
            Self::Open(Ok(opened)) => {
                out.field("session", opened.session).field("snapshot", opened.snapshot);
            }
            Self::Page(Ok(page)) => {
                out.field("records", page.records.len()).field("tokens", page.tokens.len());
            }
            Self::Open(Err(why)) | Self::Page(Err(why)) => {
                out.field("refused", why);
            }
            Self::Close(()) => {}
        }
    }
}

impl Told for RegistryRequest {
    fn rpc(&self) -> &'static str {
        match self {
            Self::Register { .. } => "registry.register",
            Self::Nodes {} => "registry.nodes",
            Self::Coordinator {} => "registry.coordinator",
            Self::ReportCoordinator { .. } => "registry.report_coordinator",
            Self::Resign { .. } => "registry.resign",
            Self::ProposeMembers { .. } => "registry.propose_members",
            Self::Progress { .. } => "registry.progress",
            Self::Activate { .. } => "registry.activate",
            Self::ReportLive { .. } => "registry.report_live",
            Self::Settings {} => "registry.settings",
            Self::Set { .. } => "registry.set",
            Self::Status {} => "registry.status",
        }
    }

    fn tell(&self, out: &mut Fields<'_>) {
        match self {
            Self::Register { registering } => {
                out.field("address", &registering.address);
                if let Some(identity) = &registering.identity {
                    out.field("node", identity.node);
                }
            }
            Self::ReportCoordinator { report } => {
                out.field("epoch", report.epoch).field("reporter", report.reporter);
                out.field("vote", report.vote);
            }
            Self::Resign { resignation } => {
                out.field("epoch", resignation.epoch).field("node", resignation.node);
            }
            Self::ProposeMembers { proposal } => {
                out.field("epoch", proposal.epoch).field("members", &proposal.members);
            }
            Self::Progress { view } | Self::Activate { view } => {
                out.field("epoch", view.epoch);
            }
            Self::ReportLive { live } => {
                out.field("epoch", live.claim.epoch);
            }
            Self::Set { change } => {
                out.field("setting", &change.name).field("to_value", &change.value);
            }
            Self::Nodes {} | Self::Coordinator {} | Self::Settings {} | Self::Status {} => {}
        }
    }
}

impl Told for RegistryResponse {
    fn tell(&self, out: &mut Fields<'_>) {
        match self {
            Self::Register(Ok(registered)) => {
                out.field("node", registered.node).field("epoch", registered.newest.epoch);
            }
            Self::Nodes(nodes) => {
                out.field("nodes", nodes.len());
            }
            Self::Coordinator(whereabouts) => tell_whereabouts(whereabouts, out),
            Self::ProposeMembers(Ok(view)) | Self::Activate(Ok(view)) => {
                out.field("epoch", view.epoch).field("view", view);
            }
            Self::ReportLive(Ok(answer)) => {
                out.field("epoch", answer.newest.epoch);
            }
            Self::Register(Err(why))
            | Self::ReportCoordinator(Err(why))
            | Self::Resign(Err(why))
            | Self::ProposeMembers(Err(why))
            | Self::Progress(Err(why))
            | Self::Activate(Err(why))
            | Self::ReportLive(Err(why))
            | Self::Set(Err(why)) => {
                out.field("refused", why);
            }
            Self::ReportCoordinator(Ok(()))
            | Self::Resign(Ok(()))
            | Self::Progress(Ok(()))
            | Self::Set(Ok(_))
            | Self::Settings(_)
            | Self::Status(_) => {}
        }
    }
}

fn tell_whereabouts(whereabouts: &Whereabouts, out: &mut Fields<'_>) {
    out.field("epoch", whereabouts.epoch);
    if let Some((node, _)) = &whereabouts.coordinator {
        out.field("coordinator", node);
    }
    if whereabouts.electing {
        out.field("electing", true);
    }
}
