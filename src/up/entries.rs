//! What the runtime file says, and how it is written.

use std::path::PathBuf;

use quorate_protocol::ids::NodeId;
use serde::{Deserialize, Serialize};

use super::process::Process;

/// Rises when a field changes its meaning.
const FORMAT: u32 = 1;

/// A cluster that runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Runtime {
    format: u32,
    /// The `quorate up` that looks after the processes; none after `--detach`.
    pub(crate) supervisor: Option<Process>,
    /// Where a cluster in memory keeps what it must keep while it runs.
    pub(crate) scratch: Option<PathBuf>,
    /// How nodes are started again.
    pub(crate) log: String,
    pub(crate) trace: Option<PathBuf>,
    pub(crate) server: ServerEntry,
    pub(crate) nodes: Vec<NodeEntry>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ServerEntry {
    pub(crate) address: String,
    pub(crate) process: Process,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct NodeEntry {
    /// Which of the directories node-1, node-2, ... it has.
    pub(crate) slot: u32,
    /// Its number in the cluster, once the server gave it one.
    pub(crate) id: Option<NodeId>,
    pub(crate) address: String,
    pub(crate) process: Process,
}

impl Runtime {
    /// A cluster of which only the server runs yet.
    pub(crate) fn new(
        supervisor: Option<Process>,
        scratch: Option<PathBuf>,
        log: String,
        trace: Option<PathBuf>,
        server: ServerEntry,
    ) -> Self {
        Self { format: FORMAT, supervisor, scratch, log, trace, server, nodes: Vec::new() }
    }

    /// What the file says.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let read: Self = serde_json::from_str(text).map_err(|error| error.to_string())?;
        if read.format != FORMAT {
            return Err(format!("format {}, not {FORMAT}", read.format));
        }
        Ok(read)
    }

    /// The file.
    pub(crate) fn print(&self) -> String {
        serde_json::to_string_pretty(self).expect("plain data")
    }
}
