//! What goes wrong, and its end.

use quorate_protocol::ids::NodeId;

use super::{Cluster, Due};

impl Cluster {
    pub(super) fn fault(&mut self) {
        if self.healed {
            return;
        }
        let (node, other) = (self.any_node(), self.any_node());
        match self.random.below(11) {
            0 | 1 => self.crash(node),
            2 | 3 => self.registry.suspect(),
            4 => {
                for node in self.processes.keys().copied().collect::<Vec<_>>() {
                    self.crash(node);
                }
            }
            5 | 6 => {
                self.cut.insert((node.min(other), node.max(other)));
            }
            7 => {
                self.lonely.insert(node);
            }
            _ => {
                self.cut.clear();
                self.lonely.clear();
            }
        }
        let pause = self.random.below(self.pace.0);
        self.after(pause, Due::Fault);
    }

    pub(super) fn any_node(&mut self) -> NodeId {
        let nodes: Vec<_> = self.processes.keys().copied().collect();
        *self.random.pick(&nodes).expect("there are nodes")
    }

    pub(super) fn heal(&mut self) {
        self.healed = true;
        self.cut.clear();
        self.lonely.clear();
        for node in self.down.clone() {
            self.start(node);
        }
    }
}
