//! Calls to the server.

use std::time::Duration;

use quorate_protocol::rpc::registry::{
    Claim, Live, LiveAnswer, Proposal, Registered, Registering, RegistryError, RegistryRequest,
    RegistryResponse, Report, Resignation,
};
use quorate_protocol::settings::Settings;
use quorate_protocol::transport::{CallError, KnownCluster, Link, Service};
use quorate_protocol::view::View;

/// How long one call to the server may take.
pub(crate) const TIMEOUT: Duration = Duration::from_millis(1_000);
/// How long the node waits between two attempts to register: at first.
const REGISTER_AGAIN_MIN: Duration = Duration::from_millis(50);
/// The same, at the most.
const REGISTER_AGAIN_MAX: Duration = Duration::from_millis(1_000);
/// How often a resignation is repeated until the server hears it.
const RESIGN_ATTEMPTS_MAX: u32 = 20;

/// The server, at the addresses it may be found at.
#[derive(Clone)]
pub(crate) struct Server {
    links: Vec<Link<RegistryRequest, RegistryResponse>>,
}

/// What became of a call: the server's word, or none.
pub(crate) type Said<T> = Result<Result<T, RegistryError>, CallError>;

impl Server {
    pub(crate) fn new(addresses: &[String], cluster: &KnownCluster) -> Self {
        let link =
            |address: &String| Link::new(address.clone(), Service::Registry, cluster.clone());
        Self { links: addresses.iter().map(link).collect() }
    }

    /// Asks the addresses in turn until one answers.
    async fn ask(&self, request: RegistryRequest) -> Result<RegistryResponse, CallError> {
        let (last, others) = self.links.split_last().expect("a node is given a server");
        for link in others {
            if let Ok(answer) = link.call(request.clone(), TIMEOUT).await {
                return Ok(answer);
            }
        }
        last.call(request, TIMEOUT).await
    }

    fn wrong(&self) -> CallError {
        self.links[0].wrong_answer()
    }

    /// Whether what listens at the server's address may be this cluster's server. Who cannot be
    /// reached may be.
    pub(crate) async fn check(&self) -> Result<(), RegisterFailed> {
        match self.ask(RegistryRequest::Coordinator {}).await {
            Err(error @ CallError::Rejected(_)) => Err(RegisterFailed::Rejected(error)),
            _ => Ok(()),
        }
    }

    /// Registers, for as long as it takes. Only the server's own refusal ends it.
    pub(crate) async fn register(
        &self,
        registering: Registering,
    ) -> Result<Registered, RegisterFailed> {
        let mut wait = REGISTER_AGAIN_MIN;
        let mut said = None;
        loop {
            let request = RegistryRequest::Register { registering: registering.clone() };
            let error = match self.ask(request).await {
                Ok(RegistryResponse::Register(Ok(registered))) => return Ok(registered),
                Ok(RegistryResponse::Register(Err(refused))) => {
                    return Err(RegisterFailed::Refused(refused));
                }
                Ok(_) => self.wrong(),
                Err(error @ CallError::Rejected(_)) => return Err(RegisterFailed::Rejected(error)),
                Err(error) => error,
            };
            let error = error.to_string();
            if said.as_ref() != Some(&error) {
                tracing::warn!(%error, "cannot register yet; trying again");
                said = Some(error);
            }
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(REGISTER_AGAIN_MAX);
        }
    }

    pub(crate) async fn activate(&self, view: Claim) -> Said<View> {
        match self.ask(RegistryRequest::Activate { view }).await? {
            RegistryResponse::Activate(said) => Ok(said),
            _ => Err(self.wrong()),
        }
    }

    pub(crate) async fn propose(&self, proposal: Proposal) -> Said<View> {
        match self.ask(RegistryRequest::ProposeMembers { proposal }).await? {
            RegistryResponse::ProposeMembers(said) => Ok(said),
            _ => Err(self.wrong()),
        }
    }

    pub(crate) async fn report_live(&self, live: Live) -> Said<LiveAnswer> {
        match self.ask(RegistryRequest::ReportLive { live }).await? {
            RegistryResponse::ReportLive(said) => Ok(said),
            _ => Err(self.wrong()),
        }
    }

    /// The settings in force, if the server answers.
    pub(crate) async fn settings(&self) -> Option<Settings> {
        match self.ask(RegistryRequest::Settings {}).await {
            Ok(RegistryResponse::Settings(settings)) => Some(settings),
            _ => None,
        }
    }

    /// Tells the server once; what it does not hear now it will hear again.
    pub(crate) async fn progress(&self, view: Claim) {
        let _ = self.ask(RegistryRequest::Progress { view }).await;
    }

    /// Tells the server once; the report is repeated as long as its cause stands.
    pub(crate) async fn report(&self, report: Report) {
        match self.ask(RegistryRequest::ReportCoordinator { report }).await {
            Ok(RegistryResponse::ReportCoordinator(Err(error))) => {
                tracing::debug!(%error, "the report counts for nothing");
            }
            Ok(_) => {}
            Err(error) => tracing::debug!(%error, "the server did not hear the report"),
        }
    }

    /// Tells the server until it hears it.
    pub(crate) async fn resign(&self, resignation: Resignation) {
        for _ in 0..RESIGN_ATTEMPTS_MAX {
            let request = RegistryRequest::Resign { resignation: resignation.clone() };
            if self.ask(request).await.is_ok() {
                return;
            }
            tokio::time::sleep(REGISTER_AGAIN_MIN).await;
        }
    }
}

/// Why a node cannot register and need not go on trying.
#[derive(Debug, thiserror::Error)]
pub enum RegisterFailed {
    /// The server says no.
    #[error("the server refuses this node: {0}")]
    Refused(RegistryError),
    /// What listens there is not the server of this cluster.
    #[error("cannot register: {0}")]
    Rejected(CallError),
}
