//! Calls to nodes: surveys, appointments, announcements.
//!
//! Each runs in a task of its own with a deadline, and comes back as an event, so that no node,
//! however slow, holds up the core. One link per address is kept for the next call, and dropped
//! when a call fails, so that the next one dials anew and at once.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use quorate_protocol::ids::{Epoch, NodeId};
use quorate_protocol::rpc::appoint::{
    Announcement, AppointeeRequest, AppointeeResponse, Appointment,
};
use quorate_protocol::transport::{CallError, ConnectError, KnownCluster, Link, Service};
use tokio::sync::mpsc;

use crate::core::REGISTRATIONS_MAX;
use crate::core::event::{Event, NotAppointed, Round, Silence};

type NodeLink = Link<AppointeeRequest, AppointeeResponse>;

/// What came of a call to a node.
pub(crate) struct Outcome {
    address: String,
    failed: bool,
    /// What the core must know of it.
    pub(crate) event: Option<Event>,
}

/// The nodes as this server reaches them.
pub(crate) struct Nodes {
    links: BTreeMap<String, NodeLink>,
    cluster: KnownCluster,
    /// As many wait here as calls are out: a survey or two and an announcement to every node.
    outcomes: mpsc::UnboundedSender<Outcome>,
}

impl Nodes {
    pub(crate) fn new(cluster: KnownCluster, outcomes: mpsc::UnboundedSender<Outcome>) -> Self {
        Self { links: BTreeMap::new(), cluster, outcomes }
    }

    /// Asks a node who it is.
    pub(crate) fn survey(
        &mut self,
        round: Round,
        node: NodeId,
        address: String,
        timeout: Duration,
    ) {
        self.call(
            address,
            || AppointeeRequest::Survey {},
            timeout,
            move |answer| {
                let result = match answer {
                    Ok(AppointeeResponse::Survey(survey)) => Ok(survey),
                    Ok(_) => Err(Silence::Timeout),
                    Err(error) => Err(silence(&error)),
                };
                Some(Event::SurveyAnswer { round, node, result })
            },
        );
    }

    /// Tells a node to coordinate.
    pub(crate) fn appoint(&mut self, address: String, appointment: Appointment, timeout: Duration) {
        let epoch: Epoch = appointment.view.epoch;
        let request = move || AppointeeRequest::Appoint { appointment: appointment.clone() };
        self.call(address, request, timeout, move |answer| {
            let result = match answer {
                Ok(AppointeeResponse::Appoint(result)) => result.map_err(NotAppointed::Refused),
                Ok(_) => Err(NotAppointed::Unreachable(Silence::Timeout)),
                Err(error) => Err(NotAppointed::Unreachable(silence(&error))),
            };
            Some(Event::AppointAnswer { epoch, result })
        });
    }

    /// Tells a node how things stand; who cannot be told learns it from heartbeats (S002-43).
    pub(crate) fn announce(
        &mut self,
        address: String,
        announcement: Announcement,
        timeout: Duration,
    ) {
        let request = move || AppointeeRequest::Announce { announcement: announcement.clone() };
        self.call(address, request, timeout, |_| None);
    }

    /// Takes note of an outcome.
    pub(crate) fn settle(&mut self, outcome: Outcome) -> Option<Event> {
        if outcome.failed {
            self.links.remove(&outcome.address);
        }
        outcome.event
    }

    fn call(
        &mut self,
        address: String,
        request: impl Fn() -> AppointeeRequest + Send + Sync + 'static,
        timeout: Duration,
        event: impl FnOnce(Result<AppointeeResponse, CallError>) -> Option<Event> + Send + 'static,
    ) {
        let link = self.link(&address);
        let outcomes = self.outcomes.clone();
        tokio::spawn(async move {
            let answer = ask(&link, request, timeout).await;
            let failed = answer.is_err();
            // Fails when the server stops: then nobody needs the outcome.
            let _ = outcomes.send(Outcome { address, failed, event: event(answer) });
        });
    }

    fn link(&mut self, address: &str) -> NodeLink {
        if let Some(link) = self.links.get(address) {
            return link.clone();
        }
        if self.links.len() >= REGISTRATIONS_MAX {
            // Left over from nodes that moved away.
            self.links.clear();
        }
        let link = Link::new(address, Service::Appoint, self.cluster.clone());
        self.links.insert(address.to_owned(), link.clone());
        link
    }
}

/// One call. A connection that broke says nothing of the node: it may have been broken for long,
/// and only the next dial shows whether anybody is there. Every call here may be repeated.
async fn ask(
    link: &NodeLink,
    request: impl Fn() -> AppointeeRequest,
    timeout: Duration,
) -> Result<AppointeeResponse, CallError> {
    let deadline = Instant::now() + timeout;
    match link.call(request(), timeout).await {
        Err(CallError::Lost { .. }) => {
            link.call(request(), deadline.saturating_duration_since(Instant::now())).await
        }
        outcome => outcome,
    }
}

/// Only a refused connection may ever count towards a proof (design §2, †).
fn silence(error: &CallError) -> Silence {
    match error {
        CallError::NotSent(ConnectError::Refused { .. }) => Silence::Refused,
        _ => Silence::Timeout,
    }
}
