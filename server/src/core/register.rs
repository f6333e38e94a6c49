//! Who a node is, and whether it lost data that it had promised.

use quorate_protocol::ids::NodeId;
use quorate_protocol::mutant::{self, Mutant};
use quorate_protocol::rpc::registry::{Identity, Registered, Registering, RegistryError};
use quorate_protocol::version::Version;
use quorate_protocol::view::{Members, Registration};

use super::effect::StopReason;
use super::election::{Cause, Election};
use super::state::{Ended, Kind};
use super::{ADDRESS_BYTES_MAX, Core, REGISTRATIONS_MAX};

impl Core {
    /// A node registers: at its start, and whenever its connection was lost.
    pub(super) fn register(
        &mut self,
        registering: Registering,
    ) -> Result<Registered, RegistryError> {
        check_address(&registering.address)?;
        let node = match &registering.identity {
            Some(identity) => self.recognise(identity, &registering)?,
            None => match self.bound_to(&registering) {
                // The reply to its first registration was lost.
                Some(node) => node,
                None => return self.admit(registering),
            },
        };
        if self.state.processes.get(&node) == Some(&registering.process) {
            // The reply was lost, or the call came twice, perhaps long after the first. What it
            // says of its log may be older than what is known of it here: it proves nothing.
            return Ok(self.registered(node));
        }
        self.update(node, &registering);
        let lost = self.lost_data(node, registering.identity.as_ref())
            && !mutant::is_on(Mutant::CountAmnesiac);
        if lost {
            self.mark(node);
        }
        let restarted = registering.identity.as_ref().is_some_and(|it| it.restarted);
        self.hearing.hear(node, self.now);
        self.came_back(node, restarted || lost);
        Ok(self.registered(node))
    }

    /// Checks the claims of a returning node.
    fn recognise(
        &mut self,
        identity: &Identity,
        registering: &Registering,
    ) -> Result<NodeId, RegistryError> {
        let node = identity.node;
        if identity.cluster != self.state.cluster {
            let (mine, theirs) = (self.state.cluster, identity.cluster);
            return Err(RegistryError::OtherCluster { mine, theirs });
        }
        self.know_epoch(identity.promised.epoch.max(identity.position.epoch))?;
        let lost = RegistryError::LostState { epoch: identity.promised.epoch };
        if identity.history > self.state.history {
            let (met, newest) = (identity.history, self.state.history);
            self.stop(StopReason::UnknownHistory { met, newest });
            return Err(lost);
        }
        if node >= self.state.next_node {
            self.stop(StopReason::UnknownNode { met: node, next: self.state.next_node });
            return Err(lost);
        }
        let Some(known) = self.state.directory.get(&node) else {
            return Err(RegistryError::UnknownNode { node });
        };
        if known.store != registering.store {
            let (bound, offered) = (known.store, registering.store);
            return Err(RegistryError::OtherStore { node, bound, offered });
        }
        Ok(node)
    }

    fn bound_to(&self, registering: &Registering) -> Option<NodeId> {
        let mut nodes = self.state.directory.iter();
        nodes.find(|(_, known)| known.store == registering.store).map(|(node, _)| *node)
    }

    /// A node that was never here gets the next number.
    fn admit(&mut self, registering: Registering) -> Result<Registered, RegistryError> {
        self.make_room(&registering.address)?;
        let state = self.change();
        let node = state.next_node;
        state.next_node = node.next();
        let registration = Registration {
            address: registering.address,
            store: registering.store,
            durable: registering.durable,
            floor: Version::ZERO,
            marked: false,
        };
        state.directory.insert(node, registration);
        state.processes.insert(node, registering.process);
        self.hearing.hear(node, self.now);
        self.came_back(node, false);
        Ok(self.registered(node))
    }

    /// Drops memory nodes that cannot come back: those whose address the newcomer has, and at
    /// the bound the one that was not heard for longest. Members are never dropped.
    fn make_room(&mut self, address: &str) -> Result<(), RegistryError> {
        let mut members = self.state.members();
        if let Some(proposed) = &self.state.proposed {
            members = members.union(&proposed.view.members);
        }
        let spare: Vec<NodeId> = self
            .state
            .directory
            .iter()
            .filter(|(node, known)| !known.durable && !members.contains(**node))
            .map(|(node, _)| *node)
            .collect();
        let mut drop: Vec<NodeId> = spare
            .iter()
            .copied()
            .filter(|node| self.state.directory[node].address == address)
            .collect();
        if drop.is_empty() && self.state.directory.len() >= REGISTRATIONS_MAX {
            let Some(oldest) = spare.iter().min_by_key(|node| self.hearing.last(**node)) else {
                return Err(RegistryError::BadProposal {
                    why: format!(
                        "{REGISTRATIONS_MAX} nodes are registered, which is the most; start the \
                         node on the directory of one of those that are not running"
                    ),
                });
            };
            drop.push(*oldest);
        }
        self.forget(drop);
        Ok(())
    }

