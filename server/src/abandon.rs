//! Giving a majority up on purpose: the operator's way out when disks do not come back (design
//! §2).
//!
//! First [`abandon_preview`] says what may be lost; the command line shows it and asks; then
//! [`abandon`] begins a new history. Both work on the directory of a server that is stopped.
//!
//! What is kept is what the node holds that begins the new history (`docs/protocol.md` §7): the first
//! that registers or answers. What others hold beyond that is dropped as they copy it.

use std::fmt;
use std::path::Path;

use quorate_protocol::ids::{ClusterId, History};
use quorate_protocol::version::Version;
use quorate_protocol::view::View;

use crate::core::state::State;
use crate::run::Error;
use crate::store::Store;

/// What giving up the majority of a cluster would give up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Abandon {
    cluster: ClusterId,
    history: History,
    active: Option<View>,
    /// The members of the active view: name, where, how it is kept, and how much it surely held.
    holders: Vec<(String, Version)>,
}

impl Abandon {
    fn of(state: &State) -> Self {
        let holder = |node| {
            let known = state.directory.get(&node)?;
            let kept = if known.durable { "on disk" } else { "in memory" };
            let marked = if known.marked { ", damaged" } else { "" };
            Some((format!("{node} at {}, {kept}{marked}", known.address), known.floor))
        };
        Self {
            cluster: state.cluster,
            history: state.history,
            active: state.active.clone(),
            holders: state.members().iter().filter_map(holder).collect(),
        }
    }

    /// Whether there is anything to lose: a view was active.
    #[must_use]
    pub fn loses_data(&self) -> bool {
        self.active.is_some()
    }
}

impl fmt::Display for Abandon {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(view) = &self.active else {
            return write!(
                f,
                "Cluster {} has no active view: there is nothing to give up.",
                self.cluster
            );
        };
        writeln!(f, "Cluster {}, history {}, view {view}.", self.cluster, self.history)?;
        writeln!(
            f,
            "The first node that answers begins a new history with what its own log and state \
             hold. All others copy that, and drop what they hold beyond it. The members:"
        )?;
        for (holder, floor) in &self.holders {
            writeln!(f, "  {holder}, last known to hold everything up to {floor}")?;
        }
        writeln!(
            f,
            "KEPT is what that one node holds. LOST may be every write that was acknowledged and \
             that it lacks: all of them, where it is new or empty. A write that was reported \
             unknown may turn out done."
        )?;
        write!(
            f,
            "So start one node alone first, the one that holds most, and the others once it \
             coordinates. If {} of the members can still be started, start them instead, without \
             this: nothing is lost then.",
            view.members.takeover_quorum()
        )
    }
}

/// Says what [`abandon`] would give up.
///
/// # Errors
/// When the directory is in use or holds no state that can be read.
pub fn abandon_preview(data: &Path) -> Result<Abandon, Error> {
    let (_, state) = Store::open_existing(data)?;
    Ok(Abandon::of(&state))
}

/// Gives up the majority: the server's next start begins a new history.
///
/// # Errors
/// As [`abandon_preview`], and when the new state cannot be written.
pub fn abandon(data: &Path) -> Result<(), Error> {
    let (store, mut state) = Store::open_existing(data)?;
    state.erase();
    store.save(&state)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use quorate_protocol::ids::{Epoch, NodeId, StoreId};
    use quorate_protocol::settings::Settings;
    use quorate_protocol::view::Registration;

    use super::*;

    #[test]
    fn abandoning_says_what_is_lost_and_keeps_what_must_not_repeat() {
        let dir = tempfile::tempdir().unwrap();
        let mut state = State::new(ClusterId(7), Settings::default());
        let node = NodeId(1);
        let registration = Registration {
            address: "10.0.0.1:4748".to_owned(),
            store: StoreId(1),
            durable: true,
            floor: Version::new(2, 9),
            marked: false,
        };
        state.directory.insert(node, registration);
        state.next_node = NodeId(2);
        state.newest.epoch = Epoch(2);
        state.active = Some(View {
            members: [node].into_iter().collect(),
            epoch: Epoch(2),
            ..View::default()
        });
        {
            let (store, _) = Store::open(dir.path()).unwrap();
            store.save(&state).unwrap();
        }
        let preview = abandon_preview(dir.path()).unwrap();
        assert!(preview.loses_data());
        let text = preview.to_string();
        assert!(
            text.contains("n1 at 10.0.0.1:4748, on disk, last known to hold everything up to 2.9")
        );
        for word in ["what its own log and state hold", "LOST may be", "unknown may turn out done"]
        {
            assert!(text.contains(word), "no '{word}' in: {text}");
        }
        assert_eq!(Store::open_existing(dir.path()).unwrap().1, state);

        abandon(dir.path()).unwrap();
        let (_, left) = Store::open_existing(dir.path()).unwrap();
        assert_eq!(left.history, state.history.next());
        assert_eq!((left.newest, left.next_node), (state.newest, state.next_node));
        assert_eq!(left.active, None);
        assert_eq!(left.directory[&node].floor, Version::ZERO);
        assert!(!abandon_preview(dir.path()).unwrap().loses_data());
    }
}
