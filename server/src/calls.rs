//! From the calls of the `Registry` service to the core's requests, and back.

use quorate_protocol::rpc::registry::{RegistryRequest, RegistryResponse};
use quorate_protocol::transport::Responder;

use crate::core::effect::Answer;
use crate::core::event::Request;

/// A call that waits for its answer.
pub(crate) struct Waiting {
    responder: Responder<RegistryResponse>,
    wrap: Wrap,
}

/// Makes the response to a call of its answer; `None` if it is not an answer to that call.
type Wrap = fn(Answer) -> Option<RegistryResponse>;

impl Waiting {
    /// Sends the answer.
    pub(crate) fn send(self, answer: Answer) {
        let response = (self.wrap)(answer).expect("the core answers each call with its own answer");
        self.responder.send(response);
    }
}

/// What to ask the core, and how to answer the caller.
pub(crate) fn open(
    incoming: RegistryRequest,
    responder: Responder<RegistryResponse>,
) -> (Request, Waiting) {
    macro_rules! wrap {
        ($answer:ident, $response:ident) => {
            |answer| match answer {
                Answer::$answer(answer) => Some(RegistryResponse::$response(answer)),
                _ => None,
            }
        };
    }
    let (request, wrap): (Request, Wrap) = match incoming {
        RegistryRequest::Register { registering } => {
            (Request::Register(registering), wrap!(Registered, Register))
        }
        RegistryRequest::Nodes {} => (Request::Nodes, wrap!(Nodes, Nodes)),
        RegistryRequest::Coordinator {} => (Request::Coordinator, wrap!(Coordinator, Coordinator)),
        RegistryRequest::ReportCoordinator { report } => {
            (Request::ReportCoordinator(report), wrap!(Done, ReportCoordinator))
        }
        RegistryRequest::Resign { resignation } => {
            (Request::Resign(resignation), wrap!(Done, Resign))
        }
        RegistryRequest::ProposeMembers { proposal } => {
            (Request::ProposeMembers(proposal), wrap!(View, ProposeMembers))
        }
        RegistryRequest::Progress { view } => (Request::Progress(view), wrap!(Done, Progress)),
        RegistryRequest::Activate { view } => (Request::Activate(view), wrap!(View, Activate)),
        RegistryRequest::ReportLive { live } => {
            (Request::ReportLive(live), wrap!(Live, ReportLive))
        }
        RegistryRequest::Settings {} => (Request::Settings, wrap!(Settings, Settings)),
        RegistryRequest::Set { change } => (Request::Set(change), wrap!(Set, Set)),
        RegistryRequest::Status {} => (Request::Status, wrap!(Status, Status)),
    };
    (request, Waiting { responder, wrap })
}