    /// Drops memory nodes that were members when a newer one came to their address, and are not any
    /// more: their stores died with their processes.
    pub(super) fn drop_ghosts(&mut self) {
        let directory = &self.state.directory;
        let members = self.state.members();
        let is_ghost = |(node, known): &(&NodeId, &Registration)| {
            !known.durable && !members.contains(**node) && directory.is_replaced(**node)
        };
        let ghosts = directory.iter().filter(is_ghost).map(|(node, _)| *node).collect();
        self.forget(ghosts);
    }

    fn forget(&mut self, nodes: Vec<NodeId>) {
        for node in nodes {
            let state = self.change();
            state.directory.remove(&node);
            state.processes.remove(&node);
            self.hearing.forget(node);
        }
    }

    /// Keeps where a returning node listens now.
    fn update(&mut self, node: NodeId, registering: &Registering) {
        let known = &self.state.directory[&node];
        if known.address != registering.address || known.durable != registering.durable {
            let known = self.change().directory.get_mut(&node).expect("recognised above");
            known.address.clone_from(&registering.address);
            known.durable = registering.durable;
        }
        self.change().processes.insert(node, registering.process);
    }

    /// Whether a returning node lost data it had promised (design §2, †): it says so itself, or
    /// its position is below its floor. Only a process that restarted can have lost what it does
    /// not know of; the position of one that runs on may be older than its floor merely because
    /// the coordinator's report overtook it. Data of an older history is given up anyway and
    /// counts for nothing, unless the node promised something in this history as well: then it
    /// came back with an old copy of its data.
    fn lost_data(&self, node: NodeId, identity: Option<&Identity>) -> bool {
        let floor = self.state.directory[&node].floor;
        let Some(identity) = identity else { return floor > Version::ZERO };
        if identity.history < self.state.history {
            let promised = floor > Version::ZERO || self.state.members().contains(node);
            return identity.restarted && promised;
        }
        identity.marked || identity.restarted && identity.position < floor
    }

    /// What follows from a node's return. `anew` says that its process restarted or that it lost
    /// data: either way it cannot go on with an epoch it had.
    fn came_back(&mut self, node: NodeId, anew: bool) {
        let proposed = self.state.proposed.as_ref();
        let was_proposed = proposed.is_some_and(|it| it.view.coordinator == node) && anew;
        let active = self.state.active.as_ref();
        let was_active = active.is_some_and(|view| view.coordinator == node) && anew;
        if was_proposed {
            self.withdraw(true);
        }
        if was_active {
            self.change().ended = Some(Ended::Restarted);
        }
        if self.state.active.is_some() {
            // A pending proposal of another node stands: its takeover ends the old epoch.
            if (was_proposed || was_active) && self.state.proposed.is_none() {
                self.elect(Election::new(Cause::Vacant, self.now));
            } else if self.state.members().contains(node) {
                self.ask_again();
            }
        } else if self.state.proposed.is_none() {
            // S002-15: where there is no view at all, the one who joins starts one.
            self.election = None;
            self.propose([node].into_iter().collect::<Members>(), node, Kind::First);
            self.appoint();
        }
    }

    fn registered(&self, node: NodeId) -> Registered {
        Registered {
            cluster: self.state.cluster,
            node,
            settings: self.state.settings.clone(),
            nodes: self.state.directory.clone(),
            history: self.state.history,
            active: self.state.active.clone(),
            newest: self.state.newest,
            marked: self.state.is_marked(node),
        }
    }
}

fn check_address(address: &str) -> Result<(), RegistryError> {
    let port = address.rsplit_once(':').and_then(|(host, port)| {
        (!host.is_empty() && address.len() <= ADDRESS_BYTES_MAX)
            .then(|| port.parse::<u16>().ok())?
    });
    match port {
        Some(port) if port > 0 => Ok(()),
        _ => {
            let shown: String = address.chars().take(80).collect();
            Err(RegistryError::BadProposal {
                why: format!(
                    "'{}' is no address that others can use; advertise one of the form HOST:PORT",
                    shown.escape_debug()
                ),
            })
        }
    }
}
