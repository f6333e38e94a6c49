//! Calls to nodes: surveys, appointments, announcements.
//!
//! Each runs in a task of its own with a deadline, and comes back as an event, so that no node,
//! however slow, holds up the core. One link per node is kept for the next call, and dropped
//! when a call fails, so that the next one dials anew and at once. A link goes to the store that the
//! directory binds to the node: what another process at its address says is never taken for its
//! word, only for the proof that it is not there any more.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use quorate_protocol::ids::{Epoch, History, NodeId, StoreId};
use quorate_protocol::rpc::appoint::{
    Announcement, AppointeeRequest, AppointeeResponse, Appointment, Survey,
};
use quorate_protocol::transport::{CallError, ConnectError, KnownCluster, Link, Service};
use quorate_protocol::version::{Promise, Version};
use tokio::sync::mpsc;

use crate::core::REGISTRATIONS_MAX;
use crate::core::event::{Event, NotAppointed, Round, Silence};

type NodeLink = Link<AppointeeRequest, AppointeeResponse>;

/// Where a node listens, and the store that must answer there.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    pub(crate) address: String,
    pub(crate) store: StoreId,
}

/// What came of a call to a node.
pub(crate) struct Outcome {
    place: Place,
    failed: bool,
    /// What the core must know of it.
    pub(crate) event: Option<Event>,
}

/// The nodes as this server reaches them.
pub(crate) struct Nodes {
    links: BTreeMap<Place, NodeLink>,
    cluster: KnownCluster,
    /// As many wait here as calls are out: a survey or two and an announcement to every node.
    outcomes: mpsc::UnboundedSender<Outcome>,
}

impl Nodes {
    pub(crate) fn new(cluster: KnownCluster, outcomes: mpsc::UnboundedSender<Outcome>) -> Self {
        Self { links: BTreeMap::new(), cluster, outcomes }
    }

    /// Asks a node who it is.
    pub(crate) fn survey(&mut self, round: Round, node: NodeId, place: Place, timeout: Duration) {
        self.call(
            place,
            || AppointeeRequest::Survey {},
            timeout,
            move |answer| {
                let result = match answer {
                    Ok(AppointeeResponse::Survey(survey)) => Ok(survey),
                    Ok(_) => Err(Silence::Timeout),
                    Err(CallError::Rejected(ConnectError::OtherStore { found, .. })) => {
                        Ok(stranger(found))
                    }
                    Err(error) => Err(silence(&error)),
                };
                Some(Event::SurveyAnswer { round, node, result })
            },
        );
    }

    /// Tells a node to coordinate.
    pub(crate) fn appoint(&mut self, place: Place, appointment: Appointment, timeout: Duration) {
        let epoch: Epoch = appointment.view.epoch;
        let request = move || AppointeeRequest::Appoint { appointment: appointment.clone() };
        self.call(place, request, timeout, move |answer| {
            let result = match answer {
                Ok(AppointeeResponse::Appoint(result)) => result.map_err(NotAppointed::Refused),
                Ok(_) => Err(NotAppointed::Unreachable(Silence::Timeout)),
                Err(error) => Err(NotAppointed::Unreachable(silence(&error))),
            };
            Some(Event::AppointAnswer { epoch, result })
        });
    }

    /// Tells a node how things stand; who cannot be told learns it from heartbeats (S002-43).
    pub(crate) fn announce(&mut self, place: Place, announcement: Announcement, timeout: Duration) {
        let request = move || AppointeeRequest::Announce { announcement: announcement.clone() };
        self.call(place, request, timeout, |_| None);
    }

    /// Takes note of an outcome.
    pub(crate) fn settle(&mut self, outcome: Outcome) -> Option<Event> {
        if outcome.failed {
            self.links.remove(&outcome.place);
        }
        outcome.event
    }

    fn call(
        &mut self,
        place: Place,
        request: impl Fn() -> AppointeeRequest + Send + Sync + 'static,
        timeout: Duration,
        event: impl FnOnce(Result<AppointeeResponse, CallError>) -> Option<Event> + Send + 'static,
    ) {
        let link = self.link(&place);
        let outcomes = self.outcomes.clone();
        tokio::spawn(async move {
            let answer = ask(&link, request, timeout).await;
            let failed = answer.is_err();
            // Fails when the server stops: then nobody needs the outcome.
            let _ = outcomes.send(Outcome { place, failed, event: event(answer) });
        });
    }

    fn link(&mut self, place: &Place) -> NodeLink {
        if let Some(link) = self.links.get(place) {
            return link.clone();
        }
        if self.links.len() >= REGISTRATIONS_MAX {
            // Left over from nodes that moved away.
            self.links.clear();
        }
        let Place { address, store } = place.clone();
        let link = Link::to_store(store, address, Service::Appoint, self.cluster.clone());
        self.links.insert(place.clone(), link.clone());
        link
    }
}

