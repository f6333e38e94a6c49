//! The transport: what carries the messages of [`rpc`](crate::rpc) between processes.
//!
//! tarpc gives the services, their clients and the messages. What carries them is our own, because
//! what reaches a port must be checked before anything else sees it; and so is the bookkeeping of
//! calls on both ends, because tarpc's costs more than all the rest of a call (see [`calls`]).
//!
//! * An acceptor has a [`Listener`]. Each [`Accepted`] connection names its [`Service`]; as a
//!   connection of that service's request and response types it goes to [`serve_channel`], which
//!   hands every request to an inbox with a [`Responder`].
//! * A dialer has a [`Link`] for each service at each address. It dials when it is first called
//!   and again whenever it must. [`CallError`] tells whether a request may have been done.
//! * Both share a [`KnownCluster`], set once the process knows where it belongs.
//!
//! ```
//! use std::time::Duration;
//!
//! use quorate_protocol::transport::{KnownCluster, Link, Listener, Service, Told, serve_channel};
//! # mod service {
//! #[tarpc::service]
//! pub trait Echo {
//!     async fn echo(text: String) -> String;
//! }
//! # }
//! # use service::{EchoRequest, EchoResponse};
//!
//! // What a traced process would write down of them.
//! impl Told for EchoRequest {}
//! impl Told for EchoResponse {}
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let cluster = KnownCluster::default();
//! let mut listener = Listener::bind("127.0.0.1:0", Service::OF_NODE, cluster.clone()).await?;
//! let address = listener.local_address()?.to_string();
//!
//! tokio::spawn(async move {
//!     loop {
//!         // An error concerns one connection; a process would trace it and go on.
//!         let Ok(accepted) = listener.accept().await else { continue };
//!         match accepted.service() {
//!             Service::Store => {
//!                 let connection = accepted.into_connection::<EchoRequest, EchoResponse>();
//!                 tokio::spawn(serve_channel(connection, |request, responder| {
//!                     // A process would put both into its core's inbox and answer later.
//!                     let EchoRequest::Echo { text } = request;
//!                     responder.send(EchoResponse::Echo(text));
//!                 }));
//!             }
//!             // `accepted.detach()` takes a connection to another thread's runtime.
//!             _ => drop(accepted),
//!         }
//!     }
//! });
//!
//! let link = Link::<EchoRequest, EchoResponse>::new(address, Service::Store, cluster);
//! let request = EchoRequest::Echo { text: "hello".to_owned() };
//! let EchoResponse::Echo(text) = link.call(request, Duration::from_secs(5)).await?;
//! assert_eq!(text, "hello");
//! # Ok(())
//! # }
//! ```
//!
//! The modules, in reading order:
//!
//! * [`hello`]: magic, version, cluster, store and service, said by both ends before any frame.
//! * [`frame`]: bounded frames.
//! * [`wire`]: tarpc's messages in our own form, deadlines clamped on receipt.
//! * [`told`]: what a traced process writes down, and what messages carry for it.
//! * [`connection`]: a socket after its hello, as a stream and a sink of messages.
//! * [`seats`]: how many connections a process takes, and what it holds for all of them.
//! * [`dial`], [`accept`]: how a connection comes about.
//! * [`respond`]: the way back for an answer, from any thread.
//! * [`serve`]: one connection's requests into an inbox, its answers back.
//! * [`calls`]: many callers over one connection.
//! * [`link`]: a client that dials again by itself.
//!
//! # Bounds
//!
//! | what | at most | there |
//! | --- | --- | --- |
//! | a hello | [`HELLO_BYTES`](hello::HELLO_BYTES), [`HELLO_TIMEOUT_MS`](hello::HELLO_TIMEOUT_MS) | the connection ends |
//! | hellos at once | [`HELLOS_MAX`](accept::HELLOS_MAX) | the oldest ends |
//! | clients' connections | [`CLIENT_CONNECTIONS_MAX`](seats::CLIENT_CONNECTIONS_MAX) | the one idle longest ends; with none idle, the next is told `Busy` |
//! | peers' connections | [`PEER_CONNECTIONS_MAX`](seats::PEER_CONNECTIONS_MAX) | the next is told `Busy` |
//! | unanswered requests of a service | [`SERVICE_BYTES_MAX`](seats::SERVICE_BYTES_MAX) | only connections that hold less than [`SHARE_BYTES`](seats::SHARE_BYTES) are read from |
//! | a frame | [`FRAME_BYTES_MAX`] | from the peer: the connection ends; our own: that call fails |
//! | a message's lists | each its own, see [`list`](crate::list); what they come to is below [`FRAME_BYTES_MAX`] | as a frame that is too long |
//! | a frame once begun | [`FRAME_MS_MAX`](connection::FRAME_MS_MAX) | the connection ends |
//! | unsent output | [`WRITE_BUFFER_BYTES`](connection::WRITE_BUFFER_BYTES) and one frame | no more answers or calls are taken up |
//! | a peer that reads nothing | [`WRITE_STALL_MS_MAX`](connection::WRITE_STALL_MS_MAX) | the connection ends |
//! | unanswered requests of a connection | [`IN_FLIGHT_MAX`], [`IN_FLIGHT_BYTES_MAX`](serve::IN_FLIGHT_BYTES_MAX) | no more is read; the dialer's calls wait |
//! | calls of a connection that wait to be sent | [`CALLS_WAITING_MAX`](calls::CALLS_WAITING_MAX) | the next wait for room, in turn |
//! | answers that a connection leaves lying | [`ANSWER_BYTES_MAX`](respond::ANSWER_BYTES_MAX) | further ones are dropped, and said to be |
//! | a call | [`DEADLINE_MS_MAX`] | it times out |
//! | a dial | [`DIAL_TIMEOUT_MS`](link::DIAL_TIMEOUT_MS) | it fails; the next waits up to [`REDIAL_MS_MAX`](link::REDIAL_MS_MAX), for heartbeats [`REDIAL_HEARTBEAT_MS_MAX`](link::REDIAL_HEARTBEAT_MS_MAX) |
//!
//! What is deliberately absent: retries of calls (who may ask again, and with which token, is
//! the callers' matter), encryption and authentication (a trusted domain, S002-11), and logging.

pub mod hello;
pub mod frame;
pub mod wire;
pub mod told;
pub mod connection;
pub mod seats;
pub mod dial;
pub mod accept;
pub mod respond;
pub mod serve;
pub mod calls;
pub mod link;

use serde::Serialize;
use serde::de::DeserializeOwned;

pub use accept::{AcceptError, Accepted, BindError, Detached, Listener, TurnedAway};
pub use calls::{Calls, NoAnswer, spawn_client};
pub use connection::{ClientConnection, Connection, ServerConnection};
pub use dial::{ConnectError, IN_FLIGHT_MAX, connect};
pub use frame::{FRAME_BYTES_MAX, FrameError};
pub use hello::{Hello, KnownCluster, PROTOCOL_VERSION, Service};
pub use link::{CallError, Link};
pub use respond::Responder;
pub use serve::serve_channel;
pub use told::Told;
pub use wire::DEADLINE_MS_MAX;

/// What a service's request and response types are: every one that `tarpc::service` makes is, once
/// it is said what is [`Told`] of it.
pub trait Message: Serialize + DeserializeOwned + Told + Send + 'static {}

impl<M: Serialize + DeserializeOwned + Told + Send + 'static> Message for M {}

/// What a request type is besides.
pub use tarpc::RequestName as Named;
