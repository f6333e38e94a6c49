//! The coordinator of Quorate: orders every write, fans reads, writes and deletes out to the
//! nodes, and answers with what a majority holds.
//!
//! Any node can be appointed; its process then runs a [`core::Core`] beside its own replica. The
//! core decides, the node's shell carries out: this crate opens no socket and starts no thread.
//! It does not decide who coordinates (the server does), keeps nothing on disk (its own replica
//! does), and holds no lock.
#![warn(missing_docs)]

pub mod core;
