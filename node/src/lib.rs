//! A node of Quorate: a durable log, a state made from it, heartbeats, and a coordinator that is
//! there when it is appointed.
//!
//! * [`core`]: what a node decides: promises, appends, applying, whom to suspect, whom to vote
//!   for. Pure: it takes time and events, and gives back effects.
//! * [`log`]: entries and promises, durable before anyone is told.
//! * [`state`]: what every key holds, fed lazily from what was applied.
//! * [`shell`]: sockets, threads and files around the cores.
//! * [`Sizes`]: how large the pieces of its files are.
//! * [`mod@verify`]: what is wrong with a stopped node's files, and what its next start does.
//!
//! What is deliberately absent: who coordinates and who counts (the server's matter), the order of
//! requests (the coordinator's, in a crate of its own), and any process-wide state: everything
//! hangs off one value, so that one process may host many keyspaces one day.

// Test support that integration tests use too names the crate as they do.
#[cfg(test)]
extern crate self as quorate_node;

pub mod core;
mod dirs;
#[cfg(test)]
mod fixture;
pub mod log;
pub mod shell;
mod sizes;
pub mod state;
pub mod verify;

pub use shell::{Config, DirectoryError, Error, OpenFailed, RegisterFailed, run};
pub use sizes::Sizes;
pub use verify::{Report, VerifyFailed, is_node, verify};
