//! The thread that writes the state, so that a slow disk never holds up a reply that needs none.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use tokio::sync::mpsc;

use crate::core::event::Ticket;
use crate::core::state::State;
use crate::store::{Store, StoreError};

/// Writes snapshots one at a time. At most one waits: a newer one takes its place, since it
/// includes it.
#[derive(Debug)]
pub(crate) struct Disk {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    slot: Mutex<Slot>,
    filled: Condvar,
}

#[derive(Debug, Default)]
struct Slot {
    next: Option<(Ticket, Box<State>)>,
    closed: bool,
}

impl Shared {
    fn slot(&self) -> MutexGuard<'_, Slot> {
        self.slot.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a snapshot; `None` once there will be no more.
    fn take(&self) -> Option<(Ticket, Box<State>)> {
        let mut slot = self.slot();
        loop {
            if let Some(next) = slot.next.take() {
                return Some(next);
            }
            if slot.closed {
                return None;
            }
            slot = self.filled.wait(slot).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Disk {
    /// Starts the thread. Each write is reported once to `done`; a failed one is the last. `done` is
    /// dropped with the thread, so that its end is noticed however it comes.
    pub(crate) fn start(
        store: Store,
        done: mpsc::UnboundedSender<Result<Ticket, StoreError>>,
    ) -> std::io::Result<Self> {
        Self::start_with(move |state| store.save(state), done)
    }

    fn start_with(
        mut save: impl FnMut(&State) -> Result<(), StoreError> + Send + 'static,
        done: mpsc::UnboundedSender<Result<Ticket, StoreError>>,
    ) -> std::io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let theirs = Arc::clone(&shared);
        let thread = std::thread::Builder::new().name("disk".to_owned()).spawn(move || {
            while let Some((ticket, state)) = theirs.take() {
                let outcome = save(&state).map(|()| ticket);
                let failed = outcome.is_err();
                if done.send(outcome).is_err() || failed {
                    break;
                }
            }
        })?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Has `state` written, unless a newer one comes before its turn.
    pub(crate) fn write(&self, ticket: Ticket, state: Box<State>) {
        self.shared.slot().next = Some((ticket, state));
        self.shared.filled.notify_one();
    }
}

impl Drop for Disk {
    /// Waits for what was handed over: a state decided is better kept, told or not.
    fn drop(&mut self) {
        self.shared.slot().closed = true;
        self.shared.filled.notify_one();
        if let Some(thread) = self.thread.take() {
            // A panic there has been reported on standard error already.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use quorate_protocol::ids::ClusterId;
    use quorate_protocol::settings::Settings;

    use super::*;

    #[test]
    fn the_end_of_the_thread_is_noticed_also_after_a_panic() {
        let (done, mut written) = mpsc::unbounded_channel();
        let disk = Disk::start_with(|_| panic!("broken"), done).unwrap();
        disk.write(Ticket(1), Box::new(State::new(ClusterId(1), Settings::default())));
        assert!(written.blocking_recv().is_none());
    }
}
