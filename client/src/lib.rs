//! The client library of Quorate.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use quorate_client::Client;
//!
//! let client = Client::connect(["127.0.0.1:4747"]).await?;
//! client.write("colour", "green").await?;
//! let reading = client.read("colour").await?;
//! assert_eq!(reading.value, Some("green".into()));
//! let deleted = client.delete("colour").await?;
//! assert!(deleted.found);
//! # Ok(()) }
//! ```
//!
//! A [`Client`] finds the coordinator through the server, or through any node when the server is
//! away, and finds the next one when it fails. All clones of a client share one connection per
//! process, with thousands of requests in flight on it. A change is retried under one token until
//! its deadline, so it is never done twice, and ends in exactly one of four ways: done, certainly
//! not done, unknown, or unknown for good. See [`Error`] for what to do with each.
//!
//! What an unknown outcome is for:
//!
//! ```no_run
//! # async fn example(client: quorate_client::Client) -> Result<(), quorate_client::Error> {
//! use quorate_client::{ChangeOptions, Error};
//!
//! let changed = match client.write("colour", "blue").await {
//!     // The same request once more: it is applied now, or was before, but never both.
//!     Err(Error::Unknown { token, .. }) => {
//!         let again = ChangeOptions::default().again(token);
//!         client.write_with("colour", "blue", again).await?
//!     }
//!     outcome => outcome?,
//! };
//! println!("written as entry {}", changed.version);
//! # Ok(()) }
//! ```
//!
//! The modules, in reading order:
//!
//! * `client`: the client itself; `operator`: looking at a cluster and changing its settings.
//! * `options`, `answer`, `error`, `address`: what goes in and what comes out.
//! * `drive`: one request through all its attempts; `backoff`: the waits between them.
//! * `finder`: who coordinates.
//! * `wire`: the calls, and the one place that knows of the transport.
//!
//! What is deliberately absent: caching of values, and any retry of a request that has ended. The
//! caller knows best whether an unknown write is worth another try.

mod address;
mod answer;
mod backoff;
mod client;
mod drive;
mod error;
mod finder;
mod operator;
mod options;
mod wire;

pub use address::{BadAddress, DEFAULT_PORT, parse_address};
pub use answer::{Changed, Reading};
pub use client::{ADDRESSES_MAX, CONNECT_PATIENCE, Client, ConnectError, REQUESTS_IN_FLIGHT_MAX};
pub use error::{Error, OperatorError};
pub use operator::{ClusterStatus, NoServer, NodeReport};
pub use options::{ChangeOptions, DEADLINE_MAX, DEFAULT_DEADLINE, ReadOptions};
pub use quorate_protocol::entry::Token;
pub use quorate_protocol::record::{Key, Value};
pub use quorate_protocol::rpc::store::{Level, Refused};
pub use quorate_protocol::version::Version;
