//! What a write costs with seven nodes, and with three: the processor time of all of them.

use std::sync::Arc;

use anyhow::Result;
use serde::{Deserialize, Serialize};

use crate::data::{Data, Filling, fill};
use crate::ground::Ground;
use crate::load::{Action, Load, Times, drive};
use crate::results::Sample;
use crate::rows::sample;
use crate::store::Store;
use crate::stores::quorate::Quorate;

/// The sizes that are compared.
pub(crate) const FEW: usize = 3;
pub(crate) const MANY: usize = 7;

/// Writes of 64 clients on so many nodes.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Nodes {
    pub(crate) nodes: usize,
    pub(crate) sample: Sample,
}

pub(crate) async fn measure(
    ground: &Ground,
    data: &Arc<Data>,
    times: Times,
    nodes: usize,
    round: u32,
) -> Result<Nodes> {
    let mut store = Quorate::start_with(ground, nodes).await?;
    fill(&store, data, Filling::Separate).await?;
    let measured = drive(&mut store, data, Load::separate(Action::Write), times).await?;
    Ok(Nodes { nodes, sample: sample(Quorate::NAME, super::NODES, round, measured) })
}