/// One call. A connection that broke says nothing of the node: it may have been broken for long,
/// and only the next dial shows whether anybody is there. A node that has not registered is about
/// to: the appointment that follows from its registration may overtake the answer to it. Every call
/// here may be repeated.
async fn ask(
    link: &NodeLink,
    request: impl Fn() -> AppointeeRequest,
    timeout: Duration,
) -> Result<AppointeeResponse, CallError> {
    let deadline = Instant::now() + timeout;
    let mut broke = false;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        match link.call(request(), left).await {
            Err(CallError::Lost { .. }) if !broke => broke = true,
            // The link rests before it dials again.
            Err(CallError::NotSent(ConnectError::NotRegistered { .. })) => {}
            outcome => return outcome,
        }
    }
}

/// What a process with another store says to a survey. Nothing but its store is known, and nothing
/// else is looked at: the node that was there is gone.
fn stranger(store: StoreId) -> Survey {
    Survey {
        node: None,
        store,
        history: History::default(),
        promised: Promise::default(),
        position: Version::ZERO,
        marked: false,
        leaving: false,
    }
}

/// Only a refused connection may ever count towards a proof (design §2, †).
fn silence(error: &CallError) -> Silence {
    match error {
        CallError::NotSent(ConnectError::Refused { .. }) => Silence::Refused,
        _ => Silence::Timeout,
    }
}

#[cfg(test)]
mod tests {
    use quorate_protocol::ids::ClusterId;
    use quorate_protocol::transport::{
        AcceptError, Listener, Responder, TurnedAway, serve_channel,
    };
    use tokio::net::TcpListener;

    use super::*;

    /// No condition here takes longer, however slow the machine.
    const PATIENCE: Duration = Duration::from_secs(20);

    struct Node {
        listener: Listener,
        cluster: KnownCluster,
        place: Place,
    }

    impl Node {
        /// A node that has not registered.
        async fn start(store: u128) -> Self {
            let port = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = port.local_addr().unwrap().to_string();
            let (store, cluster) = (StoreId(store), KnownCluster::default());
            let listener = Listener::over(port, Service::OF_NODE, cluster.clone(), store);
            Self { listener, cluster, place: Place { address, store } }
        }
    }

    fn nodes() -> (Nodes, mpsc::UnboundedReceiver<Outcome>) {
        let (outcomes, heard) = mpsc::unbounded_channel();
        (Nodes::new(KnownCluster::new(ClusterId(1)), outcomes), heard)
    }

    async fn answer(heard: &mut mpsc::UnboundedReceiver<Outcome>) -> Result<Survey, Silence> {
        let outcome = tokio::time::timeout(PATIENCE, heard.recv()).await.unwrap().unwrap();
        match outcome.event {
            Some(Event::SurveyAnswer { result, .. }) => result,
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn a_survey_learns_which_store_answers_and_asks_it_nothing() {
        let mut node = Node::start(2).await;
        // Also one that belongs to the cluster by now, under another number.
        for cluster in [0, 1] {
            node.cluster.set(ClusterId(cluster));
            let (mut nodes, mut heard) = nodes();
            let member = Place { store: StoreId(1), ..node.place.clone() };
            nodes.survey(Round(1), NodeId(3), member, PATIENCE);
            let turned_away = node.listener.accept().await.unwrap_err();
            let AcceptError::TurnedAway { why, .. } = turned_away else {
                panic!("not turned away")
            };
            assert_eq!(why, TurnedAway::OtherStore { wanted: StoreId(1) });
            assert_eq!(answer(&mut heard).await.map(|survey| survey.store), Ok(StoreId(2)));
        }
    }

    #[tokio::test]
    async fn a_node_that_is_registering_is_waited_for() {
        let mut node = Node::start(1).await;
        let (mut nodes, mut heard) = nodes();
        nodes.survey(Round(1), NodeId(3), node.place.clone(), PATIENCE);
        let turned_away = node.listener.accept().await.unwrap_err();
        assert!(turned_away.to_string().contains("not registered"), "{turned_away}");
        node.cluster.set(ClusterId(1));
        let serving = async {
            let accepted = loop {
                // It may have been turned away once more before it was known.
                if let Ok(accepted) = node.listener.accept().await {
                    break accepted;
                }
            };
            let connection = accepted.into_connection();
            let inbox = |_: AppointeeRequest, responder: Responder<_>| {
                responder.send(AppointeeResponse::Survey(stranger(StoreId(1))));
            };
            serve_channel(connection, inbox).await
        };
        tokio::select! {
            result = answer(&mut heard) => assert_eq!(result.unwrap().store, StoreId(1)),
            end = serving => panic!("{end:?}"),
        }
    }
}
