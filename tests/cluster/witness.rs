//! Somebody who asks for `status` all the time and remembers what was said: it must have been true.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use quorate_client::{Client, ClusterStatus};
use quorate_protocol::ids::{Epoch, NodeId};
use quorate_protocol::rpc::store::Role;
use quorate_protocol::view::View;
use tokio::task::JoinHandle;

use crate::ask;

/// How long those that do not answer are waited for.
const WAIT: Duration = Duration::from_millis(200);

/// How often is asked.
const EVERY: Duration = Duration::from_millis(50);

/// The witness; asks until it is questioned.
pub(crate) struct Witness {
    stop: Rc<Cell<bool>>,
    task: JoinHandle<()>,
    seen: Rc<RefCell<Seen>>,
}

/// What was said so far.
#[derive(Debug, Default)]
struct Seen {
    /// The view of each epoch that anyone called active.
    views: BTreeMap<Epoch, View>,
    /// Who served as coordinator in each epoch, by its own word.
    served: BTreeMap<Epoch, NodeId>,
    newest: Epoch,
    looks: usize,
}

impl Seen {
    /// One epoch is one view, whoever tells of it.
    fn hear(&mut self, view: &View) {
        let first = self.views.entry(view.epoch).or_insert_with(|| view.clone());
        assert_eq!(first, view, "one epoch, two views");
    }

    /// One look at everything; `after` is what the server had as active once all had answered, and
    /// nobody can know of a view beyond that.
    fn hear_all(&mut self, status: ClusterStatus, after: Option<&View>) {
        self.looks += 1;
        let before = status.server.ok().and_then(|(_, status)| status.active);
        for view in before.iter().chain(after) {
            assert!(view.epoch >= self.newest, "{view} after {}", self.newest);
            self.newest = view.epoch;
            self.hear(view);
        }
        for node in status.nodes {
            let Ok(said) = node.status else { continue };
            let Some(view) = said.view else { continue };
            self.hear(&view);
            if let Some(after) = after {
                assert!(view.epoch <= after.epoch, "{view} was never activated: {after}");
            }
            if said.role == Role::Coordinator && said.node == Some(view.coordinator) {
                let first = *self.served.entry(view.epoch).or_insert(view.coordinator);
                assert_eq!(first, view.coordinator, "two coordinators of {}", view.epoch);
            }
        }
    }
}

impl Witness {
    pub(crate) fn call(client: Client, server: &str) -> Self {
        let (stop, seen) = (Rc::new(Cell::new(false)), Rc::new(RefCell::new(Seen::default())));
        let watch = watch(client, server.to_owned(), Rc::clone(&stop), Rc::clone(&seen));
        Self { stop, task: tokio::task::spawn_local(watch), seen }
    }

    /// Ends it; fails if anything it was told cannot have been true.
    pub(crate) async fn question(self) {
        self.stop.set(true);
        self.task.await.unwrap();
        let seen = self.seen.borrow();
        assert!(seen.looks > 0 && !seen.views.is_empty(), "{seen:?}");
    }
}

async fn watch(client: Client, server: String, stop: Rc<Cell<bool>>, seen: Rc<RefCell<Seen>>) {
    while !stop.get() {
        let status = client.status(WAIT).await;
        let after = ask::server(&server).await.ok().and_then(|status| status.active);
        seen.borrow_mut().hear_all(status, after.as_ref());
        tokio::time::sleep(EVERY).await;
    }
}
