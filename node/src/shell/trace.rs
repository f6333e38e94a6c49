//! The spans in which the cores step: two names that stay, the event as a field. Where nobody
//! traces they cost a look each.
//!
//! What comes all the time, and mostly changes nothing, has no span: ticks, heartbeats, and the
//! ends of bursts.

use quorate_coordinator::core::event as coordinator;
use tracing::Span;

use crate::core::event as node;

/// The span of a step of the node's core.
pub(super) fn node_step(event: &node::Event) -> Span {
    use node::Event;
    let event = match event {
        Event::Tick | Event::Heard(_) => return Span::none(),
        Event::Registered(_) => "registered",
        Event::Prepare { .. } => "prepare",
        Event::Append { .. } => "append",
        Event::Pull { .. } => "pull",
        Event::CopyFrom { .. } => "copy from",
        Event::Survey { .. } => "survey",
        Event::Appoint { .. } => "appoint",
        Event::Announce(_) => "announce",
        Event::Alert(_) => "alert",
        Event::Persisted(_) => "persisted",
        Event::Applied(_) => "applied",
        Event::DurableApplied(_) => "durable applied",
        Event::LogDropped(_) => "log dropped",
        Event::Copied(_) => "copied",
        Event::RefusedBy(_) => "refused by",
        Event::Settings(_) => "settings",
        Event::Stop => "stop",
    };
    tracing::debug_span!("node step", event)
}

/// The span of a step of the coordinator's core.
pub(super) fn coordinator_step(event: &coordinator::Event) -> Span {
    use coordinator::Event;
    let event = match event {
        Event::Tick | Event::Drained => return Span::none(),
        Event::Appointed(_) => "appointed",
        Event::Change { .. } => "change",
        Event::Read { .. } => "read",
        Event::Prepared { .. } => "prepared",
        Event::Appended { .. } => "appended",
        Event::Pulled { .. } => "pulled",
        Event::Fetched { .. } => "fetched",
        Event::Copied { .. } => "copied",
        Event::Applied(_) => "applied",
        Event::Activated { .. } => "activated",
        Event::Proposed { .. } => "proposed",
        Event::Live { .. } => "live",
        Event::Settings(_) => "settings",
        Event::Reported(_) => "reported",
        Event::Leaving { .. } => "leaving",
        Event::Stop => "stop",
    };
    tracing::debug_span!("coordinator step", event)
}
